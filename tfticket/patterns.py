"""Choosing layers or weights by path, regular expression or class."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

Pattern = str | re.Pattern | type


def choose(
    argument: str, patterns: Iterable[Pattern], things: Mapping[str, Iterable[Any]]
) -> dict[Pattern, list[str]]:
    """What each of some patterns means.

    Args:
        argument: Name of the argument they came in, for the error.
        patterns: Each a path ("block/dense"; "block" means all inside it), a compiled
            regular expression that is searched for in the path, or a class.
        things: Path to the objects at that path, which a class is compared with.

    Returns:
        Pattern to the paths it matches, in the order of `things`.

    Raises:
        TypeError: If `patterns` is a single one, or one is of another type.
        ValueError: If one matches nothing.

    Example:

    >>> things = {"a/kernel": [1], "b/kernel": ["x"]}
    >>> tfticket.patterns.choose("exclude", ["a", str], things)
    {'a': ['a/kernel'], <class 'str'>: ['b/kernel']}
    """
    if isinstance(patterns, (str, re.Pattern, type)):
        raise TypeError(
            f"{argument} must be a collection of patterns, a list for one. "
            f"Received: {argument}={patterns!r}"
        )
    chosen = {}
    for pattern in patterns:
        if not isinstance(pattern, (str, re.Pattern, type)):
            raise TypeError(
                f"{argument} takes paths, compiled regular expressions and classes. "
                f"Received: {pattern!r}"
            )
        chosen[pattern] = [
            path for path, objects in things.items() if _matches(pattern, path, objects)
        ]
    if unknown := [pattern for pattern, paths in chosen.items() if not paths]:
        raise ValueError(
            f"{argument} names what the model does not have: {unknown}. "
            f"It has: {list(things)}"
        )
    return chosen


def _matches(pattern, path, objects):
    if isinstance(pattern, str):
        return path == pattern or path.startswith(f"{pattern}/")
    if isinstance(pattern, re.Pattern):
        return pattern.search(path) is not None
    return any(isinstance(thing, pattern) for thing in objects)
