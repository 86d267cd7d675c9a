"""Tables and plots of what a run found."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.table import Table

from tfticket.common.files import write_figure
from tfticket.tickets.rounds import RoundRecord


def rounds_table(records: Sequence[RoundRecord]) -> Table:
    """One line a round: density, accuracy, early-stop iteration, parameters left.

    Args:
        records: What `IterativeMagnitudePruning.records` holds, from a model
            compiled with the metric `accuracy` and given `test_data`.

    Returns:
        A `rich` table.
    """
    table = Table(title="Iterative magnitude pruning, one line a round")
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
            f"{100 * record.density:.1f}",
            _percent(record.test.get("accuracy")),
            _percent(record.best_test.get("accuracy")),
            "-" if record.best_iteration is None else str(record.best_iteration),
            f"{record.parameters:,}",
        )
    table.caption = (
        "Early stop: the iteration of minimum validation loss, found afterwards; "
        "training always runs its full budget."
    )
    return table


def rounds_plot(
    records: Sequence[RoundRecord], path: str | os.PathLike, title: str = ""
) -> None:
    """Plots accuracy and early-stop iteration against density, to a PNG file.

    Density is on a log axis and falls to the right, as in the lottery ticket
    paper (arXiv 1803.03635, figure 4); the dense network is a dashed line.

    Args:
        records: As for `rounds_table`.
        path: The file to write.
        title: Title of the figure.
    """
    densities = [100 * record.density for record in records]
    panels: list[tuple[str, list[tuple[str, str, list]]]] = [
        ("Test accuracy, %", [
            ("end of training", "o", [100 * r.test["accuracy"] for r in records]),
            ("early stop", "s", [100 * r.best_test["accuracy"] for r in records]),
        ]),
        ("Early-stop iteration", [
            ("minimum validation loss", "s", [r.best_iteration for r in records]),
        ]),
    ]  # fmt: skip
    figure = Figure(figsize=(10, 4), layout="constrained")
    figure.suptitle(title)
    for axes, (label, lines) in zip(figure.subplots(1, 2), panels, strict=True):
        for name, marker, values in lines:
            (line,) = axes.plot(densities, values, marker=marker, label=name)
            axes.axhline(
                values[0],
                color=line.get_color(),
                linestyle="--",
                linewidth=1,
                alpha=0.6,
            )
        axes.plot([], [], "k--", linewidth=1, alpha=0.6, label="dense")
        axes.set_xscale("log")
        axes.set_xticks(_ticks(densities))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.invert_xaxis()
        axes.set_xlabel("Weights remaining, %")
        axes.set_ylabel(label)
        axes.grid(alpha=0.3)
        axes.legend()
    write_figure(figure, path)


def popup_table(rows: Sequence[Mapping[str, Any]]) -> Table:
    """One line a kind and density: test accuracy, and the random mask's.

    Args:
        rows: What `tfticket.edge_popup.experiment.summary` returns.

    Returns:
        A `rich` table.
    """
    table = Table(title="Edge-popup: accuracy with weights that were never trained")
    table.add_column("weights", no_wrap=True)
    for heading in ("density %", "test accuracy %", "lowest", "highest", "random mask"):
        table.add_column(heading, justify="right")
    for row in rows:
        values = [row[key] for key in ("mean", "lowest", "highest", "random")]
        kind = "trained, dense" if row["kind"] == "dense" else row["kind"]
        percents = [_percent(value) for value in values]
        table.add_row(kind, f"{100 * row['density']:.3g}", *percents)
    table.caption = (
        "Random mask: the same weights before the scores were trained, and the dense "
        "network before training."
    )
    return table


def popup_plot(
    rows: Sequence[Mapping[str, Any]], path: str | os.PathLike, title: str = ""
) -> None:
    """Plots accuracy against density, a line an initialiser, to a PNG file.

    Error bars go from the lowest to the highest replicate; the trained dense
    network is a dashed line (arXiv 1911.13299, figure 3).

    Args:
        rows: What `tfticket.edge_popup.experiment.summary` returns.
        path: The file to write.
        title: Title of the figure.
    """
    figure = Figure(figsize=(7, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    for kind in dict.fromkeys(row["kind"] for row in rows):
        group = sorted(
            (row for row in rows if row["kind"] == kind), key=lambda r: r["density"]
        )
        means = [100 * row["mean"] for row in group]
        if kind == "dense":
            axes.axhline(means[0], color="k", linestyle="--", label="trained, dense")
            continue
        below = [100 * (row["mean"] - row["lowest"]) for row in group]
        above = [100 * (row["highest"] - row["mean"]) for row in group]
        densities = [100 * row["density"] for row in group]
        axes.errorbar(
            densities, means, [below, above], marker="o", capsize=3, label=kind
        )
    axes.set_xlabel("Edges kept, %")
    axes.set_ylabel("Test accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    write_figure(figure, path)


def _ticks(densities):
    # Not every round: labels that touch can't be read.
    step = max(1, -(-len(densities) // 8))
    return densities[::step]


def _percent(value):
    return "-" if value is None else f"{100 * value:.2f}"
