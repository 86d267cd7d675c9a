"""Results of an experiment as rows, and rows as CSV, Markdown or a table to print."""

import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from rich import box
from rich.table import Table

from tfticket.lottery.results import PartResult
from tfticket.tickets.rounds import EARLY_STOP, percent

Row = dict[str, Any]

_MEASURES: dict[str, Callable[[PartResult], float | None]] = {
    "test_accuracy": lambda r: r.test.get("accuracy"),
    "early_stop_accuracy": lambda r: r.early_stop_test.get("accuracy"),
    "early_stop_iteration": lambda r: r.early_stop_iteration,
    "validation_loss": lambda r: r.validation.get("loss"),
    "early_stop_validation_loss": lambda r: r.early_stop_validation.get("loss"),
}


def rows(results: Sequence[PartResult]) -> list[Row]:
    """One row for each branch and round: what its replicates came to.

    Args:
        results: Finished parts, in any order.

    Returns:
        Rows with `branch`, `round`, `density` (as `densities_of`), `parameters`
        (mean), `replicates` (seeds times copies); `test_accuracy`,
        `early_stop_accuracy`, `early_stop_iteration`, `validation_loss` and
        `early_stop_validation_loss`, each the mean, with the range in `..._lowest`
        and `..._highest`; and for each layer its density, `density:fc1/kernel` for
        example. The branch "ticket" comes first, then the others by name; rounds
        ascend.

    Example:

    >>> from tfticket.lottery import Part, PartResult
    >>> measured = {"accuracy": 0.9, "loss": 0.4}
    >>> parts = [
    ...     PartResult(Part(seed), 1.0, 10, {"fc/kernel": [10, 10]}, 100, stop,
    ...                measured, measured, measured, measured)
    ...     for seed, stop in [(0, 40), (1, 60)]
    ... ]
    >>> (row,) = tfticket.lottery.figures.tables.rows(parts)
    >>> row["replicates"], row["early_stop_iteration"]
    (2, 50)
    >>> row["early_stop_iteration_lowest"]
    40
    """
    found = []
    densities = densities_of(results)
    for (branch, round_), group in grouped(results).items():
        row: Row = {
            "branch": branch,
            "round": round_,
            "density": densities[branch, round_],
            "parameters": statistics.mean(r.parameters for r in group),
            "replicates": len(group),
        }
        for name, measure in _MEASURES.items():
            row |= spread(name, [measure(result) for result in group])
        for layer in group[0].layers:
            row[f"density:{layer}"] = _layer_density(group, layer)
        found.append(row)
    return found


def layer_rows(results: Sequence[PartResult]) -> list[Row]:
    """One row for each branch, round and masked weight: how much of it is kept.

    Args:
        results: As for `rows`.

    Returns:
        Rows with `branch`, `round`, `density` (of the network), `layer`, `kept`
        (mean), `weights` and `layer_density`.
    """
    densities = densities_of(results)
    return [
        {
            "branch": branch,
            "round": round_,
            "density": densities[branch, round_],
            "layer": layer,
            "kept": statistics.mean(r.layers[layer][0] for r in group),
            "weights": group[0].layers[layer][1],
            "layer_density": _layer_density(group, layer),
        }
        for (branch, round_), group in grouped(results).items()
        for layer in group[0].layers
    ]


def grouped(
    results: Iterable[PartResult],
) -> dict[tuple[str, int], list[PartResult]]:
    """The replicates of each branch and round, in the order of `rows`."""
    groups: dict[tuple[str, int], list[PartResult]] = {}
    for result in sorted(
        results, key=lambda r: (r.part.branch != "ticket", r.part.branch, r.part.round)
    ):
        groups.setdefault((result.part.branch, result.part.round), []).append(result)
    return groups


def densities_of(results: Iterable[PartResult]) -> dict[tuple[str, int], float]:
    """Density of each branch and round, mean over replicates, in [0, 1]."""
    return {
        key: statistics.mean(r.density for r in group)
        for key, group in grouped(results).items()
    }


def spread(name: str, values: Iterable[float | None]) -> Row:
    """Mean, lowest and highest of replicates, as the columns of a row.

    Args:
        name: Of the mean; the others are `name_lowest` and `name_highest`.
        values: One for each replicate. `None` is left out; a NaN makes all NaN.

    Example:

    >>> tfticket.lottery.figures.tables.spread("loss", [1.0, 3.0])
    {'loss': 2.0, 'loss_lowest': 1.0, 'loss_highest': 3.0}
    """
    known = [value for value in values if value is not None]
    if not known:
        figures: tuple[float | None, ...] = (None, None, None)
    elif any(math.isnan(value) for value in known):
        # min and max would depend on the order of the replicates.
        figures = (math.nan, math.nan, math.nan)
    else:
        figures = (statistics.mean(known), min(known), max(known))
    return dict(zip((name, f"{name}_lowest", f"{name}_highest"), figures, strict=True))


def row_at(rows: Iterable[Row], branch: str, density: float) -> Row | None:
    """The row of a branch at a density, or `None`.

    Args:
        rows: What `rows` returns.
        branch: Which branch.
        density: Fraction of the weights kept. A round within 5 % of it counts:
            the rounding of small networks moves it, and the next round is 20 % away.
    """
    group = [row for row in rows if row["branch"] == branch]
    nearest = min(group, key=lambda r: abs(r["density"] - density), default=None)
    if nearest is None or not math.isclose(nearest["density"], density, rel_tol=0.05):
        return None
    return nearest


def dense_row(rows: Iterable[Row]) -> Row | None:
    """The row of the dense network: the ticket branch before any pruning, or `None`."""
    for row in rows:
        if row["branch"] == "ticket" and row["round"] == 0:
            return row
    return None


def as_rich(rows: Sequence[Row]) -> Table:
    """A line for each branch and round, to print.

    Args:
        rows: What `rows` returns.

    Returns:
        A `rich` table.
    """
    table = Table(
        title="Mean of n replicates, and from the lowest to the highest", box=box.SIMPLE
    )
    table.add_column("branch", no_wrap=True)
    for heading in ("round", "kept %", "n"):
        table.add_column(heading, justify="right")
    for heading in ("test accuracy %", "at early stop %", "early-stop iteration"):
        table.add_column(heading, min_width=len("97.95-98.10"))
    branch = None
    for row in rows:
        if row["branch"] != branch and branch is not None:
            table.add_section()
        branch = row["branch"]
        table.add_row(
            branch,
            str(row["round"]),
            percent(row["density"], 1),
            str(row["replicates"]),
            # A narrow terminal breaks a cell at its one space, between mean and range.
            accuracy_cell(row, "test_accuracy", "{} {}-{}"),
            accuracy_cell(row, "early_stop_accuracy", "{} {}-{}"),
            iteration_cell(row, form="{} {}-{}"),
        )
    table.caption = EARLY_STOP
    return table


def markdown(
    rows: Iterable[Row], columns: Mapping[str, str | Callable[[Row], str]]
) -> str:
    """Rows as a Markdown table.

    Args:
        rows: Rows of any kind.
        columns: Heading to the key of a row, or to a function of it that gives the
            text. What is missing or `None` is "-". Columns of numbers are aligned
            to the right.

    Raises:
        ValueError: If there are no columns.

    Example:

    >>> table = [{"round": 3, "density": 0.51283}]
    >>> columns = {"round": "round", "density %": lambda r: f"{100 * r['density']:.1f}"}
    >>> print(tfticket.lottery.figures.tables.markdown(table, columns))
    | round | density % |
    | ---: | ---: |
    | 3 | 51.3 |
    """
    if not columns:
        raise ValueError(
            "columns must name one column or more, {'round': 'round'} for example. "
            f"Received: columns={columns}"
        )
    body = [[_text(row, column) for column in columns.values()] for row in rows]
    aligned = [
        "---:" if cells and all(map(_is_number, cells)) else "---"
        for cells in (list(zip(*body, strict=True)) or [()] * len(columns))
    ]
    lines = [list(columns), aligned, *body]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def accuracy_cell(row: Row, name: str, form: str = "{} ({} to {})") -> str:
    """Mean and range of an accuracy in percent: "98.01 (97.95 to 98.10)"."""
    return _cell(row, name, percent, form)


def iteration_cell(
    row: Row, name: str = "early_stop_iteration", form: str = "{} ({} to {})"
) -> str:
    """Mean and range of an iteration: "4,100 (3,800 to 4,400)"."""
    return _cell(
        row, name, lambda value: "-" if value is None else f"{value:,.0f}", form
    )


def _cell(row, name, as_text, form):
    texts = [as_text(row[name + end]) for end in _ENDS]
    return (
        texts[0] if row["replicates"] == 1 or texts[0] == "-" else form.format(*texts)
    )


_ENDS = ("", "_lowest", "_highest")


def _layer_density(group, layer):
    return statistics.mean(r.layers[layer][0] / r.layers[layer][1] for r in group)


def _text(row, column):
    value = column(row) if callable(column) else row.get(column)
    # A bar would begin another cell.
    return "-" if value is None else str(value).replace("|", "\\|")


def _is_number(text):
    return text == "-" or text.replace(",", "").replace(".", "", 1).isdecimal()
