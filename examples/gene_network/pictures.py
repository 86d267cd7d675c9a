"""The table and the two pictures of a motif experiment."""

import os
from collections.abc import Sequence

import keras
import numpy as np
from matplotlib.figure import Figure
from rich.table import Table

from gene_network.experiment import METHODS, MotifResult, summary
from gene_network.network import GeneNetwork
from gene_network.pruning import SCALE, TIMES, Motif
from tfticket.tickets.pictures import DENSE, save

NAMES = {
    "magnitude": "magnitude",
    "leave_one_out": "leave one edge out",
    "random": "random",
}


def rewards_table(results: Sequence[MotifResult], every: int = 5) -> Table:
    """Mean reward and range by method, for every fifth number of edges kept."""
    seeds = len(results)
    table = Table(title=f"Motif 9: reward, mean and range over {seeds} seeds")
    table.add_column("edges kept", justify="right")
    table.add_column("sparsity %", justify="right")
    for method in METHODS:
        table.add_column(NAMES[method], justify="right")
    rows = summary(results)
    most, few = rows[0]["edges"], 2 * every
    for start in range(0, len(rows), len(METHODS)):
        group = rows[start : start + len(METHODS)]
        edges = group[0]["edges"]
        if edges == most or edges % every == 0 or edges < few:
            table.add_row(
                str(edges),
                f"{100 * group[0]['sparsity']:.0f}",
                *(_mean_and_range([row[k] for k in _THREE]) for row in group),
            )
    table.add_section()
    for fraction in (0.9, 0.5):
        held = {m: [r.held(m, fraction) for r in results] for m in METHODS}
        cells = [(np.mean(x), min(x), max(x)) for x in held.values()]
        table.add_row(
            f"held {fraction:.0%}", "", *(_mean_and_range(x, digits=0) for x in cells)
        )
    table.caption = (
        "Held: edges left before the reward first falls below that part of the "
        "unpruned network's."
    )
    return table


_THREE = ("mean", "lowest", "highest")


def _mean_and_range(values, digits=1):
    mean, lowest, highest = values
    return f"{mean:.1f} ({lowest:.{digits}f} to {highest:.{digits}f})"


def rewards_plot(results: Sequence[MotifResult], path: str | os.PathLike) -> None:
    """Plots reward against edges kept to a PNG file: mean, and lowest to highest."""
    figure = Figure(figsize=(7.5, 4.8), layout="constrained")
    axes = figure.subplots()
    rows = summary(results)
    for method in METHODS:
        mine = [row for row in rows if row["method"] == method]
        edges = [row["edges"] for row in mine]
        (line,) = axes.plot(edges, [row["mean"] for row in mine], label=NAMES[method])
        axes.fill_between(
            edges,
            [row["lowest"] for row in mine],
            [row["highest"] for row in mine],
            color=line.get_color(),
            alpha=0.18,
            linewidth=0,
        )
    axes.axhline(rows[0]["mean"], label="unpruned, mean", **DENSE)
    axes.set_title(f"Motif 9, {len(results)} seeds: mean, lowest to highest")
    axes.set_xlabel("Edges kept")
    axes.set_ylabel("Reward")
    axes.set_xlim(rows[0]["edges"], 1)
    axes.set_ylim(0, None)
    axes.grid(alpha=0.3)
    figure.legend(loc="outside lower center", ncols=4, frameon=False)
    save(figure, path)


def stripes_plot(
    motif: Motif,
    result: MotifResult,
    kept: Sequence[int],
    path: str | os.PathLike,
) -> None:
    """Draws gene 1, cells by time, before and after pruning, to a PNG file.

    Args:
        motif: What was pruned.
        result: Of the seed to draw.
        kept: Numbers of edges to draw it at, a row each.
        path: The file to write.

    Raises:
        ValueError: If a number is no number of edges on the way.
    """
    for edges in kept:
        if not 1 <= edges < motif.edges:
            raise ValueError(
                f"Stripes can be drawn at 1 to {motif.edges - 1} edges kept. "
                f"Received: {edges}"
            )
    panels: list[tuple[str, str | None, int]] = [("unpruned", None, 0)]
    panels += [(NAMES[m], m, motif.edges - edges) for edges in kept for m in METHODS]
    masks = np.stack(
        [motif.masks(result.removed[m or METHODS[0]])[n] for _, m, n in panels]
    )
    waves = _over_time(motif, result.drive, masks)
    count = len(METHODS)
    mosaic = [
        [0 if row == 0 else ".", *range(1 + row * count, 1 + (row + 1) * count)]
        for row in range(len(kept))
    ]
    figure = Figure(figsize=(12, 1.2 + 2.9 * len(kept)), layout="constrained")
    axes = figure.subplot_mosaic(mosaic, sharex=True, sharey=True)
    for number, (name, method, removed) in enumerate(panels):
        rewards = result.rewards[method or METHODS[0]]
        image = axes[number].imshow(
            waves[number],
            aspect="auto",
            origin="upper",
            extent=(-0.5, waves.shape[-1] - 0.5, max(TIMES), 0),
            vmin=0,
            vmax=1,
            cmap="viridis",
        )
        axes[number].set_title(
            f"{name}\n{len(rewards) - removed} edges, reward {rewards[removed]:.1f}",
            fontsize=10.5,
        )
        for time in TIMES:
            axes[number].axhline(time, color="w", linewidth=0.8, linestyle=":")
    for number in {0, *(row[1] for row in mosaic[1:])}:
        axes[number].set_ylabel("Time")
        axes[number].tick_params(labelleft=True)
    for number in {0, *mosaic[-1]} - {"."}:
        axes[number].set_xlabel("Cell")
        axes[number].tick_params(labelbottom=True)
    figure.colorbar(image, ax=list(axes.values()), label="Gene 1", fraction=0.03)
    drive = ", ".join(map(str, result.drive))
    figure.suptitle(f"Motif 9, seed {result.seed}: D = ({drive})", fontsize=12)
    save(figure, path)


def _over_time(motif, drive, masks):
    """Gene 1 at every unit of time: (networks, times, cells)."""
    times = np.arange(1.0, max(TIMES) + 1)
    network = GeneNetwork(times, motif.step)
    network.build((None, len(drive)))
    network.kernel.assign(motif.weights.T / SCALE)
    drives = np.tile(np.asarray(drive, "float32") / SCALE, (len(masks), 1))
    outputs = network(drives, edges=np.swapaxes(masks, 1, 2))
    return keras.ops.convert_to_numpy(outputs)[..., 0]
