"""Exports a saved model or ticket for serving, checked, and says what it came to.

    tfticket export --model=saved_models/digits.npz --report
    tfticket export --model=ticket.keras --format=encoded --name=digits
    tfticket export --model=ticket.keras --compact --quantization=dynamic

Writes a SavedModel in TensorFlow Serving's layout and a .tflite file, each run and
compared with the model in another process. --report also prints one table of the
dense, stripped, compact, encoded and int8 forms: bytes, accuracy, latency.
"""

import dataclasses
import pathlib
from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flags.DEFINE_string(
        "model",
        None,
        "A .keras file, or a ticket's .npz whose weights are trained. Required.",
        flag_values=values,
    )
    flags.mark_flag_as_required("model", flag_values=values)
    flags.DEFINE_string(
        "out_dir", "saved_models", "Where exports go.", flag_values=values
    )
    flags.DEFINE_string(
        "name", None, "Their name. Default: the file's.", flag_values=values
    )
    flags.DEFINE_list(
        "to", ["saved_model", "litert"], "What to write.", flag_values=values
    )
    flags.DEFINE_enum(
        "format",
        "dense",
        ["dense", "encoded", "csr", "auto"],
        "Of the SavedModel.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "value_dtype",
        "float32",
        ["float32", "float16"],
        "Of encoded weights.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "quantization",
        "none",
        ["none", "float16", "dynamic", "int8"],
        "Of the .tflite file; int8 calibrates on --dataset.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "sparse", False, "Store the .tflite file's weights sparse.", flag_values=values
    )
    flags.DEFINE_bool(
        "compact", False, "Take dead units out first.", flag_values=values
    )
    flags.DEFINE_list(
        "labels", None, "Names of the classes, to serve with.", flag_values=values
    )
    flags.DEFINE_bool(
        "report", False, "Compare all forms in one table.", flag_values=values
    )
    flag_groups.data(
        values,
        default=None,
        about="'digits' or a TFDS image set, for accuracy and calibration.",
    )
    flags.DEFINE_bool(
        "overwrite", False, "Whether to replace what is there.", flag_values=values
    )


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Exports what was asked for, and says what it came to."""
    if unknown := sorted(set(values.to) - {"saved_model", "litert"}):
        raise ValueError(f"--to takes saved_model and litert. Received: {unknown}")
    quantization = None if values.quantization == "none" else values.quantization
    if quantization == "int8" and not values.dataset:
        raise ValueError("--quantization=int8 needs --dataset, to calibrate on it.")
    path = pathlib.Path(values.model)
    if not path.exists():
        raise FileNotFoundError(f"--model={path} is not there.")
    from tfticket import data, export

    out = pathlib.Path(values.out_dir, values.name or path.stem)
    model = load(path)
    samples = None
    if values.dataset:
        samples = data.load(values.dataset, values.data_dir, values.download)
    calibration = None
    if samples is not None and quantization == "int8":
        calibration = samples.train[0][:500]
    result: dict[str, Any] = {"model": path, "exports": {}, "files": {}}
    if values.compact:
        compacted = export.compact(model)
        output.say(compacted)
        model = compacted.model
        result["compact"] = {
            field.name: getattr(compacted, field.name)
            for field in dataclasses.fields(compacted)
            if field.name != "model"
        }

    def written(kind, exported):
        output.begin()
        output.say(exported)
        result["exports"][kind] = exported
        result["files"][kind] = exported.path

    if "saved_model" in values.to:
        exported = export.saved_model(
            model,
            out,
            format=values.format,
            value_dtype=values.value_dtype,
            labels=values.labels,
        )
        written("saved_model", exported)
    if "litert" in values.to:
        exported = export.litert(
            model,
            out.with_name(f"{out.name}.tflite"),
            quantization=quantization,
            sparse=values.sparse,
            representative_data=calibration,
            overwrite=values.overwrite,
        )
        written("litert", exported)
    if values.report:
        rows = export.report(model, None if samples is None else samples.test)
        export.print_report(rows, output.console)
        result["report"] = rows
    return result


def load(path: pathlib.Path) -> Any:
    """The model of a `.keras` file, or the wrapped one of a ticket."""
    import keras

    import tfticket

    if path.suffix != ".npz":
        return keras.models.load_model(path)
    ticket = tfticket.Ticket.load(path)
    config = ticket.provenance.get("config")
    if not config:
        raise ValueError(
            f"--model={path} does not say its architecture. Apply the ticket to a "
            "model in Python, and export that."
        )
    return ticket.apply(keras.saving.deserialize_keras_object(config))
