"""What is added to the loss so that weights behind a mask are worth coming back."""

from collections.abc import Iterable
from typing import Any

import keras
from keras import ops

from tfticket.keras_models.kernels import MaskedWeight, apply_mask
from tfticket.pruning.masking import MaskedRegularizer


def explore(weights: Iterable[MaskedWeight], strength: keras.Variable) -> None:
    """Has weights that keep their dense values regularized, as `Exploration` says.

    Args:
        weights: Masked weights; those that keep no dense values are left alone.
        strength: Scalar variable, 0.0 for no such regularizer.
    """
    for weight in weights:
        if weight.keeps_dense:
            own = weight.variable.regularizer
            weight.variable.regularizer = Exploration(
                weight.mask, weight.gradient_mask, strength, own
            )


class Exploration(MaskedRegularizer):
    """Top-KAST's regularizer (Jayakumar et al. 2021, arXiv 2106.03517).

    It adds `strength` times the sum of squares of the kept weights, and of those that
    only get a gradient 1/D as much, D the density of the kept ones: they fall faster,
    unless the gradient says that they are needed. All others are left alone.

    Args:
        mask: Boolean variable, True where a weight is kept.
        gradient_mask: Boolean variable, True where it gets a gradient.
        strength: Scalar variable.
        regularizer: The weight's own, or `None`. It sees the dense values.
    """

    def __init__(
        self,
        mask: keras.Variable,
        gradient_mask: keras.Variable,
        strength: keras.Variable,
        regularizer: Any = None,
    ):
        super().__init__(mask, regularizer)
        self.gradient_mask = gradient_mask
        self.strength = strength

    def __call__(self, weight):
        weight = ops.convert_to_tensor(weight)
        mask = ops.convert_to_tensor(self.mask)
        squares = ops.square(weight)
        kept = ops.sum(apply_mask(squares, mask))
        explored = ops.logical_and(self.gradient_mask, ops.logical_not(mask))
        rest = ops.sum(apply_mask(squares, explored))
        density = ops.maximum(ops.mean(ops.cast(mask, weight.dtype)), 1e-6)
        added = ops.cast(self.strength, weight.dtype) * (kept + rest / density)
        return added if self.regularizer is None else added + self.regularizer(weight)
