"""`LotteryFolder`: the parts of a lottery experiment on disk, and readers of them."""

import csv
import functools
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfticket.common import runs
from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_function,
    check_instance,
    check_number,
    check_path,
    optional,
)
from tfticket.common.files import DAMAGE, write_csv
from tfticket.common.runs import RESULT, RunFolder
from tfticket.devices import STRATEGIES
from tfticket.lottery.results import Part, PartResult
from tfticket.tickets.ticket import Ticket

TICKET, TRAINED, NEXT, OPTIMIZER, METRICS = (
    "ticket.npz",
    "trained.npz",
    "next_masks.npz",
    "optimizer.npz",
    "metrics.csv",
)


def check_run(
    checkpoint_seconds: float | None, on_part: Any, on_evaluation: Any, strategy: str
) -> None:
    """The arguments that all experiments have in common, before anything is loaded."""
    optional(check_number, "checkpoint_seconds", checkpoint_seconds, 0)
    optional(check_function, "on_part", on_part, "result", "done", "total", "fresh")
    optional(check_function, "on_evaluation", on_evaluation, "part", "done", "total")
    check_choice("strategy", strategy, STRATEGIES)


class LotteryFolder(RunFolder):
    """A run's folder whose parts are of a lottery experiment.

    Args:
        path: The folder.
        results: Names or patterns of what a run writes there beside its parts.
    """

    def __init__(self, path: str | os.PathLike, results: Sequence[str] = ()):
        super().__init__(path, ("seed_*", *results))

    def folder(self, part: Part) -> pathlib.Path:
        """Where a part is."""
        return self.path / part.path

    def result(self, part: Part) -> PartResult | None:
        """The result of a finished part; `None` if it has to be made (again)."""
        return self._result(part.path)

    def results(self) -> list[PartResult]:
        """The results of all finished, sound parts, in order."""
        files = self.path.glob(f"seed_*/**/{RESULT}")
        found = [self._result(f.parent.relative_to(self.path)) for f in files]
        return sorted((r for r in found if r is not None), key=lambda r: r.part)

    def _result(self, where):
        def parse(values):
            result = PartResult.from_json(values)
            # Parts of before say whose they are only here.
            if result.part.path != pathlib.PurePosixPath(where):
                raise ValueError(f"it is the part '{result.part.path}', copied here")
            return result

        return self.read(where, parse)

    def finish(
        self,
        result: PartResult,
        tickets: Mapping[str, Ticket],
        metrics: Mapping[str, Sequence[float]],
        inputs: Sequence[str],
    ) -> None:
        """Writes all of a part, its result last.

        Args:
            result: Result of the part.
            tickets: File name to what it is to hold.
            metrics: Columns of `metrics.csv`.
            inputs: Files of other parts that it was made from, as paths inside the
                run's folder.
        """
        values = zip(*metrics.values(), strict=True)
        rows = [dict(zip(metrics, row, strict=True)) for row in values]
        files = {name: ticket.save for name, ticket in tickets.items()}
        files[METRICS] = functools.partial(write_csv, rows)
        self.write(result.part.path, result.as_json(), files, inputs)

    def ticket(self, part: Part, name: str = TICKET) -> Ticket:
        """What one of a part's `.npz` files holds.

        Raises:
            FileNotFoundError: If the part is not finished.
            ValueError: If the file is damaged.
        """
        return Ticket.load(self.folder(part) / name)


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """What defines a run.

    Raises:
        ValueError: If the folder is not a run's.
    """
    check_path("path", path)
    try:
        return runs.read_config(path)
    except DAMAGE as error:
        raise ValueError(
            f"path: '{path}' is not the folder of a run: {error}. It is named like "
            "runs/mnist-lenet_300_100-1a2b3c4d5e."
        ) from error


def read_results(path: str | os.PathLike) -> list[PartResult]:
    """The results of all finished, sound parts of a run, in order.

    Raises:
        ValueError: If the folder is not a run's.
    """
    read_config(path)
    return LotteryFolder(path).results()


def read_metrics(path: str | os.PathLike, part: Part) -> dict[str, list[float]]:
    """Metrics of each evaluation of a part, by name.

    Raises:
        FileNotFoundError: If the part is not finished.
        ValueError: If the file is damaged.
    """
    check_path("path", path)
    check_instance("part", part, Part, "a tfticket.lottery.Part")
    with open(LotteryFolder(path).file(part.path, METRICS), newline="") as file:
        header, *rows = csv.reader(file)
    columns = zip(*rows, strict=True)
    return {
        name: [int(v) if name == "iteration" else float(v) for v in column]
        for name, column in zip(header, columns, strict=True)
    }


def read_ticket(path: str | os.PathLike, part: Part, trained: bool = False) -> Ticket:
    """The masks of a part, and the weights that it started from.

    Args:
        path: Folder of the run.
        part: The part.
        trained: Whether to read the weights that it ended with instead. Such a ticket
            has no provenance.

    Raises:
        FileNotFoundError: If the part is not finished.
        ValueError: If the file is damaged.
    """
    check_path("path", path)
    check_instance("part", part, Part, "a tfticket.lottery.Part")
    name = TRAINED if check_bool("trained", trained) else TICKET
    return LotteryFolder(path).ticket(part, name)
