"""What is known of channels: which are constant, which stay or go together.

A channel is an index of a tensor's last axis. What a layer does to channels is a
`Rule`; what no rule knows is a `Barrier`, which needs all and keeps all.
"""

import dataclasses
from typing import Any

import keras
import numpy as np

from tfticket.keras_models.graph import Call


class Classes:
    """Channels, each with a label; tied ones stay or go together."""

    def __init__(self):
        self._parents = []
        self._pinned = []

    def fresh(self, count: int) -> np.ndarray:
        """Labels of so many channels tied to none."""
        start = len(self._parents)
        self._parents.extend(range(start, start + count))
        return np.arange(start, start + count)

    def tie(self, some: np.ndarray, others: np.ndarray) -> None:
        """Ties the channels of two arrays of labels, one by one."""
        for one, other in zip(some.tolist(), others.tolist(), strict=True):
            if one != other:
                one, other = self._root(one), self._root(other)
                self._parents[max(one, other)] = min(one, other)

    def pin(self, labels: np.ndarray) -> None:
        """Channels that stay, read or not."""
        self._pinned.append(labels)

    def kept(
        self, labels: list[np.ndarray], needed: list[np.ndarray]
    ) -> list[np.ndarray]:
        """Which channels of each value stay: what is needed, tied to it, or pinned.

        Every value keeps a channel, since no layer can be empty: the first.
        """
        roots = np.array([self._root(i) for i in range(len(self._parents))])
        labels = [roots[x] for x in labels]
        stay = np.zeros(len(roots), bool)
        for pinned in self._pinned:
            stay[roots[pinned]] = True
        for of_value, read in zip(labels, needed, strict=True):
            stay[of_value[read]] = True
        for of_value in labels:
            if not stay[of_value].any():
                stay[of_value[0]] = True
        return [stay[of_value] for of_value in labels]

    def _root(self, label):
        while self._parents[label] != label:
            self._parents[label] = self._parents[self._parents[label]]
            label = self._parents[label]
        return label


@dataclasses.dataclass(frozen=True)
class Resized:
    """What a smaller layer has different from its original.

    Args:
        config: Entries of the configuration.
        weights: Values by the name of the weight; those not named stay as they are.
    """

    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    weights: dict[str, np.ndarray] = dataclasses.field(default_factory=dict)


class Rule:
    """How channels pass a layer. This one: each by itself and unchanged.

    Constants are float64 arrays, NaN where a channel is not the same number at every
    position of every sample.
    """

    def refuses(self, call: Call) -> str | None:
        """Why the rule does not hold for this call, if it does not."""
        return None

    def constants(self, call: Call, given: list[np.ndarray]) -> np.ndarray:
        """Constants of the output, from those of the inputs."""
        return given[0]

    def ties(self, call: Call, given: list[np.ndarray], classes: Classes) -> np.ndarray:
        """Labels of the output's channels, from those of the inputs."""
        return given[0]

    def needed(
        self, call: Call, needed: np.ndarray, given: list[np.ndarray]
    ) -> list[np.ndarray]:
        """Whose values matter, of each input, where those of `needed` outputs do.

        Args:
            call: The call.
            needed: Flags of the output's channels.
            given: Constants of the inputs. A rule that folds a constant into a bias
                does not need the channel.
        """
        return [needed for _ in given]

    def resized(
        self,
        call: Call,
        kept: list[np.ndarray],
        kept_out: np.ndarray,
        needed: np.ndarray,
        given: list[np.ndarray],
    ) -> Resized:
        """The layer for the channels kept.

        Args:
            call: The call.
            kept: Flags of each input's channels.
            kept_out: Flags of the output's channels.
            needed: Flags of the output's channels whose values matter. A channel can
                be kept for the sake of another one that it is tied to.
            given: Constants of the inputs.
        """
        return Resized()


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
