"""Runs a written file in another process and compares it with the model."""

import dataclasses
import pathlib
import subprocess
import sys
import tempfile
from typing import Literal

import numpy as np

from tfticket.export.served.function import SIGNATURE, Serving

_SERVER = pathlib.Path(__file__).with_name("programs") / "run_exported.py"
_C_API = "c_api"


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
        latency_ms: Median milliseconds of a call with one sample in that process;
            `None` where not timed.
        c_api: Whether the loader of TensorFlow's C API, which is TensorFlow Serving's,
            has loaded and run it as well.
        format: How weights are stored: "dense", "encoded", "csr"; `None` of a
            `.tflite` file.
        notes: What was done or chosen for you, and what that costs.
    """

    path: pathlib.Path
    size: int
    max_error: float
    agreement: float | None
    latency_ms: float | None = None
    c_api: bool = False
    format: str | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        text = f"{self.path} ("
        if self.format not in (None, "dense"):
            text += f"{self.format}, "
        text += (
            f"{self.size / 1000:.0f} kB, checked in another process: "
            f"largest difference {self.max_error:.1e}"
        )
        if self.agreement is not None:
            text += f", same answer for {self.agreement:.1%} of the samples"
        if self.latency_ms is not None:
            text += f", {self.latency_ms:.2g} ms a sample"
        return "; ".join([text, *self.notes]) + ")"


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
    crashes its interpreter takes that process down and not this one. A SavedModel is
    loaded there once more through TensorFlow's C API.

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
    results, latency = _run(kind, written, target, inputs)
    errors, same = [0.0], []
    for by in (SIGNATURE, _C_API):
        if by == _C_API and by not in results:
            continue
        label = f"The {kind} written for {target}"
        if by == _C_API:
            label += ", loaded through TensorFlow's C API,"
        errors.append(_compared(label, results[by], expected, tolerance))
        same += _agreements(results[by], expected)
    for name, difference in serving.differences.items():
        scale = max(_scale(value) for value in results[SIGNATURE].values())
        found = difference(results[SIGNATURE], results[name])
        if not found <= tolerance * scale:
            raise ExportError(
                f"The {kind} written for {target} differs from itself: signature "
                f"'{name}' by {found:.3g} from {SIGNATURE}. Nothing was kept."
            )
    return Exported(
        target,
        size_of(written),
        max(errors),
        float(np.mean(same)) if same else None,
        latency,
        c_api=_C_API in results,
        notes=serving.notes,
    )


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(
        file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()
    )


def _run(kind, written, target, inputs):
    """Outputs by signature and name, and milliseconds, from another process."""
    with tempfile.TemporaryDirectory() as folder:
        given, got = pathlib.Path(folder, "in.npz"), pathlib.Path(folder, "out.npz")
        # With a folder before each name: NumPy has parameters of its own ("file").
        np.savez(given, **{f"inputs/{name}": value for name, value in inputs.items()})
        run = subprocess.run(
            [sys.executable, str(_SERVER), kind, str(written), str(given), str(got)],
            capture_output=True,
            text=True,
            check=False,
        )
        if run.returncode:
            raise ExportError(
                f"The {kind} written for {target} does not run where keras, tfticket "
                f"and the model's own code are missing (exit code {run.returncode}). "
                f"Nothing was kept. It says:\n{run.stderr[-2000:]}"
            )
        with np.load(got) as file:
            flat = dict(file)
    latency = flat.pop("latency_ms", None)
    results = {}
    for key, value in flat.items():
        signature, name = key.split("/", 1)
        results.setdefault(signature, {})[name] = value
    return results, None if latency is None else float(latency)


def _compared(label, actual, expected, tolerance):
    """The largest difference, where all are in the tolerance."""
    if set(actual) != set(expected):
        raise ExportError(
            f"{label} has the outputs {sorted(actual)}, and the model has "
            f"{sorted(expected)}."
        )
    error = 0.0
    for name, value in expected.items():
        if actual[name].shape != value.shape:
            raise ExportError(
                f"{label} differs from the model: output '{name}' has shape "
                f"{actual[name].shape}, and not {value.shape}."
            )
        value = value.astype(np.float64)
        found = actual[name].astype(np.float64)
        difference = float(np.max(np.abs(found - value), initial=0.0))
        limit = tolerance * _scale(value)
        if not difference <= limit:  # NaN is not
            raise ExportError(
                f"{label} differs from the model: output '{name}' by "
                f"{difference:.3g}, where {limit:.3g} is allowed. Nothing was kept."
            )
        error = max(error, difference)
    return error


def _agreements(actual, expected):
    return [
        np.mean(actual[name].argmax(-1) == value.argmax(-1))
        for name, value in expected.items()
        if value.ndim > 1 and value.shape[-1] > 1
    ]


def _scale(value):
    return max(1.0, float(np.max(np.abs(value.astype(np.float64)), initial=0.0)))
