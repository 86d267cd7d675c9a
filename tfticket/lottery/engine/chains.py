"""`Chain`: trainings that follow from each other; `Setting`: all a worker must know."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import keras

from tfticket import data
from tfticket.common.arguments import check_instance, check_list
from tfticket.lottery.engine.trainer import Builder
from tfticket.lottery.recipe import Recipe
from tfticket.lottery.results import Part

MAIN = "ticket"
# What `fit` calls besides, the same for every training or made for each.
_List: TypeAlias = Sequence[keras.callbacks.Callback]
Callbacks: TypeAlias = _List | Callable[[Part], _List]


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

    def __str__(self):
        return ", ".join(str(part.path) for part in self.parts)

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
        callbacks: Further callbacks of every `fit`, which decide nothing.
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
    # Not compared: a copy of them, in another process, is no other setting.
    callbacks: Callbacks = dataclasses.field(default=(), compare=False)


def check_callbacks(callbacks: Any) -> list[keras.callbacks.Callback]:
    """The callbacks of a list.

    Raises:
        TypeError: If it is no list, or holds anything else.
    """
    wanted = "a list of keras.callbacks.Callback, or a function of (part) that gives it"
    for callback in (found := check_list("callbacks", callbacks, wanted)):
        check_instance("callbacks", callback, keras.callbacks.Callback, wanted)
    return found
