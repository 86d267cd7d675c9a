"""TF-MOT's schedules, blocks and m by n as arguments of `tfticket.Prune`."""

import abc
from typing import Any, Literal

import keras
import numpy as np

from tfticket.common.arguments import check_choice, check_instance, check_integer
from tfticket.sparsity import schedules
from tfticket.sparsity.schedules import ConstantSparsity, PolynomialDecay, Schedule
from tfticket.sparsity.structures import NM, Axes, Block

_POOLING: dict[str, Literal["average", "max"]] = {"AVG": "average", "MAX": "max"}


class PruningSchedule(abc.ABC):
    """Base class of schedules, which say when to prune and to which sparsity.

    If you save models with your own schedule, register its class with
    `keras.saving.register_keras_serializable`.

    Example:

    >>> from tfticket.compat import tfmot
    >>> class Twice(tfmot.sparsity.keras.PruningSchedule):
    ...     def __call__(self, step):
    ...         return step in (100, 200), 0.2 if step < 200 else 0.4
    ...
    ...     def get_config(self):
    ...         return {}
    >>> Twice()(200)
    (True, 0.4)
    """

    @abc.abstractmethod
    def __call__(self, step: int) -> tuple[bool, float]:
        """Whether to prune in a step, where 1 is the first, and the sparsity there."""

    @abc.abstractmethod
    def get_config(self) -> dict[str, Any]:
        """The arguments of `__init__`."""

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "PruningSchedule":
        """Creates a schedule from a configuration, tfticket's or TF-MOT's."""
        if set(config) == {"class_name", "config"}:
            config = config["config"]
        return cls(**config)

    def _should_prune_in_step(self, step, begin_step, end_step, frequency):
        # Subclasses written for TF-MOT call it.
        return ConstantSparsity(0.0, begin_step, end_step, frequency)(step)[0]


PruningSchedule.register(ConstantSparsity)
PruningSchedule.register(PolynomialDecay)


@keras.saving.register_keras_serializable(package="tfticket")
class CountedFromOne:
    """Lets a wrapper follow a schedule of TF-MOT, which counts steps from 1.

    Args:
        schedule: A callable of the step as TF-MOT counts it.

    Example:

    >>> from tfticket.compat.translated import CountedFromOne
    >>> CountedFromOne(tfticket.schedules.ConstantSparsity(0.5, 1, frequency=10))(0)
    (True, 0.5)
    """

    def __init__(self, schedule: Schedule):
        self.schedule = schedules.get(schedule)

    def __call__(self, step: int) -> tuple[bool, float]:
        return self.schedule(step + 1)

    def __eq__(self, other):
        return isinstance(other, CountedFromOne) and self.schedule == other.schedule

    def __hash__(self):
        return hash((CountedFromOne, self.schedule))

    def __repr__(self):
        return f"CountedFromOne({self.schedule!r})"

    @property
    def final_sparsity(self) -> float:
        """The schedule's last sparsity; raises an AttributeError if it has none."""
        final = schedules.final_sparsity(self.schedule)
        if final is None:
            raise AttributeError(f"{self.schedule!r} has no final_sparsity")
        return final

    def get_config(self) -> dict[str, Any]:
        return {"schedule": keras.saving.serialize_keras_object(self.schedule)}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "CountedFromOne":
        return cls(keras.saving.deserialize_keras_object(config["schedule"]))


@keras.saving.register_keras_serializable(package="tfticket")
class Block2D(Block):
    """TF-MOT's blocks, for weights of rank 2, which may be smaller than a block.

    Example:

    >>> from tfticket.compat.translated import Block2D
    >>> axes = tfticket.structures.Axes((2,), (3,))
    >>> Block2D((2, 2)).check((3, 3, 8, 8), axes)  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ...
    ValueError: block_size is for weights of rank 2...
    """

    def check(self, shape: tuple[int, ...], axes: Axes) -> None:
        if len(shape) != 2:
            raise ValueError(
                "block_size is for weights of rank 2, and one has shape "
                f"{tuple(shape)}. Wrap its layer with block_size=(1, 1), or use "
                "tfticket.structures.Block"
            )


@keras.saving.register_keras_serializable(package="tfticket")
class MByN(NM):
    """TF-MOT's N:M groups, in weights of rank 2 and 4, embedding tables included.

    If a weight is too small for the groups, none of it is pruned.

    Example:

    >>> from tfticket.compat.translated import MByN
    >>> scores, axes = np.array([[3.0], [1.0]]), tfticket.structures.Axes((), (1,))
    >>> MByN(1, 2).candidates(scores, scores > 0, axes).ravel()
    array([False,  True])
    """

    def check(self, shape: tuple[int, ...], axes: Axes) -> None:
        if len(shape) not in (2, 4):
            raise ValueError(
                "sparsity_m_by_n is for weights of rank 2 and 4, and one has shape "
                f"{tuple(shape)}. Wrap its layer without it, or use "
                "tfticket.structures.NM"
            )

    def candidates(
        self, scores: np.ndarray, alive: np.ndarray, axes: Axes
    ) -> np.ndarray:
        if not axes.reduction:
            axes = axes._replace(reduction=(scores.ndim - 2,))
        return super().candidates(scores, alive, axes)


def wrapper_arguments(
    schedule: Schedule,
    block_size: tuple[int, int],
    pooling: str,
    m_by_n: tuple[int, int] | None,
) -> dict[str, Any]:
    """Translates TF-MOT's arguments to those of `Prune`.

    Args:
        schedule: Callable of the step, counted from 1.
        block_size: Height and width of a block.
        pooling: `"AVG"` or `"MAX"` of the magnitudes in a block.
        m_by_n: (m, n) for m zeros in every n weights, or `None`.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, or both blocks and m by n are given.
    """
    check_choice("block_pooling_type", pooling, list(_POOLING))
    block_size = _two_integers("block_size", block_size)
    if m_by_n is None:
        structure = None
        if block_size != (1, 1):
            structure = Block2D(block_size, _POOLING[pooling])
        return {"schedule": CountedFromOne(schedule), "structure": structure}
    zeros, group = _two_integers("sparsity_m_by_n", m_by_n)
    if not 0 < zeros < group:
        raise ValueError(
            "sparsity_m_by_n=(m, n) must have 0 < m < n, for m zeros in every n. "
            f"Received: sparsity_m_by_n={m_by_n}"
        )
    if block_size != (1, 1):
        raise ValueError(
            "block_size and sparsity_m_by_n can't be combined. Received: "
            f"block_size={block_size}, sparsity_m_by_n={m_by_n}. Leave one out."
        )
    # TF-MOT computes such masks once, in its first step.
    once = schedules.OneShot(zeros / group, step=1)
    return {
        "schedule": CountedFromOne(once),
        "structure": MByN(group - zeros, group),
    }


def _two_integers(name, value):
    check_instance(name, value, (tuple, list), "a pair of positive integers")
    if len(value) != 2:
        raise ValueError(
            f"{name} must be a pair of positive integers. Received: {name}={value!r}"
        )
    return tuple(check_integer(f"{name}[{i}]", n, 1) for i, n in enumerate(value))
