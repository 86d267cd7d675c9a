"""The edge-popup experiment: accuracy against density, never training a weight."""

import dataclasses
import json
import os
import pathlib
import statistics
from collections.abc import Callable, Sequence
from typing import Any

import keras

from tfticket import data, devices, models
from tfticket.common import runs
from tfticket.common.arguments import check_density
from tfticket.common.files import write_json
from tfticket.edge_popup.twin import popup
from tfticket.keras_models.variables import State, built_optimizer

_RESULTS = "results.json"
_LARGEST_SEED = 2**32 - 1


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
        batch_size: Images a step.
        learning_rate: SGD's, at the start.
        weight_decay: Of the scores; L2, added to their gradient.
        score_scope: `"layerwise"` or `"global"`.
        scale_fan: Whether initial weights are scaled by sqrt(1/density).
        rescale: Dynamic rescaling (1905.01067).
        binarize: Binarised weights (2103.09377).
        augment: Random shifts by up to an eighth and horizontal flips.
        seed: Of the first replicate; the next has the next.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If a value is out of range.
    """

    dataset: str = data.EMBEDDED
    model: str = "lenet_300_100"
    densities: Sequence[float] = (0.1, 0.2, 0.3, 0.5, 0.7, 0.9)
    weight_initializers: Sequence[str] = ("signed_constant", "kaiming_normal")
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
        for name in ("densities", "weight_initializers"):
            values = tuple(getattr(self, name))
            if not values or len(set(values)) < len(values):
                raise ValueError(
                    f"{name} must be one value or more, none of them twice. "
                    f"Received: {name}={values}"
                )
            object.__setattr__(self, name, values)
        for density in self.densities:
            check_density("density", density)
        choices = {
            "model": sorted(models.MODELS),
            "score_scope": ["layerwise", "global"],
        }
        for name, known in choices.items():
            if getattr(self, name) not in known:
                raise ValueError(
                    f"{name} must be one of {known}. "
                    f"Received: {name}={getattr(self, name)!r}"
                )
        known = ("signed_constant", "kaiming_normal")
        for name in self.weight_initializers:
            if name not in known:
                raise ValueError(
                    f"weight_initializers must be of {known}. Received: {name!r}"
                )
        for name, least in (
            ("replicates", 1),
            ("epochs", 1),
            ("batch_size", 1),
            ("seed", 0),
        ):
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(
                    f"{name} must be an integer. Received: {name}={value!r}"
                )
            if value < least or value > _LARGEST_SEED:
                raise ValueError(
                    f"{name} must be {least} or more. Received: {name}={value}"
                )
        for name in ("width", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(
                    f"{name} must be above 0. Received: {name}={getattr(self, name)}"
                )
        if not self.weight_decay >= 0:
            raise ValueError(
                "weight_decay must be 0 or more. "
                f"Received: weight_decay={self.weight_decay}"
            )


@dataclasses.dataclass(frozen=True)
class PopupResult:
    """One training of a popup experiment.

    Args:
        kind: `"dense"`, or the weight initialiser of a popup network.
        density: Fraction of the edges kept; 1 for the dense network.
        seed: Of initialisation and data order.
        test_accuracy: At the end of training, in [0, 1].
        validation_accuracy: The same on the validation part.
        random_accuracy: Test accuracy before training: for a popup network, of a
            random mask of the same density on the same weights, the control.
    """

    kind: str
    density: float
    seed: int
    test_accuracy: float
    validation_accuracy: float
    random_accuracy: float


def run(
    experiment: PopupExperiment,
    out_dir: str | os.PathLike | None = None,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
    overwrite: bool = False,
    on_result: Callable[[PopupResult, int, int], None] | None = None,
    strategy: str = "none",
) -> list[PopupResult]:
    """Runs what is missing of an experiment, and returns all of its results.

    Every finished training is written to `out_dir/results.json` at once, so a run
    that was killed goes on where it was.

    Args:
        experiment: What to run.
        out_dir: Folder for `config.json` and `results.json`. `None` writes nothing.
        data_dir: Directory of TFDS data.
        download: Whether TFDS may download.
        overwrite: Whether another experiment's results in `out_dir` may be replaced.
        on_result: Called with (result, trainings done, trainings in all).
        strategy: Which devices share a batch, of `tfticket.devices`.

    Raises:
        FileExistsError: If `out_dir` holds another experiment and `overwrite` is
            off, or files that are no run's.
        ValueError: If the data set can't be loaded or does not fit the model.

    Example:

    >>> experiment = tfticket.edge_popup.experiment.PopupExperiment(
    ...     densities=[0.5], weight_initializers=["signed_constant"], epochs=1
    ... )
    >>> results = tfticket.edge_popup.experiment.run(experiment)
    >>> [(result.kind, result.density) for result in results]
    [('dense', 1.0), ('signed_constant', 0.5)]
    """
    folder = None if out_dir is None else pathlib.Path(out_dir)
    results = [] if folder is None else _open(folder, experiment, overwrite)
    dataset = data.load(experiment.dataset, data_dir, download)
    if experiment.batch_size > len(dataset.train[1]):
        raise ValueError(
            f"batch_size={experiment.batch_size} is more than the "
            f"{len(dataset.train[1])} training images of '{experiment.dataset}'."
        )
    with devices.strategy(strategy).scope():
        devices.check_batch_size(experiment.batch_size)
        return _run_missing(experiment, dataset, results, folder, on_result)


def _run_missing(experiment, dataset, results, folder, on_result):
    done = {(r.kind, r.density, r.seed) for r in results}
    seeds = range(experiment.seed, experiment.seed + experiment.replicates)
    parts: list[tuple[str, Sequence[float]]] = [("dense", [1.0])]
    parts += [(kind, experiment.densities) for kind in experiment.weight_initializers]
    total = sum(len(densities) for _, densities in parts) * len(seeds)
    for kind, densities in parts:
        train = None
        for density in densities:
            for seed in seeds:
                if (kind, density, seed) in done:
                    continue
                train = train or _Trainer(experiment, dataset, kind)
                results.append(train(density, seed))
                if folder is not None:
                    write_json(
                        folder / _RESULTS, [dataclasses.asdict(r) for r in results]
                    )
                if on_result is not None:
                    on_result(results[-1], len(results), total)
    return results


def summary(results: Sequence[PopupResult]) -> list[dict[str, Any]]:
    """Mean, lowest and highest test accuracy of each kind and density.

    Returns:
        A dict for each, in order of first appearance: `kind`, `density`,
        `replicates`, `mean`, `lowest`, `highest` and `random` (the control's mean).
    """
    groups: dict[tuple[str, float], list[PopupResult]] = {}
    for result in results:
        groups.setdefault((result.kind, result.density), []).append(result)
    return [
        {
            "kind": kind,
            "density": density,
            "replicates": len(group),
            "mean": statistics.mean(r.test_accuracy for r in group),
            "lowest": min(r.test_accuracy for r in group),
            "highest": max(r.test_accuracy for r in group),
            "random": statistics.mean(r.random_accuracy for r in group),
        }
        for (kind, density), group in groups.items()
    ]


class _Trainer:
    """Trains one kind of network again and again, compiled once.

    Density is a variable of the network, so another one needs no new trace.
    """

    def __init__(self, experiment, dataset, kind):
        self._experiment, self._dataset, self._kind = experiment, dataset, kind
        steps = len(dataset.train[1]) // experiment.batch_size
        self._steps = steps
        model = self._fresh(0.5)
        optimizer = keras.optimizers.Adam(models.LEARNING_RATES[experiment.model])
        if kind != "dense":
            decay = keras.optimizers.schedules.CosineDecay(
                experiment.learning_rate, steps * experiment.epochs
            )
            optimizer = keras.optimizers.SGD(decay, momentum=0.9)
        model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **models.compile_settings(model, steps),
        )
        self._model = model
        self._optimizer = State(
            {str(i): v for i, v in enumerate(built_optimizer(model).variables)}
        )

    def __call__(self, density, seed):
        experiment, dataset, model = self._experiment, self._dataset, self._model
        keras.utils.set_random_seed(seed)
        model.set_weights(self._fresh(density).get_weights())
        self._optimizer.restore()
        before = self._accuracy("test")
        model.fit(
            dataset.training_pipeline(
                experiment.batch_size, seed, augment=experiment.augment
            ),
            epochs=experiment.epochs,
            steps_per_epoch=self._steps,
            shuffle=False,
            verbose=0,
        )
        return PopupResult(
            kind=self._kind,
            density=float(density),
            seed=seed,
            test_accuracy=self._accuracy("test"),
            validation_accuracy=self._accuracy("validation"),
            random_accuracy=before,
        )

    def _fresh(self, density):
        experiment = self._experiment
        model = models.build(
            experiment.model,
            self._dataset.image_shape,
            self._dataset.classes,
            experiment.width,
        )
        if self._kind == "dense":
            return model
        return popup(
            model,
            density=density,
            weight_initializer=self._kind,
            score_scope=experiment.score_scope,
            scale_fan=experiment.scale_fan,
            rescale=experiment.rescale,
            binarize=experiment.binarize,
            score_regularizer=keras.regularizers.L2(experiment.weight_decay / 2),
        )

    def _accuracy(self, part):
        pipeline = self._dataset.evaluation_pipeline(part)
        logs = self._model.evaluate(pipeline, verbose=0, return_dict=True)
        return float(logs["accuracy"])


def _open(folder, experiment, overwrite):
    """The results that a folder holds of this very experiment."""
    path = folder / _RESULTS
    config = dataclasses.asdict(experiment)
    runs.claim(folder, config, (_RESULTS, "plot.png"), overwrite)
    if not path.is_file():
        return []
    return [PopupResult(**result) for result in json.loads(path.read_text())]
