"""Progress bars over a run, with the time left and a line for each finished part."""

import datetime
import itertools
import time

import keras
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from tfticket.common.arguments import check_instance, check_integer, optional


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
        rounds: Number of prunings of the callback, 1 or more.

    Raises:
        TypeError: If `rounds` is not an integer.
        ValueError: If `rounds` is below 1.

    Example:

    >>> progress = tfticket.inspection.progress.RoundProgress()
    """

    def __init__(self, console: Console | None = None, rounds: int | None = None):
        super().__init__()
        optional(check_instance, "console", console, Console, "a rich Console")
        self._console = console or Console()
        self._given = None if rounds is None else check_integer("rounds", rounds, 1)
        self._progress: Progress | None = None

    def on_train_begin(self, logs=None):
        self._rounds = self._given
        self._epochs = self.params["epochs"]
        self._ends = [time.monotonic()]
        self._progress = bar(self._console)
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
        left = time_left(epochs * sum(spans) / len(spans))
        return left if others else f"at most {left}"


def bar(console: Console) -> Progress:
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


def time_left(seconds: float) -> str:
    """Seconds as they are shown."""
    return f"{datetime.timedelta(seconds=round(seconds))} left"
