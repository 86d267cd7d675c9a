"""The figures of the lottery ticket paper, each from rows of plain numbers.

Every function returns the figure, and writes it to a file if it gets a path: SVG or PDF
if the name ends in .svg or .pdf, and PNG otherwise. Panels are below each other, so
that a phone can show them.
"""

import os
from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator

from tfticket.lottery.figures.captions import bar_ends
from tfticket.lottery.figures.drawing import (
    branch_name,
    branches,
    density_colors,
    density_name,
    error_line,
    focus_accuracy,
)
from tfticket.lottery.figures.tables import Row, dense_row
from tfticket.lottery.measures.stability import STABLE
from tfticket.tickets.pictures import (
    COLORS,
    DENSE,
    branch_style,
    count_axis,
    density_axis,
    legend_below,
    log_ticks,
    save,
)

_PANELS = (
    ("Test accuracy at early stop, %", "early_stop_accuracy", 100.0),
    ("Test accuracy at the end of training, %", "test_accuracy", 100.0),
    ("Early-stop iteration", "early_stop_iteration", 1.0),
)
_LINES = ("-", "--", ":", "-.")
_GROUPS = {"survive": COLORS[0], "pruned": COLORS[1]}


def accuracy(
    rows: Sequence[Row], path: str | os.PathLike | None = None, title: str = ""
) -> Figure:
    """Accuracy and early-stop iteration against density (1803.03635, figure 4).

    One line per branch, the dense network as a dashed line. Bars are 95 % intervals of
    the mean if there are three seeds or more, and otherwise go from the lowest to the
    highest replicate.

    Args:
        rows: What `tfticket.lottery.figures.tables.rows` returns.
        path: The file to write.
        title: Title of the figure.
    """
    dense = dense_row(rows)
    lines = {
        branch_name(branch): (
            [row for row in rows if row["branch"] == branch],
            branch_style(number),
        )
        for number, branch in enumerate(branches(rows))
    }
    figure, panels = _accuracies(lines, [dense] if dense else [], title)
    for axes, (_, name, factor) in zip(panels, _PANELS, strict=True):
        if dense is not None and dense[name] is not None:
            axes.axhline(factor * dense[name], label="dense", **DENSE)
    legend_below(figure, panels[0], columns=3)
    return save(figure, path)


def comparison(
    rows: Sequence[Row],
    path: str | os.PathLike | None = None,
    title: str = "",
    x: str = "density",
) -> Figure:
    """The same of several runs: one colour per run, one kind of line per branch.

    Args:
        rows: What `tfticket.lottery.figures.comparison.compared_rows` returns.
        path: The file to write.
        title: Title of the figure.
        x: "density", or "parameters" for the number of weights left, which networks
            of different sizes are compared at.
    """
    runs = list(dict.fromkeys(row["run"] for row in rows))
    several = len(branches(rows)) > 1
    lines = {}
    for number, run in enumerate(runs):
        for place, branch in enumerate(branches(rows)):
            group = [r for r in rows if (r["run"], r["branch"]) == (run, branch)]
            name = f"{run}, {branch_name(branch)}" if several else run
            style = branch_style(number) | {"linestyle": _LINES[place % len(_LINES)]}
            if several:  # more branches than there are kinds of lines
                style["marker"] = branch_style(place)["marker"]
            if group:
                lines[name] = group, style
    dense = [row for row in rows if row["branch"] == "ticket" and row["round"] == 0]
    figure, panels = _accuracies(lines, dense, title, x)
    legend_below(figure, panels[0], columns=2 if several else 3)
    return save(figure, path)


def _accuracies(lines, dense, title, x="density"):
    """A figure and its panels, with lines by name: rows and style."""
    rows = [row for group, _ in lines.values() for row in group]
    ends = bar_ends(rows)
    figure = Figure(figsize=(7, 12), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(3)
    panels[1].sharey(panels[0])
    known = [row[name] for row in dense for _, name, factor in _PANELS if factor > 1]
    lowest = None if not known or None in known else min(known)
    for axes, (label, name, factor) in zip(panels, _PANELS, strict=True):
        for line, (group, style) in lines.items():
            error_line(axes, group, name, factor, ends, x, label=line, **style)
        if x == "density":
            density_axis(axes, [row["density"] for row in rows])
        else:
            count_axis(axes)
        axes.set_ylabel(label)
        if factor == 100.0:
            # The same for both panels, which share their axis.
            focus_accuracy(axes, lowest)
        else:
            axes.set_ylim(bottom=0)
    return figure, panels


def learning_curves(
    rows: Sequence[Row],
    path: str | os.PathLike | None = None,
    title: str = "",
    until: int | None = None,
) -> Figure:
    """Validation accuracy against iteration by density (1803.03635, figure 3).

    Tickets are solid lines with a band over the replicates, re-initialised ones
    dashed.

    Args:
        rows: What `tfticket.lottery.figures.csv_rows.curve_rows` returns.
        path: The file to write.
        title: Title of the figure.
        until: Draw the part up to this iteration in a panel of its own.
    """
    last = max(row["iteration"] for row in rows)
    ends = [last] if until is None or until >= 0.7 * last else [until, last]
    figure = Figure(figsize=(7, 1 + 4 * len(ends)), layout="constrained")
    figure.suptitle(title)
    rounds = sorted({row["round"] for row in rows})
    colors = dict(zip(rounds, density_colors(rounds), strict=True))
    panels = figure.subplots(len(ends), squeeze=False)[:, 0]
    dense = [r["val_accuracy"] for r in rows if _of(r, "ticket", rounds[0])]
    for axes, end in zip(panels, ends, strict=True):
        for branch, style in (("ticket", "-"), ("reinit", "--")):
            for round_ in rounds:
                line = [r for r in rows if _of(r, branch, round_)]
                line = [r for r in line if r["iteration"] <= end]
                if not line:
                    continue
                steps = [r["iteration"] for r in line]
                label = density_name(line[0]["density"])
                axes.plot(
                    steps,
                    [100 * r["val_accuracy"] for r in line],
                    style,
                    color=colors[round_],
                    linewidth=1.2,
                    # Colours say the density; one entry for all dashed lines.
                    label=label if branch == "ticket" else None,
                )
                if branch == "ticket":
                    axes.fill_between(
                        steps,
                        [100 * r["val_accuracy_lowest"] for r in line],
                        [100 * r["val_accuracy_highest"] for r in line],
                        color=colors[round_],
                        alpha=0.12,
                        linewidth=0,
                    )
        if any(row["branch"] == "reinit" for row in rows):
            axes.plot([], [], "k--", linewidth=1.2, label="re-initialised")
        axes.set_xlabel("Iteration")
        axes.set_ylabel("Validation accuracy, %")
        axes.grid(alpha=0.3)
        axes.margins(x=0.01)
        focus_accuracy(axes, max(dense, default=None))
    legend_below(figure, panels[0], columns=4)
    return save(figure, path)


def movement(
    rows: Sequence[Row], path: str | os.PathLike | None = None, title: str = ""
) -> Figure:
    """How far weights move that survive, and that are pruned (1803.03635, appendix F).

    A row of panels for each round, a column for each layer.

    Args:
        rows: What `tfticket.lottery.figures.csv_rows.movement_rows` returns.
        path: The file to write.
        title: Title of the figure.
    """
    rounds = sorted({row["round"] for row in rows})
    layers = list(dict.fromkeys(row["layer"] for row in rows))
    size = (0.5 + 2.6 * len(layers), 0.9 + 2.1 * len(rounds))
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(rounds), len(layers), squeeze=False, sharex="col")
    for round_, line in zip(rounds, panels, strict=True):
        for layer, axes in zip(layers, line, strict=True):
            inside, outside = {}, {}
            for group, color in _GROUPS.items():
                bins = [
                    row
                    for row in rows
                    if (row["round"], row["layer"], row["group"])
                    == (round_, layer, group)
                ]
                if not bins:
                    continue
                edges = [bins[0]["left"], *(row["right"] for row in bins)]
                shares = [100 * row["share"] for row in bins]
                axes.stairs(shares, edges, fill=True, color=color, alpha=0.3)
                axes.stairs(shares, edges, color=color, linewidth=1.2, label=group)
                inside[group] = shares[1:-1] or shares
                outside[group] = shares[0], shares[-1]
                density = bins[0]["density"]
            axes.set_title(f"{layer}, {density_name(density)}", fontsize=10)
            _fit_inside(axes, inside, outside)
            axes.grid(alpha=0.3)
        line[0].set_ylabel("Share of the group, %")
    for axes in panels[-1]:
        axes.set_xlabel("Growth of |weight|,\ninitial stds", fontsize=9)
    legend_below(figure, panels[0][0])
    return save(figure, path)


def overlap(
    rows: Sequence[Row], path: str | os.PathLike | None = None, title: str = ""
) -> Figure:
    """What masks of different replicates have in common, against chance.

    Args:
        rows: What `tfticket.lottery.figures.csv_rows.overlap_rows` returns.
        path: The file to write.
        title: Title of the figure.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    for number, layer in enumerate(dict.fromkeys(row["layer"] for row in rows)):
        group = [row for row in rows if row["layer"] == layer]
        style = branch_style(number)
        error_line(axes, group, "overlap", 100.0, label=layer, **style)
        axes.plot(
            [100 * row["density"] for row in group],
            [100 * row["chance"] for row in group],
            ":",
            color=style["color"],
        )
    axes.plot([], [], "k:", label="chance")
    density_axis(axes, [row["density"] for row in rows])
    axes.set_ylabel("Overlap of the masks of two replicates, %")
    axes.set_ylim(0, 102)
    legend_below(figure, axes)
    return save(figure, path)


def barrier(
    rows: Sequence[Row], path: str | os.PathLike | None = None, title: str = ""
) -> Figure:
    """Error between two trainings of a ticket, and its barrier (1912.05671).

    The upper panel has the test error along the line between them, one line per
    density; the lower one has the height of the barrier against density.

    Args:
        rows: What `tfticket.lottery.figures.csv_rows.barrier_rows` returns.
        path: The file to write.
        title: Title of the figure.
    """
    rounds = sorted({row["round"] for row in rows})
    firsts = [next(r for r in rows if r["round"] == round_) for round_ in rounds]
    figure = Figure(figsize=(7, 9), layout="constrained")
    figure.suptitle(title)
    upper, lower = figure.subplots(2)
    for round_, color in zip(rounds, density_colors(rounds), strict=True):
        line = [row for row in rows if row["round"] == round_]
        upper.plot(
            [row["alpha"] for row in line],
            [100 * row["error"] for row in line],
            color=color,
            label=density_name(line[0]["density"]),
        )
    upper.set_xlabel("Place between the two trainings")
    upper.set_ylabel("Test error, %")
    upper.set_ylim(bottom=0)
    upper.grid(alpha=0.3)
    error_line(lower, firsts, "barrier", 100.0, **branch_style(0))
    lower.axhline(0, **DENSE)
    density_axis(lower, [row["density"] for row in firsts])
    lower.set_ylabel("Barrier, percentage points of error")
    legend_below(figure, upper, columns=5)
    return save(figure, path)


def instability(
    rows: Sequence[Row], path: str | os.PathLike | None = None, title: str = ""
) -> Figure:
    """The barrier of the dense network against the step that two copies part at.

    The dashed line is the barrier below which a network is called stable (1912.05671).

    Args:
        rows: What `tfticket.lottery.figures.csv_rows.instability_rows` returns.
        path: The file to write.
        title: Title of the figure.
    """
    figure = Figure(figsize=(7, 5), layout="constrained")
    figure.suptitle(title)
    axes = figure.subplots()
    means = [100 * row["barrier"] for row in rows]
    ends = [
        [100 * row[f"barrier_{end}"] for row in rows] for end in ("lowest", "highest")
    ]
    sides = [
        [max(0.0, mean - low) for mean, low in zip(means, ends[0], strict=True)],
        [max(0.0, high - mean) for mean, high in zip(means, ends[1], strict=True)],
    ]
    steps = [row["step"] for row in rows]
    axes.errorbar(steps, means, sides, capsize=2, **branch_style(0))
    axes.axhline(100 * STABLE, **DENSE)
    axes.set_ylim(bottom=min(0, *means))
    axes.set_xlabel("Step of the dense training that two copies part at")
    axes.set_ylabel("Barrier, percentage points of error")
    axes.grid(alpha=0.3)
    return save(figure, path)


def attacks(
    rows: Sequence[Row], path: str | os.PathLike | None = None, title: str = ""
) -> Figure:
    """Accuracy under attack against density, a panel for each attack and for none.

    Args:
        rows: What `tfticket.lottery.figures.csv_rows.attack_rows` returns.
        path: The file to write.
        title: Title of the figure.
    """
    kinds = list(dict.fromkeys(row["attack"] for row in rows))
    figure = Figure(figsize=(7, 1 + 3.6 * len(kinds)), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(len(kinds), squeeze=False)[:, 0]
    for attack, axes in zip(kinds, panels, strict=True):
        for number, branch in enumerate(branches(rows)):
            line = [r for r in rows if (r["attack"], r["branch"]) == (attack, branch)]
            style = branch_style(number)
            error_line(
                axes, line, "accuracy", 100.0, label=branch_name(branch), **style
            )
        density_axis(axes, [row["density"] for row in rows])
        name = "no attack" if attack == "none" else _attack_name(attack)
        axes.set_title(name, fontsize=10)
        axes.set_ylabel("Test accuracy, %")
    legend_below(figure, panels[0], columns=3)
    return save(figure, path)


def layer_densities(
    rows: Sequence[Row], path: str | os.PathLike | None = None, title: str = ""
) -> Figure:
    """The density of each layer against that of the network, for the ticket branch.

    Args:
        rows: What `tfticket.lottery.figures.tables.layer_rows` returns.
        path: The file to write.
        title: Title of the figure.
    """
    rows = [row for row in rows if row["branch"] == "ticket"]
    figure = Figure(figsize=(7, 5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(title)
    names = list(dict.fromkeys(row["layer"] for row in rows))
    for number, layer in enumerate(names):
        group = [r for r in rows if r["layer"] == layer and r["layer_density"] > 0]
        axes.plot(
            [100 * row["density"] for row in group],
            [100 * row["layer_density"] for row in group],
            label=layer,
            markersize=4,
            **branch_style(number),
        )
    ends = [100 * row["density"] for row in rows]
    axes.plot(ends, ends, label="network", **DENSE)
    density_axis(axes, [row["density"] for row in rows])
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(FixedLocator(log_ticks(*axes.get_ylim())))
    axes.yaxis.set_minor_locator(NullLocator())
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:.3g}")
    axes.set_ylabel("Weights remaining in the layer, %")
    legend_below(figure, axes)
    return save(figure, path)


def _fit_inside(axes, inside, outside):
    """Scales to the inner bins: the outermost hold all that is beyond them."""
    top = 1.15 * max((max(shares) for shares in inside.values()), default=0.0)
    if top <= 0:
        return
    axes.set_ylim(0, top)
    for line, (group, ends) in enumerate(outside.items()):
        for share, x, side in zip(ends, (0.08, 0.92), ("left", "right"), strict=True):
            if share > top:
                axes.annotate(
                    f"{share:.0f} % beyond",
                    (x, 0.9 - 0.11 * line),
                    xycoords="axes fraction",
                    ha=side,
                    fontsize=8,
                    color=_GROUPS[group],
                    bbox={"facecolor": "white", "alpha": 0.8, "linewidth": 0, "pad": 1},
                )


def _of(row, branch, round_):
    return row["branch"] == branch and row["round"] == round_


def _attack_name(attack):
    method, _, size = attack.partition(":")
    return f"{method.upper()}, pixels by {size}"
