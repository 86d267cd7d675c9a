"""What is pruned together: single weights, blocks, channels, or all but N of every M.

A structure turns scores of weights into scores of its units, and a choice of units
back into a mask. It knows arrays and axes, nothing of layers.
"""

import dataclasses
import math
from typing import Any, ClassVar, Literal, NamedTuple

import keras
import numpy as np

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_instance,
    check_integer,
    check_number,
)

# Rows are ranked a piece at a time: the order of a whole weight would take twice
# the weight's memory.
_CHUNK = 1 << 20


class Axes(NamedTuple):
    """What the axes of a weight mean.

    Attributes:
        reduction: Axes that the layer sums over; empty if it sums nothing.
        channels: Axes that number the layer's output channels.
    """

    reduction: tuple[int, ...]
    channels: tuple[int, ...]


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class Unstructured:
    """Prunes every weight by itself. It is the base of the other structures.

    A sparsity counts units: of `u` units at sparsity `s`, `u - round(u * s)` are kept.

    >>> tfticket.structures.Unstructured().pool(np.ones((2, 3)), np.ones((2, 3), bool),
    ...     tfticket.structures.Axes((0,), (1,)))[0].shape
    (2, 3)
    """

    def check(self, shape: tuple[int, ...], axes: Axes) -> None:
        """Raises a ValueError if a weight of that shape can't be cut into units."""

    def pool(
        self, scores: np.ndarray, alive: np.ndarray, axes: Axes
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores of the units, and which of them have a weight that is alive.

        Args:
            scores: Array of the weight's shape.
            alive: Boolean array of that shape, True where not pruned yet.
            axes: What the weight's axes mean.
        """
        return scores, alive

    def candidates(
        self, scores: np.ndarray, alive: np.ndarray, axes: Axes
    ) -> np.ndarray:
        """Boolean array of the units, as `pool` gave them, that may be pruned now."""
        return alive

    def spread(
        self, units: np.ndarray, shape: tuple[int, ...], axes: Axes
    ) -> np.ndarray:
        """The mask, in the weight's shape, of a boolean array of units kept."""
        return units

    def get_config(self) -> dict:
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config: dict) -> "Unstructured":
        return cls(**config)


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class Block(Unstructured):
    """Rectangular blocks, pruned and kept whole.

    Blocks start at index 0 of every axis; where a length does not divide, the last
    block is smaller and scored by the weights it has.

    Args:
        shape: Sizes of a block along the last axes of the weight, as Keras lays the
            weight out: `(4, 1)` is four inputs of one output of a Dense kernel, which
            LiteRT calls 1x4.
        pooling: `"average"` or `"max"` of the scores in a block.

    Raises:
        ValueError: If the shape or the pooling is not a valid one.

    Example:

    >>> block = tfticket.structures.Block((2, 1))
    >>> scores = np.array([[1.0, 0.0], [3.0, 4.0], [5.0, 6.0]])
    >>> axes = tfticket.structures.Axes((0,), (1,))
    >>> block.pool(scores, scores >= 0, axes)[0]
    array([[2., 2.],
           [5., 6.]])
    """

    shape: tuple[int, ...]
    pooling: Literal["average", "max"] = "average"

    def __post_init__(self):
        check_instance("shape", self.shape, (tuple, list), "a tuple of integers")
        if not self.shape:
            raise ValueError(
                "shape must have the size of a block along one axis or more. Received: "
                f"shape={self.shape}"
            )
        sizes = tuple(check_integer("shape", n, 1) for n in self.shape)
        object.__setattr__(self, "shape", sizes)
        check_choice("pooling", self.pooling, ("average", "max"))

    def check(self, shape: tuple[int, ...], axes: Axes) -> None:
        sizes = (1,) * (len(shape) - len(self.shape)) + self.shape
        if len(sizes) > len(shape) or any(
            b > n for b, n in zip(sizes, shape, strict=True)
        ):
            raise ValueError(
                f"a block of {self.shape} is larger than the weight, which has shape "
                f"{shape}. Use a smaller block, or exclude the layer"
            )

    def pool(
        self, scores: np.ndarray, alive: np.ndarray, axes: Axes
    ) -> tuple[np.ndarray, np.ndarray]:
        lowest = 0.0 if self.pooling == "average" else -np.inf
        cells = self._cells(np.where(alive, scores, lowest), lowest)
        inside = tuple(range(1, cells.ndim, 2))
        if self.pooling == "max":
            pooled = cells.max(inside)
        else:
            real = self._cells(np.ones(scores.shape, np.float32), 0.0)
            pooled = cells.sum(inside) / real.sum(inside)
        return pooled, self._cells(alive, False).any(inside)

    def spread(
        self, units: np.ndarray, shape: tuple[int, ...], axes: Axes
    ) -> np.ndarray:
        mask = units
        for axis, size in enumerate(self._sizes(len(shape))):
            mask = np.repeat(mask, size, axis)
        return mask[tuple(slice(n) for n in shape)]

    def _sizes(self, rank):
        return (1,) * (rank - len(self.shape)) + self.shape

    def _cells(self, array, padding):
        """The array as (blocks, inside, blocks, inside, ...), padded at the ends."""
        sizes = self._sizes(array.ndim)
        pairs = list(zip(array.shape, sizes, strict=True))
        if any(n % b for n, b in pairs):
            pad = [(0, -n % b) for n, b in pairs]
            array = np.pad(array, pad, constant_values=padding)
        return array.reshape([x for n, b in pairs for x in (-(-n // b), b)])


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class Channel(Unstructured):
    """Prunes whole channels: columns of a Dense kernel, filters of a convolution.

    If grouped, channels that a sum, a normalization or a depthwise convolution ties
    together are scored once and pruned together, in every weight that they index:
    kernel, bias, gamma, beta, moving mean, and the rows of the kernels that read them.
    They are then exactly zero everywhere, so that `tfticket.export.compact` can remove
    them. `tfticket.channel_groups` shows the groups. If not grouped, each kernel loses
    its own output channels, except in output layers, whose channels are the answers.

    Args:
        grouped: Whether tied channels are pruned together.
        reduce: How to combine the scores of a channel in several weights: `"mean"`,
            `"sum"`, `"max"`, or a function of an array (weights, channels) that returns
            an array (channels,).
        normalize: Whether the scores in each weight are divided by their mean, so that
            layers of different scales compare.
        score: What is scored: `"kernel"` scores all kernels that make or read the
            channel; `"scale"` scores the gamma of the normalization that follows (Liu
            et al. 2017, arXiv 1708.06519), or kernels if there is none.
        round_to: The number of kept channels is a multiple of this, which suits wide
            instructions.
        min_channels: Smallest number of channels that a group keeps.
        max_sparsity: Largest fraction of a group's channels to prune, in (0, 1].

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If an argument is out of range.

    Example:

    >>> scores = np.array([[1.0, 0.0], [3.0, 4.0]])
    >>> axes = tfticket.structures.Axes((0,), (1,))
    >>> tfticket.structures.Channel().pool(scores, scores >= 0, axes)[0]
    array([2., 2.])
    """

    grouped: bool = True
    reduce: Any = "mean"
    normalize: bool = True
    score: Literal["kernel", "scale"] = "kernel"
    round_to: int = 1
    min_channels: int = 1
    max_sparsity: float = 1.0

    # Which units of `tfticket.channel_groups` these are.
    kinds: ClassVar[tuple[str, ...]] = ("channels", "key_dim", "value_dim")

    def __post_init__(self):
        check_bool("grouped", self.grouped)
        check_bool("normalize", self.normalize)
        if not callable(self.reduce):
            check_choice("reduce", self.reduce, tuple(_REDUCTIONS))
        check_choice("score", self.score, ("kernel", "scale"))
        check_integer("round_to", self.round_to, 1)
        check_integer("min_channels", self.min_channels, 1)
        check_number("max_sparsity", self.max_sparsity, most=1, above=0)

    def reduced(self, rows: np.ndarray) -> np.ndarray:
        """One score a channel, of an array (weights, channels)."""
        reduce = self.reduce if callable(self.reduce) else _REDUCTIONS[self.reduce]
        return np.asarray(reduce(rows))

    def pool(
        self, scores: np.ndarray, alive: np.ndarray, axes: Axes
    ) -> tuple[np.ndarray, np.ndarray]:
        inside = self._inside(scores.ndim, axes)
        pooled = np.where(alive, scores, 0).mean(inside)
        return pooled, alive.any(inside)

    def spread(
        self, units: np.ndarray, shape: tuple[int, ...], axes: Axes
    ) -> np.ndarray:
        inside = self._inside(len(shape), axes)
        return np.broadcast_to(np.expand_dims(units, inside), shape).copy()

    def _inside(self, rank, axes):
        return tuple(sorted(set(range(rank)) - set(axes.channels)))

    def get_config(self) -> dict:
        config = super().get_config()
        if callable(self.reduce):
            config["reduce"] = keras.saving.serialize_keras_object(self.reduce)
        return config

    @classmethod
    def from_config(cls, config: dict) -> "Channel":
        config = dict(config)
        if isinstance(config.get("reduce"), dict):
            config["reduce"] = keras.saving.deserialize_keras_object(config["reduce"])
        return cls(**config)


_REDUCTIONS = {
    "mean": lambda rows: rows.mean(axis=0),
    "sum": lambda rows: rows.sum(axis=0),
    "max": lambda rows: rows.max(axis=0),
}


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class Heads(Channel):
    """Whole heads of attention layers; query groups where heads share keys and values.

    Arguments are those of `Channel`, whose channels are heads here. Everything else of
    the model is left alone.

    Example:

    >>> tfticket.structures.Heads(min_channels=2).kinds
    ('heads',)
    """

    kinds: ClassVar[tuple[str, ...]] = ("heads",)


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class NM(Unstructured):
    """At most `kept` of every `group` weights along the axes that a layer sums over.

    2:4, `NM(2, 4)`, is what sparse tensor cores compute with. A sparsity says how many
    weights are pruned; it grows with the schedule and stops at `1 - kept / group`,
    where every group is full. Only the lowest `group - kept` weights of a group can go.
    Where the length does not divide, the last group is padded with zeros, which count
    as pruned first: of its `r` weights, `min(r, kept)` stay.

    Args:
        kept: Weights that stay in each group.
        group: Size of a group.

    Raises:
        ValueError: If not `0 < kept < group`.

    Example:

    >>> scores = np.array([[4.0], [1.0], [2.0], [3.0]])
    >>> axes = tfticket.structures.Axes((0,), (1,))
    >>> nm = tfticket.structures.NM(2, 4)
    >>> nm.candidates(scores, scores > 0, axes).ravel()
    array([False,  True,  True, False])
    """

    kept: int
    group: int

    def __post_init__(self):
        group = check_integer("group", self.group, 2)
        kept = check_integer("kept", self.kept, 1, group - 1)
        object.__setattr__(self, "kept", kept)
        object.__setattr__(self, "group", group)

    def check(self, shape: tuple[int, ...], axes: Axes) -> None:
        if not axes.reduction:
            raise ValueError(
                f"{self.kept}:{self.group} needs an axis that the layer sums over, and "
                f"a weight of shape {shape} has none. Exclude the layer"
            )
        length = math.prod(shape[i] for i in axes.reduction)
        if length <= self.kept:
            raise ValueError(
                f"{self.kept}:{self.group} prunes nothing of a weight of shape "
                f"{shape}, whose layer sums over {length}. Exclude the layer"
            )

    def candidates(
        self, scores: np.ndarray, alive: np.ndarray, axes: Axes
    ) -> np.ndarray:
        rows, living = self._rows(scores, axes), self._rows(alive, axes)
        length = rows.shape[1]
        found = np.empty(rows.shape, bool)
        step = max(1, _CHUNK // length)
        for i in range(0, len(rows), step):
            part = slice(i, i + step)
            found[part] = self._lowest(rows[part], living[part])
        return self._as_weight(found, scores.shape, axes)

    def groups(self, array: np.ndarray, axes: Axes, padding: Any) -> np.ndarray:
        """An array of a weight's shape as (rows, groups, weights of a group).

        Args:
            array: In the weight's shape.
            axes: What the weight's axes mean.
            padding: What fills the last group where the length does not divide.
        """
        rows = self._rows(array, axes)
        # A group that is longer is all there is, without its padding.
        size = min(self.group, rows.shape[1])
        pad = [(0, 0), (0, -rows.shape[1] % size)]
        padded = np.pad(rows, pad, constant_values=padding)
        return padded.reshape(len(rows), -1, size)

    def from_groups(
        self, groups: np.ndarray, shape: tuple[int, ...], axes: Axes
    ) -> np.ndarray:
        """The array, in the weight's shape, of what `groups` made of it."""
        length = math.prod(shape[i] for i in axes.reduction)
        rows = groups.reshape(len(groups), -1)[:, :length]
        return self._as_weight(rows, shape, axes)

    def _rows(self, array, axes):
        """The array with one row for all that is summed to one output."""
        length = math.prod(array.shape[i] for i in axes.reduction)
        return np.transpose(array, _order(array.ndim, axes)).reshape(-1, length)

    def _as_weight(self, rows, shape, axes):
        order = _order(len(shape), axes)
        found = rows.reshape([shape[i] for i in order])
        return np.transpose(found, np.argsort(order))

    def _lowest(self, scores, alive):
        length = scores.shape[1]
        # A group that is longer is all there is, without its padding.
        size = min(self.group, length)
        # Dead weights and padding are the lowest: they have been pruned before.
        ranked = np.where(alive, scores, -np.inf)
        ranked = np.pad(ranked, [(0, 0), (0, -length % size)], constant_values=-np.inf)
        # Backwards, since of equal scores the later one is pruned first.
        groups = ranked.reshape(len(ranked), -1, size)[..., ::-1]
        lowest = np.argsort(groups, axis=-1, kind="stable")
        lowest = lowest[..., : max(0, size - self.kept)]
        found = np.zeros(groups.shape, bool)
        np.put_along_axis(found, lowest, True, axis=-1)
        return found[..., ::-1].reshape(len(ranked), -1)[:, :length] & alive


def _order(rank, axes):
    """The axes of a weight, those last that its layer sums over."""
    return [i for i in range(rank) if i not in axes.reduction] + list(axes.reduction)


def get(structure: Unstructured | None) -> Unstructured:
    """The structure itself, `Unstructured()` for `None`.

    Raises:
        TypeError: If it is not a structure.
    """
    if structure is None:
        return Unstructured()
    if not isinstance(structure, Unstructured):
        raise TypeError(
            "structure must be Unstructured(), Block(shape), Channel(), Heads() or "
            "NM(kept, group) of tfticket.structures, or None. Received: "
            f"structure={structure!r}"
        )
    return structure
