"""How much to prune, and when. Knows nothing of models.

A schedule is any callable of a step that returns `(should_prune, sparsity)`: those
here, TF-MOT's own, or a function of the user's.
"""

import contextlib
import dataclasses
import math
from collections.abc import Callable
from typing import Any

import keras

from tfticket.common.arguments import (
    check_integer,
    check_number,
    check_rate,
    check_sparsity,
)

Schedule = Callable[[int], tuple[bool, float]]


class _Stepped:
    """Due at `begin_step` and every `frequency` steps after, up to `end_step`."""

    begin_step: int
    end_step: int
    frequency: int

    def __post_init__(self):
        begin, end = self.begin_step, self.end_step
        check_integer("begin_step", begin, 0)
        check_integer("end_step", end, -1)
        check_integer("frequency", self.frequency, 1)
        if end != -1 and end < begin:
            raise ValueError(
                "end_step must be begin_step or later, or -1 for no end. Received: "
                f"begin_step={begin}, end_step={end}"
            )
        for name in ("target_sparsity", "initial_sparsity", "final_sparsity"):
            if hasattr(self, name):
                check_sparsity(name, getattr(self, name))

    def __call__(self, step: int) -> tuple[bool, float]:
        """Whether to prune before a step, and to which sparsity.

        Args:
            step: Steps trained before, 0 for the first. A tensor without a value, as in
                a `tf.function`, gives two tensors.
        """
        with contextlib.suppress(Exception):  # each backend raises its own
            step = int(step)
        if not isinstance(step, int):
            return self._in_graph(step)
        begun = step >= self.begin_step
        over = self.end_step >= 0 and step > self.end_step
        due = begun and not over and (step - self.begin_step) % self.frequency == 0
        return due, self.sparsity(step)

    def _in_graph(self, step):
        due = keras.ops.equal((step - self.begin_step) % self.frequency, 0)
        due = keras.ops.logical_and(due, step >= self.begin_step)
        if self.end_step >= 0:
            due = keras.ops.logical_and(due, step <= self.end_step)
        return due, keras.ops.convert_to_tensor(self.sparsity(step), "float32")

    def sparsity(self, step: int) -> float:
        """The sparsity to reach if this step prunes."""
        raise NotImplementedError

    def get_config(self) -> dict[str, Any]:
        return dataclasses.asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "_Stepped":
        return cls(**config)


def _number(step):
    """The step as a float: Python's, or a tensor of a graph."""
    return float(step) if isinstance(step, int) else keras.ops.cast(step, "float32")


def _within(value, most):
    """The value, at least 0 and at most so much."""
    if isinstance(value, float):
        return min(most, max(0.0, value))
    return keras.ops.clip(value, 0.0, most)


class _Decay(_Stepped):
    """From `initial_sparsity` to `final_sparsity`, which needs an end."""

    initial_sparsity: float
    final_sparsity: float

    def __post_init__(self):
        super().__post_init__()
        if self.end_step == -1:
            raise ValueError(
                f"{type(self).__name__} needs the step at which final_sparsity is "
                "reached. Received: end_step=-1"
            )

    def sparsity(self, step: int) -> float:
        if self.end_step == self.begin_step:
            return self.final_sparsity
        part = (_number(step) - self.begin_step) / (self.end_step - self.begin_step)
        left = self._left(_within(part, 1.0))  # type: ignore[attr-defined]
        gap = self.initial_sparsity - self.final_sparsity
        return self.final_sparsity + gap * left


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class ConstantSparsity(_Stepped):
    """One sparsity from the beginning on.

    Args:
        target_sparsity: Fraction pruned, in [0, 1).
        begin_step: First step at which to prune.
        end_step: Last one, -1 for no end.
        frequency: Steps between prunings.

    Raises:
        ValueError: For values out of range, as all schedules do.

    Example:

    >>> schedule = tfticket.schedules.ConstantSparsity(0.5, begin_step=10)
    >>> schedule(9), schedule(110)
    ((False, 0.5), (True, 0.5))
    """

    target_sparsity: float
    begin_step: int
    end_step: int = -1
    frequency: int = 100

    def sparsity(self, step: int) -> float:
        return self.target_sparsity


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class OneShot(_Stepped):
    """All at once, at one step.

    Args:
        target_sparsity: Fraction pruned, in [0, 1).
        step: When.

    Example:

    >>> tfticket.schedules.OneShot(0.9, step=100)(100)
    (True, 0.9)
    """

    target_sparsity: float
    step: int = 0

    begin_step = property(lambda self: self.step)
    end_step = property(lambda self: self.step)
    frequency = property(lambda self: 1)

    def sparsity(self, step: int) -> float:
        return self.target_sparsity


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class PolynomialDecay(_Decay):
    """From one sparsity to another, fast first (Zhu & Gupta 2017, arXiv 1710.01878).

    `final + (initial - final) * (1 - p) ** power`, where `p` goes from 0 at
    `begin_step` to 1 at `end_step`.

    Args:
        initial_sparsity: Fraction pruned at `begin_step`, in [0, 1).
        final_sparsity: Fraction pruned at `end_step`, in [0, 1).
        begin_step: First step at which to prune.
        end_step: Last one.
        power: Exponent.
        frequency: Steps between prunings.

    Example:

    >>> schedule = tfticket.schedules.PolynomialDecay(0.2, 0.8, 100, 110, frequency=1)
    >>> [round(schedule(step)[1], 4) for step in (100, 102, 105, 110)]
    [0.2, 0.4928, 0.725, 0.8]
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    power: float = 3
    frequency: int = 100

    def __post_init__(self):
        super().__post_init__()
        check_number("power", self.power, above=0)

    def _left(self, part):
        return (1 - part) ** self.power


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class CosineDecay(_Decay):
    """From one sparsity to another, slow at both ends, by half a cosine wave.

    Args:
        initial_sparsity: Fraction pruned at `begin_step`, in [0, 1).
        final_sparsity: Fraction pruned at `end_step`, in [0, 1).
        begin_step: First step at which to prune.
        end_step: Last one.
        frequency: Steps between prunings.

    Example:

    >>> schedule = tfticket.schedules.CosineDecay(0.0, 0.8, 0, 100, frequency=50)
    >>> [(step, round(schedule(step)[1], 2)) for step in (0, 50, 100)]
    [(0, 0.0), (50, 0.4), (100, 0.8)]
    """

    initial_sparsity: float
    final_sparsity: float
    begin_step: int
    end_step: int
    frequency: int = 100

    def _left(self, part):
        cos = math.cos if isinstance(part, float) else keras.ops.cos
        return (1 + cos(math.pi * part)) / 2


@keras.saving.register_keras_serializable(package="tfticket")
@dataclasses.dataclass(frozen=True)
class Rounds(_Stepped):
    """A fraction of the survivors again and again: `1 - (1 - rate) ** round`.

    Args:
        rate: Fraction of the survivors pruned in a round, in (0, 1).
        rounds: Number of rounds, 1 or more.
        frequency: Steps of a round; the first pruning is after that many.

    Example:

    >>> schedule = tfticket.schedules.Rounds(rate=0.2, rounds=3, frequency=100)
    >>> [round(schedule(step)[1], 3) for step in (100, 200, 300)]
    [0.2, 0.36, 0.488]
    """

    rate: float
    rounds: int
    frequency: int

    begin_step = property(lambda self: self.frequency)
    end_step = property(lambda self: self.frequency * self.rounds)
    final_sparsity = property(lambda self: 1 - (1 - self.rate) ** self.rounds)

    def __post_init__(self):
        check_rate("rate", self.rate)
        check_integer("rounds", self.rounds, 1)
        check_integer("frequency", self.frequency, 1)
        super().__post_init__()

    def sparsity(self, step: int) -> float:
        number = _within(_number(step) // self.frequency, float(self.rounds))
        return 1 - (1 - self.rate) ** number


def get(schedule: Schedule) -> Schedule:
    """The schedule itself, or a TypeError if it can't be one."""
    if not callable(schedule) or isinstance(schedule, type):
        raise TypeError(
            "schedule must be a schedule of tfticket.schedules, or a callable of the "
            "step that returns (should_prune, sparsity): ConstantSparsity(0.5, "
            f"begin_step=0), say. Received: schedule={schedule!r}"
        )
    return schedule


def evaluate(schedule: Schedule, step: int) -> tuple[bool, float]:
    """What a schedule says of a step, as Python values, checked.

    Raises:
        TypeError: If it returns no pair.
        ValueError: If its sparsity is outside [0, 1).
    """
    answer = schedule(step)
    if not isinstance(answer, (tuple, list)) or len(answer) != 2:
        raise TypeError(
            "schedule must return (should_prune, sparsity). At step "
            f"{step}, {schedule!r} returned: {answer!r}"
        )
    due, sparsity = bool(answer[0]), float(answer[1])
    if due:
        check_sparsity(f"the sparsity of {schedule!r} at step {step}", sparsity)
    return due, sparsity


def is_periodic(schedule: Schedule) -> bool:
    """Whether it is due every `frequency` steps from `begin_step`: ours, TF-MOT's."""
    tfmot = hasattr(schedule, "_should_prune_in_step")
    return isinstance(schedule, _Stepped) or (tfmot and hasattr(schedule, "frequency"))


def final_sparsity(schedule: Schedule) -> float | None:
    """The sparsity that a schedule ends with; `None` where it does not say."""
    for name in ("final_sparsity", "target_sparsity"):
        if hasattr(schedule, name):
            return float(getattr(schedule, name))
    return None
