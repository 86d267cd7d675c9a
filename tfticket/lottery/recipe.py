"""`Recipe`: everything but the seed that decides the result of a training."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import keras

from tfticket import data, models
from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    check_rate,
)
from tfticket.keras_models.names import Pattern, named_layers
from tfticket.sparsity import criteria

# What `None` stands for depends on other fields.
_DERIVED = ("evaluate_every", "learning_rate", "output_rate", "conv_rate")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained and pruned. Equal recipes share a run's folder.

    Args:
        dataset: Name for `tfticket.data.load`.
        model: Name of one of `tfticket.models.MODELS`.
        width: Factor on the number of units and filters of every hidden layer.
        optimizer: `"adam"`, or `"sgd"` with momentum 0.9.
        learning_rate: Default: the paper's for the model with Adam, 0.1 with SGD.
        weight_decay: Decoupled weight decay of the optimizer, 0.0 for none.
        warmup: Steps over which the learning rate rises in a line from 0.
        drops: Steps at which the learning rate is divided by 10.
        batch_size: Images per step.
        iterations: Training steps in a round.
        evaluate_every: Steps between validations; must divide `iterations`. Default:
            a hundredth of them, from 10 to 100.
        augment: Random shifts by up to an eighth and horizontal flips.
        rate: Fraction of the kept weights pruned after a round, in (0, 1).
        output_rate: Rate of output layers, with `scope="layerwise"`. Default:
            `rate / 2`.
        conv_rate: Rate of convolutions. Default: `rate`.
        scope: `"layerwise"`, `"global"`, or `"sensitivity"`: thresholds at which each
            layer alone costs as much validation accuracy (Han et al., 1506.02626).
        criterion: Name of one of `tfticket.criteria`.
        rewind_to: Step to rewind kept weights to; 0 is the initial weights, `None`
            no rewinding (prune and fine-tune, or learning-rate rewinding).
        retrain_factor: Factor on the learning rate of every round but the first: 0.1
            with `rewind_to=None` is the fine-tuning of Han et al. (1506.02626), 1.0
            learning-rate rewinding (2003.02389).

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If a value is out of range.

    Example:

    >>> Recipe(iterations=50_000).evaluate_every
    100
    """

    dataset: str = data.EMBEDDED
    model: str = "lenet_300_100"
    width: float = 1.0
    optimizer: str = "adam"
    learning_rate: float | None = None
    weight_decay: float = 0.0
    warmup: int = 0
    drops: Sequence[int] = ()
    batch_size: int = models.BATCH_SIZE
    iterations: int = 1000
    evaluate_every: int | None = None
    augment: bool = False
    rate: float = 0.2
    output_rate: float | None = None
    conv_rate: float | None = None
    scope: str = "layerwise"
    criterion: str = "magnitude"
    rewind_to: int | None = 0
    retrain_factor: float = 1.0

    def __post_init__(self):
        check_instance("dataset", self.dataset, str, "the name of a data set")
        check_choice("model", self.model, sorted(models.MODELS))
        check_choice("optimizer", self.optimizer, ("adam", "sgd"))
        check_choice("scope", self.scope, ("layerwise", "global", "sensitivity"))
        check_instance("criterion", self.criterion, str, "the name of a criterion")
        criteria.needs(self.criterion)
        check_instance("drops", self.drops, (list, tuple), "a list of steps")
        fill_in(
            self,
            batch_size=check_integer("batch_size", self.batch_size, 1),
            warmup=check_integer("warmup", self.warmup, 0),
            drops=tuple(check_integer("drops", step, 1) for step in self.drops),
            augment=check_bool("augment", self.augment),
            width=check_number("width", self.width, above=0),
            retrain_factor=check_number("retrain_factor", self.retrain_factor, above=0),
            weight_decay=check_number("weight_decay", self.weight_decay, 0),
            rate=check_rate("rate", self.rate),
        )
        self._check_scope()
        fill_in(self, **self._own_rates())
        rate = check_number("learning_rate", self.learning_rate, above=0)
        fill_in(self, learning_rate=rate)
        self._check_steps()

    def _check_scope(self):
        for name in ("output_rate", "conv_rate"):
            value = getattr(self, name)
            if value is not None and self.scope != "layerwise":
                raise ValueError(
                    f"{name} has no meaning with scope='{self.scope}', where one cut "
                    f"goes through all weights. Received: {name}={value}"
                )
            if value is not None:
                fill_in(self, **{name: check_rate(name, value)})
        if self.scope == "sensitivity" and self.criterion != "magnitude":
            raise ValueError(
                "scope='sensitivity' chooses thresholds of magnitudes. "
                f"Received: criterion={self.criterion!r}"
            )

    def _own_rates(self):
        """The values of what is not given and follows from other fields."""
        adam = self.optimizer == "adam"
        defaults = {"learning_rate": models.LEARNING_RATES[self.model] if adam else 0.1}
        if self.scope == "layerwise":
            defaults |= {"output_rate": self.rate / 2, "conv_rate": self.rate}
        return {k: v for k, v in defaults.items() if getattr(self, k) is None}

    def _check_steps(self):
        fill_in(self, iterations=check_integer("iterations", self.iterations, 1))
        every = self.evaluate_every
        if every is None:
            every = _divisor(self.iterations)
        fill_in(self, evaluate_every=check_integer("evaluate_every", every, 1))
        if self.iterations % self.evaluate_every:
            raise ValueError(
                f"evaluate_every={self.evaluate_every} does not divide "
                f"iterations={self.iterations}: a round must end with a validation."
            )
        if self.rewind_to is None:
            return
        fill_in(self, rewind_to=check_integer("rewind_to", self.rewind_to, 0))
        if self.rewind_to >= self.iterations:
            raise ValueError(
                f"rewind_to={self.rewind_to} is not before the end of a round of "
                f"iterations={self.iterations}."
            )

    def rates_for(self, model: keras.Model) -> dict[Pattern, float]:
        """Rates of their own by pattern, for `Pruner.rates`."""
        check_instance("model", model, keras.Model, "a keras.Model")
        if self.conv_rate is None or self.conv_rate == self.rate:
            return {}
        kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
        there = [getattr(layer, "layer", layer) for _, layer in named_layers(model)]
        return {
            kind: self.conv_rate
            for kind in kinds
            if any(isinstance(layer, kind) for layer in there)
        }

    def differences(self) -> dict[str, Any]:
        """What is not as by default: a field added later changes nothing here."""
        unset: dict[str, Any] = dict.fromkeys(_DERIVED)
        derived = dataclasses.replace(self, **unset)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        defaults |= {name: getattr(derived, name) for name in _DERIVED}
        values = dataclasses.asdict(self)
        return {name: values[name] for name in values if values[name] != defaults[name]}

    def optimizer_for(self, factor: float = 1.0) -> keras.optimizers.Optimizer:
        """A new optimizer, its learning rate times a factor."""
        factor = check_number("factor", factor, above=0)
        rate: Any = self.learning_rate * factor  # type: ignore[operator]
        if self.warmup or self.drops:
            rate = WarmupAndDrops(rate, self.warmup, self.drops)
        decay = self.weight_decay or None
        if self.optimizer == "adam":
            return keras.optimizers.Adam(rate, weight_decay=decay)
        return keras.optimizers.SGD(rate, momentum=0.9, weight_decay=decay)


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


def fill_in(frozen: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass, for its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


def _divisor(iterations):
    most = min(100, max(10, iterations // 100), iterations)
    return next(n for n in range(most, 0, -1) if iterations % n == 0)
