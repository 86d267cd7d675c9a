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
from tfticket.lottery.recipe import Recipe
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
    "one_shot": (None, False),
    "magnitude_at_init": (None, False),
    "snip": (None, False),
    "grasp": (None, False),
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
    "stability": (None, False),
    "transfer": (str, False),
}
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
    `magnitude_at_init` the untrained one; `snip`, `grasp` and `synflow` cut the
    untrained one globally to the ticket's total.

    `late_rewind:k` begins at step k of the dense training, and goes on from there as
    the recipe's `rewind_clock` says. `lr_rewind` begins at the weights that the ticket
    was pruned from, with the whole schedule again, and `fine_tune` there at the last
    learning rate, or a tenth where it never drops.

    `small_dense` is a dense network of narrower layers with as many weights.
    `rigl`, `set`, `static`, `ste` and `gradual` train weights drawn anew as
    `DynamicSparseTraining`, `TopKTraining` and `GradualPruning` do, to the ticket's
    total, shared out by ERK.
    `stability` trains the ticket itself with the data in another order, and measures
    the barrier between the two. `transfer:NAME` trains it on another data set.

    Example:

    >>> Branch.parse("noise:0.5")
    Branch(kind='noise', value=0.5)
    """

    kind: str
    value: Any = None

    def __post_init__(self):
        check_choice("kind", self.kind, tuple(KINDS))
        wanted = KINDS[self.kind][0]
        if wanted is float:
            check_number("value", self.value, above=0)
        elif wanted is int:
            check_integer("value", self.value, 1)
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
        if wanted is None:
            if colon:
                raise ValueError(f"Branch '{kind}' takes no value. Received: {text!r}")
            return cls(kind)
        try:
            if not value:
                raise ValueError
            converted = wanted(value)
            if wanted is not str and not (0 < converted < float("inf")):
                raise ValueError
        except ValueError:
            value, example = {
                int: ("whole number above 0", "500"),
                float: ("number above 0", "0.5"),
                str: ("name", "fashion_mnist"),
            }[wanted]
            raise ValueError(
                f"Branch '{kind}' needs a {value}, as in "
                f"{kind}:{example}. Received: {text!r}"
            ) from None
        return cls(kind, converted)

    def __str__(self):
        return self.kind if self.value is None else f"{self.kind}:{self.value}"

    @property
    def is_random(self) -> bool:
        """Whether it is drawn at random, and copies of it differ."""
        return KINDS[self.kind][1]

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
        prefix: Weights and optimizer at the step of `late_rewind`, else `None`.
    """

    ticket: Ticket
    initial: Mapping[str, np.ndarray]
    trained: Ticket | None = None
    prefix: Mapping[str, Mapping[str, np.ndarray]] | None = None


def start_of(branch: Branch, origin: Origin, trainer: Trainer, seed: int) -> Start:
    """Masks and weights that a control trains from.

    Args:
        branch: The control.
        origin: Where the replicate and round start.
        trainer: Whose model the controls that prune do so in.
        seed: Seed of what is drawn at random.
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
        stds = {name: float(np.std(origin.initial[name])) for name in masks}
        noisy = controls.noisy_weights(own, masks, branch.value, stds, seed)
        return _start(origin, masks, noisy)
    if kind in ("one_shot", "magnitude_at_init"):
        weights = origin.trained.weights if kind == "one_shot" else origin.initial  # type: ignore[union-attr]
        chosen = _masks_with_counts(weights, masks, trainer, seed)
        return _start(origin, chosen, origin.initial)
    if kind in ("snip", "grasp", "synflow"):
        chosen = _masks_at_init(kind, origin, trainer)
        return _start(origin, chosen, origin.initial)
    if kind == "late_rewind":
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


def _masks_at_init(criterion, origin, trainer):
    trainer.put(trainer.dense(origin.initial))
    sparsify(
        trainer.model,
        1.0 - origin.ticket.density,
        criterion,
        scope="global",
        rounds=_SYNFLOW_ROUNDS if criterion == "synflow" else 1,
        data=trainer.evidence_data,
        # What a criterion does to a layer is what the control shows.
        allow_empty=True,
    )
    return get_masks(trainer.model)
