"""Exact counts, against a full sort in NumPy."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from tfticket.sparsity import topk
from tfticket.sparsity.scopes import after_cuts, survivors_lost

# Few values, so that ties are the rule.
SCORES = hnp.arrays(
    np.float32,
    hnp.array_shapes(max_dims=3, max_side=7),
    elements=st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0]),
)


def losses(scope, alive, rates, rate=0.0):
    """Cuts that prune these fractions of the survivors."""
    counts = {name: int(mask.sum()) for name, mask in alive.items()}
    return survivors_lost(scope, rates, counts, rate)


def by_sorting(scores, keep, alive):
    """Reference: a stable sort, best first, of what is alive."""
    order = np.argsort(-scores.ravel(), kind="stable")
    order = [i for i in order if alive.ravel()[i]][:keep]
    mask = np.zeros(scores.size, bool)
    mask[order] = True
    return mask.reshape(scores.shape)


@given(SCORES, st.data())
def test_keep_largest_is_the_head_of_a_stable_sort(scores, draw):
    alive = draw.draw(hnp.arrays(bool, scores.shape))
    keep = draw.draw(st.integers(0, int(alive.sum())))
    (got,) = topk.keep_largest([scores], keep, [alive])
    np.testing.assert_array_equal(got, by_sorting(scores, keep, alive))


@given(st.integers(1, 500), st.floats(0, 1))
def test_equal_scores_keep_exactly_n_minus_round(n, sparsity):
    keep = n - topk.pruned_count(n, sparsity)
    (mask,) = topk.keep_largest([np.ones(n)], keep)
    assert mask.sum() == n - round(n * sparsity)
    assert mask[:keep].all()  # of equals, the first stay


@given(st.data(), st.floats(0.01, 0.99))
def test_layerwise_is_exact_and_pruned_stays_pruned(draw, rate):
    shapes = {"a": (5, 4), "b": (7,)}
    before = {k: draw.draw(hnp.arrays(bool, s)) for k, s in shapes.items()}
    scores = {k: np.random.default_rng(0).random(s) for k, s in shapes.items()}
    rates = {"a": rate, "b": rate / 2}
    after = after_cuts(scores, before, losses("layerwise", before, rates))
    for name, r in (("a", rate), ("b", rate / 2)):
        m = before[name].sum()
        assert after[name].sum() == m - round(m * r)
        assert not (after[name] & ~before[name]).any()


@given(st.data(), st.floats(0.01, 0.99))
def test_global_is_exact_in_total_and_one_cut(draw, rate):
    shapes = {"a": (5, 4), "b": (7,), "c": (2, 2, 2)}
    before = {k: draw.draw(hnp.arrays(bool, s)) for k, s in shapes.items()}
    few = st.sampled_from([0, 1, 2])
    scores = {
        k: draw.draw(hnp.arrays("f4", s, elements=few)) for k, s in shapes.items()
    }
    after = after_cuts(scores, before, losses("global", before, {}, rate))
    m = sum(x.sum() for x in before.values())
    assert sum(x.sum() for x in after.values()) == m - round(m * rate)
    kept = [scores[k][after[k]] for k in shapes]
    lost = [scores[k][before[k] & ~after[k]] for k in shapes]
    if np.concatenate(kept).size and np.concatenate(lost).size:
        assert np.concatenate(kept).min() >= np.concatenate(lost).max()
    assert not any((after[k] & ~before[k]).any() for k in shapes)


@given(st.data(), st.floats(0.01, 0.99))
def test_every_weight_keeps_one_and_the_total_is_exact(draw, rate):
    shapes = {"a": (5, 4), "b": (7,), "c": (2, 2, 2)}
    before = {k: draw.draw(hnp.arrays(bool, s)) for k, s in shapes.items()}
    few = st.sampled_from([0, 1, 2, 9])
    scores = {
        k: draw.draw(hnp.arrays("f4", s, elements=few)) for k, s in shapes.items()
    }
    cuts = losses("global", before, {}, rate)
    after = after_cuts(scores, before, cuts, keep_one=True)
    plain = after_cuts(scores, before, cuts)
    m = sum(x.sum() for x in before.values())
    left = m - round(m * rate)
    assert sum(x.sum() for x in after.values()) == left
    there = [k for k in shapes if before[k].any()]
    emptied = [k for k in there if not plain[k].any()]
    if left < len(there) or not emptied:
        assert all((after[k] == plain[k]).all() for k in shapes)
        return
    for k in shapes:
        assert not (after[k] & ~before[k]).any()
        if k in emptied:
            np.testing.assert_array_equal(after[k], by_sorting(scores[k], 1, before[k]))
        else:  # the rest of it goes in the same order as before
            assert not (after[k] & ~plain[k]).any()
            n = after[k].sum()
            np.testing.assert_array_equal(after[k], by_sorting(scores[k], n, before[k]))
    assert all(after[k].any() for k in there)


def test_the_papers_densities():
    """(265,200 * 0.8^r + 1,000 * 0.9^r) / 266,200 for LeNet-300-100."""
    current = {
        "fc1": np.ones((784, 300), bool),
        "fc2": np.ones((300, 100), bool),
        "fc3": np.ones((100, 10), bool),
    }
    rates = {"fc1": 0.2, "fc2": 0.2, "fc3": 0.1}
    scores = {k: np.random.default_rng(0).random(m.shape) for k, m in current.items()}
    for r in range(1, 17):
        cuts = losses("layerwise", current, rates)
        current = after_cuts(scores, current, cuts)
        paper = (265_200 * 0.8**r + 1_000 * 0.9**r) / 266_200
        assert topk.density(current) == pytest.approx(paper, abs=2e-5)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_scores_that_are_not_finite_are_refused_by_name(bad, scope):
    scores = {"ok": np.ones(3), "broken": np.array([1.0, bad, 2.0])}
    alive = {name: np.ones(3, bool) for name in scores}
    with pytest.raises(ValueError, match=r"'broken'.*finite"):
        after_cuts(scores, alive, losses(scope, alive, {}, 0.5))


def test_arguments_out_of_range():
    with pytest.raises(ValueError, match=r"sparsity=1\.5"):
        topk.pruned_count(10, 1.5)
    with pytest.raises(ValueError, match="keep=4"):
        topk.keep_largest([np.ones(3)], 4)
    with pytest.raises(ValueError, match="keep=3"):
        topk.keep_largest([np.ones(3)], 3, [np.array([True, False, True])])
    with pytest.raises(ValueError, match=r"alive\.shape"):
        topk.keep_largest([np.ones(3)], 1, [np.ones(2, bool)])


def test_a_density_keeps_at_least_one():
    assert topk.kept_count(10, 0.1) == 1
    with pytest.raises(ValueError, match=r"density=0.01 keeps none of 10 .*above 0.05"):
        topk.kept_count(10, 0.01)


def test_integers_beyond_the_precision_of_floats_are_told_apart():
    (kept,) = topk.keep_largest([np.array([2**60, 2**60 + 1])], 1)
    assert kept.tolist() == [False, True]
