"""Which channels of a model are constant, needed, and kept."""

import collections
import dataclasses

import keras
import numpy as np

from tfticket.export.compaction.channels import Barrier, Classes, Rule, acts_by_element
from tfticket.export.compaction.passing_rules import OPERATIONS, PASSING
from tfticket.export.compaction.weighted_rules import WEIGHTED
from tfticket.keras_models.graph import Call, FlatGraph

_RULES = PASSING | WEIGHTED


@dataclasses.dataclass(frozen=True)
class Liveness:
    """What is known of each value's channels, by the value's number.

    One pass forwards finds all constants and one pass backwards all that is needed:
    a constant does not depend on who reads it, so there is nothing to repeat.

    Args:
        rules: The rule of each call.
        constants: Float64 arrays, NaN where a channel is not constant.
        needed: Flags: does a value matter to an output?
        kept: Flags: needed, or tied to a channel that is.
    """

    rules: list[Rule]
    constants: list[np.ndarray]
    needed: list[np.ndarray]
    kept: list[np.ndarray]


def liveness(graph: FlatGraph) -> Liveness:
    """Finds what is constant, needed and kept."""
    times = collections.Counter(id(call.operation) for call in graph.calls)
    rules = [_rule(call, times[id(call.operation)] > 1) for call in graph.calls]
    constants = _constants(graph, rules)
    needed = _needed(graph, rules, constants)
    kept = _kept(graph, rules, needed)
    return Liveness(rules, constants, needed, kept)


def _constants(graph, rules):
    found = {i: np.full(width(graph.shapes[i]), np.nan) for i in graph.inputs}
    for call, rule in zip(graph.calls, rules, strict=True):
        if isinstance(rule, Barrier) or _mixes(call):
            for i in call.outputs:
                found[i] = np.full(width(graph.shapes[i]), np.nan)
        else:
            given = [found[i] for i in call.inputs]
            found[call.outputs[0]] = rule.constants(call, given)
    return [found[i] for i in range(len(graph.shapes))]


def _needed(graph, rules, constants):
    needed = [np.zeros(len(x), bool) for x in constants]
    for i in graph.outputs:
        needed[i][:] = True
    for call, rule in reversed(list(zip(graph.calls, rules, strict=True))):
        if isinstance(rule, Barrier):
            for i in call.inputs:
                needed[i][:] = True
            continue
        if _mixes(call):
            needed[call.outputs[0]][:] = True
        given = [constants[i] for i in call.inputs]
        reads = rule.needed(call, needed[call.outputs[0]], given)
        for i, read in zip(call.inputs, reads, strict=True):
            needed[i] = needed[i] | read
    return needed


def _kept(graph, rules, needed):
    classes = Classes()
    labels = {i: classes.fresh(len(needed[i])) for i in graph.inputs}
    for i in graph.inputs:
        classes.pin(labels[i])
    for call, rule in zip(graph.calls, rules, strict=True):
        if isinstance(rule, Barrier):
            for i in call.outputs:
                labels[i] = classes.fresh(len(needed[i]))
            for i in (*call.inputs, *call.outputs):
                classes.pin(labels[i])
            continue
        out = call.outputs[0]
        labels[out] = rule.ties(call, [labels[i] for i in call.inputs], classes)
        if _mixes(call):
            classes.pin(labels[out])
    return classes.kept([labels[i] for i in range(len(needed))], needed)


def width(shape: tuple) -> int:
    """The number of channels, 1 where there is no such axis or its size is unknown."""
    return shape[-1] if _has_channels(shape) else 1


def _has_channels(shape):
    return len(shape) > 1 and isinstance(shape[-1], int) and shape[-1] > 0


def _rule(call: Call, shared: bool) -> Rule:
    """The rule of a call, a `Barrier` with its reason if none holds."""
    operation = call.operation
    rule = _RULES.get(type(operation))
    if type(operation).__module__.startswith("keras.src.ops.numpy"):
        rule = OPERATIONS.get(type(operation).__name__)
    if rule is None:
        return Barrier("is of a kind that compact does not know")
    if not call.takes_only_tensors():
        return Barrier("is called with other arguments than tensors")
    if not all(map(_has_channels, (*call.in_shapes, *call.out_shapes))):
        return Barrier("has no channel axis of known size")
    if getattr(operation, "data_format", "channels_last") == "channels_first":
        return Barrier("has its channels first")
    if shared and (operation.weights or isinstance(operation, keras.layers.Reshape)):
        return Barrier("is shared")
    if reason := rule.refuses(call):
        return Barrier(reason)
    return rule


def _mixes(call):
    """Whether its activation, like softmax, takes all channels together."""
    return not acts_by_element(getattr(call.operation, "activation", None))
