"""Runs `.tflite` files in a process of their own, with and without XNNPACK."""

import contextlib
import importlib.metadata
import pathlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

_PROGRAM = pathlib.Path(__file__).with_name("programs") / "run_litert.py"

# XNNPACK is what an interpreter uses unless told not to; "builtin" are the kernels
# behind it, which also run where XNNPACK is left out of the build.
RUNTIMES = ("xnnpack", "builtin")


class RunError(RuntimeError):
    """A file did not run. `crashed` says whether the process died of it."""

    def __init__(self, message: str, crashed: bool):
        super().__init__(message)
        self.crashed = crashed


def run(
    models: Sequence[pathlib.Path],
    inputs: Mapping[str, np.ndarray],
    runtime: str,
    rounds: int = 0,
) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """Outputs by name, and the seconds of each round, for each of the files.

    Args:
        models: Files. They run in one process, round by round in turn.
        inputs: Arrays by input name.
        runtime: One of `RUNTIMES`.
        rounds: How often to run them for time, on one thread.

    Raises:
        RunError: If one of the files does not load or run, or crashes.
    """
    with tempfile.TemporaryDirectory() as folder:
        given, results = pathlib.Path(folder, "in.npz"), pathlib.Path(folder, "out.npz")
        # With a folder before each name: NumPy has parameters of its own ("file").
        arrays: dict[str, Any] = {f"inputs/{key}": x for key, x in inputs.items()}
        np.savez(given, **arrays)
        command = [sys.executable, _PROGRAM, runtime, given, results, rounds, *models]
        done = subprocess.run(
            [str(part) for part in command],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode < 0:
            raise RunError(f"the process died of signal {-done.returncode}", True)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise RunError(lines[-1][-400:], False)
        with np.load(results) as file:
            stored = dict(file)
    found = []
    for i in range(len(models)):
        mine = {k.split("/", 1)[1]: v for k, v in stored.items() if _index(k) == i}
        seconds = mine.pop("")
        found.append((mine, seconds))
    return found


def versions() -> dict[str, str]:
    """Versions of the converter and of the interpreter, by package."""
    found = {"tensorflow": importlib.metadata.version("tensorflow")}
    # Without it, TensorFlow's own interpreter runs the files.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["ai-edge-litert"] = importlib.metadata.version("ai-edge-litert")
    return found


def _index(key):
    return int(key.split("/", 1)[0])
