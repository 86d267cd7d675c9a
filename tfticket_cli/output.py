"""What a command prints, and the one JSON object that `--json` asks for."""

import contextlib
import dataclasses
import json
import math
import os
import pathlib
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TextIO

from rich.console import Console
from rich.table import Table


class _Console(Console):
    """One that leaves the end of a pipe to whoever runs the command."""

    def on_broken_pipe(self) -> None:
        raise BrokenPipeError


class Output:
    """Where a command prints, and whether its work has begun.

    Args:
        as_json: Whether standard output is for the result alone, and words go to
            standard error.

    Attributes:
        console: For tables and progress.
        begun: Whether something was trained or written. A `ValueError` before that
            means that a flag is wrong, and the exit status says so.
        warnings: The warnings that were printed.
    """

    def __init__(self, as_json: bool):
        self.console: Console = _Console(stderr=as_json)
        self.begun = False
        self.warnings: list[str] = []

    def say(self, text: object) -> None:
        """Prints a line as it is: not wrapped, coloured or read as markup."""
        self.console.print(str(text), highlight=False, markup=False, soft_wrap=True)

    def table(self, table: Table) -> None:
        """Prints a table, no number of which is cut."""
        from tfticket.common.columns import print_table

        print_table(table, self.console)

    def begin(self) -> None:
        """From here on, an error is a failure of the work."""
        self.begun = True

    @contextlib.contextmanager
    def progress(
        self, parts: int, line: Callable[[Any], str] | None = None
    ) -> Iterator[dict[str, Callable[..., None]]]:
        """A bar over the trainings of an experiment; with the first, work begins.

        It is drawn on standard error. Where that is no terminal, each finished training
        is a line there instead, so that standard output has every result once.

        Args:
            parts: How many trainings there are.
            line: What to print of a finished one, given its result.

        Yields:
            `on_part` and `on_evaluation`, for the experiment's `run`.
        """
        from tfticket.lottery.figures.progress import PartProgress, part_line

        console = _Console(stderr=True)
        told = None if console.is_terminal else line or part_line
        with PartProgress(parts, console, told) as bar:

            def begun(call):
                def called(*args):
                    self.begin()
                    call(*args)

                return called

            yield {
                "on_part": begun(bar.on_part),
                "on_evaluation": begun(bar.on_evaluation),
            }

    def warn(self, message: Warning | str, *_: Any, **__: Any) -> None:
        """Takes the place of `warnings.showwarning`: a sentence, for the user."""
        self.warnings.append(str(message))
        complain(f"Warning: {message}", mild=True)


def complain(text: str, mild: bool = False) -> None:
    """Prints a line to standard error, yellow if it is mild and red if not."""
    console, style = _Console(stderr=True), "yellow" if mild else "red"
    console.print(text, style=style, highlight=False, markup=False, soft_wrap=True)


@contextlib.contextmanager
def quiet_start(keep: str | None = None) -> Iterator[None]:
    """Catches what libraries write to standard error when they are imported.

    By file descriptor, since TensorFlow writes from C++. An error shows it all.

    Args:
        keep: A regular expression; lines that contain it are shown.
    """
    sys.stderr.flush()
    with tempfile.TemporaryFile() as caught, os.fdopen(os.dup(2), "wb") as stream:
        os.dup2(caught.fileno(), 2)
        shown = b""
        try:
            yield
        except BaseException as error:
            shown = b"" if isinstance(error, KeyboardInterrupt) else b".*"
            raise
        finally:
            sys.stderr.flush()
            os.dup2(stream.fileno(), 2)
            caught.seek(0)
            pattern = shown or (keep or "").encode()
            for line in caught if pattern else ():
                if re.search(pattern, line):
                    stream.write(line)


@contextlib.contextmanager
def result_stream() -> Iterator[TextIO]:
    """Standard output for the result; whatever else writes there goes to the error.

    By file descriptor as well, so that C libraries and child processes are caught.
    """
    sys.stdout.flush()
    with os.fdopen(os.dup(1), "w", encoding="utf-8") as stream:
        os.dup2(2, 1)
        try:
            with contextlib.redirect_stdout(sys.stderr):
                yield stream
        finally:
            stream.flush()
            os.dup2(stream.fileno(), 1)


def write_result(result: Mapping[str, Any], stream: TextIO) -> None:
    """Writes one JSON object, numbers with all their digits."""
    json.dump(plain(result), stream, indent=2, allow_nan=False)
    stream.write("\n")


def plain(value: Any) -> Any:
    """A value as JSON has it: dataclasses and mappings as objects, paths as text.

    NaN and infinity, which JSON does not have, are null.

    Raises:
        TypeError: If JSON has nothing for it.
    """
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if value is None or isinstance(value, str | bool | int | float):
        return value
    if isinstance(value, pathlib.PurePath):
        return str(value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = dataclasses.fields(value)
        return {field.name: plain(getattr(value, field.name)) for field in fields}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if hasattr(value, "tolist"):  # NumPy's numbers and arrays
        return plain(value.tolist())
    raise TypeError(f"Nothing in JSON is a {type(value).__name__}. Received: {value!r}")
