"""`Chain`: trainings that follow from each other; `Setting`: all a worker must know."""

import dataclasses

from tfticket import data
from tfticket.lottery.engine.trainer import Builder
from tfticket.lottery.recipe import Recipe
from tfticket.lottery.results import Part

MAIN = "ticket"


@dataclasses.dataclass(frozen=True)
class Chain:
    """The trainings of one replicate and branch, which one process does in order.

    Args:
        seed: Seed of the replicate.
        branch: `"ticket"`, or a control as text.
        copy: Number of the control's copy.
        rounds: Which rounds.
    """

    seed: int
    branch: str
    copy: int
    rounds: tuple[int, ...]

    @property
    def parts(self) -> list[Part]:
        """A part for each round."""
        return [Part(self.seed, self.branch, self.copy, r) for r in self.rounds]


@dataclasses.dataclass(frozen=True)
class Setting:
    """What a worker has to know, on whatever machine it is.

    Args:
        recipe: Recipe of the experiment.
        rounds: Last round of the main chain.
        stops: Steps of the dense training that something is rewound to.
        folder: Folder of the run.
        data_dir: Directory of TFDS data.
        download: Whether TFDS may download.
        checkpoint_seconds: Least time between two checkpoints of a training.
        attacks: To measure accuracy under, as `LotteryExperiment` reads them.
        build: The network's builder, if not one of `tfticket.models`.
        dataset: The data, if not to be loaded by name.
        strategy: Which devices of the machine share a batch, of `tfticket.devices`.
        as_one_fit: Whether rounds follow each other as in one `fit`: the order of the
            data goes on, and without rewinding so does the optimizer.
    """

    recipe: Recipe
    rounds: int
    stops: tuple[int, ...]
    folder: str
    data_dir: str | None = None
    download: bool = True
    checkpoint_seconds: float | None = 60.0
    attacks: tuple[str, ...] = ()
    build: Builder | None = None
    dataset: data.Dataset | None = None
    strategy: str = "none"
    as_one_fit: bool = False
