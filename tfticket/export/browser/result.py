"""The results of files in a browser, read from what its page posted."""

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
"""Largest number of bytes that a page may post besides outputs."""

SAME = 1e-3
"""Files with a smaller difference count as computing the same."""


class BrowserError(RuntimeError):
    """A browser could not run the files, or did not answer."""


@dataclasses.dataclass(frozen=True)
class BrowserRow:
    """The results of one file.

    Args:
        name: Name of the file.
        bytes: Size of the file.
        milliseconds: Median of `times`.
        times: Milliseconds per call, one value per round; in a round each file is
            called once.
        speedup: How many times as fast as the first file: the median of the ratios
            within a round.
        difference: Largest difference from an output of the first file, relative to the
            largest absolute value of that output.
        agreement: Fraction of samples with the first file's argmax over the last axis;
            `None` if no output has several values there.
        zeros: Whether all outputs are 0, which LiteRT.js returns without an error for
            some networks that it can't run.
        outputs: Arrays by the name of the output, exactly as the browser computed them.
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
        rows: One row per file; the first one is the reference.
        browser: User agent of the browser.
        device: What else the page knows about the machine.
        threads: Hardware threads of the machine, as reported by the browser; 0 if it
            reports none.
        litertjs: Version of LiteRT.js.
        engine: The build of LiteRT.js that ran, and its number of threads.
    """

    rows: tuple[BrowserRow, ...]
    browser: str
    device: str
    threads: int
    litertjs: str
    engine: str

    @property
    def warnings(self) -> tuple[str, ...]:
        """One sentence per file that answers zeros, or differs from the first file."""
        first = self.rows[0]
        found = []
        for row in self.rows:
            if row.zeros:
                found.append(
                    f"'{row.name}' answers only zeros: LiteRT.js does not run this "
                    "network correctly, and reports no error"
                )
            elif not row.difference <= SAME:  # NaN is not a small difference
                found.append(
                    f"'{row.name}' does not compute what '{first.name}' does: largest "
                    f"difference {row.difference:.1e} of the largest output"
                )
        return tuple(found)

    @property
    def same(self) -> bool:
        """Whether all files compute the same, and not only zeros."""
        return not self.warnings

    def as_dict(self) -> dict[str, Any]:
        """Everything but the outputs, as JSON values."""
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
    """Reads what the page posted: the length of a JSON header, the header, the outputs.

    Args:
        body: Body of the request, which anybody may have sent.
        trial: The trial.
        litertjs: Version of LiteRT.js that was served.

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
    """The outputs per file and call, in the order of the signature."""
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
    """The page's text, shortened and without control characters of terminals."""
    return "".join(c for c in str(value) if c.isprintable())[:300]


def read_error(body: bytes) -> str:
    """Reads the error that the page reports.

    Raises:
        ValueError: If it is not what the page posts.
    """
    found = json.loads(body)
    if not isinstance(found, Mapping) or "message" not in found:
        raise ValueError("not what the page posts")
    return f"{_text(found['message'])} ({_text(found.get('browser', '?'))})"
