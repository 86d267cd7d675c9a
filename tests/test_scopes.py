"""Shares of a sparsity, against the papers' arithmetic."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tfticket.sparsity.scopes import erk_counts, erk_densities, pruned_by

SHAPES = st.lists(
    st.lists(st.integers(1, 12), min_size=1, max_size=4).map(tuple),
    min_size=1,
    max_size=5,
)


def named(shapes):
    shapes = {f"w{i}": shape for i, shape in enumerate(shapes)}
    return shapes, {name: int(np.prod(shape)) for name, shape in shapes.items()}


@settings(deadline=None)
@given(SHAPES, st.floats(0, 1))
def test_erk_is_exact_in_total_and_in_bounds(shapes, sparsity):
    shapes, sizes = named(shapes)
    kept = erk_counts(sizes, shapes, sparsity)
    total = sum(sizes.values())
    assert sum(kept.values()) == total - round(total * sparsity)
    densities = erk_densities(sizes, shapes, sparsity)
    for name, size in sizes.items():
        assert 0 <= kept[name] <= size
        assert abs(kept[name] - densities[name] * size) <= 1 + 1e-6


@settings(deadline=None)
@given(SHAPES, st.floats(0.01, 0.99))
def test_erk_densities_are_in_proportion_where_not_full(shapes, sparsity):
    shapes, sizes = named(shapes)
    densities = erk_densities(sizes, shapes, sparsity)
    scales = [
        densities[name] * np.prod(shape) / np.sum(shape)
        for name, shape in shapes.items()
        if densities[name] < 1 - 1e-9
    ]
    assert np.allclose(scales, scales[:1] * len(scales))
    whole = sum(densities[name] * size for name, size in sizes.items())
    assert whole == pytest.approx((1 - sparsity) * sum(sizes.values()))


def test_erk_of_lenet_by_hand():
    """At 90 %: fc3 would be 1.8 times full, so it is full and the rest share out."""
    shapes = {"fc1": (784, 300), "fc2": (300, 100), "fc3": (100, 10)}
    sizes = {"fc1": 235_200, "fc2": 30_000, "fc3": 1_000}
    left = 26_620 - 1_000
    scale = left / (1084 + 400)
    assert erk_densities(sizes, shapes, 0.9) == pytest.approx(
        {"fc1": 1084 * scale / 235_200, "fc2": 400 * scale / 30_000, "fc3": 1.0}
    )


def test_own_sparsities_do_not_count_for_the_others():
    shapes, units = {"a": (10,), "b": (20,), "c": (30,)}, {"a": 10, "b": 20, "c": 30}
    cuts = pruned_by("global", 0.5, units, shapes, {"b": 0.0})
    assert cuts == [(("b",), 0), (("a", "c"), 20)]
    cuts = pruned_by("erk", 0.5, units, shapes, {"b": 0.9})
    assert cuts[0] == (("b",), 18)
    assert sum(count for _, count in cuts[1:]) == 20
