"""Whether weights are 2:4 sparse in the layout that sparse tensor cores read."""

import dataclasses
import math

import keras
import numpy as np

from tfticket.common.arguments import check_instance
from tfticket.keras_models.kernels import prunable_weights
from tfticket.keras_models.names import join, named_layers
from tfticket.pruning.masks import get_masks, masked_weights
from tfticket.pruning.prune_strip import strip

_KEPT, _GROUP = 2, 4


@dataclasses.dataclass(frozen=True, eq=False)
class TwoFourWeight:
    """The 2:4 check of one weight.

    Args:
        name: As in `get_masks`: "layer/kernel".
        groups: Number of groups of four, including a last one that is shorter.
        violations: Where the groups with more than two kept weights start: an integer
            array of shape (violating groups, axes of the weight), in Keras's axes.
        padded: Whether the last groups are shorter than four.
        density: Fraction of the weights kept.
        unread: Why sparse tensor cores don't read this weight at all, or `None`.
    """

    name: str
    groups: int
    violations: np.ndarray
    padded: bool
    density: float
    unread: str | None = None

    @property
    def ok(self) -> bool:
        """Whether the weight is read as 2:4 sparse."""
        return self.unread is None and not len(self.violations)

    def __str__(self) -> str:
        text = f"{self.name}: {self.groups} groups, {self.density:.1%} kept, "
        if self.unread is not None:
            return f"{text}not read as 2:4: {self.unread}"
        if not self.ok:
            first = ", ".join(str(tuple(map(int, at))) for at in self.violations[:3])
            rest = ", ..." if len(self.violations) > 3 else ""
            return (
                f"{text}{len(self.violations)} keep more than {_KEPT} of {_GROUP}, "
                f"those from index {first}{rest}"
            )
        return f"{text}2:4" + (", the last group padded with zeros" * self.padded)


@dataclasses.dataclass(frozen=True, eq=False)
class TwoFourReport:
    """The result of `check_two_four`, weight by weight."""

    weights: tuple[TwoFourWeight, ...]

    @property
    def ok(self) -> bool:
        """Whether every checked weight is 2:4 sparse."""
        return all(weight.ok for weight in self.weights)

    def __str__(self) -> str:
        return "\n".join(str(weight) for weight in self.weights)


def check_two_four(model: keras.Model) -> TwoFourReport:
    """Checks every group of four weights for 2:4 sparsity, as TensorRT reads it.

    At most two of every four consecutive weights along a layer's input channels may be
    kept. That holds for each unit of a Dense layer, and for each filter and position of
    a convolution. `tfticket.structures.NM(2, 4)` makes such masks. If the number of
    channels is not a multiple of four, the last group counts as padded with zeros: it
    may keep both of two weights, or two of three.

    Args:
        model: A wrapped model, whose masks are checked; or a plain one, of which the
            weights that `prune` would mask are checked for zeros.

    Returns:
        `TwoFourReport`: `ok`, and for each weight its groups and those that violate.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If it has no weights to check.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((8,)), keras.layers.Dense(2)])
    ... )
    >>> tfticket.sparsify(model, 0.5, structure=tfticket.structures.NM(2, 4))
    >>> report = tfticket.export.check_two_four(model)
    >>> report.ok
    True
    >>> print(report)
    dense/kernel: 4 groups, 50.0% kept, 2:4
    """
    check_instance("model", model, keras.Model, "a keras.Model")
    found = [
        _check(name, weight, weight.mask)
        for name, weight in masked_weights(model).items()
    ]
    if not found:
        # Popup layers have masks too, but these don't match the weights that they hold.
        plain = strip(model) if get_masks(model) else model
        found = [
            _check(join(path, weight.name), weight, weight.variable)
            for path, layer in named_layers(plain)
            for weight in prunable_weights(layer)
        ]
    if not found:
        raise ValueError(
            f"Model '{model.name}' has no weights that can be 2:4 sparse: kernels of "
            "Dense, EinsumDense, convolutions and recurrent cells."
        )
    return TwoFourReport(tuple(found))


def _check(name, weight, values):
    kept = keras.ops.convert_to_numpy(values) != 0
    axes = weight.reduction_axes
    length = math.prod(kept.shape[i] for i in axes)
    unread = None
    if isinstance(
        weight.layer, (keras.layers.DepthwiseConv1D, keras.layers.DepthwiseConv2D)
    ):
        unread = "a depthwise convolution does not sum over input channels"
    elif not axes:
        unread = "its layer sums over nothing"
    if unread is not None:
        none = np.zeros((0, kept.ndim), int)
        return TwoFourWeight(name, 0, none, False, float(kept.mean()), unread)
    order = [i for i in range(kept.ndim) if i not in axes] + list(axes)
    rows = np.transpose(kept, order).reshape(-1, length)
    rows = np.pad(rows, [(0, 0), (0, -length % _GROUP)])
    groups = rows.reshape(len(rows), -1, _GROUP).sum(-1)
    row, group = np.nonzero(groups > _KEPT)
    moved = [kept.shape[i] for i in order]
    starts = np.unravel_index(row * length + group * _GROUP, moved)
    violations = np.stack([starts[order.index(i)] for i in range(kept.ndim)], -1)
    return TwoFourWeight(
        name,
        groups.size,
        violations,
        length % _GROUP > 0,
        float(kept.mean()),
    )
