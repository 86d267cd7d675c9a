"""Linear interpolation between two trained networks, and the error barrier on it."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfticket.common.arguments import (
    check_arrays,
    check_function,
    check_integer,
    check_number,
)

STABLE = 0.02


def interpolate(
    a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray], alpha: float
) -> dict[str, np.ndarray]:
    """The weights (1 - alpha) a + alpha b.

    What is 0.0 in both, as the masked weights are, stays 0.0 exactly. Integers and
    booleans (the state of a seed) are those of `a`.

    Args:
        a: Name to array, the weights at `alpha` 0.
        b: The same at 1, of the same names and shapes.
        alpha: Fraction of the way, in [0, 1].

    Returns:
        Name to array, in the shapes and dtypes of `a`.

    Raises:
        ValueError: If names or shapes differ, or `alpha` is out of range.

    Example:

    >>> a, b = {"k": np.array([0.0, 1.0])}, {"k": np.array([0.0, 5.0])}
    >>> interpolate(a, b, 0.25)["k"]
    array([0., 2.])
    """
    alpha = check_number("alpha", alpha, 0, 1)
    a, b = check_arrays("a", a), check_arrays("b", b)
    if set(a) != set(b):
        raise ValueError(
            "a and b must be weights of the same names. Only in one of them: "
            f"{sorted(set(a) ^ set(b))}"
        )
    weights = {}
    for name in a:
        start, end = np.asarray(a[name]), np.asarray(b[name])
        if start.shape != end.shape:
            raise ValueError(
                f"a['{name}'] and b['{name}'] must have the same shape. Received: "
                f"shapes {start.shape} and {end.shape}"
            )
        weights[name] = start
        if keras.backend.is_float_dtype(start.dtype.name):
            # In float64, so that where both are the same the result is, too.
            between = (1 - alpha) * start.astype(np.float64) + alpha * end.astype(
                np.float64
            )
            weights[name] = between.astype(start.dtype)
    return weights


def barrier(
    evaluate: Callable[[dict[str, np.ndarray]], Mapping[str, float]],
    a: Mapping[str, np.ndarray],
    b: Mapping[str, np.ndarray],
    points: int = 11,
) -> dict[str, Any]:
    """Linear mode connectivity of two networks (Frankle et al., arXiv 1912.05671).

    The barrier is the highest error on the line between them, less the mean error of
    the two: 0 or more. Two trainings of one network that see the data in different
    orders and end with a barrier under 2 % are called stable. Statistics of
    BatchNormalization are interpolated like weights; an `evaluate` that takes them
    from new data gives lower barriers.

    Args:
        evaluate: Takes weights by name, returns `loss` and `accuracy`, the latter in
            [0, 1].
        a: Name to array, the weights of one trained network.
        b: Those of the other.
        points: Number of points on the line, both ends among them; 3 or more. The
            paper has 30.

    Returns:
        JSON-ready: `alphas`, `losses` and `errors` (1 - accuracy), lists of `points`
        floats; `error_barrier`, `loss_barrier`; `stable`, a bool. A loss that is not
        finite is None, and so is the barrier then.

    Raises:
        ValueError: If `a` and `b` don't fit each other, `points` is below 3, or
            an accuracy is not in [0, 1].

    Example:

    >>> def evaluate(weights):
    ...     x = float(weights["x"])  # a hill between two valleys
    ...     return {"loss": 1 - x**2, "accuracy": x**2}
    >>> found = barrier(evaluate, {"x": np.array(-1.0)}, {"x": np.array(1.0)}, points=5)
    >>> found["errors"]
    [0.0, 0.75, 1.0, 0.75, 0.0]
    >>> found["error_barrier"], found["stable"]
    (1.0, False)
    """
    points = check_integer("points", points, 3)
    check_function("evaluate", evaluate, "weights")
    alphas = [i / (points - 1) for i in range(points)]
    losses, errors = [], []
    for alpha in alphas:
        found = evaluate(interpolate(a, b, alpha))
        loss, accuracy = float(found["loss"]), float(found["accuracy"])
        if not 0.0 <= accuracy <= 1.0:
            raise ValueError(
                "evaluate must return an accuracy in [0, 1]. Received: "
                f"accuracy={accuracy} at alpha={alpha}"
            )
        losses.append(loss if math.isfinite(loss) else None)
        errors.append(1.0 - accuracy)
    height = _height(errors)
    return {
        "alphas": alphas,
        "losses": losses,
        "errors": errors,
        "error_barrier": height,
        "loss_barrier": None if None in losses else _height(losses),
        "stable": height < STABLE,
    }


def _height(values):
    return max(values) - (values[0] + values[-1]) / 2
