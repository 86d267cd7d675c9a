"""`Recipe`: everything but the seed that decides the result of a training."""

import dataclasses
import re
from collections.abc import Mapping, Sequence
from typing import Any

import keras

from tfticket import data, models
from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_instance,
    check_integer,
    check_list,
    check_number,
    check_rate,
    shown,
)
from tfticket.common.augmentation import check_augment
from tfticket.keras_models.names import Pattern, named_layers
from tfticket.lottery import optimizers
from tfticket.lottery.presets import PRESETS
from tfticket.pruning.evidence import SUMMED, kinds_from_data
from tfticket.sparsity import criteria

# What `None` stands for depends on other fields.
_DERIVED = ("evaluate_every", "learning_rate", "output_rate", "conv_rate")
CLOCKS = ("continue", "restart")
SCHEDULES = ("constant", "cosine")
# What an optimizer that is passed as an object has itself.
_OF_THE_OPTIMIZER = (
    *("learning_rate", "weight_decay", "warmup", "drops"),
    *("momentum", "nesterov", "schedule"),
)
# How texts say that a pattern is a regular expression, or a class of Keras's layers.
_REGEX, _CLASS = "re:", "class:"
_FLAGS = {re.A: "a", re.I: "i", re.M: "m", re.S: "s", re.X: "x"}


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a network is trained and pruned. Equal recipes share a run's folder.

    Args:
        dataset: Name for `tfticket.data.load`.
        model: Name of one of `tfticket.models.MODELS`.
        width: Factor on the number of units and filters of every hidden layer.
        optimizer: `"adam"`, `"sgd"`, or an optimizer of Keras with all that is its own:
            learning rate or schedule, momentum, decoupled weight decay. It is kept as
            text, its class and configuration in JSON.
        learning_rate: Default: the paper's for the model with Adam, 0.1 with SGD.
        weight_decay: Decoupled weight decay of the optimizer, 0.0 for none. For the
            papers' weight decay see `l2`.
        warmup: Steps over which the learning rate rises in a line from 0.
        drops: Steps at which the learning rate is divided by 10.
        batch_size: Images per step.
        iterations: Training steps in a round.
        evaluate_every: Steps between validations; must divide `iterations`. Default:
            a hundredth of them, from 10 to 100.
        augment: Random shifts by up to an eighth and horizontal flips; or a Keras layer
            that augments, kept as the JSON of its class and configuration.
        rate: Fraction of the kept weights pruned after a round, in (0, 1).
        output_rate: Rate of output layers, in [0, 1); 0 leaves them dense. Default:
            `rate / 2`, and `rate` with `scope="global"`.
        conv_rate: Rate of convolutions, likewise. Default: `rate`.
        scope: `"layerwise"`, `"global"`, or `"sensitivity"`: thresholds at which each
            layer alone costs as much validation accuracy (Han et al., 1506.02626).
        criterion: Name of one of `tfticket.criteria`.
        rewind_to: Step to rewind kept weights to; 0 is the initial weights, `None`
            no rewinding (prune and fine-tune, or learning-rate rewinding).
        retrain_factor: Factor on the learning rate of every round but the first: 0.1
            with `rewind_to=None` is the fine-tuning of Han et al. (1506.02626), 1.0
            learning-rate rewinding (2003.02389).
        rewind_clock: What a training from step K of the dense one counts from,
            with `rewind_to=K` or the control `late_rewind:K`. `"continue"`: from K.
            It does the remaining `iterations - K` steps, and its schedule, its data
            and its recorded iterations go on from K. `"restart"`: from 0. It does
            `iterations` steps, K more than the dense training in all.
        l2: Factor of L2 regularisation: `l2` times the weight is added to the gradient
            of every trainable variable, which is the papers' and PyTorch's weight
            decay. Reported losses are without it.
        momentum: Momentum of `optimizer="sgd"`, in [0, 1).
        nesterov: Whether that is Nesterov's.
        schedule: `"constant"`, or `"cosine"`: down to 0 at the last of `iterations`.
            Either comes after `warmup`.
        exclude: Layers without masks, which stay dense and don't count in densities:
            patterns as of `tfticket.prune`. They are kept as texts: a path as it is,
            "re:PATTERN", or "class:Conv2D" of `keras.layers`.
        rates: Pattern, likewise, to the rate of these weights, in [0, 1); a later one
            and these stand above `conv_rate` and `output_rate`.
        normalize: How inputs are normalised, of `tfticket.data.load`, as are these:
        train_size: Training images to keep; `None` is all.
        label_noise: Fraction of the training labels that are wrong, in [0, 1].
        data_seed: Seed of these two, the same for all replicates.
        same_order: Whether the controls of a ticket see the data in its order, instead
            of one of their own; not `stability`, which is about another order.
        calibration: Training images per class that a criterion takes gradients or
            inputs over, drawn by the replicate's seed.
        dropout: Fraction of the units of every hidden fully connected layer that a
            training step drops, in [0, 1).

    With `scope="global"` one cut goes through all weights, so that a rate of their own
    can only be 0: these stay dense.

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
    optimizer: str | keras.optimizers.Optimizer = "adam"
    learning_rate: float | None = None
    weight_decay: float = 0.0
    warmup: int = 0
    drops: Sequence[int] = ()
    batch_size: int = models.BATCH_SIZE
    iterations: int = 1000
    evaluate_every: int | None = None
    augment: bool | str | keras.layers.Layer = False
    rate: float = 0.2
    output_rate: float | None = None
    conv_rate: float | None = None
    scope: str = "layerwise"
    criterion: str = "magnitude"
    rewind_to: int | None = 0
    retrain_factor: float = 1.0
    rewind_clock: str = "continue"
    l2: float = 0.0
    momentum: float = 0.9
    nesterov: bool = False
    schedule: str = "constant"
    exclude: Sequence[Pattern] = ()
    rates: Mapping[Pattern, float] | Sequence[tuple[Pattern, float]] = ()
    normalize: str = "standard"
    train_size: int | None = None
    label_noise: float = 0.0
    data_seed: int = 0
    same_order: bool = False
    calibration: int = 10
    dropout: float = 0.0

    def __post_init__(self):
        check_instance("dataset", self.dataset, str, "the name of a data set")
        check_choice("model", self.model, sorted(models.MODELS))
        check_choice("scope", self.scope, ("layerwise", "global", "sensitivity"))
        check_instance("criterion", self.criterion, str, "the name of a criterion")
        criteria.needs(self.criterion)
        check_instance("drops", self.drops, (list, tuple), "a list of steps")
        fill_in(
            self,
            batch_size=check_integer("batch_size", self.batch_size, 1),
            warmup=check_integer("warmup", self.warmup, 0),
            drops=tuple(check_integer("drops", step, 1) for step in self.drops),
            augment=check_augment("augment", self.augment),
            width=check_number("width", self.width, above=0),
            dropout=check_number("dropout", self.dropout, 0, below=1),
            retrain_factor=check_number("retrain_factor", self.retrain_factor, above=0),
            weight_decay=check_number("weight_decay", self.weight_decay, 0),
            rate=check_rate("rate", self.rate),
            rewind_clock=check_choice("rewind_clock", self.rewind_clock, CLOCKS),
            l2=check_number("l2", self.l2, 0),
            momentum=check_number("momentum", self.momentum, 0, below=1),
            nesterov=check_bool("nesterov", self.nesterov),
            schedule=check_choice("schedule", self.schedule, SCHEDULES),
            exclude=_as_texts("exclude", self.exclude),
            rates=_as_pairs(self.rates),
        )
        self._check_data()
        self._check_scope()
        self._check_optimizer()
        fill_in(self, **self._own_rates())
        if self.learning_rate is not None:
            rate = check_number("learning_rate", self.learning_rate, above=0)
            fill_in(self, learning_rate=rate)
        self._check_steps()

    def _check_data(self):
        if self.dropout and self.model not in models.DROPOUT:
            raise ValueError(
                "dropout needs a model with hidden fully connected layers, one of "
                f"{', '.join(models.DROPOUT)}. Received: model={self.model!r}"
            )
        check_choice("normalize", self.normalize, data.NORMALIZATIONS)
        if self.train_size is not None:
            fill_in(self, train_size=check_integer("train_size", self.train_size, 1))
        fill_in(
            self,
            label_noise=check_number("label_noise", self.label_noise, 0, 1),
            data_seed=check_integer("data_seed", self.data_seed, 0),
            same_order=check_bool("same_order", self.same_order),
            calibration=check_integer("calibration", self.calibration, 1),
        )

    @property
    def is_calibrated(self) -> bool:
        """Whether its criterion is taken over training images."""
        return bool(kinds_from_data(self.criterion))

    @property
    def sums_up(self) -> list[str]:
        """What its criterion sums up over the steps of a training, by kind."""
        return [kind for kind in SUMMED if kind in criteria.needs(self.criterion)]

    def _check_scope(self):
        if self.scope == "sensitivity" and self.criterion != "magnitude":
            raise ValueError(
                "scope='sensitivity' chooses thresholds of magnitudes. "
                f"Received: criterion={self.criterion!r}"
            )
        own = {name: getattr(self, name) for name in ("output_rate", "conv_rate")}
        own |= {f"rates[{pattern!r}]": rate for pattern, rate in self.rates}
        for name, value in own.items():
            if value is None:
                continue
            value = check_number(name, value, 0, below=1, meaning="0 leaves it dense")
            if self.scope == "sensitivity":
                raise ValueError(
                    f"{name} has no meaning with scope='sensitivity', where thresholds "
                    "follow from accuracies. To leave layers dense, name them in "
                    f"exclude. Received: {name}={value}"
                )
            if self.scope == "global" and value:
                raise ValueError(
                    f"{name} must be 0 with scope='global', which leaves these weights "
                    "dense: one cut goes through all others, and what it takes of each "
                    f"layer is no one's choice. Received: {name}={value}"
                )
            if name in ("output_rate", "conv_rate"):
                fill_in(self, **{name: value})

    def _check_optimizer(self):
        if isinstance(self.optimizer, keras.optimizers.Optimizer):
            fill_in(self, optimizer=optimizers.as_text(self.optimizer))
        wanted = "'adam', 'sgd' or an optimizer of Keras"
        check_instance("optimizer", self.optimizer, str, wanted)
        known = {f.name: f.default for f in dataclasses.fields(self)}
        own = self.optimizer in optimizers.OWN
        if not own:
            optimizers.from_text(self.optimizer)
        for name in () if own else _OF_THE_OPTIMIZER:
            if getattr(self, name) != known[name]:
                raise ValueError(
                    f"{name} is a part of the optimizer that is passed: give it there, "
                    f"or pass optimizer='sgd'. Received: {name}={getattr(self, name)}"
                )
        for name in ("momentum", "nesterov") if self.optimizer == "adam" else ():
            if getattr(self, name) != known[name]:
                raise ValueError(
                    f"{name} is for optimizer='sgd'; Adam has its own. "
                    f"Received: {name}={getattr(self, name)}"
                )
        if self.nesterov and not self.momentum:
            raise ValueError(
                "nesterov=True needs a momentum above 0. "
                f"Received: momentum={self.momentum}"
            )
        if self.schedule == "cosine" and self.drops:
            raise ValueError(
                "drops are of schedule='constant'; a cosine falls by itself. "
                f"Received: drops={list(self.drops)}"
            )
        if self.averages_weights and self.rewind_to:
            raise ValueError(
                "An optimizer with use_ema=True replaces weights by their average when "
                "it stops at the step to rewind to. Use one without, or rewind_to=0."
            )

    def _own_rates(self):
        """The values of what is not given and follows from other fields."""
        defaults: dict[str, float | None] = {}
        if self.optimizer in optimizers.OWN:
            adam = self.optimizer == "adam"
            defaults["learning_rate"] = (
                models.LEARNING_RATES[self.model] if adam else 0.1
            )
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
        if self.schedule == "cosine" and self.warmup >= self.iterations:
            raise ValueError(
                f"warmup={self.warmup} leaves nothing of iterations={self.iterations} "
                "for the cosine."
            )
        if self.rewind_to is None:
            return
        fill_in(self, rewind_to=check_integer("rewind_to", self.rewind_to, 0))
        if self.rewind_to >= self.iterations:
            raise ValueError(
                f"rewind_to={self.rewind_to} is not before the end of a round of "
                f"iterations={self.iterations}."
            )

    @property
    def averages_weights(self) -> bool:
        """Whether the optimizer keeps an average of the weights (`use_ema`)."""
        return self.optimizer not in optimizers.OWN and optimizers.averages(
            self.optimizer
        )

    @property
    def excluded(self) -> tuple[Pattern, ...]:
        """`exclude` as `tfticket.prune` takes it."""
        return tuple(_as_pattern("exclude", text) for text in self.exclude)

    def rates_for(self, model: keras.Model) -> dict[Pattern, float]:
        """Rates of their own by pattern, for `Pruner.rates`."""
        check_instance("model", model, keras.Model, "a keras.Model")
        pairs: Any = self.rates
        named = {_as_pattern("rates", text): rate for text, rate in pairs}
        if self.conv_rate is None or self.conv_rate == self.rate:
            return named
        kinds = (keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
        there = [getattr(layer, "layer", layer) for _, layer in named_layers(model)]
        own: dict[Pattern, float] = {
            kind: self.conv_rate
            for kind in kinds
            if any(isinstance(layer, kind) for layer in there)
        }
        return own | named

    def begins_at(self, step: int | None) -> int:
        """What a training from a step of the dense one counts its iterations from.

        Args:
            step: The step that its weights are of; `None` if they are of none.

        Example:

        >>> Recipe().begins_at(500), Recipe(rewind_clock="restart").begins_at(500)
        (500, 0)
        """
        step = 0 if step is None else check_integer("step", step, 0)
        return step if self.rewind_clock == "continue" else 0

    def differences(self) -> dict[str, Any]:
        """What is not as by default: a field added later changes nothing here."""
        unset: dict[str, Any] = dict.fromkeys(_DERIVED)
        derived = dataclasses.replace(self, **unset)
        defaults = {field.name: field.default for field in dataclasses.fields(self)}
        defaults |= {name: getattr(derived, name) for name in _DERIVED}
        values = dataclasses.asdict(self)
        found = {k: values[k] for k in values if values[k] != defaults[k]}
        # Runs that were rewound before there was a choice restarted their clock: they
        # keep their names, and those that continue it get others.
        clock = found.pop("rewind_clock", CLOCKS[0])
        if (clock == "continue") == bool(self.rewind_to):
            found["rewind_clock"] = clock
        return found

    def optimizer_for(self, factor: float = 1.0) -> keras.optimizers.Optimizer:
        """A new optimizer, its learning rate times a factor."""
        factor = check_number("factor", factor, above=0)
        made = self._made(factor)
        return optimizers.with_l2(made, self.l2) if self.l2 else made

    def _made(self, factor):
        if self.optimizer not in optimizers.OWN:
            return optimizers.from_text(self.optimizer, factor)
        rate = self.learning_rate * factor
        if self.schedule == "cosine":
            rate = optimizers.cosine(rate, self.iterations, self.warmup)
        elif self.warmup or self.drops:
            rate = optimizers.WarmupAndDrops(rate, self.warmup, self.drops)
        decay = self.weight_decay or None
        if self.optimizer == "adam":
            return keras.optimizers.Adam(rate, weight_decay=decay)
        return keras.optimizers.SGD(
            rate, self.momentum, self.nesterov, weight_decay=decay
        )

    def fine_tuning(self) -> "Recipe":
        """The same recipe at the last learning rate, which stays what it is.

        Where the rate never falls, or falls to nothing as a cosine does, it is a tenth
        of the highest.

        Example:

        >>> Recipe(learning_rate=1.0, drops=[500]).fine_tuning().learning_rate
        0.1
        """
        if self.optimizer not in optimizers.OWN:
            text = optimizers.with_last_rate(self.optimizer, self.iterations)
            return dataclasses.replace(self, optimizer=text)
        drops = len(self.drops) or 1
        return dataclasses.replace(
            self,
            learning_rate=self.learning_rate * 0.1**drops,  # type: ignore[operator]
            warmup=0,
            drops=(),
            schedule="constant",
        )

    @classmethod
    def preset(cls, name: str) -> "Recipe":
        """The recipe of an experiment of the papers, by a name of `PRESETS`.

        Args:
            name: Its name. To change one of its values, use `dataclasses.replace`.

        Raises:
            TypeError: If the name is no text.
            ValueError: If there is none of that name; says which exist.

        Example:

        >>> Recipe.preset("conv_2").conv_rate
        0.1
        """
        check_choice("name", name, tuple(PRESETS))
        fields = {field.name for field in dataclasses.fields(Recipe)}
        return cls(**{k: v for k, v in PRESETS[name].items() if k in fields})


def fill_in(frozen: Any, **values: Any) -> None:
    """Sets fields of a frozen dataclass, for its `__post_init__`."""
    for name, value in values.items():
        object.__setattr__(frozen, name, value)


def _as_pairs(rates):
    """Pairs of a pattern as text and a rate, of a dict or of such pairs."""
    pairs = list(rates.items()) if isinstance(rates, Mapping) else rates
    pairs = check_list("rates", pairs, "a dict of patterns to rates")
    for pair in pairs:
        if not isinstance(pair, (list, tuple)) or len(pair) != 2:
            raise TypeError(
                "rates must be a dict of patterns to rates. "
                f"Received: rates={shown(rates)}"
            )
    texts = _as_texts("rates", [pattern for pattern, _ in pairs])
    numbers = (
        check_number(f"rates[{text!r}]", rate, 0, below=1, meaning="0 leaves it dense")
        for text, (_, rate) in zip(texts, pairs, strict=True)
    )
    return tuple(zip(texts, numbers, strict=True))


def _as_texts(name, patterns):
    """Patterns as texts, which JSON and a hash can hold."""
    wanted = "a list of paths, compiled regular expressions and classes"
    found = []
    for pattern in check_list(name, patterns, wanted):
        if isinstance(pattern, re.Pattern) and isinstance(pattern.pattern, str):
            flags = "".join(x for flag, x in _FLAGS.items() if pattern.flags & flag)
            pattern = f"{_REGEX}{f'(?{flags})' if flags else ''}{pattern.pattern}"
        elif isinstance(pattern, type):
            pattern = f"{_CLASS}{pattern.__name__}"
        check_instance(name, pattern, str, wanted)
        _as_pattern(name, pattern)
        found.append(pattern)
    return tuple(found)


def _as_pattern(name, text):
    """The pattern that a text of `_as_texts` stands for."""
    if text.startswith(_REGEX):
        try:
            return re.compile(text.removeprefix(_REGEX))
        except re.error as error:
            raise ValueError(
                f"{name} has a regular expression that is none: {error}. "
                f"Received: {text!r}"
            ) from error
    if text.startswith(_CLASS):
        kind = getattr(keras.layers, text.removeprefix(_CLASS), None)
        if not isinstance(kind, type):
            raise ValueError(
                f"{name} takes the classes of keras.layers. Name layers of your own by "
                f"path or by a regular expression. Received: {text!r}"
            )
        return kind
    return text


def _divisor(iterations):
    most = min(100, max(10, iterations // 100), iterations)
    return next(n for n in range(most, 0, -1) if iterations % n == 0)
