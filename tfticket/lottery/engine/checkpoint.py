"""`Checkpoint`: where a training that is cut off goes on."""

import json
import os
import pathlib
import time
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfticket.common.arrays import open_arrays
from tfticket.common.files import DAMAGE, atomic_path


class Checkpoint:
    """One file with the state of a training, whole or not there.

    Args:
        path: The file.
        key: What the training is of; a file of another one counts for nothing.
        seconds: Least time from one save to the next; `None` never saves.

    Example:

    >>> checkpoint = Checkpoint(folder / "checkpoint.npz", key="a", seconds=60)
    >>> checkpoint.save({"best": 1}, {"x": np.ones(2)})
    >>> checkpoint.load()
    ({'best': 1}, {'x': array([1., 1.])})
    """

    def __init__(self, path: str | os.PathLike, key: str, seconds: float | None):
        self._path, self._key, self._seconds = pathlib.Path(path), key, seconds

    def is_due(self, saved: float) -> bool:
        """Whether it is time to save, the last having been at `time.monotonic()`."""
        return self._seconds is not None and time.monotonic() - saved >= self._seconds

    def save(self, header: Any, arrays: Mapping[str, Any]) -> None:
        """Replaces what was saved."""
        text = json.dumps({"key": self._key, "header": header, "arrays": list(arrays)})
        with atomic_path(self._path) as temporary, open(temporary, "wb") as file:
            np.savez(file, header=np.frombuffer(text.encode(), np.uint8), **arrays)

    def load(self) -> tuple[Any, dict[str, np.ndarray]] | None:
        """The header and the arrays; `None` if there are none to go on from.

        Zips carry a checksum of every array, so a damaged one is noticed; a warning
        names it, and the training begins again.
        """
        try:
            with open_arrays(self._path) as file:
                text = json.loads(file.read("header", np.uint8).tobytes())
                if text["key"] != self._key:
                    return None
                names = text.get("arrays", file.names)
                arrays = {name: file.read(name) for name in names if name != "header"}
                return text["header"], arrays
        except FileNotFoundError:
            return None
        except DAMAGE as error:
            warnings.warn(
                f"'{self._path}' is damaged and not used; the training it was of "
                f"begins again. {error}",
                stacklevel=2,
            )
            return None

    def remove(self) -> None:
        """Takes the file away, if it is there."""
        self._path.unlink(missing_ok=True)
