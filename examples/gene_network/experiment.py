"""Motif 9 pruned by three methods, over seeds: what is run, resumed and written."""

import dataclasses
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

from gene_network.pruning import MOTIF_9, Motif
from tfticket.common.arguments import check_integer, check_number
from tfticket.common.files import write_csv as write_rows
from tfticket.common.runs import RunFolder

METHODS = ("magnitude", "leave_one_out", "random")


@dataclasses.dataclass(frozen=True)
class MotifExperiment:
    """What one run is. Each seed fits a D of its own, and prunes under it.

    Args:
        seeds: How many, from 0 on. A folder takes more of them later.
        population: Of the search for D, in multiples of the number of genes.
        generations: Of that search, after the first.
        step: Of the integration.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If a value is out of range.
    """

    seeds: int = 20
    population: int = 20
    generations: int = 24
    step: float = 0.125

    def __post_init__(self):
        for name, least in (("seeds", 1), ("population", 1), ("generations", 0)):
            check_integer(name, getattr(self, name), least)
        check_number("step", self.step, above=0)


@dataclasses.dataclass(frozen=True)
class MotifResult:
    """One seed's D and curves.

    Args:
        seed: Of the search for D and of random pruning.
        drive: D, an integer a gene.
        removed: Method to (a, b) of the edges in the order in which they went.
        rewards: Method to rewards, unpruned first, then after each removal.
    """

    seed: int
    drive: list[int]
    removed: dict[str, list[list[int]]]
    rewards: dict[str, list[float]]

    def held(self, method: str, fraction: float) -> int:
        """Edges left before the reward first falls below that part of the unpruned."""
        rewards = self.rewards[method]
        below = (n for n, x in enumerate(rewards) if x < fraction * rewards[0])
        return len(rewards) - next(below, len(rewards)) + 1


def run(
    experiment: MotifExperiment,
    out_dir: str | os.PathLike,
    overwrite: bool = False,
    on_result: Callable[[MotifResult, int, int], None] | None = None,
) -> list[MotifResult]:
    """Runs the seeds that a folder lacks, and returns the results of all.

    Each finished seed is kept, so a stopped run resumes.

    Args:
        experiment: What to run.
        out_dir: Folder for `config.json` and a folder `seed_NNN` for each seed.
        overwrite: Whether another experiment's results in it may be replaced.
        on_result: Called with (result, seeds done, seeds in all) after each new one.

    Raises:
        RunInUseError: If another process works on the folder.
        FileExistsError: If the folder holds a run with other settings and `overwrite`
            is off, or files that are no run's.
    """
    folder = RunFolder(out_dir, ("seed_*",))
    motif = Motif(MOTIF_9, experiment.step)
    config = dataclasses.asdict(experiment)
    del config["seeds"]  # more of them, asked for later, are added
    config = {"motif": MOTIF_9.tolist(), **config}
    results = []
    with folder.opened(config, overwrite=overwrite):
        for seed in range(experiment.seeds):
            part = f"seed_{seed:03d}"
            result = folder.read(part, lambda values: MotifResult(**values))
            if result is None:
                result = _one(motif, experiment, seed)
                folder.write(part, dataclasses.asdict(result))
                if on_result is not None:
                    on_result(result, seed + 1, experiment.seeds)
            results.append(result)
    return results


def _one(motif, experiment, seed):
    drive = motif.fit_drive(seed, experiment.population, experiment.generations)
    removed = {
        m: [list(edge) for edge in motif.removal_order(m, drive, seed)] for m in METHODS
    }
    return MotifResult(
        seed=seed,
        drive=drive.tolist(),
        removed=removed,
        rewards={m: motif.along(removed[m], drive).tolist() for m in METHODS},
    )


def summary(results: Sequence[MotifResult]) -> list[dict[str, Any]]:
    """Mean, lowest and highest reward over the seeds, by edges kept and method.

    Returns:
        A dict a row, most edges first: `edges`, `sparsity` (the part of all entries
        of W that is zero), `method`, `seeds`, `mean`, `lowest`, `highest`.
    """
    edges = len(results[0].rewards[METHODS[0]])
    rows = []
    for number in range(edges):
        for method in METHODS:
            values = [result.rewards[method][number] for result in results]
            rows.append(
                {
                    "edges": edges - number,
                    "sparsity": 1 - (edges - number) / MOTIF_9.size,
                    "method": method,
                    "seeds": len(values),
                    "mean": statistics.mean(values),
                    "lowest": min(values),
                    "highest": max(values),
                }
            )
    return rows


def write_csv(results: Sequence[MotifResult], folder: str | os.PathLike) -> list[str]:
    """Writes `rewards.csv`, a row a network, and `summary.csv`; returns their paths.

    Genes are numbered from 1: `regulator` is what the removed edge came from,
    `target` what it went to; both are empty for the unpruned network.
    """
    networks = []
    for result in results:
        for method in METHODS:
            rewards = result.rewards[method]
            went = [None, *result.removed[method]]
            for number, (value, edge) in enumerate(zip(rewards, went, strict=True)):
                edges = len(rewards) - number
                networks.append(
                    {
                        "seed": result.seed,
                        "drive": " ".join(map(str, result.drive)),
                        "method": method,
                        "edges": edges,
                        "sparsity": 1 - edges / MOTIF_9.size,
                        "reward": value,
                        "regulator": edge and edge[1] + 1,
                        "target": edge and edge[0] + 1,
                    }
                )
    paths = []
    for name, rows in (("rewards", networks), ("summary", summary(results))):
        path = pathlib.Path(folder, f"{name}.csv")
        write_rows([{k: _short(v) for k, v in row.items()} for row in rows], path)
        paths.append(str(path))
    return paths


def _short(value):
    return f"{value:.6g}" if isinstance(value, float) else value
