"""Initializers and regularizers that a caller names, as Keras makes them."""

import contextlib
from typing import Any

import keras

from tfticket.common.arguments import shown

# Names that are this package's own.
WEIGHT_INITIALIZERS = ("signed_constant", "kaiming_normal")


def keras_object(name: str, value: Any) -> Any:
    """What Keras makes of a name, a config or an object, or an error that names it."""
    kind = name.split("_")[-1]
    get = getattr(keras, f"{kind}s").get
    found = None
    if isinstance(value, (str, dict)) or callable(value):
        with contextlib.suppress(ValueError, TypeError, LookupError):
            found = get(value)
    if not callable(found):
        raise ValueError(
            f"{name} must be a Keras {kind}, its name or its config. Received: "
            f"{name}={shown(value)}"
        )
    return found


def check_weight_initializer(value: Any) -> Any:
    """The name of one of ours, or an initializer of Keras."""
    if isinstance(value, str) and value in WEIGHT_INITIALIZERS:
        return value
    return keras_object("weight_initializer", value)
