"""What a weight is worth: a criterion gives every weight a score, higher is kept.

A criterion is a function of the weight's array that returns an array of the
same shape. It knows nothing of masks.
"""

from collections.abc import Callable

import numpy as np

Criterion = Callable[[np.ndarray], np.ndarray]


def magnitude(weight: np.ndarray) -> np.ndarray:
    """Absolute value, |w| (Han et al. 2015, arXiv 1506.02626).

    Args:
        weight: Float array of any shape.

    Returns:
        Array of the same shape, float32 or wider.

    Example:

    >>> magnitude(np.array([-2.0, 1.0]))
    array([2., 1.])
    """
    weight = np.asarray(weight)
    return np.abs(weight.astype(np.result_type(weight.dtype, np.float32), copy=False))


_CRITERIA: dict[str, Criterion] = {"magnitude": magnitude}


def get(criterion: str | Criterion) -> Criterion:
    """The criterion of that name, or the function itself.

    Raises:
        ValueError: If no criterion has that name; says which exist.
    """
    if callable(criterion):
        return criterion
    if criterion not in _CRITERIA:
        raise ValueError(
            f"criterion must be one of {sorted(_CRITERIA)} or a function. "
            f"Received: criterion={criterion!r}"
        )
    return _CRITERIA[criterion]
