"""What each figure shows, in a sentence or two for below it."""

from collections.abc import Iterable, Sequence

from tfticket.lottery.figures.tables import Row

# Fewer seeds say nothing of a mean: with two, its interval is 13 deviations wide.
_FEWEST = 3
_CAPTIONS = {
    "accuracy": "Test accuracy at early stop and at the end of training, and the "
    "iteration of the early stop, against the weights remaining. Dashed: the dense "
    "network.",
    "comparison": "Test accuracy at early stop and at the end of training, and the "
    "iteration of the early stop, of several runs. Their first points are the dense "
    "networks.",
    "transfer": "The same for the tickets on other data.",
    "curves": "Validation accuracy against the iteration, as the mean over the "
    "replicates. Shaded: from the lowest to the highest ticket.",
    "movement": "How far the magnitudes of weights grow in a training, in standard "
    "deviations of the layer's initial weights, for those that survive the pruning "
    "after it and those that it removes. All replicates together.",
    "mask": "The mask of the first layer. Left: how many kept weights read each pixel. "
    "Right: the matrix, with a column for each pixel and a row for each unit.",
    "overlap": "The share of kept weights that the masks of two replicates have in "
    "common. Dotted: what two random masks of the same densities would have.",
    "barrier": "Above: test error along the line between two trainings of a ticket in "
    "different orders of the data. Below: its height over the mean of the ends.",
    "instability": "Error barrier between two copies of the dense network, which see "
    "the data in different orders from a step on. Dashed: what counts as stable.",
    "attacks": "Test accuracy without an attack and under each attack, against the "
    "weights remaining.",
    "layers": "The density of each layer of the ticket against that of the network.",
}
_WITH_BARS = ("accuracy", "comparison", "transfer")


def bar_ends(rows: Iterable[Row]) -> tuple[str, str]:
    """Which columns of a measure its error bars go to.

    Args:
        rows: What `tfticket.lottery.figures.tables.rows` returns, all of a figure.

    Returns:
        `("low", "high")`, the 95 % interval of the mean, if every row is of three seeds
        or more; otherwise `("lowest", "highest")`.

    Example:

    >>> from tfticket.lottery.figures.captions import bar_ends
    >>> bar_ends([{"seeds": 5}, {"seeds": 5}]), bar_ends([{"seeds": 5}, {"seeds": 1}])
    (('low', 'high'), ('lowest', 'highest'))
    """
    enough = all(row["seeds"] >= _FEWEST for row in rows)
    return ("low", "high") if enough else ("lowest", "highest")


def caption(name: str, rows: Sequence[Row]) -> str:
    """The caption of a figure.

    Args:
        name: Of the figure, a key of `tfticket.lottery.figures.run.FIGURES` or
            "comparison".
        rows: What it is drawn from.
    """
    text = _CAPTIONS[name]
    if name not in _WITH_BARS or not rows:
        return text
    counts = sorted({row["seeds"] for row in rows})
    several = f"{counts[0]} to {counts[-1]}" if len(counts) > 1 else str(counts[0])
    if counts == [1]:
        return f"{text} One seed."
    bars = {
        "low": "the 95 % interval of the mean by Student's t",
        "lowest": "from the lowest to the highest training",
    }[bar_ends(rows)[0]]
    return f"{text} Points: the mean over {several} seeds. Bars: {bars}."
