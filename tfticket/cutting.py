"""Cuts: so many units fewer of these weights. Scores and masks in, masks out."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from tfticket.ranking import PartError, keep_largest_jointly
from tfticket.structures import Axes, Unstructured

# Names of weights that are cut together, and how many of their units go in all.
Cut = tuple[tuple[str, ...], int]


def after_cuts(
    scores: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    cuts: Sequence[Cut],
    structures: Mapping[str, Unstructured] | None = None,
    axes: Mapping[str, Axes] | None = None,
    key: Callable[[np.ndarray], np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Masks after cuts; what is pruned stays pruned, counts are exact in units.

    Args:
        scores: Name to score array; the lowest go. Of equal ones the later go first,
            by order of names in the cut, then by index.
        masks: Name to the present mask, a boolean array in the shape of the scores.
        cuts: Which weights lose how many units together. Where fewer can go, all of
            these go.
        structures: Name to what is pruned together; what is not named is unstructured.
        axes: Name to what the axes mean, where a structure is named.
        key: What of the scores is compared, as in `keep_largest_jointly`; where units
            are single weights only.

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
            kept = keep_largest_jointly(pooled, keep, candidates, key)
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
