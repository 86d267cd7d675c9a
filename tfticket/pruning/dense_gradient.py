"""`DenseGradient`: the gradient of masked weights, of those that are pruned too."""

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfticket.keras_models.gradients import MeanGradient, each_batch
from tfticket.keras_models.kernels import MaskedWeight
from tfticket.pruning.evidence import as_loss

# Samples a batch, for arrays, as `evidence.gather`.
_BATCH = 128


class DenseGradient:
    """The gradient of the loss at the weights as they are, pruned ones included.

    A wrapper masks its weight's gradient, so all masks are True while it is taken, and
    what is pruned stays at 0.0. The model is left as it is, masks included. It is
    compiled once.

    Args:
        model: A wrapped model.
        weights: Name to masked weight, of those to differentiate by.
        data: (x, y) or (x, y, sample_weight) of arrays, or batches of such tuples in
            anything that can be iterated again and again.
        loss: Name of a Keras loss, a `keras.losses.Loss` or a function of (y,
            prediction); `None` is the compiled loss.
        batches: How many batches to take each time.

    Raises:
        ValueError: If arrays differ in length, or data holds no batch.

    Example:

    >>> from tfticket.pruning.masks import masked_weights
    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ... )
    >>> tfticket.set_masks(model, {"dense/kernel": np.array([[True], [False]])})
    >>> x, y = np.array([[1.0, 2.0]]), np.array([[9.0]])
    >>> gradient = DenseGradient(model, masked_weights(model), (x, y), "mae")
    >>> gradient.at_turn(0)["dense/kernel"]
    array([[-1.],
           [-2.]], dtype=float32)
    """

    def __init__(
        self,
        model: keras.Model,
        weights: Mapping[str, MaskedWeight],
        data: Any,
        loss: Any = None,
        batches: int = 1,
    ):
        self._names = list(weights)
        self._data, self._batches = data, batches
        self._iterator: Iterator | None = None
        if isinstance(data, tuple):
            next(each_batch(data, _BATCH, 1))  # refuses lengths that differ
        variables = [weight.variable for weight in weights.values()]
        masks = [
            (weight.mask, np.ones(weight.mask.shape, bool))
            for weight in weights.values()
        ]
        self._gradient = MeanGradient(model, variables, as_loss(loss), masks)

    @property
    def samples(self) -> int:
        """How many samples gradients have been taken of so far."""
        return self._gradient.samples

    def at_turn(self, turn: int) -> dict[str, np.ndarray]:
        """Name to array in the weight's shape, over the batches of one turn.

        Args:
            turn: How many times before, from 0. Of arrays, lists and `PyDataset`s it
                says which batches are taken, starting again after the last; of
                anything else the next ones are.
        """
        batches = (
            batch
            for found in self._taken(turn)
            for batch in each_batch(found, _BATCH, None)
        )
        return dict(zip(self._names, self._gradient(batches), strict=True))

    def _taken(self, turn):
        """Data of one batch each, as `each_batch` takes it."""
        data = self._data
        first = turn * self._batches
        for number in range(first, first + self._batches):
            if isinstance(data, tuple):
                yield _part(data, number)
            elif isinstance(data, list):
                yield data[number % len(data) : number % len(data) + 1] if data else []
            elif isinstance(data, keras.utils.PyDataset):
                count = data.num_batches
                yield [data[number if count is None else number % count]]
            else:
                yield [self._next()]

    def _next(self):
        if self._iterator is None:
            self._iterator = iter(self._data)
        for batch in self._iterator:
            return batch
        self._iterator = iter(self._data)
        for batch in self._iterator:
            return batch
        raise ValueError("data holds no batch: pass one with at least one sample.")


def _part(arrays, number):
    """Batch of that number out of arrays, starting again after the last."""
    leaves = [leaf for leaf in keras.tree.flatten(arrays) if leaf is not None]
    start = number % -(-len(leaves[0]) // _BATCH) * _BATCH
    part = slice(start, start + _BATCH)
    return keras.tree.map_structure(
        lambda leaf: None if leaf is None else leaf[part], arrays
    )
