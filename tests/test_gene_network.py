"""The gene network against SciPy, its reward by hand, its pruning by brute force."""

import itertools
import pathlib
import re

import gene_network
import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND, array, needs_float64, numpy_gradients
from gene_network import experiment, pictures
from scipy.integrate import solve_ivp

import tfticket
from tfticket.common.runs import RunFolder
from tfticket.keras_models.gradients import compiled

SCRIPT = pathlib.Path(__file__).parents[1] / "examples" / "prune_gene_network.py"
DRIVE = np.array([26, 18, 84, -58, 5, -65, 48])
# Of three genes, and a D that gives them stripes.
SMALL = np.array([[90, -75, 30], [100, 50, 0], [-75, -30, 0]])
SMALL_DRIVE = np.array([85, -52, 33])


def exact(weights, drive, times, cell):
    """x of one cell as its equations are written, W x and all: (times, genes)."""

    def rate(time, x):
        gradient = min(np.exp(0.02 * cell - 0.04 * time), 1)
        total = drive / 10 * gradient + (weights / 10) @ x
        return 1 / (1 + np.exp(5 - total)) - x

    # In two parts: where the gradient begins to fall the right side has a kink.
    x, found = np.full(len(drive), 0.1), []
    stops = sorted({0.0, cell / 2, *times})
    for start, stop in itertools.pairwise(stops):
        done = solve_ivp(
            rate, (start, stop), x, method="DOP853", rtol=1e-12, atol=1e-13
        )
        x = done.y[:, -1]
        if stop in times:
            found.append(x)
    return np.array(found)


def network(weights, times, step, cells, **kwargs):
    layer = gene_network.GeneNetwork(times, step, cells, **kwargs)
    layer.build((None, len(weights)))
    layer.kernel.assign(weights.T / 10)
    return layer


def integrator(layer):
    """What a layer gives, as a function of drives in tenths."""
    # Where a compiled function sees the kernel change.
    call = compiled(layer) if BACKEND == "tensorflow" else layer

    def integrate(drives, **kwargs):
        drives = np.asarray(drives) / 10
        return array(call(keras.ops.convert_to_tensor(drives, layer.dtype), **kwargs))

    return integrate


def integrated(layer, drives, **kwargs):
    return integrator(layer)(drives, **kwargs)


@pytest.fixture(scope="module")
def small():
    return gene_network.Motif(SMALL, step=0.5)


@needs_float64
def test_as_scipy_integrates():
    times = (10.0, 50.0, 90.0)
    layer = network(gene_network.MOTIF_9, times, 0.0625, 42, dtype="float64")
    found = integrated(layer, DRIVE[None])[0]
    assert found.shape == (3, 42, 7)
    for cell in (0, 7, 41):
        want = exact(gene_network.MOTIF_9, DRIVE, times, cell)
        assert np.ptp(want[:, 0]) > 0.1  # something happens in it
        np.testing.assert_allclose(found[:, cell], want, rtol=0, atol=1e-6)


def test_single_precision_is_near():
    layer = network(gene_network.MOTIF_9, (50.0, 70.0, 90.0), 0.25, 8)
    found = integrated(layer, DRIVE[None])
    want = exact(gene_network.MOTIF_9, DRIVE, (50.0, 70.0, 90.0), 7)
    np.testing.assert_allclose(found[0, :, 7], want, rtol=0, atol=1e-4)


@needs_float64
def test_the_order_is_four():
    want = exact(gene_network.MOTIF_9, DRIVE, (8.0,), 5)
    errors = []
    for step in (0.125, 0.0625, 0.03125):
        layer = network(gene_network.MOTIF_9, (8.0,), step, 6, dtype="float64")
        errors.append(np.abs(integrated(layer, DRIVE[None])[0, :, 5] - want).max())
    orders = np.log2(np.divide(errors[:-1], errors[1:]))
    np.testing.assert_allclose(orders, 4, atol=0.35)


def test_many_subnetworks_at_once_are_those_alone():
    random = np.random.default_rng(0)
    edges = random.random((3, 7, 7)) < 0.7
    drives = random.normal(size=(3, 7)) * 30
    layer = network(gene_network.MOTIF_9, (5.0, 20.0), 0.5, 10)
    together = integrated(layer, drives, edges=edges)
    for number in range(3):
        weights = np.where(edges[number].T, gene_network.MOTIF_9, 0)
        layer.kernel.assign(weights.T / 10)
        alone = integrated(layer, drives[number : number + 1])
        np.testing.assert_allclose(together[number], alone[0], atol=1e-6)
    assert np.ptp(together, axis=0).max() > 0.1


@needs_float64
def test_gradients_go_through():
    layer = network(SMALL, (2.0, 4.0), 0.5, 3, dtype="float64")
    drive = SMALL_DRIVE[None] / 10

    def loss():
        return keras.ops.sum(keras.ops.square(layer(drive)))

    (gradient,) = numpy_gradients(loss, layer)
    start = layer.kernel.numpy()
    for place in ((0, 1), (2, 0)):
        shift = np.zeros((3, 3))
        shift[place] = 1e-5
        layer.kernel.assign(start + shift)
        above = float(loss())
        layer.kernel.assign(start - shift)
        slope = (above - float(loss())) / 2e-5
        assert abs(slope) > 1e-4
        assert gradient[place] == pytest.approx(slope, rel=1e-5)
        layer.kernel.assign(start)


def test_training_keeps_masks_exact():
    layer = gene_network.GeneNetwork([1.0], 0.5, cells=4)
    model = tfticket.prune(keras.Sequential([keras.Input((3,)), layer]))
    tfticket.sparsify(model, 4 / 9)
    (mask,) = tfticket.get_masks(model).values()
    kernel = model.layers[0].pruned_weights[0]
    before = kernel.numpy()
    model.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=False)
    model.fit(np.ones((8, 3)), np.zeros((8, 1, 4, 3)), epochs=3, verbose=0)
    assert mask.sum() == 5
    assert np.all(kernel.numpy()[~mask] == 0.0)
    assert np.all(kernel.numpy()[mask] != before[mask])


def test_saved_and_loaded(tmp_path):
    layer = gene_network.GeneNetwork([1.0, 2.0], 0.25, 6, "he_normal", name="network")
    config = keras.saving.serialize_keras_object(layer)
    assert config["registered_name"] == "tfticket>GeneNetwork"
    again = keras.saving.deserialize_keras_object(config)
    assert again.get_config() == layer.get_config()
    drive = keras.Input((3,))
    edges = keras.Input((3, 3), dtype="bool")
    model = tfticket.prune(keras.Model([drive, edges], layer(drive, edges=edges)))
    tfticket.sparsify(model, 0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    random = np.random.default_rng(0)
    inputs = [random.normal(size=(4, 3)) * 5, random.random((4, 3, 3)) < 0.5]
    np.testing.assert_array_equal(
        model.predict_on_batch(inputs), loaded.predict_on_batch(inputs)
    )
    np.testing.assert_array_equal(
        *(tfticket.get_masks(m)["network/kernel"] for m in (model, loaded))
    )


@pytest.mark.parametrize(
    ("pattern", "count"),
    [
        ([0, 0, 1, 1, 1, 1, 0, 0], 2),  # 4 apart: both
        ([0, 0, 1, 1, 1, 0, 0, 0], 1),  # 3 apart: the first
        ([0, 1, 0, 1, 0, 1, 0, 1], 2),  # after cells 0 and 4
        ([0, 0.09, 0.18, 0.27, 0.36, 0.45], 0),  # a slope without a jump
        ([0, 0.11, 0.22, 0.33, 0.44, 0.55], 2),  # a slope, every 4 cells
        ([1, 0, 0, 0], 1),
        ([0.5, 0.5, 0.5], 0),
    ],
)
def test_boundaries(pattern, count):
    assert gene_network.boundaries(np.array(pattern)) == count
    flat = np.zeros((2, 3, len(pattern)))
    flat[1, 2] = pattern
    np.testing.assert_array_equal(
        gene_network.boundaries(flat), [[0, 0, 0], [0, 0, count]]
    )


def test_stability_and_reward():
    first = np.repeat([0.0, 1.0, 0.0], 4)  # 2 boundaries
    second = np.repeat([0.0, 1.0, 1.0], 4)  # 1; a third of the cells has changed by 1
    third = np.repeat([0.0, 1.0, 0.5], 4)  # 2; a third by a half
    patterns = np.stack([first, second, third])
    assert gene_network.stability(patterns) == pytest.approx(1 - (1 / 3 + 1 / 6) / 2)
    assert gene_network.reward(patterns) == pytest.approx(5 * 0.75)
    both = gene_network.reward(np.stack([patterns, np.ones((3, 12))]))
    np.testing.assert_allclose(both, [3.75, 0])
    with pytest.raises(ValueError, match="2 times or more"):
        gene_network.reward(patterns[:1])


def test_leave_one_out_is_brute_force(small):
    layer = network(SMALL, (50.0, 70.0, 90.0), 0.5, 100)
    integrate = integrator(layer)

    def reward_without(places):
        left = SMALL.copy()
        for place in places:
            left[place] = 0
        layer.kernel.assign(left.T / 10)
        patterns = integrate(SMALL_DRIVE[None])
        return float(gene_network.reward(patterns[0, ..., 0]))

    order = small.removal_order("leave_one_out", SMALL_DRIVE)
    rewards = small.along(order, SMALL_DRIVE)
    left, gone = [tuple(map(int, p)) for p in np.argwhere(SMALL)], []
    assert rewards[0] == pytest.approx(reward_without([]), abs=1e-5)
    assert rewards[0] > 5
    # Later every reward is 0, and which edge goes is a tie.
    for step in range(3):
        tried = {place: reward_without([*gone, place]) for place in left}
        best = max(tried, key=tried.get)
        others = [value for place, value in tried.items() if place != best]
        assert tried[best] - max(others) > 1e-3
        assert order[step] == best
        assert rewards[step + 1] == pytest.approx(tried[best], abs=1e-5)
        left.remove(best)
        gone.append(best)


def test_magnitude_and_random_orders(small):
    order = small.removal_order("magnitude", SMALL_DRIVE)
    sizes = [abs(int(SMALL[place])) for place in order]
    assert sizes == [30, 30, 50, 75, 75, 90]
    draws = [
        tuple(small.removal_order("random", SMALL_DRIVE, seed)) for seed in (0, 1, 0)
    ]
    assert draws[0] == draws[2] != draws[1]
    edges = {tuple(map(int, p)) for p in np.argwhere(SMALL)}
    for draw in draws:
        assert len(set(draw)) == 6
        assert set(draw) < edges
    masks = small.masks(order)
    assert masks.sum((1, 2)).tolist() == [7, 6, 5, 4, 3, 2, 1]
    np.testing.assert_array_equal(small.present(), SMALL != 0)  # restored
    np.testing.assert_array_equal(
        small.model.get_layer("network").layer.kernel, SMALL.T.astype("float32") / 10
    )


def test_the_pruned_model_itself_has_the_rewards_of_the_curve(small):
    order = small.removal_order("magnitude", SMALL_DRIVE)
    curve = small.along(order, SMALL_DRIVE)
    tfticket.sparsify(small.model, 1 - 5 / 9)
    np.testing.assert_array_equal(small.present(), small.masks(order)[2])
    assert small.rewards(SMALL_DRIVE[None])[0] == pytest.approx(curve[2], abs=1e-6)
    assert curve[2] > 1
    small.restore()


def test_the_search_is_seeded_and_gets_better(small):
    first = small.fit_drive(3, population=4, generations=0)
    later = small.fit_drive(3, population=4, generations=4)
    np.testing.assert_array_equal(
        small.fit_drive(3, population=4, generations=4), later
    )
    assert later.dtype.kind == "i"
    assert np.abs(later).max() <= 100
    rewards = small.rewards(np.stack([first, later]))
    assert rewards[1] > rewards[0] > 0


def test_what_motif_9_is():
    assert gene_network.MOTIF_9.shape == (7, 7)
    assert gene_network.MOTIF_9.sum(1).tolist() == [-68, 115, 14, 163, -251, 99, -41]
    assert np.count_nonzero(gene_network.MOTIF_9) == 46


def result(seed, magnitude):
    order = [[a, b] for a, b in np.argwhere(gene_network.MOTIF_9).tolist()][:-1]
    flat = [10.0] * 46
    return gene_network.MotifResult(
        seed=seed,
        drive=[0] * 7,
        removed=dict.fromkeys(gene_network.METHODS, order),
        rewards={"magnitude": magnitude, "leave_one_out": flat, "random": flat},
    )


def test_summary_and_csv(tmp_path):
    falls = [10.0, 9.0, 8.9, 10.0] + [0.0] * 42
    results = [result(0, falls), result(1, [20.0] * 46)]
    assert results[0].held("magnitude", 0.9) == 45
    assert results[0].held("magnitude", 0.5) == 43
    assert results[0].held("random", 0.9) == 1
    rows = experiment.summary(results)
    assert len(rows) == 3 * 46
    assert rows[6] == {
        "edges": 44, "sparsity": 1 - 44 / 49, "method": "magnitude", "seeds": 2,
        "mean": (8.9 + 20) / 2, "lowest": 8.9, "highest": 20.0,
    }  # fmt: skip
    experiment.write_csv(results, tmp_path)
    lines = (tmp_path / "rewards.csv").read_text().splitlines()
    assert len(lines) == 1 + 2 * 3 * 46
    assert lines[1] == "0,0 0 0 0 0 0 0,magnitude,46,0.0612245,10,,"
    assert lines[3] == "0,0 0 0 0 0 0 0,magnitude,44,0.102041,8.9,2,1"  # W[0, 1]
    assert pictures.rewards_table(results).row_count == 20


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"step": 0}, "step must be above 0. Received: step=0"),
        ({"cells": 0}, "cells must be an integer of 1 or more"),
        ({"times": [1.0, 0.5]}, "times must be increasing multiples of step=0.125"),
        ({"times": [0.3]}, "times must be increasing multiples"),
        ({"times": [0.0, 1.0]}, "above 0"),
        ({"times": []}, "times must be"),
    ],
)
def test_bad_layers(arguments, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        gene_network.GeneNetwork(**arguments)


def test_bad_inputs(small):
    with pytest.raises(ValueError, match=re.escape("(batch, genes)")):
        gene_network.GeneNetwork()(np.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match=re.escape("here (batch, 3, 3)")):
        gene_network.GeneNetwork([1.0])(np.zeros((2, 3)), edges=np.ones((2, 3), bool))
    with pytest.raises(ValueError, match="square"):
        gene_network.Motif(np.ones((2, 3)))
    with pytest.raises(ValueError, match="an edge"):
        gene_network.Motif(np.zeros((2, 2)))
    with pytest.raises(ValueError, match="method='taylor'"):
        small.removal_order("taylor", SMALL_DRIVE)
    with pytest.raises(
        ValueError, match=re.escape("drives must have shape (batch, 3)")
    ):
        small.rewards(SMALL_DRIVE)
    with pytest.raises(ValueError, match=re.escape("edges must have shape (1, 3, 3)")):
        small.rewards(SMALL_DRIVE[None], SMALL != 0)
    with pytest.raises(TypeError, match=re.escape("seeds=2.0")):
        gene_network.MotifExperiment(seeds=2.0)
    with pytest.raises(ValueError, match="population=0"):
        gene_network.MotifExperiment(population=0)


@pytest.mark.slow
def test_the_script(run_script, tmp_path):
    flags = ["--population=1", "--generations=0", "--step=1", "--out_dir=run"]

    def script(*more):
        return run_script(SCRIPT, *flags, *more, cwd=tmp_path, COLUMNS="120")

    wrong = script("--stripes_edges=46")
    assert wrong.returncode == 1
    assert "--stripes_edges must be numbers from 1 to 45" in wrong.stdout
    assert not (tmp_path / "run").exists()
    done = script("--seeds=1", "--stripes_edges=20")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1/1: seed 0" in done.stdout
    run = tmp_path / "run"
    assert sorted(p.name for p in run.iterdir() if p.name != ".lock") == [
        "config.json", "rewards.csv", "rewards.png", "seed_000", "stripes.png",
        "summary.csv",
    ]  # fmt: skip
    folder = RunFolder(run)
    held = folder.read("seed_000")
    for method in gene_network.METHODS:
        assert len(held["rewards"][method]) == 46
        assert len({tuple(edge) for edge in held["removed"][method]}) == 45
    # A folder with two seeds lacks none of two.
    folder.write("seed_001", {**held, "seed": 1})
    again = script("--seeds=2", "--stripes_seed=1")
    assert again.returncode == 0, again.stdout + again.stderr
    assert "/2: seed" not in again.stdout
    assert "over 2 seeds" in again.stdout
    assert folder.read("seed_001") == {**held, "seed": 1}
    # The same, asked otherwise.
    config = (run / "config.json").read_text()
    with pytest.raises(FileExistsError, match=r"another run: \['generations'"):
        gene_network.run(
            gene_network.MotifExperiment(seeds=1, population=1, step=1.0), run
        )
    assert (run / "config.json").read_text() == config
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    with pytest.raises(FileExistsError, match="won't be touched"):
        gene_network.run(gene_network.MotifExperiment(), mine, overwrite=True)
