"""Iterative magnitude pruning with rewinding, inside one `fit`."""

import warnings
from collections.abc import Callable, Mapping
from typing import Any, Literal

import keras
import numpy as np

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_function,
    check_instance,
    check_integer,
    check_number,
    check_rate,
    check_sparsity,
    check_values,
    optional,
)
from tfticket.keras_models.names import Pattern, named_weights
from tfticket.keras_models.variables import State, built_optimizer
from tfticket.pruning.engine import Pruner
from tfticket.pruning.evidence import Following
from tfticket.pruning.masks import get_masks, get_pruned_weights, set_masks
from tfticket.pruning.step_callback import claim_masks, release_masks
from tfticket.sparsity import criteria, structures
from tfticket.sparsity.structures import Unstructured
from tfticket.sparsity.topk import density
from tfticket.tickets.evaluation import check_test_data, evaluate, try_test_data
from tfticket.tickets.rounds import RoundRecord, flat, plan_rounds
from tfticket.tickets.ticket import Ticket, plain_config, zero_masked

# What is monitored by default, also where there is no validation.
_MONITOR = "val_loss"
# Prefix of the optimizer's variables in a state, where no layer's name can be.
_OPTIMIZER = "optimizer:"


class IterativeMagnitudePruning(keras.callbacks.Callback):
    """Finds a lottery ticket in one `model.fit`: trains, prunes, rewinds, and repeats.

    `fit` trains `rounds + 1` times for the same number of epochs. After each round
    except the last, the kept weights with the lowest scores are pruned, and the others
    are rewound, with the optimizer's state, the learning-rate schedule and BatchNorm
    statistics (Frankle & Carbin 2019, arXiv 1803.03635; rewinding to a later step:
    1912.05671; `rewind_to=None` does not rewind: it is the prune and fine-tune of Han
    et al., 1506.02626). Every round trains for the same number of steps, so a round
    that is rewound to step k ends k steps later than the first.

    Pruning and rewinding happen at the beginning of the next round's first epoch, so
    that callbacks see the trained weights before. What other callbacks remember is not
    rewound: use a learning-rate schedule of the optimizer instead of
    `LearningRateScheduler` or `ReduceLROnPlateau`, and no `EarlyStopping`.

    The logs of every epoch contain `round` and `density`. Once per round they contain
    each field of `records` as `round_*`, so `History` has them.

    Args:
        rounds: Number of prunings, 1 or more. After r rounds, density is
            about `(1 - rate) ** r`.
        rate: Fraction of the kept weights pruned after a round, in (0, 1).
        output_rate: Rate of output layers; `None` is `rate / 2`. Only with
            `scope="layerwise"`.
        rates: Rates of individual weights, by path ("dense" or "dense/kernel"),
            compiled regular expression or layer class. They are ranked by themselves;
            0.0 leaves them dense.
        scope: `"layerwise"` prunes each weight by its rate; `"global"` ranks all
            of them together, output layers included, and prunes them by `rate`.
        rewind_to: Point to rewind to: 0 is the initial weights, k > 0 the
            weights after k steps or epochs of the first round. With `None`, weights
            and optimizer keep their state.
        rewind_unit: `"step"` or `"epoch"`.
        criterion: Name of a criterion of `tfticket.criteria`, or a function of
            a weight's array that returns scores; the highest are kept. Criteria that
            follow the training start again with each round.
        structure: What is pruned together, from `tfticket.structures`, for wrappers
            without their own. Rates then count its units.
        data: Data for criteria that need gradients: (x, y), or a dataset of batches.
        loss: The loss, if it is not the one that the model is compiled with.
        batches: Number of batches of the data to use.
        decay: Decay rate of the moving average of the criterion `recent_change`.
        allow_empty: Whether a weight may be pruned completely. If not, a weight that
            would lose all its units keeps its best one.
        monitor: Name of the log whose minimum is the best iteration.
        test_data: Anything that `model.evaluate` accepts as its only argument (a
            `tf.data.Dataset`), or a tuple `(x, y)`. It is evaluated after each round,
            with the last and with the best weights.
        seed: Seed of the run, stored in the tickets' provenance.
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

    # What it prunes and rewinds is its own count.
    alone = True

    def __init__(
        self,
        rounds: int,
        rate: float = 0.2,
        output_rate: float | None = None,
        scope: Literal["layerwise", "global"] = "layerwise",
        rewind_to: int | None = 0,
        rewind_unit: Literal["step", "epoch"] = "step",
        criterion: str | criteria.Criterion = "magnitude",
        structure: Unstructured | None = None,
        rates: Mapping[Pattern, float] | None = None,
        data: Any = None,
        loss: Any = None,
        batches: int | None = None,
        decay: float = 0.99,
        allow_empty: bool = False,
        monitor: str = _MONITOR,
        test_data: Any = None,
        seed: int | None = None,
        on_round_end: Callable[[RoundRecord, Ticket], None] | None = None,
    ):
        super().__init__()
        self.rounds = check_integer("rounds", rounds, 1)
        self.rate = check_rate("rate", rate)
        if output_rate is not None:
            output_rate = check_rate("output_rate", output_rate)
        self.output_rate = output_rate
        self.scope = check_choice("scope", scope, ("layerwise", "global"))
        if self.scope == "global" and output_rate is not None:
            raise ValueError(
                "output_rate has no meaning with scope='global', where one cut goes "
                f"through all weights. Received: output_rate={output_rate}"
            )
        if rewind_to is not None:
            rewind_to = check_integer("rewind_to", rewind_to, 0)
        self.rewind_to = rewind_to
        self.rewind_unit = check_choice("rewind_unit", rewind_unit, ("step", "epoch"))
        self.criterion = criterion
        criteria.needs(criterion)
        self.rates = check_values("rates", rates, check_sparsity)
        self.decay = check_number("decay", decay, above=0, below=1)
        self._pruning = {
            "structure": structures.get(structure),
            "allow_empty": check_bool("allow_empty", allow_empty),
            "data": data,
            "loss": loss,
            "batches": optional(check_integer, "batches", batches, 1),
        }
        self.monitor = check_instance("monitor", monitor, str, "the name of a log")
        self.test_data = check_test_data(test_data)
        self.seed = None if seed is None else check_integer("seed", seed, 0)
        if on_round_end is not None:
            check_function("on_round_end", on_round_end, "record", "ticket")
        self.on_round_end = on_round_end
        self.records: list[RoundRecord] = []
        self.ticket: Ticket | None = None

    def on_train_begin(self, logs=None):
        claim_masks(self)
        self._pruner = Pruner(
            self.model, self.criterion, self.scope, seed=self.seed, **self._pruning
        )
        for name, weight in get_pruned_weights(self.model).items():
            if not np.all(np.isfinite(weight)):
                raise ValueError(
                    f"Weight '{name}' has NaN or infinite values before training: "
                    "load or initialise the model again."
                )
        self._epochs_per_round, self._rewind_step = plan_rounds(
            self.rounds,
            self.rewind_to,
            self.rewind_unit,
            self.params["epochs"],
            self.params["steps"],
            self.model.steps_per_execution,
        )
        self._own_rates = self._pruner.rates(self.rate, self.output_rate, self.rates)
        self._pruner.check_rounds(self.rounds, self.rate, self._own_rates)
        self.records, self.ticket = [], None
        self._begun = False
        try_test_data(self.model, self.test_data)
        self._config = plain_config(self.model)
        self._optimizer = built_optimizer(self.model)
        self._rewind_state = self._capture() if self._rewind_step == 0 else None
        self._start_round(0)

    def on_epoch_begin(self, epoch, logs=None):
        if self._epoch == self._epochs_per_round:
            # Not at the end of the epoch before, so that whatever other callbacks
            # do there (save, log, evaluate) is done with the trained weights.
            self._next_round()
        if not self._begun and epoch > 0:
            raise ValueError(
                "IterativeMagnitudePruning starts at the first epoch. Received: "
                f"fit(initial_epoch={epoch}). To go on from an earlier run, apply its "
                "ticket to the model and fit for the remaining rounds."
            )
        self._begun = True

    def on_train_batch_end(self, batch, logs=None):
        self._following.update()
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
        if self._round == 0:
            self._require_monitored(logs)
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
        release_masks(self)

    def _next_round(self):
        masks = self._pruner.masks_after_round(
            self.rate, self._own_rates, self._following.evidence()
        )
        if self.rewind_to is not None:
            self._rewind_state.restore()
        set_masks(self.model, masks)
        self._start_round(self._round + 1)

    def _start_round(self, number):
        masks = get_masks(self.model)
        self._round = number
        self._epoch = 0
        self._executions = 0
        self._density = density(masks)
        self._parameters = sum(int(mask.sum()) for mask in masks.values())
        self._best = None
        self._following = Following(self.model, self._pruner.needs, self.decay)

    def _finish_round(self, logs):
        _, best_iteration, best_logs, best_weights = self._best or (None,) * 4
        test, best_test = evaluate(self.model, self.test_data), {}
        if best_weights is not None:
            last = State(named_weights(self.model))
            best_weights.restore()
            best_test = evaluate(self.model, self.test_data)
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
        return Ticket(
            masks=masks,
            weights=zero_masked(
                {k: w for k, w in weights.items() if not k.startswith(_OPTIMIZER)},
                masks,
            ),
            provenance={
                "config": self._config,
                "seed": self.seed,
                "criterion": criteria.name_of(self.criterion),
                "round": record.round,
                "step": self._rewind_step,
                "metrics": flat(record),
            },
        )

    def _require_monitored(self, logs):
        """Refuses a log that nothing writes, when the first epoch has shown them."""
        if self.monitor in logs or self.monitor == _MONITOR:
            return
        # Validation that does not follow every epoch writes its logs later.
        rare = self.monitor.startswith("val_") and self.monitor[len("val_") :] in logs
        if rare and not any(name.startswith("val_") for name in logs):
            if self._epoch == self._epochs_per_round and self._best is None:
                warnings.warn(
                    f"monitor='{self.monitor}' was in no log of the first round, so "
                    "its record has no best iteration. Pass validation_data to fit, "
                    "and validation_freq no longer than a round.",
                    stacklevel=4,
                )
            return
        raise ValueError(
            f"monitor='{self.monitor}' is not in the logs: {sorted(logs)}. Name one "
            "of these. What another callback adds to the logs is seen if that one "
            "comes first in callbacks."
        )

    def _capture(self):
        optimizer = {
            f"{_OPTIMIZER}{i}": variable
            for i, variable in enumerate(self._optimizer.variables)
        }
        return State({**named_weights(self.model), **optimizer})

    def _iteration(self):
        return int(keras.ops.convert_to_numpy(self._optimizer.iterations))
