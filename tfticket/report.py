"""Tables and plots of what a run found."""

import os
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, NullFormatter
from rich.table import Table

from tfticket.callbacks import RoundRecord
from tfticket.files import atomic_path


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
    panels = [
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
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _ticks(densities):
    # Not every round: labels that touch can't be read.
    step = max(1, -(-len(densities) // 8))
    return densities[::step]


def _percent(value):
    return "-" if value is None else f"{100 * value:.2f}"
