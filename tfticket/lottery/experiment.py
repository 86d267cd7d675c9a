"""`LotteryExperiment`: rounds, controls and replicates of one recipe."""

import dataclasses
import functools
import hashlib
import importlib
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_function,
    check_instance,
    check_integer,
    check_list,
    check_path,
    optional,
    shown,
)
from tfticket.common.checksums import digest
from tfticket.data import Dataset
from tfticket.lottery.engine import runners, together
from tfticket.lottery.engine.branches import Branch
from tfticket.lottery.engine.chains import (
    MAIN,
    Callbacks,
    Chain,
    Setting,
    check_callbacks,
)
from tfticket.lottery.engine.processes import check_can_be_sent, check_processes
from tfticket.lottery.engine.run_folder import LotteryFolder, check_run
from tfticket.lottery.engine.trainer import Builder
from tfticket.lottery.engine.worker import Worker
from tfticket.lottery.measures.adversarial import parse_attack
from tfticket.lottery.presets import PRESETS
from tfticket.lottery.recipe import Recipe, fill_in
from tfticket.lottery.results import Part, PartResult


@dataclasses.dataclass(frozen=True, eq=False)
class LotteryExperiment:
    """Finds tickets of a recipe and trains them beside their controls.

    A run has a folder named by its recipe. More rounds, replicates, branches, copies
    or measurements asked of it later are added to what it has: a finished training is
    never done twice. On a CPU, the seed decides every ticket bit for bit, also where
    the run was killed and resumed.

    Args:
        recipe: How the network is trained and pruned.
        rounds: Number of prunings; a replicate has `rounds + 1` trainings.
        replicates: Repetitions, each with an initialisation and a data order of its
            own.
        seed: Seed of the first replicate; the next has the next.
        branches: Controls, as `tfticket.lottery.Branch` reads them.
        branch_rounds: Rounds whose tickets the controls start from. Default: all but
            the dense one, which `stability:K` is about.
        copies: Number of draws per replicate of each control that is drawn at random.
        attacks: Attacks to measure test accuracy under: `"fgsm:0.1"` or `"pgd:0.1"`.
            The number is the largest change of a pixel, in [0, 1].
        build: Makes the network from (image shape, classes), instead of
            `recipe.model`. It counts by its name and by the network that it makes.
        dataset: The data, instead of `recipe.dataset`. It counts by its values.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If a value is out of range.

    Example:

    >>> recipe = tfticket.lottery.Recipe(iterations=50)
    >>> experiment = tfticket.lottery.LotteryExperiment(recipe, rounds=1)
    >>> results = experiment.run(folder)
    >>> [round(result.density, 3) for result in results]
    [1.0, 0.802]
    """

    recipe: Recipe = dataclasses.field(default_factory=Recipe)
    rounds: int = 12
    replicates: int = 1
    seed: int = 0
    branches: Sequence[str] = ()
    branch_rounds: Sequence[int] | None = None
    copies: int = 1
    attacks: Sequence[str] = ()
    build: Builder | None = None
    dataset: Dataset | None = None

    def __post_init__(self):
        check_instance("recipe", self.recipe, Recipe, "a tfticket.lottery.Recipe")
        for name in ("rounds", "replicates", "copies"):
            fill_in(self, **{name: check_integer(name, getattr(self, name), 1)})
        last = 2**32 - self.replicates
        fill_in(self, seed=check_integer("seed", self.seed, 0, last))
        for name in ("branches", "attacks"):
            values = getattr(self, name)
            values = check_list(name, values, "a list of texts")
            for value in values:
                check_instance(name, value, str, "a list of texts")
            if name == "branches":
                values = [str(Branch.parse(value)) for value in values]
            fill_in(self, **{name: tuple(dict.fromkeys(values))})
        if self.dataset is not None:
            check_instance("dataset", self.dataset, Dataset, "a tfticket.data.Dataset")
            self._check_own_data()
        optional(check_function, "build", self.build, "image shape", "classes")
        if self.build is not None and self.recipe.dropout:
            raise ValueError(
                "dropout is for networks of tfticket.models, and build is given. Let "
                "it make keras.layers.Dropout. "
                f"Received: dropout={self.recipe.dropout}"
            )
        for attack in self.attacks:
            parse_attack(attack)
        self._check_branches()

    def _check_own_data(self):
        for name in ("normalize", "train_size", "label_noise", "data_seed"):
            value = getattr(self.recipe, name)
            if value != getattr(Recipe, name):
                raise ValueError(
                    f"{name} is for data that is loaded by name, and dataset is given. "
                    "Pass tfticket.data.load(...) what it is to be like. "
                    f"Received: {name}={value!r}"
                )

    def _check_branches(self):
        rounds = self.branch_rounds
        if rounds is None:
            rounds = range(1, self.rounds + 1)
        rounds = check_list("branch_rounds", rounds, "a list of rounds")
        rounds = {check_integer("branch_rounds", n, 1, self.rounds) for n in rounds}
        fill_in(self, branch_rounds=tuple(sorted(rounds)))
        for branch in self._branches:
            self._check_step(branch)
            if branch.kind == "small_dense" and self.build is not None:
                raise ValueError(
                    "Branch 'small_dense' makes a network of tfticket.models narrower, "
                    "and can't do so with build. Leave one of the two out."
                )

    def _check_step(self, branch):
        """Refuses a step of the dense training that a branch can't begin at."""
        if branch.step is not None and branch.step >= self.recipe.iterations:
            raise ValueError(
                f"Branch '{branch}' is not before the end of a training of "
                f"iterations={self.recipe.iterations}."
            )
        if branch.step and self.recipe.averages_weights:
            raise ValueError(
                f"Branch '{branch}' can't go on from a step of an optimizer with "
                "use_ema=True, which replaces weights by their average there."
            )
        if branch.is_of_dense and branch.step != self.recipe.begins_at(branch.step):
            raise ValueError(
                f"Branch '{branch}' goes on with the dense training, which needs "
                "rewind_clock='continue'. "
                f"Received: rewind_clock={self.recipe.rewind_clock!r}"
            )

    @classmethod
    def preset(cls, name: str, **more: Any) -> "LotteryExperiment":
        """An experiment of the papers: its recipe, and as many rounds as it takes.

        Args:
            name: A name of `tfticket.lottery.PRESETS`.
            more: Further arguments, `replicates` and `branches` for example.

        Raises:
            TypeError: If a value is of the wrong type, or `recipe` is given besides.
            ValueError: If there is none of that name, or a value is out of range.

        Example:

        >>> experiment = LotteryExperiment.preset("lenet_mnist", replicates=5)
        >>> experiment.rounds, experiment.recipe.iterations
        (16, 50000)
        """
        recipe = Recipe.preset(name)
        return cls(recipe, **{"rounds": PRESETS[name]["rounds"], **more})

    @property
    def _branches(self):
        return [Branch.parse(text) for text in self.branches]

    @property
    def seeds(self) -> range:
        """Of the replicates."""
        return range(self.seed, self.seed + self.replicates)

    @property
    def identity(self) -> dict[str, Any]:
        """What defines the run, JSON-ready: what is not as by default."""
        identity: dict[str, Any] = self.recipe.differences()
        if self.recipe.is_calibrated:
            # Until 0.1.0 all replicates had the first 1,000 images.
            identity["calibration"] = self.recipe.calibration
        if self.build is not None:
            name = getattr(self.build, "__qualname__", type(self.build).__qualname__)
            identity["build"] = name
        if self.dataset is not None:
            parts = (self.dataset.train, self.dataset.validation, self.dataset.test)
            identity["dataset"] = self.dataset.name
            identity["data"] = digest(
                [
                    hashlib.sha256(np.ascontiguousarray(values)).hexdigest()
                    for part in parts
                    for values in part
                ]
            )
        return identity

    @property
    def name(self) -> str:
        """Name of the run's folder: data, network and a hash of what defines it."""
        data = self.recipe.dataset if self.dataset is None else self.dataset.name
        model = self.recipe.model if self.build is None else self.identity["build"]
        return f"{data}-{model}-{digest(self.identity)[:10]}"

    def chains(self) -> list[Chain]:
        """All trainings, in an order in which each comes after what it needs."""
        chains = []
        for seed in self.seeds:
            chains.append(Chain(seed, MAIN, 0, tuple(range(self.rounds + 1))))
            for branch in self._branches:
                rounds = (0,) if branch.is_of_dense else self.branch_rounds
                for copy in range(self.copies if branch.is_random else 1):
                    chains.append(Chain(seed, str(branch), copy, rounds))
        return chains

    def parts(self) -> list[Part]:
        """All trainings one by one, in that order."""
        return [part for chain in self.chains() for part in chain.parts]

    def run(
        self,
        runs_dir: str | os.PathLike = "runs",
        data_dir: str | os.PathLike | None = None,
        download: bool = True,
        runner: str = "local",
        checkpoint_seconds: float | None = 60.0,
        on_part: Callable[[PartResult, int, int, bool], None] | None = None,
        on_evaluation: Callable[[Part, int, int], None] | None = None,
        strategy: str = "none",
        callbacks: Callbacks = (),
        processes: int | str | None = None,
    ) -> list[PartResult]:
        """Does what is missing, and returns the results of all that was asked for.

        Args:
            runs_dir: Folder that the run's folder is in.
            data_dir: Directory of TFDS data.
            download: Whether TFDS may download.
            runner: `"local"`; `"vmap"` for one program of JAX that trains replicates
                and controls at once, with the same results up to rounding and without
                checkpoints; or `"ray"` for a Ray cluster, all of whose machines see
                `runs_dir`.
            checkpoint_seconds: Least time between two checkpoints of a training;
                `None` writes none, and a training that is cut off begins again.
            on_part: Called with (result, parts done, parts in all, whether it was
                missing).
            on_evaluation: Called with (part, steps done, steps in all) as a training
                goes on; not with `"ray"` and `"vmap"`.
            strategy: Which devices of a machine share a batch, of `tfticket.devices`.
                More than one give the same up to rounding, into the same folder.
            callbacks: Keras callbacks for every training that is missing, such as
                `keras.callbacks.TensorBoard`: a list, or a function of (part) that
                returns one. They are for watching: they don't count for what defines
                the run, so one that changes the training makes it another's. With
                `"ray"` and with `processes` they are pickled.
            processes: How many trainings run side by side, each in a process with one
                thread: a number up to the cores, or `"auto"` for all of them. `None`
                trains in this process, with TensorFlow's own threads. Any number gives
                the same bits, which are those of `None` too if TensorFlow has one
                thread, or the network no convolutions.

        Raises:
            RunInUseError: If another process works on the folder.
            WorkerDiedError: If a process dies; names its part and exit code.
            FileExistsError: If the folder holds files that are no run's, or parts of
                another clock, of a version before `rewind_clock`.
            ValueError: If the data can't be loaded, or something does not fit; before
                any training.
            ImportError: If Ray is asked for and not installed.
        """
        check_choice("runner", runner, runners.RUNNERS)
        check_bool("download", download)
        check_run(checkpoint_seconds, on_part, on_evaluation, strategy)
        optional(check_path, "data_dir", data_dir)
        if callable(callbacks):
            check_function("callbacks", callbacks, "part")
        else:
            callbacks = tuple(check_callbacks(callbacks))
        if runner == "vmap":
            together.check(self.recipe, strategy, callbacks)
        elif runner != "local" and callbacks:
            _check_pickles(callbacks, runner)
        count_of = self._check_processes(processes, runner, strategy, callbacks)
        folder = LotteryFolder(check_path("runs_dir", runs_dir) / self.name)
        setting = Setting(
            recipe=self.recipe,
            rounds=self.rounds,
            stops=self._stops(),
            folder=str(folder.path.absolute()),
            data_dir=None if data_dir is None else str(data_dir),
            download=download,
            checkpoint_seconds=checkpoint_seconds,
            attacks=tuple(self.attacks),
            build=self.build,
            dataset=self.dataset,
            strategy=strategy,
            callbacks=callbacks,
        )
        worker = Worker(setting, on_evaluation)
        trainer = worker.check()
        self._check_data(worker, trainer.dataset)
        parts, results = self.parts(), {}

        def count(result, fresh):
            results[result.part] = result
            if on_part is not None:
                on_part(result, len(results), len(parts), fresh)

        about = {
            "recipe": dataclasses.asdict(self.recipe),
            "data": trainer.dataset.describe(),
            "compiled": trainer.compiled,
        }
        with folder.opened({"identity": self.identity}, about, named=True):
            self._check_clock(folder)
            run: Any = runners.RUNNERS[runner]
            if count_of is not None:
                run = functools.partial(
                    runners.run_processes,
                    processes=count_of,
                    on_evaluation=on_evaluation,
                )
            run(setting, self.chains(), worker, count)
        return [results[part] for part in parts]

    def _check_clock(self, folder):
        """Refuses late rewinding of a version that knew one clock, which began at 0."""
        if self.recipe.rewind_clock != "continue":
            return
        late = [part for part in self.parts() if part.branch.startswith("late_rewind:")]
        for part in late:
            result = folder.result(part)
            if result is not None and result.first_iteration is None:
                raise FileExistsError(
                    f"'{folder.folder(part)}' is of an older version, whose late "
                    "rewinding counted from 0 and trained longer than the dense "
                    "network. It is left as it is. To train the control as it is now, "
                    f"move '{folder.folder(part).parent.parent}' out of the run, or "
                    "choose another runs_dir (--runs_dir)."
                )

    def _check_processes(self, processes, runner, strategy, callbacks):
        """How many there are to be; `None` for none."""
        count = check_processes(processes)
        for name, value, wanted in (
            ("runner", runner, "local"),
            ("strategy", strategy, "none"),
        ):
            if count is not None and value != wanted:
                raise ValueError(
                    f"processes is for {name}={wanted!r}. Received: "
                    f"processes={processes!r}, {name}={value!r}"
                )
        if count is not None:
            check_can_be_sent("build", self.build)
            check_can_be_sent("callbacks", callbacks)
        return count

    def _stops(self):
        steps = {branch.step or 0 for branch in self._branches}
        return tuple(sorted({*steps, self.recipe.rewind_to or 0} - {0}))

    def _check_data(self, worker, own):
        for branch in self._branches:
            if branch.kind != "transfer":
                continue
            other = worker.dataset(branch.value)
            if (other.image_shape, other.classes) != (own.image_shape, own.classes):
                raise ValueError(
                    f"Branch '{branch}' moves tickets to images of {other.image_shape} "
                    f"in {other.classes} classes, and those of '{own.name}' are "
                    f"{own.image_shape} in {own.classes}. They must be the same."
                )


def _check_pickles(callbacks, runner):
    """Refuses callbacks that can't go to another process, before any training."""
    try:
        pickler: Any = importlib.import_module("ray.cloudpickle")
    except ImportError:
        return  # the runner says what is missing
    try:
        pickler.loads(pickler.dumps(callbacks))
    except Exception as error:
        raise TypeError(
            f"callbacks can't be pickled, which runner='{runner}' needs: {error}. Pass "
            "a function of (part) that makes them where they are used. "
            f"Received: callbacks={shown(callbacks)}"
        ) from error
