"""Checksums of files and data, and JSON files that hold their own."""

import hashlib
import json
import os
from collections.abc import Mapping
from typing import Any

from tfticket.common.files import open_regular, write_json


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    found = hashlib.sha256()
    with open_regular(path) as file:
        while piece := file.read(1 << 20):
            found.update(piece)
    return found.hexdigest()


def digest(values: Any) -> str:
    """SHA-256 of JSON-ready data, as hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def derived_seed(*words: Any) -> int:
    """A seed that depends on all of these, below 2**32."""
    return int(digest([str(word) for word in words])[:8], 16)


def write_checked(path: str | os.PathLike, values: Mapping[str, Any]) -> None:
    """Writes a JSON file with a checksum of what it holds.

    Args:
        path: The file.
        values: JSON-ready, without "sha256".

    Example:

    >>> from tfticket.common import checksums
    >>> checksums.write_checked(folder / "values.json", {"a": 1})
    >>> checksums.read_checked(folder / "values.json")
    {'a': 1}
    """
    write_json(path, {**values, "sha256": digest(values)})


def read_checked(path: str | os.PathLike) -> dict[str, Any]:
    """What `write_checked` was given.

    Args:
        path: The file.

    Raises:
        OSError: If there is none.
        ValueError: If it holds other values than when it was written.
    """
    held = read_json(path)
    if not is_sound(held):
        name = os.path.basename(path)
        raise ValueError(f"'{name}' has another checksum than when it was written")
    return {name: value for name, value in held.items() if name != "sha256"}


def is_sound(held: Mapping[str, Any]) -> bool:
    """Whether what `read_json` found has the checksum that `write_checked` gave it."""
    values = {name: value for name, value in held.items() if name != "sha256"}
    return held.get("sha256") == digest(values)


def read_json(path: str | os.PathLike) -> dict[str, Any]:
    """The dictionary that a JSON file holds, its checksum not looked at.

    Args:
        path: The file.

    Raises:
        OSError: If there is none.
        ValueError: If it is no regular file, or holds something else.
    """
    with open_regular(path) as file:
        held = json.loads(file.read().decode())
    if not isinstance(held, dict):
        raise ValueError(f"'{os.path.basename(path)}' holds no dictionary")
    return held
