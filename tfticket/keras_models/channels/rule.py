"""What a layer does to channels: the rules' common ground.

A value of the graph has one axis of channels, the last one unless a transposition
moved it; its other axes are positions. A rule says for its layer which channels of
what it makes are which of what it takes, which weights they index, and what a smaller
layer is.
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
        axis: Which axis they are on, counted from the end: -1 is the last.
        foreign: Whether they stand for positions, since the rule of the layer that
            takes them can't follow the axis that the value's channels are on.
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
        labels: Label of each index of the axis; one label may be there several times.
        reads: Number of the input whose channels these are, if the layer does not read
            a channel where all weights of its index are zero.
        zeroed: Whether the values of a pruned channel are zero. Variances stay.
    """

    variable: keras.Variable
    axis: int
    labels: np.ndarray
    reads: int | None = None
    zeroed: bool = True


@dataclasses.dataclass(frozen=True, eq=False)
class Product:
    """Multiplications and additions that use no weight, as those inside attention.

    Args:
        count: Positions where channels are multiplied; `None` if it is not known.
        axes: Labels of the axes whose living channels multiply the count.
    """

    count: int | None
    axes: tuple[np.ndarray, ...]


@dataclasses.dataclass(eq=False)
class Node:
    """One call, as rules see it.

    Args:
        call: The call.
        layer: The layer, without a wrapper that prunes it, or the operation.
        numbers: Numbers of the values it takes, masks left out.
        in_shapes: Shapes of those, batch first.
        inputs: Channels of those.
        rule: The rule that holds.
        shared: Whether the layer has weights and is called more than once.
        outputs: Channels of the values it makes.
        members: Axes of its weights that channels index.
        own: Labels that a rule makes for units inside the layer, for itself.
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
        """Positional arguments of the call, a `keras.KerasTensor` for each value."""
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
    """What stays around one call.

    Args:
        inputs: Flags of each input's channels.
        outputs: Flags of each output's channels.
        members: Flags of each member's indices.
        needed: Flags of each output's channels whose values matter. A channel can be
            kept for the sake of another one that it is tied to.
        constants: Constants of each input.
    """

    inputs: list[np.ndarray]
    outputs: list[np.ndarray]
    members: list[np.ndarray]
    needed: list[np.ndarray]
    constants: list[np.ndarray]


@dataclasses.dataclass(frozen=True)
class Resized:
    """What a smaller layer has different from its original.

    Args:
        config: Entries of the configuration.
        weights: Values by the name of the weight ("cell/kernel"); those not named stay
            as they are.
        emit: How it is called, where that is not `layer(*args, **kwargs)`: a function
            of the layer, the positional and the keyword arguments.
    """

    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)
    emit: Callable[[Any, tuple, dict], Any] | None = None


class Rule:
    """How channels pass a layer. This one: each by itself and unchanged.

    A rule for a layer of your own is a subclass under the decorator
    `tfticket.channel_rule`. Most need `outputs`, `members` and `config` only.

    Constants are float64 arrays, NaN where a channel is not the same number at every
    position of every sample.
    """

    # Whether it follows channels on another axis than the last.
    any_axis = False
    # Whether it may be called with other arguments than tensors.
    any_arguments = False
    # Whether a Keras mask of positions changes nothing that the rule says.
    any_mask = True
    # Whether its inputs may be of unknown size, as token numbers are.
    any_width = False
    # Whether a channel that is zero in every input, and whose weights are zero, is zero
    # in every output.
    keeps_zero = False
    # Whether channels that are there count, were they not read: those of statistics.
    counts_channels = False

    def of(self, layer: Any, rule_of: Callable[[Any], Rule]) -> Rule:
        """The rule for a layer of the kind: this one, or one of the layer's own.

        Args:
            layer: The layer.
            rule_of: Finds the rule of another layer, for layers that hold one.
        """
        return self

    def refuses(self, node: Node) -> str | None:
        """Why the rule does not hold for this call, if it does not."""
        return None

    def outputs(self, node: Node, labels: Labels) -> list[Channels]:
        """Channels of what the layer makes. Ties and pins are noted in `labels`."""
        return [node.inputs[0]] * len(node.out_shapes)

    def members(self, node: Node) -> list[Member]:
        """Axes of the layer's weights that channels index."""
        return []

    def products(self, node: Node) -> list[Product]:
        """Operations of one sample that use no weight."""
        return []

    def config(
        self, node: Node, inputs: list[int], outputs: list[int]
    ) -> dict[str, Any]:
        """Entries of the configuration for so many channels of inputs and outputs."""
        return {}

    def constants(self, node: Node, given: list[np.ndarray]) -> list[np.ndarray]:
        """Constants of the outputs, from those of the inputs.

        Here: what is zero by `keeps_zero`.
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
        """Whose values matter, of each input, where those of `needed` outputs do.

        Here: what weights that are not zero read for them, and where no member reads
        an input, what has the same label.

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
        """Labels of units, and flags: does the layer need them for itself?

        Here: of units that are in no input or output, those that have a weight that is
        not zero.

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
        """The layer for the channels kept. Here: weights cut along their members."""
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
    """The weights of a layer that lose something, by name, for the indices kept."""
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
    """Nothing is known: it needs all, and what it takes and makes keeps its size.

    Args:
        reason: Why it is one.
    """

    def __init__(self, reason: str):
        self.reason = reason


# Functions that act on each number by itself; those that a Keras does not have are
# left out.
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
    """Whether an activation is known to take each number by itself."""
    if isinstance(activation, keras.layers.Layer):
        return type(activation) in ACTIVATION_LAYERS
    return activation is None or activation in _FUNCTIONS


def applied(function: Any, constants: np.ndarray) -> np.ndarray:
    """A function of numbers, applied to the constants among them."""
    result = np.full(constants.shape, np.nan)
    known = ~np.isnan(constants)
    if known.any():
        values = function(constants[known][np.newaxis])
        result[known] = keras.ops.convert_to_numpy(values)[0]
    return finite(result)


def finite(constants: np.ndarray) -> np.ndarray:
    """The constants; infinite ones are none, since 0 times infinity is NaN."""
    return np.where(np.isfinite(constants), constants, np.nan)


def numbers(weight: keras.Variable) -> np.ndarray:
    """A weight's values as float64."""
    return keras.ops.convert_to_numpy(weight).astype(np.float64)


def pads(layer: keras.layers.Layer, shape: tuple) -> bool:
    """Whether a window of the layer can reach past the border of its input.

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
    """The number of channels, 1 where there is no such axis or its size is unknown."""
    return shape[axis] if has_channels(shape, axis) else 1


def has_channels(shape: tuple, axis: int = -1) -> bool:
    """Whether a shape has an axis of channels of known size."""
    return len(shape) > 1 and isinstance(shape[axis], int) and shape[axis] > 0
