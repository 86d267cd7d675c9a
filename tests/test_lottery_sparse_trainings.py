"""Controls that find their masks in training: counts, start, and going on."""

import os
import sys

import keras
import numpy as np
import pytest

import tfticket
from tfticket import lottery
from tfticket.lottery.engine.run_folder import TRAINED, LotteryFolder
from tfticket.sparsity.scopes import erk_counts

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "fixtures"))
from small_lottery import experiment, small_network

pytestmark = pytest.mark.usefixtures("without_xla")
BRANCHES = ["rigl", "set", "static", "ste", "gradual"]
SIZES = {"hidden/kernel": 1280, "dense/kernel": 200}
SHAPES = {"hidden/kernel": (64, 20), "dense/kernel": (20, 10)}


def part(branch):
    return lottery.Part(0, branch, 0, 1)


@pytest.fixture(scope="module")
def asked():
    return experiment(recipe={"rate": 0.7}, rounds=1, branches=BRANCHES)


@pytest.fixture(scope="module")
def ran(asked, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    results = {result.part: result for result in asked.run(folder)}
    return LotteryFolder(folder / asked.name), results


def test_as_many_weights_as_the_ticket(ran):
    """In all; by ERK in each layer. What was trained is zero outside of its masks."""
    folder, results = ran
    ticket = results[part("ticket")]
    expected = erk_counts(SIZES, SHAPES, 1 - ticket.density)
    for branch in BRANCHES:
        result = results[part(branch)]
        assert result.parameters == ticket.parameters
        assert {k: kept for k, (kept, _) in result.layers.items()} == expected
        assert result.test["accuracy"] > 0.3
        start, trained = (folder.ticket(part(branch), *n) for n in ((), (TRAINED,)))
        for name, mask in start.masks.items():
            np.testing.assert_array_equal(trained.masks[name], mask)
            for weights in (start.weights, trained.weights):
                assert not weights[name][~mask].any()


def test_the_result_is_that_of_the_sparse_network(ran):
    """Also of weights that are dense behind their masks, at the best evaluation too."""
    images, labels = tfticket.data.load("digits").test
    for branch in BRANCHES:
        trained = ran[0].ticket(part(branch), TRAINED)
        model = tfticket.prune(small_network((8, 8, 1), 10))
        weights = {
            name.replace("dense/", f"{model.layers[-1].name}/"): value
            for name, value in trained.weights.items()
        }
        named = tfticket.keras_models.names.named_weights(model)
        for name, value in weights.items():
            named[name].assign(value)
        outputs = keras.ops.convert_to_numpy(model(images))
        accuracy = (outputs.argmax(-1) == labels).mean()
        result = ran[1][part(branch)]
        assert result.test["accuracy"] == pytest.approx(accuracy, abs=1e-6)
        if result.early_stop_iteration == 120:
            assert result.early_stop_test == result.test


@pytest.mark.parametrize(
    "branch",
    [
        "rigl",
        *(
            pytest.param(x, marks=pytest.mark.slow)
            for x in ("set", "static", "gradual", "ste")
        ),
    ],
)
def test_one_that_was_cut_off_goes_on(branch, ran, asked, tmp_path):
    """From a checkpoint in the middle of its training, bit for bit."""

    class CutOffError(Exception):
        pass

    def cut(at, steps, whole):
        if (at.branch, steps) == (branch, 60):
            raise CutOffError

    only = experiment(recipe={"rate": 0.7}, rounds=1, branches=[branch])
    with pytest.raises(CutOffError):
        only.run(tmp_path, checkpoint_seconds=0.0, on_evaluation=cut)
    seen = []
    only.run(
        tmp_path,
        checkpoint_seconds=0.0,
        on_evaluation=lambda at, steps, whole: seen.append((at.branch, steps)),
    )
    assert seen[0][0] == branch
    assert 0 < seen[0][1] <= 60
    folder = tmp_path / asked.name / part(branch).path
    for name in ("ticket.npz", TRAINED):
        whole = (ran[0].path / part(branch).path / name).read_bytes()
        assert (folder / name).read_bytes() == whole, name
