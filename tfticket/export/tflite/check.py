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

# How far a sparse file may be from the dense one of the same quantization, relative to
# the largest output. The weights are equal, so only the order of sums is not; where
# activations are quantized, that may push one of them over to the next step.
_TWIN = {None: 1e-4, "float16": 1e-3, "dynamic": 1e-2, "int8": 2e-2}

# How far what is quantized may be from the model: float32's tolerance.
_SOURCE = 1e-4

_SPARSE = "Use sparse=False, or fallback=True to have that done."

_NAMES = {"xnnpack": "with XNNPACK", "builtin": "without XNNPACK"}


def refuse_known(
    weights: Collection[EncodedWeight],
    quantization: str | None,
    runtimes: Collection[str],
    target: pathlib.Path,
) -> None:
    """Raises an ExportError where the installed LiteRT is known to go wrong."""
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
    """Runs a file in every runtime, in two processes; the result is of the worst.

    Where the file rounds, what it was converted from has to be exact: quantization
    hides smaller mistakes than those it makes.

    Args:
        written: Where the file is now.
        target: Where it is going to be, for errors.
        serving: The model it was made from.
        samples: What to run it on.
        quantization: That of the file.
        rule: What is asked of it.
        runtimes: Which to run it in.
        dense: The dense file of the same quantization, where `written` is sparse.
        source: The SavedModel that it was converted from.

    Raises:
        ExportError: If it does not run or differs in one of them.
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
    """Raises an ExportError where a SavedModel is not the model, quantization aside."""
    serve = tf.saved_model.load(str(source)).signatures[SIGNATURE]
    given = {name: tf.constant(value) for name, value in inputs.items()}
    found = {name: value.numpy() for name, value in serve(**given).items()}
    exact = max(_SOURCE, rule.tolerance) if not rule.deterministic else _SOURCE
    label = f"What {target} was to be quantized from"
    require_close(label, expected, found, exact)


def _calls(models, inputs, runtime):
    """For each of some files, the outputs by name of two calls in one process."""
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
    """Outputs by name, and the seconds of each round, for each of some files.

    Args:
        models: Files. They run in one process, round by round in turn.
        inputs: Arrays by input name.
        runtime: One of `RUNTIMES`.
        rounds: How often to run them for time, on one thread.

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
    # Without it, TensorFlow's own interpreter runs the files.
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["ai-edge-litert"] = importlib.metadata.version("ai-edge-litert")
    return found


def _described(weight):
    # The converter joins the names of all that it merged.
    name = weight.name.split(";")[0]
    return f"'{name}' ({weight.type}, {weight.form}, {weight.width} inputs)"


def _instead(dense):
    if dense is None:
        return "Use another quantization, or raise tolerance if that will do."
    return _SPARSE
