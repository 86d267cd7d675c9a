"""The lottery-ticket experiment: one network, one data set, from dense to ticket."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfticket import data, devices, models
from tfticket.common.files import write_json
from tfticket.common.runs import CONFIG, held_config, versions
from tfticket.pruning.prune_strip import prune, strip
from tfticket.tickets.iterative import IterativeMagnitudePruning
from tfticket.tickets.rounds import RoundRecord
from tfticket.tickets.ticket import Ticket

_FILES = (CONFIG, "rounds.json", "ticket.npz", "plot.png")


@dataclasses.dataclass(frozen=True)
class Experiment:
    """What defines a run: the same values give the same ticket, bit for bit.

    Args:
        dataset: Name for `tfticket.data.load`.
        model: Name of one of `tfticket.models.MODELS`.
        rounds: How many times to prune; `rounds + 1` trainings.
        rate: Fraction of the survivors pruned after a round, in (0, 1).
        output_rate: The same for the output layer; `None` is `rate / 2`.
        scope: `"layerwise"` or `"global"`.
        rewind_to: Step to rewind to; 0 is the initial weights, `None` no
            rewinding (prune and fine-tune).
        criterion: Name of one of `tfticket.criteria`.
        iterations: Training steps in a round. Default, without `epochs`: 1000.
        epochs: The same in passes over the training images; give one of the two.
        evaluate_every: Steps from one validation to the next; must divide
            `iterations`. Default: 10, or one epoch where `epochs` is given.
        batch_size: Images a step.
        learning_rate: Adam's. `None` is the paper's for the model.
        seed: Of initialisation and data order.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If a value is out of range.
    """

    dataset: str = data.EMBEDDED
    model: str = "lenet_300_100"
    rounds: int = 12
    rate: float = 0.2
    output_rate: float | None = None
    scope: str = "layerwise"
    rewind_to: int | None = 0
    criterion: str = "magnitude"
    iterations: int | None = None
    epochs: int | None = None
    evaluate_every: int | None = None
    batch_size: int = models.BATCH_SIZE
    learning_rate: float | None = None
    seed: int = 0

    def __post_init__(self):
        if self.model not in models.MODELS:
            raise ValueError(
                f"model must be one of {sorted(models.MODELS)}. "
                f"Received: model={self.model!r}"
            )
        if self.iterations is not None and self.epochs is not None:
            raise ValueError(
                "Give one of iterations and epochs, not both. Received: "
                f"iterations={self.iterations}, epochs={self.epochs}"
            )
        if self.iterations is None and self.epochs is None:
            object.__setattr__(self, "iterations", 1000)
        if self.evaluate_every is None and self.epochs is None:
            object.__setattr__(self, "evaluate_every", min(10, self.iterations))
        for name in ("iterations", "epochs", "evaluate_every", "batch_size"):
            value = getattr(self, name)
            if value is None:
                continue
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(
                    f"{name} must be an integer of 1 or more. Received: {name}={value}"
                )
        if isinstance(self.seed, bool) or not isinstance(self.seed, int):
            raise TypeError(f"seed must be an integer. Received: seed={self.seed!r}")
        if not 0 <= self.seed < 2**32:
            raise ValueError(
                f"seed must be between 0 and 2**32 - 1. Received: seed={self.seed}"
            )
        if self.learning_rate is None:
            rate = models.LEARNING_RATES[self.model]
            object.__setattr__(self, "learning_rate", rate)
        if not self.learning_rate > 0:
            raise ValueError(
                "learning_rate must be above 0. "
                f"Received: learning_rate={self.learning_rate}"
            )
        if self.iterations is not None:
            self._check_steps()
        self.callback()  # the callback checks what it is given

    def _check_steps(self):
        if self.iterations % self.evaluate_every:
            raise ValueError(
                f"evaluate_every={self.evaluate_every} does not divide "
                f"iterations={self.iterations}: a round must end with a validation."
            )
        if self.rewind_to is not None and self.rewind_to >= self.iterations:
            raise ValueError(
                f"rewind_to={self.rewind_to} is not before the end of a round of "
                f"iterations={self.iterations}."
            )

    def in_steps(self, images: int) -> "Experiment":
        """The same experiment with `epochs` worked out to `iterations`.

        Args:
            images: Number of training images.

        Raises:
            ValueError: If a batch is larger than that, or steps don't fit.
        """
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

    def callback(self, **kwargs: Any) -> IterativeMagnitudePruning:
        """The callback that does the experiment's rounds."""
        return IterativeMagnitudePruning(
            rounds=self.rounds,
            rate=self.rate,
            output_rate=self.output_rate,
            scope=self.scope,
            rewind_to=self.rewind_to,
            criterion=self.criterion,
            seed=self.seed,
            **kwargs,
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
    callbacks: Sequence[keras.callbacks.Callback] = (),
    on_start: Callable[[data.Dataset, keras.Model, dict[str, Any]], None] | None = None,
    strategy: str = "none",
) -> Found:
    """Runs iterative magnitude pruning with rewinding (arXiv 1803.03635).

    The seed decides the ticket: on one machine, the same bits. On a CPU that
    holds by itself. Where there is a GPU, TensorFlow's deterministic operations
    are switched on for the process, which Keras can't combine with XLA.

    Args:
        experiment: What to run.
        out_dir: Folder for `config.json`, `rounds.json`, `ticket.npz` and
            `tickets/round_NN.npz`, each written as soon as it is known. `None`
            writes nothing.
        data_dir: Directory of TFDS data.
        download: Whether TFDS may download.
        overwrite: Whether an earlier run in `out_dir` may be replaced; other files
            there stay.
        callbacks: Further Keras callbacks for `fit`.
        on_start: Called with (dataset, wrapped model, compile settings) before
            training.
        strategy: Which devices share a batch, of `tfticket.devices`. More than one give
            the same ticket up to rounding.

    Raises:
        FileExistsError: If `out_dir` holds another run and `overwrite` is off,
            or files that are no run's.
        ValueError: If the data set can't be loaded or does not fit the model.

    Example:

    >>> experiment = tfticket.lottery.Experiment(rounds=1, iterations=50)
    >>> found = tfticket.lottery.find_ticket(experiment)
    >>> round(found.ticket.density, 3)
    0.802
    """
    folder = None if out_dir is None else pathlib.Path(out_dir)
    if folder is not None and held_config(folder) is not None and not overwrite:
        raise FileExistsError(
            f"out_dir={folder} holds another run. Choose another folder, or pass "
            "overwrite (--overwrite) to remove that run."
        )
    dataset = data.load(experiment.dataset, data_dir, download)
    experiment = experiment.in_steps(len(dataset.train[1]))
    keras.utils.set_random_seed(experiment.seed)
    devices.make_deterministic()
    records = []

    def on_round_end(record, ticket):
        records.append(record)
        if folder is not None:
            ticket.save(folder / "tickets" / f"round_{record.round:02d}.npz")
            ticket.save(folder / "ticket.npz")
            write_json(folder / "rounds.json", [dataclasses.asdict(r) for r in records])

    pruning = experiment.callback(
        test_data=dataset.evaluation_pipeline("test"), on_round_end=on_round_end
    )
    with devices.strategy(strategy).scope():
        model, compiled = _compiled(experiment, dataset)
        if folder is not None:
            _start_folder(folder, experiment)
        if on_start is not None:
            on_start(dataset, model, compiled)
        model.fit(
            dataset.training_pipeline(experiment.batch_size, experiment.seed),
            epochs=(experiment.rounds + 1)
            * (experiment.iterations // experiment.evaluate_every),
            steps_per_epoch=experiment.evaluate_every,
            validation_data=dataset.evaluation_pipeline("validation"),
            callbacks=[pruning, *callbacks],
            verbose=0,
            shuffle=False,
        )
    # Outside of the scope: it has one copy, wherever it was trained.
    return Found(
        experiment, pruning.records, pruning.ticket, strip(model), dataset, compiled
    )


def _compiled(experiment, dataset):
    devices.check_batch_size(experiment.batch_size)
    model = prune(models.build(experiment.model, dataset.image_shape, dataset.classes))
    compiled = models.compile_settings(
        model, experiment.evaluate_every, experiment.rewind_to or 0
    )
    model.compile(
        optimizer=keras.optimizers.Adam(experiment.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **compiled,
    )
    return model, compiled


def _start_folder(folder, experiment):
    # Of an earlier run only what it wrote itself; a user's files stay.
    for pattern in (*_FILES, "tickets/round_*.npz"):
        for path in folder.glob(pattern):
            path.unlink()
    config = {**dataclasses.asdict(experiment), "versions": versions()}
    write_json(folder / CONFIG, config)
