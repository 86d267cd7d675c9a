"""Runs a written file in another process and compares it with the model."""

import dataclasses
import pathlib
import subprocess
import sys
import tempfile
from typing import Literal

import numpy as np

from tfticket.export.serving import Serving

_SERVER = pathlib.Path(__file__).with_name("run_exported.py")


class ExportError(RuntimeError):
    """A written file does not compute what the model computes."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file or folder that was written, loaded elsewhere and found equal.

    Args:
        path: Where it is.
        size: Bytes of all its files.
        max_error: Largest absolute difference to the model's outputs.
        agreement: Fraction of samples with the same argmax over the last axis, in
            [0, 1]; `None` where no output has several values there.
    """

    path: pathlib.Path
    size: int
    max_error: float
    agreement: float | None

    def __str__(self) -> str:
        text = (
            f"{self.path} ({self.size / 1000:.0f} kB, checked in another process: "
            f"largest difference {self.max_error:.1e}"
        )
        if self.agreement is not None:
            text += f", same answer for {self.agreement:.1%} of the samples"
        return f"{text})"


def check(
    kind: Literal["saved_model", "litert"],
    written: pathlib.Path,
    target: pathlib.Path,
    serving: Serving,
    inputs: dict[str, np.ndarray],
    tolerance: float,
) -> Exported:
    """Compares a written file with the model it was made from.

    The file is loaded by a Python process in which keras and tfticket can't be
    imported: what it needs beyond TensorFlow or LiteRT would show. A file that
    crashes its interpreter takes that process down and not this one.

    Args:
        kind: How to load it.
        written: Where the file is now.
        target: Where it is going to be, for the result.
        serving: The model it was made from.
        inputs: Arrays by input name.
        tolerance: Largest difference allowed, relative to the largest absolute
            output (at least 1).

    Raises:
        ExportError: If the file does not load or run, or its outputs differ.
    """
    expected = serving.predict(inputs)
    with tempfile.TemporaryDirectory() as folder:
        given, got = pathlib.Path(folder, "in.npz"), pathlib.Path(folder, "out.npz")
        np.savez(given, **inputs)
        run = subprocess.run(
            [sys.executable, str(_SERVER), kind, str(written), str(given), str(got)],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise ExportError(
                f"The {kind} written for {target} does not run (exit code "
                f"{run.returncode}):\n{run.stderr[-2000:]}"
            )
        with np.load(got) as file:
            actual = dict(file)
    if set(actual) != set(expected):
        raise ExportError(
            f"The {kind} written for {target} has the outputs {sorted(actual)}, and "
            f"the model has {sorted(expected)}."
        )
    error, same = 0.0, []
    for name, value in expected.items():
        if actual[name].shape != value.shape:
            raise ExportError(
                f"The {kind} written for {target} differs from the model: output "
                f"'{name}' has shape {actual[name].shape}, and not {value.shape}."
            )
        value = value.astype(np.float64)
        found = actual[name].astype(np.float64)
        difference = float(np.max(np.abs(found - value), initial=0.0))
        limit = tolerance * max(1.0, float(np.max(np.abs(value), initial=0.0)))
        if not difference <= limit:  # NaN is not
            raise ExportError(
                f"The {kind} written for {target} differs from the model: output "
                f"'{name}' by {difference:.3g}, where {limit:.3g} is allowed. Nothing "
                "was kept."
            )
        error = max(error, difference)
        if value.ndim > 1 and value.shape[-1] > 1:
            same.append(np.mean(found.argmax(-1) == value.argmax(-1)))
    size = sum(
        file.stat().st_size for file in [written, *written.rglob("*")] if file.is_file()
    )
    return Exported(target, size, error, float(np.mean(same)) if same else None)
