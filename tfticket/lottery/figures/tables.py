"""Results of an experiment as rows, and rows as CSV, Markdown or a table to print."""

import math
import statistics
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence

from rich import box
from rich.table import Table

from tfticket.lottery.figures.trainings import END, LAYER, STOP, Row, trainings
from tfticket.lottery.measures.intervals import mean_interval
from tfticket.lottery.results import PartResult
from tfticket.tickets.rounds import EARLY_STOP, percent

# What a column of `rows` is taken from: the moment, and the column of a training.
_MEASURES: dict[str, tuple[str, str]] = {
    "test_accuracy": (END, "accuracy"),
    "early_stop_accuracy": (STOP, "accuracy"),
    "early_stop_iteration": (STOP, "iteration"),
    "validation_loss": (END, "validation_loss"),
    "early_stop_validation_loss": (STOP, "validation_loss"),
}


def rows(results: Sequence[PartResult], rewound_to: int = 0) -> list[Row]:
    """One row for each branch and round, over its replicates.

    Args:
        results: Finished parts, in any order.
        rewound_to: As for `trainings`.

    Returns:
        What `summary` makes of their `trainings`.

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
    >>> round(row["early_stop_iteration_sd"], 2)
    14.14
    """
    return summary(trainings(results, rewound_to))


def summary(trained: Sequence[Row]) -> list[Row]:
    """One row for each branch and round of a tidy table.

    Args:
        trained: What `trainings` or `read_trainings` returns.

    Returns:
        Rows with `branch`, `round`, `density` and `parameters` (means), `replicates`
        (trainings: seeds times copies), `seeds`; `test_accuracy`,
        `early_stop_accuracy`, `early_stop_iteration`, `validation_loss` and
        `early_stop_validation_loss`, each as `over_seeds` has it; and for each layer
        its density, `density:fc1/kernel` for example. The branch "ticket" comes first,
        then the others by name; rounds ascend.
    """
    groups: dict[tuple[str, int], list[Row]] = {}
    for row in sorted(
        trained, key=lambda r: (r["branch"] != "ticket", r["branch"], r["round"])
    ):
        groups.setdefault((row["branch"], row["round"]), []).append(row)
    found = []
    for (branch, round_), group in groups.items():
        ended = [row for row in group if row["moment"] == END] or group
        row = {
            "branch": branch,
            "round": round_,
            "density": statistics.mean(r["density"] for r in ended),
            "parameters": _mean(r["parameters"] for r in ended),
            "replicates": len(ended),
            "seeds": len(values_by_seed(ended, "density")),
        }
        for name, (moment, column) in _MEASURES.items():
            row |= over_seeds(name, [r for r in group if r["moment"] == moment], column)
        for name in ended[0]:
            if name.startswith(LAYER) and ended[0][name] is not None:
                row[name] = statistics.mean(r[name] for r in ended)
        found.append(row)
    return found


def values_by_seed(trained: Iterable[Row], column: str) -> dict[Hashable, float]:
    """The values of a column by seed; copies of a seed are averaged.

    Copies share the masks of their seed, so that they are no seeds of their own.

    Args:
        trained: Rows of a tidy table, of one branch, round and moment.
        column: Which column; rows without a value are left out.

    Returns:
        Seed to value. A row whose seed was not kept has a key of its own, which is no
        other group's.

    Example:

    >>> rows = [{"seed": 0, "x": 1.0}, {"seed": 0, "x": 2.0}, {"seed": 1, "x": 5.0}]
    >>> tfticket.lottery.figures.tables.values_by_seed(rows, "x")
    {0: 1.5, 1: 5.0}
    """
    by_seed: dict[Hashable, list[float]] = {}
    for row in trained:
        if row[column] is None:
            continue
        seed = object() if row["seed"] is None else row["seed"]
        by_seed.setdefault(seed, []).append(row[column])
    return {seed: statistics.fmean(values) for seed, values in by_seed.items()}


def values_of(
    trained: Iterable[Row], row: Row, moment: str, column: str = "accuracy"
) -> dict[Hashable, float]:
    """The values by seed of the trainings that a row of `summary` sums up.

    Args:
        trained: What `summary` was given.
        row: One of its rows.
        moment: One of `tfticket.lottery.figures.trainings.MOMENTS`.
        column: Which column.
    """
    wanted = (row["branch"], row["round"], moment)
    group = [r for r in trained if (r["branch"], r["round"], r["moment"]) == wanted]
    return values_by_seed(group, column)


def over_seeds(name: str, trained: Sequence[Row], column: str) -> Row:
    """`spread` of all values, and what they say of other seeds.

    Args:
        name: Name of the mean.
        trained: Rows of a tidy table, of one branch, round and moment.
        column: Which column.

    Returns:
        `name`, the mean over seeds; `name_lowest` and `name_highest` of all trainings;
        `name_sd`, the standard deviation of the seeds, and `name_low` and `name_high`,
        the 95 % interval of their mean: `None` from one seed.
    """
    row = spread(name, [r[column] for r in trained])
    seeds = values_by_seed(trained, column)
    if seeds and len(seeds) < sum(r[column] is not None for r in trained):
        # Some are copies: one seed counts as much as another.
        row[name] = statistics.fmean(seeds.values())
    figures: tuple[float | None, ...] = (None, None, None)
    if len(seeds) > 1:
        found = mean_interval(seeds.values())
        figures = (*found.sds, found.low, found.high)
    ends = (f"{name}_sd", f"{name}_low", f"{name}_high")
    return row | dict(zip(ends, figures, strict=True))


def _mean(values):
    known = [value for value in values if value is not None]
    return statistics.mean(known) if known else None


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
        name: Name of the mean; the others are `name_lowest` and `name_highest`.
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
        rows: What `rows` returns, or `compared_rows` of several runs.

    Returns:
        A `rich` table.
    """
    several = any("run" in row for row in rows)
    table = Table(
        title="Mean of n seeds ± standard deviation, 95 % interval of the mean",
        box=box.SIMPLE,
    )
    if several:
        table.add_column("run")
    table.add_column("branch", no_wrap=True)
    for heading in ("round", "kept %", "n"):
        table.add_column(heading, justify="right")
    for heading in ("test accuracy %", "at early stop %", "early-stop iteration"):
        table.add_column(heading, min_width=len("97.95-98.10"))
    branch = None
    for row in rows:
        if (row.get("run"), row["branch"]) != branch and branch is not None:
            table.add_section()
        branch = (row.get("run"), row["branch"])
        table.add_row(
            *([row["run"]] if several else []),
            row["branch"],
            str(row["round"]),
            percent(row["density"], 1),
            str(row["seeds"]),
            # A narrow terminal breaks a cell at its one space, before the interval.
            accuracy_cell(row, "test_accuracy", NARROW),
            accuracy_cell(row, "early_stop_accuracy", NARROW),
            iteration_cell(row, form=NARROW),
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


WIDE, NARROW = "{} ± {} ({} to {})", "{}±{} {}-{}"


def accuracy_cell(row: Row, name: str, form: str = WIDE) -> str:
    """Mean, deviation and interval in percent: "98.01 ± 0.05 (97.89 to 98.13)".

    Args:
        row: Of `summary`.
        name: Name of the mean.
        form: With four places. From one seed there is only the mean.
    """
    return _cell(row, name, percent, form)


def iteration_cell(
    row: Row, name: str = "early_stop_iteration", form: str = WIDE
) -> str:
    """The same of an iteration: "4,100 ± 173 (3,670 to 4,530)"."""
    return _cell(
        row, name, lambda value: "-" if value is None else f"{value:,.0f}", form
    )


def _cell(row, name, as_text, form):
    if row[name] is None or row[f"{name}_sd"] is None:
        return as_text(row[name])
    ends = ("", "_sd", "_low", "_high")
    return form.format(*(as_text(row[name + end]) for end in ends))


def _layer_density(group, layer):
    return statistics.mean(r.layers[layer][0] / r.layers[layer][1] for r in group)


def _text(row, column):
    value = column(row) if callable(column) else row.get(column)
    # A bar would begin another cell.
    return "-" if value is None else str(value).replace("|", "\\|")


def _is_number(text):
    return text == "-" or text.replace(",", "").replace(".", "", 1).isdecimal()
