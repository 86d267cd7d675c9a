"""Compares a `.tflite` file with the model, and a sparse one with its dense twin."""

import dataclasses
import pathlib
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np

from tfticket.export.checking import compare, litert_runtimes
from tfticket.export.served.function import Serving
from tfticket.export.tflite import known_faults
from tfticket.export.tflite.reader import EncodedWeight

# How far a sparse file may be from the dense one of the same quantization, relative to
# the largest output. The weights are equal, so only the order of sums is not; where
# activations are quantized, that may push one of them over to the next step.
_TWIN = {None: 1e-4, "float16": 1e-3, "dynamic": 1e-2, "int8": 2e-2}

# A model that answers zero has no scale: differences of rounding are no error.
_TINY = 1e-6

_NAMES = {"xnnpack": "with XNNPACK", "builtin": "without XNNPACK"}


def refuse_known(
    weights: Collection[EncodedWeight],
    quantization: str | None,
    runtimes: Collection[str],
    target: pathlib.Path,
) -> None:
    """Raises an ExportError where the installed LiteRT is known to go wrong."""
    versions = litert_runtimes.versions()
    if not known_faults.known(versions):
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
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    raise compare.ExportError(
        f"A sparse {quantization or 'float32'} file for {target} would not be right: "
        f"{' Also, '.join(text)} Known of {installed}; fallback=True writes the dense "
        "file in such a case. Nothing was kept."
    )


def check(
    written: pathlib.Path,
    target: pathlib.Path,
    serving: Serving,
    inputs: Mapping[str, np.ndarray],
    quantization: str | None,
    tolerance: float,
    runtimes: Collection[str],
    dense: pathlib.Path | None = None,
) -> compare.Exported:
    """Runs a file in every runtime; the result is of the worst of them.

    Args:
        written: Where the file is now.
        target: Where it is going to be, for errors.
        serving: The model it was made from.
        inputs: Arrays by input name.
        quantization: Of the file.
        tolerance: Largest difference to the model, relative to the largest output.
        runtimes: Which to run it in.
        dense: The dense file of the same quantization, where `written` is sparse.

    Raises:
        ExportError: If it does not run or differs in one of them.
    """
    result = compare.Exported(target, written.stat().st_size, 0.0, None)
    expected = serving.predict(dict(inputs))
    if "xnnpack" in runtimes:
        # It takes differences relative to 1 where outputs are smaller.
        _, scale = difference(expected, expected)
        strict = tolerance * min(1.0, max(scale, _TINY))
        result = compare.check("litert", written, target, serving, dict(inputs), strict)
        if dense is None:
            runtimes = [runtime for runtime in runtimes if runtime != "xnnpack"]
    errors, agreements = [result.max_error], [result.agreement]
    for runtime in runtimes:
        kind = f"{quantization or 'float32'}{' sparse' if dense else ''} file"
        place = f"The {kind} written for {target}, run {_NAMES[runtime]},"
        files = [written] if dense is None else [written, dense]
        try:
            outputs = [
                found for found, _ in litert_runtimes.run(files, inputs, runtime)
            ]
        except litert_runtimes.RunError as failed:
            raise compare.ExportError(
                f"{place} does not run: {failed}. {_instead(dense)} Nothing was kept."
            ) from failed
        error, scale = difference(expected, outputs[0])
        limit = tolerance * max(scale, _TINY)
        if not error <= limit:  # NaN is not
            raise compare.ExportError(
                f"{place} differs from the model by {error:.3g}, where {limit:.3g} is "
                f"allowed. {_instead(dense)} Nothing was kept."
            )
        errors.append(error)
        agreements.append(agreement(expected, outputs[0]))
        if dense is not None:
            apart, scale = difference(outputs[1], outputs[0])
            limit = _TWIN[quantization] * max(scale, _TINY)
            if not apart <= limit:
                raise compare.ExportError(
                    f"{place} differs from the dense one by {apart:.3g}, where "
                    f"{limit:.3g} is allowed. {_instead(dense)} Nothing was kept."
                )
    known = [value for value in agreements if value is not None]
    return dataclasses.replace(
        result, max_error=max(errors), agreement=min(known, default=None)
    )


def difference(
    expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]
) -> tuple[float, float]:
    """Largest absolute difference, NaN where one is, and largest expected output."""
    if {k: v.shape for k, v in expected.items()} != {
        k: v.shape for k, v in actual.items()
    }:
        return np.inf, 1.0
    pairs = [
        (np.asarray(value, np.float64), np.asarray(actual[name], np.float64))
        for name, value in expected.items()
    ]
    differences = [np.max(np.abs(a - b), initial=0.0) for a, b in pairs]
    largest = max(np.max(np.abs(a), initial=0.0) for a, _ in pairs)
    # Not Python's max, which loses a NaN that does not come first.
    return float(np.max(differences)), float(largest)


def agreement(
    expected: Mapping[str, np.ndarray], actual: Mapping[str, np.ndarray]
) -> float | None:
    """Fraction of samples with the same argmax; `None` where nothing has several."""
    same = [
        np.mean(actual[name].argmax(-1) == value.argmax(-1))
        for name, value in expected.items()
        if value.ndim > 1 and value.shape[-1] > 1
    ]
    return float(np.mean(same)) if same else None


def _described(weight):
    # The converter joins the names of all that it merged.
    name = weight.name.split(";")[0]
    return f"'{name}' ({weight.type}, {weight.form}, {weight.width} inputs)"


def _instead(dense):
    if dense is None:
        return "Use another quantization, or raise tolerance if that will do."
    return "Use sparse=False, or fallback=True to have that done."
