"""Channels that live or die together, as units that the `Pruner` cuts like weights."""

import dataclasses
import warnings
from collections.abc import Collection, Mapping
from typing import Any

import keras
import numpy as np

from tfticket.keras_models.channels.groups import ChannelGroup, channel_groups
from tfticket.keras_models.names import named_layers, weights_by_path
from tfticket.pruning.masks import ModelMasks
from tfticket.sparsity.structures import Axes, Channel, Unstructured


@dataclasses.dataclass(frozen=True)
class Units(Unstructured):
    """The units of one group of channels, of which some always stay.

    Args:
        least: How many stay, those with the highest scores.
    """

    least: int = 1

    def candidates(
        self, scores: np.ndarray, alive: np.ndarray, axes: Axes
    ) -> np.ndarray:
        order = np.argsort(np.where(alive, -scores, np.inf), kind="stable")
        free = alive.copy()
        free[order[: self.least]] = False
        return free


class ChannelUnits:
    """The groups of a wrapped model's channels, scored and masked as wholes.

    Args:
        model: A wrapped model whose masks cover whole channels.
        masked: Its masks.
        wanted: Names of the masked weights whose layers prune by grouped channels, to
            the structure of each.

    Raises:
        ValueError: If no group can be cut; says why each can't.
    """

    def __init__(
        self, model: keras.Model, masked: ModelMasks, wanted: Mapping[str, Channel]
    ):
        self.groups = channel_groups(model)
        self.left_out = dict(self.groups.without_rule)
        self.structures: dict[str, Channel] = {}
        self.makers: dict[str, list[str]] = {}
        for name, group in self.groups.items():
            makers = [x.path for x in group.members if not x.reads]
            reason = self._why_not(group, masked, wanted, makers)
            if reason:
                self.left_out[name] = reason
            else:
                own = next(wanted[path] for path in makers if path in wanted)
                self.structures[name] = own
                self.makers[name] = makers
        if not self.structures:
            raise ValueError(
                f"No channels of model '{model.name}' can be cut as a whole: "
                + "; ".join(f"{name}: {why}" for name, why in self.left_out.items())
            )

    def _why_not(self, group, masked, wanted, makers):
        """Why a group is not cut; empty if it is."""
        if group.pinned:
            return group.pinned
        named = [path for path in makers if path in wanted]
        if not named:
            return "no layer that makes it prunes by channels"
        structure = wanted[named[0]]
        if group.kind not in structure.kinds:
            return (
                f"its units are {group.kind}, which {type(structure).__name__}() keeps"
            )
        bare = sorted(
            {x.path for x in group.members if x.zeroed and not x.reads}
            - set(masked.weights)
        )
        if bare:
            return (
                f"{', '.join(bare)} have no masks; wrap the model with "
                "tfticket.prune(model, structure=Channel())"
            )
        if group.size <= self.least(group, structure):
            return f"it has {group.size} units, and at least that many stay"
        return ""

    @staticmethod
    def least(group: ChannelGroup, structure: Channel) -> int:
        """How many units of a group stay whatever is asked for."""
        floor = max(
            structure.min_channels,
            int(np.ceil(group.size * (1 - structure.max_sparsity) - 1e-9)),
        )
        step = structure.round_to
        return min(group.size, max(1, -(-floor // step) * step))

    def kind(self, name: str) -> tuple:
        """What groups are compared by that are ranked among themselves."""
        members = {
            (x.path.rpartition("/")[2], x.axis, x.reads)
            for x in self.groups[name].members
        }
        return (self.groups[name].kind, *sorted(members))

    def rounded(
        self, before: Mapping[str, np.ndarray], after: Mapping[str, np.ndarray]
    ) -> tuple[list[tuple[tuple[str, ...], int]], dict[str, np.ndarray]]:
        """Cuts, and masks to make them on, that leave multiples of `round_to`.

        Args:
            before: Name of the group to which of its units were alive.
            after: The same after the cut whose numbers are to be rounded.
        """
        cuts: list[tuple[tuple[str, ...], int]] = []
        masks = {}
        for name, structure in self.structures.items():
            alive, kept = int(before[name].sum()), int(after[name].sum())
            step = structure.round_to
            wanted = (2 * kept + step) // (2 * step) * step
            wanted = min(max(wanted, self.least(self.groups[name], structure)), alive)
            if step > 1 and wanted != kept:
                cuts.append(((name,), alive - wanted))
                masks[name] = before[name]
        return cuts, masks

    def units(self) -> dict[str, Units]:
        """Name of each group to its units, as a structure."""
        return {
            name: Units(self.least(self.groups[name], structure))
            for name, structure in self.structures.items()
        }

    def alive(self, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Which units of each group have a weight that makes them and is alive.

        Args:
            masks: Name of the weight to mask.
        """
        return {
            name: np.any(
                [
                    _of_units(masks[x.path], x, np.any)
                    for x in self.groups[name].members
                    if not x.reads and x.path in masks
                ],
                axis=0,
            )
            for name in self.structures
        }

    def scored(self) -> set[str]:
        """Names of the weights whose scores make those of the units."""
        return {
            member.path
            for name, structure in self.structures.items()
            for member in self._scoring(name, structure)
        }

    def _scoring(self, name, structure):
        """The members of a group that are scored: kernels, or scales where it says so.

        Where a group has none of these, whatever makes its units is scored.
        """
        members = [x for x in self.groups[name].members if x.zeroed]
        if structure.score == "scale":
            found = [x for x in members if x.path.endswith("/gamma")]
        else:
            found = [x for x in members if len(x.variable.shape) > 1]
        return found or [x for x in members if not x.reads] or members

    def scores(self, scores: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Scores of the units of each group, from those of weights.

        Each member's scores are averaged over what belongs to a unit, divided by their
        mean over the units, so that layers of different scales compare, and reduced
        over the members.

        Args:
            scores: Name of the weight to an array in its shape.
        """
        found = {}
        for name, structure in self.structures.items():
            rows = []
            for member in self._scoring(name, structure):
                row = _of_units(scores[member.path], member, np.mean)
                scale = np.mean(np.abs(row))
                if structure.normalize and scale > 0:
                    row = row / scale
                rows.append(row)
            found[name] = structure.reduced(np.stack(rows))
        return found

    def masks(
        self, kept: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        """The masks where units that are not kept have gone.

        Args:
            kept: Name of the group to a flag for each unit.
            masks: Name of the weight to its present mask; what is False stays False.
        """
        gone = self.groups.masks({k: kept[k] for k in self.structures if k in kept})
        return {
            name: mask & gone[name] if name in gone else mask
            for name, mask in masks.items()
        }

    def warn(self) -> None:
        """Says once what of the model is left as it is for lack of a rule or a mask."""
        wanted = {kind for x in self.structures.values() for kind in x.kinds}
        odd = {
            name: why
            for name, why in self.left_out.items()
            if name not in self.groups
            or (not self.groups[name].pinned and self.groups[name].kind in wanted)
        }
        odd |= self.groups.without_rule
        if odd:
            listed = "; ".join(f"'{name}': {why}" for name, why in odd.items())
            warnings.warn(f"Channels that are not cut: {listed}.", stacklevel=4)


def _of_units(array: np.ndarray, member: Any, reduce: Any) -> np.ndarray:
    """One number for each unit of a member, of an array in its weight's shape."""
    others = tuple(i for i in range(np.ndim(array)) if i != member.axis)
    # The other axes first: each unit has as many indices, so means of means are means.
    return reduce(reduce(array, axis=others)[member.indices], axis=1)


def weights_of_groups(
    model: keras.Model, excluded: Collection[int] = ()
) -> dict[int, list[str]]:
    """Which weights need masks so that whole channels can go.

    Args:
        model: A plain model.
        excluded: Identities of layers that stay dense: what they make stays whole.

    Returns:
        Identity of the layer to the names of its weights ("kernel", "bias", "gamma"),
        of all layers that free groups touch.
    """
    homes = {
        id(variable): (layer, name)
        for _, layer in named_layers(model)
        for name, variable in weights_by_path(layer).items()
    }
    found: dict[int, list[str]] = {}
    for group in channel_groups(model).free.values():
        members = [x for x in group.members if x.zeroed and id(x.variable) in homes]
        makers = {id(homes[id(x.variable)][0]) for x in members if not x.reads}
        if makers & set(excluded):
            continue
        for member in members:
            layer, name = homes[id(member.variable)]
            names = found.setdefault(id(layer), [])
            if name not in names and id(layer) not in excluded:
                names.append(name)
    return {key: names for key, names in found.items() if names}
