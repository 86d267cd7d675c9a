"""Exports a saved model or ticket for serving, checked, and says what it came to.

    python scripts/export.py --model=saved_models/digits.npz --report
    python scripts/export.py --model=ticket.keras --format=encoded --name=digits
    python scripts/export.py --model=ticket.keras --compact --quantization=dynamic

Writes a SavedModel in TensorFlow Serving's layout and a .tflite file, each run and
compared with the model in another process. --report also prints one table of the
dense, stripped, compact, encoded and int8 forms: bytes, accuracy, latency.
"""

import os
import pathlib

# Before TensorFlow is imported: its start-up notes would hide what is printed.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
from absl import app, flags, logging
from rich.console import Console

import tfticket
from tfticket import data, export

_MODEL = flags.DEFINE_string(
    "model", None, "A .keras file, or a ticket's .npz whose weights are trained."
)
_OUT_DIR = flags.DEFINE_string("out_dir", "saved_models", "Where exports go.")
_NAME = flags.DEFINE_string("name", None, "Their name. Default: the file's.")
_TO = flags.DEFINE_list("to", ["saved_model", "litert"], "What to write.")
_FORMAT = flags.DEFINE_enum(
    "format", "dense", ["dense", "encoded", "csr", "auto"], "Of the SavedModel."
)
_VALUE_DTYPE = flags.DEFINE_enum(
    "value_dtype", "float32", ["float32", "float16"], "Of encoded weights."
)
_QUANTIZATION = flags.DEFINE_enum(
    "quantization",
    "none",
    ["none", "float16", "dynamic", "int8"],
    "Of the .tflite file; int8 calibrates on --dataset.",
)
_SPARSE = flags.DEFINE_bool("sparse", False, "Store the .tflite file's weights sparse.")
_COMPACT = flags.DEFINE_bool("compact", False, "Take dead units out first.")
_LABELS = flags.DEFINE_list("labels", None, "Names of the classes, to serve with.")
_REPORT = flags.DEFINE_bool("report", False, "Compare all forms in one table.")
_DATASET = flags.DEFINE_string(
    "dataset", None, "'digits' or a TFDS image set, for accuracy and calibration."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Directory of TFDS data.")
_DOWNLOAD = flags.DEFINE_bool("download", True, "Whether TFDS may download.")
_OVERWRITE = flags.DEFINE_bool("overwrite", False, "Whether to replace what is there.")

flags.mark_flag_as_required("model")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}. Flags start with --.")
    logging.set_verbosity(logging.WARNING)  # TensorFlow tells how it saves
    console = Console()
    try:
        run(console)
    except (ValueError, TypeError, OSError, ImportError, export.ExportError) as error:
        console.print(f"Error: {error}", style="red", markup=False)
        raise SystemExit(1) from error


def run(console):
    path = pathlib.Path(_MODEL.value)
    out = pathlib.Path(_OUT_DIR.value, _NAME.value or path.stem)
    if unknown := sorted(set(_TO.value) - {"saved_model", "litert"}):
        raise ValueError(f"--to takes saved_model and litert. Received: {unknown}")
    quantization = None if _QUANTIZATION.value == "none" else _QUANTIZATION.value
    if quantization == "int8" and not _DATASET.value:
        raise ValueError("--quantization=int8 needs --dataset, to calibrate on it.")
    model = load(path)
    samples = None
    if _DATASET.value:
        samples = data.load(
            _DATASET.value, data_dir=_DATA_DIR.value, download=_DOWNLOAD.value
        )
    if _COMPACT.value:
        compacted = export.compact(model)
        console.print(str(compacted), highlight=False)
        model = compacted.model
    if "saved_model" in _TO.value:
        written = export.saved_model(
            model,
            out,
            format=_FORMAT.value,
            value_dtype=_VALUE_DTYPE.value,
            labels=_LABELS.value,
        )
        console.print(str(written), highlight=False)
    if "litert" in _TO.value:
        written = export.litert(
            model,
            out.with_name(f"{out.name}.tflite"),
            quantization=quantization,
            sparse=_SPARSE.value,
            representative_data=samples.train[0][:500]
            if quantization == "int8"
            else None,
            overwrite=_OVERWRITE.value,
        )
        console.print(str(written), highlight=False)
    if _REPORT.value:
        rows = export.report(model, None if samples is None else samples.test)
        export.print_report(rows, console)


def load(path):
    """The model of a `.keras` file, or the wrapped one of a ticket."""
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


if __name__ == "__main__":
    app.run(main)
