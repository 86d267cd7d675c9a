"""The choice made in the graph is the one that a partition makes on the host."""

import numpy as np
import pytest
from fixtures.backends import BACKEND, needs_graph
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst
from keras import ops

from tfticket.edge_popup import topk_in_graph
from tfticket.edge_popup.topk_in_graph import top_mask
from tfticket.sparsity.topk import keep_largest

SHAPES = [(1,), (7, 5), (3, 3, 4, 8), (2500,)]
SCORES = st.one_of(
    st.floats(0, 1, width=32, allow_subnormal=False),
    st.sampled_from([0.0, 0.5, 1.0]),  # ties
    st.floats(0, 2.0**100, width=32, allow_subnormal=False),
)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_as_on_the_host(shape, data):
    scores = data.draw(npst.arrays(np.float32, shape, elements=SCORES))
    keep = data.draw(st.integers(1, scores.size))
    guess = data.draw(st.one_of(st.just(0.0), SCORES))
    mask, threshold = top_mask(scores, keep, guess)
    np.testing.assert_array_equal(mask, *keep_largest([scores], keep))
    assert np.all(scores[~np.array(mask)] <= np.max(scores[np.array(mask)]))
    assert np.sum(scores >= float(threshold)) >= keep


@pytest.mark.parametrize("scale", [1e-20, 1.0, 1e30])
@pytest.mark.parametrize("spread", ["uniform", "normal", "wide", "equal", "two values"])
def test_exact_at_size_for_any_spread(spread, scale):
    random = np.random.default_rng(0)
    size = 50_000
    scores = {
        "uniform": random.uniform(size=size),
        "normal": np.abs(random.normal(size=size)),
        "wide": 10.0 ** random.uniform(-7, 7, size),
        "equal": np.full(size, 0.25),
        "two values": random.integers(1, 3, size) / 2,
    }[spread]
    scores = (scores * scale).astype(np.float32)
    for keep in (1, size // 10, size // 2, size - 1, size):
        (want,) = keep_largest([scores], keep)
        mask, threshold = top_mask(scores, keep)
        np.testing.assert_array_equal(mask, want)
        for guess in (float(threshold), 1.01 * float(threshold)):
            np.testing.assert_array_equal(top_mask(scores, keep, guess)[0], want)


@pytest.mark.parametrize("bits", [10, 7], ids=["TF32", "bfloat16"])
def test_exact_where_products_round_what_they_multiply(bits, monkeypatch):
    """As matrix products on accelerators do by default, which a CPU does not."""
    product = topk_in_graph.ops.matmul

    def rounding(a, b):
        return product(rounded(a), rounded(b))

    def rounded(x):
        # By Veltkamp: of 24 bits the first is not stored, `bits` stay.
        large = (2.0 ** (23 - bits) + 1) * x
        return large - (large - x)

    monkeypatch.setattr(topk_in_graph.ops, "matmul", rounding)
    scores = np.random.default_rng(2).random(5000, np.float32) ** 2
    for keep in (1, 500, 2500, 4999):
        mask, _ = topk_in_graph._top_mask(ops.convert_to_tensor(scores), keep, 0.0)
        np.testing.assert_array_equal(mask, *keep_largest([scores], keep))


@needs_graph
def test_the_count_may_be_a_tensor_inside_a_compiled_function():
    scores = np.random.default_rng(1).random((40, 50), np.float32)
    traced = []

    def choose(scores, keep):
        traced.append(scores)
        return top_mask(scores, keep)

    choose = with_xla(choose)
    for keep in (3, 1000):
        mask, _ = choose(ops.convert_to_tensor(scores), ops.convert_to_tensor(keep))
        np.testing.assert_array_equal(mask, *keep_largest([scores], keep))
    assert len(traced) == 1


def with_xla(function):
    if BACKEND == "jax":
        import jax

        return jax.jit(function)
    import tensorflow as tf

    return tf.function(function, jit_compile=True)
