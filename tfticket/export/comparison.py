"""`compare` measures size, accuracy and latency of a model in each exported form."""

import dataclasses
import gzip
import statistics
from collections.abc import Sequence

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfticket.common.arguments import (
    check_array,
    check_choice,
    check_instance,
    check_integer,
    check_list,
    optional,
    shown,
)
from tfticket.common.columns import print_table
from tfticket.common.files import temporary_folder
from tfticket.export.checking.exported import ExportError, size_of
from tfticket.export.checking.timing import runner, timed
from tfticket.export.compact_model import compact
from tfticket.export.litert_export import litert
from tfticket.export.saved_model_export import saved_model
from tfticket.export.served.function import serving
from tfticket.export.served.samples import sample_inputs
from tfticket.inspection.costs import summary_rows, total
from tfticket.keras_models.copies import clone_with
from tfticket.keras_models.twins import copy_layer
from tfticket.pruning.masks import get_masks
from tfticket.pruning.prune_strip import strip

BATCHES = (1, 64)
# Number of test images that a written file is checked on.
_CHECKED = 64
FORMS = ("dense", "stripped", "compact", "encoded", "litert", "int8")


@dataclasses.dataclass(frozen=True)
class FormRow:
    """The measurements of one form.

    Args:
        form: Name of the form.
        raw_bytes: Bytes of all its files.
        gzip_bytes: Bytes of these files after gzip has compressed each of them.
        accuracy: Accuracy on the test data, in [0, 1]; `None` without test data.
        milliseconds: Maps a batch size to the median time of a call.
        ratios: Maps a batch size to the median ratio to "dense", run by run.
        note: Why numbers are missing; "" if none is.
        flops_dense: Operations per sample of the exported model, zeros included, as
            `tfticket.summary` counts them; `None` if those of a layer are not known.
        flops_sparse: The same for weights that are not zero.
    """

    form: str
    raw_bytes: int = 0
    gzip_bytes: int = 0
    accuracy: float | None = None
    milliseconds: dict[int, float] = dataclasses.field(default_factory=dict)
    ratios: dict[int, float] = dataclasses.field(default_factory=dict)
    note: str = ""
    flops_dense: int | None = None
    flops_sparse: int | None = None


def compare(
    model: keras.Model,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    dense: keras.Model | None = None,
    forms: Sequence[str] = FORMS,
    repeats: int = 30,
) -> list[FormRow]:
    """Exports a model in several forms and compares them, in one run.

    Forms are `"dense"` (a SavedModel of the model before pruning, the base of all
    ratios), `"stripped"` (zeros kept), `"compact"` (dead units removed), `"encoded"`
    (weights stored sparse), `"litert"` (float32) and `"int8"` (LiteRT, dynamic range).
    Calls are timed in turns, so that other load on the machine affects all of them.

    Args:
        model: A wrapped or plain, built model with one input.
        test: Images and integer labels; the scores are the model's first output.
        dense: The model before pruning. `None` takes a model with the same layers and
            random weights, and leaves out its accuracy, which would mean nothing.
        forms: The forms to compare; "dense" is always one of them.
        repeats: Number of calls per form and batch size, 1 or more.

    Returns:
        One row per form. If a form can't be made, the note of its row says why.

    Raises:
        TypeError: If `model` or `dense` is not a Keras model, or an argument has the
            wrong type.
        ValueError: If a form is unknown or the model has several inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> rows = tfticket.export.compare(model, forms=["dense", "stripped"], repeats=3)
    >>> [(row.form, row.flops_dense) for row in rows]
    [('dense', 16), ('stripped', 16)]
    """
    check_instance("model", model, keras.Model, "a keras.Model")
    if dense is not None:
        check_instance("dense", dense, keras.Model, "a keras.Model")
    forms = check_list("forms", forms, "a list of forms")
    for form in forms:
        check_choice("forms", form, FORMS)
    if test is not None:
        if not isinstance(test, (tuple, list)) or len(test) != 2:
            raise TypeError(f"test must be (x, y). Received: test={shown(test)}")
        test = (check_array("test", test[0]), check_array("test", test[1]))
    check_integer("repeats", repeats, 1)
    if len(model.inputs) != 1:
        raise ValueError(
            "compare times models with one input. "
            f"'{model.name}' has {len(model.inputs)}."
        )
    forms = ["dense", *(form for form in forms if form != "dense")]
    plain = strip(model) if get_masks(model) else model
    scored = dense is not None
    dense = _with_random_weights(plain) if dense is None else dense
    rows, runs = {}, {}
    with temporary_folder() as folder:
        for form in forms:
            try:
                path, flops = _export(
                    form,
                    dense if form == "dense" else plain,
                    folder / form,
                    None if test is None else test[0][:_CHECKED],
                )
            except ExportError as error:
                rows[form] = FormRow(form, note=str(error).splitlines()[0])
                continue
            runs[form] = runner(path)
            accuracy = None
            if test is not None and (scored or form != "dense"):
                accuracy = _accuracy(runs[form], *test)
            rows[form] = FormRow(
                form, size_of(path), _gzip_size(path), accuracy, **flops
            )
        signature = serving(plain).signature
        seconds = {
            batch: timed(runs, sample_inputs(signature, batch), repeats)
            for batch in BATCHES
        }
    return [
        dataclasses.replace(row, **_medians(form, seconds)) if form in runs else row
        for form, row in rows.items()
    ]


def print_comparison(rows: Sequence[FormRow], console: Console | None = None) -> None:
    """Prints what `compare` found as a table.

    Args:
        rows: The rows from `compare`; the first one is the base of the ratios.
        console: The `rich` console to print to; `None` for standard output.
    """
    rows = check_list("rows", rows, "a list of FormRow")
    for row in rows:
        check_instance("rows", row, FormRow, "a list of FormRow")
    if not rows:
        raise ValueError("rows must be what compare found. Received: rows=[]")
    optional(check_instance, "console", console, Console, "a rich Console")
    table = Table(title="Exports of one model", title_justify="left")
    table.add_column("form")
    columns = ["kB", "of dense", "kB gzip", "of dense", "accuracy"]
    columns += ["kFLOPs, sparse", "dense"]
    columns += [f"batch {batch}, ms" for batch in BATCHES]
    columns += [f"batch {batch}, of dense" for batch in BATCHES]
    for column in columns:
        table.add_column(column, justify="right")
    dense = rows[0]
    for row in rows:
        if row.note:
            table.add_row(row.form, row.note)
            continue
        flops = (row.flops_sparse, row.flops_dense)
        table.add_row(
            row.form,
            f"{row.raw_bytes / 1000:,.1f}",
            f"{row.raw_bytes / dense.raw_bytes:.3f}",
            f"{row.gzip_bytes / 1000:,.1f}",
            f"{row.gzip_bytes / dense.gzip_bytes:.3f}",
            "" if row.accuracy is None else f"{row.accuracy:.2%}",
            *("-" if x is None else f"{x / 1000:,.1f}" for x in flops),
            *(f"{row.milliseconds[batch]:.3f}" for batch in BATCHES),
            *(f"{row.ratios[batch]:.2f}" for batch in BATCHES),
        )
    print_table(table, console)


def _export(form, model, path, inputs):
    """The path of the written form, and the operations of its model."""
    if form == "compact":
        model = compact(model).model
    whole = total(summary_rows(model))
    flops = {
        name: None if whole.why_no_flops else getattr(whole, name)
        for name in ("flops_dense", "flops_sparse")
    }
    if form in ("litert", "int8"):
        quantization = "dynamic" if form == "int8" else None
        file = path.with_suffix(".tflite")
        return litert(model, file, quantization, inputs=inputs).path, flops
    chosen = "encoded" if form == "encoded" else "dense"
    return saved_model(model, path, inputs=inputs, format=chosen).path, flops


def _gzip_size(path):
    files = [file for file in [path, *path.rglob("*")] if file.is_file()]
    return sum(len(gzip.compress(file.read_bytes())) for file in files)


def _with_random_weights(model):
    """A model with the same layers and random weights, none of them pruned."""

    def forget(source, target):
        for old, new in zip(source.weights, target.weights, strict=True):
            if len(new.shape) < 2:
                new.assign(old)

    return clone_with(model, copy_layer, forget)


def _accuracy(run, x, y, batch=1000):
    answers = [run(x[i : i + batch]).argmax(-1) for i in range(0, len(x), batch)]
    return float(np.mean(np.concatenate(answers) == np.asarray(y)))


def _medians(form, seconds):
    return {
        "milliseconds": {
            batch: statistics.median(taken[form]) * 1e3
            for batch, taken in seconds.items()
        },
        "ratios": {
            batch: statistics.median(np.divide(taken[form], taken["dense"]))
            for batch, taken in seconds.items()
        },
    }
