"""`Network`: a model compiled once, trained again and again from given states."""

import concurrent.futures
import math
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import keras
import numpy as np

from tfticket import devices, models
from tfticket.data import Dataset
from tfticket.keras_models.names import named_weights
from tfticket.keras_models.variables import State, host_copy
from tfticket.lottery.engine.checkpoint import Checkpoint
from tfticket.pruning.masks import masked_weights

METRICS = ("iteration", "loss", "accuracy", "val_loss", "val_accuracy")
_T = TypeVar("_T")


class Network:
    """A classifier of images and its data; nothing is traced twice.

    Args:
        model: What is trained, not compiled.
        optimizer: The optimizer.
        dataset: To train, validate and test on.
        batch_size: Images a step.
        evaluate_every: Steps from one evaluation to the next, an epoch of `fit`.
        stops: Steps at which a training may be asked to stop.
        augment: As of `Dataset.training_pipeline`.

    Raises:
        ValueError: If a batch is more than there are training images, or devices can't
            share it.
    """

    def __init__(
        self,
        model: keras.Model,
        optimizer: keras.optimizers.Optimizer,
        dataset: Dataset,
        batch_size: int,
        evaluate_every: int,
        stops: Sequence[int] = (),
        augment: bool | str | keras.layers.Layer = False,
    ):
        if batch_size > len(dataset.train[1]):
            raise ValueError(
                f"batch_size={batch_size} is more than the {len(dataset.train[1])} "
                f"training images of '{dataset.name}'."
            )
        devices.check_batch_size(batch_size)
        self.model, self.dataset = model, dataset
        self._batch_size, self._augment = batch_size, augment
        self._every = evaluate_every
        self.compiled = models.compile_settings(
            model,
            evaluate_every,
            math.gcd(evaluate_every, *(stop % evaluate_every for stop in stops)),
        )
        dataset.check_augment(augment)
        model.compile(
            optimizer=optimizer,
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **self.compiled,
        )
        self._start = State.of(model)
        self._weights = named_weights(model)
        self._evaluated = {
            part: dataset.evaluation_pipeline(part) for part in ("validation", "test")
        }

    def reset(self, seed: int) -> None:
        """Puts model and optimizer back as they were, and gives dropout this seed."""
        self._start.restore()
        for number, variable in enumerate(self.model.variables):
            if variable.name == "seed_generator_state":
                # Signed on PyTorch.
                most = int(np.iinfo(variable.dtype).max)
                variable.assign([seed % (most + 1), number])

    def train(
        self,
        seed: int,
        steps: int,
        first_step: int = 0,
        validate: bool = True,
        checkpoint: Checkpoint | None = None,
        on_evaluation: Callable[[int], None] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        begin: int = 0,
        observers: Sequence[keras.callbacks.Callback] = (),
    ) -> "Recorder":
        """Trains from where the model is, or from the checkpoint of this training.

        Evaluations are at multiples of `evaluate_every`, wherever it begins: where
        that is between two of them, the first epoch is shorter, and a `fit` of its own.

        Args:
            seed: Seed of the order of the data.
            steps: The step to train to.
            first_step: Where in that order step 0 is.
            validate: Whether to evaluate on the validation part.
            checkpoint: Where a training that was cut off goes on, and is kept.
            on_evaluation: Called with the step reached at each evaluation.
            callbacks: Further callbacks of `fit`, which the records come after.
            begin: The step that it begins at.
            observers: Callbacks that come after the records of an epoch are made.

        Returns:
            The metrics, and the weights at the minimum validation loss.
        """
        recorder = Recorder(
            self.model, self._weights, self._every, checkpoint, on_evaluation
        )
        done = recorder.resume()
        epoch, short = divmod(begin, self._every)
        step = (epoch + done) * self._every if done else begin
        last = steps // self._every
        fits = [(epoch + done, last, self._every)]
        if short and not done:
            fits = [(epoch, epoch + 1, self._every - short)]
            fits += [(epoch + 1, last, self._every)] if epoch + 1 < last else []
        for initial_epoch, epochs, length in fits:
            self.fit(
                seed,
                first_step + step,
                initial_epoch=initial_epoch,
                epochs=epochs,
                steps_per_epoch=length,
                validation_data=self._evaluated["validation"] if validate else None,
                callbacks=[*callbacks, recorder, *observers],
            )
            step += length
        return recorder

    def fit(self, seed: int, first_step: int, **kwargs: Any) -> None:
        """`model.fit` on the training part; see `train` for the arguments."""
        pipeline = self.dataset.training_pipeline(
            self._batch_size, seed, self._augment, first_step
        )
        self.model.fit(pipeline, verbose=0, shuffle=False, **kwargs)

    def evaluate(
        self, part: str, weights: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, float]:
        """Loss and accuracy on `"test"` or `"validation"`, masks as they are.

        Args:
            part: Part of the data set.
            weights: Weights to put in first, which then stay.
        """
        for name, value in (weights or {}).items():
            self._weights[name].assign(value)
        logs = self.model.evaluate(self._evaluated[part], verbose=0, return_dict=True)
        return {name: float(value) for name, value in logs.items()}

    @property
    def weights(self) -> dict[str, np.ndarray]:
        """The values that every weight computes with, by name."""
        return _computed(self.model, self._weights)

    @property
    def optimizer_state(self) -> State:
        """What the optimizer has now, by number; but its rate, which is its own."""
        variables = enumerate(self.model.optimizer.variables)
        return State({str(n): v for n, v in variables if v.name != "learning_rate"})


class Recorder(keras.callbacks.Callback):
    """Keeps the metrics and the best weights of a training, and its checkpoint.

    Args:
        model: What is trained.
        weights: Its weights by name.
        every: Steps of an epoch.
        checkpoint: Where to keep the state.
        on_evaluation: Called with the step reached at each evaluation.

    Attributes:
        metrics: Name, of `METRICS`, to the values of each evaluation.
        best: Index of the evaluation of minimum validation loss; -1 without.
        best_weights: Every weight at that evaluation, by name.
    """

    def __init__(
        self,
        model: keras.Model,
        weights: Mapping[str, keras.Variable],
        every: int,
        checkpoint: Checkpoint | None = None,
        on_evaluation: Callable[[int], None] | None = None,
    ):
        super().__init__()
        # Keras sets `model` only when `fit` begins.
        self._trained, self._weights, self._every = model, weights, every
        self._checkpoint, self._on_evaluation = checkpoint, on_evaluation
        self.metrics: dict[str, list[float]] = {}
        self.best = -1
        self.best_weights: dict[str, np.ndarray] = {}
        self._saved = time.monotonic()

    def resume(self) -> int:
        """Puts back what the checkpoint holds; evaluations done by then."""
        found = None if self._checkpoint is None else self._checkpoint.load()
        if found is None:
            return 0
        header, arrays = found
        self.metrics, self.best = header["metrics"], header["best"]
        groups: dict[str, dict[str, np.ndarray]] = {"best": {}, "variable": {}}
        for key, value in arrays.items():
            group, _, name = key.partition(":")
            groups[group][name] = value
        self.best_weights = groups["best"]
        state = State.of(self._trained)
        state.values = groups["variable"]
        state.restore()
        return len(self.metrics["iteration"])

    def on_epoch_end(self, epoch, logs=None):
        row = {"iteration": (epoch + 1) * self._every, **(logs or {})}
        for name in METRICS:
            if name in row:
                self.metrics.setdefault(name, []).append(_plain(row[name]))
        if "val_loss" in row:
            self._compare()
        if self._on_evaluation is not None:
            self._on_evaluation(row["iteration"])
        if self._checkpoint is not None and self._checkpoint.is_due(self._saved):
            self._save()

    def _compare(self):
        losses = [math.inf if math.isnan(x) else x for x in self.metrics["val_loss"]]
        if losses[-1] < losses[self.best] or self.best < 0:
            self.best = len(losses) - 1
            self.best_weights = _computed(self._trained, self._weights)

    def _save(self):
        groups = {"best": self.best_weights, "variable": State.of(self._trained).values}
        self._checkpoint.save(
            {"metrics": self.metrics, "best": self.best},
            {
                f"{group}:{name}": value
                for group, values in groups.items()
                for name, value in values.items()
            },
        )
        self._saved = time.monotonic()


def _computed(model, weights):
    """Values of weights by name, without those that are kept behind masks."""
    values = State(weights).values
    for name, weight in masked_weights(model).items():
        if weight.keeps_dense:
            values[name] = host_copy(weight.value())
    return values


def made_alike(make: Callable[[], _T]) -> _T:
    """What a function makes, its layers named alike in every process.

    Keras numbers the names it gives by thread, from all that was made before.
    """
    policy = keras.config.dtype_policy()

    def made():
        keras.config.set_dtype_policy(policy)
        return make()

    with concurrent.futures.ThreadPoolExecutor(1) as executor:
        return executor.submit(made).result()


def _plain(value):
    return value if isinstance(value, int) else float(value)
