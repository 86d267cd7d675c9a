"""What the inputs of masked kernels look like on data: norms and second moments.

A kernel is seen as rows: one output each, over the input features that it multiplies.
Those of a convolution are the pixels under its window. Where outputs see different
features, as in depthwise and grouped convolutions, rows come in groups.
"""

import contextlib
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfticket.common.arguments import check_integer, shown
from tfticket.keras_models.kernels import MaskedWeight
from tfticket.keras_models.variables import host_copy
from tfticket.sparsity.rows import KernelRows

layers = keras.layers

_CONVOLUTIONS = (layers.Conv1D, layers.Conv2D)
_DEPTHWISE = (layers.DepthwiseConv1D, layers.DepthwiseConv2D)


class Rows(KernelRows):
    """The rows of one kernel, and the features that they multiply.

    Args:
        weight: A masked weight of a layer that `why_not` has nothing against.
    """

    weight: MaskedWeight

    def __init__(self, weight: MaskedWeight):
        layer, shape = weight.layer, tuple(weight.variable.shape)
        # The axes of the kernel: of groups, of outputs, of features.
        if isinstance(layer, layers.EinsumDense):
            axes = _einsum_axes(layer)
        elif isinstance(layer, _DEPTHWISE):
            axes = ((len(shape) - 2,), (len(shape) - 1,), tuple(range(len(shape) - 2)))
        else:
            axes = ((), (len(shape) - 1,), tuple(range(len(shape) - 1)))
        groups = math.prod(shape[i] for i in axes[0])
        if isinstance(layer, _CONVOLUTIONS):
            groups = layer.groups
        super().__init__(shape, axes, groups)
        object.__setattr__(self, "weight", weight)

    def features(self, x: Any) -> Any:
        """The features in an input of the layer: (groups, places, features)."""
        layer = self.weight.layer
        x = ops.cast(x, "float32")
        if isinstance(layer, layers.EinsumDense):
            return _einsum_features(layer, x, self)
        if not isinstance(layer, (*_CONVOLUTIONS, *_DEPTHWISE)):
            return ops.reshape(x, (1, -1, self.size))
        patches = _patches(layer, x)  # (places, window, channels)
        window, channels = patches.shape[1:]
        if isinstance(layer, _DEPTHWISE):
            return ops.transpose(patches, (2, 0, 1))
        split = (-1, window, self.groups, channels // self.groups)
        moved = ops.transpose(ops.reshape(patches, split), (2, 0, 1, 3))
        return ops.reshape(moved, (self.groups, -1, self.size))


class Recorded:
    """Sums over the inputs that a kernel has seen.

    Args:
        rows: The kernel.
        second: Whether to keep x x^T, which takes features^2 numbers, or its diagonal.
    """

    def __init__(self, rows: Rows, second: bool):
        self.rows, self._second = rows, second
        self._sum: Any = None
        self._is_mean = False
        self.count = 0

    def see(self, x: Any) -> None:
        """Adds an input of the layer."""
        found = self.rows.features(x)
        self.count += int(found.shape[1])
        if self._second:
            found = ops.matmul(ops.transpose(found, (0, 2, 1)), found)
        else:
            found = ops.sum(ops.square(found), axis=1)
        found = ops.convert_to_numpy(found)
        if self._sum is None:
            self._sum = np.zeros(found.shape, np.float64)
        self._sum += found

    def moments(self) -> np.ndarray:
        """Mean of x x^T by group: (groups, features, features), at the end."""
        if not self._is_mean:  # in place, since it may be as large as the model
            self._sum /= self.count
            self._is_mean = True
        return self._sum

    def norms(self) -> np.ndarray:
        """Root of the sum of squares of each feature: (groups, features)."""
        if self._second:
            count = self.count if self._is_mean else 1
            return np.sqrt(count * np.diagonal(self._sum, axis1=1, axis2=2))
        return np.sqrt(self._sum)

    def norm_of_weights(self) -> np.ndarray:
        """The norm of what each weight multiplies, in the kernel's shape."""
        shape = self.rows.of(host_copy(self.rows.weight.variable)).shape
        return self.rows.back(np.broadcast_to(self.norms()[:, None], shape))


def why_not(weight: MaskedWeight) -> str:
    """Why the inputs of a kernel can't be told; "" where they can."""
    layer = weight.layer
    kernel = getattr(layer, "kernel", None)
    kinds = (layers.Dense, layers.EinsumDense, *_CONVOLUTIONS, *_DEPTHWISE)
    if kernel is not weight.variable or not isinstance(layer, kinds):
        return f"what a {type(layer).__name__} multiplies it with is not known"
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        return "channels come first"
    return ""


@contextlib.contextmanager
def recording(recorders: Mapping[str, Recorded]) -> Iterator[None]:
    """While it lasts, recorders see what the layers of their kernels are called on.

    Args:
        recorders: By the kernels' names.
    """
    by_layer: dict[int, tuple[keras.layers.Layer, list[Recorded]]] = {}
    for recorder in recorders.values():
        layer = recorder.rows.weight.layer
        by_layer.setdefault(id(layer), (layer, []))[1].append(recorder)
    with contextlib.ExitStack() as stack:
        for layer, several in by_layer.values():
            stack.enter_context(calling(layer, _seen(layer.call, several)))
        yield


@contextlib.contextmanager
def calling(layer: keras.layers.Layer, call: Callable) -> Iterator[None]:
    """While it lasts, a layer's `call` is another function.

    Args:
        layer: The layer, whose masks in place may have replaced its `call` before.
        call: The function.
    """
    before = vars(layer).get("call")
    # An attribute of the object goes before the method of its class.
    object.__setattr__(layer, "call", call)
    try:
        yield
    finally:
        object.__delattr__(layer, "call")
        if before is not None:
            object.__setattr__(layer, "call", before)


def _seen(call: Callable, recorders: list[Recorded]) -> Callable:
    def recorded(inputs, *args, **kwargs):
        for recorder in recorders:
            recorder.see(inputs)
        return call(inputs, *args, **kwargs)

    return recorded


def batches_of(data: Any, size: int = 32, most: int | None = None) -> Iterator[Any]:
    """Batches of samples as tensors.

    Args:
        data: Samples as a model takes them, an array, a dict or list of arrays, or an
            iterable of batches; of batches (x, y) the first counts, and of arrays
            (x, y) too.
        size: Samples in a batch, of arrays.
        most: How many batches; `None` is all.

    Raises:
        ValueError: If `data` is `None`.
    """
    check_integer("batch_size", size, 1)
    if most is not None:
        check_integer("batches", most, 1)
    if data is None:
        raise ValueError("data must be samples to calibrate on. Received: data=None")
    single = isinstance(data, (str, bytes, type)) or getattr(data, "shape", 1) == ()
    # Some of Keras's data sets are read by number alone.
    readable = hasattr(data, "__iter__") or hasattr(data, "__getitem__")
    if single or not readable:
        raise TypeError(f"data must be samples. Received: data={shown(data)}")
    if isinstance(data, (list, dict, tuple)) and not len(data):
        raise ValueError(f"data holds no samples. Received: data={data}")
    if isinstance(data, dict):
        for value in keras.tree.flatten(data):
            if not getattr(value, "shape", ()):
                raise TypeError(f"data must hold arrays. Received: data={shown(data)}")
    source: Iterable
    if isinstance(data, tuple):
        data = data[0]  # as everywhere: (x, y)
    if hasattr(data, "shape") or isinstance(data, dict) or _is_arrays(data):
        source = _slices(data, size)
    else:
        source = (x[0] if isinstance(x, tuple) else x for x in data)
    for number, batch in enumerate(source):
        if most is not None and number >= most:
            return
        yield keras.tree.map_structure(ops.convert_to_tensor, batch)


def require_seen(weights: Mapping[str, MaskedWeight]) -> None:
    """Raises a ValueError if the inputs of a kernel can't be told.

    Args:
        weights: The kernels, by name.
    """
    for name, weight in weights.items():
        if reason := why_not(weight):
            raise ValueError(
                f"The inputs of '{name}' are not known: {reason}. Exclude it, or use "
                "tfticket.one_shot, which prunes such kernels by magnitude."
            )


def norms_of_inputs(
    weights: Mapping[str, MaskedWeight], model: keras.Model, batches: Iterable[Any]
) -> dict[str, Recorded]:
    """What kernels see in one pass of a model over data, without second moments.

    Args:
        weights: The kernels, by name.
        model: The model that they are in; it runs as in inference.
        batches: As `batches_of` yields them.
    """
    recorders = {name: Recorded(Rows(x), second=False) for name, x in weights.items()}
    with recording(recorders):
        for batch in batches:
            model(batch, training=False)
    return recorders


def input_norms(
    weights: Mapping[str, MaskedWeight], model: keras.Model, batches: Iterable[Any]
) -> dict[str, np.ndarray]:
    """The norm of what each weight multiplies over data, in the kernels' shapes.

    Args:
        weights: The kernels, by name.
        model: The model that they are in; it runs as in inference.
        batches: As `batches_of` yields them.

    Raises:
        ValueError: If no data reaches a kernel.
    """
    recorders = norms_of_inputs(weights, model, batches)
    if missed := [name for name, x in recorders.items() if not x.count]:
        raise ValueError(f"The data never reaches {missed}. Exclude these layers.")
    return {name: x.norm_of_weights() for name, x in recorders.items()}


def _einsum_axes(layer):
    given, kernel, output = _letters(layer)
    groups = tuple(i for i, x in enumerate(kernel) if x in given and x in output)
    features = tuple(i for i, x in enumerate(kernel) if x in given and x not in output)
    outputs = tuple(i for i, x in enumerate(kernel) if x not in given)
    return groups, outputs, features


def _letters(layer):
    left, output = layer.equation.replace(" ", "").split("->")
    given, kernel = left.split(",")
    return given, kernel, output


def _einsum_features(layer, x, rows):
    given, kernel, _ = _letters(layer)
    groups, _, features = rows.axes
    wanted = [kernel[i] for i in groups], [kernel[i] for i in features]
    named = given.replace("...", "")
    first = len(x.shape) - len(named) if given.startswith("...") else 0
    place = {letter: first + named.index(letter) for letter in named}
    order = [place[letter] for letter in wanted[0]]
    tail = [place[letter] for letter in wanted[1]]
    middle = [i for i in range(len(x.shape)) if i not in (*order, *tail)]
    moved = ops.transpose(x, (*order, *middle, *tail))
    return ops.reshape(moved, (rows.groups, -1, rows.size))


def _patches(layer, x):
    size, strides, rates = layer.kernel_size, layer.strides, layer.dilation_rate
    padding = layer.padding
    if len(size) == 1:  # as an image of one row
        x = ops.expand_dims(x, 1)
        if padding == "causal":
            x = ops.pad(x, [(0, 0), (0, 0), ((size[0] - 1) * rates[0], 0), (0, 0)])
            padding = "valid"
        size, strides, rates = (1, *size), (1, *strides), (1, *rates)
    channels = x.shape[-1]
    found = ops.image.extract_patches(
        x, size, strides=strides, dilation_rate=rates, padding=padding
    )
    return ops.reshape(found, (-1, math.prod(size), channels))


def _is_arrays(data):
    return isinstance(data, list | tuple) and all(
        isinstance(x, np.ndarray) for x in data
    )


def _slices(data, size):
    count = len(keras.tree.flatten(data)[0])
    for start in range(0, count, size):
        part = slice(start, start + size)
        yield keras.tree.map_structure(lambda x, part=part: x[part], data)
