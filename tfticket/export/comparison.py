"""`report`: a model in every form that serves, weighed, scored, timed in one run."""

import dataclasses
import gzip
import pathlib
import statistics
import tempfile
from collections.abc import Sequence

import keras
import numpy as np
from rich.console import Console
from rich.table import Table

from tfticket.export.checking.compare import ExportError, size_of
from tfticket.export.checking.timing import runner, timed
from tfticket.export.compact import compact
from tfticket.export.litert import litert
from tfticket.export.saved_model import saved_model
from tfticket.export.served.function import sample_inputs, serving
from tfticket.keras_models.copies import clone_with, copy_layer
from tfticket.pruning.masks import get_masks
from tfticket.pruning.prune_strip import strip

BATCHES = (1, 64)
FORMS = ("dense", "stripped", "compact", "encoded", "litert", "int8")


@dataclasses.dataclass(frozen=True)
class FormRow:
    """What one form came to.

    Args:
        form: Its name.
        raw_bytes: Of all its files.
        gzip_bytes: Of the same, each compressed by gzip.
        accuracy: On the test data, in [0, 1]; `None` without any.
        milliseconds: Batch size to the median time of a call.
        ratios: Batch size to the median of the ratios to "dense", run by run.
        note: Why there are no numbers, where there are none.
    """

    form: str
    raw_bytes: int = 0
    gzip_bytes: int = 0
    accuracy: float | None = None
    milliseconds: dict[int, float] = dataclasses.field(default_factory=dict)
    ratios: dict[int, float] = dataclasses.field(default_factory=dict)
    note: str = ""


def report(
    model: keras.Model,
    test: tuple[np.ndarray, np.ndarray] | None = None,
    dense: keras.Model | None = None,
    forms: Sequence[str] = FORMS,
    repeats: int = 30,
) -> list[FormRow]:
    """Exports a model in several forms and compares them, in one run.

    Forms are `"dense"` (a SavedModel of the model before pruning, what all ratios are
    to), `"stripped"` (zeros kept), `"compact"` (dead units out), `"encoded"` (weights
    stored sparse), `"litert"` (float32) and `"int8"` (LiteRT, dynamic range). Calls are
    timed in turns, so that what else the machine does falls on all of them.

    Args:
        model: A wrapped or plain, built model with one input.
        test: Images and labels, integers; the first output is taken as scores.
        dense: The model before pruning. `None`: one of the same layers with random
            weights, whose accuracy means nothing and is left out.
        forms: Which to compare, "dense" always.
        repeats: Calls of each form and batch size.

    Returns:
        One row a form; one that can't be made has a note that says why.

    Raises:
        ValueError: If a form is unknown or the model has several inputs.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> rows = tfticket.export.report(model, forms=["dense", "stripped"], repeats=3)
    >>> [row.form for row in rows]
    ['dense', 'stripped']
    """
    if unknown := sorted(set(forms) - set(FORMS)):
        raise ValueError(f"forms must be out of {FORMS}. Received: {unknown}")
    if len(model.inputs) != 1:
        raise ValueError(
            f"report times models of one input. '{model.name}' has {len(model.inputs)}."
        )
    forms = ["dense", *(form for form in forms if form != "dense")]
    plain = strip(model) if get_masks(model) else model
    scored = dense is not None
    dense = _with_random_weights(plain) if dense is None else dense
    rows, runs = {}, {}
    with tempfile.TemporaryDirectory() as folder:
        for form in forms:
            made = pathlib.Path(folder, form)
            try:
                path = _export(form, dense if form == "dense" else plain, made)
            except ExportError as error:
                rows[form] = FormRow(form, note=str(error).splitlines()[0])
                continue
            runs[form] = runner(path)
            files = [f for f in [path, *path.rglob("*")] if f.is_file()]
            accuracy = None
            if test is not None and (scored or form != "dense"):
                accuracy = _accuracy(runs[form], *test)
            rows[form] = FormRow(
                form,
                size_of(path),
                sum(len(gzip.compress(file.read_bytes())) for file in files),
                accuracy,
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


def print_report(rows: Sequence[FormRow], console: Console | None = None) -> None:
    """Prints what `report` found as a table, ratios beside "dense"."""
    table = Table(title="Exports of one model", title_justify="left")
    table.add_column("form")
    columns = ["kB", "of dense", "kB gzip", "of dense", "accuracy"]
    columns += [f"batch {batch}, ms" for batch in BATCHES]
    columns += [f"batch {batch}, of dense" for batch in BATCHES]
    for column in columns:
        table.add_column(column, justify="right")
    dense = rows[0]
    for row in rows:
        if row.note:
            table.add_row(row.form, row.note)
            continue
        table.add_row(
            row.form,
            f"{row.raw_bytes / 1000:,.1f}",
            f"{row.raw_bytes / dense.raw_bytes:.3f}",
            f"{row.gzip_bytes / 1000:,.1f}",
            f"{row.gzip_bytes / dense.gzip_bytes:.3f}",
            "" if row.accuracy is None else f"{row.accuracy:.2%}",
            *(f"{row.milliseconds[batch]:.3f}" for batch in BATCHES),
            *(f"{row.ratios[batch]:.2f}" for batch in BATCHES),
        )
    (console or Console()).print(table)


def _export(form, model, path):
    if form == "litert":
        return litert(model, path.with_suffix(".tflite")).path
    if form == "int8":
        return litert(model, path.with_suffix(".tflite"), quantization="dynamic").path
    if form == "compact":
        model = compact(model).model
    chosen = "encoded" if form == "encoded" else "dense"
    return saved_model(model, path, format=chosen).path


def _with_random_weights(model):
    """A model of the same layers, unpruned."""

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
