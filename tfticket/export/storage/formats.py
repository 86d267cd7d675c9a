"""How weights are stored: chooses a model's format, and traces it in that format."""

import contextlib
import dataclasses
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfticket.export.served.function import Prepared, Serving, trace
from tfticket.export.storage.csr import candidates, store_csr
from tfticket.export.storage.encoded import assigned, store, with_values
from tfticket.export.storage.foldable import not_folded, store_foldable
from tfticket.export.storage.format_table import CHOICES
from tfticket.keras_models.quantized import quantized_weights

FORMATS = ("dense", "encoded", "foldable", "csr", "auto")

READ_BY = {
    "dense": ("TensorFlow", "TensorFlow's C API", "OpenVINO"),
    "encoded": ("TensorFlow", "TensorFlow's C API"),
    "foldable": ("TensorFlow", "TensorFlow's C API", "OpenVINO"),
    "csr": ("TensorFlow", "TensorFlow's C API"),
}
"""Runtimes that have read a SavedModel of each format: `docs/results/served.md`.

TensorFlow Serving's loader is the C API's. OpenVINO wants every variable that a
function reads to be in the checkpoint.
"""


@dataclasses.dataclass(frozen=True)
class Chosen:
    """A format, and what it costs.

    Args:
        format: "dense", "encoded", "foldable" or "csr".
        nbytes: Bytes of the weights as stored.
        rounding: Largest absolute difference between a stored weight and the model's.
    """

    format: str
    nbytes: int
    rounding: float = 0.0


def ready(prepared: Prepared, format: str, value_dtype: str) -> tuple[Serving, Chosen]:
    """Traces a model in a format; its notes give the choice and its cost.

    Args:
        prepared: The model.
        format: One of `FORMATS`.
        value_dtype: "float32" or "float16".

    Raises:
        ValueError: If a weight is too large for float16.
    """
    model, notes = prepared.model, list(prepared.notes)
    zeros = sparsity(model)
    if format == "auto":
        format, because = choose(model, value_dtype)
        notes.append(f"auto took {format}: {because}")
    elif format != "dense" and zeros < 0.01:
        text = (
            f"{zeros:.1%} of the weights of '{model.name}' are zero, so "
            f"format='{format}' saves nothing. Prune it, or use format='dense'."
        )
        warnings.warn(text, stacklevel=3)
        notes.append(text)
    if format == "dense":
        chosen = Chosen(format, _nbytes(model.weights))
        served = trace(prepared)
    else:
        computing: Callable[[], Any] = contextlib.nullcontext
        changing = assigned(prepared.call, model.variables, prepared.signature)
        if format == "csr":
            stored, computing = store_csr(model, changing, resting_bytes(model))
            notes.append(f"{len(candidates(model))} Dense layers compute on sparse")
        elif format == "foldable":
            stored = store_foldable(model.variables, value_dtype, changing)
            notes += _expanded_in_every_call(model)
        else:
            stored = store(
                model.variables, value_dtype, (), changing, resting_bytes(model)
            )
        notes += _dense_notes(model, stored.dense)
        # Seeds of random layers are stored with the weights, but are not weights.
        others = _nbytes(model.variables) - _nbytes(model.weights)
        chosen = Chosen(format, stored.nbytes - others, stored.rounding)

        def call(inputs):
            with computing():
                return prepared.call(inputs)

        call = with_values(call, model.variables, stored.read)
        served = trace(prepared, call, stored.trackables)
        served.module.weights += _also_read(model, served)
    if chosen.rounding:
        notes.append(f"weights rounded to float16, by up to {chosen.rounding:.1e}")
    return dataclasses.replace(served, notes=tuple(notes)), chosen


def choose(model: keras.Model, value_dtype: str = "float32") -> tuple[str, str]:
    """Chooses the format of a model by `format_table.CHOICES`, and says why.

    Args:
        model: A plain model.
        value_dtype: With "float16", "csr" is not a choice.
    """
    zeros = sparsity(model)
    sizes = [v.shape.num_elements() for v in _matrices(model)]
    share = sum(layer.kernel.value.shape.num_elements() for layer in candidates(model))
    share /= max(1, sum(sizes))
    for row in CHOICES:
        if row["format"] == "csr" and value_dtype == "float16":
            continue
        if zeros >= row["min_sparsity"] and share >= row["min_csr_share"]:
            return row["format"], f"{row['because']} (here {zeros:.1%} are zero)"
    return "dense", "no row of the table fits"


def sparsity(model: keras.Model) -> float:
    """The fraction of zeros in the weights of two dimensions or more."""
    values = [keras.ops.convert_to_numpy(v) for v in _matrices(model)]
    values += [weight.kept() for weight in quantized_weights(model).values()]
    size = sum(value.size for value in values)
    return 1 - sum(np.count_nonzero(value) for value in values) / max(1, size)


def _expanded_in_every_call(model):
    """A note, and a warning, if TensorFlow would not fold."""
    paths = not_folded(model.variables)
    if not paths:
        return []
    text = (
        f"TensorFlow expands weights of more than 10 MB in every call, here {paths}: "
        "serve this file with OpenVINO, and one of format='encoded' with TensorFlow"
    )
    warnings.warn(f"{text}.", stacklevel=4)
    return [text]


def resting_bytes(model: keras.Model) -> dict[int, np.ndarray]:
    """By the `id` of quantized weights, the bytes that stand for zeros."""
    weights = quantized_weights(model).values()
    return {id(weight.variable): weight.resting() for weight in weights}


def _dense_notes(model, dense):
    """One note that names the quantized weights that could not be made smaller."""
    names = {id(w.variable): name for name, w in quantized_weights(model).items()}
    listed = [names[id(variable)] for variable in dense if id(variable) in names]
    if not listed:
        return []
    return [
        "stored as they are, since too few of their bytes stand for zeros: "
        + ", ".join(listed)
    ]


def _nbytes(variables):
    return sum(keras.ops.convert_to_numpy(v).nbytes for v in variables)


def _matrices(model):
    return [
        variable
        for variable in model.variables
        if len(variable.shape) > 1 and keras.backend.is_float_dtype(variable.dtype)
    ]


def _also_read(model, served):
    """Variables that the function reads although it should read stored values.

    A layer does that if it uses the kernel of another one that computes on sparse
    weights.
    """
    held = {id(part) for part in served.module.weights}
    captured = {id(tensor) for tensor in served.function.captured_inputs}
    return [
        variable.value
        for variable in model.variables
        if id(variable.value) not in held and id(variable.value.handle) in captured
    ]
