"""The lottery ticket paper's claims, judged by intervals over the seeds of a run."""

import dataclasses
import functools
import math
from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

from tfticket.lottery.figures.tables import (
    markdown,
    row_at,
    summary,
    values_of,
)
from tfticket.lottery.figures.trainings import MOMENTS, STOP, Row
from tfticket.lottery.measures.intervals import (
    LEVEL,
    REFUTED,
    REPRODUCED,
    UNDECIDED,
    Interval,
    Region,
    difference,
    seeds_to_decide,
)
from tfticket.lottery.recipe import Recipe
from tfticket.tickets.rounds import percent

ABOUT = (
    "A claim is reproduced if all of the 95 % interval of its quantity is beyond the "
    "threshold that is printed with it, refuted if none of it is, and undecided "
    "otherwise. The number of seeds that would decide is a power estimate (80 %) from "
    "the spread and the difference of this run. Intervals are of paired differences "
    "where both networks have the same seeds, and Welch's otherwise; copies of a "
    "control are averaged for each seed. Where a claim says several things, it takes "
    "all of them to reproduce it, and one to refute it, at a level divided by their "
    "number. Differences of accuracy are in percentage points; how much earlier a "
    "training stops is computed from the ratio of geometric means."
)
NOT_MEASURED, NO_VERDICT = "not measured", "no verdict"


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of a paper, and what was measured.

    Args:
        paper: What the paper says, and the threshold of it.
        moment: Which weights it is checked at: those of the `"early stop"` or of the
            `"end of training"`; `""` if nothing was measured.
        found: The numbers of this run with their intervals, for reading.
        verdict: `"reproduced"`, `"refuted"` or `"undecided"`; `None` if the run can't
            give one.
        seeds: How many seeds it rests on, of the arm with fewer; 0 if not measured.
        needed: How many would decide what is undecided; `None` if that is beyond
            1,000, or unknown.

    Example:

    >>> claim = Claim("", "early stop", "", "undecided", seeds=3, needed=9)
    >>> claim.mark
    'undecided with 3 seeds, about 9 would decide'
    """

    paper: str
    moment: str
    found: str
    verdict: str | None
    seeds: int = 0
    needed: int | None = None

    @property
    def mark(self) -> str:
        """The verdict in words."""
        if not self.seeds:
            return NOT_MEASURED
        if self.verdict is None:
            return f"{NO_VERDICT} from one seed" if self.seeds == 1 else NO_VERDICT
        if self.verdict != UNDECIDED:
            return self.verdict
        many = "more than 1,000" if self.needed is None else f"about {self.needed:,}"
        return f"{UNDECIDED} with {self.seeds} seeds, {many} would decide"


def check(trained: Sequence[Row], judge: bool = True) -> list[Claim]:
    """Judges the claims on LeNet-300-100 and MNIST (arXiv 1803.03635, section 2).

    A claim on accuracy is checked twice, with the weights of the early stop and with
    those of the end of training, so that neither can be picked. One whose networks the
    run does not have is there once, as not measured.

    Args:
        trained: What `tfticket.lottery.figures.trainings.trainings` returns.
        judge: Whether to give verdicts: only where `recipe_differences` finds none.

    Returns:
        A `Claim` for each, in the paper's order.

    Example:

    >>> {claim.mark for claim in tfticket.lottery.paper.claims.check([])}
    {'not measured'}
    """
    run = _Run(trained)
    found = [claim for make in _CLAIMS for claim in make(run)]
    if not judge:
        found = [dataclasses.replace(claim, verdict=None) for claim in found]
    return found


def recipe_differences(settings: Mapping[str, Any]) -> list[str]:
    """What of a run's settings is not as in the paper's experiment on MNIST.

    Args:
        settings: What `tfticket.lottery.figures.run.run_settings` gives.

    Returns:
        A phrase for each; none where the claims can be judged.

    Example:

    >>> paper = {"dataset": "mnist", "model": "lenet_300_100", "iterations": 50_000}
    >>> recipe_differences(paper)
    []
    >>> recipe_differences({**paper, "iterations": 1000})
    ["iterations 1,000, the paper's 50,000"]
    """
    paper = dataclasses.asdict(Recipe(dataset="mnist", iterations=50_000))
    del paper["rewind_clock"]  # of no meaning where tickets are rewound to 0
    return setting_differences(settings, paper)


def setting_differences(
    settings: Mapping[str, Any], paper: Mapping[str, Any]
) -> list[str]:
    """Where settings are not the paper's, a phrase each.

    Args:
        settings: Its settings. What an older version did not record is as the paper's,
            but for the data and the network.
        paper: The paper's values.
    """
    known = {"dataset": None, "model": None, **settings}
    return [
        f"{name.replace('_', ' ')} {plain(known[name])}, the paper's {plain(value)}"
        for name, value in paper.items()
        if name in known and _as_list(known[name]) != _as_list(value)
    ]


def plain(value: Any) -> str:
    """A setting as text: "50,000", "none", "0, 1, 2"."""
    if value is None or value == [] or value == ():
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(plain, value))
    return f"{value:,}" if type(value) is int else " ".join(str(value).split())


def claims_markdown(claims: Sequence[Claim]) -> str:
    """The claims as a Markdown table.

    Args:
        claims: What `check` returns.
    """
    columns: dict[str, str | Callable[[Row], str]] = {
        "claim of the paper, and its threshold": "paper",
        "at": lambda row: row["moment"] or "-",
        "here, and the 95 % interval": "found",
        "n": lambda row: str(row["seeds"] or "-"),
        "verdict": "mark",
    }
    rows = [{**dataclasses.asdict(claim), "mark": claim.mark} for claim in claims]
    return markdown(rows, columns)


Arm = Mapping[Hashable, float]
# Where a difference is shown, and no claim is made of it.
ANYWHERE = Region()


@dataclasses.dataclass(frozen=True)
class Quantity:
    """A difference of two arms that a claim is about, and where the claim holds.

    Args:
        first: Seed to value.
        second: What is subtracted.
        region: Where the claim holds, in the unit of the difference.
        show: Makes the text of an interval, and of two means.
    """

    first: Arm
    second: Arm
    region: Region
    show: Callable[[Interval, float, float], str]

    def interval(self, level: float = LEVEL) -> Interval:
        """Of the difference, rid of the last digits' rounding."""
        found = difference(self.first, self.second, level)
        ends = {
            name: round(getattr(found, name), 9) for name in ("mean", "low", "high")
        }
        return dataclasses.replace(found, **ends)

    @property
    def found(self) -> str:
        """The numbers, for reading."""
        means = [sum(arm.values()) / len(arm) for arm in (self.first, self.second)]
        return self.show(self.interval(), *means)


def judged(
    paper: str, moment: str, parts: Sequence[Quantity], found: str | None = None
) -> Claim:
    """A claim that holds where each of its parts does.

    Args:
        paper: What the paper says.
        moment: At which weights.
        parts: Its quantities, one or more.
        found: The numbers for reading. Default: those of all parts.
    """
    intervals = [part.interval() for part in parts]
    seeds = min(interval.n for interval in intervals)
    if found is None:
        found = "; ".join(part.found for part in parts)
    verdicts = [
        part.region.verdict(each) for part, each in zip(parts, intervals, strict=True)
    ]
    # One of several is outside by chance more often than one alone.
    strict = 1 - (1 - LEVEL) / len(parts)
    if None in verdicts:
        return Claim(paper, moment, found, None, seeds)
    if any(part.region.verdict(part.interval(strict)) == REFUTED for part in parts):
        return Claim(paper, moment, found, REFUTED, seeds)
    if set(verdicts) == {REPRODUCED}:
        return Claim(paper, moment, found, REPRODUCED, seeds)
    needed = _needed(parts, intervals, strict)
    return Claim(paper, moment, found, UNDECIDED, seeds, needed)


def _needed(parts, intervals, strict):
    """Seeds that decide: one part is enough to refute, all of them to reproduce."""
    needed, against = [], []
    for part, interval in zip(parts, intervals, strict=True):
        inside = part.region.contains(interval.mean)
        level = LEVEL if inside else strict
        seeds = seeds_to_decide(interval, part.region, level)
        (needed if inside else against).append(math.inf if seeds is None else seeds)
    most = min(against) if against else max(needed)
    least = min(interval.n for interval in intervals) + 1
    return None if math.isinf(most) else max(least, most)


def accuracy_points(
    first: Arm, second: Arm, region: Region = ANYWHERE, name: str = ""
) -> Quantity:
    """A difference of accuracies in percentage points.

    Args:
        first: Seed to accuracy, in [0, 1].
        second: What is subtracted.
        region: Where the claim holds, in points. Default: no claim is made.
        name: Name of the difference, if there are several.
    """

    def show(interval, one, other):
        text = f"{interval.mean:+.2f}{_ends(interval, '+.2f')}"
        return f"{name}{text}: {one:.2f} against {other:.2f}"

    hundredfold = [
        {seed: 100 * x for seed, x in arm.items()} for arm in (first, second)
    ]
    return Quantity(hundredfold[0], hundredfold[1], region, show)


def percent_earlier(
    first: Arm, second: Arm, percents: float = 0.0, closed: bool = False
) -> Quantity:
    """How much earlier the first stops, in percent of the second.

    It is judged by logarithms: a ratio of geometric means has an interval for paired
    seeds and for others, whatever the spread of the second is.

    Args:
        first: Seed to iteration.
        second: What it is compared with.
        percents: How much earlier it must be.
        closed: Whether exactly as much is enough.
    """

    def show(interval, one, other):
        earlier, *ends = (
            100 * (1 - math.exp(x))
            for x in (interval.mean, interval.high, interval.low)
        )
        shown = Interval(earlier, *ends, interval.sds, interval.n, interval.kind)
        text = f"earlier by {earlier:+.0f} %{_ends(shown, '+.0f')}"
        return f"{text}: {math.exp(one):,.0f} against {math.exp(other):,.0f}"

    logs = [{seed: math.log(x) for seed, x in arm.items()} for arm in (first, second)]
    region = Region(high=round(math.log(1 - percents / 100), 9), closed=closed)
    return Quantity(logs[0], logs[1], region, show)


def _ends(interval, form):
    if interval.n < 2:
        return ""
    return f" ({interval.low:{form}} to {interval.high:{form}}, {interval.kind})"


class _MissingError(Exception):
    """The run lacks what a claim is about; says what."""


class _Run:
    """Trainings by branch and density."""

    def __init__(self, trained):
        self._trained = trained
        self.rows = summary(trained)

    def row(self, branch: str, density: float) -> Row:
        row = row_at(self.rows, branch, density)
        if row is None:
            name = {"ticket": "ticket", "reinit": "re-initialised network"}[branch]
            name = "dense network" if density == 1 else name
            raise _MissingError(f"this run has no {name} at {percent(density, 1)} %")
        return row

    def arm(self, row: Row, moment: str, column: str = "accuracy") -> Arm:
        """Seed to value."""
        found = values_of(self._trained, row, moment, column)
        if not found:
            raise _MissingError(
                f"no {column} of the {row['branch']} of round {row['round']} at "
                f"{moment} was kept"
            )
        return found

    def of(
        self, branch: str, density: float, moment: str, column: str = "accuracy"
    ) -> Arm:
        return self.arm(self.row(branch, density), moment, column)


def _claim(paper, moments=MOMENTS):
    """Makes the claims of a statement, one a moment, or one that was not measured."""

    def wrap(measure):
        @functools.wraps(measure)
        def make(run):
            try:
                return [
                    judged(paper, moment, *_as_tuple(measure(run, moment)))
                    for moment in moments
                ]
            except _MissingError as reason:
                return [Claim(paper, "", str(reason), None)]

        return make

    return wrap


def _as_tuple(parts):
    return parts if isinstance(parts, tuple) else (parts,)


def _compare(run, moment, first, second, region):
    arms = [run.of(*arm, moment) for arm in (first, second)]
    return [accuracy_points(*arms, region)]


_DENSE = ("ticket", 1.0)
_ABOVE, _BELOW = Region(low=0.0), Region(high=0.0)


@_claim(
    "at 51.3 %, learns faster than dense: stops earlier (by more than 0 %) and tests "
    "better then (by more than 0 points)",
    (STOP,),
)
def _faster(run, moment):
    stops = [run.of(*arm, moment, "iteration") for arm in (("ticket", 0.513), _DENSE)]
    better = _compare(run, moment, ("ticket", 0.513), _DENSE, _ABOVE)
    return [percent_earlier(*stops), *better]


@_claim("at 51.3 %, tests better than dense: by more than 0 points")
def _better(run, moment):
    return _compare(run, moment, ("ticket", 0.513), _DENSE, _ABOVE)


@_claim("at 21.1 %, stops 38 % earlier than dense: by 38 % or more", (STOP,))
def _stops_earlier(run, moment):
    stops = [run.of(*arm, moment, "iteration") for arm in (("ticket", 0.211), _DENSE)]
    return [percent_earlier(*stops, 38.0, closed=True)]


@_claim(
    "at 21.1 %, half a point above the same mask re-initialised: by 0.5 points or more"
)
def _beats_reinitialisation(run, moment):
    region = Region(low=0.5, closed=True)
    return _compare(run, moment, ("ticket", 0.211), ("reinit", 0.211), region)


@_claim("at 21.1 %, re-initialised, below the accuracy of dense: by more than 0 points")
def _falls_reinitialised(run, moment):
    return _compare(run, moment, ("reinit", 0.211), _DENSE, _BELOW)


@_claim("accuracy peaks at 13.5 %: no other density is more than 0.1 points above it")
def _peaks(run, moment):
    here = run.row("ticket", 0.135)
    others = [
        row
        for row in run.rows
        if row["branch"] == "ticket" and row["round"] != here["round"]
    ]
    if not any(0 < row["round"] < here["round"] for row in others) or not any(
        row["round"] > here["round"] for row in others
    ):
        raise _MissingError("this run has no tickets on both sides of 13.5 %")
    top = run.arm(here, moment)
    parts = [
        accuracy_points(
            top,
            run.arm(row, moment),
            Region(low=-0.1, closed=True),
            f"minus that at {percent(row['density'], 1)} %, the highest other: ",
        )
        for row in others
    ]
    highest = min(parts, key=lambda part: part.interval().mean)
    return parts, highest.found


@_claim("at 13.5 %, tests better than dense: by more than 0.3 points")
def _above(run, moment):
    return _compare(run, moment, ("ticket", 0.135), _DENSE, Region(low=0.3))


@_claim("at 3.6 %, back at the accuracy of dense: within 0.2 points")
def _returns(run, moment):
    region = Region(-0.2, 0.2, closed=True)
    return _compare(run, moment, ("ticket", 0.036), _DENSE, region)


@_claim("at 2.9 %, below the accuracy of dense: by more than 0 points")
def _falls(run, moment):
    return _compare(run, moment, ("ticket", 0.029), _DENSE, _BELOW)


_CLAIMS = (
    *(_faster, _better, _stops_earlier, _beats_reinitialisation),
    *(_falls_reinitialised, _peaks, _above, _returns, _falls),
)


def _as_list(value):
    return list(value) if isinstance(value, tuple) else value
