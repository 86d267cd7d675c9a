"""`find_ticket`: one network, one data set, from dense to ticket."""

import contextlib
import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfticket import data
from tfticket.common.arguments import (
    check_bool,
    check_function,
    check_instance,
    check_integer,
    check_path,
    optional,
)
from tfticket.common.files import temporary_folder, write_json
from tfticket.common.runs import RESULT
from tfticket.lottery.engine.chains import MAIN, Chain, Setting
from tfticket.lottery.engine.run_folder import (
    TICKET,
    TRAINED,
    LotteryFolder,
    check_run,
    read_metrics,
)
from tfticket.lottery.engine.trainer import dataset_of
from tfticket.lottery.engine.worker import Worker
from tfticket.lottery.recipe import Recipe, fill_in
from tfticket.lottery.results import Part, PartResult
from tfticket.pruning.prune_strip import strip
from tfticket.tickets.rounds import RoundRecord, flat
from tfticket.tickets.ticket import Ticket, zero_masked


@dataclasses.dataclass(frozen=True)
class Experiment(Recipe):
    """What defines a run of `find_ticket`: the same values give the same ticket.

    Args:
        iterations: As for `Recipe`. Default, without `epochs`: 1000.
        epochs: The same in passes over the training images; give one of the two.
            Validation is then once an epoch, unless `evaluate_every` says otherwise.
        rounds: Number of prunings; there are `rounds + 1` trainings.
        seed: Seed of initialisation and data order, below 2**32.

    The other fields are those of `Recipe`.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If a value is out of range.

    Example:

    >>> Experiment(rounds=3, rate=0.3).iterations
    1000
    """

    iterations: int | None = None  # type: ignore[assignment]
    epochs: int | None = None
    rounds: int = 12
    seed: int = 0

    def __post_init__(self):
        fill_in(
            self,
            rounds=check_integer("rounds", self.rounds, 1),
            seed=check_integer("seed", self.seed, 0, 2**32 - 1),
        )
        super().__post_init__()

    def _check_steps(self):
        if self.schedule == "cosine" and self.rewind_to is None:
            raise ValueError(
                "schedule='cosine' ends with the first round, and without rewinding "
                "the optimizer goes on through all of them as in one fit. Use "
                "rewind_to=0, or a LotteryExperiment, whose rounds begin anew."
            )
        if self.epochs is None:
            if self.iterations is None:
                fill_in(self, iterations=1000)
            super()._check_steps()
            return
        fill_in(self, epochs=check_integer("epochs", self.epochs, 1))
        if self.evaluate_every is not None:
            check_integer("evaluate_every", self.evaluate_every, 1)
        if self.iterations is not None:
            raise ValueError(
                "Give one of iterations and epochs, not both. Received: "
                f"iterations={self.iterations}, epochs={self.epochs}"
            )

    def in_steps(self, images: int) -> "Experiment":
        """The same experiment with `epochs` worked out to `iterations`.

        Args:
            images: Number of training images.

        Raises:
            ValueError: If a batch is larger than that, or steps don't fit.
        """
        images = check_integer("images", images, 1)
        if self.batch_size > images:
            raise ValueError(
                f"batch_size={self.batch_size} is more than the {images} training "
                f"images of '{self.dataset}'."
            )
        if self.epochs is None:
            return self
        steps = images // self.batch_size
        return dataclasses.replace(
            self,
            iterations=self.epochs * steps,
            epochs=None,
            evaluate_every=self.evaluate_every or steps,
        )


@dataclasses.dataclass(frozen=True)
class Found:
    """What `find_ticket` found.

    Args:
        experiment: The experiment that ran.
        records: One for each round.
        ticket: The last round's ticket.
        model: The last round's trained model, stripped: plain Keras.
        dataset: The data it was trained and tested on.
        compiled: The compile settings that were chosen.
    """

    experiment: Experiment
    records: Sequence[RoundRecord]
    ticket: Ticket
    model: keras.Model
    dataset: data.Dataset
    compiled: dict[str, Any]


def find_ticket(
    experiment: Experiment,
    out_dir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
    overwrite: bool = False,
    checkpoint_seconds: float | None = 60.0,
    on_start: Callable[[data.Dataset, keras.Model, dict[str, Any]], None] | None = None,
    on_part: Callable[[PartResult, int, int, bool], None] | None = None,
    on_evaluation: Callable[[Part, int, int], None] | None = None,
    strategy: str = "none",
) -> Found:
    """Runs iterative magnitude pruning with rewinding (arXiv 1803.03635).

    Rounds follow each other as in one `fit` with `IterativeMagnitudePruning`, which
    finds the same ticket; with `rewind_to=K` it does so with
    `rewind_clock="restart"`. A run that was stopped goes on where it was, and what is
    finished is not trained again.

    The seed decides the ticket: on one machine, the same bits. On a CPU that
    holds by itself. Where there is a GPU, TensorFlow's deterministic operations
    are switched on for the process, which Keras can't combine with XLA.

    Args:
        experiment: What to run.
        out_dir: Folder for `config.json`, `rounds.json`, `ticket.npz` and
            `tickets/round_NN.npz`, each written as soon as it is known, and for the
            trainings in `seed_N`. `None` keeps nothing.
        data_dir: Directory of TFDS data.
        download: Whether TFDS may download.
        overwrite: Whether another experiment's run in `out_dir` may be replaced; other
            files there stay.
        checkpoint_seconds: Least time between two checkpoints of a training;
            `None` writes none, and a training that is cut off begins again.
        on_start: Called with (dataset, wrapped model, compile settings) before
            training.
        on_part: Called after each round with (result, rounds done, rounds in all,
            whether it was missing).
        on_evaluation: Called with (part, steps done, steps in all) as a training goes
            on.
        strategy: Which devices share a batch, of `tfticket.devices`. More than one give
            the same ticket up to rounding.

    Raises:
        RunInUseError: If another process works on `out_dir`.
        FileExistsError: If `out_dir` holds another run and `overwrite` is off,
            or files that are no run's.
        ValueError: If the data set can't be loaded or does not fit the model.

    Example:

    >>> experiment = tfticket.lottery.Experiment(rounds=1, iterations=50)
    >>> found = tfticket.lottery.find_ticket(experiment)
    >>> round(found.ticket.density, 3)
    0.802
    """
    check_instance(
        "experiment", experiment, Experiment, "a tfticket.lottery.Experiment"
    )
    optional(check_path, "out_dir", out_dir)
    check_bool("overwrite", overwrite)
    check_run(checkpoint_seconds, on_part, on_evaluation, strategy)
    optional(check_function, "on_start", on_start, "dataset", "model", "settings")
    dataset = dataset_of(experiment, data_dir, download)
    experiment = experiment.in_steps(len(dataset.train[1]))
    chain = Chain(experiment.seed, MAIN, 0, tuple(range(experiment.rounds + 1)))
    with contextlib.ExitStack() as stack:
        if out_dir is None:
            out_dir = stack.enter_context(temporary_folder())
        folder = LotteryFolder(out_dir, _RESULTS)
        setting = Setting(
            recipe=experiment,
            rounds=experiment.rounds,
            stops=(experiment.rewind_to,) if experiment.rewind_to else (),
            folder=str(folder.path.absolute()),
            checkpoint_seconds=checkpoint_seconds,
            dataset=dataset,
            strategy=strategy,
            as_one_fit=True,
        )
        worker = Worker(setting, on_evaluation)
        trainer = worker.check()
        identity = dataclasses.asdict(experiment)
        opened = folder.opened(identity, overwrite=overwrite, older=_older(experiment))
        stack.enter_context(opened)
        if on_start is not None:
            on_start(dataset, trainer.model, trainer.compiled)
        tickets = _Tickets(folder, experiment, worker)

        def count(result, fresh):
            tickets.add(result)
            if on_part is not None:
                on_part(result, len(tickets.records), len(chain.rounds), fresh)

        worker.run(chain, count)
        trainer.put(folder.ticket(chain.parts[-1], TRAINED))
    # Outside of the strategy's scope: it has one copy, wherever it was trained.
    return Found(
        experiment,
        tickets.records,
        tickets.last,
        strip(trainer.model),
        dataset,
        trainer.compiled,
    )


EXPORTING = ".exporting.json"
"""What `tfticket find` was exporting when it was killed."""

_RESULTS = (
    *("rounds.json", "ticket.npz", "plot.png", "tickets/round_*.npz"),
    EXPORTING,
)


class _Tickets:
    """What a run writes for its user, made of its parts."""

    def __init__(self, folder, experiment, worker):
        self._folder, self._experiment, self._worker = folder, experiment, worker
        self.records: list[RoundRecord] = []
        self.last: Any = None

    def add(self, result: PartResult) -> None:
        """Writes a round's ticket, and the records up to it."""
        part, path = result.part, self._folder.path
        record = _record(result, read_metrics(path, part), self._first_step(part.round))
        self.records.append(record)
        self.last = self._ticket(part, record)
        self.last.save(path / "tickets" / f"round_{part.round:02d}.npz")
        after = dataclasses.replace(part, round=part.round + 1)
        if (self._folder.folder(after) / RESULT).exists():
            return  # they hold a later round, of before this run was stopped
        self.last.save(path / "ticket.npz")
        write_json(path / "rounds.json", [dataclasses.asdict(r) for r in self.records])

    def _first_step(self, number):
        """The optimizer's iteration where that of a round is 0."""
        rewind_to = self._experiment.rewind_to
        if rewind_to is None:
            return number * self._experiment.iterations
        restarts = self._experiment.rewind_clock == "restart"
        return rewind_to if number and restarts else 0

    def _ticket(self, part, record):
        """The masks of a round, and the weights that training goes on from."""
        rewind_to = self._experiment.rewind_to
        ticket = self._folder.ticket(part, TICKET)
        weights = ticket.weights
        if rewind_to is None:
            weights = self._folder.ticket(part, TRAINED).weights
        elif rewind_to and part.round == 0:
            weights = self._worker.prefix(part.seed, rewind_to)["weights"]
        return Ticket(
            ticket.masks,
            zero_masked(weights, ticket.masks),
            {**ticket.provenance, "metrics": flat(record)},
        )


# Fields that a run of before does not tell, and what it did.
_LATER = (
    *("l2", "momentum", "nesterov", "schedule"),
    *("exclude", "rates", "rewind_clock"),
    *("normalize", "train_size", "label_noise", "data_seed", "same_order", "dropout"),
)


def _older(experiment):
    """What a run of before had where its `config.json` tells nothing."""
    values = {f.name: f.default for f in dataclasses.fields(experiment)}
    found = {name: values[name] for name in _LATER}
    if not experiment.is_calibrated:  # or another run: it had other images
        found["calibration"] = experiment.calibration
    if experiment.rewind_to:
        found["rewind_clock"] = "restart"
    else:  # of no meaning then
        found["rewind_clock"] = experiment.rewind_clock
    return found


def _record(result, metrics, first):
    best = metrics["iteration"].index(result.early_stop_iteration)

    def logs(number):
        return {k: v[number] for k, v in metrics.items() if k != "iteration"}

    return RoundRecord(
        round=result.part.round,
        density=result.density,
        parameters=result.parameters,
        iteration=first + result.iterations,
        best_iteration=first + result.early_stop_iteration,
        logs=logs(-1),
        best_logs=logs(best),
        test=result.test,
        best_test=result.early_stop_test,
    )
