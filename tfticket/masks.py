"""Scores in, masks of an exact size out. Knows nothing of layers or models.

A mask is a boolean array in the shape of its weight: True is kept. One rule
of rounding holds everywhere (`pruned_count`), and ties are broken by index, so
that a count is exact even where every weight is equal.
"""

from collections.abc import Mapping

import numpy as np

from tfticket.ranking import PartError, keep_largest_jointly


def pruned_count(size: int, sparsity: float) -> int:
    """Number of weights that a sparsity prunes: `round(size * sparsity)`.

    The one rounding rule of the package: Python's `round` of the float
    product, half to even. A layer of `n` weights keeps `n - round(n * s)`.

    Args:
        size: Number of weights there are to choose from.
        sparsity: Fraction of them to prune, in [0, 1].

    Raises:
        ValueError: If `sparsity` is outside [0, 1].

    Example:

    >>> pruned_count(266_200, 0.2)
    53240
    """
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(
            f"sparsity must be a fraction in [0, 1]. Received: sparsity={sparsity}"
        )
    return round(size * sparsity)


def check_density(density: float) -> float:
    """The density itself; a `ValueError` if it is outside (0, 1]."""
    if not 0.0 < density <= 1.0:
        raise ValueError(
            f"density must be a fraction in (0, 1]. Received: density={density}"
        )
    return density


def kept_count(size: int, density: float) -> int:
    """Number of weights that a density keeps: `round(size * density)`.

    The same rule as `pruned_count`, said of what stays: for supermasks, which are
    defined by the fraction kept.

    Args:
        size: Number of weights there are to choose from.
        density: Fraction of them to keep, in (0, 1].

    Raises:
        ValueError: If `density` is outside (0, 1], or keeps not a single one.

    Example:

    >>> kept_count(235_200, 0.3)
    70560
    """
    kept = round(size * check_density(density))
    if kept == 0:
        raise ValueError(
            f"density={density} keeps none of {size} weights. Choose one above "
            f"{0.5 / size:.2g}."
        )
    return kept


def keep_largest(
    scores: np.ndarray, keep: int, alive: np.ndarray | None = None
) -> np.ndarray:
    """Mask of the `keep` highest scores; of equal scores the lower index stays.

    Never a full sort; memory beside the mask is a few percent of the scores'.

    Args:
        scores: Float array of any shape, one score a weight.
        keep: Number of weights to keep.
        alive: Boolean array shaped like `scores`. What is False is pruned
            already and stays pruned. `None`: everything is alive.

    Returns:
        Boolean array shaped like `scores` with exactly `keep` True.

    Raises:
        ValueError: If a score is NaN or infinite, shapes differ, or `keep` is
            outside [0, number alive].

    Example:

    >>> keep_largest(np.array([3.0, 1.0, 1.0, 2.0]), keep=3)
    array([ True,  True, False,  True])
    """
    try:
        (mask,) = keep_largest_jointly(
            [scores], keep, None if alive is None else [alive]
        )
    except PartError as error:
        raise ValueError(error.reason) from None
    return mask


def density(masks: Mapping[str, np.ndarray]) -> float:
    """Fraction of all masked weights that is kept, in [0, 1].

    >>> density({"a": np.array([True, False]), "b": np.array([True, True])})
    0.75
    """
    total = sum(mask.size for mask in masks.values())
    return sum(int(np.count_nonzero(mask)) for mask in masks.values()) / total
