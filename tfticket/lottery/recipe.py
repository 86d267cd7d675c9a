"""`Recipe`: everything that decides what a training comes to, but for the seed."""

import dataclasses
import hashlib
import json
import numbers
from collections.abc import Sequence
from typing import Any

import keras

from tfticket import data, models
from tfticket.common.arguments import check_choice, check_integer, check_rate
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
        batch_size: Images a step.
        iterations: Training steps in a round.
        evaluate_every: Steps between validations; must divide `iterations`. Default:
            a hundredth of them, from 10 to 100.
        augment: Random shifts by up to an eighth and horizontal flips.
        rate: Fraction of the survivors pruned after a round, in (0, 1).
        output_rate: The same of output layers, with `scope="layerwise"`. Default:
            `rate / 2`.
        conv_rate: The same of convolutions. Default: `rate`.
        scope: `"layerwise"`, `"global"`, or `"sensitivity"`: thresholds at which each
            layer alone costs as much validation accuracy (Han et al., 1506.02626).
        criterion: Name of one of `tfticket.criteria`.
        rewind_to: Step that survivors are rewound to; 0 is the initial weights, `None`
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
        check_choice("model", self.model, sorted(models.MODELS))
        check_choice("optimizer", self.optimizer, ("adam", "sgd"))
        check_choice("scope", self.scope, ("layerwise", "global", "sensitivity"))
        criteria.needs(self.criterion)
        for name, least in (("iterations", 1), ("batch_size", 1), ("warmup", 0)):
            check_integer(name, getattr(self, name), least)
        object.__setattr__(self, "drops", tuple(self.drops))
        for step in self.drops:
            check_integer("drops", step, 1)
        self._fill_in()
        check_integer("evaluate_every", self.evaluate_every, 1)
        if self.iterations % self.evaluate_every:
            raise ValueError(
                f"evaluate_every={self.evaluate_every} does not divide "
                f"iterations={self.iterations}: a round must end with a validation."
            )
        for name in ("width", "learning_rate", "retrain_factor"):
            _check_number(name, getattr(self, name), above=True)
        _check_number("weight_decay", self.weight_decay, above=False)
        for name in ("rate", "output_rate", "conv_rate"):
            if getattr(self, name) is not None:
                check_rate(name, getattr(self, name))
        if self.rewind_to is not None:
            check_integer("rewind_to", self.rewind_to, 0)
            if self.rewind_to >= self.iterations:
                raise ValueError(
                    f"rewind_to={self.rewind_to} is not before the end of a round of "
                    f"iterations={self.iterations}."
                )

    def _fill_in(self):
        values: dict[str, Any] = {}
        if self.evaluate_every is None:
            values["evaluate_every"] = _divisor(self.iterations)
        if self.learning_rate is None:
            adam = self.optimizer == "adam"
            values["learning_rate"] = models.LEARNING_RATES[self.model] if adam else 0.1
        if self.scope == "layerwise":
            if self.output_rate is None:
                values["output_rate"] = self.rate / 2
            if self.conv_rate is None:
                values["conv_rate"] = self.rate
        for name in ("output_rate", "conv_rate"):
            if self.scope != "layerwise" and getattr(self, name) is not None:
                raise ValueError(
                    f"{name} has no meaning with scope='{self.scope}', where one cut "
                    f"goes through all weights. Received: {name}={getattr(self, name)}"
                )
        if self.scope == "sensitivity" and self.criterion != "magnitude":
            raise ValueError(
                "scope='sensitivity' chooses thresholds of magnitudes. "
                f"Received: criterion={self.criterion!r}"
            )
        for name, value in values.items():
            object.__setattr__(self, name, value)

    def rates_for(self, model: keras.Model) -> dict[Pattern, float]:
        """Rates of their own by pattern, for `Pruner.rates`."""
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


def digest(values: Any) -> str:
    """SHA-256 of JSON-ready data, as hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def derived_seed(*words: Any) -> int:
    """A seed that depends on all of these, below 2**32."""
    return int(digest([str(word) for word in words])[:8], 16)


def _divisor(iterations):
    most = min(100, max(10, iterations // 100), iterations)
    return next(n for n in range(most, 0, -1) if iterations % n == 0)


def _check_number(name, value, above):
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number. Received: {name}={value!r}")
    if not (value > 0 if above else value >= 0) or value == float("inf"):
        bound = "above 0" if above else "0 or more"
        raise ValueError(f"{name} must be {bound}. Received: {name}={value}")
