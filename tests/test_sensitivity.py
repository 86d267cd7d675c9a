import re

import keras
import numpy as np
import pytest

import tfticket
from tfticket import sensitivity
from tfticket.keras_models.internals import slots_by_variable
from tfticket.pruning.thresholds import SensitivityRecord, choose, scan, threshold_masks


@pytest.fixture
def wrapped(mlp):
    model = tfticket.prune(mlp)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss, metrics=["accuracy"])
    model.optimizer.build(model.trainable_variables)
    for _, slot, _ in slots_by_variable(model.optimizer):
        slot.assign(np.ones(slot.shape))
    return model


def values(model):
    variables = [*model.variables, *model.optimizer.variables]
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def test_threshold_is_quality_times_deviation_of_the_survivors():
    weight = np.array([[0.1, -4.0, 2.0], [100.0, -1.0, 1.0]])
    mask = np.array([[True, True, True], [False, True, True]])
    # Survivors 0.1, -4, 2, -1, 1: mean -0.38, deviation 2.0702.
    found = threshold_masks({"a": weight}, {"a": mask}, 0.49)["a"]
    np.testing.assert_array_equal(found, [[0, 1, 1], [0, 0, 0]])
    found = threshold_masks({"a": weight}, {"a": mask}, 0.48)["a"]
    np.testing.assert_array_equal(found, [[0, 1, 1], [0, 1, 1]])
    assert threshold_masks({"a": weight}, {"a": mask}, 0.0)["a"].sum() == 5


def test_a_normal_weight_keeps_what_the_normal_distribution_has_outside():
    weight = np.random.default_rng(0).standard_normal(100_000).astype("float32") * 0.03
    mask = np.ones(weight.shape, bool)
    kept = threshold_masks({"a": weight}, {"a": mask}, 1.0)["a"].mean()
    assert kept == pytest.approx(0.3173, abs=0.005)


def test_quality_by_name_leaves_the_others_alone():
    weights = {"a": np.array([1.0, -2.0, 3.0]), "b": np.array([1.0, -2.0, 3.0])}
    masks = {name: np.array([True, True, False]) for name in weights}
    found = threshold_masks(weights, masks, {"b": 1.0})
    np.testing.assert_array_equal(found["a"], masks["a"])
    np.testing.assert_array_equal(found["b"], [False, True, False])
    with pytest.raises(ValueError, match=r"\['c'\].*\['a', 'b'\]"):
        threshold_masks(weights, masks, {"c": 1.0})


def test_a_weight_is_not_emptied_unasked_and_the_error_tells_how_far_one_can_go():
    weights = {"fc/kernel": np.random.default_rng(1).standard_normal((20, 20))}
    masks = {"fc/kernel": np.ones((20, 20), bool)}
    with pytest.raises(ValueError, match=r"quality=9.*'fc/kernel'") as error:
        threshold_masks(weights, masks, 9)
    largest = float(re.search(r"At most quality=([\d.]+)", str(error.value))[1])
    assert threshold_masks(weights, masks, largest)["fc/kernel"].sum() == 1
    with pytest.raises(ValueError, match="leaves nothing"):
        threshold_masks(weights, masks, largest + 1e-3)
    emptied = threshold_masks(weights, masks, 9, allow_empty=True)
    assert not emptied["fc/kernel"].any()
    # Nothing is left to prune, and equal weights have no deviation.
    assert not threshold_masks(weights, emptied, 1.0)["fc/kernel"].any()
    assert threshold_masks({"a": np.ones(3)}, {"a": np.ones(3, bool)}, 9)["a"].all()


@pytest.mark.parametrize(
    ("quality", "error", "said"),
    [
        (-0.1, ValueError, "'a'.*at least 0.*-0.1"),
        (float("nan"), ValueError, "at least 0.*nan"),
        (float("inf"), ValueError, "at least 0.*inf"),
        ("0.5", TypeError, "'a'.*number.*'0.5'"),
        (True, TypeError, "number"),
        ({"a": None}, TypeError, "number"),
    ],
)
def test_bad_qualities_are_named(quality, error, said):
    with pytest.raises(error, match=said):
        threshold_masks({"a": np.ones(2)}, {"a": np.ones(2, bool)}, quality)


def test_weights_that_are_not_finite_are_refused_where_they_count():
    weight, mask = np.array([np.nan, 1.0, 2.0]), np.array([False, True, True])
    assert threshold_masks({"a": weight}, {"a": mask}, 0.5)["a"].sum() == 2
    with pytest.raises(ValueError, match="'a' has NaN"):
        threshold_masks({"a": weight}, {"a": ~mask}, 0.5)


def test_pruning_by_threshold_zeroes_weights_and_slots(wrapped):
    weights = tfticket.pruning.masks.get_pruned_weights(wrapped)
    expected = threshold_masks(weights, tfticket.get_masks(wrapped), 1.0)
    sensitivity.prune_by_threshold(wrapped, 1.0)
    masks = tfticket.get_masks(wrapped)
    pruned = tfticket.pruning.masks.get_pruned_weights(wrapped)
    for name, mask in masks.items():
        assert 0 < mask.sum() < mask.size
        np.testing.assert_array_equal(mask, expected[name])
        np.testing.assert_array_equal(pruned[name], np.where(mask, weights[name], 0))
    for _, slot, _ in slots_by_variable(wrapped.optimizer):
        if tuple(slot.shape) == (6, 8):
            assert not np.any(np.array(slot)[~masks["hidden/kernel"]])


def test_scan_prunes_one_weight_at_a_time_and_puts_all_back(wrapped, data):
    before, dense = values(wrapped), tfticket.pruning.masks.get_pruned_weights(wrapped)
    seen = []

    def evaluate(model):
        seen.append(tfticket.get_masks(model))
        results = model.evaluate(*data, verbose=0, return_dict=True)
        model.train_on_batch(*data)  # even this is undone
        return results["accuracy"]

    records = scan(wrapped, evaluate, [0.0, 0.5, 1.0, 50.0])
    for old, new in zip(before, values(wrapped), strict=True):
        np.testing.assert_array_equal(old, new)
    assert [(r.name, r.quality) for r in records] == [
        (name, q) for name in ("hidden/kernel", "out/kernel") for q in (0.0, 0.5, 1.0)
    ]
    for record, masks in zip(records, seen, strict=True):
        for name, mask in masks.items():
            size = np.abs(dense[name]) >= record.quality * np.std(dense[name])
            np.testing.assert_array_equal(mask, size | (name != record.name))
        assert record.density == masks[record.name].mean()
    accuracy = wrapped.evaluate(*data, verbose=0, return_dict=True)["accuracy"]
    assert records[0].value == records[3].value == pytest.approx(accuracy)


def test_scan_restores_when_evaluate_fails_and_says_what_is_no_number(wrapped):
    before = values(wrapped)

    def fail(model):
        raise RuntimeError("out of data")

    with pytest.raises(RuntimeError, match="out of data"):
        scan(wrapped, fail, [1.0])
    with pytest.raises(ValueError, match=r"one number.*'accuracy'"):
        scan(wrapped, lambda model: {"accuracy": 1.0}, [1.0])
    for old, new in zip(before, values(wrapped), strict=True):
        np.testing.assert_array_equal(old, new)


def test_choose_takes_the_largest_quality_within_the_drop():
    accuracies = {"a": (0.98, 0.97, 0.6), "b": (0.9, 0.8, 0.7), "c": (0.9, 0.99, 0.5)}
    records = [
        SensitivityRecord(name, q, 1 - q / 4, value)
        for name, row in accuracies.items()
        for q, value in zip((0.5, 1.0, 1.5), row, strict=True)
    ]
    assert choose(records, 0.98, 0.015) == {"a": 1.0, "b": 0.0, "c": 1.0}
    assert choose(records, 0.98, 1.0) == {"a": 1.5, "b": 1.5, "c": 1.5}
    losses = [
        SensitivityRecord("a", 0.5, 0.8, 0.11),
        SensitivityRecord("a", 1.0, 0.6, 0.30),
        SensitivityRecord("a", 1.5, 0.4, float("nan")),
    ]
    assert choose(losses, 0.1, 0.05, higher_is_better=False) == {"a": 0.5}
    with pytest.raises(ValueError, match="max_drop=-1"):
        choose(records, 0.98, -1)
    with pytest.raises(ValueError, match="baseline=nan"):
        choose(records, float("nan"), 0.1)


def test_choice_feeds_pruning(wrapped, data):
    def accuracy(model):
        return model.evaluate(*data, verbose=0, return_dict=True)["accuracy"]

    chosen = choose(scan(wrapped, accuracy, [0.2, 0.4]), accuracy(wrapped), 0.5)
    sensitivity.prune_by_threshold(wrapped, chosen)
    assert chosen == {"hidden/kernel": 0.4, "out/kernel": 0.4}
    assert tfticket.sparsity.topk.density(tfticket.get_masks(wrapped)) < 1


def test_a_model_without_masks_is_refused(mlp):
    with pytest.raises(ValueError, match=r"no masks.*tfticket.prune"):
        sensitivity.prune_by_threshold(mlp, 1.0)
    with pytest.raises(ValueError, match="no masks"):
        scan(mlp, lambda model: 0.0)
