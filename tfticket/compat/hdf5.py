"""HDF5 files from strangers, opened only if they refer to no other file."""

import contextlib
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO

import h5py

from tfticket.common.files import DAMAGE

# The largest expansion of a byte by deflate, and the size that an array may claim
# without any.
_MOST_A_BYTE, _SMALL = 1032, 1 << 16
# How a heap of texts begins: its signature, version 1 and three bytes of zeros.
_HEAP = b"GCOL\x01\0\0\0"
_CHUNK = 1 << 20
# Texts and gaps in all heaps of a file; models have a few for each layer.
_MOST_TEXTS = 1_000_000


@contextlib.contextmanager
def open_h5(source: str | os.PathLike | BinaryIO, name: object) -> Iterator[h5py.File]:
    """Opens an HDF5 file for reading, unless something in it refers to another file.

    An HDF5 link may name any file on this machine, and so may the storage of an array:
    a program that reads "a kernel" would then read that file.

    Args:
        source: The file's path, or a file object.
        name: Name of the file in error messages.

    Raises:
        ValueError: If the file is damaged, if it contains a link to another place, or
            if the values of an array are stored elsewhere or nowhere. The message names
            the first.

    Example:

    >>> from tfticket.compat.hdf5 import open_h5
    >>> import h5py
    >>> with h5py.File(folder / "a.h5", "w") as file:
    ...     file["kernel"] = [1.0, 2.0]
    >>> with open_h5(folder / "a.h5", "a.h5") as file:
    ...     file["kernel"][:].tolist()
    [1.0, 2.0]
    """
    try:
        with _as_file(source) as content:
            _require_sound_heaps(content, name)
        with h5py.File(source, "r") as file:
            _require_own(file, "", name)
            yield file
    except DAMAGE as error:
        if str(name) in str(error):
            raise
        raise ValueError(
            f"'{name}' is damaged, or not an HDF5 file: {type(error).__name__}: {error}"
        ) from error


def _as_file(source):
    if isinstance(source, (str, os.PathLike)):
        return open(source, "rb")
    return contextlib.nullcontext(source)


def _require_sound_heaps(file: BinaryIO, name: object) -> None:
    """Refuses a heap in which HDF5 1.14 would look for a text without end.

    That is one with an entry of no length, or of one that leads out of the heap.
    """
    size, left = file.seek(0, os.SEEK_END), _MOST_TEXTS
    for heap in _heaps(file):
        file.seek(heap + len(_HEAP))
        end = heap + struct.unpack("<Q", file.read(8).ljust(8, b"\0"))[0]
        place = heap + 16
        while place + 16 <= min(end, size):
            file.seek(place)
            number, length = struct.unpack("<H6xQ", file.read(16))
            # A gap, number 0, counts its head; a text doesn't, and ends at eight bytes.
            length = length if number == 0 else 16 + -(-length // 8) * 8
            place, left = place + length, left - 1
            if length < 16 or place > end or not left:
                raise ValueError(
                    f"'{name}': the texts of its heap at byte {heap} are damaged."
                )
    file.seek(0)


def _heaps(file):
    """Places of the heaps of an HDF5 file."""
    found, before, end = [], b"", 0
    file.seek(0)
    while chunk := file.read(_CHUNK):
        block, start = before + chunk, end - len(before)
        place = block.find(_HEAP)
        while place >= 0:
            found.append(start + place)
            place = block.find(_HEAP, place + 1)
        end += len(chunk)
        before = block[1 - len(_HEAP) :]
    return found


def _require_own(group: h5py.Group, path: str, name: object) -> None:
    _require_plain_attributes(group, path, name)
    # Hard links can form a circle, which ends at the greatest depth.
    for key in group:
        inner = f"{path}/{key}"
        link = group.get(key, getlink=True)
        if not isinstance(link, h5py.HardLink):
            raise ValueError(
                f"'{name}': '{inner}' is a link to another place "
                f"({type(link).__name__}), which is not followed. Write the arrays "
                "themselves to the file."
            )
        value = group[key]
        if isinstance(value, h5py.Group):
            if path.count("/") > 100:
                raise ValueError(f"'{name}': groups are nested deeper than 100.")
            _require_own(value, inner, name)
        elif isinstance(value, h5py.Dataset) and (value.external or value.is_virtual):
            raise ValueError(
                f"'{name}': the values of '{inner}' are stored in another file, which "
                "is not read. Write the arrays themselves to the file."
            )
        elif isinstance(value, h5py.Dataset):
            _require_plain_attributes(value, inner, name)
            _require_plain(value.dtype, inner, name)
            # HDF5 fills up what was never written, whatever shape a few bytes claim.
            stored = value.id.get_storage_size() * _MOST_A_BYTE
            if value.nbytes > max(stored, _SMALL):
                raise ValueError(
                    f"'{name}': '{inner}' claims {value.nbytes} bytes, and the file "
                    "holds fewer."
                )


def _require_plain_attributes(value, path, name):
    for key in value.attrs:
        _require_plain(value.attrs.get_id(key).dtype, f"{path}/{key}", name)


def _require_plain(dtype, path, name):
    # Lists of other things than letters are read into memory that HDF5 takes for
    # something else, and the process ends.
    plain = dtype.base.kind in "biufSV" and dtype.base.names is None
    if not plain and h5py.check_string_dtype(dtype) is None:
        raise ValueError(f"'{name}': '{path}' holds neither numbers nor texts.")
