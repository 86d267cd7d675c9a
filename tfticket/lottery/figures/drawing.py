"""What the figures of an experiment share: colours, axes, lines, and saving."""

import io
import math
import os
from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter, NullLocator
from PIL import Image  # which matplotlib depends on

from tfticket.common.files import atomic_path
from tfticket.lottery.figures.tables import Row

_NAMES = {"ticket": "winning ticket", "reinit": "re-initialised"}
# Ticks where the paper's are, so that figures can be laid side by side.
_PAPER = (100, 51.3, 21.1, 13.5, 7.0, 3.6, 1.9)
_MARKERS = "osD^vP*Xph<>"


def branches(rows: Iterable[Row]) -> list[str]:
    """The branches of some rows, in their order."""
    return list(dict.fromkeys(row["branch"] for row in rows))


def branch_name(branch: str) -> str:
    """What the legend calls a branch."""
    kind, _, value = branch.partition(":")
    name = _NAMES.get(kind, kind.replace("_", " "))
    return f"{name} {value}" if value else name


def branch_style(number: int) -> dict[str, Any]:
    """Colour and marker of the branch of that number, so that grey prints do too."""
    return {"color": f"C{number % 10}", "marker": _MARKERS[number % len(_MARKERS)]}


def density_colors(densities: Sequence[float]) -> list[tuple[float, ...]]:
    """A colour for each of some densities, dark for the dense network."""
    # The map ends in a yellow that white swallows.
    step = 0.87 / max(1, len(densities) - 1)
    return [colormaps["viridis"](number * step) for number in range(len(densities))]


def density_name(density: float) -> str:
    """A density in percent, three digits: "21.1 %"."""
    return f"{100 * density:.3g} %"


def density_axis(axes: Axes, densities: Iterable[float]) -> None:
    """Makes the x axis one of weights remaining in percent: log, falling to the right.

    Args:
        axes: Its lines have x values in percent.
        densities: Fractions of the weights kept, of the rounds.
    """
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(FixedLocator(_ticks(densities)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:.3g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    if not axes.xaxis_inverted():
        axes.invert_xaxis()
    axes.set_xlabel("Weights remaining, %")
    axes.grid(alpha=0.3)


def error_line(
    axes: Axes, rows: Sequence[Row], name: str, factor: float = 1.0, **style: Any
) -> None:
    """Draws the mean of a measure against density, with bars from lowest to highest.

    Args:
        axes: What to draw on.
        rows: With `density`, and the measure with its `_lowest` and `_highest`. Rows
            without it are left out.
        name: Key of the measure.
        factor: What values are multiplied by, 100 for percent.
        **style: For `Axes.errorbar`.
    """
    rows = [row for row in rows if row[name] is not None]
    means = [factor * row[name] for row in rows]
    below = [m - factor * r[f"{name}_lowest"] for m, r in zip(means, rows, strict=True)]
    above = [
        factor * r[f"{name}_highest"] - m for m, r in zip(means, rows, strict=True)
    ]
    axes.errorbar(
        [100 * row["density"] for row in rows],
        means,
        # A mean of equal values can differ from them in its last bit.
        [[max(0.0, value) for value in side] for side in (below, above)],
        **{"capsize": 2, "elinewidth": 0.9, "linewidth": 1.4, "markersize": 4} | style,
    )


def focus_accuracy(axes: Axes, dense: float | None) -> None:
    """Cuts an axis of accuracies off far below the dense network's, and says so.

    What matters is a fraction of a point; a control that fails would hide it.

    Args:
        axes: Its y values are in percent.
        dense: The dense network's accuracy, in [0, 1].
    """
    if dense is None:
        return
    floor = 100 * (dense - max(0.03, 0.4 * (1 - dense)))
    if axes.dataLim.y0 < floor:
        highest = max(a.dataLim.y1 for a in axes.get_shared_y_axes().get_siblings(axes))
        axes.set_ylim(floor, highest + 0.05 * (highest - floor))
        # Above the panel: inside, it would lie on a line.
        axes.set_title(
            "lower values not shown", loc="right", fontsize=8, color="0.35", pad=3
        )


def legend_below(figure: Figure, axes: Axes, columns: int = 8) -> None:
    """The legend of one of the panels, below all of them, where no data is."""
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="outside lower center",
            ncols=min(columns, len(handles)),
            frameon=False,
        )


def save(figure: Figure, path: str | os.PathLike | None) -> Figure:
    """Writes a figure to a PNG file, whole or not at all; `None` writes nothing."""
    if path is None:
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
    return sorted(ticks, reverse=True)
