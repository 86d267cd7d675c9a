"""A tidy table of a run: one row for each training and moment."""

import csv
import io
import math
import os
from collections.abc import Callable, Sequence
from typing import Any

from tfticket.common.arguments import check_path
from tfticket.common.files import open_regular
from tfticket.lottery.results import PartResult

END, STOP = "end of training", "early stop"
MOMENTS = (STOP, END)
LAYER = "density:"
VERSION = "version:"

Row = dict[str, Any]

# What begins at the weights that tickets are rewound to.
_REWOUND = ("ticket", "noise", "stability", "transfer")


def trainings(results: Sequence[PartResult], rewound_to: int = 0) -> list[Row]:
    """Two rows for each training: at its early stop, and at its end.

    Iterations are on the clock of the dense training: those of a training that was
    rewound to step K and recorded from 0 have K added to them.

    Args:
        results: Finished parts, in any order.
        rewound_to: The step that tickets were rewound to in a run of an older version,
            whose parts don't tell it.

    Returns:
        Rows with `branch`, `seed`, `copy`, `round`, `moment` (`"early stop"` or
        `"end of training"`), `density` in [0, 1], `parameters` (a count), `iteration`,
        `accuracy` and `loss` on the test part, `validation_accuracy` and
        `validation_loss`, `seconds` of the whole training, `density:LAYER` for each
        masked weight and `version:NAME` for what it ran on. Rows are in the order of
        branch (the ticket first), round, seed and copy.

    Example:

    >>> from tfticket.lottery import Part, PartResult
    >>> measured = {"accuracy": 0.9, "loss": 0.4}
    >>> part = PartResult(Part(0), 1.0, 10, {"fc/kernel": [10, 10]}, 100, 40,
    ...                   measured, measured, measured, measured)
    >>> rows = tfticket.lottery.figures.trainings.trainings([part])
    >>> [(row["moment"], row["iteration"]) for row in rows]
    [('early stop', 40), ('end of training', 100)]
    """
    ordered = sorted(
        results,
        key=lambda r: (
            *(r.part.branch != "ticket", r.part.branch, r.part.round),
            *(r.part.seed, r.part.copy),
        ),
    )
    return [
        _row(result, moment, rewound_to) for result in ordered for moment in MOMENTS
    ]


def _clock(result, rewound_to):
    """Iterations of the dense training before those that are recorded."""
    if result.first_iteration is not None:
        return (result.rewound_to or 0) - result.first_iteration
    kind, _, value = result.part.branch.partition(":")
    if kind == "late_rewind":
        return int(value)
    first = kind == "ticket" and not result.part.round
    return rewound_to if kind in _REWOUND and not first else 0


def _row(result: PartResult, moment: str, rewound_to: int) -> Row:
    part, stopped = result.part, moment == STOP
    test = result.early_stop_test if stopped else result.test
    held_out = result.early_stop_validation if stopped else result.validation
    return {
        "branch": part.branch,
        "seed": part.seed,
        "copy": part.copy,
        "round": part.round,
        "moment": moment,
        "density": result.density,
        "parameters": result.parameters,
        "iteration": _clock(result, rewound_to)
        + (result.early_stop_iteration if stopped else result.iterations),
        "accuracy": test.get("accuracy"),
        "loss": test.get("loss"),
        "validation_accuracy": held_out.get("accuracy"),
        "validation_loss": held_out.get("loss"),
        "seconds": sum(result.seconds.values()) if result.seconds else None,
        **{LAYER + name: kept / n for name, (kept, n) in result.layers.items()},
        **{VERSION + name: value for name, value in result.versions.items()},
    }


def read_trainings(path: str | os.PathLike) -> list[Row]:
    """Reads the table again that `write_csv` wrote of `trainings`.

    Args:
        path: The CSV file. An empty field is `None`; a row without a seed is a value
            whose seed was not kept.

    Raises:
        TypeError: If `path` is no path.
        FileNotFoundError: If there is no such file.
        ValueError: If it is not such a table, a value is out of range, or a training
            is in it twice. The message has the file and the line.
    """
    with open_regular(check_path("path", path)) as file:
        try:
            text = file.read().decode("utf-8")
        except UnicodeDecodeError as error:
            raise ValueError(f"'{path}' is not a text file: {error}") from error
    reader = csv.DictReader(io.StringIO(text), strict=True)
    missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(
            f"'{path}' is not a table of trainings: it lacks the columns "
            f"{', '.join(missing)}. The report writes one beside its page."
        )
    rows: list[Row] = []
    known: dict[tuple, int] = {}
    try:
        for fields in reader:
            rows.append(_typed(fields))
            _check_once(rows[-1], known, reader.line_num)
    except (ValueError, csv.Error) as error:
        raise ValueError(f"'{path}', line {reader.line_num}: {error}") from error
    return rows


def _typed(fields: dict[Any, Any]) -> Row:
    if None in fields or None in fields.values():
        raise ValueError("it does not have as many fields as the first line")
    row = {}
    for name, text in fields.items():
        read = _NEEDED.get(name) or (_fraction if name.startswith(LAYER) else _text)
        try:
            row[name] = None if text == "" else read(text)
        except ValueError as error:
            raise ValueError(f"{name}={text!r} {error}") from None
    empty = [
        name for name in ("branch", "round", "moment", "density") if not fields[name]
    ]
    if empty:
        raise ValueError(f"{', '.join(empty)} must not be empty")
    return row


def _check_once(row, known, line):
    if row["seed"] is None:
        return
    key = tuple(row[name] for name in ("branch", "seed", "copy", "round", "moment"))
    if key in known:
        raise ValueError(
            f"the same training and moment are in line {known[key]} already: seed "
            f"{row['seed']} of {row['branch']}, round {row['round']}. It counts once."
        )
    known[key] = line


def _count(text: str) -> int:
    if not text.isdecimal():
        raise ValueError("must be a whole number of 0 or more")
    return int(text)


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise ValueError("must be a number") from None


def _fraction(text: str) -> float:
    value = _number(text)
    if not (0 <= value <= 1 or math.isnan(value)):
        raise ValueError("must be in [0, 1]")
    return value


def _positive(text: str) -> int:
    value = _count(text)
    if not value:
        raise ValueError("must be 1 or more")
    return value


def _moment(text: str) -> str:
    if text not in MOMENTS:
        raise ValueError(f"must be one of {', '.join(map(repr, MOMENTS))}")
    return text


def _text(text: str) -> str:
    return text


_NEEDED: dict[str, Callable[[str], Any]] = {
    "branch": _text,
    "seed": _count,
    "copy": _count,
    "round": _count,
    "moment": _moment,
    "density": _fraction,
    "parameters": _count,
    "iteration": _positive,
    "accuracy": _fraction,
    "loss": _number,
    "validation_accuracy": _fraction,
    "validation_loss": _number,
    "seconds": _number,
}
