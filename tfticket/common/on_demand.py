"""Modules and names of a package that are imported when they are first used."""

import importlib
import types
from collections.abc import Callable
from typing import Any

# What to install where one of these is missing. Training on another backend of Keras
# than TensorFlow, on data of one's own, needs none of them.
_INSTALL = {
    "PIL": "pillow",
    "matplotlib": "matplotlib",
    "tensorflow": "tensorflow",
    "tensorflow_datasets": "'tfticket[datasets]'",
}


def on_demand(package: str, *names: str, **things: str) -> Callable[[str], Any]:
    """A `__getattr__` for a package, which imports these when asked.

    Use it for modules that need TensorFlow or matplotlib, which the package by itself
    does not: `__getattr__ = on_demand(__name__, "pictures")` in its `__init__`.

    Args:
        package: Name of the package.
        names: Names of its modules.
        things: Name of what a module defines to that module's whole name.
    """

    def get_attribute(name: str) -> Any:
        if name in names:
            return need(f"{package}.{name}", f"{package}.{name}")
        if name in things:
            return getattr(need(f"{package}.{name}", things[name]), name)
        raise AttributeError(f"module '{package}' has no attribute '{name}'")

    return get_attribute


def need(who: str, module: str) -> types.ModuleType:
    """Imports a library that an installation may lack.

    Args:
        who: What needs it, for the error.
        module: Name of the library's module.

    Raises:
        ModuleNotFoundError: If it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in _INSTALL or "pip install" in str(error):
            raise
        raise ModuleNotFoundError(
            f"{who} needs {missing}, which is not installed. Install it with: "
            f"pip install {_INSTALL[missing]}",
            name=error.name,
        ) from error
