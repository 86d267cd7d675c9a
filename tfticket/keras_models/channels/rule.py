"""What a layer does to channels: the base of all rules.

A value of the graph has one axis of channels, the last one unless a transposition moved
it; its other axes are positions. A rule says how its layer's output channels relate to
its input channels, which weights they index, and what the smaller layer is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from tfticket.keras_models.channels.labels import Labels
from tfticket.keras_models.graph import Call
from tfticket.keras_models.names import weights_by_path


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a value.

    Args:
        labels: Their labels, in the order of the axis.
        axis: Their axis, counted from the end: -1 is the last.
        foreign: Whether they stand for positions, because the rule of the layer that
            reads them can't follow the axis of the value's channels.
    """

    labels: np.ndarray
    axis: int = -1
    foreign: bool = False

    def __len__(self) -> int:
        return len(self.labels)


@dataclasses.dataclass(frozen=True, eq=False)
class Member:
    """An axis of a weight that channels index.

    Args:
        variable: The weight.
        axis: The axis, counted from the front.
        labels: Label of each index of the axis; a label may occur several times.
        reads: Number of the input that has these channels, if the layer does not read a
            channel whose weights on this axis are all zero.
        zeroed: Whether the values of a pruned channel are zero. Variances are not
            zeroed.
    """

    variable: keras.Variable
    axis: int
    labels: np.ndarray
    reads: int | None = None
    zeroed: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """Multiplications and additions that use no weight, such as those in attention.

    Args:
        count: Number of positions where channels are multiplied; `None` if it is not
            known.
        axes: Labels of the axes whose numbers of kept channels multiply the count.
    """

    count: int | None
    axes: tuple[np.ndarray, ...]


@dataclasses.dataclass(eq=False)
class Node:
    """One call, as rules see it.

    Args:
        call: The call.
        layer: The layer without its pruning wrapper, or the operation.
        numbers: Numbers of its input values, without masks.
        in_shapes: Shapes of these values, batch first.
        inputs: Channels of these values.
        rule: The rule of the call.
        shared: Whether the layer has weights and is called more than once.
        outputs: Channels of the output values.
        members: Axes of its weights that channels index.
        own: Labels that the rule creates for units inside the layer.
    """

    call: Call
    layer: Any
    numbers: tuple[int, ...]
    in_shapes: tuple[tuple, ...]
    inputs: tuple[Channels, ...]
    rule: Rule
    shared: bool = False
    outputs: tuple[Channels, ...] = ()
    members: tuple[Member, ...] = ()
    own: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)

    @property
    def args(self) -> tuple:
        """Positional arguments of the call, with `keras.KerasTensor`s as values."""
        return self.call.arguments[0]

    @property
    def kwargs(self) -> dict[str, Any]:
        """Keyword arguments of the call."""
        return self.call.arguments[1]

    @property
    def out_shapes(self) -> tuple[tuple, ...]:
        return self.call.out_shapes


@dataclasses.dataclass(frozen=True, eq=False)
class Kept:
    """The channels that stay around one call.

    Args:
        inputs: Flags of each input's channels.
        outputs: Flags of each output's channels.
        members: Flags of each member's indices.
        needed: Flags of each output's channels whose values matter. A channel can be
            kept only because it is tied to another one.
        constants: Constants of each input.
    """

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    members: list[np.ndarray]
    needed: list[np.ndarray]
    constants: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Resized:
    """The differences between a smaller layer and its original.

    Args:
        config: Changed entries of the configuration.
        weights: Values by the name of the weight ("cell/kernel"); other weights do not
            change.
        emit: How to call it, unless by `layer(*args, **kwargs)`: a function of the
            layer, the positional and the keyword arguments.
    """

    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    emit: Callable[[Any, tuple, dict], Any] | None = None


class Rule:
    """How channels pass a layer; this rule passes each channel on unchanged.

    A rule for your own layer is a subclass with the decorator `tfticket.channel_rule`.
    Most rules need only `outputs`, `members` and `config`.

    Constants are float64 arrays, NaN where a channel does not have the same value at
    every position of every sample.
    """

    # Whether it follows channels on an axis other than the last.
    any_axis = False
    # Whether it may be called with arguments other than tensors.
    any_arguments = False
    # Whether a Keras mask of positions changes nothing that the rule says.
    any_mask = True
    # Whether its inputs may have unknown sizes, like token numbers.
    any_width = False
    # Whether a channel that is zero in every input, and whose weights are zero, is zero
    # in every output.
    keeps_zero = False
    # Whether unread channels count, as in statistics.
    counts_channels = False

    def of(self, layer: Any, rule_of: Callable[[Any], Rule]) -> Rule:
        """The rule for a layer of this kind: this one, or a special one.

        Args:
            layer: The layer.
            rule_of: Finds the rule of another layer, for layers that contain one.
        """
        return self

    def refuses(self, node: Node) -> str | None:
        """Why the rule does not apply to this call, if it does not."""
        return None

    def outputs(self, node: Node, labels: Labels) -> list[Channels]:
        """Channels of the layer's outputs. Ties and pins are recorded in `labels`."""
        return [node.inputs[0]] * len(node.out_shapes)

    def members(self, node: Node) -> list[Member]:
        """Axes of the layer's weights that channels index."""
        return []

    def products(self, node: Node) -> list[Product]:
        """Operations per sample that use no weight."""
        return []

    def config(
        self, node: Node, inputs: list[int], outputs: list[int]
    ) -> dict[str, Any]:
        """Configuration entries for the given numbers of input and output channels."""
        return {}

    def constants(self, node: Node, given: list[np.ndarray]) -> list[np.ndarray]:
        """Constants of the outputs, computed from those of the inputs.

        By default, zeros according to `keeps_zero`.
        """
        if not self.keeps_zero:
            return [np.full(len(x), np.nan) for x in node.outputs]
        alive = [x.labels[c != 0] for x, c in zip(node.inputs, given, strict=True)]
        for member in node.members:
            if member.reads is None:
                others = set(range(len(member.variable.shape))) - {member.axis}
                values = numbers(member.variable)
                alive.append(member.labels[(values != 0).any(tuple(others))])
        living = np.concatenate(alive)
        return [np.where(np.isin(x.labels, living), np.nan, 0.0) for x in node.outputs]

    def needed(
        self, node: Node, needed: list[np.ndarray], given: list[np.ndarray]
    ) -> list[np.ndarray]:
        """The channels of each input that affect the `needed` outputs.

        By default, channels that non-zero weights read for them; if no member reads an
        input, channels with the same label.

        Args:
            node: The call.
            needed: Flags of each output's channels.
            given: Constants of the inputs.
        """
        made = np.concatenate([x.labels for x in node.outputs])
        wanted = made[np.concatenate(needed)]
        return [self._read(node, i, made, wanted) for i in range(len(node.inputs))]

    def _read(self, node, number, made, wanted):
        labels = node.inputs[number].labels
        readers = [x for x in node.members if x.reads == number]
        if not readers:
            passes = np.isin(labels, made)
            return np.where(passes, np.isin(labels, wanted), bool(len(wanted)))
        read = np.zeros(len(labels), bool)
        for reader in readers:
            nonzero = numbers(reader.variable) != 0
            for other in node.members:
                if other.variable is reader.variable and other.axis != reader.axis:
                    idle = np.isin(other.labels, made) & ~np.isin(other.labels, wanted)
                    nonzero = nonzero.swapaxes(0, other.axis)
                    nonzero[idle] = False
                    nonzero = nonzero.swapaxes(0, other.axis)
            others = tuple(i for i in range(nonzero.ndim) if i != reader.axis)
            read |= np.isin(labels, reader.labels[nonzero.any(others)])
        return read

    def inside(
        self, node: Node, needed: list[np.ndarray]
    ) -> list[tuple[np.ndarray, np.ndarray]]:
        """Labels of units, and flags: whether the layer needs them itself.

        By default, it needs units that are in no input or output and have a non-zero
        weight.

        Args:
            node: The call.
            needed: Flags of each output's channels.
        """
        outside = np.concatenate([x.labels for x in (*node.inputs, *node.outputs)])
        found = []
        for member in node.members:
            if np.isin(member.labels, outside).any():
                continue
            values = numbers(member.variable) != 0
            others = tuple(i for i in range(values.ndim) if i != member.axis)
            found.append((member.labels, values.any(others)))
        return found

    def resized(self, node: Node, kept: Kept) -> Resized:
        """The layer for the kept channels; here, its weights are cut along members."""
        if all(x.all() for x in (*kept.inputs, *kept.outputs, *kept.members)):
            return Resized()
        return Resized(
            self.config(
                node,
                [int(x.sum()) for x in kept.inputs],
                [int(x.sum()) for x in kept.outputs],
            ),
            cut(node, kept),
        )


def cut(node: Node, kept: Kept) -> dict[str, np.ndarray]:
    """The weights of a layer that are cut to the kept indices, by name."""
    if not node.members:
        return {}
    names = {id(x): name for name, x in weights_by_path(node.layer).items()}
    weights: dict[str, np.ndarray] = {}
    for member, flags in zip(node.members, kept.members, strict=True):
        if flags.all():
            continue
        name = names[id(member.variable)]
        if name not in weights:
            weights[name] = keras.ops.convert_to_numpy(member.variable)
        weights[name] = np.compress(flags, weights[name], member.axis)
    return weights


class Barrier(Rule):
    """Nothing is known, so the layer needs all channels, and all sizes stay.

    Args:
        reason: Why the layer is a barrier.
    """

    def __init__(self, reason: str):
        self.reason = reason


# Functions that act on each number separately, without those that this Keras lacks.
_ELEMENTWISE = (
    *("celu", "elu", "exponential", "gelu", "hard_shrink", "hard_sigmoid"),
    *("hard_silu", "hard_tanh", "leaky_relu", "linear", "log_sigmoid", "mish"),
    *("relu", "relu6", "selu", "sigmoid", "silu", "soft_shrink", "softplus"),
    *("softsign", "sparse_plus", "sparse_sigmoid", "squareplus", "tanh"),
    *("tanh_shrink", "threshold"),
)
_FUNCTIONS = [
    getattr(module, name)
    for module in (keras.activations, keras.ops)
    for name in _ELEMENTWISE
    if hasattr(module, name)
]
ACTIVATION_LAYERS = (keras.layers.ReLU, keras.layers.LeakyReLU, keras.layers.ELU)


def acts_by_element(activation: Any) -> bool:
    """Whether an activation is known to act on each number separately."""
    if isinstance(activation, keras.layers.Layer):
        return type(activation) in ACTIVATION_LAYERS
    return activation is None or activation in _FUNCTIONS


def applied(function: Any, constants: np.ndarray) -> np.ndarray:
    """Applies a function of numbers to the constants among them."""
    result = np.full(constants.shape, np.nan)
    known = ~np.isnan(constants)
    if known.any():
        values = function(constants[known][np.newaxis])
        result[known] = keras.ops.convert_to_numpy(values)[0]
    return finite(result)


def finite(constants: np.ndarray) -> np.ndarray:
    """The finite constants, since 0 times infinity would be NaN."""
    return np.where(np.isfinite(constants), constants, np.nan)


def numbers(weight: keras.Variable) -> np.ndarray:
    """The values of a weight as float64."""
    return keras.ops.convert_to_numpy(weight).astype(np.float64)


def pads(layer: keras.layers.Layer, shape: tuple) -> bool:
    """Whether a window of the layer can reach beyond the border of its input.

    Args:
        layer: A convolution or pooling layer.
        shape: Shape of its input, batch first and channels last.
    """
    if layer.padding == "valid":
        return False
    sizes = getattr(layer, "kernel_size", None) or layer.pool_size
    rates = _each(getattr(layer, "dilation_rate", 1), len(sizes))
    strides = _each(layer.strides, len(sizes))
    for n, size, rate, stride in zip(shape[1:-1], sizes, rates, strides, strict=True):
        reach = (size - 1) * rate + 1
        if layer.padding == "causal" or n is None:
            if reach > 1:
                return True
        elif (-(-n // stride) - 1) * stride + reach > n:
            return True
    return False


def _each(value, count):
    return (value,) * count if isinstance(value, int) else tuple(value)


def width(shape: tuple, axis: int = -1) -> int:
    """The number of channels; 1 if there is no such axis or its size is unknown."""
    return shape[axis] if has_channels(shape, axis) else 1


def has_channels(shape: tuple, axis: int = -1) -> bool:
    """Whether a shape has an axis of channels of known size."""
    return len(shape) > 1 and isinstance(shape[axis], int) and shape[axis] > 0
