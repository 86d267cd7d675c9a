"""A sparsity shared out: how many units of which weights go, and the masks then."""

import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Literal

import numpy as np

from tfticket.sparsity.structures import Axes, Unstructured
from tfticket.sparsity.topk import PartError, keep_largest, pruned_count

Scope = Literal["layerwise", "global", "erk", "isomorphic"]
SCOPES = ("layerwise", "global", "erk", "isomorphic")


def pruned_by(
    scope: Scope,
    sparsity: float,
    units: Mapping[str, int],
    shapes: Mapping[str, tuple[int, ...]],
    own: Mapping[str, float] | None = None,
    alike: Mapping[str, Hashable] | None = None,
) -> list[tuple[tuple[str, ...], int]]:
    """Cuts to make: which weights together, and how many of their units in all.

    Args:
        scope: `"layerwise"` prunes the same fraction of every weight, `"global"` cuts
            all of them together, `"isomorphic"` cuts those together that are alike,
            `"erk"` gives each a density by its shape.
        sparsity: Fraction of the units to be pruned, in [0, 1].
        units: Name of the weight to its number of units.
        shapes: Name to shape, for ERK.
        own: Sparsity of weights that have one of their own. They are cut by themselves
            and don't count for the others.
        alike: Name to what weights are compared by, for `"isomorphic"`.

    Returns:
        Pairs of names that are cut together and the count that is then pruned.

    Example:

    >>> shapes = {"a": (10, 10), "b": (10, 2)}
    >>> units = {"a": 100, "b": 20}
    >>> pruned_by("layerwise", 0.5, units, shapes)
    [(('a',), 50), (('b',), 10)]
    >>> pruned_by("global", 0.5, units, shapes, own={"b": 0.1})
    [(('b',), 2), (('a',), 50)]
    """
    own = own or {}
    cuts: list[tuple[tuple[str, ...], int]] = [
        ((name,), pruned_count(units[name], s)) for name, s in own.items()
    ]
    rest = {name: count for name, count in units.items() if name not in own}
    if not rest:
        return cuts
    if scope in ("global", "isomorphic"):
        for names in _together(scope, rest, alike):
            count = sum(rest[name] for name in names)
            cuts.append((names, pruned_count(count, sparsity)))
        return cuts
    if scope == "erk":
        kept = erk_counts(rest, {name: shapes[name] for name in rest}, sparsity)
        return [*cuts, *(((name,), rest[name] - kept[name]) for name in rest)]
    return [*cuts, *(((name,), pruned_count(n, sparsity)) for name, n in rest.items())]


def _together(scope, names, alike):
    """The names that are cut together, as tuples in order of first appearance."""
    clusters: dict[Hashable, list[str]] = {}
    for name in names:
        key = (alike or {}).get(name) if scope == "isomorphic" else None
        clusters.setdefault(key, []).append(name)
    return [tuple(cluster) for cluster in clusters.values()]


def erk_densities(
    sizes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], sparsity: float
) -> dict[str, float]:
    """Densities in proportion to sum(shape) / prod(shape), none above 1.

    The Erdős-Rényi kernel of Evci et al. 2020 (RigL, arXiv 1911.11134), after Mocanu
    et al. 2018 (arXiv 1707.04780): small layers stay denser.

    Args:
        sizes: Name of the weight to its number of units.
        shapes: Name to shape.
        sparsity: Sparsity of all of them together, in [0, 1].

    Returns:
        Name to density, which kept together are `1 - sparsity` of the whole.

    Example:

    >>> erk_densities({"a": 100, "b": 20}, {"a": (10, 10), "b": (10, 2)}, 0.75)
    {'a': 0.1875, 'b': 0.5625}
    """
    keep = (1 - sparsity) * sum(sizes.values())
    raw = {name: sum(shapes[name]) / math.prod(shapes[name]) for name in sizes}
    full: set[str] = set()
    while True:
        open_ = [name for name in sizes if name not in full]
        left = keep - sum(sizes[name] for name in full)
        weight = sum(raw[name] * sizes[name] for name in open_)
        scale = left / weight if weight else 0.0
        over = {name for name in open_ if raw[name] * scale > 1}
        if not over:
            break
        full |= over
    return {name: 1.0 if name in full else raw[name] * scale for name in sizes}


def erk_counts(
    sizes: Mapping[str, int], shapes: Mapping[str, tuple[int, ...]], sparsity: float
) -> dict[str, int]:
    """Units kept by `erk_densities`, whole numbers, exact in total.

    Fractions are rounded down, and what is then missing goes to the largest of them.
    """
    densities = erk_densities(sizes, shapes, sparsity)
    exact = {name: densities[name] * size for name, size in sizes.items()}
    # A hair under a whole number is that number.
    kept = {name: math.floor(value + 1e-9) for name, value in exact.items()}
    total = sum(sizes.values())
    missing = total - pruned_count(total, sparsity) - sum(kept.values())
    order = sorted(sizes, key=lambda name: kept[name] - exact[name])
    for name in [*order, *order]:
        if missing > 0 and kept[name] < sizes[name]:
            kept[name] += 1
            missing -= 1
    return kept


def survivors_lost(
    scope: Scope,
    rates: Mapping[str, float],
    alive: Mapping[str, int],
    rate: float,
    alike: Mapping[str, Hashable] | None = None,
) -> list[tuple[tuple[str, ...], int]]:
    """As `pruned_by`, relative: fractions of the units that are still alive.

    Args:
        scope: `"layerwise"`, `"global"` or `"isomorphic"`.
        rates: Name to the fraction of that weight's survivors; under `"global"`, only
            of weights that are cut by themselves.
        alive: Name to the number of units that are left.
        rate: Fraction of the others' survivors.
        alike: Name to what weights are compared by, for `"isomorphic"`.
    """
    if scope == "layerwise":
        rates = {name: rates.get(name, rate) for name in alive}
    cuts: list[tuple[tuple[str, ...], int]] = [
        ((name,), pruned_count(alive[name], r)) for name, r in rates.items()
    ]
    rest = [name for name in alive if name not in rates]
    for names in _together(scope, rest, alike):
        cuts.append((names, pruned_count(sum(alive[x] for x in names), rate)))
    return cuts


# Names of weights that are cut together, and how many of their units go in all.
Cut = tuple[tuple[str, ...], int]


def after_cuts(
    scores: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    cuts: Sequence[Cut],
    structures: Mapping[str, Unstructured] | None = None,
    axes: Mapping[str, Axes] | None = None,
    key: Callable[[np.ndarray], np.ndarray] | None = None,
    keep_one: bool = False,
) -> dict[str, np.ndarray]:
    """Masks after cuts; what is pruned stays pruned, counts are exact in units.

    Args:
        scores: Name to score array; the lowest go. Of equal scores, the later go
            first, by order of names in the cut, then by index.
        masks: Name to the present mask, a boolean array in the shape of the scores.
        cuts: Which weights lose how many units together. Where fewer can go, all of
            these go.
        structures: Name to what is pruned together; what is not named is unstructured.
        axes: Name to what the axes mean, where a structure is named.
        key: What of the scores is compared, as in `keep_largest`; where units
            are single weights only.
        keep_one: Whether a weight that is cut together with others keeps its best unit
            in any case: one that the cut would empty, and that the others lose instead.
            Only where as many units stay as there are weights.

    Returns:
        Name to new mask; weights in no cut keep theirs.

    Raises:
        ValueError: If a score is NaN or infinite; names the weight.

    Example:

    >>> scores = {"a": np.array([1.0, 2.0]), "b": np.array([3.0, 0.0])}
    >>> alive = {name: np.array([True, True]) for name in scores}
    >>> after_cuts(scores, alive, [(("a", "b"), 2)])
    {'a': array([False,  True]), 'b': array([ True, False])}
    """
    after = dict(masks)
    for names, count in cuts:
        kinds = [(structures or {}).get(name, Unstructured()) for name in names]
        places = [(axes or {}).get(name, Axes((), ())) for name in names]
        pooled, alive, candidates = [], [], []
        for name, structure, place in zip(names, kinds, places, strict=True):
            units, living = structure.pool(scores[name], masks[name], place)
            pooled.append(units)
            alive.append(living)
            candidates.append(structure.candidates(units, living, place))
        there = sum(int(np.count_nonzero(flags)) for flags in candidates)
        keep = there - min(max(count, 0), there)
        try:
            kept = keep_largest(pooled, keep, candidates, key)
            if keep_one and len(names) > 1 and _some_emptied(kept, candidates, alive):
                kept = _keep_one_each(pooled, keep, candidates, alive, key) or kept
        except PartError as error:
            raise ValueError(
                f"In weight '{names[error.part]}': {error.reason}"
            ) from error
        for i, name in enumerate(names):
            units = kept.pop(0)  # in place and let go: they are as large as the masks
            units |= ~candidates[i]
            units &= alive[i]
            mask = kinds[i].spread(units, np.shape(masks[name]), places[i])
            after[name] = masks[name] & mask
    return after


def _some_emptied(kept, candidates, alive):
    """Whether a weight that has units is left with none."""
    return any(
        flags.any() and not units.any() and not (living & ~flags).any()
        for units, flags, living in zip(kept, candidates, alive, strict=True)
    )


def _keep_one_each(pooled, keep, candidates, alive, key):
    """As `keep_largest`, with the best unit of every weight that could be emptied.

    A weight that keeps any unit keeps its best, so the others are not ranked again.
    `None` where fewer units are to stay than there are such weights.
    """
    rest, best = [], {}
    for i, (units, flags, living) in enumerate(
        zip(pooled, candidates, alive, strict=True)
    ):
        rest.append(flags)
        if flags.any() and not (living & ~flags).any():
            (one,) = keep_largest([units], 1, [flags], key)
            best[i] = one
            rest[i] = flags & ~one
    if keep < len(best):
        return None
    kept = keep_largest(pooled, keep - len(best), rest, key)
    return [units | best[i] if i in best else units for i, units in enumerate(kept)]
