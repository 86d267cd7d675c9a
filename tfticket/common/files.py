"""Files that are either whole or not there."""

import contextlib
import csv
import json
import os
import pathlib
import re
import stat
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

# What NumPy, zipfile, zlib and JSON's data raise for bytes that are not what was
# written.
DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


@contextlib.contextmanager
def atomic_path(path: str | os.PathLike) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, renamed to it if the block succeeds.

    On an error nothing is left behind and an older file at `path` stays.

    Args:
        path: Where the file is to be. Missing folders are made.
    """
    path = pathlib.Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(
        dir=path.parent, prefix=f".{path.name}.", suffix=f".tmp{path.suffix}"
    )
    os.close(handle)
    temporary = pathlib.Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a regular file to read its bytes; a pipe would wait for somebody to write.

    Args:
        path: The file, or a link to one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else: a folder, a pipe, a device.

    Example:

    >>> (folder / "a.txt").write_text("hello")
    5
    >>> with tfticket.common.files.open_regular(folder / "a.txt") as file:
    ...     file.read()
    b'hello'
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"'{path}' is not a regular file.")
    return open(path, "rb")


def is_leftover(path: pathlib.Path) -> bool:
    """Whether a name is one that `atomic_path` writes under; a killed write leaves it.

    Example:

    >>> is_leftover(pathlib.Path("run/.config.json.a1b2c3_4.tmp.json"))
    True
    """
    return re.fullmatch(r"\..+\.[a-z0-9_]{8}\.tmp(\..*)?", path.name) is not None


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file, whole or not at all.

    Args:
        path: Where the file is to be. Missing folders are made.
        value: What `json.dumps` takes.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def write_csv(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Writes rows to a CSV file, whole or not at all; numbers keep all their digits.

    Args:
        rows: Rows, which need not have the same keys. `None` is an empty field.
        path: The file to write.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
