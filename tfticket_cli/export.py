"""Exports a saved model or ticket for serving, and checks every file.

    tfticket export --model=saved_models/digits.npz --compare
    tfticket export --model=ticket.keras --format=encoded --name=digits
    tfticket export --model=ticket.keras --compact --quantization=dynamic

Writes a SavedModel in TensorFlow Serving's layout and a .tflite file, each run and
compared with the model in another process. --compare also prints one table of the
dense, stripped, compact, encoded and int8 forms: bytes, accuracy, latency.
"""

import contextlib
import dataclasses
import pathlib
from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output

# Test images that a written file is compared with the model on.
_CHECKED = 512

# Flags that do not change what is written.
_APART = ("compare", "json", "overwrite")


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    texts = (
        ("model", None, "A .keras file, or a ticket's .npz with trained weights."),
        ("out_dir", "saved_models", "Folder for the exports."),
        ("name", None, "Name of the exports. Default: the name of --model."),
    )
    choices = (
        (
            "format",
            "dense",
            ["dense", "encoded", "foldable", "csr", "auto"],
            "How the SavedModel stores weights.",
        ),
        ("value_dtype", "float32", ["float32", "float16"], "Dtype of encoded weights."),
        (
            "quantization",
            "none",
            ["none", "float16", "dynamic", "int8"],
            "Quantization of the .tflite file; int8 calibrates on --dataset.",
        ),
    )
    switches = (
        ("sparse", "Store the .tflite file's weights sparse."),
        ("compact", "Remove dead units first."),
        ("compare", "Compare all forms in one table."),
        ("overwrite", "Replace a .tflite file that exists."),
    )
    for name, default, text in texts:
        flags.DEFINE_string(name, default, text, flag_values=values)
    flags.mark_flag_as_required("model", flag_values=values)
    for name, default, allowed, text in choices:
        flags.DEFINE_enum(name, default, allowed, text, flag_values=values)
    for name, text in switches:
        flags.DEFINE_bool(name, False, text, flag_values=values)
    flags.DEFINE_list(
        "to", ["saved_model", "litert"], "What to write.", flag_values=values
    )
    flags.DEFINE_list(
        "labels",
        None,
        "Names of the classes, which the SavedModel then returns.",
        flag_values=values,
    )
    flag_groups.data(
        values,
        default=None,
        about="'digits' or a TFDS image set, for the check, accuracy and calibration.",
    )


def check(values: flags.FlagValues) -> None:
    """Refuses flags that don't go together, and a model that is not there."""
    if unknown := sorted(set(values.to) - {"saved_model", "litert"}):
        raise ValueError(f"--to takes saved_model and litert. Received: {unknown}")
    if values.quantization == "int8" and not values.dataset:
        raise ValueError("--quantization=int8 needs --dataset, to calibrate on it.")
    if not pathlib.Path(values.model).exists():
        raise FileNotFoundError(f"--model={values.model} does not exist.")


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Exports what was asked for, and prints the result of each check."""
    quantization = None if values.quantization == "none" else values.quantization
    path = pathlib.Path(values.model)
    out = pathlib.Path(values.out_dir, values.name or path.stem)
    note = _Note(values, out)
    lite = out.with_name(f"{out.name}.tflite")
    if "litert" in values.to and lite.exists() and not note.may_replace(lite):
        raise FileExistsError(
            f"{lite} exists. Pass --overwrite to replace it, or choose another --name."
        )
    from tfticket import data, export

    model = load(path)
    samples = None
    if values.dataset:
        samples = data.load(values.dataset, values.data_dir, values.download)
    checked_on = None if samples is None else samples.test[0][:_CHECKED]
    calibration = None
    if samples is not None and quantization == "int8":
        calibration = samples.train[0][:500]
    result: dict[str, Any] = {"model": path, "exports": {}, "files": {}}
    if values.compact:
        compacted = export.compact(model)
        output.say(compacted)
        model = compacted.model
        result["compact"] = _facts(compacted)
    with note.held() as version:
        for kind in ("saved_model", "litert"):
            if kind not in values.to:
                continue
            if kind == "saved_model":
                exported = _saved_model(
                    model,
                    out,
                    version,
                    note.is_own(out / str(version)),
                    format=values.format,
                    value_dtype=values.value_dtype,
                    labels=values.labels,
                    inputs=checked_on,
                )
            else:
                exported = export.litert(
                    model,
                    lite,
                    quantization=quantization,
                    sparse=values.sparse,
                    representative_data=calibration,
                    inputs=checked_on,
                    overwrite=note.may_replace(lite),
                )
            output.begin()
            output.say(exported)
            result["exports"][kind] = exported
            result["files"][kind] = exported.path
    if values.compare:
        rows = export.compare(model, None if samples is None else samples.test)
        export.print_comparison(rows, output.console)
        result["comparison"] = rows
    return result


def _saved_model(model, out, version, overwrite, **settings):
    from tfticket import export

    try:
        return export.saved_model(model, out, version, overwrite=overwrite, **settings)
    except FileExistsError:  # written by another process meanwhile
        return export.saved_model(model, out, **settings)


class _Note:
    """A file beside the exports that says what is being written, until it is.

    Args:
        values: The command's flags.
        out: The model's folder.

    If this command was killed here, it goes on: what it has written is its own to
    replace.
    """

    def __init__(self, values, out):
        from tfticket.common.files import dead_note, recover_folders

        recover_folders(out.parent)
        self._overwrite = values.overwrite
        self._out, self._path = out, out.with_name(f".{out.name}.exporting.json")
        own = flags.FlagValues()  # a script has absl's flags too
        define(own)
        self._asked = {x: values[x].value for x in sorted(own) if x not in _APART}
        left, noted = dead_note(self._path)
        # Another process may be at it, which then has the version that it noted.
        self._is_held = left is None and self._path.exists()
        resumes = isinstance(left, dict) and left.get("asked") == self._asked
        self._version = left["version"] if resumes else None
        self._own = noted if resumes else {}

    def is_own(self, path):
        """Whether this command had put there what is there."""
        from tfticket.common.files import is_own

        return is_own(path, self._own)

    def may_replace(self, path):
        """Whether it is its own, or --overwrite was passed."""
        return self._overwrite or self.is_own(path)

    @contextlib.contextmanager
    def held(self):
        """Keeps the note; yields the version to write, `None` for any that is free."""
        from tfticket.common.files import held_note

        if self._is_held:
            yield None
            return
        version = self._version
        if version is None:
            taken = [int(p.name) for p in self._out.glob("*") if p.name.isdecimal()]
            version = max(taken, default=0) + 1
        value = {"asked": self._asked, "version": version}
        with held_note(self._path, value, self._own):
            yield version


def _facts(compacted):
    return {
        field.name: getattr(compacted, field.name)
        for field in dataclasses.fields(compacted)
        if field.name != "model"
    }


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
