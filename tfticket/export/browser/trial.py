"""What a page has to run: the files, the samples and the repeats."""

import dataclasses
import math
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from tfticket.common.arguments import (
    check_array,
    check_integer,
    check_list,
    check_path,
    shown,
)
from tfticket.export.tflite.reader import Shape, Signature, signature

# The dtypes that LiteRT.js has tensors of.
_DTYPES = ("float32", "int32", "uint8")

# Seed of the samples that are drawn.
_SEED, _SAMPLES = 0, 8
# Largest number of values of one input or output.
_LARGEST = 1 << 24


@dataclasses.dataclass(frozen=True)
class Trial:
    """Files of one network, and the samples to run them on.

    Args:
        names: Names of the files; the first one is the reference.
        contents: The bytes of each file.
        signature: Inputs and outputs of the first file.
        inputs: Arrays by the name of the input, samples along the first axis.
        repeats: Number of timed calls per file.
        renamed: Maps, for each file, its names of inputs and outputs to those of the
            first.
    """

    names: tuple[str, ...]
    contents: tuple[bytes, ...]
    signature: Signature
    inputs: dict[str, np.ndarray]
    repeats: int
    renamed: tuple[dict[str, str], ...]

    @property
    def batch(self) -> int:
        """Number of samples per call, which the files fix."""
        return next(iter(self.signature.inputs.values())).shape[0]

    @property
    def calls(self) -> int:
        """Number of calls that all samples need."""
        return len(next(iter(self.inputs.values()))) // self.batch

    @property
    def output_bytes(self) -> int:
        """Bytes of all outputs of one file."""
        sizes = (
            math.prod(shape) * np.dtype(dtype).itemsize
            for shape, dtype in self.signature.outputs.values()
        )
        return self.calls * sum(sizes)

    def plan(self, version: str, post: str | None) -> dict[str, Any]:
        """What the page reads; paths are relative to the page.

        Args:
            version: Version of LiteRT.js.
            post: Where the page posts its results; `None` for a page that only shows
                them.
        """
        return {
            "litertjs": version,
            "post": post,
            "repeats": self.repeats,
            "calls": self.calls,
            "files": [
                {
                    "name": name,
                    "url": f"files/{i}.tflite",
                    "bytes": len(content),
                    "names": renamed,
                }
                for i, (name, content, renamed) in enumerate(
                    zip(self.names, self.contents, self.renamed, strict=True)
                )
            ],
            "inputs": [
                {
                    "name": name,
                    "url": f"inputs/{i}.bin",
                    "dtype": of.dtype,
                    "shape": of.shape,
                }
                for i, (name, of) in enumerate(self.signature.inputs.items())
            ],
            "outputs": [
                {"name": name, "dtype": of.dtype, "shape": of.shape}
                for name, of in self.signature.outputs.items()
            ],
        }

    def served(self) -> dict[str, bytes]:
        """The bytes behind the paths of the plan."""
        found = {
            f"files/{i}.tflite": content for i, content in enumerate(self.contents)
        }
        for i, name in enumerate(self.signature.inputs):
            found[f"inputs/{i}.bin"] = little_endian(self.inputs[name])
        return found


def little_endian(array: np.ndarray) -> bytes:
    """The bytes of an array in the order that JavaScript's typed arrays have."""
    return array.astype(array.dtype.newbyteorder("<")).tobytes()


def prepare(
    files: Sequence[str | os.PathLike] | Mapping[str, str | os.PathLike],
    inputs: Any = None,
    repeats: int = 20,
) -> Trial:
    """Reads and checks files, and checks or draws samples.

    Args:
        files: Paths of `.tflite` files, or a mapping of names to them.
        inputs: An array, or a dict of arrays by the name of the input, with samples
            along the first axis. `None` draws eight with a fixed seed.
        repeats: Number of timed calls per file, 1 or more.

    Raises:
        FileNotFoundError: If a file is not there.
        TypeError: If an argument has the wrong type.
        ValueError: If a file leaves its batch open, if inputs or outputs of files
            differ, or if the given inputs don't fit.
    """
    check_integer("repeats", repeats, 1)
    if isinstance(files, str | os.PathLike):
        files = [files]
    if isinstance(files, Mapping):
        paths = list(files.values())
    else:
        paths = check_list(
            "files", files, "a list of paths, or a dict of names to them"
        )
    for path in paths:
        check_path("files", path)
    named = dict(files) if isinstance(files, Mapping) else _named(paths)
    if not named:
        raise ValueError(f"files must name one .tflite file or more. Received: {files}")
    contents = {name: _content(pathlib.Path(path)) for name, path in named.items()}
    found = {name: _signature(named[name], x) for name, x in contents.items()}
    first = next(iter(found.values()))
    renamed = tuple(
        _matched(name, found[name], next(iter(found)), first) for name in found
    )
    return Trial(
        tuple(named),
        tuple(contents.values()),
        first,
        _samples(inputs, first.inputs),
        repeats,
        renamed,
    )


def _named(files):
    """Paths by the shortest names that tell them apart."""
    paths = [pathlib.Path(path) for path in files]
    stems = [path.stem for path in paths]
    if len(set(stems)) == len(stems):
        return dict(zip(stems, paths, strict=True))
    named = {str(path): path for path in paths}
    if len(named) < len(paths):
        raise ValueError(
            f"files names a file twice: {[str(path) for path in paths]}. Pass a "
            "mapping of names to paths to do so."
        )
    return named


def _content(path):
    if not path.is_file():
        raise FileNotFoundError(f"{path} is not there. files= takes .tflite files.")
    return path.read_bytes()


def _signature(path, content):
    try:
        found = signature(content)
    except ValueError as error:
        raise ValueError(f"files: {path} can't be run in a browser. {error}") from error
    for kind, entries in zip(("input", "output"), found, strict=True):
        for name, of in entries.items():
            if min(of.shape, default=1) < 1:
                raise ValueError(
                    f"{path} leaves an axis of its {kind} '{name}' open, {of.shape}, "
                    "and LiteRT.js takes fixed shapes only. Build the model with "
                    "keras.Input(shape, batch_size=1), copy the weights, and export "
                    "that."
                )
            if math.prod(of.shape) > _LARGEST:
                raise ValueError(
                    f"{path} claims {of.shape} as its {kind} '{name}', which is more "
                    f"than a browser gets: {_LARGEST} values."
                )
            if of.dtype not in _DTYPES:
                raise ValueError(
                    f"{path} has {of.dtype} as its {kind} '{name}'. LiteRT.js takes "
                    f"{', '.join(_DTYPES)}."
                )
    batches = {of.shape[0] if of.shape else 0 for of in found.inputs.values()}
    if len(batches) != 1 or 0 in batches:
        raise ValueError(
            f"The inputs of {path} must have the same batch as their first axis. "
            f"Received: {_shown(found.inputs)}"
        )
    return found


def _matched(name, own, first_name, first):
    """Maps a file's own names to those of the first file."""
    pairs: dict[str, str] = {}
    for mine, wanted in zip(own, first, strict=True):
        if set(mine) == set(wanted):
            found = {key: key for key in mine}
        elif len(mine) == len(wanted) == 1:
            found = dict(zip(mine, wanted, strict=True))
        else:
            found = {}
        if not found or any(mine[x] != wanted[y] for x, y in found.items()):
            raise ValueError(
                f"Files must have the same inputs and outputs. '{first_name}' has "
                f"{_shown(wanted)}, '{name}' has {_shown(mine)}."
            )
        pairs.update(found)
    return pairs


def _shown(entries):
    return {name: f"{of.dtype} {of.shape}" for name, of in entries.items()}


def _samples(inputs: Any, wanted: Mapping[str, Shape]) -> dict[str, np.ndarray]:
    batch = next(iter(wanted.values())).shape[0]
    if inputs is None:
        random = np.random.default_rng(_SEED)
        count = _SAMPLES * batch
        return {
            name: _made_up(random, (count, *of.shape[1:]), of.dtype)
            for name, of in wanted.items()
        }
    if not isinstance(inputs, Mapping):
        if len(wanted) != 1:
            raise ValueError(
                f"inputs must be a dict by name: the files take {list(wanted)}."
            )
        inputs = dict.fromkeys(wanted, inputs)
    if set(inputs) != set(wanted):
        raise ValueError(
            f"inputs must have the names {list(wanted)}. Received: "
            f"inputs={shown(inputs)}"
        )
    found = {name: check_array("inputs", inputs[name]) for name in wanted}
    counts = {len(value) if value.ndim else 0 for value in found.values()}
    for name, value in found.items():
        of = wanted[name]
        axes = ", ".join(map(str, of.shape[1:]))
        fits = value.ndim and value.shape[1:] == of.shape[1:]
        if not fits or not len(value) or len(value) % batch or len(counts) > 1:
            raise ValueError(
                f"inputs['{name}'] must be (samples, {axes}), as many of each input, a "
                f"multiple of the batch of {batch}. "
                f"Received: shape {value.shape}, inputs={shown(inputs)}"
            )
        if not np.can_cast(value.dtype, of.dtype, "same_kind"):
            raise TypeError(
                f"inputs['{name}'] must be {of.dtype}. Received: {value.dtype}"
            )
        found[name] = value.astype(of.dtype)
    return found


def _made_up(random, shape, dtype):
    if dtype == "float32":
        return random.standard_normal(shape).astype(dtype)
    return random.integers(0, 2 if dtype == "int32" else 256, shape).astype(dtype)
