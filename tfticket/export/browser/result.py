"""What came of files in a browser, read from what its page posted."""

import dataclasses
import json
import math
import statistics
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfticket.common.columns import aligned
from tfticket.export.browser.trial import Trial
from tfticket.export.checking.compare import agreement, difference

HEADER_BYTES = 1 << 20
"""Most bytes of what a page posts beside outputs."""

SAME = 1e-3
"""Up to which difference files count as computing the same."""


class BrowserError(RuntimeError):
    """A browser could not run the files, or did not answer."""


@dataclasses.dataclass(frozen=True)
class BrowserRow:
    """What came of one file.

    Args:
        name: What it is called.
        bytes: Its size.
        milliseconds: Median of `times`.
        times: Milliseconds of a call, one for each round; in a round each file is
            called in turn.
        speedup: How many times as fast as the first file: the median of the ratios
            within a round.
        difference: Largest difference of an output to the first file's, relative to
            the largest absolute value of that output there.
        agreement: Fraction of samples with the first file's argmax over the last axis;
            `None` where no output has several values there.
        zeros: Whether all outputs are 0, which is how LiteRT.js answers some networks
            that it can't run, without an error.
        outputs: Arrays by the name of the output, exactly as the browser had them.
    """

    name: str
    bytes: int
    milliseconds: float
    times: tuple[float, ...]
    speedup: float
    difference: float
    agreement: float | None
    zeros: bool
    outputs: dict[str, np.ndarray] = dataclasses.field(repr=False, compare=False)


@dataclasses.dataclass(frozen=True)
class BrowserComparison:
    """Files of one network, run side by side in one browser.

    Args:
        rows: One for each file, the first is what the others are compared with.
        browser: Its user agent.
        device: What else the page could learn of the machine.
        threads: Hardware threads of the machine, as the browser says; 0 if it doesn't.
        litertjs: Version of LiteRT.js.
        engine: Which build of it ran, and in how many threads.
    """

    rows: tuple[BrowserRow, ...]
    browser: str
    device: str
    threads: int
    litertjs: str
    engine: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """A sentence for each file that answers zeros, or not what the first does."""
        first = self.rows[0]
        found = []
        for row in self.rows:
            if row.zeros:
                found.append(
                    f"'{row.name}' answers zeros alone: LiteRT.js does not run this "
                    "network right, and says nothing"
                )
            elif not row.difference <= SAME:  # NaN is no small difference
                found.append(
                    f"'{row.name}' does not compute what '{first.name}' does: largest "
                    f"difference {row.difference:.1e} of the largest output"
                )
        return tuple(found)

    @property
    def same(self) -> bool:
        """Whether all files compute the same, and not zeros alone."""
        return not self.warnings

    def as_dict(self) -> dict[str, Any]:
        """All but the outputs, as JSON has it."""
        found = dataclasses.asdict(self)
        for row in found["rows"]:
            del row["outputs"]
        return found | {"same": self.same, "warnings": list(self.warnings)}

    def __str__(self) -> str:
        header = ("file", "kB", "ms", "faster", "difference", "same answer")
        cells = [header]
        for row in self.rows:
            share = "" if row.agreement is None else f"{row.agreement:.1%}"
            cells.append(
                (
                    row.name,
                    f"{row.bytes / 1000:,.0f}",
                    f"{row.milliseconds:.2f}",
                    f"{row.speedup:.2f}x",
                    f"{row.difference:.1e}",
                    share,
                )
            )
        lines = aligned(cells, right=range(1, len(header)))
        lines += [f"Warning: {text}." for text in self.warnings]
        where = f"{self.device or 'unknown device'}, {self.threads or '?'} threads"
        lines += ["", f"LiteRT.js {self.litertjs}, {self.engine}; {where}"]
        return "\n".join([*lines, self.browser])


def read_post(body: bytes, trial: Trial, litertjs: str) -> BrowserComparison:
    """Reads what the page posted: the length of a JSON header, it, and the outputs.

    Args:
        body: Body of the request. Anybody may have sent it.
        trial: What was asked for.
        litertjs: Version of what was served.

    Raises:
        ValueError: If it is not what the page posts.
    """
    try:
        (length,) = struct.unpack_from("<I", body)
        if length > HEADER_BYTES:
            raise ValueError(f"a header of {length} bytes")
        header = json.loads(body[4 : 4 + length])
        outputs = _outputs(memoryview(body)[4 + length :], trial)
        times = [_times(entry, trial.repeats) for entry in header["times"]]
        if len(times) != len(trial.names):
            raise ValueError(f"times of {len(times)} files")
        rows = _rows(trial, times, outputs)
        return BrowserComparison(
            rows,
            _text(header["browser"]),
            _text(header["device"]),
            max(0, min(int(header["threads"]), 1 << 16)),
            litertjs,
            _text(header["engine"]),
        )
    except (struct.error, KeyError, TypeError, OverflowError) as error:
        raise ValueError(f"not what the page posts: {error}") from error


def _rows(trial, times, outputs):
    rows = []
    for i, name in enumerate(trial.names):
        ratios = [one / own for one, own in zip(times[0], times[i], strict=True)]
        rows.append(
            BrowserRow(
                name,
                len(trial.contents[i]),
                statistics.median(times[i]),
                tuple(times[i]),
                statistics.median(ratios),
                difference(outputs[0], outputs[i]).relative,
                agreement(outputs[0], outputs[i]),
                not any(np.any(value) for value in outputs[i].values()),
                outputs[i],
            )
        )
    return tuple(rows)


def _times(values, repeats):
    found = [float(value) for value in values]
    if len(found) != repeats or not all(0 < x < math.inf for x in found):
        raise ValueError(f"not {repeats} positive times: {found[:5]}")
    return found


def _outputs(data: memoryview, trial: Trial) -> list[dict[str, np.ndarray]]:
    """Of each file and each call, the outputs in the order of the signature."""
    if len(data) != trial.output_bytes * len(trial.names):
        raise ValueError(f"{len(data)} bytes of outputs")
    found: list[dict[str, np.ndarray]] = []
    at = 0
    for _ in trial.names:
        parts: dict[str, list[np.ndarray]] = {x: [] for x in trial.signature.outputs}
        for _ in range(trial.calls):
            for name, of in trial.signature.outputs.items():
                count = math.prod(of.shape)
                kind = np.dtype(of.dtype)
                part = np.frombuffer(data, kind.newbyteorder("<"), count, at)
                at += count * kind.itemsize
                parts[name].append(part.reshape(of.shape).astype(kind))
        found.append({name: _joined(values) for name, values in parts.items()})
    return found


def _joined(values):
    return np.concatenate(values) if values[0].ndim else np.stack(values)


def _text(value: Any) -> str:
    """A page's words without what moves a terminal's cursor, and not too many."""
    return "".join(c for c in str(value) if c.isprintable())[:300]


def read_error(body: bytes) -> str:
    """What the page says went wrong.

    Raises:
        ValueError: If it is not what the page posts.
    """
    found = json.loads(body)
    if not isinstance(found, Mapping) or "message" not in found:
        raise ValueError("not what the page posts")
    return f"{_text(found['message'])} ({_text(found.get('browser', '?'))})"
