"""`ScheduleGroup`: weights that follow one schedule, and its due steps."""

import dataclasses
import math
from collections.abc import Iterator

from tfticket.sparsity import schedules
from tfticket.sparsity.schedules import Schedule

# How many past steps are looked through for a due one, of a schedule that is not
# periodic.
_PAST = 10_000


@dataclasses.dataclass
class ScheduleGroup:
    """Weights that follow one schedule.

    Args:
        schedule: What they follow.
        names: Their names.
        parts: Name to the part of the schedule's sparsity that this weight gets.
        fixed: Name to a sparsity of its own, where the schedule does not say how far
            it goes in the end.
    """

    schedule: Schedule
    names: list[str]
    parts: dict[str, float] = dataclasses.field(default_factory=dict)
    fixed: dict[str, float] = dataclasses.field(default_factory=dict)

    def own(self, sparsity: float) -> dict[str, float]:
        """Name to sparsity of those that differ, when the schedule is at a sparsity."""
        parts = {name: min(1.0, sparsity * part) for name, part in self.parts.items()}
        return {**parts, **self.fixed}

    def latest(self, first: int, last: int) -> float | None:
        """The sparsity of the last step due in first..last, `None` if none is."""
        first, last = self._bounded(first, last)
        likely = self._likely(last, before=True)
        if likely is not None and first <= likely <= last:
            due, sparsity = schedules.evaluate(self.schedule, likely)
            if due:
                return sparsity
        for step in range(last, max(first, last - _PAST) - 1, -1):
            due, sparsity = schedules.evaluate(self.schedule, step)
            if due:
                return sparsity
        return None

    def next_due(self, first: int, last: int) -> int | None:
        """The first due step in first..last, `None` if there is none.

        Steps of our own schedules and of TF-MOT's are worked out; any other callable
        is asked about one step after the other.
        """
        first, last = self._bounded(first, last)
        likely = self._likely(first)
        if likely is not None:
            return likely if likely <= last else None
        steps = range(first, last + 1)
        return next((x for x in steps if schedules.evaluate(self.schedule, x)[0]), None)

    def prunes(self, first: int, last: int) -> bool:
        """Whether a step in first..last prunes to a sparsity above 0."""
        return any(sparsity > 0 for sparsity in self._sparsities(first, last))

    def _sparsities(self, first: int, last: int) -> Iterator[float]:
        first, last = self._bounded(first, last)
        for step in range(first, last + 1):
            due, sparsity = schedules.evaluate(self.schedule, step)
            if due:
                yield sparsity

    def _likely(self, step, before=False):
        """The due step from a step on, or up to it, where schedules are periodic."""
        if not schedules.is_periodic(self.schedule):
            return None
        period = self.schedule.frequency
        begin = int(self.schedule.begin_step)
        periods = (step - begin) / int(period)
        return begin + int(period) * (
            math.floor(periods) if before else math.ceil(periods)
        )

    def _bounded(self, first, last):
        """The same steps without those before the schedule begins or after it ends."""
        first = max(first, int(getattr(self.schedule, "begin_step", first)))
        end = int(getattr(self.schedule, "end_step", -1))
        return first, last if end < 0 else min(last, end)
