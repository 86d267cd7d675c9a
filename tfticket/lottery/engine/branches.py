"""The controls of an experiment by name, and what each begins its training from."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfticket.common.arguments import (
    check_choice,
    check_instance,
    check_integer,
    check_number,
)
from tfticket.common.checksums import derived_seed
from tfticket.lottery.engine.trainer import Trainer
from tfticket.lottery.recipe import Recipe, fill_in
from tfticket.pruning.masks import get_masks
from tfticket.pruning.one_shot import sparsify
from tfticket.tickets import controls
from tfticket.tickets.ticket import Ticket, zero_masked

# Kind to what its value is, and whether it is drawn at random and can have copies.
KINDS: dict[str, tuple[type | None, bool]] = {
    "reinit": (None, True),
    "random_sparsity": (None, True),
    "shuffled": (None, True),
    "noise": (float, True),
    "signs": (None, False),
    "shuffled_in_signs": (None, True),
    "sign_noise": (float, True),
    "frozen_at_init": (None, False),
    "one_shot": (None, False),
    "magnitude_at_init": (None, False),
    "snip": (int, False),
    "grasp": (int, False),
    "synflow": (None, False),
    "late_rewind": (int, False),
    "lr_rewind": (None, False),
    "fine_tune": (None, False),
    "small_dense": (None, False),
    "rigl": (None, True),
    "set": (None, True),
    "static": (None, True),
    "ste": (None, True),
    "gradual": (None, True),
    "stability": (int, False),
    "transfer": (str, False),
}
# What a value is where none is written. Images per class of SNIP and GraSP: GraSP's
# code takes 10, and SNIP a batch of 100 for the ten of MNIST.
_DEFAULTS: dict[str, int | None] = {"snip": 10, "grasp": 10, "stability": None}
# The lowest and largest value of a kind, and examples of them.
_LEAST, _MOST = {"late_rewind": 0, "stability": 0}, {"sign_noise": 1.0}
_EXAMPLES = {int: "500", float: "0.5", str: "fashion_mnist"}
# Those that find masks while they train.
_FIND_MASKS = ("rigl", "set", "static", "ste", "gradual")
# SynFlow's paper scores this many times (arXiv 2006.05467).
_SYNFLOW_ROUNDS = 100


@dataclasses.dataclass(frozen=True)
class Branch:
    """A control: a kind of `KINDS`, and a value where the kind has one.

    From new initial weights, `reinit` trains the ticket's masks and `random_sparsity`
    random masks with the same layer-wise density; `shuffled` trains such masks from the
    ticket's own weights. `noise:c` adds noise of c standard deviations to these.

    `one_shot` prunes the trained dense network once to the ticket's counts and
    `magnitude_at_init` the untrained one; `snip:n`, `grasp:n` and `synflow` cut the
    untrained one globally to the ticket's total, the first two by the gradients of n
    training images per class, 10 if n is left out, that the replicate's seed draws.

    `late_rewind:k` begins at step k of the dense training, 0 for the initial weights,
    and goes on from there as the recipe's `rewind_clock` says. `lr_rewind` begins at
    the weights that the ticket was pruned from, with the whole schedule again, and
    `fine_tune` there at the last learning rate, or a tenth where it never drops.

    `small_dense` is a dense network of narrower layers with as many weights.
    `rigl`, `set`, `static`, `ste` and `gradual` train weights drawn anew as
    `DynamicSparseTraining`, `TopKTraining` and `GradualPruning` do, to the ticket's
    total, shared out by ERK.
    `stability` trains the ticket itself with the data in another order, and measures
    the barrier between the two; `stability:k` does so with the dense network from its
    step k on, which shows whether it is stable there (arXiv 1912.05671).
    `transfer:NAME` trains the ticket on another data set.

    Example:

    >>> Branch.parse("noise:0.5")
    Branch(kind='noise', value=0.5)
    """

    kind: str
    value: Any = None

    def __post_init__(self):
        check_choice("kind", self.kind, tuple(KINDS))
        wanted = KINDS[self.kind][0]
        if self.value is None and self.kind in _DEFAULTS:
            fill_in(self, value=_DEFAULTS[self.kind])
        if wanted is float:
            most = _MOST.get(self.kind, float("inf"))
            check_number("value", self.value, above=0, most=most)
        elif wanted is int:
            if self.value is not None or self.kind not in _DEFAULTS:
                check_integer("value", self.value, _LEAST.get(self.kind, 1))
        elif wanted is str:
            check_instance("value", self.value, str, "the name of a data set")
        elif self.value is not None:
            raise ValueError(
                f"Branch '{self.kind}' takes no value. Received: value={self.value!r}"
            )

    @classmethod
    def parse(cls, text: str) -> "Branch":
        """Reads "kind" or "kind:value".

        Raises:
            ValueError: If there is no such kind, or the value is missing or wrong.
        """
        check_instance("text", text, str, "a branch, such as 'noise:0.5'")
        kind, colon, value = text.partition(":")
        if kind not in KINDS:
            raise ValueError(
                f"branches must be of {sorted(KINDS)}, those with a value written like "
                "noise:0.5, late_rewind:500 or transfer:fashion_mnist. "
                f"Received: text={text!r}"
            )
        wanted = KINDS[kind][0]
        if wanted is None and colon:
            raise ValueError(f"Branch '{kind}' takes no value. Received: {text!r}")
        if wanted is None or (kind in _DEFAULTS and not colon):
            return cls(kind)
        try:
            if not value:
                raise ValueError
            converted = wanted(value)
            least, most = _LEAST.get(kind), _MOST.get(kind, float("inf"))
            if wanted is not str and not (
                (converted > 0 or converted == least)
                and (converted <= most and converted < float("inf"))
            ):
                raise ValueError
        except ValueError:
            whole = "0 or a whole number" if kind in _LEAST else "a whole number"
            words = {int: f"{whole} above 0", float: "a number above 0", str: "a name"}
            limit = f" and at most {_MOST[kind]:g}" if kind in _MOST else ""
            raise ValueError(
                f"Branch '{kind}' needs {words[wanted]}{limit}, as in "
                f"{kind}:{_EXAMPLES[wanted]}. Received: {text!r}"
            ) from None
        return cls(kind, converted)

    def __str__(self):
        return self.kind if self.value is None else f"{self.kind}:{self.value}"

    @property
    def is_random(self) -> bool:
        """Whether it is drawn at random, and copies of it differ."""
        return KINDS[self.kind][1]

    @property
    def is_of_dense(self) -> bool:
        """Whether it is about the dense network, and of round 0 alone."""
        return self.kind == "stability" and self.value is not None

    @property
    def step(self) -> int | None:
        """The step of the dense training that it begins at; `None` for no such."""
        of_a_step = self.kind == "late_rewind" or self.is_of_dense
        return self.value if of_a_step else None

    @property
    def finds_masks(self) -> bool:
        """Whether its masks come of its training, and not of the ticket."""
        return self.kind in _FIND_MASKS

    def recipe(self, recipe: Recipe) -> Recipe:
        """The recipe that its trainings go by, given the experiment's."""
        check_instance("recipe", recipe, Recipe, "a tfticket.lottery.Recipe")
        if self.kind == "transfer":
            return dataclasses.replace(recipe, dataset=self.value)
        return recipe.fine_tuning() if self.kind == "fine_tune" else recipe


@dataclasses.dataclass(frozen=True)
class Start:
    """What a training begins from.

    Args:
        ticket: Masks and weights.
        optimizer: State of the optimizer, or `None` for a new one.
        step: Step of the dense training that the weights are of.
    """

    ticket: Ticket
    optimizer: Mapping[str, np.ndarray] | None = None
    step: int = 0


@dataclasses.dataclass(frozen=True)
class Origin:
    """What is known of a replicate, that its controls are made from.

    Args:
        ticket: The ticket of the round.
        initial: The weights the replicate was initialised with.
        trained: The trained network that the control begins with: the dense one for
            `one_shot`, that of the round before for `lr_rewind` and `fine_tune`.
        prefix: Weights and optimizer at the step of the branch, else `None`.
    """

    ticket: Ticket
    initial: Mapping[str, np.ndarray]
    trained: Ticket | None = None
    prefix: Mapping[str, Mapping[str, np.ndarray]] | None = None


def start_of(
    branch: Branch, origin: Origin, trainer: Trainer, seed: int, replicate: int
) -> Start:
    """Masks and weights that a control trains from.

    Args:
        branch: The control.
        origin: Where the replicate and round start.
        trainer: Whose model the controls that prune do so in.
        seed: Seed of what is drawn at random.
        replicate: Seed of the replicate.
    """
    masks, own = origin.ticket.masks, origin.ticket.weights
    kind = branch.kind
    if kind == "reinit":
        return _start(origin, masks, trainer.initial_weights(seed))
    if kind == "random_sparsity":
        shuffled = controls.shuffled_masks(masks, derived_seed(seed, "masks"))
        return _start(origin, shuffled, trainer.initial_weights(seed))
    if kind == "shuffled":
        # Weights of the dense start: the ticket's are zero where its masks are.
        return _start(origin, controls.shuffled_masks(masks, seed), origin.initial)
    if kind == "noise":
        noisy = controls.noisy_weights(own, masks, branch.value, _stds(origin), seed)
        return _start(origin, masks, noisy)
    if kind == "signs":
        return _start(origin, masks, controls.signed_weights(own, masks, _stds(origin)))
    if kind == "shuffled_in_signs":
        return _start(origin, masks, controls.shuffled_in_signs(own, masks, seed))
    if kind == "sign_noise":
        flipped = controls.flipped_signs(own, masks, branch.value, seed)
        return _start(origin, masks, flipped)
    if kind == "frozen_at_init":
        return Start(_unpruned(origin))
    if kind in ("one_shot", "magnitude_at_init"):
        weights = origin.trained.weights if kind == "one_shot" else origin.initial  # type: ignore[union-attr]
        chosen = _masks_with_counts(weights, masks, trainer, seed)
        return _start(origin, chosen, origin.initial)
    if kind in ("snip", "grasp", "synflow"):
        chosen = _masks_at_init(branch, origin, trainer, replicate)
        return _start(origin, chosen, origin.initial)
    if kind == "late_rewind" and not branch.step:
        return _start(origin, masks, origin.initial)
    if branch.step:
        ticket = _start(origin, masks, origin.prefix["weights"]).ticket  # type: ignore[index]
        return Start(ticket, origin.prefix["optimizer"], branch.value)  # type: ignore[index]
    if kind in ("lr_rewind", "fine_tune"):
        return _start(origin, masks, origin.trained.weights)  # type: ignore[union-attr]
    return Start(origin.ticket)


def _start(origin, masks, weights):
    ticket = dataclasses.replace(
        origin.ticket, masks=masks, weights=zero_masked(weights, masks)
    )
    return Start(ticket)


def _masks_with_counts(weights, masks, trainer, seed):
    """Masks of the largest weights, with the layer-wise density of these masks."""
    trainer.put(trainer.dense(weights))
    pruner = trainer.pruner(seed, criterion="magnitude")
    cuts = [((k,), int(np.count_nonzero(~mask))) for k, mask in masks.items()]
    return pruner.masks_after(cuts)


def _stds(origin):
    return {name: float(np.std(origin.initial[name])) for name in origin.ticket.masks}


def _unpruned(origin):
    """The ticket's weights, and the initial ones where it has none."""
    masks, own = origin.ticket.masks, dict(origin.ticket.weights)
    for name, mask in masks.items():
        own[name] = np.where(mask, own[name], origin.initial[name])
    everything = {name: np.ones_like(mask) for name, mask in masks.items()}
    return dataclasses.replace(origin.ticket, masks=everything, weights=own)


def _masks_at_init(branch, origin, trainer, replicate):
    trainer.put(trainer.dense(origin.initial))
    data = None
    if branch.value is not None:
        data = trainer.calibration_data(replicate, branch.value)
    sparsify(
        trainer.model,
        1.0 - origin.ticket.density,
        branch.kind,
        scope="global",
        rounds=_SYNFLOW_ROUNDS if branch.kind == "synflow" else 1,
        data=data,
        # What a criterion does to a layer is what the control shows.
        allow_empty=True,
    )
    return get_masks(trainer.model)
