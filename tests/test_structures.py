"""Blocks, channels and N:M, against loops that read like their definition."""

import itertools
import tracemalloc
import warnings

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tfticket
from tfticket import structures
from tfticket.sparsity.scopes import after_cuts
from tfticket.sparsity.structures import NM, Axes, Block, Channel, Unstructured, get
from tfticket.sparsity.topk import pruned_count

DENSE = Axes((0,), (1,))
CONV = Axes((2,), (3,))


def random_scores(shape, seed=0, ties=False):
    random = np.random.default_rng(seed)
    return random.integers(0, 3, shape) * 1.0 if ties else random.random(shape)


def cut_to(structure, scores, sparsity, axes=DENSE, mask=None):
    """One weight brought from a mask to a sparsity, counted in units."""
    mask = np.ones(scores.shape, bool) if mask is None else mask
    units, alive = structure.pool(scores, mask, axes)
    count = pruned_count(units.size, sparsity) - int((~alive).sum())
    cuts = [(("w",), count)]
    after = after_cuts({"w": scores}, {"w": mask}, cuts, {"w": structure}, {"w": axes})
    return after["w"]


def blocks_of(shape, block):
    """Slices of every block, in order, by plain loops."""
    starts = [range(0, n, b) for n, b in zip(shape, block, strict=True)]
    for corner in itertools.product(*starts):
        yield tuple(slice(i, i + b) for i, b in zip(corner, block, strict=True))


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from([((6, 4), (2, 2)), ((5, 7), (4, 1)), ((3, 3, 4, 5), (1, 1, 4, 2))]),
    st.sampled_from(["average", "max"]),
    st.floats(0, 0.95),
    st.integers(0, 99),
)
def test_blocks_go_whole_and_lowest_first(shapes, pooling, sparsity, seed):
    shape, block = shapes
    scores = random_scores(shape, seed)
    mask = cut_to(Block(block, pooling), scores, sparsity)
    reduce = np.mean if pooling == "average" else np.max
    pooled = [reduce(scores[cells]) for cells in blocks_of(shape, block)]
    flags = [mask[cells] for cells in blocks_of(shape, block)]
    assert all(f.all() or not f.any() for f in flags)
    kept = np.array([f.any() for f in flags])
    assert (~kept).sum() == round(len(pooled) * sparsity)
    order = np.argsort(pooled)
    assert not kept[order[: (~kept).sum()]].any()


def test_a_short_block_means_the_last_axes():
    scores = random_scores((3, 3, 4, 5))
    np.testing.assert_array_equal(
        cut_to(Block((2, 1)), scores, 0.5), cut_to(Block((1, 1, 2, 1)), scores, 0.5)
    )


@settings(max_examples=60, deadline=None)
@given(
    st.sampled_from([(2, 4), (1, 4), (3, 4), (1, 2), (4, 8)]),
    st.sampled_from([((16, 3), DENSE), ((3, 3, 8, 2), CONV), ((7, 3), DENSE)]),
    st.booleans(),
    st.integers(0, 99),
)
def test_nm_at_its_limit_keeps_the_n_highest_of_every_group(nm, weight, ties, seed):
    (n, m), (shape, axes) = nm, weight
    scores = random_scores(shape, seed, ties)
    mask = cut_to(NM(n, m), scores, 0.99, axes)
    rows = np.moveaxis(scores, axes.reduction[0], -1).reshape(-1, shape[-2])
    kept = np.moveaxis(mask, axes.reduction[0], -1).reshape(-1, shape[-2])
    for row, flags in zip(rows, kept, strict=True):
        for i in range(0, len(row), m):
            group = row[i : i + m]
            # A stable sort, best first: of equal scores the earlier stays.
            best = np.argsort(-group, kind="stable")[:n]
            np.testing.assert_array_equal(
                np.flatnonzero(flags[i : i + m]), np.sort(best)
            )


@settings(max_examples=40, deadline=None)
@given(st.lists(st.floats(0, 0.7), min_size=1, max_size=4), st.integers(0, 99))
def test_nm_follows_a_schedule_exactly(sparsities, seed):
    random = np.random.default_rng(seed)
    mask = np.ones((16, 5), bool)
    for sparsity in sorted(sparsities):
        before = mask
        mask = cut_to(NM(2, 4), random.random((16, 5)), sparsity, mask=before)
        assert not (mask & ~before).any()
        assert (~mask).sum() == min(round(80 * sparsity), 40)
        assert mask.reshape(4, 4, 5).sum(1).min() >= 2


def test_channels_go_whole():
    scores = random_scores((3, 3, 4, 10))
    mask = cut_to(Channel(), scores, 0.3, CONV)
    kept = mask.any((0, 1, 2))
    assert (mask.all((0, 1, 2)) == kept).all()
    lowest = np.argsort(scores.mean((0, 1, 2)))[:3]
    np.testing.assert_array_equal(np.flatnonzero(~kept), np.sort(lowest))


def test_two_channel_axes():
    scores = random_scores((4, 2, 3))
    mask = cut_to(Channel(), scores, 0.5, Axes((0,), (1, 2)))
    assert mask.any(0).sum() == 3
    assert (mask.all(0) == mask.any(0)).all()


def test_dead_weights_do_not_lift_a_block():
    """An average counts them as 0, a maximum not at all."""
    scores = np.array([[9.0, 1.0], [1.0, 1.0]])
    mask = np.array([[False, True], [True, True]])
    pooled, alive = Block((2, 1)).pool(scores, mask, DENSE)
    np.testing.assert_array_equal(pooled, [[0.5, 1.0]])
    assert alive.all()
    pooled, _ = Block((2, 1), "max").pool(-scores, mask, DENSE)
    np.testing.assert_array_equal(pooled, [[-1.0, -1.0]])


def test_a_group_longer_than_the_kernel_takes_no_memory_for_its_padding():
    scores = np.random.default_rng(0).random((8, 6))
    structure = NM(1, 10**9)
    tracemalloc.start()
    try:
        found = structure.candidates(scores, np.ones((8, 6), bool), DENSE)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 1e6
    highest = scores == scores.max(axis=0)
    np.testing.assert_array_equal(found, ~highest)


@pytest.mark.parametrize(
    "structure", [Unstructured(), Block((2, 1), "max"), Channel(), NM(2, 4)]
)
def test_config_round_trip(structure):
    config = keras.saving.serialize_keras_object(structure)
    assert keras.saving.deserialize_keras_object(config) == structure


def test_bad_structures():
    with pytest.raises(ValueError, match=r"kept must be at most 3.*kept=4"):
        NM(4, 4)
    with pytest.raises(ValueError, match=r"shape must be at least 1.*shape=0"):
        Block((0, 2))
    with pytest.raises(ValueError, match="pooling='AVG'"):
        Block((1, 2), "AVG")
    with pytest.raises(
        ValueError, match=r"\(5, 1\) is larger than the weight.*\(4, 3\)"
    ):
        Block((5, 1)).check((4, 3), DENSE)
    with pytest.raises(ValueError, match="larger"):
        Block((1, 1, 1)).check((4, 3), DENSE)
    with pytest.raises(ValueError, match="sums over"):
        NM(2, 4).check((10, 3), Axes((), (1,)))
    with pytest.raises(ValueError, match="prunes nothing"):
        NM(2, 4).check((2, 3), DENSE)
    with pytest.raises(TypeError, match="structure='2:4'"):
        get("2:4")


def test_what_does_not_fit_its_structure_stays_dense_and_is_reported():
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            keras.layers.Conv2D(8, 3, name="stem"),
            keras.layers.DepthwiseConv2D(3, name="depthwise"),
            keras.layers.Conv2D(8, 1, name="pointwise"),
        ]
    )
    block = structures.Block((4, 1))

    def pruned(**kwargs):
        wrapped = tfticket.prune(model)
        tfticket.sparsify(wrapped, 0.5, **kwargs)
        masks = tfticket.get_masks(wrapped)
        return {name.split("/")[0]: 1 - m.mean() for name, m in masks.items()}

    expected = {"stem": 0.0, "depthwise": 0.5, "pointwise": 0.5}
    with pytest.warns(UserWarning, match=r"stay dense.*'stem/kernel': a block of"):
        assert pruned(structure=block) == expected
    with warnings.catch_warnings():
        warnings.filterwarnings("error", message="Weights that stay dense")
        assert pruned(structure=block, sparsities={"stem": 0.0}) == expected
    with pytest.raises(ValueError, match=r"sparsities gives 'stem/kernel' 0.3.*block"):
        pruned(structure=block, sparsities={"stem": 0.3})
    with pytest.raises(ValueError, match=r"In weight 'stem/kernel'.*larger than"):
        pruned(structure=structures.Block((40, 1)))
    # Windows of 9 weights: two full groups of 4, and one of a single weight, which
    # stays. Three input channels: of each 3, two stay.
    two_four = pruned(structure=structures.NM(2, 4))
    assert two_four["depthwise"] == pytest.approx(4 / 9)
    assert two_four["stem"] == pytest.approx(1 / 3)
    assert two_four["pointwise"] == 0.5


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *(("grouped", 1), ("normalize", None), ("reduce", "least"), ("score", "gamma")),
        *(("round_to", 0), ("min_channels", 0), ("max_sparsity", 0)),
        *(("max_sparsity", 1.5), ("round_to", 2.5)),
    ],
)
def test_arguments_of_channels_are_refused_by_name(argument, value):
    with pytest.raises((TypeError, ValueError), match=f"^{argument} must.*{value}"):
        structures.Channel(**{argument: value})


def test_the_counts_of_n_m_are_pythons_and_named_in_errors():
    found = NM(np.int64(2), np.int64(4))
    assert (type(found.kept), type(found.group)) == (int, int)
    with pytest.raises(ValueError, match=r"^group must be at least 2"):
        NM(1, 1)
