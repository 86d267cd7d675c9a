"""Masks whose weights come back: some survivors go, and exactly as many return."""

import math
from typing import Literal, NamedTuple

import numpy as np

from tfticket.sparsity import structures
from tfticket.sparsity.structures import NM, Axes, Unstructured
from tfticket.sparsity.topk import PartError, keep_largest, pruned_count

Decay = Literal["cosine", "constant"]
DECAYS = ("cosine", "constant")


def drop_fraction_at(
    step: int, begin: int, end: int, drop_fraction: float, decay: Decay = "cosine"
) -> float:
    """The fraction of the survivors that is dropped at a step.

    With `"cosine"` it is `drop_fraction / 2 * (1 + cos(pi * (step - begin) / (end -
    begin)))`, which is all of it at `begin` and 0 at `end` (Evci et al. 2020, arXiv
    1911.11134); with `"constant"` it stays.

    Args:
        step: From `begin` to `end`.
        begin: Step at which the decay begins.
        end: Step at which it ends, after `begin`.
        drop_fraction: The fraction at the beginning, in (0, 1).
        decay: `"cosine"` or `"constant"`.

    Example:

    >>> [drop_fraction_at(step, 0, 100, 0.5) for step in (0, 50, 100)]
    [0.5, 0.25, 0.0]
    """
    if decay == "constant":
        return drop_fraction
    return drop_fraction / 2 * (1 + math.cos(math.pi * (step - begin) / (end - begin)))


def exchanged(alive: int, size: int, drop_fraction: float) -> int:
    """How many units are dropped and grown: `round(alive * drop_fraction)`.

    Fewer where there are not so many pruned ones to grow; one survivor always stays.

    Args:
        alive: Number of units that are not pruned.
        size: Number of all units.
        drop_fraction: Fraction of those alive that is to be dropped, in [0, 1].

    Example:

    >>> exchanged(10, 100, 0.3), exchanged(95, 100, 0.3), exchanged(1, 100, 0.9)
    (3, 5, 0)
    """
    wanted = pruned_count(alive, drop_fraction)
    return max(0, min(wanted, alive - 1, size - alive))


class Regrowth(NamedTuple):
    """What an update makes of a mask.

    Attributes:
        survivors: The mask when the lowest are dropped, and nothing has grown yet.
        mask: The mask with what has grown.
        moved: How many units were dropped, and as many grown.
    """

    survivors: np.ndarray
    mask: np.ndarray
    moved: int


def drop_and_grow(
    scores: np.ndarray,
    growth: np.ndarray | np.random.Generator | None,
    mask: np.ndarray,
    drop_fraction: float,
    structure: Unstructured | None = None,
    axes: Axes | None = None,
) -> Regrowth:
    """Drops the lowest survivors, and grows as many of what was pruned before.

    What is dropped is not grown at once. Of equal scores the earlier stays, or grows.
    With `NM` every group gets back as many as it loses, so that its number stays.

    Args:
        scores: Scores of the weights, in their shape: their magnitudes.
        growth: Scores by which the pruned are chosen, in the same shape, highest
            first: the magnitude of the dense gradient (RigL, arXiv 1911.11134). A
            generator draws them (SET, arXiv 1707.04780). `None` is for an update
            that exchanges nothing.
        mask: The present mask, in the same shape.
        drop_fraction: Fraction of the survivors to drop, in [0, 1].
        structure: What goes and comes back together. `None`: every weight by itself.
        axes: What the weight's axes mean.

    Raises:
        PartError: A `ValueError`, if a score that counts is NaN or infinite.

    Example:

    >>> mask = np.array([True, True, False, False])
    >>> scores = np.array([3.0, 1.0, 0.0, 0.0])
    >>> drop_and_grow(scores, np.array([9.0, 9.0, 1.0, 2.0]), mask, 0.5).mask
    array([ True, False, False,  True])
    """
    structure, axes = structures.get(structure), axes or Axes((), ())
    units, alive = structure.pool(scores, mask, axes)
    there = int(np.count_nonzero(alive))
    count = exchanged(there, alive.size, drop_fraction)
    if count == 0:
        return Regrowth(mask, mask, 0)
    if isinstance(structure, NM):
        growing = growth
        if isinstance(growth, np.random.Generator):
            growing = growth.random(np.shape(mask))
        return _within_groups(scores, growing, mask, count, structure, axes)
    if isinstance(growth, np.random.Generator):
        growing = growth.random(alive.shape)
    else:
        everything = np.ones(np.shape(mask), bool)
        growing = structure.pool(np.asarray(growth), everything, axes)[0]
    kept = keep_largest([units], there - count, [alive])[0]
    grown = keep_largest([growing], count, [~alive])[0]
    survivors = mask & structure.spread(kept, np.shape(mask), axes)
    after = survivors | structure.spread(grown, np.shape(mask), axes)
    return Regrowth(survivors, after, count)


def _within_groups(scores, growth, mask, count, structure, axes):
    """As `drop_and_grow` of N:M: a group loses at most what it can grow."""
    alive = structure.groups(mask, axes, False)
    there = structure.groups(np.ones(np.shape(mask), bool), axes, False)
    ranked = structure.groups(np.asarray(scores), axes, 0)
    most = np.count_nonzero(there & ~alive, axis=-1, keepdims=True)
    may_go = structure.from_groups(
        _highest(-ranked, alive, most, later=True), np.shape(mask), axes
    )
    count = min(count, int(np.count_nonzero(may_go)))
    stay = keep_largest([scores], np.count_nonzero(may_go) - count, [may_go])[0]
    survivors = (mask & ~may_go) | stay
    lost = alive & ~structure.groups(survivors, axes, False)
    wanted = np.count_nonzero(lost, axis=-1, keepdims=True)
    growing = structure.groups(np.asarray(growth), axes, 0)
    grown = _highest(growing, there & ~alive, wanted)
    after = survivors | structure.from_groups(grown, np.shape(mask), axes)
    return Regrowth(survivors, after, count)


def _highest(groups, among, counts, later=False):
    """The highest of those among which to choose, so many in every group.

    Args:
        groups: Scores, groups along the last axis.
        among: Booleans in the same shape.
        counts: How many, 1 along the last axis.
        later: Whether of equal scores the later is taken.
    """
    if not np.isfinite(groups[among]).all():
        raise PartError(0, "scores must be finite, and some are NaN or infinite.")
    step = -1 if later else 1
    # The highest first; what is not to be chosen is last.
    ranked = np.where(among, -groups, np.inf)[..., ::step]
    order = np.argsort(ranked, axis=-1, kind="stable")
    places = np.argsort(order, axis=-1, kind="stable")[..., ::step]
    return among & (places < counts)


def random_mask(
    mask: np.ndarray,
    keep: int,
    random: np.random.Generator,
    structure: Unstructured | None = None,
    axes: Axes | None = None,
) -> np.ndarray:
    """A mask of exactly so many units, drawn; one that has as many stays as it is.

    Where more are alive, those that stay are drawn among them; where fewer are, all
    of them stay, and what comes back is drawn.

    Args:
        mask: The present mask.
        keep: Number of units to be alive, from 0 to all. `NM` keeps all that it may in
            every group, and needs no number.
        random: Draws.
        structure: What is a unit. `None`: every weight by itself.
        axes: What the weight's axes mean.

    Example:

    >>> mask = random_mask(np.ones((4, 5), bool), 6, np.random.default_rng(0))
    >>> int(mask.sum())
    6
    """
    structure, axes = structures.get(structure), axes or Axes((), ())
    if isinstance(structure, NM) and keep < mask.size:
        return _random_groups(mask, random, structure, axes)
    alive = structure.pool(mask.view(np.int8), mask, axes)[1]
    there = int(np.count_nonzero(alive))
    if there == keep:
        return mask
    drawn = random.random(alive.shape)
    if there > keep:
        units = keep_largest([drawn], keep, [alive])[0]
        return mask & structure.spread(units, np.shape(mask), axes)
    units = keep_largest([drawn], keep - there, [~alive])[0]
    return mask | structure.spread(units, np.shape(mask), axes)


def kept_by(structure: NM, shape: tuple[int, ...], axes: Axes) -> int:
    """How many weights N:M leaves where every group is full.

    Args:
        structure: N:M.
        shape: Shape of the weight.
        axes: What the weight's axes mean.

    Example:

    >>> kept_by(NM(2, 4), (6, 5), Axes((0,), (1,)))
    20
    """
    groups = structure.groups(np.ones(shape, bool), axes, False)
    return int(np.minimum(np.count_nonzero(groups, axis=-1), structure.kept).sum())


def _random_groups(mask, random, structure, axes):
    there = structure.groups(np.ones(mask.shape, bool), axes, False)
    alive = structure.groups(mask, axes, False)
    # Draws are below 1, so the present ones come first.
    drawn = structure.groups(random.random(mask.shape), axes, 0) + alive
    kept = _highest(drawn, there, structure.kept)
    return (
        mask
        if np.array_equal(kept, alive)
        else structure.from_groups(kept, mask.shape, axes)
    )
