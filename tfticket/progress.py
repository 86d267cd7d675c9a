"""Progress bars over a run, with the time left and a line for what is finished."""

import datetime
import time
from typing import Any

import keras
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class RoundProgress(keras.callbacks.Callback):
    """Shows how far `IterativeMagnitudePruning` has come, with the time left.

    The bar counts the epochs of the `fit`, one to a validation.

    Put it after that callback: it reads `round` and `density` from the logs.

    Args:
        console: The `rich` console to write to; the standard output if `None`.

    Example:

    >>> progress = tfticket.progress.RoundProgress()
    """

    def __init__(self, console: Console | None = None):
        super().__init__()
        self._console = console or Console()
        self._progress: Progress | None = None

    def on_train_begin(self, logs=None):
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
        )
        self._task = self._progress.add_task("training", total=self.params["epochs"])
        self._progress.start()

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        text = f"round {logs.get('round', '-')}"
        if "density" in logs:
            text += f" at {100 * logs['density']:.1f} %"
        if "val_loss" in logs:
            text += f", val_loss {logs['val_loss']:.4f}"
        self._progress.update(self._task, advance=1, description=text)
        if "round_parameters" in logs:
            done = f"round {logs['round']:2d}: density {100 * logs['density']:5.1f} %"
            if "round_test_accuracy" in logs:
                done += f", test accuracy {100 * logs['round_test_accuracy']:.2f} %"
            if "round_best_iteration" in logs:
                done += f", early stop at iteration {logs['round_best_iteration']}"
            self._progress.console.print(done)

    def on_train_end(self, logs=None):
        self._progress.stop()


class PartProgress:
    """Shows how far a `LotteryExperiment` has come, with the time left.

    Parts that were finished before don't count for the time left.

    Args:
        experiment: The experiment; its `run` takes the methods as `on_part` and
            `on_evaluation`.
        console: The `rich` console to write to; the standard output if `None`.

    Example:

    >>> experiment = tfticket.lottery.LotteryExperiment()
    >>> bar = tfticket.progress.PartProgress(experiment)
    >>> # with bar: experiment.run(on_part=bar.on_part, ...)
    """

    def __init__(self, experiment: Any, console: Console | None = None):
        self._console = console or Console()
        self._steps = experiment.recipe.iterations
        self._parts = sum(len(chain.rounds) for chain in experiment.chains())
        self._began = time.monotonic()
        self._done = self._found = 0
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[count]}"),
            TextColumn("{task.fields[left]}"),
            console=self._console,
        )

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
        return f"{datetime.timedelta(seconds=round(seconds))} left"
