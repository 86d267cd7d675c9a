"""Compares a `.tflite` file with the model, and a sparse one with its dense twin."""

import contextlib
import importlib.metadata
import pathlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from tfticket.export.checking import processes
from tfticket.export.checking.compare import (
    Rule,
    answers,
    judge,
    not_run,
    require_close,
    worst,
)
from tfticket.export.checking.exported import Exported, ExportError
from tfticket.export.served.function import SIGNATURE, Serving
from tfticket.export.served.samples import Samples
from tfticket.export.tflite import known_faults
from tfticket.export.tflite.reader import EncodedWeight

# How far a sparse file may be from the dense one with the same quantization, relative
# to the largest output. The weights are equal, so only the order of sums differs. If
# activations are quantized, that may move one of them to the next step.
_TWIN = {None: 1e-4, "float16": 1e-3, "dynamic": 1e-2, "int8": 2e-2}

# How far the SavedModel that is quantized may be from the model: float32's tolerance.
_SOURCE = 1e-4

_SPARSE = "Use sparse=False, or fallback=True, which does it for you."

_NAMES = {"xnnpack": "with XNNPACK", "builtin": "without XNNPACK"}


def refuse_known(
    weights: Collection[EncodedWeight],
    quantization: str | None,
    runtimes: Collection[str],
    target: pathlib.Path,
) -> None:
    """Raises an ExportError if the installed LiteRT is known to be wrong here."""
    installed = versions()
    if not known_faults.known(installed):
        return
    weights_by_rule: dict[Any, list] = {}
    for one in known_faults.findings(weights, quantization):
        if set(one.rule.outcomes) & set(runtimes):
            weights_by_rule.setdefault(one.rule.reason, []).append(one)
    if not weights_by_rule:
        return
    text = []
    for reason, found in weights_by_rule.items():
        rule = found[0].rule
        where = [_NAMES[r] for r in runtimes if r in rule.outcomes]
        names = ", ".join(_described(f.weight) for f in found[:4])
        more = f" and {len(found) - 4} more" if len(found) > 4 else ""
        text.append(
            f"{reason} ({', '.join(where)}). Weights: {names}{more}. Use "
            f"{rule.instead}."
        )
    known_of = ", ".join(f"{name} {version}" for name, version in installed.items())
    raise ExportError(
        f"A sparse {quantization or 'float32'} file for {target} would not be right: "
        f"{' Also, '.join(text)} Known of {known_of}; fallback=True writes the dense "
        "file in such a case. Nothing was kept."
    )


def check(
    written: pathlib.Path,
    target: pathlib.Path,
    serving: Serving,
    samples: Samples,
    quantization: str | None,
    rule: Rule,
    runtimes: Collection[str],
    dense: pathlib.Path | None = None,
    source: pathlib.Path | None = None,
) -> Exported:
    """Runs a file in every runtime in two processes, and returns the worst result.

    If the file rounds, the SavedModel that it was converted from has to be exact,
    because quantization errors hide smaller mistakes.

    Args:
        written: Present path of the file.
        target: Final path of the file, for errors.
        serving: The model that it was made from.
        samples: The samples to run it on.
        quantization: Quantization of the file.
        rule: The rule that it has to meet.
        runtimes: The runtimes to run it in.
        dense: The dense file with the same quantization, if `written` is sparse.
        source: The SavedModel that it was converted from.

    Raises:
        ExportError: If it does not run, or if its outputs differ, in one of the
            runtimes.
    """
    inputs = samples.arrays
    expected, rule = answers(serving.predict, inputs, rule)
    if rule.rounded and source is not None:
        _require_exact(source, target, expected, inputs, rule)
    files = [written] if dense is None else [written, dense]
    all_found = []
    for runtime in runtimes:
        label = f"The .tflite file written for {target}, run {_NAMES[runtime]},"
        try:
            # A list of calls for each file, for each process.
            starts = [_calls(files, inputs, runtime) for _ in range(2)]
        except processes.RunError as failed:
            raise not_run(label, failed, _instead(dense)) from failed
        mine = [calls[0] for calls in starts]
        all_found.append(judge(label, expected, mine, rule, _instead(dense)))
        if dense is not None:
            near, twin = _TWIN[quantization], starts[0][1][0]
            require_close(label, twin, mine[0][0], near, "the dense one", _SPARSE)
    found = worst(all_found)
    return Exported(
        target,
        written.stat().st_size,
        found.error,
        found.agreement,
        notes=(*serving.notes, *found.notes),
        compared=samples.text,
        typical_error=found.typical if rule.rounded else None,
    )


def _require_exact(source, target, expected, inputs, rule):
    """Raises an ExportError if a SavedModel that was quantized is not the model."""
    serve = tf.saved_model.load(str(source)).signatures[SIGNATURE]
    given = {name: tf.constant(value) for name, value in inputs.items()}
    found = {name: value.numpy() for name, value in serve(**given).items()}
    exact = max(_SOURCE, rule.tolerance) if not rule.deterministic else _SOURCE
    label = f"What {target} was to be quantized from"
    require_close(label, expected, found, exact)


def _calls(models, inputs, runtime):
    """The outputs by name of two calls in one process, for each file."""
    stored = processes.run("run_litert", inputs, runtime, 0, *models)
    found: list[list[dict[str, np.ndarray]]] = [[{}, {}] for _ in models]
    for key, value in stored.items():
        call = int(key.startswith("again/"))
        number, name = key.removeprefix("again/").split("/", 1)
        if name:  # else it is the seconds
            found[int(number)][call][name] = value
    return found


def run(
    models: Sequence[pathlib.Path],
    inputs: Mapping[str, np.ndarray],
    runtime: str,
    rounds: int = 0,
) -> list[tuple[dict[str, np.ndarray], np.ndarray]]:
    """The outputs by name and the seconds of each round, for each file.

    Args:
        models: Files. They run in one process, in turns.
        inputs: Arrays by input name.
        runtime: One of `RUNTIMES`.
        rounds: Number of timed rounds, on one thread.

    Raises:
        RunError: If one of the files does not load or run, or crashes.
    """
    stored = processes.run("run_litert", inputs, runtime, rounds, *models)
    found: list[dict[str, np.ndarray]] = [{} for _ in models]
    for key, value in stored.items():
        number, name = key.split("/", 1)
        if number != "again":
            found[int(number)][name] = value
    return [(outputs, outputs.pop("")) for outputs in found]


def versions() -> dict[str, str]:
    """Versions of the converter and of the interpreter, by package."""
    found = {"tensorflow": importlib.metadata.version("tensorflow")}
    # If LiteRT is not installed, TensorFlow's own interpreter runs the files.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["ai-edge-litert"] = importlib.metadata.version("ai-edge-litert")
    return found


def _described(weight):
    # The converter joins the names of the operations that it merged.
    name = weight.name.split(";")[0]
    return f"'{name}' ({weight.type}, {weight.form}, {weight.width} inputs)"


def _instead(dense):
    if dense is None:
        return "Use another quantization, or raise tolerance if that is good enough."
    return _SPARSE
