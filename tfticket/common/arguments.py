"""Checks of arguments: one rule and one wording for every public function.

A value of the wrong type is a `TypeError`, a wrong value of the right type a
`ValueError`. NaN and infinity are wrong values. A bool is no number. NumPy's scalars
count as Python's. Each function returns the value as a plain Python one.
"""

import inspect
import math
import numbers
from collections.abc import Callable, Collection
from typing import Any, TypeVar

_T = TypeVar("_T")


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as an int of at least `least` and at most `most`.

    Args:
        name: Name of the argument, for the error.
        value: What was passed.
        least: Lowest value allowed.
        most: Highest value allowed; `None` is no limit.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is out of range.

    Example:

    >>> check_integer("rounds", 0, least=1)
    Traceback (most recent call last):
    ValueError: rounds must be at least 1. Received: rounds=0
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer. Received: {name}={value!r}")
    value = int(value)
    if value < least:
        raise ValueError(f"{name} must be at least {least}. Received: {name}={value}")
    if most is not None and value > most:
        raise ValueError(f"{name} must be at most {most}. Received: {name}={value}")
    return value


def check_number(
    name: str,
    value: Any,
    least: float = -math.inf,
    most: float = math.inf,
    *,
    above: float = -math.inf,
    below: float = math.inf,
    meaning: str = "",
) -> float:
    """The value as a finite float, within bounds that are inclusive or exclusive.

    Args:
        name: Name of the argument, for the error.
        value: What was passed.
        least: Lowest value allowed.
        most: Highest value allowed.
        above: Every value allowed is greater.
        below: Every value allowed is smaller.
        meaning: What the number means, for the error: "0.9 prunes 90 %".

    Raises:
        TypeError: If it is not a real number.
        ValueError: If it is NaN, infinite or out of range.

    Example:

    >>> check_number("rate", 1, above=0, below=1)
    Traceback (most recent call last):
    ValueError: rate must be above 0 and below 1. Received: rate=1
    """
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number. Received: {name}={value!r}")
    number = float(value)
    if math.isfinite(number) and least <= number <= most and above < number < below:
        return number
    bounds = [
        f"{word} {bound:g}"
        for word, bound in (
            ("at least", least),
            ("above", above),
            ("at most", most),
            ("below", below),
        )
        if math.isfinite(bound)
    ]
    wanted = " and ".join(bounds) if bounds else "finite"
    raise ValueError(
        f"{name} must be {wanted}{f': {meaning}' if meaning else ''}. "
        f"Received: {name}={value}"
    )


def check_sparsity(name: str, value: Any) -> float:
    """The fraction of weights to prune, in [0, 1)."""
    return check_number(name, value, 0, below=1, meaning="0.9 prunes 90 %")


def check_density(name: str, value: Any) -> float:
    """The fraction of weights to keep, in (0, 1]."""
    return check_number(name, value, most=1, above=0, meaning="0.1 keeps 10 %")


def check_rate(name: str, value: Any) -> float:
    """The fraction of the survivors that a round prunes, in (0, 1)."""
    return check_number(
        name, value, above=0, below=1, meaning="0.2 prunes 20 % of the survivors"
    )


def check_bool(name: str, value: Any) -> bool:
    """The value, True or False."""
    # NumPy's bool is another class.
    if type(value).__name__ not in ("bool", "bool_"):
        raise TypeError(f"{name} must be True or False. Received: {name}={value!r}")
    return bool(value)


def check_choice(name: str, value: Any, choices: Collection[Any]) -> Any:
    """The value, if it is one of the choices.

    Raises:
        TypeError: If no choice is of its type.
        ValueError: If it is none of them.

    Example:

    >>> check_choice("scope", "globel", ("layerwise", "global"))
    Traceback (most recent call last):
    ValueError: scope must be one of ['layerwise', 'global']. Received: scope='globel'
    """
    of_its_type = [choice for choice in choices if type(choice) is type(value)]
    if not of_its_type or value not in of_its_type:
        error = ValueError if of_its_type else TypeError
        raise error(
            f"{name} must be one of {list(choices)}. Received: {name}={value!r}"
        )
    return value


def check_instance(name: str, value: Any, kind: type[_T], wanted: str) -> _T:
    """The value, if it is of a class.

    Args:
        name: Name of the argument, for the error.
        value: What was passed.
        kind: The class, or a tuple of them.
        wanted: What it should be, in words: "a keras.Model".

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(value, kind):
        raise TypeError(
            f"{name} must be {wanted}. Received: {name}={value!r} "
            f"(of type {type(value).__name__})"
        )
    return value


def check_function(name: str, value: Any, *takes: str) -> Callable:
    """The value, if it can be called with so many positional arguments.

    Args:
        name: Name of the argument, for the error.
        value: What was passed.
        takes: What it is called with, in words.

    Raises:
        TypeError: If it can't be called, or not with these.

    Example:

    >>> check_function("on_end", lambda record: None, "record", "ticket")
    Traceback (most recent call last):
    TypeError: on_end is called with (record, ticket). Received: on_end(record)
    """
    wanted = ", ".join(takes)
    if not callable(value):
        raise TypeError(
            f"{name} must be a function of ({wanted}). Received: {name}={value!r}"
        )
    try:
        signature = inspect.signature(value)
    except (TypeError, ValueError):
        return value  # one of C's, which doesn't say
    try:
        signature.bind(*takes)
    except TypeError:
        raise TypeError(
            f"{name} is called with ({wanted}). Received: {name}{signature}"
        ) from None
    return value
