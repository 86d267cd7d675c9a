"""NumPy's `.npz` files, read with nothing taken on trust."""

import contextlib
import math
import os
import re
import struct
import zipfile
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from tfticket.common.files import open_regular

# What NumPy writes before a plain array; objects and records are not among them.
_HEADER = re.compile(
    r"\{'descr': '([<>|=][biufcSUV]\d+)', 'fortran_order': (True|False), "
    r"'shape': \(((?:\d+, )*\d*,?)\), \} *\n"
)
_LENGTHS = {b"\x93NUMPY\x01\x00": "<H", b"\x93NUMPY\x02\x00": "<I"}
_LONGEST_HEADER = 10_000
# The most that deflate makes of a byte: a match of 258 bytes takes two bits.
_MOST_A_BYTE = {zipfile.ZIP_STORED: 1, zipfile.ZIP_DEFLATED: 1032}
_CHUNK = 1 << 20


class ArrayFile:
    """The arrays of an open `.npz`; each is read, and checked, when it is asked for.

    NumPy's own reader takes the last of two members of one name, lets a changed header
    give the bytes another type, which the checksum then never sees, and reserves
    whatever size a header claims.

    Args:
        members: The open zip.
        size: Size of the file, in bytes.

    Raises:
        ValueError: If a name is there twice, or members claim more than the file.
    """

    def __init__(self, members: zipfile.ZipFile, size: int):
        self._zip = members
        self._members: dict[str, zipfile.ZipInfo] = {}
        for info in members.infolist():
            name = info.filename.removesuffix(".npy")
            if name in self._members:
                raise ValueError(f"array '{name}' is in it twice")
            self._members[name] = info
        if sum(info.compress_size for info in self._members.values()) > size:
            raise ValueError("its members claim more bytes than it has")

    @property
    def names(self) -> list[str]:
        """Of the arrays, in the file's order."""
        return list(self._members)

    def read(
        self, name: str, dtype: Any = None, shape: Sequence[int] | None = None
    ) -> np.ndarray:
        """An array, all of its bytes checked against the zip's checksum.

        Args:
            name: Name of the array.
            dtype: What it has to be; `None` takes any but objects and records.
            shape: What it has to be; `None` takes any.

        Raises:
            ValueError: If it is missing, other than asked for, or can't be of the size
                that it claims; before memory is taken.
            zipfile.BadZipFile: If its checksum is another.
        """
        if name not in self._members:
            raise ValueError(f"array '{name}' is missing")
        info = self._members[name]
        most = info.compress_size * _MOST_A_BYTE.get(info.compress_type, 0)
        if info.file_size > most:
            raise ValueError(f"array '{name}' claims more than its bytes can hold")
        with self._zip.open(info) as stream:
            held, fortran, found, length = _read_header(stream, name)
            if dtype is not None and held != np.dtype(dtype):
                raise ValueError(
                    f"array '{name}' is {held}, and {np.dtype(dtype)} was to be there"
                )
            if shape is not None and found != tuple(shape):
                raise ValueError(
                    f"array '{name}' has shape {found}, and {tuple(shape)} was to be "
                    "there"
                )
            count = math.prod(found)
            if length + count * held.itemsize != info.file_size:
                raise ValueError(f"array '{name}' is not as large as it says")
            value = np.empty(count, held)
            _fill(value.view(np.uint8), stream, name)
        return value.reshape(found[::-1]).T if fortran else value.reshape(found)


@contextlib.contextmanager
def open_arrays(path: str | os.PathLike) -> Iterator[ArrayFile]:
    """Opens an `.npz`, reading its table of contents alone.

    Args:
        path: The file, a regular one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is not a regular file, or its table can't be right. What else
            zipfile raises is in `tfticket.common.files.DAMAGE`.

    Example:

    >>> np.savez(folder / "arrays.npz", a=np.ones(2), b=np.zeros(3))
    >>> with tfticket.common.arrays.open_arrays(folder / "arrays.npz") as file:
    ...     file.names, file.read("a", np.float64, [2])
    (['a', 'b'], array([1., 1.]))
    """
    with open_regular(path) as file, zipfile.ZipFile(file) as members:
        yield ArrayFile(members, os.fstat(file.fileno()).st_size)


def _read_header(stream, name):
    """Type, whether in Fortran's order, shape, and how many bytes the header has."""
    magic = _exactly(stream, 8, name)
    if magic not in _LENGTHS:
        raise ValueError(f"'{name}' is no array")
    size = _exactly(stream, struct.calcsize(_LENGTHS[magic]), name)
    (length,) = struct.unpack(_LENGTHS[magic], size)
    if length > _LONGEST_HEADER:
        raise ValueError(f"the header of array '{name}' has {length} bytes")
    text = _exactly(stream, length, name).decode("latin-1")
    # Not evaluated as Python, where a changed byte raises or warns of many things.
    found = _HEADER.fullmatch(text)
    if found is None:
        raise ValueError(f"array '{name}' is not plain numbers, or is damaged")
    try:
        dtype = np.dtype(found[1])
    except (TypeError, ValueError, OverflowError) as error:
        raise ValueError(f"array '{name}' is of no known type: {error}") from error
    if not dtype.itemsize:
        raise ValueError(f"array '{name}' has values of no bytes")
    shape = tuple(int(n) for n in found[3].replace(",", " ").split())
    return dtype, found[2] == "True", shape, len(magic) + len(size) + length


def _exactly(stream, count, name):
    found = stream.read(count)
    if len(found) < count:
        raise ValueError(f"array '{name}' ends in its header")
    return found


def _fill(values, stream, name):
    # To the last byte, since zipfile compares the checksum only then.
    done = 0
    while done < len(values):
        piece = stream.read(min(_CHUNK, len(values) - done))
        if not piece:
            raise ValueError(f"array '{name}' ends too early")
        values[done : done + len(piece)] = np.frombuffer(piece, np.uint8)
        done += len(piece)
