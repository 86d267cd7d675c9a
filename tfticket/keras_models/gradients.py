"""Gradients of the masked weights over data; the model does not change."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

import keras
import numpy as np
from keras import ops

from tfticket.common.arguments import check_integer


def mean_gradient(
    model: keras.Model,
    weights: Sequence[keras.Variable],
    batches: Iterable[tuple],
    loss: keras.losses.Loss | None = None,
) -> list[np.ndarray]:
    """Gradient of the mean loss over all samples, with `training=True`.

    Everything runs in a `StatelessScope`, so no variable of the model is assigned.
    The next batch sees what a batch changes in the state (BatchNorm statistics, a
    seed), and the change is discarded at the end.

    Args:
        model: A built model.
        weights: Variables of the model.
        batches: Batches as `each_batch` yields them.
        loss: `None` for the compiled loss with all that the model adds to it.

    Returns:
        For each of `weights` an array in its shape, float32 or wider.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> x = np.array([[1.0, 2.0]])
    >>> batches = each_batch((x, model.predict(x, verbose=0) - 1.0))
    >>> loss = keras.losses.MeanSquaredError()
    >>> mean_gradient(model, model.weights[:1], batches, loss)[0].round(4)
    array([[2.],
           [4.]], dtype=float32)
    """
    return MeanGradient(model, weights, loss)(batches)


class MeanGradient:
    """Like `mean_gradient`, but compiled once for many calls.

    Args:
        model: A built model.
        weights: Variables of it.
        loss: As for `mean_gradient`.
        instead: Variables of the model and the arrays that replace their values while
            the gradient is computed.
        differentiate: Function of a loss and values that returns gradients, like
            `gradient_of`.

    Attributes:
        samples: Number of samples in all gradients so far, over all calls.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> loss = keras.losses.MeanAbsoluteError()
    >>> gradient = MeanGradient(model, model.weights[:1], loss)
    >>> gradient([(np.array([[1.0, 2.0]]), np.array([[9.0]]), None)])[0]
    array([[-1.],
           [-2.]], dtype=float32)
    """

    def __init__(
        self,
        model: keras.Model,
        weights: Sequence[keras.Variable],
        loss: keras.losses.Loss | None = None,
        instead: Sequence[tuple[keras.Variable, np.ndarray]] = (),
        differentiate: Callable | None = None,
    ):
        own = {id(weight) for weight in weights}
        self._model, self._weights, self._loss = model, list(weights), loss
        # What a batch may change (BatchNorm statistics, seeds), and what stays fixed.
        self._others = [v for v in model.variables if id(v) not in own]
        self._instead = {
            id(variable): ops.convert_to_tensor(value) for variable, value in instead
        }
        self._differentiate = differentiate or gradient_of
        self._add = compiled(self._add_batch)
        self.samples = 0

    def __call__(self, batches: Iterable[tuple]) -> list[np.ndarray]:
        """The gradient of the mean loss over all samples, at the present values."""
        values = tensors(self._weights)
        state = [
            self._instead[id(v)] if id(v) in self._instead else tensors([v])[0]
            for v in self._others
        ]
        total = [
            ops.zeros(w.shape, "float64" if w.dtype == "float64" else "float32")
            for w in self._weights
        ]
        samples = 0
        for batch in batches:
            total, state = self._add(total, values, state, batch)
            samples += int(_samples(batch))
        self.samples += samples
        return [ops.convert_to_numpy(t) / np.float32(samples) for t in total]

    def _add_batch(self, total, values, state, batch):
        found, state = self._differentiate(
            lambda v: self._batch_loss(v, state, batch), values
        )
        size = _samples(batch)
        return [
            t + ops.cast(g, t.dtype) * ops.cast(size, t.dtype)
            for t, g in zip(total, found, strict=True)
        ], state

    def _batch_loss(self, values, state, batch):
        x, y, sample_weight = batch
        model, others = self._model, self._others
        weights = zip(self._weights, values, strict=True)
        mapping = [*weights, *zip(others, state, strict=True)]
        with keras.StatelessScope(mapping, collect_losses=True) as scope:
            outputs = model(x, training=True)
            if self._loss is None:
                total = model.compute_loss(x, y, outputs, sample_weight)
            else:
                total = self._loss(y, outputs, sample_weight)
        return total, [scope.get_current_value(variable) for variable in others]


def mean_hessian_gradient(
    model: keras.Model,
    weights: Sequence[keras.Variable],
    batches: Iterable[tuple],
    gradient: Sequence[np.ndarray],
    loss: keras.losses.Loss | None = None,
) -> list[np.ndarray]:
    """Hessian of the mean loss with respect to these weights, times `gradient`.

    It takes two backward passes, of the loss and of <its gradient, `gradient`>, and
    never computes the Hessian itself.

    Args:
        model: A built model.
        weights: Variables of it.
        batches: The batches that `gradient` is the mean over.
        gradient: What `mean_gradient` returned.
        loss: As for `mean_gradient`.

    Returns:
        For each of `weights` an array in its shape, float32 or wider.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    >>> batches = list(each_batch((np.array([[1.0, 2.0]]), np.array([[3.0]]))))
    >>> loss, kernel = keras.losses.MeanSquaredError(), model.weights[:1]
    >>> mean_hessian_gradient(model, kernel, batches, [np.ones((2, 1))], loss)[0]
    array([[ 6.],
           [12.]], dtype=float32)
    """
    direction = [ops.convert_to_tensor(g) for g in gradient]

    def differentiate(loss_of, values):
        def along(values):
            found, state = gradient_of(loss_of, values)
            return sum(
                ops.sum(g * ops.cast(d, g.dtype))
                for g, d in zip(found, direction, strict=True)
            ), state

        return gradient_of(along, values)

    return MeanGradient(model, weights, loss, differentiate=differentiate)(batches)


def each_batch(
    data: Any, batch_size: int = 128, batches: int | None = None
) -> Iterator[tuple]:
    """Iterates over data in tuples (x, y, sample_weight) of backend tensors.

    Args:
        data: A tuple of arrays (x, y) or (x, y, sample_weight), x and y nested as the
            model needs them; or anything that yields such tuples as batches: a
            `tf.data.Dataset`, a `keras.utils.PyDataset`, a list, a generator.
        batch_size: Number of samples per batch, for arrays.
        batches: Number of batches to take. `None` takes all.

    Raises:
        TypeError: If `batch_size` or `batches` is not an integer.
        ValueError: If one is not positive, or if `data` never ends; on the first batch,
            if `data` holds none.

    Example:

    >>> x, y = np.zeros((5, 2)), np.zeros(5)
    >>> [len(x) for x, _, _ in each_batch((x, y), batch_size=2)]
    [2, 2, 1]
    """
    check_integer("batch_size", batch_size, 1)
    if batches is not None:
        check_integer("batches", batches, 1)
    elif _has_no_end(data):
        raise ValueError(
            "data never ends. Pass batches=, the number of batches to take."
        )
    source = data
    if isinstance(data, tuple):
        source = _slices(data, batch_size)
    elif isinstance(data, keras.utils.PyDataset):
        # Iterating over it never ends.
        count: Any = data.num_batches or batches
        source = map(data.__getitem__, range(count))
    return _as_tensors(islice(source, batches))


def _has_no_end(data):
    if isinstance(data, keras.utils.PyDataset):
        return data.num_batches is None
    cardinality = getattr(data, "cardinality", None)  # of a tf.data.Dataset
    return cardinality is not None and int(cardinality()) == -1


def _as_tensors(source):
    empty = True
    for batch in source:
        empty = False
        yield tuple(
            keras.tree.map_structure(_tensor, part)
            for part in keras.utils.unpack_x_y_sample_weight(batch)
        )
    if empty:
        raise ValueError("data holds no batch: pass one with at least one sample.")


def _slices(data, batch_size):
    leaves = [leaf for leaf in keras.tree.flatten(data) if leaf is not None]
    samples = {len(leaf) for leaf in leaves}
    if len(samples) != 1:
        raise ValueError(
            "Arrays in data must have the same number of samples; a tuple is (x, y), "
            f"batches go into a list. Received: {sorted(samples)} samples"
        )
    for start in range(0, samples.pop(), batch_size):
        part = slice(start, start + batch_size)
        yield keras.tree.map_structure(
            lambda leaf, part=part: None if leaf is None else leaf[part], data
        )


def _tensor(leaf):
    if leaf is None:
        return None
    if keras.backend.backend() != "tensorflow" and hasattr(leaf, "numpy"):
        leaf = leaf.numpy()  # of a tf.data.Dataset, which other backends read too
    return ops.convert_to_tensor(leaf)


def gradient_of(function: Callable, values: Sequence) -> tuple[list, Any]:
    """Differentiable gradient of a function of tensors, and its second result.

    Args:
        function: Takes a list of tensors, returns (scalar tensor, anything).
        values: List of float tensors.

    Returns:
        List of tensors like `values`, with zeros if nothing depends on one, and the
        function's second result.

    Example:

    >>> values = [keras.ops.convert_to_tensor([1.0, 2.0])]
    >>> (gradient,), _ = gradient_of(
    ...     lambda values: (keras.ops.sum(values[0] ** 2), None), values
    ... )
    >>> keras.ops.convert_to_numpy(gradient)
    array([2., 4.], dtype=float32)
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(values)
            result, rest = function(values)
        gradients = tape.gradient(result, values, unconnected_gradients="zero")
        return [tf.convert_to_tensor(g) for g in gradients], rest
    if backend == "jax":
        import jax

        return jax.grad(function, has_aux=True)(list(values))
    return _torch_gradient(function, values)


def _torch_gradient(function, values):
    import torch

    # Inside another gradient the values are on its graph, and so this one must be too.
    inner = any(value.requires_grad for value in values)
    with torch.enable_grad():
        values = [v if inner else v.detach().requires_grad_() for v in values]
        result, rest = function(values)
        found = torch.autograd.grad(
            result, values, create_graph=inner, allow_unused=True
        )
    gradients = [
        torch.zeros_like(value) if gradient is None else gradient
        for value, gradient in zip(values, found, strict=True)
    ]
    if inner:
        return gradients, rest
    return gradients, keras.tree.map_structure(
        lambda value: None if value is None else ops.stop_gradient(value), rest
    )


def compiled(function: Callable) -> Callable:
    """Compiles a function of tensors, if the backend has a compiler."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(function, autograph=False, reduce_retracing=True)
    if backend == "jax":
        import jax

        return jax.jit(function)
    return function


def tensors(variables: Iterable[keras.Variable]) -> list:
    """Values as constants, which in PyTorch would be part of every gradient's graph."""
    return [ops.stop_gradient(ops.convert_to_tensor(v.value)) for v in variables]


def _samples(batch):
    return ops.shape(next(x for x in keras.tree.flatten(batch[0]) if x is not None))[0]
