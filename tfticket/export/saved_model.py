"""Writes a SavedModel in the folder layout of TensorFlow Serving."""

import os
import pathlib
import tempfile
from typing import Any

import keras
import tensorflow as tf

from tfticket.export import parity
from tfticket.export.serving import SIGNATURE, Serving, named_inputs, serving


def saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    version: int | None = None,
    inputs: Any = None,
    tolerance: float = 1e-4,
    overwrite: bool = False,
) -> parity.Exported:
    """Exports a model as `path/version/`, checked in another process.

    The SavedModel has one signature, `serving_default`, with inputs named as
    the model's `keras.Input`s, and loads with TensorFlow alone. The version
    folder appears whole or not at all, so a server may poll `path` meanwhile.

    Args:
        model: A built Keras model. A wrapped one is stripped first; pruned
            weights are stored as zeros.
        path: Folder of the model, one level above the version.
        version: Number of the version, 1 or more. `None` is the next free one.
        inputs: Sample to check the export on: an array, a list of them, or a
            dict by input name. `None` makes up a random one.
        tolerance: Largest difference allowed between the outputs of the file
            and of the model, relative to the largest output.
        overwrite: Whether a folder of this version may be replaced.

    Returns:
        `Exported`: where it is, its size, and how far it is from the model.

    Raises:
        FileExistsError: If that version exists and `overwrite` is off.
        ExportError: If the written file does not compute what the model does.
            Nothing is left behind.
        ValueError: If the model is not built or has NaN weights, or `inputs`
            don't fit.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((4,), name="x"), keras.layers.Dense(2, name="logits")]
    ... )
    >>> exported = tfticket.export.saved_model(model, folder / "model")
    >>> exported.path.name, exported.agreement
    ('1', 1.0)
    """
    path = pathlib.Path(path)
    if version is None:
        taken = [int(p.name) for p in path.glob("*") if p.name.isdecimal()]
        version = max(taken, default=0) + 1
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        raise ValueError(f"version must be 1 or more. Received: version={version!r}")
    target = path / str(version)
    if target.exists() and not overwrite:
        raise FileExistsError(
            f"{target} exists. Pass overwrite=True to replace it, or version=None to "
            "write the next version beside it."
        )
    ready = serving(model)
    inputs = named_inputs(inputs, ready.signature)
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".tfticket-") as folder:
        written = pathlib.Path(folder, "new")
        write(ready, written)
        exported = parity.check(
            "saved_model", written, target, ready, inputs, tolerance
        )
        path.mkdir(exist_ok=True)
        if target.exists():
            # Two renames: a server sees the old version, none, or the new one.
            os.replace(target, pathlib.Path(folder, "old"))
        os.replace(written, target)
    return exported


def write(ready: Serving, folder: pathlib.Path) -> None:
    """Writes the SavedModel, unchecked."""
    tf.saved_model.save(
        ready.module, str(folder), signatures={SIGNATURE: ready.function}
    )
