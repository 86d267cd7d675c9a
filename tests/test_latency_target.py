"""`export.latency_plan`: by files' sizes instead of time, and once by the clock."""

import os

import keras
import numpy as np
import pytest
from keras import layers

import tfticket
from tfticket.export import latency_plan, latency_target
from tfticket.export.checking.exported import size_of


def network(width=32):
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), name="image"),
            layers.Conv2D(width, 3, activation="relu"),
            layers.Conv2D(width, 3, activation="relu"),
            layers.Conv2D(width, 3, activation="relu"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )


@pytest.fixture
def by_size(monkeypatch):
    """A call takes as many seconds as its file has bytes, and `fixed` more.

    Files are empty ones of the size of the weights.
    """

    def written(trials, model):
        trials._count += 1
        trials._inputs = {"image": np.zeros((trials._batch_size, 8, 8, 3), "float32")}
        path = trials._folder / str(trials._count)
        path.touch()
        os.truncate(path, 4 * model.count_params())
        return path

    monkeypatch.setattr(latency_target._Trials, "_written", written)
    calls = []

    def times_of(files, inputs, repeats):
        ((_, x),) = inputs.items()
        calls.append((x.shape, repeats))
        seconds = {
            name: times_of.fixed + float(size_of(path)) for name, path in files.items()
        }
        # Noise that falls on both, as other load does.
        return {
            name: [value * (1 + i % 3) for i in range(repeats)]
            for name, value in seconds.items()
        }

    times_of.fixed = 0.0
    times_of.calls = calls
    monkeypatch.setattr(latency_target, "times_of", times_of)
    return times_of


def test_a_target_is_met(by_size):
    model = network()
    before = model.get_weights()
    plan = latency_plan(model, 0.5, format="litert", batch_size=3, repeats=6)
    assert 0.45 <= plan.latency <= 0.5
    assert set(by_size.calls) == {((3, 8, 8, 3), 6)}
    assert len(plan.measured) == len(by_size.calls) <= 8
    for one, other in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
    # What it foretells is what its sparsity leaves.
    wrapped = tfticket.prune(model, structure=tfticket.structures.Channel())
    tfticket.sparsify(wrapped, plan.sparsity)
    small = tfticket.export.compact(wrapped)
    assert (small.flops_before, small.flops_after) == plan.flops
    assert f"litert, batch 3: {plan.measured[0].milliseconds[0]:.3g} ms" in str(plan)


def test_of_a_wrapped_model_that_has_lost_channels(by_size):
    model = tfticket.prune(network(), structure=tfticket.structures.Channel(round_to=4))
    tfticket.sparsify(model, 0.25)
    masks = tfticket.get_masks(model)
    plan = latency_plan(model, 0.4, format="litert", tolerance=0.2)
    assert plan.sparsity > 0.25
    assert plan.latency <= 0.4
    counts = {row.after for row in plan.groups if not row.why_whole}
    assert all(count % 4 == 0 for count in counts)
    for name, mask in tfticket.get_masks(model).items():
        np.testing.assert_array_equal(mask, masks[name])


def test_a_call_that_has_a_part_that_stays(by_size):
    by_size.fixed = 20_000.0
    plan = latency_plan(network(), 0.6, format="litert", tolerance=0.02)
    assert 0.58 <= plan.latency <= 0.6


def test_a_target_that_cannot_be_reached(by_size):
    by_size.fixed = 1e6
    with pytest.raises(ValueError, match=r"latency=0.5 can't be reached: .* 0\.9"):
        latency_plan(network(), 0.5, format="litert")
    structure = tfticket.structures.Channel(max_sparsity=0.1)
    by_size.fixed = 0.0
    with pytest.raises(ValueError, match=r"lowest measurement is 0\.[89]"):
        latency_plan(network(), 0.3, format="litert", structure=structure)


@pytest.mark.parametrize(
    ("arguments", "kind", "match"),
    [
        ({"latency": 1.0}, ValueError, "latency"),
        ({"latency": 0}, ValueError, "latency"),
        ({"latency": float("nan")}, ValueError, "latency"),
        ({"latency": "half"}, TypeError, "latency"),
        ({"format": "onnx"}, ValueError, "format"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"repeats": 0}, ValueError, "repeats"),
        ({"tolerance": 0}, ValueError, "tolerance"),
    ],
)
def test_bad_arguments(arguments, kind, match):
    with pytest.raises(kind, match=match):
        latency_plan(network(4), **{"latency": 0.5, **arguments})


def test_inputs_that_cannot_be_made_up():
    a, b = keras.Input((4,)), keras.Input((4,))
    two = keras.Model([a, b], layers.Dense(2)(layers.Dense(8)(a) + layers.Dense(8)(b)))
    with pytest.raises(ValueError, match="one input"):
        latency_plan(two, 0.5)
    x = keras.Input((None, None, 3))
    y = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(x))
    with pytest.raises(ValueError, match="size is known"):
        latency_plan(keras.Model(x, layers.Dense(2)(y)), 0.5)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["litert", "saved_model"])
def test_by_the_clock(form):
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((32, 32, 3)),
            *(layers.Conv2D(128, 3, activation="relu") for _ in range(4)),
            layers.GlobalAveragePooling2D(),
            layers.Dense(4),
        ]
    )
    plan = latency_plan(model, 0.5, format=form, tolerance=0.15, repeats=15)
    assert plan.latency <= 0.5
    assert plan.flops[1] < plan.flops[0]
