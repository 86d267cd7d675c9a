"""Which rule a convolution breaks, and the names of activations."""

import itertools
from typing import Any, NamedTuple

import keras

from tfticket.keras_models.calls import computes_as_keras

layers = keras.layers


class Part(NamedTuple):
    """One convolution of a layer; a separable layer has two.

    Args:
        weight: Name of its kernel in the layer.
        kernel: The kernel.
        kind: A description in words.
        role: Its role in a cluster, if no rule prevents it.
        rule: Name of the rule that prevents it; "" for none.
        is_pointwise: Whether its kernel is 1x1.
    """

    weight: str
    kernel: Any
    kind: str
    role: str
    rule: str
    is_pointwise: bool = False


def parts(layer: keras.layers.Layer, padding: tuple, in_shape: tuple) -> list[Part]:
    """The convolutions of a Conv2D, DepthwiseConv2D or SeparableConv2D.

    Args:
        layer: The layer.
        padding: Padding of a ZeroPadding2D directly before it.
        in_shape: Shape of its input, with or without that padding.

    Example:

    >>> layer = keras.layers.Conv2D(8, 1, strides=2)
    >>> layer.build((None, 8, 8, 4))
    >>> [part.rule for part in parts(layer, ((0, 0), (0, 0)), (None, 8, 8, 4))]
    ['pointwise_strides']
    """
    sides = tuple(itertools.chain(*padding))
    first = _general(layer)
    if isinstance(layer, layers.SeparableConv2D):
        depthwise, pointwise = layer.depthwise_kernel, layer.pointwise_kernel
        return [
            Part(
                "depthwise_kernel",
                depthwise,
                _kind("depthwise", layer),
                "inside",
                first or _depthwise(layer, sides),
            ),
            Part("pointwise_kernel", pointwise, "1x1", "inside", first, True),
        ]
    if isinstance(layer, layers.DepthwiseConv2D):
        rule = first or _depthwise(layer, sides)
        kind = _kind("depthwise", layer)
        return [Part("kernel", layer.kernel, kind, "inside", rule)]
    if tuple(layer.kernel_size) == (1, 1):
        rule = first or _pointwise(layer, sides)
        return [Part("kernel", layer.kernel, "1x1", "inside", rule, True)]
    rule = first or _first(layer, sides, in_shape[-1])
    role = "start" if in_shape[-1] == 3 else "inside"
    return [Part("kernel", layer.kernel, _kind("", layer), role, rule)]


def _kind(word, layer):
    return " ".join([word, "x".join(map(str, layer.kernel_size))]).strip()


def _general(layer):
    if layer.data_format == "channels_first":
        return "channels_first"
    if getattr(layer, "groups", 1) != 1:
        return "groups"
    return "" if tuple(layer.dilation_rate) == (1, 1) else "dilation"


def _first(layer, sides, channels):
    if tuple(layer.kernel_size) != (3, 3) or channels != 3:
        return "window"
    if tuple(layer.strides) != (2, 2):
        return "first_strides"
    return "" if _is_even(layer, sides) else "padding"


def _pointwise(layer, sides):
    if tuple(layer.strides) != (1, 1):
        return "pointwise_strides"
    return "pointwise_padding" if any(sides) else ""


def _depthwise(layer, sides):
    if tuple(layer.kernel_size) not in ((3, 3), (5, 5)):
        return "depthwise_window"
    if layer.depth_multiplier != 1:
        return "multiplier"
    if tuple(layer.strides) not in ((1, 1), (2, 2)):
        return "depthwise_strides"
    return "" if _is_even(layer, sides) else "padding"


def _is_even(layer, sides):
    """Whether the total padding is half the window on each side."""
    half = layer.kernel_size[0] // 2
    if layer.padding == "same" and tuple(layer.strides) != (1, 1):
        return False  # even if it is even, because the file says "same" and no numbers
    own = half if layer.padding == "same" else 0
    return all(own + side == half for side in sides)


def activation_name(operation: Any) -> str:
    """What an element-wise layer or operation of Keras computes, by its name.

    Returns:
        A name of `keras.activations`, "relu6" for a ReLU up to 6, or of an operation
        in lower case; "" for anything else.

    Example:

    >>> activation_name(keras.layers.ReLU(max_value=6))
    'relu6'
    """
    if isinstance(operation, layers.Activation):
        return function_name(operation.activation)
    if isinstance(operation, layers.ReLU):
        limits = (operation.negative_slope, operation.threshold)
        if any(limits):
            return ""
        return {None: "relu", 6: "relu6"}.get(operation.max_value, "")
    for kind, name in ((layers.LeakyReLU, "leaky_relu"), (layers.ELU, "elu")):
        if isinstance(operation, kind):
            return name
    if isinstance(operation, layers.Layer) or not computes_as_keras(operation):
        return ""
    name = type(operation).__name__
    return "".join(f"_{x.lower()}" if x.isupper() else x for x in name).lstrip("_")


def function_name(function: Any) -> str:
    """Name of a function of `keras.activations`; "" for other functions."""
    name = getattr(function, "__name__", "linear" if function is None else "")
    known = getattr(keras.activations, name, None)
    return name if known is function or function is None else ""
