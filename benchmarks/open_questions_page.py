"""The page of `benchmarks/open_questions.py`, made of its table of trainings."""

import math
import pathlib
from collections.abc import Mapping, Sequence

import numpy as np

from tfticket.common.files import write_csv
from tfticket.lottery.figures import plots
from tfticket.lottery.figures.captions import caption
from tfticket.lottery.figures.tables import (
    Row,
    accuracy_cell,
    iteration_cell,
    markdown,
    row_at,
    summary,
    values_of,
)
from tfticket.lottery.figures.trainings import END, STOP, read_trainings, trainings
from tfticket.lottery.measures.intervals import difference, mean_interval

# What each experiment changes of the recipe, and its rounds.
RUNS: dict[str, tuple[dict, int]] = {
    "width 1": ({}, 12),
    "dropout": ({"dropout": 0.5}, 12),
    "width 0.5": ({"width": 0.5}, 9),
    "width 2": ({"width": 2.0}, 16),
}
WIDTHS = ("width 0.5", "width 1", "width 2")
# Rounds of width 1 that have a small dense network of as many weights.
SMALL_DENSE = (9, 12)
_ROUNDS = (5, *SMALL_DENSE)
TICKET = "ticket"
_DENSITIES = (0.513, 0.211, 0.135, 0.07)

_PAGE = """# Two open questions: dropout, and larger networks

`benchmarks/open_questions.py` trains LeNet-300-100 on MNIST as [the lottery ticket
experiment](lottery.md) does, in rounds of 8,000 iterations instead of 50,000. {seeds}
The tables of trainings are {links}.

Accuracies are those on the test images, in percent. Cells show the mean ± the standard
deviation over n seeds and, in brackets, the 95 % interval of the mean by Student's t.
Differences are in percentage points, with their 95 % intervals: paired by seed if both
networks have the same seeds, and Welch's otherwise.

## Does dropout add to what a ticket gains?

Frankle & Carbin (2019, [arXiv 1803.03635](https://arxiv.org/abs/1803.03635), section 3)
find that it does on CIFAR-10, for networks with convolutions. Here, half of the units
of both hidden layers are dropped in each training step.

{accuracies}

Networks with dropout learn more slowly: after 8,000 iterations they are less accurate
than those without at every density of the table. So the gains are compared. A gain is
the accuracy of the ticket less that of its own dense network. If gains add up, the
ticket gains as much with dropout as without, and the difference is 0. Networks of the
same seed see the same data in the same order, and share the initial weights of their
first layer.

{gains}

{gains_answer}

![Tickets with and without dropout](open_questions/dropout.png)

*{dropout_caption}*

## Does a larger network hold better tickets of the same size?

The hidden layers are half as wide as in the paper, equally wide, and twice as wide.
Tickets of the three networks are compared at the same numbers of weights: those that
the tickets of width 1 have after 5, 9 and 12 rounds. For the other two, the accuracy of
each seed is interpolated between the two rounds around that number, linearly in the
logarithm of the number of weights. A small dense network has narrower layers and as
many weights as the ticket of width 1.

{widths}

These networks have nothing in common but their data, so the intervals are Welch's.

{width_differences}

{width_answer}

![Tickets from networks of three widths, at the number of weights left](\
open_questions/widths.png)

*{width_caption}*

## Reproduce

```sh
python benchmarks/open_questions.py --data_dir=DIR --processes=auto
```

You can stop it and run it again: no training is repeated.
"""


def tables_of(path: pathlib.Path) -> dict[str, pathlib.Path]:
    """The table of trainings of each experiment, beside the pictures of the page."""
    folder = path.with_suffix("")
    return {name: folder / f"{name.replace(' ', '_')}.csv" for name in RUNS}


def write_tables(results: Mapping[str, Sequence], path: pathlib.Path) -> None:
    """Writes the tables of trainings.

    Args:
        results: Name of an experiment, and its finished parts.
        path: The page.
    """
    for name, table in tables_of(path).items():
        write_csv(trainings(results[name]), table)


def missing(found: Mapping[str, Sequence]) -> list[str]:
    """What the page needs and the results don't have.

    Args:
        found: Name of an experiment to its finished parts.
    """
    lacks = []
    for name, (_, rounds) in RUNS.items():
        there = {(r.part.branch, r.part.round) for r in found.get(name, ())}
        wanted = {(TICKET, number) for number in range(rounds + 1)}
        if name == "width 1":
            wanted |= {("small_dense", number) for number in SMALL_DENSE}
        if wanted - there:
            lacks.append(f"{name}: {len(wanted - there)} of {len(wanted)} networks")
    return lacks


def read(path: pathlib.Path) -> dict[str, list[Row]]:
    """The trainings of each experiment of a page."""
    return {name: read_trainings(table) for name, table in tables_of(path).items()}


def write(path: pathlib.Path) -> None:
    """Writes the page and its pictures, of its tables."""
    found = read(path)
    for name, (rows, x) in _figures(found).items():
        plots.comparison(rows, path.with_suffix("") / f"{name}.png", x=x)
    path.write_text(page(found))


def page(found: Mapping[str, list[Row]]) -> str:
    """The page's text.

    Args:
        found: What `read` returned.
    """
    figures = _figures(found)
    gains, widths = list(_gains(found)), list(_width_differences(found))
    return _PAGE.format(
        seeds=_seeds(found),
        links=", ".join(
            f"[{name}]({table.parent.name}/{table.name})"
            for name, table in tables_of(pathlib.Path("open_questions.md")).items()
        ),
        accuracies=_accuracies(found),
        gains=_gains_table(gains),
        gains_answer=_gains_answer([line["more"] for line in gains]),
        widths=_widths(found),
        width_differences=_widths_table(widths),
        width_answer=_width_answer(widths),
        dropout_caption=caption("comparison", figures["dropout"][0]),
        width_caption=caption("comparison", figures["widths"][0]),
    )


def _figures(found):
    """Name of a picture to its rows, and what is on its x axis."""
    dropout = {"no dropout": found["width 1"], "dropout 0.5": found["dropout"]}
    widths = {name: found[name] for name in WIDTHS}
    return {
        "dropout": ([r for r in _rows(dropout) if r["branch"] == TICKET], "density"),
        "widths": (_rows(widths), "parameters"),
    }


def _rows(runs):
    return [{"run": run, **r} for run, rows in runs.items() for r in summary(rows)]


def _values(rows, row, moment):
    """Accuracy in percent by seed, of the trainings that a row of `summary` sums up."""
    return {seed: 100 * x for seed, x in values_of(rows, row, moment).items()}


def _seeds(found):
    counts = {name: len({row["seed"] for row in rows}) for name, rows in found.items()}
    return f"Seeds: {', '.join(f'{n} of {name}' for name, n in counts.items())}."


_CELLS = {
    "at early stop %": lambda row: accuracy_cell(row, "early_stop_accuracy"),
    "at the end %": lambda row: accuracy_cell(row, "test_accuracy"),
    "early-stop iteration": iteration_cell,
    "n": lambda row: str(row["seeds"]),
}


def _accuracies(found):
    tables = {run: summary(found[run]) for run in ("width 1", "dropout")}
    lines = [
        {**row, "network": name, "kept": f"{100 * density:.1f}"}
        for density in (1.0, *_DENSITIES)
        for name, run in (("no dropout", "width 1"), ("dropout 0.5", "dropout"))
        if (row := row_at(tables[run], TICKET, density))
    ]
    return markdown(lines, {"weights kept %": "kept", "training": "network", **_CELLS})


def _gains(found):
    """At each density and moment, the two gains and their difference."""
    tables = {run: summary(found[run]) for run in ("width 1", "dropout")}
    for density in _DENSITIES:
        for moment in (STOP, END):
            gains = {}
            for run, table in tables.items():
                dense, ticket = (
                    _values(found[run], row_at(table, TICKET, d), moment)
                    for d in (1.0, density)
                )
                gains[run] = {
                    seed: value - dense[seed] for seed, value in ticket.items()
                }
            yield {
                "kept": f"{100 * density:.1f}",
                "moment": moment,
                "none": mean_interval(gains["width 1"].values()),
                "half": mean_interval(gains["dropout"].values()),
                "more": difference(gains["dropout"], gains["width 1"]),
            }


def _gains_table(gains):
    columns = {
        "weights kept %": "kept",
        "at": "moment",
        "gain without dropout": lambda line: _interval(line["none"]),
        "gain with dropout": lambda line: _interval(line["half"]),
        "difference": lambda line: _interval(line["more"]),
    }
    return markdown(gains, columns)


def _gains_answer(more):
    less, above = (sum(x.high < 0 for x in more), sum(x.low > 0 for x in more))
    counts = (
        "By the 95 % intervals of the differences, the ticket gains less with dropout "
        f"in {less} of {len(more)} comparisons, and more in {above}."
    )
    if less:
        return f"**Not always.** {counts}"
    return f"**Yes, as far as these seeds can tell.** {counts}"


def _at_size(rows, wanted, moment):
    """Accuracy of the ticket of each seed at a number of weights, in percent."""
    found = {}
    for seed in sorted({row["seed"] for row in rows}):
        of = [
            (math.log(row["parameters"]), 100 * row["accuracy"])
            for row in rows
            if (row["branch"], row["seed"], row["moment"]) == (TICKET, seed, moment)
        ]
        sizes, values = zip(*sorted(of), strict=True)
        if sizes[0] <= math.log(wanted) <= sizes[-1]:
            found[seed] = float(np.interp(math.log(wanted), sizes, values))
    return found


def _same_size(found):
    """Numbers of weights; of each, (network, moment) to accuracies by seed."""
    table = summary(found["width 1"])
    for round_ in _ROUNDS:
        (ticket,) = (
            row for row in table if (row["branch"], row["round"]) == (TICKET, round_)
        )
        wanted, values = ticket["parameters"], {}
        for moment in (STOP, END):
            for name in WIDTHS:
                values[name, moment] = _at_size(found[name], wanted, moment)
            if round_ in SMALL_DENSE:
                small = {"branch": "small_dense", "round": round_}
                values["small dense", moment] = _values(found["width 1"], small, moment)
        yield wanted, {key: of for key, of in values.items() if of}


def _mean(values):
    if len(values) < 2:
        return f"{next(iter(values)):.2f}"
    found = mean_interval(values)
    ends = f"({found.low:.2f} to {found.high:.2f})"
    return f"{found.mean:.2f} ± {found.sds[0]:.2f} {ends}"


def _widths(found):
    lines = []
    for name in WIDTHS:
        dense = row_at(summary(found[name]), TICKET, 1.0)
        of = {m: _values(found[name], dense, m) for m in (STOP, END)}
        lines.append((f"dense, {name}", dense["parameters"], of))
    for wanted, values in _same_size(found):
        for name in (*WIDTHS, "small dense"):
            of = {m: values[name, m] for m in (STOP, END) if (name, m) in values}
            if of:
                ticket = name if name == "small dense" else f"ticket of {name}"
                lines.append((ticket, wanted, of))
    rows = [
        {
            "network": name,
            "weights": f"{weights:,.0f}",
            "at early stop %": _mean(of[STOP].values()),
            "at the end %": _mean(of[END].values()),
            "n": len(of[END]),
        }
        for name, weights, of in lines
    ]
    return markdown(rows, {name: name for name in rows[0]})


def _width_differences(found):
    """At each size, pairs of networks and their difference at both moments."""
    for wanted, values in _same_size(found):
        for first, second in (
            ("width 2", "width 1"),
            ("width 1", "width 0.5"),
            ("width 1", "small dense"),
        ):
            if (first, END) in values and (second, END) in values:
                of = {
                    moment: _apart(values[first, moment], values[second, moment])
                    for moment in (STOP, END)
                }
                pair = (first, second)
                yield {"pair": pair, "weights": f"{wanted:,.0f}", **of}


def _widths_table(differences):
    columns = {
        "tickets": lambda line: " less ".join(line["pair"]),
        "weights": "weights",
        STOP: lambda line: _interval(line[STOP]),
        END: lambda line: _interval(line[END]),
    }
    return markdown(differences, columns)


def _width_answer(differences):
    wider = [
        line[moment]
        for line in differences
        for moment in (STOP, END)
        if line["pair"][1] in WIDTHS
    ]
    better, surely = sum(x.mean > 0 for x in wider), sum(x.low > 0 for x in wider)
    worse = sum(x.high < 0 for x in wider)
    answer = "Yes" if surely > len(wider) / 2 and not worse else "Not in general"
    return (
        f"**{answer}.** The ticket of the wider network is more accurate in {better} "
        f"of {len(wider)} comparisons, and in {surely} of them the 95 % interval is "
        "above 0."
    )


def _apart(first, second):
    """The difference, with no seed taken for the other's."""
    return difference(first, {("other", seed): x for seed, x in second.items()})


def _interval(found):
    # Adding 0 turns a rounded -0 into 0.
    mean, low, high = (round(x, 2) + 0 for x in (found.mean, found.low, found.high))
    if found.n < 2:
        return f"{mean:+.2f}"
    kind = "" if found.kind == "mean" else f", {found.kind}"
    return f"{mean:+.2f} ({low:+.2f} to {high:+.2f}{kind})"
