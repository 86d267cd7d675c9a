"""`summary`: what of a model is pruned, how far, what that saves, and what is not."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import keras
from rich import box
from rich.console import Console
from rich.table import Table

from tfticket.inspection.costs import SummaryRow, summary_rows

__all__ = ["SummaryRow", "summary", "summary_rows"]


class _Column(NamedTuple):
    """A column, left out of a table that does not fit a terminal narrower than that.

    The least useful one has the largest `least_width`.
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
    """Prints a table: every weight with its density and costs, every layer left dense.

    Numbers are those of `SummaryRow`: FLOPs of one sample, sparse and dense, and bytes,
    encoded and as they are. Notes say why a weight is not pruned, or FLOPs not known.

    Args:
        model: A wrapped, popup, stripped or plain model.
        console: Where to; `None` is the terminal.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a")])
    >>> tfticket.summary(tfticket.prune(model))  # doctest: +SKIP
    """
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
    totals = [_total("whole model", rows, others=True)]
    if masked := [row for row in rows if row.masked]:
        totals.insert(0, _total("masked weights", masked))
    for row in totals:
        cells = _cells(row)
        table.add_row(*(cells[column.name] for column in columns))
    return table, notes


def _total(name: str, rows: Sequence[SummaryRow], others: bool = False) -> SummaryRow:
    """The sum; operations not known are left out, and that said by `why_no_flops`."""
    unmasked = sum(row.other_parameters for row in rows) if others else 0
    beside = sum(row.other_bytes for row in rows) if others else 0
    return SummaryRow(
        name=name,
        kind="",
        shape=None,
        parameters=sum(row.parameters for row in rows) + unmasked,
        kept=sum(row.kept for row in rows) + unmasked,
        masked=True,
        flops_dense=sum(row.flops_dense or 0 for row in rows),
        flops_sparse=sum(row.flops_sparse or 0 for row in rows),
        why_no_flops="".join(row.why_no_flops for row in rows),
        bytes_dense=sum(row.bytes_dense for row in rows) + beside,
        bytes_sparse=sum(row.bytes_sparse for row in rows) + beside,
    )


def _cells(row):
    if row.flops_dense is None:
        flops = "-"
    else:
        flops = _pair(row.flops_sparse, row.flops_dense, _short)
        # Of a sum: some of it is not known.
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
        cells.update(parameters="", flops="", bytes="")
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
