"""`channel_groups` finds the channels of a model that are pruned together."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping

import keras
import numpy as np

from tfticket.common.arguments import check_array, check_integer, check_mapping
from tfticket.common.columns import aligned
from tfticket.keras_models.channels.costs import Costs, Weight, uses
from tfticket.keras_models.channels.rule import Barrier, Member
from tfticket.keras_models.channels.trace import Traced, trace
from tfticket.keras_models.copies import require_built, require_keras_3
from tfticket.keras_models.graph import FlatGraph
from tfticket.keras_models.names import is_graph, named_weights


@dataclasses.dataclass(frozen=True, eq=False)
class GroupMember:
    """An axis of a weight that a group's units index.

    Args:
        path: Name of the weight, as in `get_masks`: "layer/kernel".
        variable: The weight itself.
        axis: The axis.
        indices: Integers (units, times): the positions of each unit on the axis. A unit
            has several positions after a Flatten, or in the gates of an LSTM.
        reads: Whether the layer reads the units here instead of making them.
        zeroed: Whether a pruned unit's values are zero. A moving variance is not
            zeroed.
    """

    path: str
    variable: keras.Variable
    axis: int
    indices: np.ndarray
    reads: bool
    zeroed: bool

    def __repr__(self) -> str:
        times = self.indices.shape[1]
        return f"{self.path}[{self.axis}]" + (f" x{times}" if times > 1 else "")


@dataclasses.dataclass(frozen=True, eq=False)
class ChannelGroup:
    """Units in the same weights on the same axes; each is pruned as a whole.

    Args:
        name: Name of the first layer that makes the units.
        kind: "channels"; for an attention layer also "heads", "key_dim" (the channels
            that heads compare) or "value_dim" (the channels that they pass on).
        size: Number of units.
        members: The axes of weights that the units index.
        pinned: Why none can be pruned; empty if they can.
        parameters: Parameters that removing one unit saves, if all others are kept.
        flops: Multiplications and additions per sample that it saves; `None` if they
            are not known.
    """

    name: str
    kind: str
    size: int
    members: tuple[GroupMember, ...]
    pinned: str
    parameters: int
    flops: int | None


class ChannelGroups(Mapping):
    """The groups of a model by name. `print` shows a table.

    Args:
        groups: The groups, in the order of their first layers.
        without_rule: Maps a layer with weights to the reason why none of it can be
            pruned.
        costs: How FLOPs and parameters depend on the number of units.
    """

    def __init__(
        self,
        groups: list[ChannelGroup],
        without_rule: dict[str, str],
        costs: Costs,
    ):
        self._groups = {group.name: group for group in groups}
        self.without_rule = without_rule
        self._costs = costs

    def __getitem__(self, name: str) -> ChannelGroup:
        return self._groups[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._groups)

    def __len__(self) -> int:
        return len(self._groups)

    @property
    def free(self) -> dict[str, ChannelGroup]:
        """The groups whose units can be removed."""
        return {name: x for name, x in self._groups.items() if not x.pinned}

    def flops(self, left: Mapping[str, int] | None = None) -> int | None:
        """Multiplications and additions per sample, in kernels and in attention.

        Nothing is built, and a call takes microseconds, so you can try many widths.

        Args:
            left: Maps the name of a group to the number of its kept units; groups that
                are not named keep all.

        Returns:
            The count; `None` if it is not known how often a kernel is used.
        """
        return self._costs.flops(self._left(left))

    def parameters(self, left: Mapping[str, int] | None = None) -> int:
        """Number of weights of the model if the given numbers of units are kept."""
        return self._costs.parameters(self._left(left))

    def _left(self, left):
        left = {} if left is None else check_mapping("left", left, "groups to units")
        if unknown := [name for name in left if name not in self._groups]:
            raise KeyError(f"left: no group is named {unknown[0]!r}: {list(self)}")
        return {
            name: check_integer(f"left[{name!r}]", count, 0, self[name].size)
            for name, count in left.items()
        }

    def masks(self, kept: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Masks of all weights that are pruned.

        Args:
            kept: Maps the name of a group to a boolean array with one flag per unit.

        Returns:
            Maps the name of a weight to a boolean array in its shape, False where a
            pruned unit has a value that must be zero.

        Raises:
            KeyError: If there is no such group.
            ValueError: If an array has another length, or the group is pinned.
        """
        masks: dict[str, np.ndarray] = {}
        for name, flags in check_mapping("kept", kept, "groups to flags").items():
            if name not in self._groups:
                raise KeyError(f"kept: no group is named {name!r}: {list(self)}")
            group, flags = self[name], check_array("kept", flags).astype(bool)
            if flags.shape != (group.size,):
                raise ValueError(
                    f"Group '{name}' has {group.size} units. Received: an array of "
                    f"shape {flags.shape}"
                )
            if group.pinned and not flags.all():
                raise ValueError(f"Group '{name}' can't be pruned: {group.pinned}.")
            for member in group.members:
                if not member.zeroed or flags.all():
                    continue
                mask = masks.setdefault(
                    member.path, np.ones(tuple(member.variable.shape), bool)
                )
                mask.swapaxes(0, member.axis)[member.indices[~flags].ravel()] = False
        return masks

    def __str__(self) -> str:
        rows = [("group", "kind", "units", "parameters", "FLOPs", "weights")]
        notes: list[str] = []
        for group in self._groups.values():
            where = [repr(x) for x in group.members]
            more = f" and {len(where) - 3} more" if len(where) > 3 else ""
            cost = "-" if group.flops is None else f"{group.flops:,}"
            rows.append(
                (
                    group.name,
                    group.kind,
                    f"{group.size:,}",
                    f"{group.parameters:,}",
                    cost,
                    ", ".join(where[:3]) + more,
                )
            )
            if group.pinned:
                notes.append(f"'{group.name}' stays: {group.pinned}")
        notes += [f"'{name}' stays: {why}" for name, why in self.without_rule.items()]
        lines = aligned(rows, right=(2, 3, 4))
        lines.insert(1, "-" * max(map(len, lines)))
        total = self.flops()
        count = f"{total:,}" if total is not None else "not known"
        lines.append(f"parameters: {self.parameters():,}; FLOPs: {count}")
        return "\n".join([*lines, *notes])


def channel_groups(model: keras.Model) -> ChannelGroups:
    """Finds the channels that must be pruned together, and the cost of each.

    Ties follow from the model's graph. Channels that are added must exist on both
    sides. A normalization or a depthwise convolution outputs the channels that it
    reads. Channels that a layer reads have rows in its kernel. Operations and
    parameters of a group are those of one unit.

    Args:
        model: A built Sequential or Functional model, wrapped by `prune` or not.

    Returns:
        `ChannelGroups`, a mapping of names to groups.

    Raises:
        TypeError: If the model is subclassed, so that its graph is not known.
        ValueError: If the model is not built.

    Example:

    >>> x = keras.Input((8, 8, 3))
    >>> y = keras.layers.Conv2D(4, 3, padding="same", name="a")(x)
    >>> z = keras.layers.Conv2D(4, 3, padding="same", name="b")(y)
    >>> y = keras.layers.GlobalAveragePooling2D()(keras.layers.Add()([y, z]))
    >>> model = keras.Model(x, keras.layers.Dense(2, name="c")(y))
    >>> group = tfticket.channel_groups(model)["a"]
    >>> group.size, [str(x) for x in group.members][:3]
    (4, ['a/kernel[3]', 'a/bias[0]', 'b/kernel[2]'])

    Source: the idea of dependency groups, Fang et al. 2023 (arXiv 2301.12900).
    """
    if not isinstance(model, keras.Model):
        require_keras_3(model)
    if not is_graph(model):
        raise TypeError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed: its graph, "
            "which tells what channels are tied, is not known. Rebuild it as a "
            "Functional model."
        )
    require_built(model)
    traced = trace(FlatGraph(model))
    members = _members(traced)
    weights = named_weights(model)
    paths = {id(x): name for name, x in weights.items()}
    found = _grouped(traced, members, paths)
    costs = _costs(traced, found, weights.values())
    groups = [
        dataclasses.replace(
            group,
            parameters=costs.parameters({}) - costs.parameters({group.name: rest}),
            flops=costs.saved(group.name),
        )
        for group, _ in found
        for rest in (group.size - 1,)
    ]
    return ChannelGroups(groups, _without_rule(traced), costs)


def _members(traced: Traced) -> list[Member]:
    """Every axis of every weight once, even if several calls use it."""
    found: dict[tuple, Member] = {}
    for node in traced.nodes:
        for member in node.members:
            found.setdefault((id(member.variable), member.axis), member)
    return list(found.values())


def _grouped(
    traced: Traced, members: list[Member], paths: dict[int, str]
) -> list[tuple[ChannelGroup, np.ndarray]]:
    """The groups, without costs yet, and the labels of their units."""
    if not members:
        return []
    labels = np.concatenate([x.labels for x in members])
    which = np.repeat(np.arange(len(members)), [len(x.labels) for x in members])
    units, unit = np.unique(labels, return_inverse=True)
    # Units in the same members, equally often, have the same signature.
    random = np.random.default_rng(0)
    codes = random.integers(1, 2**63, len(members), dtype=np.uint64)
    signatures = np.zeros(len(units), np.uint64)
    np.add.at(signatures, unit, codes[which])
    reasons = sorted({traced.pins.get(x, "") for x in units.tolist()})
    pins = random.integers(1, 2**63, len(reasons), dtype=np.uint64)
    place = [reasons.index(traced.pins.get(x, "")) for x in units.tolist()]
    signatures += pins[place]
    _, first, group_of = np.unique(signatures, return_index=True, return_inverse=True)
    present: dict[int, list[int]] = {}
    pairs = np.unique(group_of[unit] * len(members) + which)
    for pair in pairs.tolist():
        present.setdefault(pair // len(members), []).append(pair % len(members))
    orders = [np.argsort(x.labels, kind="stable") for x in members]
    result = []
    taken: dict[str, int] = {}
    for number in np.argsort(first).tolist():
        of = units[group_of == number]
        name, kind = traced.labels.origin(int(of[0]))
        if kind == "padding":
            continue
        name = name if kind == "channels" else f"{name}/{kind}"
        taken[name] = taken.get(name, -1) + 1
        group = ChannelGroup(
            name=f"{name}:{taken[name]}" if taken[name] else name,
            kind=kind,
            size=len(of),
            members=tuple(
                _placed(members[m], orders[m], of, paths) for m in present[number]
            ),
            pinned=traced.pins.get(int(of[0]), ""),
            parameters=0,
            flops=None,
        )
        result.append((group, of))
    return result


def _placed(member, order, units, paths):
    """The positions of each unit on the axis of a member."""
    ordered = member.labels[order]
    start = np.searchsorted(ordered, units)
    times = np.searchsorted(ordered, units[0], "right") - start[0]
    return GroupMember(
        paths.get(id(member.variable), member.variable.path),
        member.variable,
        member.axis,
        order[start[:, np.newaxis] + np.arange(times)],
        member.reads is not None,
        member.zeroed,
    )


def _costs(traced, found, variables):
    """The cost of each weight and each product of tensors, by numbers of units."""
    used, _ = uses(traced.graph)
    times: dict[tuple, dict[str, int]] = {}
    for group, _ in found:
        for member in group.members:
            key = id(member.variable), member.axis
            times.setdefault(key, {})[group.name] = member.indices.shape[1]
    weights = []
    for variable in variables:
        axes = {
            axis: times[id(variable), axis]
            for axis in range(len(variable.shape))
            if (id(variable), axis) in times
        }
        weights.append(Weight(tuple(variable.shape), axes, used.get(id(variable), 0)))
    group_of = {label: group.name for group, units in found for label in units.tolist()}
    for node in traced.nodes:
        for product in [] if isinstance(node.rule, Barrier) else _products(node):
            axes = {}
            for axis, labels in enumerate(product.axes):
                names = [group_of.get(x) for x in labels.tolist()]
                axes[axis] = {
                    name: names.count(name)
                    // len(set(labels[[x == name for x in names]]))
                    for name in set(names) - {None}
                }
            shape = tuple(map(len, product.axes))
            weights.append(Weight(shape, axes, product.count, parameters=False))
    return Costs(weights, {group.name: group.size for group, _ in found})


def _products(node):
    return node.rule.products(node)


def _without_rule(traced):
    return {
        node.layer.name: node.rule.reason
        for node in traced.nodes
        if isinstance(node.rule, Barrier) and getattr(node.layer, "weights", ())
    }
