"""Weights that Keras's `quantize` made: whole numbers, and which of them are zero.

Keras keeps a quantized weight as int8 or uint8, with two four-bit numbers per byte, and
in some modes transposed. The number that stands for 0.0 is 0, or a zero point per group
of weights.
"""

import dataclasses
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from tfticket.keras_models.names import every_layer, join


@dataclasses.dataclass(frozen=True)
class QuantizedWeight:
    """One quantized weight of a layer.

    Args:
        variable: The whole numbers in Keras's form: a matrix, or the weight itself.
        shape: Shape of the weight that they stand for.
        packed: Axis along which two numbers share a byte; `None` for one per byte.
        transposed: Whether the matrix has outputs before inputs.
        zero: The number that stands for 0.0, for each of the matrix's numbers.
    """

    variable: keras.Variable
    shape: tuple[int, ...]
    packed: int | None
    transposed: bool
    zero: np.ndarray

    def kept(self) -> np.ndarray:
        """Boolean array of `shape`, True where weights are not zero."""
        return self._as_weight(self._unpacked() != self.zero)

    def resting(self) -> np.ndarray:
        """The values of the variable if all weights were zero."""
        return self._pack(np.broadcast_to(self.zero, self._matrix_shape()))

    def set_mask(self, mask: np.ndarray) -> int:
        """Sets the weights that a mask prunes to zero.

        Args:
            mask: Boolean array of `shape`.

        Returns:
            How many of them were not zero.
        """
        matrix = self._unpacked()
        flat = mask.reshape(self._matrix_shape(upright=True))
        left_out = ~(flat.T if self.transposed else flat)
        moved = int(np.count_nonzero((matrix != self.zero) & left_out))
        if moved:
            self.variable.assign(self._pack(np.where(left_out, self.zero, matrix)))
        return moved

    def _matrix_shape(self, upright=False):
        if self.zero.ndim != 2 or (self.packed is None and not self.transposed):
            return self.shape
        rows, columns = self.zero.shape
        return (columns, rows) if self.transposed and upright else (rows, columns)

    def _as_weight(self, matrix):
        return (matrix.T if self.transposed else matrix).reshape(self.shape)

    def _unpacked(self):
        value = keras.ops.convert_to_numpy(self.variable)
        if self.packed is None:
            return value
        length = self._matrix_shape()[self.packed]
        value = keras.quantizers.unpack_int4(
            value, length, axis=self.packed, dtype=str(value.dtype)
        )
        return keras.ops.convert_to_numpy(value)

    def _pack(self, matrix):
        dtype = self.variable.dtype
        matrix = np.ascontiguousarray(matrix).astype(dtype)
        if self.packed is None:
            return matrix
        packed, _, _ = keras.quantizers.pack_int4(
            matrix, axis=self.packed, dtype=str(dtype)
        )
        return keras.ops.convert_to_numpy(packed)


def mode_of(layer: keras.layers.Layer) -> str | None:
    """How a layer is quantized: "int8", "int4", "float8", "gptq", "awq", or not."""
    return getattr(layer, "quantization_mode", None)


def quantized_layers(model: keras.layers.Layer) -> dict[str, str]:
    """Maps the path of each quantized layer to its mode.

    Args:
        model: A model or layer.
    """
    found = ((path, mode_of(layer)) for path, layer in every_layer(model))
    return {path: mode for path, mode in found if mode}


def require_not_quantized(model: keras.layers.Layer, what: str) -> None:
    """Raises a ValueError that says what to do about a quantized model.

    Args:
        model: A model or layer.
        what: What can't be done to it, such as "wrapped".
    """
    if layers := quantized_layers(model):
        named = [f"'{path or model.name}' ({layers[path]})" for path in layers][:3]
        more = f" and {len(layers) - 3} more" if len(layers) > 3 else ""
        raise ValueError(
            f"'{model.name}' can't be {what}, since Keras has quantized "
            f"{', '.join(named)}{more}. Start from the model as it was before, in "
            "floating point: prune it, train, tfticket.strip it, and call quantize "
            "last."
        )


def quantized_weights(model: keras.layers.Layer) -> dict[str, QuantizedWeight]:
    """The weights that Keras keeps as whole numbers, by name: "layer/kernel".

    These are the kernels of Dense and EinsumDense, and the tables of Embeddings.
    "float8" keeps its kernels in floating point, so they are not included.

    Args:
        model: A model or layer, built.
    """
    return {
        join(path, name): weight
        for path, layer in every_layer(model)
        for name, weight in _of_layer(layer)
    }


def _of_layer(layer: Any) -> Iterator[tuple[str, QuantizedWeight]]:
    mode = mode_of(layer)
    if mode not in ("int8", "int4", "gptq", "awq") or not layer.built:
        return
    name = "embeddings" if isinstance(layer, keras.layers.Embedding) else "kernel"
    if mode in ("gptq", "awq"):
        # Until it has seen data, the layer computes with the original kernel.
        if getattr(layer, f"is_{mode}_calibrated", False):
            yield name, _calibrated(layer, mode)
        return
    [variable] = [
        weight
        for weight in layer.weights
        if weight.name == name and str(weight.dtype) == "int8"
    ]
    if mode == "int8":
        shape = tuple(variable.shape)
        zero = np.zeros((1,) * len(shape), np.int16)
        yield name, QuantizedWeight(variable, shape, None, False, zero)
        return
    matrix = tuple(getattr(layer, name).shape)
    shape = matrix
    if isinstance(layer, keras.layers.EinsumDense):
        shape = tuple(layer.original_kernel_shape)
    of_groups = getattr(layer, f"{name}_zero", None)
    if of_groups is None:
        zero = np.zeros(matrix, np.int16)
    else:
        axis = -1 if name == "embeddings" else 0
        zero = _spread(of_groups, layer.g_idx, axis)
    yield name, QuantizedWeight(variable, shape, 1, False, zero)


def _calibrated(layer, mode):
    variable = layer.quantized_kernel
    zero = _spread(layer.kernel_zero, layer.g_idx, -1)
    shape = getattr(layer, "original_kernel_shape", None) or layer.kernel_shape
    packed = 0 if variable.shape[0] != zero.shape[0] else None
    return QuantizedWeight(variable, tuple(shape), packed, True, zero)


def _spread(of_groups, group_of, axis):
    """Repeats each group's number for each weight in the group."""
    groups = keras.ops.convert_to_numpy(group_of).astype(int)
    return np.take(keras.ops.convert_to_numpy(of_groups), groups, axis).astype(np.int16)
