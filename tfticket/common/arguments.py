"""Checks of arguments that several entry points share."""

from collections.abc import Collection
from typing import Any

import numpy as np


def check_integer(name: str, value: Any, minimum: int) -> int:
    """The value as an int, or an error that names the argument."""
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer. Received: {name}={value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}. Received: {name}={value}")
    return int(value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """The value, or an error that names the argument and the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}. Received: {name}={value!r}")
    return value
