"""A ticket's file: what `Ticket.save` writes and `Ticket.load` takes."""

import json
import math
import os
import zipfile
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfticket.common.arguments import check_path
from tfticket.common.arrays import ArrayFile, open_arrays
from tfticket.common.files import DAMAGE, atomic_path

_FORMAT = 1
# zlib's level. NumPy's, 6, takes two to three times as long and saves a tenth of the
# bytes.
_LEVEL = 4


def write_ticket(
    path: str | os.PathLike,
    masks: Mapping[str, np.ndarray],
    weights: Mapping[str, np.ndarray],
    provenance: Mapping[str, Any],
) -> None:
    """Writes a ticket, whole or not at all: masks as bits, weights as they are.

    Args:
        path: The file.
        masks: Name to boolean array.
        weights: Name to array.
        provenance: JSON-ready.
    """
    header = {
        "format": _FORMAT,
        "provenance": provenance,
        "shapes": {name: mask.shape for name, mask in masks.items()},
        "dtypes": {name: str(value.dtype) for name, value in weights.items()},
        "weight_shapes": {name: value.shape for name, value in weights.items()},
    }
    arrays: dict[str, Any] = {
        "header": np.frombuffer(json.dumps(header).encode(), np.uint8),
        **{f"mask:{name}": np.packbits(mask) for name, mask in masks.items()},
        **{f"weight:{name}": _storable(value) for name, value in weights.items()},
    }
    check_path("path", path)
    with (
        atomic_path(path) as temporary,
        zipfile.ZipFile(
            temporary, "w", zipfile.ZIP_DEFLATED, compresslevel=_LEVEL
        ) as archive,
    ):
        for name, value in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, value, allow_pickle=False)


def read_ticket(
    path: str | os.PathLike,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], dict[str, Any]]:
    """Masks, weights and provenance that `write_ticket` wrote.

    The header says what is read, and of what type and shape it has to be; other
    members of the file are left alone.

    Args:
        path: The file.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If the file is damaged or is not a ticket; names it.
    """
    path = check_path("path", path)
    try:
        with open_arrays(path) as file:
            header = _header(file)
            masks = {
                name: _mask(file, name, shape)
                for name, shape in header["shapes"].items()
            }
            weights = {
                name: _weight(file, name, dtype, _shape_of(header, name))
                for name, dtype in header["dtypes"].items()
            }
    except FileNotFoundError:
        raise
    except DAMAGE as error:
        raise ValueError(
            f"'{path}' is damaged or is not a ticket written by Ticket.save: {error}"
        ) from error
    return masks, weights, header["provenance"]


def _header(file):
    header = json.loads(file.read("header", np.uint8).tobytes())
    if header["format"] != _FORMAT:
        raise ValueError(f"format {header['format']}, expected {_FORMAT}")
    for name in ("provenance", "shapes", "dtypes"):
        if not isinstance(header[name], dict):
            raise ValueError(f"'{name}' of its header is no dictionary")
    # Tickets of before say nothing of the shapes of weights without a mask.
    shapes = header.setdefault("weight_shapes", None)
    if shapes is not None and list(shapes) != list(header["dtypes"]):
        raise ValueError("its header gives shapes of other weights than types")
    return header


def _shape_of(header, name):
    shapes = header["shapes"] if header["weight_shapes"] is None else None
    if shapes is not None:
        return _checked(shapes[name], name) if name in shapes else None
    shape = _checked(header["weight_shapes"][name], name)
    if shape != _checked(header["shapes"].get(name, shape), name):
        raise ValueError(f"'{name}' and its mask have different shapes in its header")
    return shape


def _checked(shape, name):
    if not all(type(n) is int and n >= 0 for n in shape):
        raise ValueError(f"'{name}' has no shape in its header but {shape}")
    return tuple(shape)


def _mask(file: ArrayFile, name: str, shape: Any) -> np.ndarray:
    shape = _checked(shape, name)
    count = math.prod(shape)
    # Fewer bytes would be filled up with zeros, so it must be exactly these, and they
    # are compared with what the file can hold before eight times as many are taken.
    bits = file.read(f"mask:{name}", np.uint8, [-(-count // 8)])
    return np.unpackbits(bits, count=count).view(bool).reshape(shape)


def _weight(
    file: ArrayFile, name: str, dtype: str, shape: tuple[int, ...] | None
) -> np.ndarray:
    wanted = np.dtype(dtype)
    if wanted.hasobject or wanted.names or wanted.subdtype:
        raise ValueError(f"weight '{name}' is no numbers but {dtype}")
    stored = np.uint16 if wanted.name == "bfloat16" else np.dtype(wanted.str)
    return file.read(f"weight:{name}", stored, shape).view(wanted)


def _storable(value: np.ndarray) -> np.ndarray:
    # NumPy's format knows no bfloat16: keep its bits.
    return value.view(np.uint16) if value.dtype.name == "bfloat16" else value
