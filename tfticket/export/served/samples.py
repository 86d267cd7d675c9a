"""The samples to check an export on: the user's, or random ones that fit."""

from typing import Any, NamedTuple

import keras
import numpy as np
import tensorflow as tf

from tfticket.common.arguments import check_array, shown
from tfticket.export.served.function import Prepared
from tfticket.keras_models.graph import FlatGraph
from tfticket.keras_models.names import every_layer

# Layers and operations that pass integers on unchanged.
_PASSES = {
    *("Cast", "Concatenate", "CropImage", "Cropping1D", "Cropping2D", "Dropout"),
    *("ExpandDims", "Flatten", "GetItem", "Identity", "Masking", "Permute"),
    *("RepeatVector", "Reshape", "Slice", "Split", "Squeeze", "Stack", "Transpose"),
    "Unstack",
}


class Samples(NamedTuple):
    """Samples to check an export on.

    Args:
        arrays: Arrays by input name.
        text: A description, for example "64 of your samples".
    """

    arrays: dict[str, np.ndarray]
    text: str


def samples_for(
    inputs: Any, prepared: Prepared, whose: str = "of your samples"
) -> Samples:
    """The user's samples by input name, or random ones if there are none.

    Args:
        inputs: An array, a list of arrays, or a dict by input name; `None` draws random
            ones.
        prepared: The model.
        whose: Whose samples they are, for the text.

    Raises:
        ValueError: If names, shapes or values don't match the signature, or no sample
            can be drawn.
    """
    if inputs is not None:
        arrays = named_inputs(inputs, prepared.signature)
        return Samples(arrays, f"{_count(arrays)} {whose}")
    most = integer_ranges(prepared)
    arrays = sample_inputs(prepared.signature, most=most)
    guessed = [
        name
        for name, spec in prepared.signature.items()
        if _counts(spec) and spec.dtype != tf.uint8 and name not in most
    ]
    only = f" ({', '.join(guessed)}: 0 and 1 only)" if guessed else ""
    return Samples(
        arrays, f"{_count(arrays)} random inputs{only}; pass inputs= for a real check"
    )


def sample_inputs(
    signature: dict[str, tf.TensorSpec],
    batch: int = 8,
    most: dict[str, int] | None = None,
) -> dict[str, np.ndarray]:
    """Random inputs that fit a signature.

    Floats are normally distributed, uint8 ranges from 0 to 255, and other integers are
    0 and 1 if nothing better is known.

    Args:
        signature: Maps input names to `tf.TensorSpec`s.
        batch: Number of samples if the batch is open.
        most: Maps the name of an integer input to a number that all values are below.

    Raises:
        ValueError: If a dimension other than the batch is unknown.
    """
    random = np.random.default_rng(0)
    inputs: dict[str, np.ndarray] = {}
    for name, spec in signature.items():
        value: np.ndarray
        shape = [batch if size is None else size for size in spec.shape[:1]]
        rest = list(spec.shape[1:])
        if None in rest:
            raise ValueError(
                f"Input '{name}' has the open shape {tuple(spec.shape)}, so no sample "
                "of it can be drawn. Pass inputs= with arrays to check the export on."
            )
        if spec.dtype.is_floating:
            value = random.standard_normal(shape + rest)
        else:
            usual = 256 if spec.dtype == tf.uint8 else 2
            value = random.integers(0, (most or {}).get(name, usual), shape + rest)
        inputs[name] = value.astype(spec.dtype.as_numpy_dtype)
    return inputs


def integer_ranges(prepared: Prepared) -> dict[str, int]:
    """How many values each integer input may have, if the model says so.

    Layers with a vocabulary limit their inputs: the `input_dim` of an `Embedding`, the
    `num_tokens` of a `CategoryEncoding`. If several read one input, the smallest
    counts. Inputs are followed through operations that pass integers on unchanged; an
    input that other operations change first is not in the result.

    Args:
        prepared: The model.
    """
    integers = [name for name, spec in prepared.signature.items() if _counts(spec)]
    if not integers:
        return {}
    graph = FlatGraph(prepared.model)
    sources = dict(zip(graph.inputs, prepared.signature, strict=True))
    # Maps the number of a value to the inputs that its integers come from.
    carried = {i: {name} for i, name in sources.items() if name in integers}
    found: dict[str, int] = {}
    for call in graph.calls:
        given = set().union(*(carried.get(i, set()) for i in call.inputs))
        if not given:
            continue
        if type(call.operation).__name__ in _PASSES:
            carried |= dict.fromkeys(call.outputs, given)
        size = _vocabulary(call.operation)
        if size is not None:
            found |= {name: min(size, found.get(name, size)) for name in given}
    return found


def named_inputs(
    inputs: Any, signature: dict[str, tf.TensorSpec]
) -> dict[str, np.ndarray]:
    """The user's samples as arrays by input name.

    Raises:
        ValueError: If names or shapes don't match the signature.
    """
    if not isinstance(inputs, dict):
        one = len(signature) == 1 and not (
            isinstance(inputs, (list, tuple)) and len(inputs) == 1
        )
        if not one and not isinstance(inputs, (list, tuple)):
            raise TypeError(
                f"inputs must be a list or a dict. Received: inputs={shown(inputs)}"
            )
        flat = [inputs] if one else list(inputs)
        if len(flat) != len(signature):
            raise ValueError(
                f"inputs must have one array for each of {list(signature)}. "
                f"Received: {len(flat)}"
            )
        inputs = dict(zip(signature, flat, strict=True))
    if set(inputs) != set(signature):
        raise ValueError(
            f"inputs must have one array for each of {list(signature)}. "
            f"Received: inputs={shown(inputs)}"
        )
    arrays = {}
    for name, spec in signature.items():
        given = check_array("inputs", inputs[name])
        arrays[name] = given.astype(spec.dtype.as_numpy_dtype)
        if spec.dtype.is_integer and np.any(arrays[name] != given):
            raise ValueError(
                f"Input '{name}' is of {spec.dtype.name}, which can't hold all the "
                "values of the sample. Pass inputs= with whole numbers in its range."
            )
        if not spec.shape.is_compatible_with(arrays[name].shape):
            raise ValueError(
                f"Input '{name}' must have shape {tuple(spec.shape)}. "
                f"Received: shape {arrays[name].shape}, inputs={shown(given)}"
            )
        if not arrays[name].size:
            raise ValueError(
                f"Input '{name}' has no samples in inputs to check the export on."
            )
    return arrays


def _counts(spec):
    return spec.dtype.is_integer


def _vocabulary(operation):
    """How many integers a layer, or one inside it, allows; `None` without a limit."""
    if not isinstance(operation, keras.layers.Layer):
        return None
    sizes = []
    for _, layer in every_layer(operation):
        if isinstance(layer, keras.layers.Embedding):
            sizes.append(layer.input_dim)
        elif isinstance(layer, keras.layers.CategoryEncoding):
            sizes.append(layer.num_tokens)
    return min((size for size in sizes if size), default=None)


def _count(arrays):
    """The number of samples: the first axis of the first array that has one."""
    return next((len(x) for x in arrays.values() if x.ndim), 1)
