"""Targets: the sparsity that leaves so much of a model, and what a sparsity leaves."""

import dataclasses
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from tfticket.common.arguments import check_number, check_sparsity
from tfticket.common.columns import aligned
from tfticket.keras_models.names import Pattern
from tfticket.pruning.engine import Pruner
from tfticket.pruning.masks import get_masks
from tfticket.pruning.prune_strip import wrap
from tfticket.sparsity.criteria import Criterion
from tfticket.sparsity.scopes import Scope
from tfticket.sparsity.structures import Channel

COSTS = ("flops", "parameters")
# Halvings of the interval of sparsities: far below one unit of any model.
_HALVINGS = 40


@dataclasses.dataclass(frozen=True)
class PlannedGroup:
    """What becomes of one group of channels.

    Args:
        name: Name of the group, as in `tfticket.channel_groups`.
        kind: "channels", "heads", "key_dim" or "value_dim".
        before: Number of units alive.
        after: Number of units that stay.
        why_whole: Why none can go; empty if they can.
    """

    name: str
    kind: str
    before: int
    after: int
    why_whole: str = ""


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelPlan:
    """What a target leaves of a model. `print` shows a table.

    Args:
        sparsity: Fraction of the units that go, to hand to `sparsify` or a schedule.
        groups: What becomes of each group.
        flops: Multiplications and additions of a sample, before and after; `None`
            where they are not known.
        parameters: Number of weights, before and after.
    """

    sparsity: float
    groups: tuple[PlannedGroup, ...]
    flops: tuple[int, int] | None
    parameters: tuple[int, int]

    def __str__(self) -> str:
        rows = [("group", "kind", "units")]
        for row in self.groups:
            change = f"{row.before:,} -> {row.after:,}"
            if row.before == row.after:
                change = f"{row.before:,}"
            rows.append((row.name, row.kind, change))
        lines = aligned(rows)
        lines.insert(1, "-" * max(map(len, lines)))
        lines.append(f"sparsity of the units: {self.sparsity:.4f}")
        for name, counts in (
            ("parameters", self.parameters),
            ("FLOPs", self.flops),
        ):
            if counts is None:
                lines.append(f"{name}: not known")
            else:
                before, after = counts
                share = after / before if before else 1
                lines.append(f"{name}: {before:,} -> {after:,} ({share:.1%})")
        notes = [f"'{x.name}' stays: {x.why_whole}" for x in self.groups if x.why_whole]
        return "\n".join([*lines, *notes])


def channel_plan(
    model: keras.Model,
    sparsity: float | None = None,
    *,
    flops: float | None = None,
    parameters: float | None = None,
    structure: Channel | None = None,
    criterion: str | Criterion = "magnitude",
    scope: Scope = "layerwise",
    sparsities: Mapping[Pattern, float] | None = None,
    exclude: Collection[Pattern] = (),
    data: Any = None,
    loss: Any = None,
    batches: int | None = None,
    seed: int | None = None,
) -> ChannelPlan:
    """Says what a target will leave of a model, before anything is trained or cut.

    Args:
        model: A built Sequential or Functional model, wrapped by
            `prune(model, structure=Channel())` or not. It is only read.
        sparsity: Fraction of the channels that go, in [0, 1). Give one of the three.
        flops: Fraction of the FLOPs to be left, in (0, 1]; a little less where
            whole channels don't make it exactly.
        parameters: The same of the parameters.
        structure: A `Channel` or `Heads`, of a model that is not wrapped.
        criterion: As in `sparsify`. Only a scope other than `"layerwise"` lets it
            decide how many channels each layer keeps.
        scope: As in `sparsify`.
        sparsities: As in `sparsify`.
        exclude: As in `prune`, of a model that is not wrapped.
        data: As in `sparsify`.
        loss: As in `sparsify`.
        batches: As in `sparsify`.
        seed: As in `sparsify`.

    Raises:
        ValueError: If not exactly one target is given, or it can't be reached; says
            what can.

    Example:

    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(16), keras.layers.Dense(2)]
    ... )
    >>> plan = tfticket.channel_plan(model, flops=0.5)
    >>> plan.groups[1].after, plan.flops
    (8, (320, 160))
    """
    check_target(sparsity, flops, parameters)
    goal = goal_of(
        model,
        criterion,
        scope,
        structure,
        sparsities,
        exclude,
        data=data,
        loss=loss,
        batches=batches,
        seed=seed,
    )
    if sparsity is None:
        sparsity = goal.sparsity_for(flops, parameters)
    return goal.plan(sparsity)


def goal_of(
    model: keras.Model,
    criterion: str | Criterion,
    scope: Scope,
    structure: Channel | None,
    sparsities: Mapping[Pattern, float] | None,
    exclude: Collection[Pattern],
    **evidence: Any,
) -> "Goal":
    """What finds targets for a model. Arguments are those of `channel_plan`."""
    if not get_masks(model):
        structure = Channel() if structure is None else structure
        model = wrap(model, exclude=exclude, structure=structure)
    pruner = Pruner(model, criterion, scope, structure, **evidence)
    return Goal(pruner, pruner.own_sparsities(sparsities))


def check_target(
    sparsity: float | None, flops: float | None, parameters: float | None
) -> None:
    """Raises a ValueError unless exactly one target is given, in its range."""
    given = {
        name: value
        for name, value in (
            ("sparsity", sparsity),
            ("flops", flops),
            ("parameters", parameters),
        )
        if value is not None
    }
    if len(given) != 1:
        raise ValueError(
            "Give exactly one of sparsity, flops and parameters. Received: "
            f"{given or 'none of them'}"
        )
    ((name, value),) = given.items()
    if name == "sparsity":
        check_sparsity(name, value)
    else:
        check_number(name, value, most=1, above=0, meaning="the fraction to be left")


class Goal:
    """Finds the sparsity of channels that leaves so much of a model's costs.

    Args:
        pruner: The `Pruner` of a model that is cut by whole channels.
        own: Name of the group to the sparsity of those that have one of their own.
        names: The groups to cut, `own` among them; `None` is all.
        evidence: Kind to name to array, of what was followed while training.

    Raises:
        ValueError: If the model is not cut by whole channels.
    """

    def __init__(
        self,
        pruner: Pruner,
        own: Mapping[str, float] | None = None,
        names: Collection[str] | None = None,
        evidence: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    ):
        if pruner.channels is None:
            raise ValueError(
                "Operations and parameters follow from whole channels only. Wrap with "
                "tfticket.prune(model, structure=Channel())."
            )
        self._pruner = pruner
        self._channels = pruner.channels
        self._groups = pruner.channels.groups
        self._own = dict(own or {})
        self._names = names
        self._scores = pruner.scores(evidence)
        masks = pruner.masked.masks()
        self._alive = pruner.channels.alive(masks)
        self._masks = {**masks, **self._alive}

    def sparsity_for(
        self, flops: float | None = None, parameters: float | None = None
    ) -> float:
        """The lowest sparsity that leaves at most so much.

        Args:
            flops: Fraction of the FLOPs of the whole model, in (0, 1].
            parameters: The same of its parameters, where `flops` is not given.

        Raises:
            ValueError: If no sparsity does; names the nearest that one leaves.
        """
        goals = (("flops", flops), ("parameters", parameters))
        name, wanted = next((x, y) for x, y in goals if y is not None)
        low, high = 0.0, 1.0
        if self.left(name, low) <= wanted:
            return low
        nearest = self.left(name, high)
        if nearest > wanted:
            raise ValueError(
                f"{name}={wanted} can't be reached: {nearest:.3f} are left when all "
                f"channels that can go are pruned. Ask for that, lower min_channels, "
                "raise max_sparsity, or exclude less; "
                "print(tfticket.channel_groups(model)) shows what stays."
            )
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            if self.left(name, middle) <= wanted:
                high = middle
            else:
                low = middle
        return high

    def plan(self, sparsity: float) -> ChannelPlan:
        """What a sparsity leaves."""
        kept = self._kept(sparsity)
        rows = []
        left_out = self._channels.left_out
        for name, group in self._groups.items():
            before = int(self._alive[name].sum()) if name in self._alive else group.size
            after = kept.get(name, before)
            why = left_out.get(name, "")
            rows.append(PlannedGroup(name, group.kind, before, after, why))
        before = {name: int(flags.sum()) for name, flags in self._alive.items()}
        flops = [self._groups.flops(x) for x in (before, kept)]
        parameters = [self._groups.parameters(x) for x in (before, kept)]
        known = None not in flops
        return ChannelPlan(
            sparsity,
            tuple(rows),
            tuple(flops) if known else None,  # type: ignore[arg-type]
            tuple(parameters),  # type: ignore[arg-type]
        )

    def masks(self, sparsity: float) -> dict[str, np.ndarray]:
        """Name of each masked weight to the mask that a sparsity leaves."""
        weights = {k: x for k, x in self._masks.items() if k not in self._alive}
        return self._channels.masks(self._after(sparsity), weights)

    def left(self, name: str, sparsity: float) -> float:
        """The fraction of all "flops" or "parameters" that a sparsity leaves.

        Raises:
            ValueError: If the FLOPs of the model are not known.
        """
        costs = self._groups.flops if name == "flops" else self._groups.parameters
        left, whole = costs(self._kept(sparsity)), costs()
        if left is None or whole is None:
            raise ValueError(
                "The FLOPs of this model are not known, since it is not known how "
                "often some kernel is used: tfticket.summary(model) names it. If that "
                "depends on the size of its inputs, give them one: "
                "keras.Input((224, 224, 3)). Else use parameters= or a sparsity."
            )
        return left / whole

    def _kept(self, sparsity):
        """Name of the group to how many of its units a sparsity leaves."""
        after = self._after(sparsity)
        return {name: int(after[name].sum()) for name in self._alive}

    def _after(self, sparsity):
        """Name of the group to a flag for each unit that a sparsity leaves."""
        cuts = self._pruner.cuts_left(sparsity, self._own, self._names, self._masks)
        return self._pruner.units_after(cuts, self._scores, self._masks)
