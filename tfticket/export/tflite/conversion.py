"""Converts a SavedModel to the bytes of a `.tflite` file, with each quantization."""

import pathlib
import re
import warnings
from collections.abc import Mapping

import numpy as np
import tensorflow as tf

from tfticket.export.checking.exported import ExportError
from tfticket.export.served.function import SIGNATURE

QUANTIZATIONS = (None, "float16", "dynamic", "int8")


def convert(
    saved_model: pathlib.Path,
    name: str,
    quantization: str | None = None,
    sparse: bool = False,
    samples: Mapping[str, np.ndarray] | None = None,
) -> bytes:
    """Converts a SavedModel without a check. Inputs and outputs keep their types.

    Args:
        saved_model: Folder of the SavedModel.
        name: The model's name, for errors.
        quantization: One of `QUANTIZATIONS`.
        sparse: Whether weights may be stored sparse. The converter chooses which, and
            whether in blocks.
        samples: For int8: arrays of samples by input name.

    Raises:
        ExportError: If the converter fails.
    """
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(saved_model), signature_keys=[SIGNATURE]
    )
    optimizations = [tf.lite.Optimize.DEFAULT] if quantization else []
    if sparse:
        optimizations.append(tf.lite.Optimize.EXPERIMENTAL_SPARSITY)
    converter.optimizations = optimizations
    if quantization == "float16":
        converter.target_spec.supported_types = [tf.float16]
    elif quantization == "int8":
        # Without this, operations without an int8 kernel would silently stay float.
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.representative_dataset = lambda: _one_by_one(samples)
    try:
        with warnings.catch_warnings():
            # TensorFlow warns that the converter's int8 calibration is deprecated.
            warnings.filterwarnings("ignore", r"\s*Warning: tf\.lite\.Interpreter")
            return converter.convert()
    except Exception as error:  # the converter's exceptions are not public
        reason = str(error).strip()
        raise ExportError(
            f"TensorFlow can't convert model '{name}' to LiteRT. The converter says: "
            f"{_in_short(reason)} {_mend(reason, quantization)}"
        ) from error


def _in_short(reason):
    """The converter's message about operations, without their call sites."""
    said = [text.strip() for text in re.findall(r"'tf\.\w+' op [^\n]*", reason)]
    if not said:
        said = [line.strip() for line in reason.splitlines() if line.strip()]
    types = re.findall(r"^\s*(tf\.\w+\(.*->.*?)(?: :.*)?$", reason, re.MULTILINE)
    return "; ".join(list(dict.fromkeys(said))[:3] + types[:2])[:500].rstrip(".") + "."


def _mend(reason, quantization):
    """How to fix the failure, if the reason tells."""
    if "TensorList" in reason or "tensorlist" in reason:
        return (
            "A recurrent layer needs a batch that is fixed: pass batch_size=1, or "
            "build it with unroll=True."
        )
    if quantization == "int8":
        return (
            "An operation may have no int8 form: use quantization='dynamic', which "
            "keeps operations that it can't quantize in float."
        )
    if "f16" in reason or "bf16" in reason or "f64" in reason:
        return (
            "The converter supports neither half nor double precision: build the model "
            "in float32, and let quantization= make the file smaller."
        )
    return "tfticket.export.saved_model takes models of any kind."


def _one_by_one(samples):
    for i in range(len(next(iter(samples.values())))):
        yield {name: values[i : i + 1] for name, values in samples.items()}
