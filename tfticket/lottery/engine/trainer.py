"""`Trainer`: one network, compiled once, trained again and again from given states."""

import concurrent.futures
import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfticket import devices, models
from tfticket.data import Dataset
from tfticket.keras_models.names import named_weights
from tfticket.keras_models.variables import State, built_optimizer
from tfticket.lottery.engine.checkpoint import Checkpoint
from tfticket.lottery.recipe import Recipe, derived_seed
from tfticket.pruning.engine import Pruner
from tfticket.pruning.evidence import Following
from tfticket.pruning.masks import get_masks
from tfticket.pruning.prune_strip import prune
from tfticket.pruning.thresholds import masks_by_sensitivity
from tfticket.sparsity import criteria
from tfticket.tickets.ticket import Ticket

Builder = Callable[[tuple[int, int, int], int], keras.Model]
# Images that criteria of gradients are taken over: about as many a class as in the
# papers of SNIP (1810.02340) and GraSP (2002.07376).
_EVIDENCE_IMAGES = 1000
METRICS = ("iteration", "loss", "accuracy", "val_loss", "val_accuracy")


@dataclasses.dataclass(frozen=True)
class Trained:
    """What a training came to.

    Args:
        metrics: Name, of `METRICS`, to the values of each evaluation.
        weights: Every weight of the model at the end, by name.
        best_weights: The same at the minimum validation loss.
        best: Index of that evaluation.
        evidence: What was followed for the criterion, by kind and name.
    """

    metrics: dict[str, list[float]]
    weights: dict[str, np.ndarray]
    best_weights: dict[str, np.ndarray]
    best: int
    evidence: dict[str, dict[str, np.ndarray]]


class Trainer:
    """Trains the network of a recipe; nothing is traced twice.

    What a training comes to depends on its arguments alone, not on those before it.

    Args:
        recipe: Of the training.
        dataset: To train, validate and test on.
        build: Makes the network from (image shape, classes).
        factor: On the recipe's learning rate.
        stops: Steps at which `prefix` will be asked to stop.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        build: Builder,
        factor: float = 1.0,
        stops: Sequence[int] = (),
    ):
        if recipe.batch_size > len(dataset.train[1]):
            raise ValueError(
                f"batch_size={recipe.batch_size} is more than the "
                f"{len(dataset.train[1])} training images of '{dataset.name}'."
            )
        devices.check_batch_size(recipe.batch_size)
        self.recipe, self.dataset, self._build = recipe, dataset, build
        # Seeds of dropout are drawn when layers are made.
        keras.utils.set_random_seed(0)
        self.model = prune(self._fresh())
        every = recipe.evaluate_every
        self.compiled = models.compile_settings(
            self.model, every, math.gcd(every, *(stop % every for stop in stops))
        )
        self.model.compile(
            optimizer=recipe.optimizer_for(factor),
            loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **self.compiled,
        )
        optimizer = built_optimizer(self.model)
        self._weights = named_weights(self.model)
        self._optimizer = State(_numbered(optimizer.variables))
        known = {id(v) for v in self._weights.values()}
        self._other = State(
            _numbered(v for v in self.model.variables if id(v) not in known)
        )
        self._evaluated = {
            part: dataset.evaluation_pipeline(part) for part in ("validation", "test")
        }

    def initial_weights(self, seed: int) -> dict[str, np.ndarray]:
        """The weights that a network made with this seed begins with, by name."""
        keras.utils.set_random_seed(seed)
        return State(named_weights(self._fresh())).values

    def dense(self, weights: Mapping[str, np.ndarray]) -> Ticket:
        """These weights with nothing pruned."""
        masks = get_masks(self.model)
        return Ticket({k: np.ones_like(m) for k, m in masks.items()}, weights)

    def train(
        self,
        start: Ticket,
        seed: int,
        optimizer: Mapping[str, np.ndarray] | None = None,
        checkpoint: Checkpoint | None = None,
        on_evaluation: Callable[[int], None] | None = None,
    ) -> Trained:
        """Trains a ticket for the recipe's iterations, whose weights it then has.

        Args:
            start: Masks and the weights to start from.
            seed: Of the order of the data.
            optimizer: What `prefix` gave for it; `None` starts the optimizer anew.
            checkpoint: Where a training that was cut off goes on, and is kept.
            on_evaluation: Called with the steps done at each evaluation.
        """
        recipe = self.recipe
        self._begin(start, seed, optimizer)
        needs = criteria.needs(recipe.criterion)
        following = Following(self.model, needs, decay=0.99)
        recorder = _Recorder(self, following, checkpoint, on_evaluation)
        done = recorder.resume()
        self._fit(
            seed,
            done * recipe.evaluate_every,
            initial_epoch=done,
            epochs=recipe.iterations // recipe.evaluate_every,
            steps_per_epoch=recipe.evaluate_every,
            validation_data=self._evaluated["validation"],
            callbacks=[recorder],
        )
        return Trained(
            recorder.metrics,
            State(self._weights).values,
            recorder.best_weights,
            recorder.best,
            following.evidence(),
        )

    def prefix(self, start: Ticket, seed: int, steps: int) -> dict[str, dict]:
        """Weights ("weights") and optimizer ("optimizer") after the first steps."""
        self._begin(start, seed, None)
        self._fit(seed, 0, epochs=1, steps_per_epoch=steps)
        return {
            "weights": State(self._weights).values,
            "optimizer": State(_numbered(self.model.optimizer.variables)).values,
        }

    def put(self, ticket: Ticket, seed: int = 0) -> None:
        """Gives the model masks and weights, and its dropout this seed.

        What an earlier training left elsewhere in the model is gone.
        """
        self._other.restore()
        for number, variable in enumerate(self.model.variables):
            if variable.name == "seed_generator_state":
                # Signed on PyTorch.
                most = int(np.iinfo(variable.dtype).max)
                variable.assign([seed % (most + 1), number])
        ticket.apply(self.model)

    def evaluate(
        self, part: str, weights: Mapping[str, np.ndarray] | None = None
    ) -> dict[str, float]:
        """Loss and accuracy on `"test"` or `"validation"`, masks as they are.

        Args:
            part: Of the data set.
            weights: Weights to put in first, which then stay.
        """
        for name, value in (weights or {}).items():
            self._weights[name].assign(value)
        logs = self.model.evaluate(self._evaluated[part], verbose=0, return_dict=True)
        return {name: float(value) for name, value in logs.items()}

    def pruner(self, seed: int, criterion: str | None = None) -> Pruner:
        """A pruner of the model as it now is, with the recipe's scope."""
        return Pruner(
            self.model,
            criterion or self.recipe.criterion,
            "layerwise" if self.recipe.scope == "layerwise" else "global",
            data=self.evidence_data,
            seed=seed,
        )

    @property
    def evidence_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels that criteria of gradients are taken over."""
        images, labels = self.dataset.train
        return images[:_EVIDENCE_IMAGES], labels[:_EVIDENCE_IMAGES]

    def check_rounds(self, rounds: int) -> None:
        """Refuses rates that leave a layer without a weight in one of the rounds."""
        pruner = self.pruner(derived_seed(0, "criterion"))
        pruner.check_rounds(rounds, self.recipe.rate, self._own_rates(pruner))

    def _own_rates(self, pruner):
        recipe = self.recipe
        own = recipe.rates_for(self.model)
        return pruner.rates(recipe.rate, recipe.output_rate, own)

    def next_masks(self, seed: int, trained: Trained) -> dict[str, np.ndarray]:
        """The masks of the round after the training that the model has just done.

        Raises:
            ValueError: If a weight would be left empty.
        """
        if self.recipe.scope == "sensitivity":
            return masks_by_sensitivity(
                self.model,
                lambda _: self.evaluate("validation")["accuracy"],
                self.recipe.rate,
            )
        pruner = self.pruner(derived_seed(seed, "criterion"))
        own = self._own_rates(pruner)
        return pruner.masks_after_round(self.recipe.rate, own, trained.evidence)

    def _fresh(self):
        """A new network, its layers named alike in every process.

        Keras numbers the names it gives by thread, from all that was made before.
        """
        policy = keras.config.dtype_policy()

        def made():
            keras.config.set_dtype_policy(policy)
            return self._build(self.dataset.image_shape, self.dataset.classes)

        with concurrent.futures.ThreadPoolExecutor(1) as executor:
            return executor.submit(made).result()

    def _begin(self, start, seed, optimizer):
        keras.utils.set_random_seed(seed)
        self._optimizer.restore()
        if optimizer is not None:
            for number, variable in enumerate(self.model.optimizer.variables):
                variable.assign(optimizer[str(number)])
        # After the optimizer: slots of what the ticket prunes go to rest.
        self.put(start, seed)

    def _fit(self, seed, first_step, **kwargs):
        recipe = self.recipe
        pipeline = self.dataset.training_pipeline(
            recipe.batch_size, seed, recipe.augment, first_step
        )
        self.model.fit(pipeline, verbose=0, shuffle=False, **kwargs)


class _Recorder(keras.callbacks.Callback):
    """Keeps the metrics and the best weights of a training, and its checkpoint."""

    def __init__(self, trainer, following, checkpoint, on_evaluation):
        super().__init__()
        self._variables = _numbered(
            [*trainer.model.variables, *trainer.model.optimizer.variables]
        )
        self._weights = trainer._weights
        self._every = trainer.recipe.evaluate_every
        self._following = following
        self._checkpoint, self._on_evaluation = checkpoint, on_evaluation
        self.metrics: dict[str, list[float]] = {name: [] for name in METRICS}
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
        for name, value in arrays.items():
            group, _, name = name.partition(":")
            if group == "best":
                self.best_weights[name] = value
            else:
                self._variables[name].assign(value)
        return len(self.metrics["iteration"])

    def on_train_batch_end(self, batch, logs=None):
        self._following.update()

    def on_epoch_end(self, epoch, logs=None):
        row = {"iteration": (epoch + 1) * self._every, **(logs or {})}
        for name in METRICS:
            self.metrics[name].append(_plain(row[name]))
        losses = [math.inf if math.isnan(x) else x for x in self.metrics["val_loss"]]
        if losses[-1] < losses[self.best] or self.best < 0:
            self.best = len(losses) - 1
            self.best_weights = State(self._weights).values
        if self._on_evaluation is not None:
            self._on_evaluation(row["iteration"])
        if self._checkpoint is not None and self._checkpoint.is_due(self._saved):
            state = State(self._variables).values
            self._checkpoint.save(
                {"metrics": self.metrics, "best": self.best},
                {
                    **{f"best:{name}": v for name, v in self.best_weights.items()},
                    **{f"variable:{name}": v for name, v in state.items()},
                },
            )
            self._saved = time.monotonic()


def _numbered(variables: Iterable[Any]) -> dict[str, Any]:
    return {str(number): variable for number, variable in enumerate(variables)}


def _plain(value):
    return value if isinstance(value, int) else float(value)
