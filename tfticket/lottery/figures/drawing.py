"""What the figures of an experiment share: names, colours, lines and their range."""

from collections.abc import Iterable, Sequence
from typing import Any

from matplotlib import colormaps
from matplotlib.axes import Axes

from tfticket.lottery.figures.tables import Row

_NAMES = {"ticket": "winning ticket", "reinit": "re-initialised"}


def branches(rows: Iterable[Row]) -> list[str]:
    """The branches of some rows, in their order."""
    return list(dict.fromkeys(row["branch"] for row in rows))


def branch_name(branch: str) -> str:
    """What the legend calls a branch."""
    kind, _, value = branch.partition(":")
    name = _NAMES.get(kind, kind.replace("_", " "))
    return f"{name} {value}" if value else name


def density_colors(densities: Sequence[float]) -> list[tuple[float, ...]]:
    """A colour for each of some densities, dark for the dense network."""
    # The map ends in a yellow that white swallows.
    step = 0.87 / max(1, len(densities) - 1)
    return [colormaps["viridis"](number * step) for number in range(len(densities))]


def density_name(density: float) -> str:
    """A density in percent, three digits: "21.1 %"."""
    return f"{100 * density:.3g} %"


def error_line(
    axes: Axes,
    rows: Sequence[Row],
    name: str,
    factor: float = 1.0,
    ends: tuple[str, str] = ("lowest", "highest"),
    x: str = "density",
    **style: Any,
) -> None:
    """Draws the mean of a measure against density, with error bars.

    Args:
        axes: What to draw on.
        rows: With `density`, and the measure with the ends of its bars, `NAME_lowest`
            for example. Rows without it are left out.
        name: Key of the measure.
        factor: What values are multiplied by, 100 for percent.
        ends: Where bars begin and end.
        x: "density", which is drawn in percent, or the key of another column.
        **style: For `Axes.errorbar`.
    """
    rows = [row for row in rows if row[name] is not None]
    means = [factor * row[name] for row in rows]
    low, high = ([factor * row[f"{name}_{end}"] for row in rows] for end in ends)
    below = [mean - end for mean, end in zip(means, low, strict=True)]
    above = [end - mean for mean, end in zip(means, high, strict=True)]
    axes.errorbar(
        [100 * row[x] if x == "density" else row[x] for row in rows],
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
    floor = 100 * (dense - max(0.03, 0.6 * (1 - dense)))
    if axes.dataLim.y0 < floor:
        highest = max(a.dataLim.y1 for a in axes.get_shared_y_axes().get_siblings(axes))
        axes.set_ylim(floor, highest + 0.05 * (highest - floor))
        # Above the panel: inside, it would lie on a line.
        axes.set_title(
            "lower values not shown", loc="right", fontsize=8, color="0.35", pad=3
        )
