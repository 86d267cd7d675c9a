"""The edge-popup experiment: accuracy against density, never training a weight."""

import contextlib
import dataclasses
import functools
import itertools
import os
import pathlib
from collections.abc import Callable, Sequence

import keras

from tfticket import data, devices, models
from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_density,
    check_instance,
    check_integer,
    check_list,
    check_number,
    check_path,
    optional,
    shown,
)
from tfticket.common.files import temporary_folder, write_json
from tfticket.common.runs import CHECKPOINT, RunFolder
from tfticket.edge_popup.twin import popup
from tfticket.lottery.engine.checkpoint import Checkpoint
from tfticket.lottery.engine.network import Network
from tfticket.lottery.engine.processes import Processes, check_processes, done_by
from tfticket.lottery.engine.run_folder import check_run
from tfticket.lottery.recipe import fill_in

DENSE = "dense"
_INITIALIZERS = ("signed_constant", "kaiming_normal")


@dataclasses.dataclass(frozen=True)
class PopupPart:
    """One training of a popup experiment.

    Args:
        kind: `"dense"`, or the weight initialiser of a popup network.
        density: Fraction of the edges kept; 1 for the dense network.
        seed: Seed of initialisation and data order.
    """

    kind: str
    density: float
    seed: int

    @property
    def path(self) -> pathlib.PurePosixPath:
        """Folder of the part inside the run's."""
        density = f"density_{self.density}"
        return pathlib.PurePosixPath(f"seed_{self.seed}", self.kind, density)


@dataclasses.dataclass(frozen=True)
class PopupResult(PopupPart):
    """The result of one training of a popup experiment.

    Args:
        test_accuracy: At the end of training, in [0, 1].
        validation_accuracy: The same on the validation part.
        random_accuracy: Test accuracy before training: for a popup network, of a
            random mask of the same density on the same weights, the control.
    """

    test_accuracy: float
    validation_accuracy: float
    random_accuracy: float


@dataclasses.dataclass(frozen=True)
class PopupExperiment:
    """Densities x initialisers x replicates of popup training, and a dense line.

    Scores are trained by SGD with momentum 0.9 and cosine decay, as in the paper
    (arXiv 1911.13299); the dense network, whose weights are trained, by Adam at
    the lottery ticket paper's rate.

    Args:
        dataset: Name for `tfticket.data.load`.
        model: Name of one of `tfticket.models.MODELS`.
        densities: Fractions of the edges kept, each in (0, 1].
        weight_initializers: Names: `"signed_constant"`, `"kaiming_normal"`.
        replicates: Repetitions, each with a seed of its own.
        width: Factor on the number of units and filters of every hidden layer.
        epochs: Passes over the training images.
        batch_size: Images per step.
        learning_rate: Learning rate of SGD at the start.
        weight_decay: Weight decay of the scores; L2, added to their gradient.
        score_scope: `"layerwise"` or `"global"`.
        scale_fan: Whether initial weights are scaled by sqrt(1/density).
        rescale: Dynamic rescaling (1905.01067).
        binarize: Binarised weights (2103.09377).
        augment: Random shifts by up to an eighth and horizontal flips.
        seed: Seed of the first replicate; the next has the next.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If a value is out of range.

    Example:

    >>> experiment = tfticket.lottery.PopupExperiment(
    ...     densities=[0.5], weight_initializers=["signed_constant"], epochs=1
    ... )
    >>> results = experiment.run(folder / "popup")
    >>> [(result.kind, result.density) for result in results]
    [('dense', 1.0), ('signed_constant', 0.5)]
    """

    dataset: str = data.EMBEDDED
    model: str = "lenet_300_100"
    densities: Sequence[float] = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    weight_initializers: Sequence[str] = _INITIALIZERS
    replicates: int = 1
    width: float = 1.0
    epochs: int = 50
    batch_size: int = 128
    learning_rate: float = 0.1
    weight_decay: float = 1e-4
    score_scope: str = "layerwise"
    scale_fan: bool = False
    rescale: bool = False
    binarize: bool = False
    augment: bool = False
    seed: int = 0

    def __post_init__(self):
        check_instance("dataset", self.dataset, str, "the name of a data set")
        check_choice("model", self.model, sorted(models.MODELS))
        check_choice("score_scope", self.score_scope, ("layerwise", "global"))
        checks = {
            "densities": _distinct(check_density),
            "weight_initializers": _distinct(_check_initializer),
            **dict.fromkeys(("replicates", "epochs", "batch_size"), _check_count),
            **dict.fromkeys(("width", "learning_rate"), _check_positive),
            "weight_decay": functools.partial(check_number, least=0),
            **dict.fromkeys(
                ("scale_fan", "rescale", "binarize", "augment"), check_bool
            ),
        }
        for name, check in checks.items():
            fill_in(self, **{name: check(name, getattr(self, name))})
        last = 2**32 - self.replicates
        fill_in(self, seed=check_integer("seed", self.seed, 0, last))

    def parts(self) -> list[PopupPart]:
        """All trainings, those of one network together."""
        seeds = range(self.seed, self.seed + self.replicates)
        kinds: dict[str, Sequence[float]] = {DENSE: (1.0,)}
        kinds |= dict.fromkeys(self.weight_initializers, self.densities)
        return [
            PopupPart(kind, density, seed)
            for kind, densities in kinds.items()
            for density in densities
            for seed in seeds
        ]

    def run(
        self,
        out_dir: str | os.PathLike | None = None,
        data_dir: str | os.PathLike | None = None,
        download: bool = True,
        overwrite: bool = False,
        checkpoint_seconds: float | None = 60.0,
        on_part: Callable[[PopupResult, int, int, bool], None] | None = None,
        on_evaluation: Callable[[PopupPart, int, int], None] | None = None,
        strategy: str = "none",
        processes: int | str | None = None,
    ) -> list[PopupResult]:
        """Does what is missing, and returns all results.

        Args:
            out_dir: Folder for `config.json`, `results.json` and a folder for each
                training in `seed_N`. `None` keeps nothing.
            data_dir: Directory of TFDS data.
            download: Whether TFDS may download.
            overwrite: Whether another experiment's results in `out_dir` may be
                replaced.
            checkpoint_seconds: Least time between two checkpoints of a training;
                `None` writes none, and a training that is cut off begins again.
            on_part: Called with (result, trainings done, trainings in all, whether it
                was missing).
            on_evaluation: Called with (part, steps done, steps in all) after each
                epoch.
            strategy: Which devices share a batch, of `tfticket.devices`.
            processes: How many trainings run side by side, as for
                `LotteryExperiment.run`.

        Raises:
            RunInUseError: If another process works on `out_dir`.
            WorkerDiedError: If a process dies; names its training and exit code.
            FileExistsError: If `out_dir` holds another experiment and `overwrite` is
                off, or files that are no run's.
            ValueError: If the data set can't be loaded or does not fit the model.
        """
        optional(check_path, "out_dir", out_dir)
        check_bool("overwrite", overwrite)
        check_run(checkpoint_seconds, on_part, on_evaluation, strategy)
        count = check_processes(processes)
        if count is not None and strategy != "none":
            raise ValueError(
                "processes is for strategy='none'. Received: "
                f"processes={processes!r}, strategy={strategy!r}"
            )
        dataset = data.load(self.dataset, data_dir, download)
        parts = self.parts()
        with contextlib.ExitStack() as stack:
            if out_dir is None:
                out_dir = stack.enter_context(temporary_folder())
            stack.enter_context(devices.strategy(strategy).scope())
            folder = RunFolder(out_dir, ("seed_*", "results.json", "plot.png"))
            networks = _Networks(self, dataset, folder, checkpoint_seconds)
            networks.of(DENSE)  # an error here is one before anything is written
            identity = dataclasses.asdict(self)
            stack.enter_context(folder.opened(identity, overwrite=overwrite))
            known = {
                part: folder.read(part.path, lambda values: PopupResult(**values))
                for part in parts
            }
            found = [result for result in known.values() if result is not None]
            missing = [part for part in parts if known[part] is None]
            trained = (networks.train(part, on_evaluation) for part in missing)
            if count is not None and missing:
                sent = (self, data_dir, download, folder.path, checkpoint_seconds)
                trained = _side_by_side(count, missing, sent, on_evaluation)
            made = itertools.chain(found, trained)
            for number, result in enumerate(made, 1):
                part = _part_of(result)
                fresh, known[part] = known[part] is None, result
                # All that is known, so that a run that goes on takes nothing away.
                results = [result for result in known.values() if result is not None]
                written = [dataclasses.asdict(result) for result in results]
                write_json(folder.path / "results.json", written)
                if on_part is not None:
                    on_part(result, number, len(parts), fresh)
        return results


def _part_of(result):
    fields = dataclasses.fields(PopupPart)
    return PopupPart(**{field.name: getattr(result, field.name) for field in fields})


def _side_by_side(count, parts, sent, on_evaluation):
    """The results of parts, as processes have trained them."""
    waiting = iter(parts)
    with Processes(min(count, len(parts)), _start, *sent) as pool:
        for kind, *said in done_by(pool, lambda: next(waiting, None)):
            if kind == "part":
                yield said[0]
            elif on_evaluation is not None:
                on_evaluation(*said)


def _start(experiment, data_dir, download, path, checkpoint_seconds):
    """In a process: what trains its parts."""
    dataset = data.load(experiment.dataset, data_dir, download)
    networks = _Networks(experiment, dataset, RunFolder(path), checkpoint_seconds)

    def train(part, say):
        say("part", networks.train(part, lambda *said: say("evaluation", *said)))

    return train


class _Networks:
    """The network of each kind, compiled once and trained again and again.

    Density is a variable of a popup network, so another one needs no new trace. One
    network is kept at a time, since parts of a kind follow each other.
    """

    def __init__(self, experiment, dataset, folder, checkpoint_seconds):
        self._experiment, self._dataset = experiment, dataset
        self._folder, self._seconds = folder, checkpoint_seconds
        # A batch that is too large is refused when a network is made.
        self._steps = max(1, len(dataset.train[1]) // experiment.batch_size)
        self._made: dict[str, Network] = {}

    def of(self, kind: str) -> Network:
        if kind not in self._made:
            experiment = self._experiment
            self._made = {
                kind: Network(
                    self._fresh(kind, 0.5),
                    self._optimizer(kind),
                    self._dataset,
                    experiment.batch_size,
                    self._steps,
                    augment=experiment.augment,
                )
            }
        return self._made[kind]

    def train(
        self,
        part: PopupPart,
        on_evaluation: Callable[[PopupPart, int, int], None] | None,
    ) -> PopupResult:
        """Trains a part, from its checkpoint if there is one, and keeps its result."""
        network, steps = self.of(part.kind), self._steps * self._experiment.epochs
        file = self._folder.path / part.path / CHECKPOINT
        name = self._folder.name_of(part.path)
        checkpoint = Checkpoint(file, f"{name['run']}/{name['part']}", self._seconds)

        def tell(done):
            if on_evaluation is not None:
                on_evaluation(part, done, steps)

        keras.utils.set_random_seed(part.seed)
        network.reset(part.seed)
        network.model.set_weights(self._fresh(part.kind, part.density).get_weights())
        before = network.evaluate("test")
        network.train(
            part.seed, steps, validate=False, checkpoint=checkpoint, on_evaluation=tell
        )
        result = PopupResult(
            **dataclasses.asdict(part),
            test_accuracy=network.evaluate("test")["accuracy"],
            validation_accuracy=network.evaluate("validation")["accuracy"],
            random_accuracy=before["accuracy"],
        )
        self._folder.write(part.path, dataclasses.asdict(result))
        checkpoint.remove()
        return result

    def _optimizer(self, kind):
        experiment = self._experiment
        if kind == DENSE:
            return keras.optimizers.Adam(models.LEARNING_RATES[experiment.model])
        decay = keras.optimizers.schedules.CosineDecay(
            experiment.learning_rate, self._steps * experiment.epochs
        )
        return keras.optimizers.SGD(decay, momentum=0.9)

    def _fresh(self, kind, density):
        experiment = self._experiment
        model = models.build(
            experiment.model,
            self._dataset.image_shape,
            self._dataset.classes,
            experiment.width,
        )
        if kind == DENSE:
            return model
        return popup(
            model,
            density=density,
            weight_initializer=kind,
            score_scope=experiment.score_scope,
            scale_fan=experiment.scale_fan,
            rescale=experiment.rescale,
            binarize=experiment.binarize,
            score_regularizer=keras.regularizers.L2(experiment.weight_decay / 2),
        )


_check_count = functools.partial(check_integer, least=1)
_check_positive = functools.partial(check_number, above=0)


def _check_initializer(name, value):
    return check_choice(name, value, _INITIALIZERS)


def _distinct(check):
    """A check of a list that holds one value or more, none of them twice."""

    def check_all(name, values):
        found = [check(name, value) for value in check_list(name, values)]
        if not found or len(set(found)) < len(found):
            raise ValueError(
                f"{name} must be one value or more, none of them twice. "
                f"Received: {name}={shown(values)}"
            )
        return tuple(found)

    return check_all
