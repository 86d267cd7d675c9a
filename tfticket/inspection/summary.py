"""`summary`: a table of what is pruned in a model, what it saves, what stays dense."""

from typing import Literal, NamedTuple

import keras
from rich import box
from rich.console import Console
from rich.table import Table

from tfticket.common.arguments import check_instance, optional
from tfticket.inspection.costs import SummaryRow, summary_rows, total

__all__ = ["SummaryRow", "summary", "summary_rows"]


class _Column(NamedTuple):
    """A column of the table.

    Where the table does not fit a terminal narrower than `least_width`, the column is
    left out; the least useful column has the largest one.
    """

    name: str
    heading: str
    justify: Literal["left", "right"] = "right"
    least_width: int = 0


_COLUMNS = (
    _Column("name", "weight or layer", "left"),
    _Column("kind", "type", "left", 96),
    _Column("output", "output", least_width=110),
    _Column("weight", "weight", least_width=80),
    _Column("density", "density"),
    _Column("parameters", "parameters\nkept / all"),
    _Column("flops", "FLOPs\nsparse / dense"),
    _Column("bytes", "bytes\nsparse / dense"),
    _Column("note", "note", "left"),
)


def summary(model: keras.Model, console: Console | None = None) -> None:
    """Prints a table of every weight with its density and costs, layer by layer.

    The numbers are those of `SummaryRow`: FLOPs of one sample, sparse and dense, and
    bytes, encoded and as they are. Notes say why a weight is not pruned, or why the
    FLOPs are not known.

    Args:
        model: A wrapped, popup, stripped or plain model.
        console: The `rich` console to print to; `None` is the standard output.

    Raises:
        TypeError: If `model` is not a Keras model.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a")])
    >>> tfticket.summary(tfticket.prune(model))  # doctest: +SKIP
    """
    console = optional(check_instance, "console", console, Console, "a rich Console")
    console = console or Console()
    rows = summary_rows(model)
    columns = list(_COLUMNS)
    table, notes = _table(model.name, rows, columns)
    unbounded = console.options.update_width(10_000)
    for column in sorted(_COLUMNS, key=lambda x: -x.least_width):
        fits = console.measure(table, options=unbounded).maximum <= console.width
        if not fits and console.width < column.least_width:
            columns.remove(column)
            table, notes = _table(model.name, rows, columns)
    console.print(table)
    console.print(end="\n" if notes else "")
    for reason, number in notes.items():
        console.print(f"{number:2d}  {reason}", highlight=False)


def _table(title, rows, columns):
    """The table of these columns, and its notes by number."""
    table = Table(
        title=title,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for column in columns:
        table.add_column(
            column.heading,
            justify=column.justify,
            overflow="fold",
            min_width=max(map(len, column.heading.split())),
        )
    notes: dict[str, int] = {}
    for row in rows:
        reasons = [row.why_dense]
        if row.why_no_flops:
            reasons.append(f"FLOPs: {row.why_no_flops}")
        numbers = [notes.setdefault(x, len(notes) + 1) for x in reasons if x]
        cells = _cells(row) | {"note": ", ".join(map(str, numbers))}
        table.add_row(*(cells[column.name] for column in columns))
    table.add_section()
    totals = [total(rows)]
    if masked := [row for row in rows if row.masked]:
        totals.insert(0, total(masked, "masked weights", others=False))
    for row in totals:
        cells = _cells(row)
        table.add_row(*(cells[column.name] for column in columns))
    return table, notes


def _cells(row):
    if row.flops_dense is None:
        flops = "-"
    else:
        flops = _pair(row.flops_sparse, row.flops_dense, _short)
        # A sum that leaves out what is not known.
        flops = f"≥ {flops}" if row.why_no_flops else flops
    cells = {
        "note": "",
        "name": row.name,
        "kind": row.kind,
        "output": _product(row.output_shape),
        "weight": _product(row.shape),
        "density": "",
        "parameters": _pair(row.kept, row.parameters, "{:,}".format),
        "flops": flops,
        "bytes": _pair(row.bytes_sparse, row.bytes_dense, _short),
    }
    if row.masked or row.kept < row.parameters:
        cells["density"] = f"{row.density:.1%}"
    if not row.parameters:
        cells.update(parameters="", bytes="")
    if not row.parameters and row.flops_dense == 0:
        cells["flops"] = ""
    return cells


def _pair(some, whole, form):
    return form(whole) if some == whole else f"{form(some)} / {form(whole)}"


def _product(shape):
    return "x".join("?" if n is None else str(n) for n in shape or ())


def _short(number):
    """Three digits and a unit: 12.8k."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
