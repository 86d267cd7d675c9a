"""The width at which a network of narrower layers has as many weights as a ticket."""

from collections.abc import Collection

from tfticket import models
from tfticket.keras_models.names import Pattern
from tfticket.pruning.masks import get_masks
from tfticket.pruning.prune_model import prune


def width_with(
    model: str,
    image_shape: tuple[int, int, int],
    classes: int,
    parameters: int,
    exclude: Collection[Pattern] = (),
) -> float:
    """Factor on the width whose network comes closest to a number of weights.

    Args:
        model: Name of one of `tfticket.models.MODELS`.
        image_shape: (height, width, channels).
        classes: Number of outputs.
        parameters: Number of prunable weights wanted.
        exclude: Layers whose weights don't count, as of `tfticket.prune`.

    Example:

    >>> round(width_with("lenet_300_100", (28, 28, 1), 10, 26_620), 2)
    0.11
    """
    low, high = 0.0, 1.0
    best = (float("inf"), 1.0)
    for _ in range(12):
        middle = (low + high) / 2
        network = prune(models.build(model, image_shape, classes, middle), exclude)
        count = sum(mask.size for mask in get_masks(network).values())
        best = min(best, (abs(count - parameters), middle))
        low, high = (middle, high) if count < parameters else (low, middle)
    return best[1]
