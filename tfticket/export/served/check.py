"""Runs a written SavedModel in another process and compares it with the model."""

import pathlib

import numpy as np

from tfticket.export.checking import processes
from tfticket.export.checking.compare import agreement, not_run, require_close, scale
from tfticket.export.checking.exported import Exported, ExportError, size_of
from tfticket.export.served.function import SIGNATURE, Serving

_C_API = "c_api"


def check(
    written: pathlib.Path,
    target: pathlib.Path,
    serving: Serving,
    inputs: dict[str, np.ndarray],
    tolerance: float,
) -> Exported:
    """Compares a SavedModel with the model it was made from.

    It is loaded by a Python process in which keras and tfticket can't be imported: what
    it needs beyond TensorFlow would show. There it is loaded once more through
    TensorFlow's C API.

    Args:
        written: Where the folder is now.
        target: Where it is going to be, for the result.
        serving: The model it was made from.
        inputs: Arrays by input name.
        tolerance: Largest difference allowed, relative to the largest absolute value
            of the output.

    Raises:
        ExportError: If it does not load or run, or its outputs differ.
    """
    expected = serving.predict(inputs)
    label = f"The SavedModel written for {target}"
    try:
        flat = processes.run("run_saved_model", inputs, written)
    except processes.RunError as error:
        place = f"{label}, loaded where keras, tfticket and the model's own code are "
        raise not_run(f"{place}missing,", error) from error
    latency = flat.pop("latency_ms", None)
    results: dict[str, dict[str, np.ndarray]] = {}
    for key, value in flat.items():
        signature, name = key.split("/", 1)
        results.setdefault(signature, {})[name] = value
    errors, agreements = [], []
    for by in (SIGNATURE, _C_API):
        if by == _C_API and by not in results:
            continue
        how = f"{label}, loaded through TensorFlow's C API," if by == _C_API else label
        errors.append(require_close(how, expected, results[by], tolerance))
        agreements.append(agreement(expected, results[by]))
    for name, differ in serving.differences.items():
        found = differ(results[SIGNATURE], results[name])
        if not found <= tolerance * scale(results[SIGNATURE]):
            raise ExportError(
                f"{label} differs from itself: signature '{name}' by {found:.3g} from "
                f"{SIGNATURE}. Nothing was kept."
            )
    known = [value for value in agreements if value is not None]
    return Exported(
        target,
        size_of(written),
        max(errors),
        float(np.mean(known)) if known else None,
        None if latency is None else float(latency),
        c_api=_C_API in results,
        notes=serving.notes,
    )
