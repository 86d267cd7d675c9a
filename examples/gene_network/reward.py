"""What a pattern of stripes is worth: boundaries times stability.

Gene 1 of a row of cells at several times, as arrays. The description of the model that
this follows leaves the times and the exact form of the stability open, and pays for
zeros in W besides. What is here is the reward as used here, and not the authors'.
"""

import numpy as np

JUMP, APART = 0.1, 4


def boundaries(pattern: np.ndarray) -> np.ndarray:
    """Number of boundaries in rows of cells.

    Between cells i and i + 1 there is one where their values differ by more than 0.1
    and the last one counted lies 4 cells back or more; cells are gone through from 0.

    Args:
        pattern: Float array (..., cells).

    Returns:
        Integer array (...).

    Example:

    >>> int(boundaries(np.array([0.0, 0.0, 0.9, 0.9, 0.0, 0.0, 0.9, 0.9])))
    2
    """
    jumps = np.abs(np.diff(_floats(pattern), axis=-1)) > JUMP
    count = np.zeros(jumps.shape[:-1], int)
    last = np.full(jumps.shape[:-1], -APART)
    for cell in range(jumps.shape[-1]):
        counts = jumps[..., cell] & (cell - last >= APART)
        count += counts
        last = np.where(counts, cell, last)
    return count


def stability(patterns: np.ndarray) -> np.ndarray:
    """One less the mean absolute change from each time to the next, in [0, 1].

    Args:
        patterns: Float array (..., times, cells), values in [0, 1], two times or more.

    Returns:
        Float64 array (...).

    Example:

    >>> float(stability(np.array([[0.0, 1.0], [0.0, 0.5]])))
    0.75
    """
    patterns = _floats(patterns)
    if patterns.ndim < 2 or patterns.shape[-2] < 2:
        raise ValueError(
            "patterns must have shape (..., times, cells) with 2 times or more. "
            f"Received: shape {patterns.shape}"
        )
    return 1 - np.abs(np.diff(patterns, axis=-2)).mean((-2, -1))


def reward(patterns: np.ndarray) -> np.ndarray:
    """Boundaries, summed over the times, times stability.

    Args:
        patterns: Float array (..., times, cells), values in [0, 1], two times or more.

    Returns:
        Float64 array (...). Flat patterns get 0.

    Example:

    >>> stripe = np.array([0.0, 0.0, 0.9, 0.9])
    >>> float(reward(np.stack([stripe, stripe, stripe])))
    3.0
    """
    return boundaries(patterns).sum(-1) * stability(patterns)


def _floats(pattern):
    return np.asarray(pattern, "float64")
