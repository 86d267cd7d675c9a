"""Which parts of a graph work on mirror images, and how windows lie on images."""

import numpy as np
from keras import layers

from tfticket.export.tflite import mirror, scales
from tfticket.export.tflite.sparse_nodes import is_mean
from tfticket.export.tflite.window_rules import activation_name
from tfticket.keras_models.calls import computes_as_keras
from tfticket.keras_models.graph import Call, FlatGraph

WINDOWS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)

# Layers that treat all pixels alike and keep their places.
_PIXELWISE = (
    *(layers.ReLU, layers.LeakyReLU, layers.ELU, layers.Activation, layers.Identity),
    *(layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise),
    *(layers.GaussianDropout, layers.AlphaDropout, layers.ActivityRegularization),
    *(layers.Add, layers.Subtract, layers.Multiply, layers.Average),
    *(layers.Maximum, layers.Minimum, layers.UpSampling2D, layers.Rescaling),
)
_BY_CHANNEL = (
    *(layers.BatchNormalization, layers.LayerNormalization, layers.Concatenate),
    layers.Normalization,
)
# Operations of `keras.ops`, by the names of `window_rules`.
_ACTIVATIONS = (
    *("relu", "relu6", "sigmoid", "tanh", "silu", "hard_silu", "hard_sigmoid", "elu"),
    *("gelu", "leaky_relu", "selu", "celu", "softplus", "softsign", "abs", "square"),
)


def axes_to_flip(graph: FlatGraph) -> tuple[int, ...]:
    """The axes, out of 1 and 2, along which more windows follow the rules if mirrored.

    Args:
        graph: A model.
    """
    pads = zero_pads(graph)
    votes = {1: [0, 0], 2: [0, 0]}
    for call in graph.calls:
        if not isinstance(call.operation, WINDOWS) or not _is_first_or_depthwise(call):
            continue
        for axis, window in zip((1, 2), windows(call, pads), strict=True):
            votes[axis][0] += window.is_even
            votes[axis][1] += window.mirrored().is_even
    return tuple(axis for axis, (plain, flipped) in votes.items() if flipped > plain)


def is_image(shape: tuple) -> bool:
    """Whether a value has more than one pixel.

    Args:
        shape: Shape of the value, batch first.
    """
    return len(shape) == 4 and tuple(shape[1:3]) != (1, 1)


def _is_first_or_depthwise(call):
    """Whether the rules require even padding for this window."""
    layer = call.operation
    if layer.data_format != "channels_last" or None in call.in_shapes[0][1:]:
        return False
    if isinstance(layer, layers.Conv2D):
        return tuple(layer.kernel_size) == (3, 3) and call.in_shapes[0][-1] == 3
    return tuple(layer.kernel_size) in ((3, 3), (5, 5))


def zero_pads(graph: FlatGraph) -> dict[int, tuple]:
    """Zero padding that only one convolution reads, by value.

    Args:
        graph: A model.
    """
    readers = graph.readers()
    found = {}
    for call in graph.calls:
        layer, after = call.operation, readers.get(call.outputs[0], [])
        if not isinstance(layer, layers.ZeroPadding2D) or len(after) != 1:
            continue
        reader = getattr(after[0], "operation", None)
        if (
            computes_as_keras(layer)
            and isinstance(reader, WINDOWS)
            and computes_as_keras(reader)
            and layer.data_format == reader.data_format == "channels_last"
            and None not in call.in_shapes[0][1:]
        ):
            found[call.outputs[0]] = layer.padding
    return found


def windows(call: Call, pads: dict[int, tuple]) -> list[mirror.Window]:
    """The windows of a layer along height and width.

    Args:
        call: Call of a convolution or a pooling.
        pads: From `zero_pads`.
    """
    layer = call.operation
    sizes = getattr(layer, "kernel_size", None) or layer.pool_size
    rates = getattr(layer, "dilation_rate", (1, 1))
    sides = pads.get(call.inputs[0], ((0, 0), (0, 0)))
    make = mirror.same if layer.padding == "same" else mirror.valid
    found = []
    for axis in (0, 1):
        padded = call.in_shapes[0][1 + axis]
        before, after = sides[axis]
        size = (sizes[axis] - 1) * rates[axis] + 1
        length = padded - before - after
        found.append(make(length, size, layer.strides[axis], before, after))
    return found


def is_pixelwise(call: Call) -> bool:
    """Whether reversed images give the same outputs, reversed.

    Args:
        call: Call of a layer or an operation.
    """
    operation = call.operation
    if isinstance(operation, layers.Layer):
        if not computes_as_keras(operation):
            return False
        if isinstance(operation, _BY_CHANNEL):
            axes = operation.axis
            axes = [axes] if isinstance(axes, int) else list(axes)
            return axes in ([-1], [3])
        if isinstance(operation, layers.Rescaling):
            numbers = (operation.scale, operation.offset)
            return all(np.ndim(x) <= 1 for x in numbers)
        return isinstance(operation, _PIXELWISE)
    if activation_name(operation) in _ACTIVATIONS:
        return True
    kind = type(operation).__name__
    if kind not in ("Add", "Multiply", "Subtract", "Divide", "TrueDivide"):
        return False
    return call.takes_only_tensors() or scales.number_of(call) is not None


def head(graph: FlatGraph) -> set[int]:
    """Numbers of the values that depend only on global means.

    Args:
        graph: A model.
    """
    found: set[int] = set()
    for call in graph.calls:
        if is_mean(call) or (call.inputs and found.issuperset(call.inputs)):
            found.update(call.outputs)
    for call in reversed(graph.calls):
        if not found.issuperset(call.outputs):
            found.difference_update(call.inputs)
    return found
