"""Compares the outputs of a written file with those of the model it was made from."""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from tfticket.export.checking.exported import ExportError
from tfticket.export.checking.processes import RunError

Outputs = Mapping[str, np.ndarray]


class Difference(NamedTuple):
    """How far some outputs are from the expected ones.

    Args:
        absolute: Largest absolute difference in any output.
        relative: Largest of the outputs' differences, each relative to the largest
            absolute value expected of that output; NaN or infinite if a value is.
        output: Name of the output that this is of.
    """

    absolute: float
    relative: float
    output: str


def difference(expected: Outputs, actual: Outputs) -> Difference:
    """How far outputs are from the expected ones, relative to the largest of each.

    An output that should be zero everywhere has no scale: its difference counts as
    it is.

    Args:
        expected: Arrays by the name of the output.
        actual: The same names and shapes.

    Example:

    >>> found = difference({"y": np.array([1e-9, 2e-9])}, {"y": np.array([0.0, 2e-9])})
    >>> found.relative
    0.5
    """
    found = []
    for name, value in expected.items():
        wide = np.asarray(value, np.float64)
        apart = float(
            np.max(np.abs(np.asarray(actual[name], np.float64) - wide), initial=0.0)
        )
        found.append((apart, apart / scale({name: value}), name))
    # NumPy's maximum: Python's loses a NaN that does not come first.
    absolute, relative = (float(np.max([x[i] for x in found])) for i in (0, 1))
    # `nan == nan` is false: then the first NaN.
    worst = next(
        name
        for _, value, name in found
        if value == relative or (np.isnan(value) and np.isnan(relative))
    )
    return Difference(absolute, relative, worst)


def scale(outputs: Outputs) -> float:
    """The largest absolute value of some outputs; 1 where all are zero."""
    largest = max(
        float(np.max(np.abs(np.asarray(value, np.float64)), initial=0.0))
        for value in outputs.values()
    )
    return 1.0 if largest == 0 else largest


def agreement(expected: Outputs, actual: Outputs) -> float | None:
    """Fraction of samples with the same argmax; `None` where nothing has several."""
    same = [
        np.mean(actual[name].argmax(-1) == value.argmax(-1))
        for name, value in expected.items()
        if value.ndim > 1 and value.shape[-1] > 1
    ]
    return float(np.mean(same)) if same else None


def require_close(
    label: str,
    expected: Outputs,
    actual: Outputs,
    tolerance: float,
    than: str = "the model",
    advice: str = "",
) -> float:
    """The largest absolute difference, where all outputs are in the tolerance.

    Args:
        label: What was run, for errors: "The SavedModel written for models/1".
        expected: Arrays by the name of the output.
        actual: What the written file gave.
        tolerance: Largest difference allowed, relative to the largest absolute value
            of the output.
        than: What the file is compared with, for errors.
        advice: A sentence that says what to do instead, for errors.

    Raises:
        ExportError: If names, shapes or values differ, or the expected values are not
            finite and so can't be compared.
    """
    advice = f"{advice} " if advice else ""
    if set(actual) != set(expected):
        raise ExportError(
            f"{label} has the outputs {sorted(actual)}, and {than} has "
            f"{sorted(expected)}. Nothing was kept."
        )
    for name, value in expected.items():
        if actual[name].shape != value.shape:
            raise ExportError(
                f"{label} differs from {than}: output '{name}' has shape "
                f"{actual[name].shape}, and not {value.shape}. Nothing was kept."
            )
        if not np.all(np.isfinite(np.asarray(value, np.float64))):
            raise ExportError(
                f"{label} can't be checked: output '{name}' of {than} is NaN or "
                "infinite for some of the samples. Pass inputs= with samples that the "
                "model can answer. Nothing was kept."
            )
    found = difference(expected, actual)
    if not found.relative <= tolerance:  # NaN is not
        of_output = {found.output: expected[found.output]}
        limit = tolerance * scale(of_output)
        apart = difference(of_output, actual).absolute
        raise ExportError(
            f"{label} differs from {than}: output '{found.output}' by {apart:.3g}, "
            f"where {limit:.3g} is allowed. {advice}Nothing was kept."
        )
    return found.absolute


def not_run(label: str, error: RunError, advice: str = "") -> ExportError:
    """The error for a file that did not run in its process."""
    advice = f"{advice} " if advice else ""
    said = f" It says:\n{error.stderr}" if error.stderr else ""
    return ExportError(
        f"{label} does not run: {error.reason}. {advice}Nothing was kept.{said}"
    )
