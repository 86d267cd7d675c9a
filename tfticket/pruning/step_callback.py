"""`StepCallback`: what callbacks have in common that change masks before some steps."""

import math

import keras

from tfticket.common.arguments import check_integer
from tfticket.pruning.masks import ModelMasks, masked_layers
from tfticket.pruning.training_flops import FlopsMeter, TrainingFlops
from tfticket.sparsity.topk import density

# How far ahead the next step is asked for at a time.
_HORIZON = 1_000
# Where in the parameters of a fit, one dict that all of its callbacks are given, those
# that change masks are noted down.
_WHO = "tfticket_masks"


class StepCallback(keras.callbacks.Callback):
    """Acts before certain steps of `fit`, counted by the optimizer's `iterations`.

    A `fit` that resumes goes on where it was, and accumulated gradients count once.
    With `steps_per_execution` above 1 it acts late by less than one execution, never
    early. Logs get `sparsity`, that of all masked weights.

    A subclass with `logs_flops` logs `relative_flops` too, the operations of all steps
    so far as a fraction of those of dense steps.

    Subclasses say what is due when (`_next_due`), do it (`_act`), and may prepare with
    the first batch (`_begin`).
    """

    logs_flops = False
    _meter: FlopsMeter | None = None  # of the last fit

    def on_train_begin(self, logs=None):
        claim_masks(self)
        self._meter = None
        self._masked = ModelMasks.of(self.model)
        self._last_step = None  # that is trained; None if it is not known
        self._counted = 0  # executions, where no optimizer counts steps
        self._step = None  # the step up to which all that was due has been done
        self._wait = 0  # executions until the next look at the optimizer's count
        self._pace_known = True  # a `train_step` may update several times
        self._furthest = None  # step that the next look can find, one update a batch
        self._epoch = 0

    def on_train_batch_begin(self, batch, logs=None):
        if self._wait > 0:
            self._wait -= 1
            self._counted += 1
            return
        step = self._iterations()
        if self._step is None:
            # Not when training begins: another callback may still restore a backup.
            last = step + self._updates_left() - 1
            self._last_step = last if last >= step else None
            self._step = -1
            self._begin(step)
            self._meter = FlopsMeter(self.model, self._masked, step)
        self._follow(step)
        if self._furthest is None:
            executions = 1  # how many updates that is, is seen then
        else:
            self._pace_known &= step <= self._furthest
            executions = self._executions_until_due(step)
        self._furthest = step + executions * self._steps_an_execution()
        self._wait = executions - 1
        self._counted += 1

    def on_epoch_begin(self, epoch, logs=None):
        self._epoch = epoch
        # A callback may have set the optimizer back.
        self._wait = 0

    def on_epoch_end(self, epoch=None, logs=None, **kwargs):
        if logs is not None:
            logs["sparsity"] = 1 - density(self._masked.masks())
        if logs is not None and self.logs_flops and self._meter is not None:
            self._meter.up_to(self._iterations())
            relative = self._meter.relative()
            if relative is not None:
                logs["relative_flops"] = relative

    def on_train_end(self, logs=None):
        if self._meter is not None:
            self._meter.up_to(self._iterations())
        # An average that the optimizer writes over the weights at the very end
        # has seen no constraint.
        self._masked.set_masks({})
        release_masks(self)

    def training_flops(self, batch_size: int) -> TrainingFlops:
        """The operations of the last `fit`, sparse and if nothing had been pruned.

        Gradients that a method takes beside the steps are counted too.

        Args:
            batch_size: Samples per update of the optimizer.

        Raises:
            ValueError: If there has been no `fit`, or it is not known how often a layer
                uses its weights.

        Example:

        >>> model = tfticket.prune(
        ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(5)])
        ... )
        >>> model.compile("adam", "mse")
        >>> static = tfticket.DynamicSparseTraining(0.5, "static", seed=0)
        >>> x, y = np.ones((8, 4)), np.ones((8, 5))
        >>> _ = model.fit(x, y, batch_size=4, verbose=0, callbacks=[static])
        >>> static.training_flops(batch_size=4)
        TrainingFlops(flops=480, dense=960)
        """
        check_integer("batch_size", batch_size, 1)
        if self._meter is None:
            raise ValueError(
                f"No fit with this {type(self).__name__} has trained a step, so no "
                "operations have been counted. Call training_flops after fit."
            )
        return self._meter.total(batch_size)

    def _begin(self, step):
        """Prepares, once, before the first step of this `fit`, which is `step`."""

    def _act(self, first, last):
        """Does the latest of what is due in steps first..last."""
        raise NotImplementedError

    def _next_due(self, first, last):
        """The first step in first..last at which something is due, or `None`."""
        raise NotImplementedError

    def _follow(self, step):
        """Does what has fallen due since the last time."""
        if self._step is not None and step > self._step:
            if self._meter is not None:
                self._meter.up_to(step)
            self._act(self._step + 1, step)
            if self._meter is not None:
                self._meter.changed()
            self._step = step

    def _updates_left(self):
        """How often the optimizer will update in this fit, 0 if that is not known."""
        params = self.params or {}
        epochs = (params.get("epochs") or 0) - self._epoch
        optimizer = getattr(self.model, "optimizer", None)
        each = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        return max(0, epochs * (params.get("steps") or 0) // each)

    def _executions_until_due(self, step):
        """Executions to come before something can be due again, at least 1."""
        per_execution = self._steps_an_execution()
        if not self._pace_known or per_execution == math.inf:
            return 1
        last = step + _HORIZON
        if self._last_step is not None:
            # A schedule of one's own may know no step past the training's end.
            last = min(last, self._last_step)
        due = self._next_due(step + 1, last)
        steps = _HORIZON if due is None else due - step
        return max(1, steps // per_execution)

    def _steps_an_execution(self):
        """Batches to an execution, infinity where Keras chooses as it trains."""
        steps = getattr(self.model, "steps_per_execution", 1)
        return steps if isinstance(steps, int) else math.inf

    def _iterations(self):
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            return self._counted
        return int(keras.ops.convert_to_numpy(optimizer.iterations))


def claim_masks(callback: keras.callbacks.Callback) -> None:
    """Notes that a callback changes masks in this `fit`.

    Args:
        callback: One whose attribute `alone` is True is refused beside any other.

    Raises:
        ValueError: If another one does, and one of both must be alone; or if it is
            there twice.
    """
    for _, layer in masked_layers(callback.model):
        layer.has_pruner = True
    if callback.params is None:
        return  # a loop of one's own, whose callbacks don't know each other
    others = callback.params.setdefault(_WHO, [])
    for other in others:
        if other is callback:
            raise ValueError(
                f"The same {type(callback).__name__} began twice in one training, and "
                "would do everything twice. Pass it once in callbacks; in a loop of "
                "your own, call its on_train_end() before it begins again."
            )
        if getattr(callback, "alone", False) or getattr(other, "alone", False):
            names = " and ".join(type(x).__name__ for x in (other, callback))
            raise ValueError(
                f"{names} can't change the masks of one fit: each counts on how many "
                "weights are left, and the other changes that. Train with one, then "
                "call fit again with the other."
            )
    others.append(callback)


def release_masks(callback: keras.callbacks.Callback) -> None:
    """Takes back what `claim_masks` noted: the `fit` is over."""
    if callback.params is not None and callback in callback.params.get(_WHO, ()):
        callback.params[_WHO].remove(callback)
