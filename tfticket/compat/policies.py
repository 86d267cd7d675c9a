"""Policies: which layers of a model to prune, and whether that is worth it."""

import abc
from collections.abc import Callable, Iterable

import keras
from keras import layers

from tfticket.keras_models.masked_layer import inner_layer
from tfticket.keras_models.names import is_graph

_ACTIVATIONS = ("relu", "relu6", "leaky_relu", "elu", "sigmoid")
# Operations that `x + y` and its like are, not layers.
_OPERATIONS = ("Add", "Multiply", "Subtract")


class PruningPolicy(abc.ABC):
    """Says which layers of a model `prune_low_magnitude` wraps.

    A policy of your own implements both methods.

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
        """Whether this layer is to be pruned."""

    @abc.abstractmethod
    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Raises a ValueError if the model is not one that the policy is for."""


class PruneForLatencyOnXNNPack(PruningPolicy):
    """Prunes 1x1 Conv2D layers, in a model where XNNPACK runs those sparse.

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
        """Whether it is a 1x1 Conv2D."""
        return isinstance(layer, layers.Conv2D) and tuple(layer.kernel_size) == (1, 1)

    def ensure_model_supports_pruning(self, model: keras.Model) -> None:
        """Checks that XNNPACK can run the model's 1x1 convolutions sparsely.

        Args:
            model: A built Sequential or Functional model. Nested ones count as part of
                it.

        Raises:
            ValueError: If it is subclassed or not built, an input does not lead to a
                first convolution, an output does not come from GlobalAveragePooling2D,
                or a layer between the two is of a kind that XNNPACK does not run
                sparsely.
        """
        graph = _Graph(model)
        starts = graph.reach(
            graph.inputs,
            graph.consumers,
            graph.is_start,
            "On it, as on every path from an input, there must be a Conv2D with a 3x3 "
            "kernel, strides of 2, 3 input channels and padding='valid', right after a "
            "ZeroPadding2D(1).",
        )
        ends = graph.reach(
            graph.outputs,
            graph.producers,
            lambda layer: isinstance(layer, layers.GlobalAveragePooling2D),
            "On it, as on every path back from an output, there must be a "
            "GlobalAveragePooling2D.",
        )

        def stop(layer):
            if layer not in ends and not graph.is_supported(layer):
                raise ValueError(
                    f"Layer '{layer.name}' ({type(layer).__name__}) is not supported "
                    f"by {type(self).__name__}: {_mend(layer)} Change the layer, or "
                    "prune without this policy."
                )
            return layer in ends

        after = [layer for start in starts for layer in graph.consumers[start]]
        graph.reach(after, graph.consumers, stop, "GlobalAveragePooling2D must follow.")


class _Graph:
    """Which layer of a model feeds which, nested models taken apart."""

    def __init__(self, model: keras.Model):
        if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
            raise ValueError(
                f"Model '{model.name}' ({type(model).__name__}) is subclassed, so its "
                "layers can't be followed. Rebuild it as a Functional model."
            )
        if not model.built:
            raise ValueError(
                f"Model '{model.name}' is not built. Start it with keras.Input(shape)."
            )
        self.producers: dict = {}
        self.consumers: dict = {}
        self.inputs: list = []
        self.outputs = [layer for source in self._walk(model, None) for layer in source]

    def _walk(self, model: keras.Model, feeds: list | None) -> list[list]:
        """Notes a model's layers; returns the layers that give each of its outputs.

        `feeds` are the layers that give each input, `None` for the outermost model.
        """
        function = getattr(model, "_functional", None) or model
        sources = {}
        if feeds is not None:
            sources = {
                id(tensor): feed
                for tensor, feed in zip(function.inputs, feeds, strict=True)
            }
        for depth in sorted(function._nodes_by_depth, reverse=True):
            for node in function._nodes_by_depth[depth]:
                layer = node.operation
                if node.is_input:
                    if feeds is None:
                        self._note(layer, [])
                        self.inputs.append(layer)
                        sources[id(node.output_tensors[0])] = [layer]
                    continue
                given = [sources[id(tensor)] for tensor in node.input_tensors]
                if is_graph(layer):
                    results = self._walk(layer, given)
                else:
                    self._note(layer, [x for source in given for x in source])
                    results = [[layer]] * len(node.output_tensors)
                for tensor, result in zip(node.output_tensors, results, strict=True):
                    sources[id(tensor)] = result
        return [sources[id(tensor)] for tensor in function.outputs]

    def _note(self, layer, producers):
        known = self.producers.setdefault(layer, [])
        self.consumers.setdefault(layer, [])
        for producer in producers:
            if producer not in known:
                known.append(producer)
                self.consumers[producer].append(layer)

    def reach(self, begin: Iterable, step: dict, stop: Callable, mend: str) -> list:
        """The layers that `stop` holds for, one on every path from `begin`.

        Raises:
            ValueError: If a path ends before.
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
                    f"({type(layer).__name__}). {mend} Otherwise XNNPACK runs nothing "
                    "sparsely: prune without PruneForLatencyOnXNNPack."
                )
            for following in step[layer]:
                if following not in seen:
                    seen.add(following)
                    to_visit.append(following)
        return found

    def is_start(self, layer: keras.layers.Layer) -> bool:
        """Whether sparse inference can begin after this layer."""
        return (
            isinstance(layer, layers.Conv2D)
            and tuple(layer.kernel.shape[:3]) == (3, 3, 3)
            and tuple(layer.strides) == (2, 2)
            and layer.padding == "valid"
            and self._is_padded(layer, 1)
        )

    def is_supported(self, layer: keras.layers.Layer) -> bool:
        """Whether sparse inference goes on through this layer."""
        layer = inner_layer(layer)
        if isinstance(layer, layers.DepthwiseConv2D):
            size = layer.kernel_size[0]
            return (
                tuple(layer.kernel_size) in ((3, 3), (5, 5))
                and layer.depth_multiplier == 1
                and tuple(layer.dilation_rate) == (1, 1)
                and (
                    (layer.padding == "same" and tuple(layer.strides) == (1, 1))
                    or (
                        layer.padding == "valid"
                        and tuple(layer.strides) in ((1, 1), (2, 2))
                        and self._is_padded(layer, size // 2)
                    )
                )
            )
        if isinstance(layer, layers.Conv2D):
            return (
                layer.groups == 1
                and tuple(layer.kernel_size) == (1, 1)
                and tuple(layer.strides) == (1, 1)
                and tuple(layer.dilation_rate) == (1, 1)
            )
        if isinstance(layer, layers.GlobalAveragePooling2D):
            return layer.keepdims
        if isinstance(layer, layers.BatchNormalization):
            return layer.axis == 3 or (layer.axis == -1 and layer.input_spec.ndim == 4)
        if isinstance(layer, layers.UpSampling2D):
            return layer.interpolation == "bilinear"
        if isinstance(layer, layers.Activation):
            return keras.activations.serialize(layer.activation) in _ACTIVATIONS
        if not isinstance(layer, layers.Layer):
            return type(layer).__name__ in _OPERATIONS
        return isinstance(
            layer,
            (
                layers.Add,
                layers.Multiply,
                layers.ZeroPadding2D,
                layers.ReLU,
                layers.LeakyReLU,
                layers.ELU,
                layers.Dropout,
            ),
        )

    def _is_padded(self, layer: keras.layers.Layer, width: int) -> bool:
        producers = self.producers.get(layer, [])
        return (
            len(producers) == 1
            and isinstance(producers[0], layers.ZeroPadding2D)
            and producers[0].padding == ((width, width), (width, width))
        )


def _mend(layer: keras.layers.Layer) -> str:
    layer = inner_layer(layer)
    if isinstance(layer, layers.DepthwiseConv2D):
        return (
            "depthwise convolutions must be 3x3 or 5x5, depth_multiplier=1, not "
            "dilated, and either padding='same' with strides of 1 or padding='valid' "
            "with strides of 1 or 2 after a ZeroPadding2D of 1 (3x3) or 2 (5x5)."
        )
    if isinstance(layer, layers.Conv2D):
        return (
            "convolutions after the first must be 1x1, groups=1, strides of 1, not "
            "dilated."
        )
    if isinstance(layer, layers.GlobalAveragePooling2D):
        return "in the middle of a model it must have keepdims=True."
    if isinstance(layer, layers.BatchNormalization):
        return "it must normalize the last axis of images, axis=-1."
    if isinstance(layer, layers.UpSampling2D):
        return "its interpolation must be 'bilinear'."
    if isinstance(layer, layers.Activation):
        return f"its activation must be one of {', '.join(_ACTIVATIONS)}."
    return (
        "supported are 1x1 and depthwise convolutions, BatchNormalization, Add, "
        "Multiply, ZeroPadding2D, bilinear UpSampling2D, ReLU, LeakyReLU, ELU, "
        f"Dropout, and Activation of {', '.join(_ACTIVATIONS)}."
    )
