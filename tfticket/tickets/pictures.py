"""The table and the figure of rounds, and the style of all figures."""

import io
import math
import os
import pathlib
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.textpath import TextPath
from matplotlib.ticker import (
    FixedLocator,
    FuncFormatter,
    MaxNLocator,
    NullFormatter,
    NullLocator,
)
from PIL import Image  # which matplotlib depends on
from rich import box
from rich.table import Table

from tfticket.common.arguments import check_instance, check_list, check_path
from tfticket.common.files import atomic_path
from tfticket.tickets.rounds import EARLY_STOP, RoundRecord, percent

# The dense network's line in every figure.
DENSE: dict[str, Any] = {"color": "k", "linestyle": "--", "linewidth": 1, "alpha": 0.7}
# Ticks where the paper's are, so that figures can be laid side by side.
_PAPER = (100, 51.3, 21.1, 13.5, 7.0, 3.6, 1.9)
_MARKERS = "osD^vP*Xph<>"
# Okabe and Ito's colours, which people with any colour vision can tell apart.
COLORS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9")
# Lines of a legend that a figure's height has room for.
_LEGEND_ROWS = 4
# What figures can be written as, with metadata that leaves out the date.
FORMATS: dict[str, dict[str, None]] = {
    "png": {},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None},
}


def rounds_table(records: Sequence[RoundRecord]) -> Table:
    """A line for each round: density, accuracy, early-stop iteration, parameters left.

    Args:
        records: What `IterativeMagnitudePruning.records` holds, from a model
            compiled with the metric `accuracy` and given `test_data`.

    Returns:
        A `rich` table.
    """
    _check_records(records)
    table = Table(title="Iterative magnitude pruning, round by round", box=box.SIMPLE)
    for heading in (
        "round",
        "density %",
        "test accuracy %",
        "at early stop %",
        "early-stop iteration",
        "parameters left",
    ):
        table.add_column(heading, justify="right")
    for record in records:
        table.add_row(
            str(record.round),
            percent(record.density, 1),
            percent(record.test.get("accuracy")),
            percent(record.best_test.get("accuracy")),
            "-" if record.best_iteration is None else str(record.best_iteration),
            f"{record.parameters:,}",
        )
    table.caption = EARLY_STOP
    return table


def rounds_plot(
    records: Sequence[RoundRecord], path: str | os.PathLike, title: str = ""
) -> None:
    """Plots accuracy and early-stop iteration against density, to a file.

    Density is on a log axis and falls to the right, as in the lottery ticket
    paper (arXiv 1803.03635, figure 4); the dense network is a dashed line.

    Args:
        records: As for `rounds_table`.
        path: The file to write, ending in .svg or .pdf for these formats; PNG
            otherwise.
        title: Title of the figure.
    """
    if not _check_records(records):
        raise ValueError(f"records must be one or more. Received: records={records}")
    check_path("path", path)
    check_instance("title", title, str, "a text")
    panels: dict[str, list[Any]] = {
        "Test accuracy at early stop, %": [
            100 * r.best_test["accuracy"] for r in records
        ],
        "Test accuracy at the end of training, %": [
            100 * r.test["accuracy"] for r in records
        ],
        "Early-stop iteration": [r.best_iteration for r in records],
    }
    # Below each other, so that a phone can show them.
    figure = Figure(figsize=(7, 11), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots(len(panels))
    axes[1].sharey(axes[0])
    for panel, (label, values) in zip(axes, panels.items(), strict=True):
        densities = [record.density for record in records]
        percents = [100 * density for density in densities]
        panel.plot(percents, values, label="ticket", markersize=4, **branch_style(0))
        panel.axhline(values[0], label="dense", **DENSE)
        density_axis(panel, densities)
        panel.set_ylabel(label)
    legend_below(figure, axes[0])
    save(figure, path)


def _check_records(records):
    for record in check_list("records", records, "a list of RoundRecord"):
        check_instance("records", record, RoundRecord, "a list of RoundRecord")
    return len(records)


def branch_style(number: int) -> dict[str, Any]:
    """Colour and marker of the branch of that number, so that grey prints do too."""
    return {
        "color": COLORS[number % len(COLORS)],
        # Shifted after each turn, so that a colour has another marker in each.
        "marker": _MARKERS[(number + number // len(_MARKERS)) % len(_MARKERS)],
    }


def density_axis(axes: Axes, densities: Iterable[float]) -> None:
    """Makes the x axis one of weights remaining in percent: log, falling to the right.

    Args:
        axes: Its lines have x values in percent.
        densities: Fractions of the weights kept, of the rounds.
    """
    axes.set_xscale("log")
    _falling(axes, _ticks(densities), ".3g")
    axes.set_xlabel("Weights remaining, %")


def count_axis(axes: Axes) -> None:
    """Makes the x axis one of the number of weights left: log, falling to the right.

    Args:
        axes: Its lines are there, with x values above 0.
    """
    axes.set_xscale("log")  # which sets the limits that the ticks are between
    _falling(axes, log_ticks(*sorted(axes.get_xlim())), ",.0f")
    axes.set_xlabel("Weights remaining")


def _falling(axes, ticks, form):
    """Ticks of a log x axis, which falls to the right, and a grid."""
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: format(x, form)))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if not axes.xaxis_inverted():
        axes.invert_xaxis()
    axes.grid(alpha=0.3)


def legend_below(figure: Figure, axes: Axes, columns: int = 8) -> None:
    """The legend of one of the panels, below all of them, where no data is.

    It has as many columns as fit, up to `columns`, and a long one makes the figure
    higher.
    """
    handles, labels = axes.get_legend_handles_labels()
    if not handles:
        return
    points = rcParams["legend.fontsize"]
    size = FontProperties(size=points).get_size_in_points()
    widest = max(TextPath((0, 0), x, size=size).get_extents().width for x in labels)
    # A line of two letters' width, and as much space between columns.
    fit = 72 * figure.get_figwidth() // (widest + 5 * size)
    columns = max(1, min(columns, len(handles), int(fit)))
    more = math.ceil(len(handles) / columns) - _LEGEND_ROWS
    figure.set_figheight(figure.get_figheight() + max(0, more) * 1.5 * size / 72)
    figure.legend(
        handles, labels, loc="outside lower center", ncols=columns, frameon=False
    )


def save(figure: Figure, path: str | os.PathLike | None) -> Figure:
    """Writes a figure to a file, whole or not at all; `None` writes nothing.

    Args:
        figure: The figure.
        path: The file. A name that ends in .svg or .pdf gets that format, any other
            PNG.
    """
    if path is None:
        return figure
    kind = pathlib.Path(os.fspath(path)).suffix.lower().lstrip(".")
    if kind in FORMATS and kind != "png":
        with atomic_path(path) as temporary, rc_context({"svg.hashsalt": "tfticket"}):
            figure.savefig(temporary, format=kind, metadata=FORMATS[kind])
        return figure
    drawn = io.BytesIO()
    figure.savefig(drawn, format="png", dpi=120)
    # A palette: a third of the bytes, and no difference to see.
    image = Image.open(drawn).convert("RGB").quantize(256, dither=Image.Dither.NONE)
    with atomic_path(path) as temporary:
        image.save(temporary, format="png", optimize=True)
    return figure


def _ticks(densities):
    # Not every round: labels that touch can't be read.
    percents = sorted({100 * d for d in densities if d > 0}, reverse=True)
    if not percents:
        return []
    paper = [
        nearest
        for value in _PAPER
        if math.isclose(
            nearest := min(percents, key=lambda p: abs(p - value)), value, rel_tol=0.05
        )
    ]
    least = max(1.02, (percents[0] / percents[-1]) ** (1 / 9))
    ticks = []
    for value in [*paper, *percents]:
        if all(max(value / t, t / value) >= least for t in ticks):
            ticks.append(value)
    if len(ticks) < 3:  # two rounds: the axis needs more to be read
        ticks += [
            t
            for t in log_ticks(percents[-1], percents[0])
            if all(max(t / tick, tick / t) >= least for tick in ticks)
        ]
    return sorted(ticks, reverse=True)


def log_ticks(low: float, high: float) -> list[float]:
    """Round numbers between two, for the ticks of a log axis: three or more."""
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    tens = [10.0**n for n in range(first, last + 1)]
    for steps in ((1, 2, 5), (1, 1.5, 2, 3, 4, 5, 7)):
        ticks = [t for ten in tens for s in steps if low <= (t := ten * s) <= high]
        if len(ticks) >= 3:
            return ticks
    # So narrow that it could as well be linear.
    even = MaxNLocator(nbins=5, min_n_ticks=3).tick_values(low, high)
    return [float(t) for t in even if low <= t <= high]
