"""Operations that a layer takes, zeros in its weights counted like any number."""

import math

import keras

from tfticket.popup_layers import Popup

layers = keras.layers

_CELLS = (layers.SimpleRNNCell, layers.GRUCell, layers.LSTMCell)
_BY_OUTPUT = (
    *(layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D),
    *(layers.DepthwiseConv1D, layers.DepthwiseConv2D),
    *(layers.SeparableConv1D, layers.SeparableConv2D),
    *_CELLS,
)
_BY_INPUT = (layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
_KNOWN = (*_BY_OUTPUT, *_BY_INPUT, layers.EinsumDense)


def dense_flops(
    layer: keras.layers.Layer, in_shape: tuple, out_shape: tuple
) -> int | None:
    """Multiplications and additions of one sample: two for a weight and position.

    Counted are the kernels of Dense, EinsumDense, convolutions and recurrent cells, as
    if all weights were there; the window at the border counts as whole. Biases,
    activations and other layers count as none.

    Args:
        layer: A built layer.
        in_shape: Shape of its input, batch first.
        out_shape: Shape of its output.

    Returns:
        The count; `None` if the number of positions is not known.

    Example:

    >>> layer = keras.layers.Dense(3)
    >>> layer.build((None, 4))
    >>> dense_flops(layer, (None, 4), (None, 3))
    24
    """
    if not isinstance(layer, _KNOWN):
        return 0
    count = positions(layer, in_shape, out_shape)
    if count is None:
        return None
    return 2 * count * sum(math.prod(x.shape) for x in kernels(layer))


def kernels(layer: keras.layers.Layer) -> list[keras.Variable]:
    """The kernels of a Dense, a convolution or a cell, two of some."""
    return [x for x in layer.weights if x.name.endswith("kernel")]


def positions(
    layer: keras.layers.Layer, in_shape: tuple, out_shape: tuple
) -> int | None:
    """How often a sample, or a batch of so many, uses each value of the kernels.

    A Dense uses each once for every vector that it maps, a convolution for every place
    of its output, a transposed one for every place of its input, and a recurrent cell
    once a step.

    Args:
        layer: A built layer.
        in_shape: Shape of its input, batch first, `None` for one sample.
        out_shape: Shape of its output, of a cell that of its first.

    Returns:
        The count; `None` if it is open, or not known: the layer is of another kind, has
        a `call` of its own, is quantized or has LoRA weights.

    Example:

    >>> layer = keras.layers.Conv2D(8, 3)
    >>> layer.build((None, 32, 32, 3))
    >>> positions(layer, (None, 32, 32, 3), (None, 30, 30, 8))
    900
    """
    if not (isinstance(layer, _KNOWN) or _is_convolutional_cell(layer)):
        return None
    adapted = getattr(layer, "lora_enabled", False)
    quantized = getattr(layer, "quantization_mode", None)
    if adapted or quantized or not computes_as_keras(layer):
        return None
    shape = in_shape if isinstance(layer, _BY_INPUT) else out_shape
    if isinstance(layer, layers.EinsumDense):
        places = _einsum_places(layer, in_shape)
    elif getattr(layer, "data_format", None) == "channels_first":
        places = (shape[0], *shape[2:])
    else:
        places = shape[:-1]
    if places is None:
        return None
    places = (places[0] or 1, *places[1:])
    return None if None in places else math.prod(places)


def _einsum_places(layer, in_shape):
    """Lengths of the input's axes that are not the kernel's; None if that is not all.

    An axis that only one term has is summed before the product or copied after it.
    """
    inputs, rest = layer.equation.replace(" ", "").replace("...", "0").split(",")
    kernel, outputs = rest.split("->")
    both = inputs + kernel
    for term in (inputs, kernel, outputs):
        if len(set(term)) < len(term):
            return None
    if any((x in outputs) + (x in inputs) + (x in kernel) < 2 for x in both):
        return None
    # An ellipsis stands at one end, for as many axes as are left.
    spread = len(in_shape) - len(inputs) + 1
    labels = "".join(x * spread if x == "0" else x for x in inputs)
    return tuple(
        n for x, n in zip(labels, in_shape, strict=True) if x not in kernel
    ) or (1,)


def _is_convolutional_cell(layer):
    # ConvLSTM's has no public class.
    return hasattr(layer, "state_size") and type(layer).__name__ == "ConvLSTMCell"


def computes_as_keras(layer: keras.layers.Layer) -> bool:
    """Whether the layer's `call` is Keras's own; a popup layer's is like it."""
    if isinstance(layer, Popup):
        return True
    owner = next(x for x in type(layer).__mro__ if "call" in vars(x))
    return owner.__module__.startswith("keras.")
