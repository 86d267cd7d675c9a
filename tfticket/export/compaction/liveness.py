"""Which channels of a model are constant, needed, and kept."""

import dataclasses

import numpy as np

from tfticket.keras_models.channels.rule import Barrier, Kept, Node
from tfticket.keras_models.channels.trace import Traced, mixes


@dataclasses.dataclass(frozen=True)
class Liveness:
    """What is known about each value's channels, by the value's number.

    One forward pass finds all constants, and one backward pass finds what is needed. A
    constant does not depend on what reads it, so no pass is repeated.

    Args:
        traced: The channels of the model.
        constants: Float64 arrays, NaN where a channel is not constant.
        needed: Flags: whether a channel affects an output.
        stays: Flags by label: needed, pinned, or tied to a channel that is.
    """

    traced: Traced
    constants: list[np.ndarray]
    needed: list[np.ndarray]
    stays: np.ndarray

    def kept(self, number: int) -> np.ndarray:
        """Flags: whether a value's channels stay."""
        return self.stays[self.traced.values[number].labels]

    def around(self, node: Node) -> Kept:
        """The channels that stay around one call."""
        return Kept(
            [self.stays[x.labels] for x in node.inputs],
            [self.stays[x.labels] for x in node.outputs],
            [self.stays[x.labels] for x in node.members],
            _needed_by_layer(self.traced, node, self.needed),
            _given(node, self.constants),
        )


def liveness(traced: Traced) -> Liveness:
    """Finds what is constant, needed and kept."""
    constants = _constants(traced)
    forced: dict[int, np.ndarray] = {}
    while True:
        needed = _needed(traced, constants, forced)
        stays = _stays(traced, needed)
        live = Liveness(traced, constants, needed, stays)
        missed = _counted(live)
        if not missed:
            return live
        for i, flags in missed.items():
            forced[i] = forced.get(i, False) | flags


def _constants(traced):
    values = traced.values
    found = {i: np.full(len(values[i]), np.nan) for i in traced.graph.inputs}
    for node in traced.nodes:
        outputs = node.call.outputs
        if isinstance(node.rule, Barrier) or mixes(node):
            made = [np.full(len(x), np.nan) for x in node.outputs]
        else:
            given = [
                np.full(len(x), np.nan) if x.foreign else found[i]
                for i, x in zip(node.numbers, node.inputs, strict=True)
            ]
            made = node.rule.constants(node, given)
        found.update(zip(outputs, made, strict=True))
    return [found[i] for i in range(len(values))]


def _given(node, constants):
    """Constants of the inputs that a layer may fold; a shared layer folds none."""
    hidden = node.shared and not node.rule.counts_channels
    return [
        np.full(len(x), np.nan) if x.foreign or hidden else constants[i]
        for i, x in zip(node.numbers, node.inputs, strict=True)
    ]


def _needed(traced, constants, forced):
    needed = [np.zeros(len(x), bool) for x in constants]
    for i, flags in forced.items():
        needed[i] |= flags
    for i in traced.graph.outputs:
        needed[i][:] = True
    for node in reversed(traced.nodes):
        outputs, inputs = node.call.outputs, node.call.inputs
        if isinstance(node.rule, Barrier):
            for i in inputs:
                needed[i][:] = True
            continue
        if mixes(node):
            for i in outputs:
                needed[i][:] = True
        wanted = [needed[i] for i in outputs]
        reads = node.rule.needed(node, wanted, _given(node, constants))
        for i in set(inputs) - set(node.numbers):
            needed[i][:] = True
        for i, of, read in zip(node.numbers, node.inputs, reads, strict=True):
            needed[i] = needed[i] | (read.any() if of.foreign else read)
    return needed


def _needed_by_layer(traced, node, needed):
    """Flags of the needed outputs; for a shared layer, those of any call."""
    calls = [x for x in traced.nodes if x.layer is node.layer] if node.shared else []
    flags = [needed[i] for i in node.call.outputs]
    for other in calls:
        others = [needed[i] for i in other.call.outputs]
        if [len(x) for x in others] == [len(x) for x in flags]:
            flags = [x | y for x, y in zip(flags, others, strict=True)]
    return flags


def _stays(traced, needed):
    """Flags by label. Every value and every weight keeps at least its first channel."""
    values = traced.values
    inside = []
    for node in traced.nodes:
        if node.members:
            flags = [needed[i] for i in node.call.outputs]
            inside += node.rule.inside(node, flags)
    labels = [x.labels for x in values] + [x for x, _ in inside]
    size = 1 + max((int(x.max()) for x in labels if len(x)), default=0)
    stays = np.zeros(size, bool)
    stays[list(traced.pins)] = True
    for of, read in zip(values, needed, strict=True):
        stays[of.labels[read]] = True
    for of, read in inside:
        stays[of[read]] = True
    for of in labels:
        if len(of) and not stays[of].any():
            stays[of[0]] = True
    return stays


def _counted(live):
    """Channels that stay and must keep their values, because statistics count them."""
    missed = {}
    for node in live.traced.nodes:
        if not node.rule.counts_channels:
            continue
        for i, of in zip(node.numbers, node.inputs, strict=True):
            flags = live.stays[of.labels] & ~live.needed[i]
            if flags.any() and live.needed[node.call.outputs[0]].any():
                missed[i] = flags
    return missed
