"""Modules of a package that are imported when they are first used."""

import importlib
from collections.abc import Callable
from types import ModuleType


def on_demand(package: str, *names: str) -> Callable[[str], ModuleType]:
    """A `__getattr__` for a package, which imports these of its modules when asked.

    For modules that need TensorFlow or matplotlib, which the package by itself does
    not: `__getattr__ = on_demand(__name__, "pictures")` in its `__init__`.

    Args:
        package: Name of the package.
        names: Names of its modules.
    """

    def get_attribute(name: str) -> ModuleType:
        if name in names:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return get_attribute
