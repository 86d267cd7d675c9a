"""Checks of arguments: one rule and one wording for every public function.

A value of the wrong type is a `TypeError`, a wrong value of the right type a
`ValueError`. NaN and infinity are wrong values. A bool is no number. NumPy's scalars
and its arrays without axes count as Python's. Each function returns the value as a
plain Python one.
"""

import inspect
import math
import numbers
import os
import pathlib
from collections.abc import Callable, Collection, Mapping
from typing import Any, TypeVar

import numpy as np

_T = TypeVar("_T")

# Weights are float32, and steps and counts int64: what is beyond is a slip.
_LARGEST, _MOST = float(np.finfo(np.float32).max), 2**63 - 1
_LONGEST = 200


def shown(value: Any) -> str:
    """The value as an error shows it: on one line, and not for pages.

    Example:

    >>> shown(list(range(1000)))[-9:]
    ' 51, 5...'
    """
    text = " ".join(repr(value).split())
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _plain(value):
    """What an array without axes holds; anything else as it is."""
    return value[()] if isinstance(value, np.ndarray) and not value.ndim else value


def check_integer(name: str, value: Any, least: int, most: int | None = None) -> int:
    """The value as an int of at least `least` and at most `most`.

    Args:
        name: Name of the argument, for the error.
        value: What was passed.
        least: Lowest value allowed.
        most: Highest value allowed; `None` is what 64 bits hold.

    Raises:
        TypeError: If it is not an integer.
        ValueError: If it is out of range.

    Example:

    >>> check_integer("rounds", 0, least=1)
    Traceback (most recent call last):
    ValueError: rounds must be at least 1. Received: rounds=0
    """
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Integral):
        raise TypeError(f"{name} must be an integer. Received: {name}={shown(value)}")
    value, most = int(value), _MOST if most is None else most
    if value < least:
        raise ValueError(f"{name} must be at least {least}. Received: {name}={value}")
    if value > most:
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
    value = _plain(value)
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number. Received: {name}={shown(value)}")
    try:
        number = float(value)
    except OverflowError:  # an integer of hundreds of digits
        number = math.inf
    fits = abs(number) <= _LARGEST
    if fits and least <= number <= most and above < number < below:
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
    if not fits and math.isfinite(number):
        bounds.append("within what float32 holds")
    wanted = " and ".join(bounds) if bounds else "finite"
    raise ValueError(
        f"{name} must be {wanted}{f': {meaning}' if meaning else ''}. "
        f"Received: {name}={shown(value) if number == math.inf else value}"
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
    value = _plain(value)
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(
            f"{name} must be True or False. Received: {name}={shown(value)}"
        )
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
            f"{name} must be one of {list(choices)}. Received: {name}={shown(value)}"
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
            f"{name} must be {wanted}. Received: {name}={shown(value)} "
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
            f"{name} must be a function of ({wanted}). Received: {name}={shown(value)}"
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


def optional(check: Callable, name: str, value: Any, *args: Any, **kwargs: Any) -> Any:
    """What a check makes of a value, or `None` where there is none.

    Example:

    >>> optional(check_integer, "seed", None, 0), optional(check_integer, "seed", 3, 0)
    (None, 3)
    """
    return None if value is None else check(name, value, *args, **kwargs)


def check_path(name: str, value: Any) -> pathlib.Path:
    """The value as a path.

    Raises:
        TypeError: If it is neither a text nor an `os.PathLike` of one.
        ValueError: If it is empty, or has a character that no path can have.

    Example:

    >>> check_path("out", "")
    Traceback (most recent call last):
    ValueError: out must be a path. Received: out=''
    """
    text = os.fspath(value) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str):
        raise TypeError(f"{name} must be a path. Received: {name}={shown(value)}")
    if not text or "\0" in text:
        raise ValueError(f"{name} must be a path. Received: {name}={shown(value)}")
    return pathlib.Path(value)


def check_list(name: str, value: Any, wanted: str = "a list") -> list:
    """The value as a list: of a list, a tuple, a set, a range or an array.

    Args:
        name: Name of the argument, for the error.
        value: What was passed.
        wanted: What it should be, in words: "a list of steps".

    Raises:
        TypeError: If it is anything else, a text or a dict among them.
    """
    kinds = (list, tuple, set, frozenset, range)
    if isinstance(value, np.ndarray) and value.ndim == 1:
        return value.tolist()
    if not isinstance(value, kinds):
        raise TypeError(f"{name} must be {wanted}. Received: {name}={shown(value)}")
    return list(value)


def check_mapping(name: str, value: Any, wanted: str) -> Mapping[Any, Any]:
    """The value, if it is a dict or like one.

    Args:
        name: Name of the argument, for the error.
        value: What was passed.
        wanted: What it should map, in words: "names to masks".

    Raises:
        TypeError: If it is anything else.
    """
    if not isinstance(value, Mapping):
        raise TypeError(
            f"{name} must be a dict of {wanted}. Received: {name}={shown(value)}"
        )
    return value


def check_array(name: str, value: Any) -> np.ndarray:
    """The value as an array of numbers or booleans.

    Raises:
        TypeError: If it is anything else, texts and objects among them.

    Example:

    >>> check_array("images", "a")
    Traceback (most recent call last):
    TypeError: images must be an array of numbers. Received: images='a'
    """
    try:
        array = np.asarray(value)
    except (TypeError, ValueError):  # lists of different lengths
        array = np.asarray(None)
    # "V": bfloat16 and its like.
    if array.dtype.kind not in "biufV" or array.dtype.names is not None:
        raise TypeError(
            f"{name} must be an array of numbers. Received: {name}={shown(value)}"
        )
    return array


def check_arrays(name: str, value: Any) -> dict[str, np.ndarray]:
    """The value, a dict of names to arrays of numbers.

    Raises:
        TypeError: If it is no dict, or holds anything else.

    Example:

    >>> check_arrays("masks", {"a": None})
    Traceback (most recent call last):
    TypeError: masks['a'] must be an array of numbers. Received: masks['a']=None
    """
    check_mapping(name, value, "names to arrays")
    for key in value:
        if not isinstance(key, str):
            raise TypeError(
                f"{name} must have texts as names. Received: {name}={shown(value)}"
            )
    return {key: check_array(f"{name}[{key!r}]", held) for key, held in value.items()}


def check_masked_arrays(
    weights: Any, masks: Any
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Arguments `weights` and `masks`: an array of its shape for each mask.

    Raises:
        TypeError: If one of them is no dict of names to arrays of numbers.
        ValueError: If a mask has no weight of its shape.
    """
    weights, masks = check_arrays("weights", weights), check_arrays("masks", masks)
    for name, mask in masks.items():
        if name not in weights or weights[name].shape != mask.shape:
            raise ValueError(
                f"weights must have an array of the shape of masks['{name}'], "
                f"{mask.shape}. Received: weights of {list(weights)}, masks of "
                f"{list(masks)}"
            )
    return weights, masks


def check_values(
    name: str, value: Any, check: Callable[[str, Any], Any] = check_sparsity
) -> dict[Any, Any]:
    """The value, a dict whose values pass a check; `None` is an empty one.

    Args:
        name: Name of the argument, for the error.
        value: What was passed.
        check: The check of each value, given its name and the value.

    Raises:
        TypeError: If it is no dict, or a value is of the wrong type.
        ValueError: If a value is out of range.

    Example:

    >>> check_values("rates", {"dense": 0.5}), check_values("rates", None)
    ({'dense': 0.5}, {})
    """
    if value is None:
        return {}
    check_mapping(name, value, "what is named to its value")
    return {key: check(f"{name}[{key!r}]", held) for key, held in value.items()}
