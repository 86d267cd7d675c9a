"""Runs a written SavedModel in other processes and compares it with the model."""

import json
import pathlib

import numpy as np
import tensorflow as tf

from tfticket.common.files import temporary_folder
from tfticket.export.checking import processes
from tfticket.export.checking.compare import (
    Rule,
    answers,
    judge,
    not_run,
    scale,
    worst,
)
from tfticket.export.checking.exported import Exported, ExportError, size_of
from tfticket.export.checking.programs.run_c_api import DTYPES
from tfticket.export.served.function import SIGNATURE, Serving
from tfticket.export.served.samples import Samples

_C_API, _AGAIN = "c_api", "again"


def check(
    written: pathlib.Path,
    target: pathlib.Path,
    serving: Serving,
    samples: Samples,
    rule: Rule,
) -> Exported:
    """Compares a SavedModel with its model.

    A Python process that can import neither keras nor tfticket loads it, so a need for
    more than TensorFlow would show. A second process loads it through TensorFlow's C
    API, or like the first process if that is not available. Each calls it twice.

    Args:
        written: Present path of the folder.
        target: Final path of the folder, for the result.
        serving: The model that it was made from.
        samples: The samples to run it on.
        rule: The rule that it has to meet.

    Raises:
        ExportError: If it does not load or run, if two calls differ, or if its outputs
            differ from the model's.
    """
    inputs = samples.arrays
    label = f"The SavedModel written for {target}"
    results, latency = _by_python(written, inputs, label)
    library = c_api_library(written)
    if library is None:
        second = _by_python(written, inputs, label)[0]
        others = [(label, [second[SIGNATURE], second[_AGAIN]])]
    else:
        how = f"{label}, loaded through TensorFlow's C API,"
        second = _by_c_api(written, inputs, library, how)
        others = [(how, [second[_C_API], second[_AGAIN]])]
    expected, rule = answers(serving.predict, inputs, rule)
    found = worst(
        [
            judge(how, expected, [calls], rule)
            for how, calls in [(label, [results[SIGNATURE], results[_AGAIN]]), *others]
        ]
    )
    for name, differ in serving.differences.items():
        apart = differ(results[SIGNATURE], results[name])
        if not apart <= rule.tolerance * scale(results[SIGNATURE]):
            raise ExportError(
                f"{label} differs from itself: signature '{name}' by {apart:.3g} from "
                f"{SIGNATURE}. Nothing was kept."
            )
    return Exported(
        target,
        size_of(written),
        found.error,
        found.agreement,
        latency,
        c_api=library is not None,
        notes=(*serving.notes, *found.notes),
        compared=samples.text,
        typical_error=found.typical if rule.rounded else None,
    )


def _by_python(written, inputs, label):
    """Outputs by signature and name, and the milliseconds of a call."""
    try:
        flat = processes.run("run_saved_model", inputs, written)
    except processes.RunError as error:
        place = f"{label}, loaded where keras, tfticket and the model's own code are "
        raise not_run(f"{place}missing,", error) from error
    latency = flat.pop("latency_ms", None)
    return _by_call(flat), None if latency is None else float(latency)


def _by_c_api(written, inputs, library, label):
    signature = _signature(written)
    names = {
        "inputs": {name: signature.inputs[name].name for name in inputs},
        "outputs": {name: info.name for name, info in signature.outputs.items()},
    }
    with temporary_folder() as folder:
        file = folder / "names.json"
        file.write_text(json.dumps(names))
        try:
            flat = processes.run("run_c_api", inputs, library, written, file)
        except processes.RunError as error:
            raise not_run(label, error) from error
    return _by_call(flat)


def _by_call(flat):
    results: dict[str, dict[str, np.ndarray]] = {}
    for key, value in flat.items():
        call, name = key.split("/", 1)
        results.setdefault(call, {})[name] = value
    return results


def c_api_library(written: pathlib.Path) -> pathlib.Path | None:
    """The path of TensorFlow's C++ library, if it can run this SavedModel.

    Some systems have other libraries, and the program supports only some dtypes.
    """
    folder = pathlib.Path(tf.__file__).parent
    library = next(iter(sorted(folder.glob("libtensorflow_cc*"))), None)
    if library is None or not (written / "saved_model.pb").is_file():
        return None
    signature = _signature(written)
    infos = [*signature.inputs.values(), *signature.outputs.values()]
    return library if all(info.dtype in DTYPES for info in infos) else None


def _signature(written):
    from tensorflow.core.protobuf import saved_model_pb2

    content = saved_model_pb2.SavedModel()
    content.ParseFromString((written / "saved_model.pb").read_bytes())
    return content.meta_graphs[0].signature_def[SIGNATURE]
