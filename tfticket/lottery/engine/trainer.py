"""`Trainer`: the network of a recipe, trained from tickets, and pruned."""

import dataclasses
import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfticket import data
from tfticket.common.checksums import derived_seed
from tfticket.data import Dataset
from tfticket.keras_models.names import named_weights
from tfticket.keras_models.variables import State
from tfticket.lottery.engine.checkpoint import Checkpoint
from tfticket.lottery.engine.network import Network, made_alike
from tfticket.lottery.recipe import Recipe
from tfticket.pruning.engine import Pruner
from tfticket.pruning.evidence import Following, kinds_from_data
from tfticket.pruning.masks import get_masks, set_masks
from tfticket.pruning.prune_model import prune
from tfticket.pruning.thresholds import masks_by_sensitivity
from tfticket.sparsity import criteria
from tfticket.tickets.ticket import Ticket, plain_config

Builder = Callable[[tuple[int, int, int], int], keras.Model]
# Images that RigL's gradients are taken over.
_RIGL_IMAGES = 1000


@dataclasses.dataclass(frozen=True)
class Order:
    """The order in which a training sees the data.

    Args:
        seed: Seed of the order.
        first_step: Where in it the training begins.
    """

    seed: int
    first_step: int = 0


@dataclasses.dataclass(frozen=True)
class Trained:
    """The result of a training.

    Args:
        metrics: Name, of `METRICS`, to the values of each evaluation.
        weights: Every weight of the model at the end, by name.
        optimizer: Every variable of the optimizer at the end, by number.
        best_weights: Every weight at the minimum validation loss.
        best: Index of that evaluation.
        evidence: What was followed for the criterion, by kind and name.
        masks: The masks at the end, which callbacks may have changed.
    """

    metrics: dict[str, list[float]]
    weights: dict[str, np.ndarray]
    optimizer: dict[str, np.ndarray]
    best_weights: dict[str, np.ndarray]
    best: int
    evidence: dict[str, dict[str, np.ndarray]]
    masks: dict[str, np.ndarray]


def dataset_of(
    recipe: Recipe,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
    name: str | None = None,
) -> Dataset:
    """The data of a recipe's trainings.

    Args:
        recipe: The recipe.
        data_dir: Directory of TFDS data.
        download: Whether TFDS may download.
        name: Of other data that is to be like it.
    """
    return data.load(
        recipe.dataset if name is None else name,
        data_dir,
        download,
        normalize=recipe.normalize,
        train_size=recipe.train_size,
        label_noise=recipe.label_noise,
        seed=recipe.data_seed,
    )


class Trainer(Network):
    """Trains the network of a recipe from tickets.

    The result of a training depends on its arguments alone, not on trainings before.

    Args:
        recipe: Recipe of the training.
        dataset: To train, validate and test on.
        build: Makes the network from (image shape, classes).
        factor: Factor on the recipe's learning rate.
        stops: Steps at which `prefix` will be asked to stop.
        keep_dense: As of `tfticket.prune`.
    """

    def __init__(
        self,
        recipe: Recipe,
        dataset: Dataset,
        build: Builder,
        factor: float = 1.0,
        stops: Sequence[int] = (),
        keep_dense: bool = False,
    ):
        self.recipe = recipe
        self._initial: dict[int, dict[str, np.ndarray]] = {}
        self._build = lambda: build(dataset.image_shape, dataset.classes)
        # Seeds of dropout are drawn when layers are made.
        keras.utils.set_random_seed(0)
        super().__init__(
            prune(made_alike(self._build), recipe.excluded, keep_dense=keep_dense),
            recipe.optimizer_for(factor),
            dataset,
            recipe.batch_size,
            recipe.evaluate_every,
            stops,
            recipe.augment,
        )

    def initial_weights(self, seed: int) -> dict[str, np.ndarray]:
        """The weights that a network made with this seed begins with, by name."""
        if seed not in self._initial:
            keras.utils.set_random_seed(seed)
            weights = State(named_weights(made_alike(self._build))).values
            self._initial = {seed: weights}  # the rounds of a replicate ask for them
        return self._initial[seed]

    @functools.cached_property
    def config(self) -> dict[str, Any]:
        """The architecture of the network, as a ticket's provenance has it."""
        return plain_config(self.model)

    def dense(self, weights: Mapping[str, np.ndarray]) -> Ticket:
        """These weights with nothing pruned."""
        masks = get_masks(self.model)
        return Ticket({k: np.ones_like(m) for k, m in masks.items()}, weights)

    def train_ticket(
        self,
        start: Ticket,
        order: Order,
        optimizer: Mapping[str, np.ndarray] | None = None,
        checkpoint: Checkpoint | None = None,
        on_evaluation: Callable[[int], None] | None = None,
        callbacks: Sequence[keras.callbacks.Callback] = (),
        begin: int = 0,
        observers: Sequence[keras.callbacks.Callback] = (),
    ) -> Trained:
        """Trains a ticket to the recipe's last iteration, whose weights it then has.

        Args:
            start: Masks and the weights to start from.
            order: Order of the data.
            optimizer: Its variables by number; `None` resets the optimizer.
            checkpoint: Where a training that was cut off goes on, and is kept.
            on_evaluation: Called with the step reached at each evaluation.
            callbacks: Further callbacks of `fit`, which may change masks.
            begin: The iteration that it begins at.
            observers: Callbacks of `fit` that change nothing.
        """
        keras.utils.set_random_seed(order.seed)
        self.put(start, order.seed, optimizer)
        needs = criteria.needs(self.recipe.criterion)
        following = Following(self.model, needs, decay=0.99)
        recorder = self.train(
            order.seed,
            self.recipe.iterations,
            order.first_step,
            checkpoint=checkpoint,
            on_evaluation=on_evaluation,
            callbacks=[
                *callbacks,
                keras.callbacks.LambdaCallback(
                    on_train_batch_end=lambda batch, logs: following.update()
                ),
            ],
            begin=begin,
            observers=observers,
        )
        trained = Trained(
            recorder.metrics,
            self.weights,
            self.optimizer_state.values,
            recorder.best_weights,
            recorder.best,
            following.evidence(),
            get_masks(self.model),
        )
        if callbacks:
            # The best weights may have had other masks, which are zeros in them.
            set_masks(
                self.model, {k: np.ones_like(m) for k, m in trained.masks.items()}
            )
        return trained

    def prefix(
        self, start: Ticket, order: Order, steps: int
    ) -> dict[str, dict[str, np.ndarray]]:
        """Weights ("weights") and optimizer ("optimizer") after the first steps."""
        keras.utils.set_random_seed(order.seed)
        self.put(start, order.seed)
        self.fit(order.seed, order.first_step, epochs=1, steps_per_epoch=steps)
        return {"weights": self.weights, "optimizer": self.optimizer_state.values}

    def put(
        self,
        ticket: Ticket,
        seed: int = 0,
        optimizer: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """Gives the model masks and weights; all else is as in a new one.

        Args:
            ticket: Masks and weights.
            seed: Seed of the model's dropout.
            optimizer: Variables of the optimizer by number; `None` is a new one's.
        """
        self.reset(seed)
        if optimizer is not None:
            state = self.optimizer_state
            state.values = dict(optimizer)
            state.restore()
        # After the optimizer: slots of what the ticket prunes go to rest.
        ticket.apply(self.model)

    def pruner(self, seed: int, criterion: str | None = None) -> Pruner:
        """A pruner of the model as it now is, with the recipe's scope."""
        criterion = criterion or self.recipe.criterion
        return Pruner(
            self.model,
            criterion,
            "layerwise" if self.recipe.scope == "layerwise" else "global",
            data=self.calibration_data(seed, self.recipe.calibration)
            if kinds_from_data(criterion)
            else None,
            seed=seed,
        )

    @property
    def rigl_data(self) -> tuple[np.ndarray, np.ndarray]:
        """Images and labels that RigL's gradients are taken over."""
        images, labels = self.dataset.train
        return images[:_RIGL_IMAGES], labels[:_RIGL_IMAGES]

    def calibration_data(
        self, seed: int, per_class: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Training images and labels for a criterion, as many of each class.

        Args:
            seed: Decides which.
            per_class: How many of each class that there is.

        Raises:
            ValueError: If a class has fewer.
        """
        images, labels = self.dataset.train
        random = np.random.default_rng(derived_seed(seed, "calibration"))
        chosen = []
        for kind in np.unique(labels):
            places = np.flatnonzero(labels == kind)
            if len(places) < per_class:
                raise ValueError(
                    f"A criterion is to have {per_class} training images per class. "
                    f"Of class {kind}, '{self.dataset.name}' has {len(places)}."
                )
            chosen.append(random.permutation(places)[:per_class])
        # Mixed, for batches of them.
        numbers = random.permutation(np.concatenate(chosen))
        return images[numbers], labels[numbers]

    def check_rounds(self, rounds: int) -> None:
        """Refuses rates that leave a layer without a weight in one of the rounds."""
        pruner = self.pruner(derived_seed(0, "criterion"))
        own = self._own_rates(pruner)
        if pruner.sizes() and not any(own.get(name, 1) for name in pruner.sizes()):
            raise ValueError(
                "Every layer is left dense, by a rate of 0, and nothing is pruned. "
                f"Received: output_rate={self.recipe.output_rate}, "
                f"conv_rate={self.recipe.conv_rate}, rates={self.recipe.rates}"
            )
        pruner.check_rounds(rounds, self.recipe.rate, own)

    def _own_rates(self, pruner):
        recipe = self.recipe
        own = pruner.rates(
            recipe.rate, recipe.output_rate, recipe.rates_for(self.model)
        )
        if recipe.scope == "global" and recipe.output_rate is not None:
            # Left out of the one cut.
            own |= dict.fromkeys(pruner.outputs & set(pruner.structures), 0.0)
        return own

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
