"""What each figure shows, in a sentence or two for below it."""

from collections.abc import Iterable, Sequence

from tfticket.lottery.figures.tables import Row

# Fewer seeds say nothing of a mean: with two, its interval is 13 deviations wide.
_FEWEST = 3
_THREE = (
    "The panels show test accuracy at early stop and at the end of training, and the "
    "iteration of the early stop, against the weights remaining"
)
_REPLICATES = "Bars go from the lowest to the highest replicate."
_CAPTIONS = {
    "accuracy": f"{_THREE}. The dashed line is the dense network.",
    "comparison": f"{_THREE}. Each run has its colour, and each control its kind of "
    "line; the first point of a winning ticket's line is the dense network.",
    "transfer": f"{_THREE}, of tickets that are trained on other data.",
    "curves": "Validation accuracy against the iteration, as the mean over the "
    "replicates, with a colour for each density. Bands go from the lowest to the "
    "highest replicate of the ticket, and dashed lines are re-initialised networks. If "
    "there are two panels, the first shows the beginning of the second.",
    "movement": "How far the magnitudes of weights grow in a training, in standard "
    "deviations of the layer's initial weights, for those that the pruning after it "
    "keeps (survive) and those that it removes (pruned), of all replicates together. "
    "The outermost bins hold everything beyond them.",
    "mask": "The mask of the first layer, of the replicate with the lowest seed. The "
    "left panels count the kept weights that read each pixel. In the right ones, which "
    "show the mask itself, a column is an input and a row is a unit.",
    "overlap": "The share of a mask's kept weights that the mask of another replicate "
    "keeps too, against the weights remaining. Dotted lines show what random masks of "
    "the same densities would share. Bars go from the lowest to the highest pair.",
    "barrier": "The upper panel shows the test error along the line between two "
    "trainings of a ticket that see the data in different orders. The lower one shows "
    f"how far it rises above the mean of its ends. {_REPLICATES}",
    "instability": "The error barrier between two copies of the dense network, which "
    "see the data in different orders from a step on, against that step. Below the "
    f"dashed line, a network counts as stable. {_REPLICATES}",
    "attacks": "Test accuracy without an attack and under each attack, against the "
    f"weights remaining. {_REPLICATES}",
    "layers": "The density of each layer of the ticket against that of the network.",
}
_OF_SEEDS = ("accuracy", "comparison", "transfer")
_MEASURES = ("test_accuracy", "early_stop_accuracy", "early_stop_iteration")


def bar_ends(rows: Iterable[Row]) -> tuple[str, str]:
    """Which columns of a measure its error bars go to, in a figure of accuracies.

    Args:
        rows: What `tfticket.lottery.figures.tables.rows` returns, all of a figure.

    Returns:
        `("low", "high")`, the 95 % interval of the mean, if every row is of three seeds
        or more; otherwise `("lowest", "highest")`.

    Example:

    >>> from tfticket.lottery.figures.captions import bar_ends
    >>> row = {"test_accuracy": 0.9, "test_accuracy_low": 0.8}
    >>> bar_ends([{**row, "seeds": 5}]), bar_ends([{**row, "seeds": 2}])
    (('low', 'high'), ('lowest', 'highest'))
    """
    enough = all(
        row["seeds"] >= _FEWEST
        and all(
            row[f"{m}_low"] is not None for m in _MEASURES if row.get(m) is not None
        )
        for row in rows
    )
    return ("low", "high") if enough else ("lowest", "highest")


def caption(name: str, rows: Sequence[Row]) -> str:
    """The caption of a figure.

    Args:
        name: The figure's name: "comparison", or a key of
            `tfticket.lottery.figures.run.FIGURES`.
        rows: The rows that it is drawn from.

    Raises:
        KeyError: If there is no such figure.
    """
    text = _CAPTIONS[name]
    if name not in _OF_SEEDS or not rows:
        return text
    counts = sorted({row["seeds"] for row in rows})
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    if counts != [1]:
        text += f" Points are means over {several} seeds."
    elif all(row["replicates"] == 1 for row in rows):
        return f"{text} There is one seed."
    else:
        text += " There is one seed, and points are means over its copies."
    if bar_ends(rows)[0] == "low":
        return f"{text} Bars are 95 % intervals of the mean by Student's t."
    return f"{text} Bars go from the lowest to the highest training."
