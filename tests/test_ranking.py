"""Joint selection, against a stable sort in NumPy of everything joined."""

import math
import tracemalloc
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfticket.sparsity import topk

ABOVE_SAMPLING = 150_001  # More than two chunks, and far more than a sample.
DTYPES = [np.float16, np.float32, np.float64, np.int8, np.uint64, bool]


def by_sorting(parts, keep, alive=None):
    """Reference: of what is alive, the head of a stable sort, best first."""
    scores = np.concatenate([part.ravel() for part in parts])
    if scores.dtype == bool or scores.dtype.kind == "u":
        scores = scores.astype(object)  # They have no negatives to sort by.
    order = np.argsort(-scores, kind="stable")
    if alive is not None:
        order = order[np.concatenate([flags.ravel() for flags in alive])[order]]
    mask = np.zeros(scores.size, bool)
    mask[order[:keep]] = True
    ends = np.cumsum([part.size for part in parts])[:-1]
    masks = np.split(mask, ends)
    return [mask.reshape(part.shape) for mask, part in zip(masks, parts, strict=True)]


def check(parts, keep, alive=None):
    got = topk.keep_largest(parts, keep, alive)
    want = by_sorting(parts, keep, alive)
    assert len(got) == len(want)
    for mine, reference in zip(got, want, strict=True):
        assert mine.dtype == bool
        np.testing.assert_array_equal(mine, reference)


@pytest.fixture
def small_pools(monkeypatch):
    """What large pools go through, at sizes that Hypothesis can shrink."""
    monkeypatch.setattr(topk, "_CHUNK", 7)
    monkeypatch.setattr(topk, "_SAMPLE", 16)
    monkeypatch.setattr(topk, "_LEAST_STRETCH", 2)
    monkeypatch.setattr(topk, "_FEW", 3)
    return monkeypatch


@st.composite
def pools(draw):
    """Parts, some of them empty, of one dtype; few different values or many."""
    dtype = np.dtype(draw(st.sampled_from(DTYPES)))
    few = {"b": [0, 1], "i": [-2, 0, 1], "u": [0, 1, 2**60]}.get(
        dtype.kind, [-1.0, -0.0, 0.0, 1.0, np.finfo(np.float32).smallest_subnormal]
    )
    kinds = [st.sampled_from(np.array(few).astype(dtype).tolist())]
    if dtype.kind == "f":
        kinds.append(hnp.from_dtype(dtype, allow_nan=False, allow_infinity=False))
    elements = draw(st.sampled_from(kinds))
    shapes = hnp.array_shapes(min_dims=0, max_dims=2, min_side=0, max_side=12)
    shapes = draw(st.lists(shapes, min_size=1, max_size=4))
    parts = [draw(hnp.arrays(dtype, shape, elements=elements)) for shape in shapes]
    alive = None
    if draw(st.booleans()):
        share = draw(st.sampled_from([0.05, 0.5, 0.9]))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        alive = [np.asarray(rng.random(part.shape) < share) for part in parts]
    living = sum(part.size for part in parts)
    if alive is not None:
        living = sum(int(flags.sum()) for flags in alive)
    return parts, draw(st.integers(0, living)), alive


@given(pools())
def test_it_is_the_head_of_a_stable_sort(pool):
    check(*pool)


# With half a bracket of 0 deviations most brackets miss, so the next attempt counts.
@pytest.mark.parametrize("spreads", [(4.0, math.inf), (0.0, 0.5, math.inf)])
def test_so_it_is_by_samples_and_chunks(spreads, small_pools):
    small_pools.setattr(topk, "_SPREADS", spreads)

    @settings(max_examples=300)
    @given(pools())
    def run(pool):
        check(*pool)

    run()


def test_a_key_is_as_good_as_the_scores_it_gives(small_pools):
    @settings(max_examples=200)
    @given(pools())
    def run(pool):
        parts, keep, alive = pool
        got = topk.keep_largest(parts, keep, alive, key=np.abs)
        want = by_sorting([np.abs(part) for part in parts], keep, alive)
        for mine, reference in zip(got, want, strict=True):
            np.testing.assert_array_equal(mine, reference)

    run()


def test_a_bracket_that_misses_on_either_side_is_widened(small_pools):
    real, attempts = topk._Pool.bracket, []

    def bracket(pool, keep, spread, seed):
        attempts.append(seed)
        if seed < 2:
            return [(np.float64(90), np.float64(95)), (np.float64(-5), np.float64(3))][
                seed
            ]
        return real(pool, keep, spread, seed)

    small_pools.setattr(topk._Pool, "bracket", bracket)
    check([np.arange(100.0)], 50)
    assert attempts == [0, 1, 2]


RNG = np.random.default_rng(0)
INDEX = np.arange(ABOVE_SAMPLING)
ADVERSARIAL = {
    "random": RNG.standard_normal(ABOVE_SAMPLING),
    "constant": np.zeros(ABOVE_SAMPLING),
    "two values": RNG.integers(0, 2, ABOVE_SAMPLING),
    "three values": RNG.integers(0, 3, ABOVE_SAMPLING),
    "ascending": INDEX,
    "descending": -INDEX,
    "of the sample's period": INDEX % topk._LEAST_STRETCH,
    "of the chunk's period": INDEX % topk._CHUNK,
    "most are zero": np.maximum(RNG.standard_normal(ABOVE_SAMPLING) - 1, 0),
    "one outlier": np.where(INDEX == 77_777, 1.0, 0.0),
    "both zeros": np.where(RNG.random(ABOVE_SAMPLING) < 0.5, -0.0, 0.0),
    "denormal": RNG.integers(0, 999, ABOVE_SAMPLING) * 2.0**-149,
}


@pytest.mark.parametrize("name", ADVERSARIAL)
@pytest.mark.parametrize("share", [None, 0.5, 0.03])
def test_large_pools(name, share):
    scores = ADVERSARIAL[name].astype(np.float32)
    parts = np.split(scores, [0, 5, 100_000])  # The first is empty.
    alive, living = None, scores.size
    if share:
        flags = np.random.default_rng(1).random(scores.size) < share
        living = int(flags.sum())
        alive = np.split(flags, [0, 5, 100_000])
    for keep in {1, living // 5, living // 2, living - 1}:
        check(parts, keep, alive)


STRETCH = 48  # Then a sample at regular steps would see one value only.
LARGE = {
    name: np.resize(scores.astype(np.float32), STRETCH * topk._SAMPLE)
    for name, scores in ADVERSARIAL.items()
} | {
    "of the sample's period": np.resize(
        np.arange(STRETCH, dtype=np.float32), STRETCH * topk._SAMPLE
    )
}


@pytest.mark.parametrize("name", LARGE)
def test_no_values_make_it_take_much_memory(name, monkeypatch):
    monkeypatch.setattr(topk, "_FEW", 1 << 14)  # as of pools that are larger
    scores = LARGE[name]
    # The second lies where equal scores end.
    for keep in (scores.size // 5, np.count_nonzero(scores > np.median(scores))):
        tracemalloc.start()
        topk.keep_largest([scores], keep)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 0.6 * scores.nbytes  # 0.25 of that is the mask.


def test_dtypes_that_differ_are_compared_exactly():
    half = np.linspace(-3, 3, 20_001).astype(np.float16)
    single = np.nextafter(half.astype(np.float32), np.float32(9))
    double = np.nextafter(half.astype(np.float64), -9.0)
    check([half, single, double], 20_000)


def test_what_is_dead_may_be_anything():
    scores = np.array([np.nan, 1.0, np.inf, 2.0, -np.inf, 0.0] * 5000)
    alive = np.isfinite(scores)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        (mask,) = topk.keep_largest([scores], 7000, [alive])
    (want,) = by_sorting([np.where(alive, scores, -1.0)], 7000, [alive])
    np.testing.assert_array_equal(mask, want)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("size", [3, ABOVE_SAMPLING])
@pytest.mark.parametrize("share", [1, 0.5, 0.03])
def test_what_is_alive_must_be_finite(bad, size, share):
    broken = np.ones(size, np.float32)
    broken[-1] = bad
    alive = np.random.default_rng(2).random(size) < share
    alive[-1] = True
    for keep in (0, 1, 3 + int(alive.sum())):
        with pytest.raises(topk.PartError, match=r"part 1: .*finite") as caught:
            topk.keep_largest([np.ones(3), broken], keep, [np.ones(3, bool), alive])
        assert caught.value.part == 1


def test_columns_of_a_matrix_and_masks_of_their_own():
    matrix = np.random.default_rng(3).standard_normal((300, 200))
    check([matrix[:, ::2], matrix.T], 30_000)
    alive = np.array([True, True, False])
    (mask,) = topk.keep_largest([np.arange(3.0)], 2, [alive])
    mask[0] = False
    assert alive[0]


def test_no_parts_and_bad_arguments():
    assert topk.keep_largest([], 0) == []
    with pytest.raises(ValueError, match="keep=1"):
        topk.keep_largest([], 1)
    with pytest.raises(ValueError, match="keep=-1"):
        topk.keep_largest([np.ones(3)], -1)
    with pytest.raises(ValueError, match="keep=4"):
        topk.keep_largest([np.ones(3), np.ones(3)], 4, [[1, 1, 0], [0, 0, 1]])
    with pytest.raises(ValueError, match=r"len\(alive\)=1"):
        topk.keep_largest([np.ones(3)] * 2, 1, [np.ones(3, bool)])
    with pytest.raises(topk.PartError, match=r"part 1: .*alive\.shape=\(2,\)"):
        topk.keep_largest([np.ones(3)] * 2, 1, [np.ones(3), np.ones(2)])
