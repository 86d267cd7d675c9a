"""Modules and names of a package that are imported when they are first used."""

import importlib
from collections.abc import Callable
from typing import Any


def on_demand(package: str, *names: str, **things: str) -> Callable[[str], Any]:
    """A `__getattr__` for a package, which imports these when asked.

    For modules that need TensorFlow or matplotlib, which the package by itself does
    not: `__getattr__ = on_demand(__name__, "pictures")` in its `__init__`.

    Args:
        package: Name of the package.
        names: Names of its modules.
        things: Name of what a module defines to that module's whole name.
    """

    def get_attribute(name: str) -> Any:
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        if name in things:
            return getattr(importlib.import_module(things[name]), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return get_attribute
