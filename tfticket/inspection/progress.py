"""Progress bars over a run, with the time left and a line for each finished part."""

import datetime
import itertools
import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tfticket.common.arguments import check_integer


class RoundProgress(keras.callbacks.Callback):
    """Shows how far a `fit` has come: round, density or sparsity, and the time left.

    The bar counts the epochs of the whole `fit`. The time left is estimated from the
    average epoch so far, validation included. The first epoch compiles, so it is left
    out; while there is no other, the estimate is shown as "at most".

    Put it after `IterativeMagnitudePruning`, `GradualPruning` or `DensityScheduler`: it
    reads `round`, `density` and `sparsity` from the logs. The total number of rounds is
    shown once the first round ends, or from the start if you pass `rounds`.

    Args:
        console: The `rich` console to write to; the standard output if `None`.
        rounds: How often the callback prunes, 1 or more.

    Raises:
        TypeError: If `rounds` is not an integer.
        ValueError: If `rounds` is below 1.

    Example:

    >>> progress = tfticket.inspection.progress.RoundProgress()
    """

    def __init__(self, console: Console | None = None, rounds: int | None = None):
        super().__init__()
        self._console = console or Console()
        self._given = None if rounds is None else check_integer("rounds", rounds, 1)
        self._progress: Progress | None = None

    def on_train_begin(self, logs=None):
        self._rounds = self._given
        self._epochs = self.params["epochs"]
        self._ends = [time.monotonic()]
        self._progress = _bar(self._console)
        self._task = self._progress.add_task(
            "training", total=self._epochs, count=f"0/{self._epochs}", left=""
        )
        self._progress.start()

    def on_epoch_end(self, epoch, logs=None):
        logs, done = logs or {}, epoch + 1
        self._ends.append(time.monotonic())
        if "round_parameters" in logs and self._rounds is None:
            # A round's last epoch; rounds are of one length, the dense one is 0.
            self._rounds = self._epochs * (logs["round"] + 1) // done - 1
        self._progress.update(
            self._task,
            completed=done,
            description=self._description(logs),
            count=f"{done}/{self._epochs}",
            left=self._left(self._epochs - done),
        )
        if "round_parameters" in logs:
            line = f"round {logs['round']:2d}: density {100 * logs['density']:5.1f} %"
            if "round_test_accuracy" in logs:
                line += f", test accuracy {100 * logs['round_test_accuracy']:.2f} %"
            if "round_best_iteration" in logs:
                line += f", early stop at iteration {logs['round_best_iteration']}"
            self._progress.console.print(line)

    def on_train_end(self, logs=None):
        self._progress.stop()

    def _description(self, logs):
        parts = []
        if "round" in logs:
            parts.append(f"round {logs['round']}")
            if self._rounds is not None:
                parts[0] += f" of {self._rounds}"
        for name in ("density", "sparsity"):
            if name in logs:
                parts.append(f"{name} {100 * logs[name]:.1f} %")
        if "val_loss" in logs:
            parts.append(f"val_loss {logs['val_loss']:.4f}")
        return ", ".join(parts) or "training"

    def _left(self, epochs):
        if not epochs:
            return ""
        first, *others = itertools.pairwise(self._ends)
        spans = [end - begin for begin, end in others or [first]]
        left = _time_left(epochs * sum(spans) / len(spans))
        return left if others else f"at most {left}"


class PartProgress:
    """Shows how far a `LotteryExperiment` has come, with the time left.

    Parts that were finished before don't count for the time left.

    Args:
        experiment: The experiment; its `run` takes the methods as `on_part` and
            `on_evaluation`.
        console: The `rich` console to write to; the standard output if `None`.

    Example:

    >>> experiment = tfticket.lottery.LotteryExperiment()
    >>> bar = tfticket.inspection.progress.PartProgress(experiment)
    >>> # with bar: experiment.run(on_part=bar.on_part, ...)
    """

    def __init__(self, experiment: Any, console: Console | None = None):
        self._console = console or Console()
        self._steps = experiment.recipe.iterations
        self._parts = sum(len(chain.rounds) for chain in experiment.chains())
        self._began = time.monotonic()
        self._done = self._found = 0
        self._progress = _bar(self._console)

    def __enter__(self):
        self._progress.start()
        self._task = self._progress.add_task(
            "starting", total=self._parts, count=f"0/{self._parts}", left=""
        )
        return self

    def __exit__(self, *_):
        self._progress.stop()

    def on_evaluation(self, part: Any, steps: int) -> None:
        """Moves the bar on within a part."""
        done = self._done + min(steps / self._steps, 1.0)
        self._progress.update(
            self._task,
            completed=done,
            description=f"{part.path} at step {steps}",
            left=self._left(done),
        )

    def on_part(self, result: Any, done: int, total: int, fresh: bool) -> None:
        """Counts a part, and writes a line unless it was finished before."""
        self._done = done
        self._found += not fresh
        self._progress.update(
            self._task, completed=done, count=f"{done}/{total}", left=self._left(done)
        )
        if not fresh:
            return
        self._console.print(
            f"{result.part.path}: density {100 * result.density:.1f} %, test accuracy "
            f"{100 * result.test['accuracy']:.2f} %, early stop at iteration "
            f"{result.early_stop_iteration}",
            highlight=False,
        )

    def _left(self, done):
        trained = done - self._found
        if trained <= 0:
            return ""
        seconds = (time.monotonic() - self._began) / trained * (self._parts - done)
        return _time_left(seconds)


def _bar(console):
    """A bar between its description and the fields `count` and `left`.

    Rich estimates the time left from the last 30 seconds, and so shows none where a
    step takes longer.
    """
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(bar_width=16),
        TextColumn("{task.fields[count]}"),
        TextColumn("{task.fields[left]}"),
        console=console,
    )


def _time_left(seconds):
    return f"{datetime.timedelta(seconds=round(seconds))} left"
