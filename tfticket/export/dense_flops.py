"""Operations that a layer takes, zeros in its weights counted like any number."""

import math

import keras

layers = keras.layers

_BY_OUTPUT = (
    *(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
)
_BY_INPUT = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)


def dense_flops(
    layer: keras.layers.Layer, in_shape: tuple, out_shape: tuple
) -> int | None:
    """Multiplications and additions of one sample: two for a weight and position.

    Counted are the kernels of Dense and of convolutions, as if all weights were there;
    the window at the border counts as whole. Biases, activations and other layers
    count as none.

    Args:
        layer: A built layer.
        in_shape: Shape of its input, batch first and channels last.
        out_shape: Shape of its output.

    Returns:
        The count; `None` if the number of positions is not known.

    Example:

    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 4))
    >>> dense_flops(layer, (None, 4), (None, 3))
    24
    """
    if not isinstance(layer, _BY_OUTPUT + _BY_INPUT):
        return 0
    count = positions(layer, in_shape, out_shape)
    if count is None:
        return None
    kernels = [x for x in layer.weights if x.name.endswith("kernel")]
    return 2 * count * sum(math.prod(x.shape) for x in kernels)


def positions(
    layer: keras.layers.Layer, in_shape: tuple, out_shape: tuple
) -> int | None:
    """How often a sample uses each value of the layer's kernel.

    Args:
        layer: A layer.
        in_shape: Shape of its input, batch first.
        out_shape: Shape of its output.

    Returns:
        The count; `None` if it is open, or the layer no Dense or convolution.
    """
    if not isinstance(layer, _BY_OUTPUT + _BY_INPUT):
        return None
    shape = in_shape if isinstance(layer, _BY_INPUT) else out_shape
    first = getattr(layer, "data_format", None) == "channels_first"
    space = shape[2:] if first else shape[1:-1]
    return None if None in space else math.prod(space)
