"""The page of `benchmarks/one_shot.py`."""

import pathlib


def write(results: pathlib.Path) -> None:
    """Writes the page."""
