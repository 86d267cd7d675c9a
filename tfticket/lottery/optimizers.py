"""Optimizers of a recipe: Keras's own as text, L2 in the gradient, schedules."""

import json
from collections.abc import Sequence
from typing import Any

import keras

from tfticket import devices
from tfticket.common.arguments import shown
from tfticket.keras_models import internals

OWN = ("adam", "sgd")
"""Optimizers that a recipe has by name."""

# A schedule that ends this far below its highest rate ends at nothing.
_NOTHING = 1e-3


def as_text(optimizer: keras.optimizers.Optimizer) -> str:
    """An optimizer's class and configuration as JSON: equal ones have the same text.

    What its class has by default is left out, so that an argument which a later Keras
    adds changes no text; so is its name. The learning rate is always there.

    Args:
        optimizer: An optimizer of Keras, or a subclass that is registered with Keras.

    Raises:
        ValueError: If its configuration does not say all of it.

    Example:

    >>> as_text(keras.optimizers.SGD(0.5, nesterov=True, momentum=0.8))[:48]
    '{"class_name": "SGD", "config": {"learning_rate"'
    """
    _check_told(optimizer)
    serialized = _serialized(optimizer)
    config = serialized["config"]
    try:
        usual = type(optimizer)().get_config()
    except TypeError:  # a subclass whose arguments have no defaults
        usual = {}
    usual = {**usual, "learning_rate": ..., "name": config.get("name")}
    serialized["config"] = {
        name: value for name, value in config.items() if value != usual.get(name, ...)
    }
    text = json.dumps(serialized, sort_keys=True)
    _read(text)
    return text


def from_text(text: str, factor: float = 1.0) -> keras.optimizers.Optimizer:
    """A new optimizer of what `as_text` returned.

    Args:
        text: The text.
        factor: Factor on its learning rate, which may be a schedule.

    Raises:
        ValueError: If the text is no optimizer's.
    """
    serialized = _parsed(text)
    rate = serialized["config"]["learning_rate"]
    if factor != 1.0:
        scaled = rate * factor if _is_number(rate) else _scaled(rate, factor)
        serialized["config"]["learning_rate"] = scaled
    return keras.saving.deserialize_keras_object(serialized)


def with_last_rate(text: str, iterations: int) -> str:
    """The same optimizer at the learning rate that its schedule ends with.

    Args:
        text: What `as_text` returned.
        iterations: Steps of the training.

    Returns:
        The text of an optimizer with a constant rate. It is a tenth of the highest one
        where the rate never falls, or falls to nothing.
    """
    serialized = _parsed(text)
    rate = serialized["config"]["learning_rate"]
    if _is_number(rate):
        last = highest = rate
    else:
        schedule = keras.saving.deserialize_keras_object(rate)
        steps = {0, iterations - 1, *range(0, iterations, max(1, iterations // 100))}
        highest = max(float(schedule(step)) for step in steps)
        last = float(schedule(iterations - 1))
    falls = highest * _NOTHING < last < highest
    serialized["config"]["learning_rate"] = last if falls else highest * 0.1
    return json.dumps(serialized, sort_keys=True)


def averages(text: str) -> bool:
    """Whether an optimizer keeps an average of the weights (`use_ema`).

    Args:
        text: What `as_text` returned.
    """
    return bool(_parsed(text)["config"].get("use_ema"))


def with_l2(
    optimizer: keras.optimizers.Optimizer, l2: float
) -> keras.optimizers.Optimizer:
    """The same optimizer, which adds `l2 * weight` to every gradient.

    That is the weight decay of PyTorch's SGD and of the papers: a gradient of the
    penalty `l2 / 2 * sum(weight ** 2)` over all trainable variables. It goes through
    momentum and learning rate as the loss's own does, while Keras's `weight_decay` is
    decoupled from both. No loss that is reported has the penalty in it.

    Args:
        optimizer: An optimizer, not built.
        l2: The factor, above 0.
    """
    kind = type(optimizer)
    made: Any = type(kind.__name__, (_AddsL2, kind), {"l2": l2})
    return made.from_config(optimizer.get_config())


class _AddsL2:
    """Comes before the class of an optimizer."""

    l2 = 0.0

    def apply(self, grads, trainable_variables=None):
        if trainable_variables is None:
            variables = internals.trainable_variables(self)
        else:
            variables = trainable_variables = list(trainable_variables)
        # Devices that share a batch add their gradients up, on TensorFlow.
        on_tensorflow = keras.backend.backend() == "tensorflow"
        factor = self.l2 / (devices.replicas() if on_tensorflow else 1)
        grads = [
            gradient if gradient is None else gradient + factor * variable
            for gradient, variable in zip(grads, variables, strict=True)
        ]
        return super().apply(grads, trainable_variables)


@keras.saving.register_keras_serializable(package="tfticket")
class WarmupAndDrops(keras.optimizers.schedules.LearningRateSchedule):
    """A learning rate that rises in a line, then is divided by 10 at given steps.

    Args:
        rate: The learning rate between the two.
        warmup: Steps of the rise.
        drops: Steps of the divisions.

    Example:

    >>> schedule = WarmupAndDrops(1.0, warmup=10, drops=[100])
    >>> [round(float(schedule(step)), 3) for step in (0, 4, 9, 50, 100)]
    [0.1, 0.5, 1.0, 1.0, 0.1]
    """

    def __init__(self, rate: float, warmup: int = 0, drops: Sequence[int] = ()):
        super().__init__()
        self.rate, self.warmup, self.drops = rate, warmup, tuple(drops)

    def __call__(self, step):
        step = keras.ops.cast(step, "float32")
        rate = keras.ops.convert_to_tensor(self.rate, "float32")
        if self.warmup:
            rate = rate * keras.ops.minimum(1.0, (step + 1.0) / self.warmup)
        for drop in self.drops:
            rate = keras.ops.where(step >= drop, rate / 10.0, rate)
        return rate

    def get_config(self) -> dict[str, Any]:
        return {"rate": self.rate, "warmup": self.warmup, "drops": list(self.drops)}


def cosine(
    rate: float, iterations: int, warmup: int = 0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A learning rate that falls to 0 as a cosine, after a rise from 0 in a line.

    Args:
        rate: The highest rate.
        iterations: Steps of rise and fall together.
        warmup: Steps of the rise.

    Example:

    >>> schedule = cosine(1.0, iterations=110, warmup=10)
    >>> [round(float(schedule(step)), 3) for step in (0, 5, 10, 60, 110)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    if not warmup:
        return keras.optimizers.schedules.CosineDecay(rate, iterations)
    return keras.optimizers.schedules.CosineDecay(
        0.0, iterations - warmup, warmup_target=rate, warmup_steps=warmup
    )


@keras.saving.register_keras_serializable(package="tfticket")
class Scaled(keras.optimizers.schedules.LearningRateSchedule):
    """Another schedule's learning rate times a factor.

    Args:
        schedule: The schedule.
        factor: The factor.

    Example:

    >>> float(Scaled(WarmupAndDrops(1.0, drops=[10]), 0.5)(20))
    0.05000000074505806
    """

    def __init__(
        self,
        schedule: keras.optimizers.schedules.LearningRateSchedule,
        factor: float,
    ):
        super().__init__()
        self.schedule, self.factor = schedule, factor

    def __call__(self, step):
        return self.schedule(step) * self.factor

    def get_config(self) -> dict[str, Any]:
        schedule = keras.saving.serialize_keras_object(self.schedule)
        return {"schedule": schedule, "factor": self.factor}

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Scaled":
        schedule = keras.saving.deserialize_keras_object(config["schedule"])
        return cls(schedule, config["factor"])


def _scaled(schedule, factor):
    schedule = keras.saving.deserialize_keras_object(schedule)
    return keras.saving.serialize_keras_object(Scaled(schedule, factor))


def _check_told(optimizer):
    """Refuses what the configuration of an optimizer does not tell."""
    name = type(optimizer).__name__
    if len(list(internals.inner_optimizers(optimizer))) > 1:
        raise ValueError(
            f"optimizer={name} wraps another optimizer. Pass that one; Keras itself "
            "scales losses where the dtype policy asks for it."
        )
    if internals.has_undecayed_variables(optimizer):
        raise ValueError(
            f"optimizer={name} has variables that exclude_from_weight_decay named, "
            "which its configuration does not tell, so that the run could not be "
            "repeated. Leave that call out."
        )


def _serialized(optimizer):
    try:
        serialized = keras.saving.serialize_keras_object(optimizer)
        json.dumps(serialized)
    except TypeError as error:
        raise ValueError(
            "The configuration of an optimizer must be JSON-ready, because it defines "
            f"the run: {error}. Received: optimizer={shown(optimizer)}"
        ) from error
    rate = serialized["config"].get("learning_rate")
    if not (_is_number(rate) or _is_schedule(rate)):
        raise ValueError(
            "The learning rate of an optimizer must be a number or a schedule of "
            "keras.optimizers.schedules, which can be kept as text. Received: "
            f"optimizer={shown(optimizer)} with learning_rate={shown(rate)}"
        )
    return serialized


def _read(text):
    """Tries what a run that is resumed will do."""
    try:
        from_text(text)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "An optimizer must be made again from its configuration: register its "
            "class with keras.saving.register_keras_serializable. "
            f"Received: optimizer={shown(text)}. Keras says: {error}"
        ) from error


def _parsed(text):
    try:
        found = json.loads(text)
        if not _is_number(found["config"]["learning_rate"]):
            found["config"]["learning_rate"]["class_name"]
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(
            "optimizer must be 'adam', 'sgd' or an optimizer of Keras, such as "
            "keras.optimizers.SGD(0.1, momentum=0.8). "
            f"Received: optimizer={shown(text)}"
        ) from error
    return found


def _is_schedule(serialized):
    try:
        found = keras.saving.deserialize_keras_object(serialized)
    except (TypeError, ValueError):
        return False
    return isinstance(found, keras.optimizers.schedules.LearningRateSchedule)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool)
