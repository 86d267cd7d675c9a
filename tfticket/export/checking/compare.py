"""Compares the outputs of a written file with those of the model it was made from."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from tfticket.export.checking.exported import SHARE, ExportError
from tfticket.export.checking.processes import RunError

Outputs = Mapping[str, np.ndarray]

REPEATED = 1e-5
"""How far two calls on the same samples may be from each other, relative to the largest
absolute value of the output: sums that threads share may come in another order."""


class Difference(NamedTuple):
    """How far some outputs are from the expected ones.

    Args:
        absolute: Largest absolute difference in any output.
        relative: Largest difference in any output, relative to the largest expected
            absolute value of that output; NaN or infinite if a value is.
        output: Name of the output with this difference.
    """

    absolute: float
    relative: float
    output: str


def difference(expected: Outputs, actual: Outputs) -> Difference:
    """How far outputs are from the expected ones, relative to their largest values.

    If an output should be zero everywhere, it has no scale, and its absolute difference
    counts.

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
    # NumPy's maximum, because Python's loses a NaN that does not come first.
    absolute, relative = (float(np.max([x[i] for x in found])) for i in (0, 1))
    # `nan == nan` is false, so this finds the first NaN.
    worst = next(
        name
        for _, value, name in found
        if value == relative or (np.isnan(value) and np.isnan(relative))
    )
    return Difference(absolute, relative, worst)


def scale(outputs: Outputs) -> float:
    """The largest absolute value of some outputs; 1 if all are zero."""
    largest = max(
        float(np.max(np.abs(np.asarray(value, np.float64)), initial=0.0))
        for value in outputs.values()
    )
    return 1.0 if largest == 0 else largest


def agreement(expected: Outputs, actual: Outputs) -> float | None:
    """Fraction of samples with the same argmax; `None` if no axis has more than one."""
    same = [
        np.mean(actual[name].argmax(-1) == value.argmax(-1))
        for name, value in expected.items()
        if value.ndim > 1 and value.shape[-1] > 1
    ]
    return float(np.mean(same)) if same else None


class Rule(NamedTuple):
    """What a file has to meet.

    Args:
        tolerance: Largest difference allowed, relative to the largest absolute value of
            the output.
        rounded: Whether it rounds weights or activations: see `require_close`.
        deterministic: Whether two calls of the file have to agree.
    """

    tolerance: float
    rounded: bool = False
    deterministic: bool = True


class Compared(NamedTuple):
    """The result of comparing a file with its model.

    Args:
        error: Largest absolute difference in any output.
        typical: Upper bound on the difference in `SHARE` of the samples, relative to
            the largest absolute value of the output, for the worst output.
        agreement: As from `agreement`.
        notes: Further remarks.
    """

    error: float
    typical: float
    agreement: float | None
    notes: tuple[str, ...] = ()


def answers(
    predict: Callable[[dict], dict], inputs: dict[str, np.ndarray], rule: Rule
) -> tuple[dict[str, np.ndarray], Rule]:
    """Runs the model; returns its outputs, and the rule for a file of that model.

    If the model is random and may be, the rule adds three times the difference of two
    of its calls to the tolerance.

    Args:
        predict: Runs the model, from the same state every time.
        inputs: Arrays by input name.
        rule: The rule for a file of a deterministic model.
    """
    expected = predict(inputs)
    if rule.deterministic:
        return expected, rule
    apart = difference(expected, predict(inputs)).relative
    return expected, rule._replace(tolerance=rule.tolerance + 3 * apart)


def judge(
    label: str,
    expected: Outputs,
    starts: Sequence[Sequence[Outputs]],
    rule: Rule,
    advice: str = "",
) -> Compared:
    """Compares calls of a file with each other and with the model.

    Args:
        label: What was run, for errors: "The SavedModel written for models/1".
        expected: Outputs of the model by name.
        starts: For each process that loaded the file in one runtime, the outputs of its
            calls on the same samples.
        rule: What is asked of the file.
        advice: A sentence that says what to do instead, for errors.

    Raises:
        ExportError: If calls differ from each other or from the model.
    """
    notes = require_repeatable(
        label, [call for start in starts for call in start], rule.deterministic
    )
    found = [
        require_close(
            label, expected, calls[0], rule.tolerance, "the model", advice, rule.rounded
        )
        for calls in starts
    ]
    return worst(found)._replace(
        notes=(*notes, *varies_little(expected, rule.tolerance))
    )


def worst(found: Sequence[Compared]) -> Compared:
    """The worst number of each kind, and each note once."""
    same = [one.agreement for one in found if one.agreement is not None]
    return Compared(
        max(one.error for one in found),
        max(one.typical for one in found),
        min(same, default=None),
        tuple(dict.fromkeys(note for one in found for note in one.notes)),
    )


def require_close(
    label: str,
    expected: Outputs,
    actual: Outputs,
    tolerance: float,
    than: str = "the model",
    advice: str = "",
    rounded: bool = False,
) -> Compared:
    """Returns how close outputs are, and raises an error if that is not enough.

    An exact file has every value within the tolerance. A file that rounds weights or
    activations is `rounded` and judged by two numbers, because the worst of many values
    says little about it:

    - In `SHARE` of the samples the largest difference is within the tolerance, relative
      to the largest absolute value of the output. Of fewer than ten samples, all have
      to be.
    - If the last axis has several values, `SHARE` of the answers (argmax) are the
      model's, or near ties by the model's own values: the model's value for the file's
      answer is below its best by no more than the tolerance, as a fraction of the
      median range from lowest to highest value.

    The second number is relative to what distinguishes the classes, not to their size.
    So a network with close answers (for example an untrained one) has to keep their
    order, and regression outputs, whose argmax means nothing, meet it if they vary
    about as much as they are large.

    Args:
        label: What was run, for errors: "The SavedModel written for models/1".
        expected: Arrays by the name of the output.
        actual: The outputs of the written file.
        tolerance: Largest difference allowed, relative to the largest absolute value
            of the output.
        than: Name of what the file is compared with, for errors.
        advice: A sentence that says what to do instead, for errors.
        rounded: Whether the file rounds weights or activations.

    Raises:
        ExportError: If names, shapes or values differ, or the expected values are not
            finite and so can't be compared.
    """
    advice = f"{advice} " if advice else ""
    _require_same_form(label, expected, actual, than)
    found = difference(expected, actual)
    compared = Compared(
        found.absolute,
        max(_typical(value, actual[name]) for name, value in expected.items()),
        agreement(expected, actual),
    )
    if not rounded:
        if not found.relative <= tolerance:  # NaN is not
            of_output = {found.output: expected[found.output]}
            limit = tolerance * scale(of_output)
            apart = difference(of_output, actual).absolute
            raise ExportError(
                f"{label} differs from {than}: output '{found.output}' by "
                f"{apart:.3g}, where {limit:.3g} is allowed (tolerance={tolerance:g}). "
                f"{advice}Nothing was kept."
            )
        return compared
    for name, value in expected.items():
        typical, near = _typical(value, actual[name]), 1.0
        if value.ndim > 1 and value.shape[-1] > 1:
            near = _near_agreement(value, actual[name], tolerance)
        if not (typical <= tolerance and near >= SHARE):
            raise ExportError(
                f"{label} differs from {than}: of output '{name}', {SHARE:.0%} of "
                f"{len(value) if value.ndim else 1} samples are within {typical:.3g} "
                f"of the largest value, where tolerance={tolerance:g} is allowed (the "
                f"worst: {difference({name: value}, actual).relative:.3g})"
                f"{_said_of_answers(value, actual[name], near)}. {advice}Nothing was "
                "kept."
            )
    return compared


def _require_same_form(label, expected, actual, than):
    """Requires the same names and shapes, and finite expected values."""
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
        if not _finite(value):
            raise ExportError(
                f"{label} can't be checked: output '{name}' of {than} is NaN or "
                "infinite for some of the samples. Pass inputs= with samples that the "
                "model can answer. Nothing was kept."
            )
        if not _finite(actual[name]):
            raise ExportError(
                f"{label} differs from {than}: output '{name}' is NaN or infinite for "
                f"some of the samples, and that of {than} is not. Nothing was kept."
            )


def _typical(expected, actual):
    """The largest relative difference of `SHARE` of the samples."""
    wide = np.asarray(expected, np.float64)
    apart = np.abs(np.asarray(actual, np.float64) - wide) / scale({"": wide})
    each = apart.reshape(len(apart) if apart.ndim else 1, -1).max(-1, initial=0.0)
    # A value that occurs: of n samples, the ceil(n * SHARE)th.
    return float(np.quantile(each, SHARE, method="inverted_cdf"))


def _near_agreement(expected, actual, tolerance):
    """Fraction of answers that are the model's, or nearly its best."""
    wide = np.asarray(expected, np.float64)
    best = wide.max(-1)
    # If several of the file's values are the largest, take the worst of them.
    answers = actual == actual.max(-1, keepdims=True)
    lost = best - np.where(answers, wide, np.inf).min(-1)
    spread = np.median(best - wide.min(-1))
    return float(np.mean(lost <= tolerance * spread))


def _said_of_answers(expected, actual, near):
    same = agreement({"": expected}, {"": actual})
    if same is None:
        return ""
    return (
        f"; same answer for {same:.1%}, same or nearly for {near:.1%}, where "
        f"{SHARE:.0%} is asked for"
    )


def require_repeatable(
    label: str, calls: Sequence[Outputs], deterministic: bool = True
) -> tuple[str, ...]:
    """Notes on how calls of a file on the same samples differ.

    Args:
        label: What was run, for errors.
        calls: Outputs by name of two or more calls, all in one runtime.
        deterministic: Whether calls have to agree.

    Raises:
        ExportError: If they have to agree, and don't.
    """
    if not all(_finite(value) for outputs in calls for value in outputs.values()):
        return ()  # which the comparison with the model names better
    first, *others = calls
    for other in others:
        _require_same_form(label, first, other, "another call of it")
    found = max((difference(first, other) for other in others), key=_relative)
    dtype = np.asarray(first[found.output]).dtype
    limit = REPEATED
    if dtype.kind == "f":
        limit = max(limit, 4 * float(np.finfo(dtype).eps))
    if found.relative <= limit:
        return ()
    if not deterministic:
        return (f"two calls differ by {found.relative:.2g} of the largest output",)
    raise ExportError(
        f"{label} does not repeat itself: two calls on the same samples, or of two "
        f"processes, differ in output '{found.output}' by {found.relative:.3g} of the "
        f"largest value, where {limit:.1g} is allowed. A layer adds noise, counts its "
        "calls or keeps a state in inference. Take it out, or pass "
        "deterministic=False if that is meant. Nothing was kept."
    )


def _relative(found):
    return found.relative


def _finite(value):
    return np.all(np.isfinite(np.asarray(value, np.float64)))


def varies_little(expected: Outputs, tolerance: float) -> tuple[str, ...]:
    """A note for each output that is nearly the same for all samples.

    Args:
        expected: Arrays by the name of the output, samples first.
        tolerance: Largest difference that the check allows, relative to the largest
            absolute value.
    """
    notes = []
    for name, value in expected.items():
        if value.ndim == 0 or len(value) < 2:
            continue
        wide = np.asarray(value, np.float64)
        varies = float(np.ptp(wide, axis=0).max(initial=0.0)) / scale({name: wide})
        if varies <= tolerance and np.any(wide):
            notes.append(
                f"output '{name}' differs between these samples by {varies:.1g} of its "
                f"largest value, and the check allows {tolerance:g}: pass inputs= that "
                "the model tells apart"
            )
    return tuple(notes)


def not_run(label: str, error: RunError, advice: str = "") -> ExportError:
    """The error for a file that did not run in its process."""
    advice = f"{advice} " if advice else ""
    said = f" It says:\n{error.stderr}" if error.stderr else ""
    return ExportError(
        f"{label} does not run: {error.reason}. {advice}Nothing was kept.{said}"
    )
