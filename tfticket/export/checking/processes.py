"""Runs one of `checking/programs` on arrays, in a separate process."""

import pathlib
import signal
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfticket.common.files import temporary_folder

PROGRAMS = pathlib.Path(__file__).with_name("programs")

TIMEOUT = 1800.0
"""Seconds after which a program is ended: a file may make its interpreter hang."""

_SAID = 2000  # characters of the end of its standard error


class RunError(RuntimeError):
    """A program returned no outputs.

    Args:
        reason: How the process ended, for example "exit code 1".
        stderr: The end of its standard error.
        crashed: Whether the process died of a signal.
    """

    def __init__(self, reason: str, stderr: str = "", crashed: bool = False):
        super().__init__(f"{reason}: {stderr}" if stderr else reason)
        self.reason = reason
        self.stderr = stderr
        self.crashed = crashed


def run(
    program: str, inputs: Mapping[str, np.ndarray], *arguments: Any
) -> dict[str, np.ndarray]:
    """Runs a program on arrays and returns the arrays that it writes.

    The program is called as `python PROGRAM.py INPUTS.npz OUTPUTS.npz ARGUMENT...`. If
    a file crashes its interpreter, only that process ends.

    Args:
        program: Name of a file in `PROGRAMS`, without ".py".
        inputs: Arrays by name.
        *arguments: Further arguments of the program, as text.

    Returns:
        The arrays, by the names that the program gave them.

    Raises:
        RunError: If the program failed, crashed, or took longer than `TIMEOUT`.
        OSError: If the folder for temporary files can't hold the arrays.
    """
    try:
        with temporary_folder() as folder:
            given, got = folder / "in.npz", folder / "out.npz"
            # Each name gets a folder, because NumPy's function has parameters such as
            # "file".
            arrays: dict[str, Any] = {f"inputs/{key}": x for key, x in inputs.items()}
            np.savez(given, **arrays)
            _call([PROGRAMS / f"{program}.py", given, got, *arguments])
            with np.load(got) as file:
                return dict(file)
    except OSError as error:
        raise OSError(
            error.errno,
            "The arrays that an export is checked on can't be written to the folder "
            f"for temporary files: {error}. Set TMPDIR to one with room",
        ) from error


def starts(
    program: str, inputs: Mapping[str, np.ndarray], *arguments: Any
) -> list[list[dict[str, np.ndarray]]]:
    """Runs two processes that call a file twice, and returns a list of calls for each.

    Args:
        program: As for `run`. It names outputs "outputs/name" and "again/name".
        inputs: Arrays by name.
        *arguments: Further arguments of the program.

    Raises:
        RunError: As for `run`.
        OSError: As for `run`.
    """
    found = []
    for _ in range(2):
        calls: dict[str, dict[str, np.ndarray]] = {"outputs": {}, "again": {}}
        for key, value in run(program, inputs, *arguments).items():
            call, name = key.split("/", 1)
            calls[call][name] = value
        found.append(list(calls.values()))
    return found


def _call(command):
    try:
        done = subprocess.run(
            [sys.executable, *map(str, command)],
            capture_output=True,
            text=True,
            errors="replace",
            timeout=TIMEOUT,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        said = (error.stderr or b"").decode(errors="replace")
        reason = f"it gave no answer in {TIMEOUT:g} seconds"
        raise RunError(reason, said.strip()[-_SAID:]) from error
    said = done.stderr.strip()[-_SAID:]
    if done.returncode < 0:
        number = -done.returncode
        known = {x.value: x.name for x in signal.Signals}
        name = f" ({known[number]})" if number in known else ""
        raise RunError(f"its process died of signal {number}{name}", said, True)
    if done.returncode:
        raise RunError(f"exit code {done.returncode}", said)
