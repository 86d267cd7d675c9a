"""What two kinds of optimizers need so that a mask holds: Adafactor, and averages."""

import warnings
from typing import Any

import keras

from tfticket.keras_models.internals import inner_optimizers, mask_averages

# Squared, and divided by a mean of squared gradients up to 1e6, this is still a normal
# float32.
_FLOOR = 1e-16
_SEEN = "_tfticket_cares"


def care_for(optimizer: Any) -> None:
    """Readies an optimizer for masked weights, once.

    Adafactor keeps its second moment as a row and a column. Where both belong to
    weights without gradients, their product underflows and the step is 0 / 0, which
    its division by the mean of all steps carries to every weight: `epsilon_1`, which
    it adds to squared gradients, gets a floor. An average that an optimizer keeps of
    the weights is masked as they are, since it is taken before constraints are
    applied, and Muon's step is not zero where the gradient is.

    Args:
        optimizer: A Keras optimizer, or `None`.
    """
    if optimizer is None or getattr(optimizer, _SEEN, False):
        return
    for inner in inner_optimizers(optimizer):
        if isinstance(inner, keras.optimizers.Adafactor) and inner.epsilon_1 < _FLOOR:
            warnings.warn(
                f"Adafactor(epsilon_1={inner.epsilon_1}) divides 0 by 0 where a row "
                "and a column of a weight are pruned, and every weight becomes NaN. "
                f"Its epsilon_1 is now {_FLOOR}; pass that yourself to be rid of this.",
                stacklevel=2,
            )
            inner.epsilon_1 = _FLOOR
        if getattr(inner, "use_ema", False):
            mask_averages(inner, _masked)
    setattr(optimizer, _SEEN, True)


def _masked(variable, value):
    constraint = getattr(variable, "constraint", None)
    mask = getattr(constraint, "mask_value", None)
    return value if mask is None else mask(value)
