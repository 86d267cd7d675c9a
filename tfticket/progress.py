"""A progress bar over all rounds of a run, and a line for each that is finished."""

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
