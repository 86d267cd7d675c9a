"""Policies choose the layers to prune, and refuse models that gain nothing."""

import abc
import functools
from collections.abc import Callable, Iterable
from typing import Any

import keras
from keras import layers

from tfticket.common.arguments import check_instance
from tfticket.keras_models.graph import FlatGraph
from tfticket.keras_models.masked_layer import inner_layer
from tfticket.keras_models.names import is_graph


class PruningPolicy(abc.ABC):
    """Says which layers of a model `prune_low_magnitude` wraps.

    Your own policy implements both methods.

    Example:

    >>> from tfticket.compat import tfmot
    >>> class NotTheOutput(tfmot.sparsity.keras.PruningPolicy):
    ...     def allow_pruning(self, layer):
    ...         return isinstance(layer, keras.layers.Dense) and layer.name != "out"
    ...
    ...     def ensure_model_supports_pruning(self, model):
    ...         model.get_layer("out")
    >>> hidden = keras.layers.Dense(3, name="hidden")
    >>> out = keras.layers.Dense(2, name="out")
    >>> model = tfmot.sparsity.keras.prune_low_magnitude(
    ...     keras.Sequential([keras.Input((4,)), hidden, out]),
    ...     pruning_policy=NotTheOutput(),
    ... )
    >>> list(tfticket.get_masks(model))
    ['hidden/kernel']
    """

    @abc.abstractmethod
    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Whether to prune this layer."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises a ValueError if the policy does not fit the model."""


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes 1x1 Conv2D layers of a model in which XNNPACK runs them sparse.

    XNNPACK infers sparsely from a first convolution (3x3, stride 2, 3 channels,
    padding "valid" after a ZeroPadding2D of 1) up to GlobalAveragePooling2D, through
    layers that it has kernels for in that layout. See *Fast Sparse ConvNets*, arXiv
    1911.09723.

    Example:

    >>> from tfticket.compat import tfmot
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((8, 8, 3)),
    ...         keras.layers.ZeroPadding2D(1),
    ...         keras.layers.Conv2D(4, 3, strides=2),
    ...         keras.layers.Conv2D(8, 1, activation="relu", name="pointwise"),
    ...         keras.layers.GlobalAveragePooling2D(),
    ...         keras.layers.Dense(2),
    ...     ]
    ... )
    >>> policy = tfmot.sparsity.keras.PruneForLatencyOnXNNPack()
    >>> pruned = tfmot.sparsity.keras.prune_low_magnitude(model, pruning_policy=policy)
    >>> list(tfticket.get_masks(pruned))
    ['pointwise/kernel']
    """

    def allow_pruning(self, layer: keras.layers.Layer) -> bool:
        """Whether the layer is a 1x1 Conv2D."""
        check_instance("layer", layer, layers.Layer, "a keras.layers.Layer")
        return isinstance(layer, layers.Conv2D) and tuple(layer.kernel_size) == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Checks that XNNPACK can run the model's 1x1 convolutions sparsely.

        Args:
            model: A built Sequential or Functional model. The layers of nested models
                count as its own.

        Raises:
            TypeError: If it is not a Keras model.
            ValueError: If the model is subclassed or not built, if an input does not
                lead to a first convolution, if an output does not come from
                GlobalAveragePooling2D, or if XNNPACK does not run a layer between the
                two sparsely.
        """
        _require_built_graph(model)
        graph = _LayerGraph(model)
        starts = graph.reach(
            graph.inputs,
            graph.consumers,
            lambda layer: _is_start(layer, graph),
            "Every path from an input must contain a Conv2D with a 3x3 kernel, "
            "strides of 2, 3 input channels and padding='valid', directly after a "
            "ZeroPadding2D(1).",
        )
        ends = graph.reach(
            graph.outputs,
            graph.producers,
            lambda layer: isinstance(layer, layers.GlobalAveragePooling2D),
            "Every path to an output must contain a GlobalAveragePooling2D.",
        )

        def stop(layer):
            if layer not in ends:
                _check_layer(layer, graph)
            return layer in ends

        after = [layer for start in starts for layer in graph.consumers[start]]
        graph.reach(after, graph.consumers, stop, "GlobalAveragePooling2D must follow.")


def _require_built_graph(model):
    check_instance("model", model, keras.Model, "a keras.Model")
    if not is_graph(model):
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed, so its "
            "layers can't be followed. Rebuild it as a Functional model."
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built. Start it with keras.Input(shape)."
        )


class _LayerGraph:
    """Which layer of a model feeds which; the layers of nested models count as its own.

    Args:
        model: A built Sequential or Functional model.
    """

    def __init__(self, model: keras.Model):
        graph = FlatGraph(model)
        self.producers: dict[Any, list] = {}
        self.consumers: dict[Any, list] = {}
        self.inputs = graph.input_layers
        makers: dict[int, Any] = dict(zip(graph.inputs, self.inputs, strict=True))
        for layer in self.inputs:
            self._note(layer, [])
        for call in graph.calls:
            self._note(call.operation, [makers[i] for i in call.inputs])
            makers.update(dict.fromkeys(call.outputs, call.operation))
        self.outputs = [makers[i] for i in graph.outputs]

    def _note(self, layer, producers):
        known = self.producers.setdefault(layer, [])
        self.consumers.setdefault(layer, [])
        for producer in producers:
            if producer not in known:
                known.append(producer)
                self.consumers[producer].append(layer)

    def reach(self, begin: Iterable, step: dict, stop: Callable, mend: str) -> list:
        """The first layer on every path from `begin` for which `stop` is True.

        Raises:
            ValueError: If a path ends without one.
        """
        to_visit, seen, found = list(begin), set(begin), []
        while to_visit:
            layer = to_visit.pop(0)
            if stop(layer):
                found.append(layer)
                continue
            if not step[layer]:
                raise ValueError(
                    f"A path through the model ends at layer '{layer.name}' "
                    f"({type(layer).__name__}). {mend} Otherwise XNNPACK runs no layer "
                    "sparsely: prune without PruneForLatencyOnXNNPack."
                )
            for following in step[layer]:
                if following not in seen:
                    seen.add(following)
                    to_visit.append(following)
        return found

    def is_padded(self, layer: keras.layers.Layer, width: int) -> bool:
        """Whether the layer comes directly after a ZeroPadding2D of this width."""
        producers = self.producers.get(layer, [])
        return (
            len(producers) == 1
            and isinstance(producers[0], layers.ZeroPadding2D)
            and producers[0].padding == ((width, width), (width, width))
        )


def _is_start(layer, graph):
    """Whether sparse inference can begin after this layer."""
    return (
        isinstance(layer, layers.Conv2D)
        and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
        and tuple(layer.strides) == (2, 2)
        and layer.padding == "valid"
        and graph.is_padded(layer, 1)
    )


def _check_layer(layer, graph):
    """Raises a ValueError if sparse inference can't go on through this layer."""
    inner = inner_layer(layer)
    holds, mend = _requirement(inner)
    if not holds(inner, functools.partial(graph.is_padded, layer)):
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) is not supported by "
            f"PruneForLatencyOnXNNPack: {mend} Change the layer, or prune without "
            "this policy."
        )


def _requirement(layer):
    """What XNNPACK requires of a layer, as a function and in words."""
    for kinds, holds, mend in _REQUIREMENTS:
        if isinstance(layer, kinds):
            return holds, mend
    # `x + y` and similar expressions are operations, not layers.
    is_operation = not isinstance(layer, layers.Layer)
    supported = is_operation and type(layer).__name__ in _OPERATIONS
    return lambda layer, is_padded: supported, _SUPPORTED


def _depthwise_runs(layer, is_padded):
    size, strides = tuple(layer.kernel_size), tuple(layer.strides)
    if size not in ((3, 3), (5, 5)) or layer.depth_multiplier != 1:
        return False
    if tuple(layer.dilation_rate) != (1, 1):
        return False
    if layer.padding == "same":
        return strides == (1, 1)
    return strides in ((1, 1), (2, 2)) and is_padded(size[0] // 2)


def _pointwise_runs(layer, is_padded):
    window = (layer.kernel_size, layer.strides, layer.dilation_rate)
    return layer.groups == 1 and all(tuple(x) == (1, 1) for x in window)


_OPERATIONS = ("Add", "Multiply", "Subtract")
_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid")
_SUPPORTED = (
    "supported are 1x1 and depthwise convolutions, BatchNormalization, Add, "
    "Multiply, ZeroPadding2D, bilinear UpSampling2D, ReLU, LeakyReLU, ELU, "
    f"Dropout, and Activation of {', '.join(_ACTIVATIONS)}."
)
# Kinds of layers, whether XNNPACK runs one sparsely, and what it requires. The function
# takes the layer and a function of the width of the padding that must come before it.
_REQUIREMENTS: tuple[tuple[Any, Callable, str], ...] = (
    (
        layers.DepthwiseConv2D,
        _depthwise_runs,
        "depthwise convolutions must be 3x3 or 5x5, depth_multiplier=1, not "
        "dilated, and either padding='same' with strides of 1 or padding='valid' "
        "with strides of 1 or 2 after a ZeroPadding2D of 1 (3x3) or 2 (5x5).",
    ),
    (
        layers.Conv2D,
        _pointwise_runs,
        "convolutions after the first must be 1x1, groups=1, strides of 1, not "
        "dilated.",
    ),
    (
        layers.GlobalAveragePooling2D,
        lambda layer, is_padded: layer.keepdims,
        "inside a model it must have keepdims=True.",
    ),
    (
        layers.BatchNormalization,
        lambda layer, is_padded: (
            layer.axis == 3 or (layer.axis == -1 and layer.input_spec.ndim == 4)
        ),
        "it must normalize the last axis of images, axis=-1.",
    ),
    (
        layers.UpSampling2D,
        lambda layer, is_padded: layer.interpolation == "bilinear",
        "its interpolation must be 'bilinear'.",
    ),
    (
        layers.Activation,
        lambda layer, is_padded: (
            keras.activations.serialize(layer.activation) in _ACTIVATIONS
        ),
        f"its activation must be one of {', '.join(_ACTIVATIONS)}.",
    ),
    (
        (
            *(layers.Add, layers.Multiply, layers.ZeroPadding2D, layers.Dropout),
            *(layers.ReLU, layers.LeakyReLU, layers.ELU),
        ),
        lambda layer, is_padded: True,
        "",
    ),
)
