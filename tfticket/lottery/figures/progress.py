"""`PartProgress`: a bar over the trainings of an experiment, with the time left."""

import time
from collections.abc import Callable
from typing import Any

from rich.console import Console

from tfticket.common.arguments import (
    check_function,
    check_instance,
    check_integer,
    optional,
)
from tfticket.inspection.progress import bar, time_left
from tfticket.lottery.results import PartResult
from tfticket.tickets.rounds import percent


def part_line(result: PartResult) -> str:
    """What is printed of a finished part of a lottery experiment."""
    check_instance("result", result, PartResult, "a tfticket.lottery.PartResult")
    return (
        f"{result.part.path}: density {percent(result.density, 1)} %, test accuracy "
        f"{percent(result.test['accuracy'])} %, early stop at iteration "
        f"{result.early_stop_iteration}"
    )


class PartProgress:
    """Shows how far an experiment has come, with the time left.

    Nothing is shown before something is done, so that an error stands alone. Parts that
    were finished before don't count for the time left.

    Args:
        parts: How many trainings there are; an experiment's `run` takes the methods as
            `on_part` and `on_evaluation`.
        console: The `rich` console to write to; the standard output if `None`.
        line: What to print of a finished part, given its result; `None` is nothing.

    Example:

    >>> experiment = tfticket.lottery.LotteryExperiment()
    >>> bar = tfticket.lottery.PartProgress(len(experiment.parts()))
    >>> # with bar: experiment.run(on_part=bar.on_part, ...)
    """

    def __init__(
        self,
        parts: int,
        console: Console | None = None,
        line: Callable[[Any], str] | None = part_line,
    ):
        parts = check_integer("parts", parts, 1)
        optional(check_instance, "console", console, Console, "a rich Console")
        optional(check_function, "line", line, "result")
        self._parts, self._console, self._line = parts, console or Console(), line
        self._began = time.monotonic()
        self._done = self._found = 0
        self._begun: dict[Any, float] = {}  # of parts that are trained now, by path
        self._progress = bar(self._console)
        self._task = self._progress.add_task(
            "starting", total=parts, count=f"0/{parts}", left=""
        )

    def __enter__(self) -> "PartProgress":
        return self

    def __exit__(self, *_: Any) -> None:
        if self._progress.live.is_started:
            self._progress.stop()

    def on_evaluation(self, part: Any, steps: int, of: int) -> None:
        """Moves the bar on within a part, of whose steps so many are done."""
        self._progress.start()
        self._begun[part.path] = min(steps / of, 1.0)
        done = self._done + sum(self._begun.values())
        self._progress.update(
            self._task,
            completed=done,
            description=f"{part.path} at step {steps}",
            left=self._left(done),
        )

    def on_part(self, result: Any, done: int, total: int, fresh: bool) -> None:
        """Counts a part, and writes a line unless it was finished before."""
        self._progress.start()
        self._done = done
        self._begun.pop(getattr(result, "part", result).path, None)
        completed = done + sum(self._begun.values())
        self._found += not fresh
        self._progress.update(
            self._task,
            completed=completed,
            count=f"{done}/{total}",
            left=self._left(completed),
        )
        if fresh and self._line is not None:
            self._console.print(self._line(result), highlight=False, soft_wrap=True)

    def _left(self, done):
        trained = done - self._found
        if trained <= 0:
            return ""
        seconds = (time.monotonic() - self._began) / trained * (self._parts - done)
        return time_left(seconds)
