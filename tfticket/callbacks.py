"""Iterative magnitude pruning with rewinding, inside one `fit`."""

import warnings
from collections.abc import Callable
from typing import Any, Literal

import keras
import numpy as np

from tfticket import criteria
from tfticket.graph import output_layers
from tfticket.masks import (
    density,
    prune_globally,
    prune_layerwise,
    pruned_count,
)
from tfticket.model_masks import (
    get_masks,
    get_pruned_weights,
    masked_names,
    named_weights,
    pruned_layers,
    set_masks,
)
from tfticket.optimizers import built_optimizer
from tfticket.records import RoundRecord, flat
from tfticket.schedules import check_rate, round_rates
from tfticket.state import State
from tfticket.tickets import Ticket, plain_config

# Prefix of the optimizer's variables in a state, where no layer's name can be.
_OPTIMIZER = "optimizer:"


class IterativeMagnitudePruning(keras.callbacks.Callback):
    """Finds a lottery ticket: train, prune, rewind, again, in one `model.fit`.

    `fit` trains `rounds + 1` times for the same number of epochs. At the end of
    each round but the last, the lowest-scored survivors are pruned, and what is
    left goes back to where it was at the rewind point, optimizer state,
    learning-rate schedule and BatchNorm statistics with it (Frankle & Carbin
    2019, arXiv 1803.03635; rewinding to a later step: 1912.05671; no rewinding,
    `rewind_to=None`, is the prune and fine-tune of Han et al., 1506.02626).
    Every round trains the same number of steps, so one that is rewound to step
    k ends k steps later than the first.

    Pruning and rewinding happen at the beginning of the next round's first epoch;
    callbacks see the trained weights before. What other callbacks remember is not
    rewound: give the optimizer a learning-rate schedule rather than use
    `LearningRateScheduler` or `ReduceLROnPlateau`, and no `EarlyStopping`.

    Logs get `round` and `density` every epoch, and each field of `records`
    under `round_*` once a round, so `History` has them.

    Args:
        rounds: How many times to prune, 1 or more. After r rounds, density is
            about `(1 - rate) ** r`.
        rate: Fraction of the survivors pruned at the end of a round, in (0, 1).
        output_rate: The same for output layers; `None` is `rate / 2`. Only with
            `scope="layerwise"`.
        scope: `"layerwise"` prunes each weight by its rate, `"global"` cuts all
            of them together, output layers included, by `rate`.
        rewind_to: Point to rewind to: 0 is the initial weights, k > 0 the
            weights after k steps or epochs of the first round, `None` no
            rewinding: weights and optimizer go on from where they are.
        rewind_unit: `"step"` or `"epoch"`.
        criterion: Name of a criterion of `tfticket.criteria`, or a function of
            a weight's array that returns scores, higher kept.
        monitor: Log whose minimum makes the best iteration.
        test_data: What `model.evaluate` takes as its one argument (a
            `tf.data.Dataset`), or a tuple `(x, y)`. Evaluated at the end of
            each round, with the last and with the best weights.
        seed: Seed of the run, kept in the tickets' provenance.
        on_round_end: Called with `(record, ticket)` after each round.

    Attributes:
        records: List of `RoundRecord`, one for each finished round.
        ticket: `Ticket` of the last finished round: the masks it trained under
            and the weights at the rewind point.

    Raises:
        ValueError: For arguments out of range; and, when `fit` starts and
            before it trains, if the model is not wrapped, its weights are not
            finite, epochs don't divide into rounds, or the rewind point is not
            one that a round passes through.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ... )
    >>> model.compile("adam", "mse")
    >>> imp = tfticket.IterativeMagnitudePruning(rounds=2, rate=0.5)
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> _ = model.fit(x, y, epochs=3, callbacks=[imp], verbose=0)
    >>> [record.parameters for record in imp.records]
    [8, 6, 4]
    """

    def __init__(
        self,
        rounds: int,
        rate: float = 0.2,
        output_rate: float | None = None,
        scope: Literal["layerwise", "global"] = "layerwise",
        rewind_to: int | None = 0,
        rewind_unit: Literal["step", "epoch"] = "step",
        criterion: str | criteria.Criterion = "magnitude",
        monitor: str = "val_loss",
        test_data: Any = None,
        seed: int | None = None,
        on_round_end: Callable[[RoundRecord, Ticket], None] | None = None,
    ):
        super().__init__()
        self.rounds = _check_integer("rounds", rounds, 1)
        self.rate = check_rate("rate", rate)
        if output_rate is not None:
            output_rate = check_rate("output_rate", output_rate)
        self.output_rate = output_rate
        self.scope = _check_choice("scope", scope, ("layerwise", "global"))
        if self.scope == "global" and output_rate is not None:
            raise ValueError(
                "output_rate has no meaning with scope='global', where one cut goes "
                f"through all weights. Received: output_rate={output_rate}"
            )
        if rewind_to is not None:
            rewind_to = _check_integer("rewind_to", rewind_to, 0)
        self.rewind_to = rewind_to
        self.rewind_unit = _check_choice("rewind_unit", rewind_unit, ("step", "epoch"))
        self.criterion = criterion
        self._score = criteria.get(criterion)
        self.monitor = monitor
        self.test_data = tuple(test_data) if isinstance(test_data, list) else test_data
        self.seed = None if seed is None else _check_integer("seed", seed, 0)
        self.on_round_end = on_round_end
        self.records: list[RoundRecord] = []
        self.ticket: Ticket | None = None

    def on_train_begin(self, logs=None):
        if not any(pruned_layers(self.model)):
            raise ValueError(
                f"Model '{self.model.name}' has no masks to prune with. Wrap it "
                "before you compile it: model = tfticket.prune(model)"
            )
        for name, weight in get_pruned_weights(self.model).items():
            if not np.all(np.isfinite(weight)):
                raise ValueError(
                    f"Weight '{name}' has NaN or infinite values before training: "
                    "load or initialise the model again."
                )
        self._epochs_per_round, self._rewind_step = self._plan()
        self._outputs = masked_names(self.model, output_layers(self.model))
        self._check_survivors()
        self.records, self.ticket = [], None
        self._config = plain_config(self.model)
        self._optimizer = built_optimizer(self.model)
        self._rewind_state = self._capture() if self._rewind_step == 0 else None
        self._start_round(0)

    def on_epoch_begin(self, epoch, logs=None):
        if self._epoch == self._epochs_per_round:
            # Not at the end of the epoch before, so that whatever other callbacks
            # do there (save, log, evaluate) is done with the trained weights.
            self._next_round()
        if epoch == 0 or self._epoch > 0 or self._round > 0:
            return
        raise ValueError(
            "IterativeMagnitudePruning starts at the first epoch. Received: "
            f"fit(initial_epoch={epoch}). To go on from an earlier run, apply its "
            "ticket to the model and fit for the rounds that are left."
        )

    def on_train_batch_end(self, batch, logs=None):
        if self._rewind_state is None and self._rewind_step is not None:
            # Counted, since Keras reports an execution of several steps by its
            # first or its last one, by version, and by one past the epoch's end.
            self._executions += 1
            steps = self.params["steps"]
            done = min(self._executions * self.model.steps_per_execution, steps)
            if self._epoch * steps + done == self._rewind_step:
                self._rewind_state = self._capture()

    def on_epoch_end(self, epoch, logs=None):
        logs = {} if logs is None else logs
        self._epoch += 1
        self._executions = 0
        metrics = {k: float(v) for k, v in logs.items() if np.ndim(v) == 0}
        logs.update(round=self._round, density=self._density)
        loss = metrics.get(self.monitor)
        if loss is not None and (self._best is None or loss < self._best[0]):
            weights = None
            if self.test_data is not None:
                weights = State(named_weights(self.model))
            self._best = (loss, self._iteration(), metrics, weights)
        if self._epoch < self._epochs_per_round:
            return
        record = self._finish_round(metrics)
        logs.update({f"round_{k}": v for k, v in flat(record).items() if k != "round"})

    def on_train_end(self, logs=None):
        if len(self.records) <= self.rounds:
            warnings.warn(
                f"Training stopped after {len(self.records)} of the {self.rounds + 1} "
                "trainings that IterativeMagnitudePruning was to do. A callback that "
                "stops early has no place here: best_iteration and best_test of each "
                "record are those of the early stop.",
                stacklevel=2,
            )
        # An average that the optimizer writes over the weights at the very end
        # has seen no constraint.
        set_masks(self.model, get_masks(self.model))

    def _next_round(self):
        masks = self._pruned_masks()
        if self.rewind_to is not None:
            self._rewind_state.restore()
        set_masks(self.model, masks)
        self._start_round(self._round + 1)

    def _pruned_masks(self):
        masks = get_masks(self.model)
        weights = get_pruned_weights(self.model)
        scores = {name: self._score(weight) for name, weight in weights.items()}
        if self.scope == "global":
            return prune_globally(scores, masks, self.rate)
        rates = round_rates(masks, self.rate, self._outputs, self.output_rate)
        return prune_layerwise(scores, masks, rates)

    def _check_survivors(self):
        """Refuses rates that leave a layer (globally, the model) without a weight."""
        left = {name: int(mask.sum()) for name, mask in get_masks(self.model).items()}
        rates = round_rates(left, self.rate, self._outputs, self.output_rate)
        if self.scope == "global":
            left, rates = {"the model": sum(left.values())}, {"the model": self.rate}
        for name, rate in rates.items():
            for number in range(1, self.rounds + 1):
                left[name] -= pruned_count(left[name], rate)
                if left[name] == 0:
                    raise ValueError(
                        f"rate={rate} leaves no weight of '{name}' after round "
                        f"{number} of rounds={self.rounds}. Use fewer rounds or a "
                        "lower rate."
                    )

    def _start_round(self, number):
        masks = get_masks(self.model)
        self._round = number
        self._epoch = 0
        self._executions = 0
        self._density = density(masks)
        self._parameters = sum(int(mask.sum()) for mask in masks.values())
        self._best = None

    def _finish_round(self, logs):
        _, best_iteration, best_logs, best_weights = self._best or (None,) * 4
        test, best_test = self._evaluate(), {}
        if best_weights is not None:
            last = State(named_weights(self.model))
            best_weights.restore()
            best_test = self._evaluate()
            last.restore()
        record = RoundRecord(
            round=self._round,
            density=self._density,
            parameters=self._parameters,
            iteration=self._iteration(),
            best_iteration=best_iteration,
            logs=logs,
            best_logs=best_logs or {},
            test=test,
            best_test=best_test,
        )
        self.records.append(record)
        self.ticket = self._make_ticket(record)
        if self.on_round_end is not None:
            self.on_round_end(record, self.ticket)
        return record

    def _make_ticket(self, record):
        masks = get_masks(self.model)
        # Without rewinding, what training goes on from is where it is now.
        weights = (self._rewind_state or State(named_weights(self.model))).values
        criterion = self.criterion
        return Ticket(
            masks=masks,
            weights={
                name: np.where(masks[name], weights[name], 0).astype(weight.dtype)
                if name in masks
                else weight
                for name, weight in weights.items()
                if not name.startswith(_OPTIMIZER)
            },
            provenance={
                "config": self._config,
                "seed": self.seed,
                "criterion": criterion
                if isinstance(criterion, str)
                else getattr(criterion, "__name__", repr(criterion)),
                "round": record.round,
                "step": self._rewind_step,
                "metrics": flat(record),
            },
        )

    def _evaluate(self):
        if self.test_data is None:
            return {}
        kwargs = {"verbose": 0, "return_dict": True}
        if isinstance(self.test_data, tuple):
            samples = len(keras.tree.flatten(self.test_data[0])[0])
            kwargs["batch_size"] = min(samples, 1024)
            results = self.model.evaluate(*self.test_data, **kwargs)
        else:
            results = self.model.evaluate(self.test_data, **kwargs)
        return {name: float(value) for name, value in results.items()}

    def _capture(self):
        optimizer = {
            f"{_OPTIMIZER}{i}": variable
            for i, variable in enumerate(self._optimizer.variables)
        }
        return State({**named_weights(self.model), **optimizer})

    def _iteration(self):
        return int(keras.ops.convert_to_numpy(self._optimizer.iterations))

    def _plan(self):
        """Epochs of a round and step of the rewind point, or a ValueError."""
        epochs, steps = self.params["epochs"], self.params["steps"]
        if epochs % (self.rounds + 1):
            raise ValueError(
                f"rounds={self.rounds} needs {self.rounds + 1} trainings of equal "
                f"length (one dense, one after each pruning), and epochs={epochs} is "
                f"no multiple of {self.rounds + 1}. Fit for "
                f"epochs={(epochs // (self.rounds + 1) + 1) * (self.rounds + 1)}, say."
            )
        epochs_per_round = epochs // (self.rounds + 1)
        if not self.rewind_to:
            return epochs_per_round, self.rewind_to
        if steps is None:
            raise ValueError(
                f"rewind_to={self.rewind_to} needs to know how many steps an epoch "
                "has, and this data does not say. Pass steps_per_epoch to fit."
            )
        step = self.rewind_to * (steps if self.rewind_unit == "epoch" else 1)
        if step >= epochs_per_round * steps:
            raise ValueError(
                f"rewind_to={self.rewind_to} {self.rewind_unit}s is not before the "
                f"end of a round, which has {epochs_per_round} epochs of {steps} steps."
            )
        per_execution = self.model.steps_per_execution
        if not isinstance(per_execution, int):
            raise ValueError(
                f"rewind_to={self.rewind_to} needs to know which steps run together. "
                f"Compile with a number, not steps_per_execution={per_execution!r}."
            )
        if step % steps % per_execution:
            raise ValueError(
                f"rewind_to={step} steps falls inside one execution of {per_execution} "
                "steps. Rewind to a multiple of steps_per_execution, or compile with "
                "one that divides it."
            )
        return epochs_per_round, step


def _check_integer(name, value, minimum):
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer. Received: {name}={value!r}")
    if value < minimum:
        raise ValueError(f"{name} must be at least {minimum}. Received: {name}={value}")
    return int(value)


def _check_choice(name, value, choices):
    if value not in choices:
        raise ValueError(f"{name} must be one of {choices}. Received: {name}={value!r}")
    return value
