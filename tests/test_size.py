"""Pruning takes little memory beside the model, and gives what scores would."""

import json
import tracemalloc

import keras
import numpy as np
import pytest
from fixtures import pages
from fixtures.backends import BACKEND
from hypothesis import given, settings
from hypothesis import strategies as st

import tfticket
from tfticket.pruning import masks
from tfticket.pruning.masks import get_pruned_weights
from tfticket.sparsity import topk


def wide(layers=4, side=600):
    dense = [keras.layers.Dense(side, use_bias=False) for _ in range(layers)]
    return tfticket.prune(keras.Sequential([keras.Input((side,)), *dense]))


@settings(max_examples=10, deadline=None)
@given(st.floats(0.1, 0.9), st.sampled_from(["layerwise", "global", "erk"]))
def test_weights_are_ranked_as_their_scores(sparsity, scope):
    by_weight, by_score = wide(3, 6), wide(3, 6)
    by_score.set_weights(by_weight.get_weights())
    for part in (sparsity / 2, sparsity):
        tfticket.sparsify(by_weight, part, scope=scope, allow_empty=True)
        tfticket.sparsify(
            by_score, part, lambda w: np.abs(w), scope=scope, allow_empty=True
        )
        found, wanted = map(tfticket.get_masks, (by_weight, by_score))
        for mask, other in zip(found.values(), wanted.values(), strict=True):
            np.testing.assert_array_equal(mask, other)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float64"])
def test_weights_of_other_dtypes_are_scored(dtype):
    keras.utils.set_random_seed(1)
    inputs = keras.Input((9,), dtype=dtype)
    layer = keras.layers.Dense(8, dtype=dtype)
    model = tfticket.prune(keras.Model(inputs, layer(inputs)))
    ((name, weight),) = get_pruned_weights(model).items()
    weight = np.abs(np.asarray(weight, "float64"))
    tfticket.sparsify(model, 0.75)
    mask = tfticket.get_masks(model)[name]
    assert mask.sum() == 18
    assert weight[mask].min() >= weight[~mask].max()


@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_a_weight_that_is_not_finite_is_named(scope):
    model = wide(2, 5)
    kernel = model.layers[1].layer.kernel
    kernel.assign(np.where(np.eye(5), np.nan, np.array(kernel)))
    with pytest.raises(ValueError, match=rf"{model.layers[1].name}/kernel.*finite"):
        tfticket.sparsify(model, 0.5, scope=scope)


@pytest.mark.skipif(BACKEND == "torch", reason="arrays of its tensors are copies")
@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_what_pruning_allocates(scope, monkeypatch):
    monkeypatch.setattr(topk, "_FEW", 1 << 14)  # as of models that are larger
    model = wide()
    size = sum(mask.size for mask in tfticket.get_masks(model).values())
    tfticket.sparsify(model, 0.5, scope=scope)
    tracemalloc.start()
    tfticket.sparsify(model, 0.9, scope=scope)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    # New masks are 0.25 of the weights, and scores would be 1.
    assert peak < 0.75 * 4 * size


@pytest.mark.parametrize("xla", [False, True])
def test_what_was_read_stays_when_variables_change(xla):
    """On the CPU it is the variables' own memory, until somebody writes to them."""
    model = wide(2, 30)
    model.compile("adam", "mse", jit_compile=xla and BACKEND != "torch")
    data = np.ones((4, 30)), np.ones((4, 30))
    model.fit(*data, verbose=0)
    reader = masks.ModelMasks.of(model)
    read = [*reader.values().values(), *reader.masks().values()]
    before = [np.array(array) for array in read]
    model.fit(*data, verbose=0)
    tfticket.sparsify(model, 0.5)
    for layer in model.layers:
        layer.layer.kernel.assign_add(np.ones((30, 30)))
    for array, value in zip(read, before, strict=True):
        np.testing.assert_array_equal(array, value)


def test_a_large_model_gets_masks_as_a_small_one(monkeypatch):
    models = wide(3, 6), wide(3, 6)
    models[1].set_weights(models[0].get_weights())
    for model, large in zip(models, (10**7, 0), strict=True):
        monkeypatch.setattr(masks, "_LARGE", large)
        model.compile(keras.optimizers.Adam(), "mse")
        model.fit(np.ones((4, 6)), np.ones((4, 6)), verbose=0)
        for sparsity in (0.3, 0.6, 0.8):
            tfticket.sparsify(model, sparsity, scope="global")
    small, large = (model.get_weights() for model in models)
    for one, other in zip(small, large, strict=True):
        np.testing.assert_array_equal(one, other)
    for model in models:
        slots = [np.array(v) for v in model.optimizer.variables if len(v.shape) == 2]
        for mask in tfticket.get_masks(model).values():
            assert sum(not slot[~mask].any() for slot in slots) >= 2


SCRIPT = pages.ROOT / "benchmarks" / "size.py"
SMALL = ("--weights=40000", "--layers=2")


@pytest.mark.parametrize("way", ["layers", "model"])
def test_the_benchmark_one_way(way, run_script, tmp_path):
    done = run_script(SCRIPT, f"--way={way}", *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["size"] == 2 * 141**2
    names = [row["step"] for row in found["rows"]]
    assert names[1:4] == [
        "sparsify to 0.9",
        "GradualPruning to 0.95",
        "GradualPruning to 0.97",
    ]
    assert all(row["s"] > 0 for row in found["rows"])


@pytest.mark.slow
def test_the_benchmark(run_script, tmp_path):
    done = run_script(SCRIPT, *SMALL, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("sparsify to 0.9") == 2
    assert "at most 3.0" in done.stdout
