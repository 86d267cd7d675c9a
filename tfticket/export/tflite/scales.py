"""Folds scales and offsets into the convolution before them, in double precision."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

import keras
import numpy as np

from tfticket.export.tflite.window_rules import activation_name, function_name
from tfticket.keras_models.calls import computes_as_keras
from tfticket.keras_models.graph import Call

layers = keras.layers

# hard_sigmoid(x) = relu6(x + 3) / 6.
HARD_OFFSET = 3.0


@dataclasses.dataclass(frozen=True)
class Chain:
    """A convolution and the calls after it that scale and shift each channel.

    Args:
        calls: The call of the convolution and the calls after it, in order.
        scale: Scale per output channel, or one number.
        offset: Offset per output channel; the output is scale * convolution + offset.
        is_hard: Whether a hard_sigmoid comes next, as the last of the calls or as the
            convolution's own activation.
    """

    calls: tuple[Call, ...]
    scale: Any = 1.0
    offset: Any = 0.0
    is_hard: bool = False


class Part(NamedTuple):
    """A layer to create.

    Args:
        kind: Class of the layer.
        config: Its configuration.
        kernel: Its kernel.
        bias: Its bias; `None` for none.
    """

    kind: type[keras.layers.Layer]
    config: dict[str, Any]
    kernel: np.ndarray
    bias: np.ndarray | None


def chain(call: Call, readers: Mapping[int, list[Call | None]]) -> Chain:
    """Finds what can be folded into a convolution.

    Args:
        call: Call of the convolution.
        readers: The calls that read each value; `None` for an output of the model.
    """
    activation = function_name(call.operation.activation)
    if activation == "hard_sigmoid":
        return Chain((call,), is_hard=True)
    calls = [call]
    scale, offset = np.float64(1), np.float64(0)
    while activation == "linear":
        after = readers.get(calls[-1].outputs[0], [])
        if len(after) != 1 or after[0] is None:
            break
        step = after[0]
        if activation_name(step.operation) == "hard_sigmoid":
            return Chain((*calls, step), scale, offset, True)
        found = _scale_and_offset(step)
        if found is None:
            break
        scale, offset = scale * found[0], offset * found[0] + found[1]
        calls.append(step)
    return Chain(tuple(calls), scale, offset)


def number_of(call: Call) -> float | None:
    """The number in a sum or product with one tensor; `None` for other calls."""
    others = [
        x
        for x in keras.tree.flatten(call.arguments)
        if not isinstance(x, keras.KerasTensor)
    ]
    if len(call.inputs) != 1 or len(others) != 1:
        return None
    return float(others[0]) if isinstance(others[0], int | float) else None


def parts(layer: keras.layers.Layer, chain: Chain, scale: float = 1.0) -> list[Part]:
    """The layers that replace a convolution and its chain.

    Args:
        layer: A Conv2D, DepthwiseConv2D or SeparableConv2D.
        chain: What is folded into it.
        scale: The factor that its inputs still have to be multiplied with.
    """
    config = layer.get_config()
    config["activation"] = "linear" if chain.is_hard else config["activation"]
    bias = None
    if layer.use_bias or len(chain.calls) > 1 or chain.is_hard:
        bias = _array(layer.bias) if layer.use_bias else np.zeros(())
        bias = bias * chain.scale + chain.offset + (HARD_OFFSET if chain.is_hard else 0)
    separable = isinstance(layer, layers.SeparableConv2D)
    kernel = _array(layer.pointwise_kernel if separable else layer.kernel)
    # The last two axes of a depthwise kernel are the output channels.
    by_channel = isinstance(layer, layers.DepthwiseConv2D)
    factors = np.broadcast_to(chain.scale, _channels(layer))
    kernel = kernel * (factors.reshape(kernel.shape[2:]) if by_channel else factors)
    if bias is not None:
        bias = np.broadcast_to(bias, _channels(layer))
    config["use_bias"] = bias is not None
    if not separable:
        return [Part(type(layer), config, kernel * scale, bias)]
    both = ("dtype", "dilation_rate", "strides")
    depthwise = {key: config[key] for key in (*both, "kernel_size", "depth_multiplier")}
    depthwise |= {"name": f"{layer.name}_depthwise", "use_bias": False}
    own = ("name", "dtype", "filters", "activation", "use_bias")
    pointwise = {"kernel_size": 1, **{key: config[key] for key in own}}
    return [
        Part(
            layers.DepthwiseConv2D,
            depthwise,
            _array(layer.depthwise_kernel) * scale,
            None,
        ),
        Part(layers.Conv2D, pointwise, kernel, bias),
    ]


def _scale_and_offset(call):
    operation, kind = call.operation, type(call.operation).__name__
    if isinstance(operation, layers.Layer) and not computes_as_keras(operation):
        return None
    if isinstance(operation, layers.BatchNormalization):
        if operation.axis not in (-1, len(call.in_shapes[0]) - 1):
            return None
        scale = 1 / np.sqrt(_array(operation.moving_variance) + operation.epsilon)
        if operation.scale:
            scale = scale * _array(operation.gamma)
        offset = -_array(operation.moving_mean) * scale
        if operation.center:
            offset = offset + _array(operation.beta)
        return scale, offset
    if isinstance(operation, layers.Rescaling):
        numbers = (operation.scale, operation.offset)
        return numbers if all(np.ndim(x) == 0 for x in numbers) else None
    number = number_of(call) if kind in ("Add", "Multiply") else None
    if number is None:
        return None
    return (1.0, number) if kind == "Add" else (number, 0.0)


def _channels(layer):
    if isinstance(layer, layers.DepthwiseConv2D):
        return (layer.kernel.shape[2] * layer.kernel.shape[3],)
    return (layer.filters,)


def _array(variable):
    return keras.ops.convert_to_numpy(variable).astype(np.float64)
