"""The lottery ticket paper's claims, checked against the rows of an experiment."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

from tfticket.lottery.figures.tables import Row, dense_row, markdown, row_at
from tfticket.tickets.rounds import percent

_END, _STOP = "end of training", "early stop"
_ACCURACY = {_STOP: "early_stop_accuracy", _END: "test_accuracy"}
# The paper's peak is one point of a flat top: two rounds off still is "near".
_NEAR_PEAK = 0.8**2


@dataclasses.dataclass(frozen=True)
class Claim:
    """One claim of the paper, and what was measured.

    Args:
        paper: What the paper says.
        moment: Which weights it is checked at: of the `"early stop"`, where the
            paper states it, or of the `"end of training"`.
        found: The numbers of this experiment, for reading.
        reproduced: Whether they bear the claim out; `None` if not measured.
    """

    paper: str
    moment: str
    found: str
    reproduced: bool | None

    @property
    def mark(self) -> str:
        """The verdict in words."""
        if self.reproduced is None:
            return "not measured"
        return "reproduced" if self.reproduced else "not reproduced"


def check(rows: Sequence[Row]) -> list[Claim]:
    """Checks the claims on LeNet-300-100 and MNIST (arXiv 1803.03635, section 2).

    A claim on accuracy is checked twice, with the weights of the early stop and with
    those of the end of training, so that neither can be picked. Means over the
    replicates are compared.

    Args:
        rows: What `tfticket.lottery.figures.tables.rows` returns.

    Returns:
        A `Claim` for each, in the paper's order.

    Example:

    >>> {claim.mark for claim in tfticket.lottery.paper.claims.check([])}
    {'not measured'}
    """
    return [
        _stops_earlier(rows, 0.513, "51.3 % learns faster than dense"),
        _stops_earlier(rows, 0.211, "21.1 % stops 38 % earlier than dense"),
        *(
            claim(rows, moment)
            for claim in (_beats_reinitialisation, _peaks, _returns, _falls)
            for moment in _ACCURACY
        ),
    ]


def claims_markdown(claims: Sequence[Claim]) -> str:
    """The claims as a Markdown table.

    Args:
        claims: What `check` returns.
    """
    columns: dict[str, str | Callable[[Row], str]] = {
        "claim of the paper": "paper",
        "at": "moment",
        "here": "found",
        "verdict": lambda row: row["mark"],
    }
    rows = [{**dataclasses.asdict(claim), "mark": claim.mark} for claim in claims]
    return markdown(rows, columns)


def _stops_earlier(rows, density, paper):
    dense, ticket = dense_row(rows), row_at(rows, "ticket", density)
    stops = [row and row["early_stop_iteration"] for row in (ticket, dense)]
    if None in stops or not stops[1]:
        return _missing(paper, _STOP, dense=dense, ticket=ticket)
    earlier = 1 - stops[0] / stops[1]
    found = (
        f"{100 * abs(earlier):.0f} % {'earlier' if earlier >= 0 else 'later'}: "
        f"{stops[0]:,.0f} against {stops[1]:,.0f}"
    )
    return Claim(paper, _STOP, found, earlier > 0)


def _beats_reinitialisation(rows, moment):
    paper = "at 21.1 %, half a point above the same mask re-initialised"
    ticket, reinit = (row_at(rows, name, 0.211) for name in ("ticket", "reinit"))
    return _compared(
        paper,
        moment,
        {"ticket": ticket, "re-initialised": reinit},
        lambda points: points >= 0.3,
    )


def _peaks(rows, moment):
    paper = "accuracy peaks at 13.5 %, more than 0.3 points above dense"
    pair = {"ticket": row_at(rows, "ticket", 0.135), "dense": dense_row(rows)}
    claim = _compared(paper, moment, pair, lambda points: points > 0.3)
    if claim.reproduced is None:
        return claim
    key = _ACCURACY[moment]
    peak = max(
        (row for row in rows if row["branch"] == "ticket"),
        key=lambda row: row[key] or 0.0,
    )
    near = _NEAR_PEAK < peak["density"] / pair["ticket"]["density"] < 1 / _NEAR_PEAK
    return dataclasses.replace(
        claim,
        found=f"{claim.found}; peak of {percent(peak[key])} at "
        f"{percent(peak['density'], 1)} %",
        reproduced=claim.reproduced and near,
    )


def _returns(rows, moment):
    paper = "at 3.6 %, back at the accuracy of dense"
    pair = {"ticket": row_at(rows, "ticket", 0.036), "dense": dense_row(rows)}
    return _compared(paper, moment, pair, lambda points: points >= -0.2)


def _falls(rows, moment):
    paper = "at 2.9 %, below the accuracy of dense"
    pair = {"ticket": row_at(rows, "ticket", 0.029), "dense": dense_row(rows)}
    return _compared(paper, moment, pair, lambda points: points < 0)


def _compared(
    paper: str,
    moment: str,
    pair: dict[str, Row | None],
    holds: Callable[[float], bool],
) -> Claim:
    """A claim on the difference of two accuracies, in percentage points."""
    values: list[Any] = [row and row[_ACCURACY[moment]] for row in pair.values()]
    if None in values:
        return _missing(paper, moment, **pair)
    # 0.978 - 0.98 is a little below -0.002.
    points = round(100 * (values[0] - values[1]), 9)
    found = f"{points:+.2f}: {percent(values[0])} against {percent(values[1])}"
    return Claim(paper, moment, found, holds(points))


def _missing(paper, moment, **rows):
    names = [name for name, row in rows.items() if row is None]
    return Claim(paper, moment, f"no result of: {', '.join(names or rows)}", None)
