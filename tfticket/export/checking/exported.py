"""What an export returns, and what it raises."""

import dataclasses
import pathlib

SHARE = 0.9
"""Fraction of samples by which a file that rounds is judged."""


class ExportError(RuntimeError):
    """A written file does not compute what the model computes."""


@dataclasses.dataclass(frozen=True)
class Exported:
    """A file or folder that was written, loaded in another process and found equal.

    Args:
        path: Path of the file or folder.
        size: Bytes of all its files.
        max_error: Largest absolute difference from the model's outputs.
        agreement: Fraction of samples with the same argmax over the last axis, in
            [0, 1]; `None` if no output has several values there.
        latency_ms: Median milliseconds per call with one sample in that process; `None`
            if it was not timed.
        c_api: Whether the loader of TensorFlow's C API, which TensorFlow Serving uses,
            has loaded and run it too.
        format: How weights are stored: "dense", "encoded", "foldable", "csr"; `None`
            for a `.tflite` file.
        notes: What was changed or chosen for you, and what that costs.
        compared: The samples of the comparison, for example "64 of your samples".
        typical_error: For a file that rounds weights or activations, no difference is
            larger than this in nine of ten samples, relative to the largest output.
            Otherwise `None`.
    """

    path: pathlib.Path
    size: int
    max_error: float
    agreement: float | None
    latency_ms: float | None = None
    c_api: bool = False
    format: str | None = None
    notes: tuple[str, ...] = ()
    compared: str = ""
    typical_error: float | None = None

    def __str__(self) -> str:
        text = f"{self.path} ("
        if self.format not in (None, "dense"):
            text += f"{self.format}, "
        text += (
            f"{self.size / 1000:.0f} kB, checked in another process: "
            f"largest difference {self.max_error:.1e}"
        )
        if self.typical_error is not None:
            text += (
                f", {SHARE:.0%} of the samples within {self.typical_error:.1e} of the "
                "largest output"
            )
        if self.agreement is not None:
            text += f", same answer for {self.agreement:.1%} of the samples"
        if self.latency_ms is not None:
            text += f", {self.latency_ms:.2g} ms a sample"
        compared = [f"compared on {self.compared}"] if self.compared else []
        return "; ".join([text, *compared, *self.notes]) + ")"


def size_of(path: pathlib.Path) -> int:
    """Bytes of a file, or of all files in a folder."""
    return sum(
        file.stat().st_size for file in [path, *path.rglob("*")] if file.is_file()
    )
