"""Writes a `.tflite` file for TFLite and LiteRT."""

import os
import pathlib
import tempfile
from typing import Any

import keras
import tensorflow as tf

from tfticket.export import parity
from tfticket.export.saved_model import write
from tfticket.export.serving import SIGNATURE, named_inputs, serving
from tfticket.files import atomic_path


def litert(
    model: keras.Model,
    path: str | os.PathLike,
    inputs: Any = None,
    tolerance: float = 1e-3,
    overwrite: bool = False,
) -> parity.Exported:
    """Exports a model as a float32 `.tflite` file, checked in another process.

    The file has the signature `serving_default` with the model's names, and is
    run by LiteRT (`ai-edge-litert`) where that is installed, else by
    TensorFlow's interpreter.

    Args:
        model: A built Keras model. A wrapped one is stripped first; pruned
            weights are stored as zeros.
        path: The file to write.
        inputs: Sample to check the export on, as for `saved_model`.
        tolerance: Largest difference allowed between the outputs of the file
            and of the model, relative to the largest output.
        overwrite: Whether an existing file may be replaced.

    Returns:
        `Exported`: where it is, its size, and how far it is from the model.

    Raises:
        FileExistsError: If the file exists and `overwrite` is off.
        ExportError: If the written file does not compute what the model does.
            Nothing is left behind.
        ValueError: If the model is not built or has NaN weights, or `inputs`
            don't fit.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> exported = tfticket.export.litert(model, folder / "model.tflite")
    >>> exported.path.name, exported.agreement
    ('model.tflite', 1.0)
    """
    path = pathlib.Path(path)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True to replace it.")
    ready = serving(model)
    inputs = named_inputs(inputs, ready.signature)
    with tempfile.TemporaryDirectory() as folder:
        write(ready, pathlib.Path(folder, "model"))
        converter = tf.lite.TFLiteConverter.from_saved_model(
            str(pathlib.Path(folder, "model")), signature_keys=[SIGNATURE]
        )
        try:
            content = converter.convert()
        except Exception as error:  # the converter's own classes are not public
            raise parity.ExportError(
                f"TensorFlow can't convert model '{model.name}' to LiteRT. Models in "
                "half or double precision and recurrent layers are beyond it: build "
                "the model in float32, or export a SavedModel. The converter says: "
                f"{str(error).strip()[:500]}"
            ) from error
    with atomic_path(path) as temporary:
        temporary.write_bytes(content)
        return parity.check("litert", temporary, path, ready, inputs, tolerance)
