"""`RunFolder`: what an experiment has on disk, each part whole or not there."""

import contextlib
import csv
import datetime
import hashlib
import io
import json
import os
import pathlib
import socket
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from filelock import FileLock, Timeout

from tfticket.common.files import atomic_path, write_json
from tfticket.lottery.recipe import digest
from tfticket.lottery.results import Part, PartResult
from tfticket.tickets.ticket import Ticket

_CONFIG, _RESULT, _LOCK, _HOLDER = "config.json", "result.json", ".lock", ".holder.json"
TICKET, TRAINED, NEXT, METRICS = (
    "ticket.npz",
    "trained.npz",
    "next_masks.npz",
    "metrics.csv",
)


class RunInUseError(RuntimeError):
    """Another process works on the folder."""


class RunFolder:
    """The folder of one run: `config.json`, and a folder for each part.

    A part is finished once its `result.json` is there, which is written last and
    holds a SHA-256 of every other file of the part, of the files of other parts that
    it was made from, and of itself. What does not agree is named in a warning and
    counts as missing, so that it is made again and never used.

    Args:
        path: The folder.
    """

    def __init__(self, path: str | os.PathLike):
        self.path = pathlib.Path(path)

    def create(self, config: Mapping[str, Any]) -> None:
        """Writes `config.json`, unless it is there.

        Args:
            config: What defines the run, JSON-ready, with the `identity` that the
                folder's name goes by.

        Raises:
            FileExistsError: If the folder is that of something else.
        """
        path = self.path / _CONFIG
        if path.exists():
            try:
                held = json.loads(path.read_text())["identity"]
            except (ValueError, LookupError, TypeError):
                warnings.warn(
                    f"'{path}' is damaged and written anew; the folder's name says "
                    "which run it is.",
                    stacklevel=2,
                )
            else:
                # By digest, as the name goes: JSON has made lists of tuples.
                if digest(held) == digest(config["identity"]):
                    return
                raise FileExistsError(
                    f"'{self.path}' holds another run. Choose another runs_dir."
                )
        elif self.path.is_dir() and any(
            entry.name not in (_LOCK, _HOLDER) and not entry.name.startswith("seed_")
            for entry in self.path.iterdir()
        ):
            raise FileExistsError(
                f"'{self.path}' holds files that are no run's and won't be touched. "
                "Choose another runs_dir."
            )
        write_json(path, config)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out. The system lets go of it when a process dies.

        Raises:
            RunInUseError: If another process is in; names it.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            lock.acquire()
        except Timeout:
            raise RunInUseError(
                f"'{self.path}' is in use by {self._holder()}. Wait until it is done, "
                "or stop it."
            ) from None
        try:
            write_json(
                self.path / _HOLDER,
                {
                    "process": os.getpid(),
                    "host": socket.gethostname(),
                    "since": datetime.datetime.now().isoformat(timespec="seconds"),
                },
            )
            yield
        finally:
            lock.release()

    def _holder(self):
        try:
            holder = json.loads((self.path / _HOLDER).read_text())
            return "process {process} on {host}, since {since}".format(**holder)
        except (OSError, ValueError, LookupError):
            return "another process"

    def folder(self, part: Part) -> pathlib.Path:
        """Where a part is."""
        return self.path / part.path

    def result(self, part: Part) -> PartResult | None:
        """The result of a finished part; `None` if it has to be made (again)."""
        path = self.folder(part) / _RESULT
        if not path.exists():
            return None
        try:
            held = _read_result(path)
            for name, expected in held["files"].items():
                _require(path.parent / name, expected)
            for name, expected in held["inputs"].items():
                other = self.path / name
                made = _read_result(other.parent / _RESULT)["files"].get(other.name)
                if made != expected:
                    raise ValueError(f"it was made from another '{name}'")
            return PartResult.from_json(held["result"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            warnings.warn(
                f"'{path.parent}' is damaged and will be made again: {error}",
                stacklevel=2,
            )
            return None

    def finish(
        self,
        result: PartResult,
        tickets: Mapping[str, Ticket],
        metrics: Mapping[str, Sequence[float]],
        inputs: Sequence[str],
    ) -> None:
        """Writes all of a part, its result last.

        Args:
            result: Of the part.
            tickets: File name to what it is to hold.
            metrics: Columns of `metrics.csv`.
            inputs: Files of other parts that it was made from, as paths inside the
                run's folder.
        """
        folder = self.folder(result.part)
        # An older result must not speak for files that are being replaced.
        (folder / _RESULT).unlink(missing_ok=True)
        for name, ticket in tickets.items():
            ticket.save(folder / name)
        text = io.StringIO()
        rows = csv.writer(text, lineterminator="\n")
        rows.writerow(metrics)
        rows.writerows(zip(*metrics.values(), strict=True))
        with atomic_path(folder / METRICS) as temporary:
            temporary.write_text(text.getvalue())
        files = {name: sha256(folder / name) for name in [*tickets, METRICS]}
        used = {name: sha256(self.path / name) for name in inputs}
        self._write(result, files, used)

    def amend(self, result: PartResult) -> None:
        """Writes a finished part's result anew, with a measurement added."""
        held = _read_result(self.folder(result.part) / _RESULT)
        self._write(result, held["files"], held["inputs"])

    def _write(self, result, files, inputs):
        values = {"result": result.as_json(), "files": files, "inputs": inputs}
        path = self.folder(result.part) / _RESULT
        write_json(path, {**values, "sha256": digest(values)})

    def ticket(self, part: Part, name: str = TICKET) -> Ticket:
        """What one of a part's `.npz` files holds.

        Raises:
            FileNotFoundError: If the part is not finished.
            ValueError: If the file is damaged.
        """
        return Ticket.load(self.folder(part) / name)

    def clear(self, part: Part) -> None:
        """Takes away what an unfinished or damaged part left."""
        folder = self.folder(part)
        for name in (_RESULT, TICKET, TRAINED, NEXT, METRICS):
            (folder / name).unlink(missing_ok=True)
        for leftover in folder.glob(".*.tmp*"):
            leftover.unlink(missing_ok=True)


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """What defines a run.

    Raises:
        ValueError: If the folder is not a run's.
    """
    try:
        return json.loads((pathlib.Path(path) / _CONFIG).read_text())
    except (OSError, ValueError) as error:
        raise ValueError(
            f"'{path}' is not the folder of a run: {error}. It is named like "
            "runs/mnist-lenet_300_100-1a2b3c4d5e."
        ) from error


def read_results(path: str | os.PathLike) -> list[PartResult]:
    """The results of all finished, sound parts of a run, in order.

    Raises:
        ValueError: If the folder is not a run's.
    """
    read_config(path)
    folder = RunFolder(path)
    results = []
    for file in sorted(folder.path.glob(f"seed_*/**/{_RESULT}")):
        try:
            part = PartResult.from_json(_read_result(file)["result"]).part
        except (OSError, ValueError, LookupError, TypeError) as error:
            warnings.warn(f"'{file}' is damaged and left out: {error}", stacklevel=2)
            continue
        if (result := folder.result(part)) is not None:
            results.append(result)
    return sorted(results, key=lambda result: result.part)


def read_metrics(path: str | os.PathLike, part: Part) -> dict[str, list[float]]:
    """Metrics of each evaluation of a part, by name.

    Raises:
        FileNotFoundError: If the part is not finished.
    """
    with open(RunFolder(path).folder(part) / METRICS, newline="") as file:
        header, *rows = csv.reader(file)
    columns = zip(*rows, strict=True)
    return {
        name: [int(v) if name == "iteration" else float(v) for v in column]
        for name, column in zip(header, columns, strict=True)
    }


def read_ticket(path: str | os.PathLike, part: Part) -> Ticket:
    """The masks of a part, and the weights it started from.

    Raises:
        FileNotFoundError: If the part is not finished.
        ValueError: If the file is damaged.
    """
    return RunFolder(path).ticket(part)


def sha256(path: str | os.PathLike) -> str:
    """Of a file's bytes, as hexadecimal digits."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def _require(path, expected):
    if not path.exists():
        raise ValueError(f"'{path.name}' is missing")
    if sha256(path) != expected:
        raise ValueError(f"'{path.name}' has another checksum than when it was written")


def _read_result(path):
    held = json.loads(path.read_text())
    values = {name: held[name] for name in ("result", "files", "inputs")}
    if digest(values) != held["sha256"]:
        raise ValueError(f"'{path.name}' has another checksum than when it was written")
    return values
