"""`Together`: several trainings of one network in one program of JAX."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfticket.data import EVALUATION_BATCH
from tfticket.lottery.engine.network import METRICS
from tfticket.lottery.engine.trainer import Order, Trained, Trainer
from tfticket.lottery.recipe import Recipe
from tfticket.pruning.evidence import Following
from tfticket.pruning.masks import get_masks
from tfticket.sparsity import criteria
from tfticket.tickets.ticket import Ticket


def check(recipe: Recipe, strategy: str = "none", callbacks: Any = ()) -> None:
    """Refuses what can't be trained together, before anything is loaded.

    Args:
        recipe: The recipe of an experiment.
        strategy: As of `LotteryExperiment.run`.
        callbacks: As of `LotteryExperiment.run`.

    Raises:
        ValueError: If the backend is not JAX, devices share a batch, there are
            callbacks, images are changed at random, or the criterion follows the steps
            of a training.
    """
    if (backend := keras.backend.backend()) != "jax":
        raise ValueError(
            "Trainings in one program need Keras on JAX, and this is Keras on "
            f"{backend}. Set KERAS_BACKEND=jax before Keras is imported."
        )
    if strategy != "none":
        raise ValueError(
            "Trainings in one program share one device. "
            f"Received: runner='vmap', strategy={strategy!r}"
        )
    if callbacks:
        raise ValueError(
            "Trainings in one program have no epochs that callbacks could watch. Train "
            "them one by one. Received: runner='vmap' with callbacks"
        )
    if recipe.augment:
        raise ValueError(
            "Trainings in one program take images as they lie on the device, and "
            f"augment={recipe.augment!r} changes them on the host. Train them one by "
            "one."
        )
    if summed := recipe.sums_up:
        raise ValueError(
            f"Criterion '{recipe.criterion}' follows the {summed[0]} of every step, "
            "which trainings in one program don't show. Train them one by one."
        )


class Together:
    """Trains tickets of one trainer side by side: a `vmap` over weights, masks, orders.

    A whole training is one `lax.scan` over its evaluations, with one over the steps of
    each inside. The images lie on the device, and so do the best weights so far, so
    that the host has nothing to do until the end. It is compiled once for each number
    of tickets. What comes out differs by rounding from a training alone.

    Args:
        trainer: Its recipe has passed `check`.

    Attributes:
        compilations: How many programs were compiled so far.
    """

    def __init__(self, trainer: Trainer):
        import jax

        self._trainer = trainer
        self._steps = trainer.recipe.evaluate_every
        data = trainer.dataset
        self._train = tuple(map(jax.numpy.asarray, data.train))
        self._validation = tuple(map(jax.numpy.asarray, data.validation))
        self.compilations = 0
        trainer.evaluate("validation")  # which makes the variables of the metrics
        # Data are arguments, since constants would be compiled into the program.
        self._program = jax.jit(jax.vmap(self._training, in_axes=(0, 0, None, None)))

    def train(
        self,
        starts: Sequence[tuple[Ticket, Mapping[str, np.ndarray] | None]],
        orders: Sequence[Order],
        begin: int = 0,
    ) -> "Results":
        """Trains tickets to the recipe's last iteration.

        Args:
            starts: Each a ticket and the variables of the optimizer or `None`, as for
                `Trainer.train_ticket`.
            orders: The order of the data of each.
            begin: The iteration that they begin at, one of an evaluation.
        """
        import jax

        needs = criteria.needs(self._trainer.recipe.criterion)
        states, evidence = [], []
        for (ticket, optimizer), order in zip(starts, orders, strict=True):
            self._trainer.put(ticket, order.seed, optimizer)
            groups = variables_of(self._trainer.model)
            states.append([[np.array(x) for x in group] for group in groups])
            following = Following(self._trainer.model, needs, decay=0.99)
            evidence.append(following.evidence())
        state = jax.tree.map(lambda *values: np.stack(values), *states)
        numbers = np.stack([self._numbers(order, begin) for order in orders])
        found = self._program(state, numbers, self._train, self._validation)
        return Results(self._trainer, begin, evidence, *jax.tree.map(np.asarray, found))

    def _numbers(self, order, begin):
        """The images of each step: (evaluations, steps, batch)."""
        data = self._trainer.dataset
        labels = data.train[1]
        numbered = dataclasses.replace(data, train=(np.arange(len(labels)), labels))
        batches = numbered.training_pipeline(
            *(self._trainer.recipe.batch_size, order.seed),
            first_step=order.first_step + begin,
        ).take(self._trainer.recipe.iterations - begin)
        found = [numbers for numbers, _ in batches.as_numpy_iterator()]
        return np.reshape(found, (-1, self._steps, len(found[0]))).astype(np.int32)

    def _training(self, state, numbers, train, validation):
        """State at the end, best weights, and the metrics of every evaluation."""
        import jax
        from jax import numpy as jnp

        self.compilations += 1  # when it is traced

        def step(state, numbers):
            x, y = (values[numbers] for values in train)
            logs, state = self._trainer.model.train_step(state, (x, y))
            return tuple(state), logs

        def evaluated(carry, numbers):
            (*state, measured), best, lowest = carry
            measured = jax.tree.map(jnp.zeros_like, measured)
            state, logs = jax.lax.scan(step, (*state, measured), numbers)
            logs = {name: values[-1] for name, values in logs.items()}
            found = self._evaluated(state, validation)
            logs |= {f"val_{name}": value for name, value in found.items()}
            loss = jnp.nan_to_num(found["loss"], nan=jnp.inf, posinf=jnp.inf)
            better = ~(loss >= lowest)  # of the first too, which is compared with NaN
            best = jax.tree.map(
                lambda new, old: jnp.where(better, new, old), state[:2], best
            )
            return (state, best, jnp.where(better, loss, lowest)), logs

        state = tuple(state)
        carry = state, state[:2], jnp.asarray(jnp.nan, jnp.float32)
        (state, best, _), logs = jax.lax.scan(evaluated, carry, numbers)
        return state, best, logs

    def _evaluated(self, state, images):
        """Loss and accuracy over the validation part, as `evaluate` computes them."""
        import jax
        from jax import numpy as jnp

        trainable, others, _, measured = state

        def step(measured, batch):
            given = trainable, others, measured
            logs, (*_, measured) = self._trainer.model.test_step(given, batch)
            return measured, logs

        count = len(images[1])
        size = min(EVALUATION_BATCH, count)
        whole = count - count % size
        batches = tuple(x[:whole].reshape(-1, size, *x.shape[1:]) for x in images)
        measured = jax.tree.map(jnp.zeros_like, measured)
        measured, logs = jax.lax.scan(step, measured, batches)
        if whole < count:
            return step(measured, tuple(x[whole:] for x in images))[1]
        return {name: values[-1] for name, values in logs.items()}


class Results:
    """What trainings came to; taking one leaves its weights in the trainer's model.

    Args:
        trainer: The trainer.
        begin: The iteration that they began at.
        evidence: The evidence that each training gives the criterion.
        state: Variables at the end, each with an axis for the trainings.
        best: Trainable and other variables at the minimum validation loss.
        metrics: Name to an array of (trainings, evaluations).
    """

    def __init__(
        self,
        trainer: Trainer,
        begin: int,
        evidence: Sequence[dict[str, dict[str, np.ndarray]]],
        state: Any,
        best: Any,
        metrics: Mapping[str, np.ndarray],
    ):
        self._trainer, self._begin, self._evidence = trainer, begin, evidence
        self._state, self._best, self._metrics = state, best, metrics

    def __len__(self) -> int:
        return len(self._evidence)

    def __iter__(self) -> Iterator[Trained]:
        return map(self._trained, range(len(self)))

    def _trained(self, index):
        trainer, recipe = self._trainer, self._trainer.recipe
        self._put(self._best, index)
        best_weights = trainer.weights
        self._put(self._state, index)
        every = recipe.evaluate_every
        steps = range(self._begin + every, recipe.iterations + 1, every)
        metrics: dict[str, list[float]] = {"iteration": list(steps)}
        for name in METRICS[1:]:
            metrics[name] = [float(x) for x in self._metrics[name][index]]
        losses = np.array(metrics["val_loss"])
        return Trained(
            metrics,
            trainer.weights,
            trainer.optimizer_state.values,
            best_weights,
            int(np.argmin(np.where(np.isnan(losses), np.inf, losses))),
            self._evidence[index],
            get_masks(trainer.model),
        )

    def _put(self, groups, index):
        # The best has fewer groups: the optimizer and the metrics have nothing to do
        # with weights.
        variables = variables_of(self._trainer.model)
        for group, values in zip(variables, groups, strict=False):
            for variable, value in zip(group, values, strict=True):
                variable.assign(value[index])


def variables_of(model: Any) -> tuple[list[keras.Variable], ...]:
    """The variables of a compiled model as a step on JAX takes and returns them.

    Args:
        model: Its optimizer's slots are made.
    """
    return (
        model.trainable_variables,
        model.non_trainable_variables,
        model.optimizer.variables,
        model.metrics_variables,
    )
