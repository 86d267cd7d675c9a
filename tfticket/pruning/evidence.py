"""What criteria ask for beside the weight, gathered at once or while a model trains."""

from collections.abc import Callable, Collection, Iterable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfticket.keras_models.gradients import (
    each_batch,
    mean_gradient,
    mean_hessian_gradient,
)
from tfticket.keras_models.internals import jax_state_sync
from tfticket.keras_models.variables import host_copy
from tfticket.pruning.blocks import Hessians
from tfticket.pruning.calibration import batches_of, input_norms, require_seen
from tfticket.pruning.masks import get_pruned_weights, masked_weights
from tfticket.pruning.synflow import synaptic_flow
from tfticket.sparsity import criteria
from tfticket.sparsity.criteria import EVIDENCE, Criterion

FROM_DATA = ("gradient", "hessian_gradient")
FROM_INPUTS = ("input_norm", "input_hessian")
GATHERED = (*FROM_DATA, *FROM_INPUTS, "flow")


def kinds_from_data(criterion: str | Criterion) -> set[str]:
    """The kinds of evidence of a criterion that are gathered from data.

    Args:
        criterion: A name or function, as for `tfticket.criteria.needs`.

    Example:

    >>> kinds_from_data("snip"), kinds_from_data("magnitude")
    ({'gradient'}, set())
    """
    return {*FROM_DATA, *FROM_INPUTS} & set(criteria.needs(criterion))


def gather(
    model: keras.Model,
    kinds: Collection[str],
    data: Any = None,
    loss: str | Callable | keras.losses.Loss | None = None,
    batches: int | None = None,
    batch_size: int = 128,
    criterion: str | None = None,
) -> dict[str, dict[str, np.ndarray]]:
    """Gathers evidence from a wrapped model, which it leaves bit for bit as it is.

    Gradients are those of training: `training=True`, the mean over all samples, zero
    for what is pruned. The gradient in H g is that over all the data, and H is with
    respect to the masked weights. On TensorFlow it lacks a term where
    BatchNormalization takes statistics of a batch, about one part in as many as they
    are of: `tf.nn.moments` holds the mean still when it is differentiated twice.

    Args:
        model: A wrapped model.
        kinds: Names out of `GATHERED`: "gradient", "hessian_gradient", "input_norm",
            "input_hessian", "flow".
        data: Not for "flow": a tuple of arrays (x, y) or (x, y, sample_weight), or
            a `tf.data.Dataset`, a `keras.utils.PyDataset` or an iterable of such
            tuples as batches. "hessian_gradient" holds the batches in memory.
        loss: Name of a Keras loss, a `keras.losses.Loss`, or a function of (y,
            prediction). It is the loss alone; `None` is the loss the model is compiled
            with, with its regularizers and what layers add.
        batches: How many batches to take. `None` is all.
        batch_size: Samples a batch, for arrays. BatchNormalization takes its
            statistics from one.
        criterion: Whose evidence it is, for errors.

    Returns:
        Kind to name as in `tfticket.get_masks` to array in the weight's shape:
        float32 or wider, flow float64. "input_hessian" is a mapping to
        `tfticket.sparsity.rows.InputHessian`, which computes those of a layer when they
        are asked for.

    Raises:
        NotImplementedError: For flow, as `synaptic_flow`.
        ValueError: If the model has no masks, a kind is none of these, or data or
            loss are missing.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ... )
    >>> x, y = np.array([[1.0, 2.0]]), np.array([[0.0]])
    >>> found = gather(model, ["gradient"], (x, y), "mse")
    >>> weights = tfticket.pruning.masks.get_pruned_weights(model)
    >>> tfticket.criteria.score("snip", weights, found)["dense/kernel"].shape
    (2, 1)
    """
    kinds = [kinds] if isinstance(kinds, str) else list(kinds)
    for kind in kinds:
        if kind not in GATHERED:
            known = f" ({EVIDENCE[kind]})" if kind in EVIDENCE else ""
            raise ValueError(
                f"kinds must be out of {list(GATHERED)}. '{kind}'{known} can't be "
                "gathered from a model as it stands."
            )
    weights = _masked(model)
    for kind in kinds:
        if kind in (*FROM_DATA, *FROM_INPUTS):
            require_data(kind, model, data, loss, criterion)
    found: dict[str, Any] = {}
    if set(kinds) & set(FROM_INPUTS):
        kernels = {k: x for k, x in masked_weights(model).items() if x.is_kernel}
        require_seen(kernels)
        samples: Any = batches_of(data, batch_size, batches)
        if "input_hessian" in kinds:  # which may go over them again
            samples = list(samples)
        if "input_norm" in kinds:
            found["input_norm"] = input_norms(kernels, model, samples)
        if "input_hessian" in kinds:
            found["input_hessian"] = Hessians(model, kernels, samples)
    if "flow" in kinds:
        found["flow"] = synaptic_flow(model)
    if set(kinds) & set(FROM_DATA):
        names, variables = list(weights), list(weights.values())
        loss = as_loss(loss)
        source: Iterable[tuple] = each_batch(data, batch_size, batches)
        if "hessian_gradient" in kinds:
            # Gone over twice. Another pass might shuffle, or there may be none.
            source = list(source)
        gradient = mean_gradient(model, variables, source, loss)
        found["gradient"] = dict(zip(names, gradient, strict=True))
        if "hessian_gradient" in kinds:
            product = mean_hessian_gradient(model, variables, source, gradient, loss)
            # JAX differentiates the masked gradient's forward pass as an identity,
            # so the second derivative is masked here.
            found["hessian_gradient"] = {
                name: np.where(weight.mask, value, value.dtype.type(0))
                for (name, weight), value in zip(
                    masked_weights(model).items(), product, strict=True
                )
            }
    return {kind: found[kind] for kind in kinds}


class ChangeTracker:
    """Follows how much each masked weight changes from step to step.

    `update` adds |w_t - w_(t-1)|; call it after every training batch. Compiled with
    `steps_per_execution` above 1, a model is seen once an execution, and what
    happens between the first and the last of these steps is not. The sums are
    float32 (float64 for such weights), on the device, beside a copy of the weights.

    Args:
        model: A wrapped model.
        decay: `None` sums ("change"); a float in (0, 1) averages, each update by
            decay * average + (1 - decay) * |w_t - w_(t-1)| ("recent_change").

    Raises:
        ValueError: If the model has no masks or decay is out of range.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    ... )
    >>> tracker = ChangeTracker(model)
    >>> kernel = model.layers[0].layer.kernel
    >>> for step in (0.5, -0.5):
    ...     _ = kernel.assign_add([[step], [0.0]])
    ...     tracker.update()
    >>> tracker.values()["dense/kernel"].round(4)
    array([[1.],
           [0.]], dtype=float32)
    """

    def __init__(self, model: keras.Model, decay: float | None = None):
        if decay is not None and not 0.0 < decay < 1.0:
            raise ValueError(
                "decay must be a float in (0, 1), or None for a sum. "
                f"Received: decay={decay}"
            )
        self.decay = decay
        self.kind = "change" if decay is None else "recent_change"
        self._model = model
        self._weights = _masked(model)
        self._last = {
            name: keras.Variable(host_copy(weight), dtype=weight.dtype, trainable=False)
            for name, weight in self._weights.items()
        }
        self._totals = {
            name: keras.Variable(
                np.zeros(weight.shape),
                dtype="float64" if weight.dtype == "float64" else "float32",
                trainable=False,
            )
            for name, weight in self._weights.items()
        }
        if keras.backend.backend() == "tensorflow":
            import tensorflow as tf

            self._advance = tf.function(  # type: ignore[method-assign]
                self._advance, autograph=False
            )

    def update(self) -> None:
        """Adds what has changed since the last update."""
        self._sync()
        self._advance()

    def values(self) -> dict[str, np.ndarray]:
        """Name to the sum or average so far, zeros before the first update."""
        return _arrays(self._totals)

    def reset(self, keep: bool = False) -> None:
        """Starts again from the present weights: after rewinding, say.

        Args:
            keep: Whether to keep the sums and only forget the step to the present
                weights: after pruning, whose zeros are no training.
        """
        self._sync()
        for name, weight in self._weights.items():
            self._last[name].assign(host_copy(weight))
            if not keep:
                self._totals[name].assign(np.zeros(weight.shape))

    def _advance(self):
        for name, weight in self._weights.items():
            last, total = self._last[name], self._totals[name]
            now = ops.convert_to_tensor(weight.value)
            step = ops.cast(now, total.dtype) - ops.cast(last.value, total.dtype)
            if self.decay is None:
                total.assign_add(ops.abs(step))
            else:
                total.assign(self.decay * total + (1 - self.decay) * ops.abs(step))
            # A copy: on JAX the next step takes away the memory of the weight.
            last.assign(ops.copy(now))

    def _sync(self):
        # While `fit` runs on JAX, the weights are outside of the variables.
        jax_state_sync(self._model)


def _arrays(variables):
    return {name: host_copy(variable) for name, variable in variables.items()}


def _masked(model):
    weights = {name: x.variable for name, x in masked_weights(model).items()}
    if not weights:
        raise ValueError(
            f"Model '{model.name}' has no masks. Wrap it with tfticket.prune(model); "
            "one that is subclassed has them once it is built."
        )
    return weights


def require_repeatable(data: Any, who: str) -> None:
    """Raises a ValueError if data is used up after one pass.

    Args:
        data: As for `gather`.
        who: What goes over it, in words: "criterion='snip'".
    """
    if isinstance(data, Iterator):
        raise ValueError(
            f"{who} may go over the data several times, and {data!r} is used up after "
            "one. Pass a dataset or a list."
        )


def require_data(
    kind: str, model: keras.Model, data: Any, loss: Any, criterion: str | None = None
) -> None:
    """Raises a ValueError if evidence over data lacks the data or a loss."""
    who = f"Criterion '{criterion}' needs {kind}" if criterion else kind
    if data is None:
        raise ValueError(
            f"{who}{', which' if criterion else ''} is taken over data, and there is "
            "none. Pass data=(x, y) or a dataset of such batches."
        )
    if kind in FROM_INPUTS:
        return
    if loss is None and not getattr(model, "compiled", False):
        raise ValueError(
            f"{who}{', which' if criterion else ''} is of a loss, and there is none. "
            f"Compile model '{model.name}' with one, or pass loss=."
        )


class _FunctionLoss(keras.losses.Loss):
    """A function of (y, prediction) with the mean and sample weights of Keras."""

    def __init__(self, function):
        super().__init__(name="loss")
        self.function = function

    def call(self, y_true, y_pred):
        return self.function(y_true, y_pred)


def as_loss(loss: Any) -> keras.losses.Loss | None:
    """A loss of Keras, of its name, itself or a function; `None` of `None`."""
    if isinstance(loss, str):
        loss = keras.losses.get(loss)
    if loss is None or isinstance(loss, keras.losses.Loss):
        return loss
    if not callable(loss):
        raise ValueError(
            "loss must be the name of a Keras loss, a keras.losses.Loss or a function "
            f"of (y, prediction). Received: loss={loss!r}"
        )
    return _FunctionLoss(loss)


# Kinds of evidence that are summed up over the steps of a training.
SUMMED = ("change", "recent_change")
# Kinds of evidence that only a training gives.
FOLLOWED = ("initial", *SUMMED)


class Following:
    """Follows a training for the criteria that compare with or sum up its steps.

    Args:
        model: A wrapped model, with the weights that count as `initial`.
        needs: Kinds of evidence, of `tfticket.criteria.needs`; those that are not
            of a training are left out.
        decay: Decay rate of the moving average `recent_change`.
    """

    def __init__(self, model: keras.Model, needs: Collection[str], decay: float):
        self._initial = None
        if "initial" in needs:
            values = get_pruned_weights(model)
            self._initial = {name: np.array(value) for name, value in values.items()}
        decays = {"change": None, "recent_change": decay}
        self._trackers = [
            ChangeTracker(model, decays[kind]) for kind in needs if kind in decays
        ]

    def update(self) -> None:
        """After each execution of the training step."""
        for tracker in self._trackers:
            tracker.update()

    def evidence(self) -> dict[str, dict[str, np.ndarray]]:
        """Kind to name to array."""
        found = {tracker.kind: tracker.values() for tracker in self._trackers}
        if self._initial is not None:
            found["initial"] = self._initial
        return found

    def pruned(self) -> None:
        """After a pruning, whose zeros are no training."""
        for tracker in self._trackers:
            tracker.reset(keep=True)
