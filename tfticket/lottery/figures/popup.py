"""The rows, the table and the figure of a popup experiment."""

import dataclasses
import os
import statistics
from collections.abc import Sequence

from matplotlib.figure import Figure
from rich import box
from rich.table import Table

from tfticket.common.arguments import (
    check_instance,
    check_list,
    check_mapping,
    check_path,
    optional,
)
from tfticket.lottery.figures.drawing import error_line
from tfticket.lottery.figures.tables import NARROW, Row, accuracy_cell, over_seeds
from tfticket.lottery.popup_experiment import DENSE as KIND_DENSE
from tfticket.lottery.popup_experiment import PopupResult
from tfticket.tickets.pictures import DENSE, branch_style, legend_below, save
from tfticket.tickets.rounds import percent


def popup_rows(results: Sequence[PopupResult]) -> list[Row]:
    """One row for each kind and density, over its replicates.

    Args:
        results: What `PopupExperiment.run` returns.

    Returns:
        Rows in order of first appearance with `kind`, `density`, `replicates`,
        `test_accuracy` (as `over_seeds` has it) and `random_accuracy` (the mean of the
        control).
    """
    for result in check_list("results", results, "a list of results"):
        check_instance("results", result, PopupResult, "a list of PopupResult")
    groups: dict[tuple[str, float], list[PopupResult]] = {}
    for result in results:
        groups.setdefault((result.kind, result.density), []).append(result)
    return [
        {
            "kind": kind,
            "density": density,
            "replicates": len(group),
            **over_seeds(
                "test_accuracy", [dataclasses.asdict(r) for r in group], "test_accuracy"
            ),
            "random_accuracy": statistics.mean(r.random_accuracy for r in group),
        }
        for (kind, density), group in groups.items()
    ]


def popup_table(rows: Sequence[Row]) -> Table:
    """A line for each kind and density: test accuracy, and the random mask's.

    Args:
        rows: What `popup_rows` returns.

    Returns:
        A `rich` table.
    """
    _check_rows(rows)
    table = Table(
        title="Edge-popup: accuracy with weights that were never trained",
        box=box.SIMPLE,
    )
    table.add_column("weights", no_wrap=True)
    for heading in ("density %", "n"):
        table.add_column(heading, justify="right")
    for heading in ("test accuracy %", "random mask %"):
        table.add_column(heading, min_width=len("97.95-98.10"))
    for row in rows:
        table.add_row(
            "trained, dense" if row["kind"] == KIND_DENSE else row["kind"],
            f"{100 * row['density']:.3g}",
            str(row["replicates"]),
            accuracy_cell(row, "test_accuracy", NARROW),
            percent(row["random_accuracy"]),
        )
    table.caption = (
        "Mean ± standard deviation of n seeds, 95 % interval of the mean. "
        "Random mask: the same weights before the scores were trained, and the dense "
        "network before training."
    )
    return table


def popup_plot(
    rows: Sequence[Row], path: str | os.PathLike | None = None, title: str = ""
) -> Figure:
    """Plots accuracy against density, a line for each initialiser.

    Error bars go from the lowest to the highest replicate; the trained dense
    network is a dashed line (arXiv 1911.13299, figure 3).

    Args:
        rows: What `popup_rows` returns.
        path: The file to write.
        title: Title of the figure.
    """
    _check_rows(rows)
    optional(check_path, "path", path)
    check_instance("title", title, str, "a text")
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    kinds = dict.fromkeys(row["kind"] for row in rows if row["kind"] != KIND_DENSE)
    for number, kind in enumerate(kinds):
        group = [row for row in rows if row["kind"] == kind]
        group.sort(key=lambda row: row["density"])
        style = branch_style(number)
        error_line(axes, group, "test_accuracy", 100.0, label=kind, **style)
    for row in rows:
        if row["kind"] == KIND_DENSE:
            axes.axhline(100 * row["test_accuracy"], label="trained, dense", **DENSE)
    axes.set_xlabel("Edges kept, %")
    axes.set_ylabel("Test accuracy, %")
    axes.grid(alpha=0.3)
    legend_below(figure, axes)
    return save(figure, path)


def _check_rows(rows):
    for row in check_list("rows", rows, "what popup_rows returns"):
        check_mapping("rows", row, "what popup_rows returns")
        if not {"kind", "density", "test_accuracy"} <= set(row):
            raise ValueError(f"rows must be what popup_rows returns. Received: {row}")
