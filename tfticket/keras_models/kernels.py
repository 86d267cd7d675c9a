"""Which weights of a Keras layer can be pruned, and which axes are summed."""

import dataclasses
from collections.abc import Collection
from typing import Any

import keras

from tfticket.keras_models.names import every_layer, join, weights_by_path

_DENSE = (keras.layers.Dense,)
_CONVOLUTIONS = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
_TRANSPOSES = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)
DEPTHWISE = (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
_SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)
_HOLD_KERNELS = (
    *_DENSE,
    *_CONVOLUTIONS,
    *_TRANSPOSES,
    *DEPTHWISE,
    *_SEPARABLE,
    keras.layers.EinsumDense,
    keras.layers.Embedding,
    keras.layers.GroupQueryAttention,
    keras.layers.MultiHeadAttention,
    keras.layers.RNN,
)
_NEVER_HOLD_KERNELS = (
    keras.layers.Activation,
    keras.layers.BatchNormalization,
    keras.layers.Dropout,
    keras.layers.Flatten,
    keras.layers.InputLayer,
    keras.layers.LayerNormalization,
    keras.layers.Reshape,
)


@dataclasses.dataclass(frozen=True, eq=False)
class PrunableWeight:
    """A weight that a mask can prune.

    Args:
        name: Its path in the wrapped layer, such as "kernel" or "cell/kernel".
        variable: The Keras variable.
        layer: The layer that it belongs to.
        reduction_axes: Axes that the layer sums over, along which N:M groups lie. Empty
            if nothing is summed (an Embedding).
        channel_axes: Axes that number the layer's output channels.
    """

    name: str
    variable: keras.Variable
    layer: keras.layers.Layer
    reduction_axes: tuple[int, ...]
    channel_axes: tuple[int, ...]

    @property
    def is_kernel(self) -> bool:
        """Whether a layer multiplies by it or looks it up, according to its axes."""
        return bool(self.reduction_axes or self.channel_axes)

    @property
    def is_statistic(self) -> bool:
        """Whether the layer updates it like a moving mean; nothing trains it."""
        return self.variable.name.startswith("moving_")


@dataclasses.dataclass(frozen=True, eq=False)
class MaskedWeight(PrunableWeight):
    """A weight and its mask.

    Args:
        mask: Boolean variable in the weight's shape, True where it is kept; a boolean
            tensor for a layer that chooses its masks itself.
        gradient_mask: If pruned entries keep their values, the boolean variable that is
            True where they get a gradient; otherwise `None`.
    """

    mask: Any
    gradient_mask: Any = None

    @property
    def keeps_dense(self) -> bool:
        """Whether its variable keeps the values of pruned entries."""
        return self.gradient_mask is not None

    def value(self) -> Any:
        """What the layer computes with: the variable's value, LoRA's masked sum."""
        value = effective_value(self)
        masked = has_adapter(self) or self.keeps_dense
        return apply_mask(value, self.mask) if masked else value


def apply_mask(value: Any, mask: Any) -> Any:
    """`value` where the mask is True, otherwise exactly 0.0, even for NaN."""
    # These must be tensors, because JAX takes no variables.
    value = keras.ops.convert_to_tensor(value)
    mask = keras.ops.convert_to_tensor(mask)
    return keras.ops.where(mask, value, keras.ops.cast(0, value.dtype))


def prunable_weights(layer: keras.layers.Layer) -> list[PrunableWeight]:
    """The weights of a built layer and its sublayers that pruning masks.

    These are the kernels of Dense, EinsumDense and convolutions, the pointwise kernel
    of a separable convolution, and both kernels of recurrent cells, at any depth:
    inside MultiHeadAttention, LSTM, Bidirectional, a model. An Embedding's table is
    included only if the layer is the Embedding itself. Biases and normalizations are
    never included. A layer with a method `get_prunable_weights()` chooses its weights
    itself.

    Args:
        layer: A layer, built.

    Returns:
        List of `PrunableWeight`, each variable once; empty if there is nothing to
        prune.

    Raises:
        TypeError: If `get_prunable_weights()` returns anything except Keras variables.

    Example:

    >>> layer = keras.layers.LSTM(2)
    >>> layer.build((None, 5, 3))
    >>> [weight.name for weight in prunable_weights(layer)]
    ['cell/kernel', 'cell/recurrent_kernel']
    """
    found: dict[int, PrunableWeight] = {}
    names = {id(v): name for name, v in weights_by_path(layer).items()}
    said: set[int] = set()  # layers inside one that has chosen for itself
    for path, part in every_layer(layer):
        if id(part) in said:
            continue
        if hasattr(part, "get_prunable_weights"):
            said.update(id(x) for _, x in every_layer(part))
        for variable, reduction, channels in _own(part, top=part is layer):
            name = names.get(id(variable), join(path, variable.name))
            weight = PrunableWeight(name, variable, part, reduction, channels)
            found.setdefault(id(variable), weight)
    return list(found.values())


def weights_named(
    layer: keras.layers.Layer, names: Collection[str]
) -> list[PrunableWeight]:
    """Weights of a built layer by name, and the meaning of their kernels' axes.

    Args:
        layer: A layer, built.
        names: Paths in the layer, such as "kernel", "bias" or "cell/kernel".

    Raises:
        ValueError: If the layer has no weight with one of the names.

    Example:

    >>> layer = keras.layers.Dense(2)
    >>> layer.build((None, 3))
    >>> [w.channel_axes for w in weights_named(layer, ["kernel", "bias"])]
    [(1,), ()]
    """
    kernels = {weight.name: weight for weight in prunable_weights(layer)}
    there = weights_by_path(layer)
    if unknown := sorted(set(names) - set(there)):
        raise ValueError(
            f"Layer '{layer.name}' has no weight named {unknown}. It has: {list(there)}"
        )
    return [
        kernels.get(name, PrunableWeight(name, variable, layer, (), ()))
        for name, variable in there.items()
        if name in names
    ]


def _own(layer, top):
    """(variable, reduction axes, channel axes) of a layer's own weights."""
    if hasattr(layer, "get_prunable_weights"):
        for weight in layer.get_prunable_weights():
            if not isinstance(weight, keras.Variable):
                raise TypeError(
                    "get_prunable_weights() must return keras.Variable objects. "
                    f"Layer '{layer.name}' returned: {weight!r}"
                )
            # In Keras's layout of a kernel, inputs and outputs are the last two axes.
            rank = len(weight.shape)
            yield weight, (rank - 2,) if rank > 1 else (), (rank - 1,)
        return
    if getattr(layer, "quantization_mode", None) is not None:
        return
    if isinstance(layer, _SEPARABLE):
        kernel = layer.pointwise_kernel
        yield kernel, (len(kernel.shape) - 2,), (len(kernel.shape) - 1,)
    elif _is_cell(layer):
        for kernel in (layer.kernel, layer.recurrent_kernel):
            rank = len(kernel.shape)
            yield kernel, (rank - 2,), (rank - 1,)
    elif isinstance(layer, keras.layers.Embedding) and top:
        for table in _variables(layer, "embeddings"):
            yield table, (), (1,)
    elif _is_kernel_layer(layer):
        for kernel in _variables(layer, "kernel"):
            yield kernel, *_axes(layer, len(kernel.shape))


def _variables(layer, name):
    """A list with the variable of that name; empty if the layer computes it instead."""
    value = getattr(layer, name)
    if isinstance(value, keras.Variable):
        return [value]
    # With LoRA the attribute is the sum of the variable and the trained update.
    return [weight for weight in layer.weights if weight.name == name][:1]


def _axes(layer, rank):
    if isinstance(layer, keras.layers.EinsumDense):
        inputs, kernel, outputs = _subscripts(layer.equation)
        return (
            tuple(i for i, x in enumerate(kernel) if x not in outputs),
            tuple(i for i, x in enumerate(kernel) if x not in inputs),
        )
    if isinstance(layer, _TRANSPOSES):
        return (rank - 1,), (rank - 2,)
    if isinstance(layer, DEPTHWISE):
        return tuple(range(rank - 2)), (rank - 2, rank - 1)
    return (rank - 2,), (rank - 1,)


def _subscripts(equation):
    terms, outputs = equation.replace(" ", "").split("->")
    inputs, kernel = terms.split(",")
    return inputs, kernel, outputs


def _is_kernel_layer(layer):
    kinds = _DENSE + _CONVOLUTIONS + _TRANSPOSES + DEPTHWISE
    return isinstance(layer, (*kinds, keras.layers.EinsumDense))


def _is_cell(layer):
    # ConvLSTM's cell has no public class.
    return hasattr(layer, "state_size") and isinstance(
        getattr(layer, "recurrent_kernel", None), keras.Variable
    )


def may_be_prunable(layer: keras.layers.Layer) -> bool:
    """False for a layer, built or not, that certainly has nothing to prune."""
    if layer.built:
        return bool(prunable_weights(layer))
    return not isinstance(layer, _NEVER_HOLD_KERNELS)


def holds_kernels(layer: keras.layers.Layer) -> bool:
    """Whether a Keras layer, built or not, has or will have something to prune."""
    if layer.built:
        return bool(prunable_weights(layer))
    return any(isinstance(part, _HOLD_KERNELS) for _, part in every_layer(layer))


def why_dense(layer: keras.layers.Layer) -> str:
    """Why a built layer has no mask, in a few words for a table."""
    if not layer.weights:
        return "has no weights"
    if isinstance(layer, keras.layers.Embedding):
        return "Embedding: pruned only if include names it"
    if any(getattr(x, "quantization_mode", None) for _, x in every_layer(layer)):
        return "quantized: prune before quantizing"
    if prunable_weights(layer):
        return "not wrapped"
    if isinstance(layer, keras.layers.Wrapper) or type(layer).__module__.startswith(
        "keras."
    ):
        return "no kernel: biases, scales and statistics stay dense"
    return "custom layer without get_prunable_weights()"


def has_adapter(weight: PrunableWeight) -> bool:
    """Whether its layer adds a trained update to it (LoRA)."""
    return bool(getattr(weight.layer, "lora_enabled", False))


def effective_value(weight: PrunableWeight) -> Any:
    """What the layer computes with: the variable's value plus LoRA's part."""
    if not has_adapter(weight):
        return keras.ops.convert_to_tensor(weight.variable.value)
    embeds = isinstance(weight.layer, keras.layers.Embedding)
    return weight.layer.embeddings if embeds else weight.layer.kernel
