"""Which weights of a Keras layer can be pruned."""

import keras

_KERNEL_LAYERS = (
    keras.layers.Dense,
    keras.layers.EinsumDense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)
_SEPARABLE_LAYERS = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)


def prunable_weights(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The weights of a built layer that pruning masks.

    Kernels of Dense, EinsumDense and the convolutions, and the pointwise kernel
    of a separable convolution. Biases and BatchNorm are never pruned. Any other
    layer says for itself with a method `get_prunable_weights()`.

    Args:
        layer: A layer, built.

    Returns:
        List of variables, empty where there is nothing to prune.

    Raises:
        TypeError: If `get_prunable_weights()` returns anything but Keras
            variables.
    """
    if hasattr(layer, "get_prunable_weights"):
        weights = list(layer.get_prunable_weights())
        for weight in weights:
            if not isinstance(weight, keras.Variable):
                raise TypeError(
                    "get_prunable_weights() must return keras.Variable objects. "
                    f"Layer '{layer.name}' returned: {weight!r}"
                )
        return weights
    if isinstance(layer, _SEPARABLE_LAYERS):
        return [layer.pointwise_kernel]
    # A kernel that is no plain variable (LoRA adds to it, quantisation scales
    # it) can't carry a mask of its own.
    if isinstance(layer, _KERNEL_LAYERS) and isinstance(layer.kernel, keras.Variable):
        return [layer.kernel]
    return []


def is_prunable(layer: keras.layers.Layer) -> bool:
    """Whether a layer, built or not, is of a kind that has prunable weights."""
    kinds = _KERNEL_LAYERS + _SEPARABLE_LAYERS
    return isinstance(layer, kinds) or hasattr(layer, "get_prunable_weights")
