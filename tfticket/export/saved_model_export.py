"""Writes a SavedModel in the folder layout of TensorFlow Serving."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any, Literal

import keras
import tensorflow as tf

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_integer,
    check_list,
    check_number,
    check_path,
    optional,
    shown,
)
from tfticket.common.files import (
    disk_errors,
    put_folder,
    recover_folders,
    temporary_folder,
)
from tfticket.export.checking.compare import Rule
from tfticket.export.checking.exported import Exported, ExportError, size_of
from tfticket.export.manifest import write_manifest
from tfticket.export.served import check
from tfticket.export.served.function import SIGNATURE, Serving, prepare
from tfticket.export.served.samples import samples_for
from tfticket.export.served.signatures import with_classes, with_image_input
from tfticket.export.served.warmup import write_warmup
from tfticket.export.storage import formats


def saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    version: int | None = None,
    inputs: Any = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    deterministic: bool = True,
    *,
    format: Literal["dense", "encoded", "foldable", "csr", "auto"] = "dense",
    value_dtype: Literal["float32", "float16"] = "float32",
    labels: Sequence[str] | None = None,
    top_k: int | None = None,
    image: str | Callable | None = None,
    warmup: bool = True,
) -> Exported:
    """Exports a model as `path/version/`, checked in another process.

    The SavedModel has the signature `serving_default`, whose inputs are named like the
    model's `keras.Input`s, and loads with TensorFlow alone. The version folder appears
    whole or not at all, so a server may poll `path` meanwhile. If an export is killed,
    the next one restores or removes what it left next to `path`.

    The folder also holds `tfticket.json`: the size, density and operations of every
    weight, checksums, the result of the check, and how the export was made. TensorFlow
    Serving ignores it. `assets.extra/tf_serving_warmup_requests` has one request, the
    first sample of `inputs`, for each signature.

    Args:
        model: A built Keras model. A wrapped model is stripped first, and the result's
            `notes` say so.
        path: Folder of the model, one level above the version.
        version: Number of the version, 1 or more. `None` takes the next free one, even
            if several processes export at once.
        inputs: Samples to check the export on: an array, a list of them, or a
            dict by input name. `None` draws random ones: floats from a normal
            distribution, integers from the range of the `Embedding`. The result says
            what was compared.
        tolerance: Largest difference allowed between the outputs of the file
            and of the model, relative to the largest absolute value of the output.
            `None` means 1e-4. With float16 values it means 1e-2, which nine in ten
            samples have to meet, and nine in ten answers have to be the model's or
            nearly its best.
        overwrite: Whether a folder of this version may be replaced. On Linux and macOS
            the old and the new folder are exchanged in one step; elsewhere, and on file
            systems without that step, the version is missing for a moment.
        deterministic: Whether two calls of the file have to agree, within a process and
            between two. A layer that adds noise or keeps a state is refused unless this
            is False. Then `notes` say how far two calls are apart, and only the first
            is compared with the model.
        format: "dense" stores zeros as they are. "encoded" stores weights sparse and
            expands them once, at load: fewer bytes, and the dense latency.
            "foldable" is as small, and OpenVINO reads it, which reads neither "encoded"
            nor "csr": weights are constants that the runtime expands before the first
            call. TensorFlow does so up to 10 MB per weight; it would expand larger ones
            in every call, and `notes` and a warning say so. "csr" is encoded, and large
            Dense layers compute on their non-zero weights, which is faster on a CPU
            from about 95 % zeros. "auto" chooses one of the other three by a table of
            measurements, and `notes` say why.
        value_dtype: "float16" halves the values that "encoded" and "foldable" store of
            weights with two or more dimensions; `notes` say how large the rounding
            error is.
        labels: The names of the classes. They add the signature `classify`, which has
            the outputs `classes` (strings) and `scores` (the model's own output), both
            of shape (batch, `top_k`), with the best first.
        top_k: Number of classes that this signature names; `None` for all.
        image: Makes the input uint8 and preprocesses in the served function:
            "divide_255", "minus_1_to_1", or a function of TensorFlow or Keras
            operations that maps the uint8 batch to the model's input.
        warmup: Whether to write warm-up requests.

    Returns:
        `Exported`: path, size, largest difference from the model, and latency.

    Raises:
        FileExistsError: If that version exists and `overwrite` is False.
        OSError: If the disk can't be written. The error names the folder; an older
            version stays, and nothing else is left behind.
        ExportError: If the outputs of the written file differ from the model's, or it
            needs code that a server does not have. No file is left behind.
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not built or has NaN weights, if an argument does
            not fit it, or if the constants of "foldable" are too large for a graph.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,), name="x"), keras.layers.Dense(2, name="logits")]
    ... )
    >>> exported = tfticket.export.saved_model(
    ...     model, folder / "model", labels=["no", "yes"]
    ... )
    >>> exported.path.name, exported.agreement
    ('1', 1.0)
    """
    _check_arguments(format, value_dtype, labels, top_k, tolerance)
    check_bool("overwrite", overwrite)
    check_bool("warmup", warmup)
    check_bool("deterministic", deterministic)
    path = check_path("path", path)
    version = optional(check_integer, "version", version, 1)
    optional(check_list, "labels", labels, "a list of names")
    if image is not None and not (isinstance(image, str) or callable(image)):
        raise TypeError(
            f"image must be a name or a function. Received: image={shown(image)}"
        )
    recover_folders(path.parent)
    target = _target(path, version, overwrite)
    prepared = prepare(model)
    if image is not None:
        prepared = with_image_input(prepared, image)
    samples = samples_for(inputs, prepared)
    ready, chosen = formats.ready(prepared, format, value_dtype)
    if labels is not None:
        ready = with_classes(ready, labels, top_k)
    if tolerance is None:
        tolerance = 1e-2 if value_dtype == "float16" else 1e-4
    rule = Rule(tolerance, value_dtype == "float16", deterministic)
    with disk_errors(target), temporary_folder(path.parent) as folder:
        written = folder / "new"
        write(ready, written)
        if warmup:
            first = {name: value[:1] for name, value in samples.arrays.items()}
            write_warmup(written, path.name, [SIGNATURE, *ready.others], first)
        exported = check.check(written, target, ready, samples, rule)
        exported = dataclasses.replace(exported, format=chosen.format)
        made = {
            "format": chosen.format,
            "value_dtype": value_dtype,
            "weight_bytes": chosen.nbytes,
            "rounding": chosen.rounding,
            "signatures": [SIGNATURE, *ready.others],
            "tolerance": tolerance,
        }
        write_manifest(written, prepared.model, exported, made)
        exported = dataclasses.replace(exported, size=size_of(written))
        target = _put(written, path, target, version, overwrite)
    return dataclasses.replace(exported, path=target)


def _check_arguments(format, value_dtype, labels, top_k, tolerance):
    check_choice("format", format, formats.FORMATS)
    check_choice("value_dtype", value_dtype, ("float32", "float16"))
    if value_dtype == "float16" and format not in (*("encoded", "foldable", "auto"),):
        raise ValueError(
            "value_dtype='float16' is for format='encoded' or 'foldable'. Received: "
            f"format={format!r}"
        )
    if top_k is not None:
        check_integer("top_k", top_k, 1)
        if labels is None:
            raise ValueError(f"top_k={top_k} needs labels=, the names of the classes.")
    if tolerance is not None:
        check_number("tolerance", tolerance, 0)


def write(ready: Serving, folder: pathlib.Path) -> None:
    """Writes the SavedModel without a check.

    Raises:
        ExportError: If the function calls Python, which a server does not have.
    """
    python = {
        op.type
        for op in ready.function.graph.get_operations()
        if op.type in ("PyFunc", "PyFuncStateless", "EagerPyFunc")
    }
    if python:
        raise ExportError(
            f"The model calls Python through {sorted(python)[0]} (tf.py_function or "
            "tf.numpy_function), which a server can't run. Write that layer with "
            "keras.ops or TensorFlow operations."
        )
    tf.saved_model.save(
        ready.module,
        str(folder),
        signatures={SIGNATURE: ready.function, **ready.others},
    )


def _target(path, version, overwrite):
    if version is None:
        return _next(path)
    target = path / str(check_integer("version", version, 1))
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists. Pass overwrite=True to replace it, or version=None to "
            "write the next version."
        )
    return target


def _next(path):
    taken = [int(p.name) for p in path.glob("*") if p.name.isdecimal()]
    return path / str(max(taken, default=0) + 1)


def _put(written, path, target, version, overwrite):
    """Moves the folder to its place, which another process may have taken meanwhile."""
    while True:
        try:
            put_folder(written, target, overwrite and version is not None)
        except FileExistsError:
            if version is not None or not target.exists():
                raise
            target = _next(path)
        else:
            return target
