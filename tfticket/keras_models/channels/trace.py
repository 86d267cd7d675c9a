"""Follows the channels of a model from its inputs to its outputs."""

import collections
import dataclasses
import inspect

import keras
import numpy as np

from tfticket.keras_models.channels.labels import Labels
from tfticket.keras_models.channels.registry import rule_of
from tfticket.keras_models.channels.rule import (
    Barrier,
    Channels,
    Node,
    acts_by_element,
    has_channels,
    width,
)
from tfticket.keras_models.graph import FlatGraph
from tfticket.keras_models.masked_layer import inner_layer


@dataclasses.dataclass(eq=False)
class Traced:
    """The channels of a model; tied channels have one label.

    Args:
        graph: The model, flat.
        nodes: Its calls as rules see them, in the order of `graph.calls`.
        values: Channels of each value, by its number.
        pins: Maps a label to the reason why its channels stay.
        labels: The origin of the labels.
    """

    graph: FlatGraph
    nodes: list[Node]
    values: list[Channels]
    pins: dict[int, str]
    labels: Labels


def trace(graph: FlatGraph) -> Traced:
    """Labels the channels of every value with the rule of each call."""
    labels = Labels()
    values: dict[int, Channels] = {}
    for layer, i in zip(graph.input_layers, graph.inputs, strict=True):
        shape = graph.shapes[i]
        values[i] = Channels(labels.fresh(width(shape), layer.name))
        labels.pin(values[i].labels, "an input of the model")
    times = collections.Counter(id(call.operation) for call in graph.calls)
    nodes = []
    for call in graph.calls:
        node = _node(call, times[id(call.operation)] > 1, values, labels)
        nodes.append(node)
        values.update(zip(call.outputs, node.outputs, strict=True))
    for i in graph.outputs:
        labels.pin(values[i].labels, "an output of the model", first=True)
    _tie_shared(nodes, labels)
    roots = labels.roots()
    resolved: dict[int, Channels] = {}

    def resolve(channels):
        made = dataclasses.replace(channels, labels=roots[channels.labels])
        return resolved.setdefault(id(channels), made)

    for node in nodes:
        node.inputs = tuple(map(resolve, node.inputs))
        node.outputs = tuple(map(resolve, node.outputs))
        node.members = tuple(
            dataclasses.replace(x, labels=roots[x.labels]) for x in node.members
        )
    found = [resolve(values[i]) for i in range(len(graph.shapes))]
    return Traced(graph, nodes, found, labels.pins(roots), labels)


def _node(call, repeated, values, labels):
    """A call with its rule; a `Barrier` with a reason if none applies."""
    layer = inner_layer(call.operation)
    numbers, sides = _sides(call, layer)
    shapes = dict(zip(call.inputs, call.in_shapes, strict=True))
    for i in sides:
        labels.pin(values[i].labels, "a mask of positions")
    node = Node(
        call,
        layer,
        numbers,
        tuple(shapes[i] for i in numbers),
        tuple(values[i] for i in numbers),
        rule_of(layer),
        shared=repeated and bool(getattr(layer, "weights", ())),
    )
    reason = _refusal(node, sides)
    if reason is None:
        if not node.rule.any_axis:
            node.inputs = tuple(_on_last(node, i, labels) for i in range(len(numbers)))
        reason = node.rule.refuses(node)
    if reason is not None:
        return _barrier(node, reason, values, labels)
    node.outputs = tuple(node.rule.outputs(node, labels))
    node.members = tuple(node.rule.members(node))
    if mixes(node):
        for made in node.outputs:
            labels.pin(
                made.labels,
                f"'{layer.name}' has an activation that combines all channels",
            )
    return node


def _sides(call, layer):
    """Numbers of the values that a call reads as data, and as masks."""
    marks = {i: _Mark(i) for i in call.inputs}
    args, kwargs = call.with_values(marks)
    try:
        bound = inspect.signature(layer.call).bind(*args, **kwargs).arguments
    except (TypeError, ValueError):
        return call.inputs, ()
    masks = [value for name, value in bound.items() if name.endswith("mask")]
    masks += [v for k, v in bound.get("kwargs", {}).items() if k.endswith("mask")]
    masks = {x.number for x in keras.tree.flatten(masks) if isinstance(x, _Mark)}
    numbers = tuple(i for i in call.inputs if i not in masks)
    return numbers, tuple(i for i in call.inputs if i in masks)


@dataclasses.dataclass(frozen=True)
class _Mark:
    """A placeholder for a value among the arguments of a call."""

    number: int


def _refusal(node, sides):
    """Why no rule can apply, from the conditions that all rules share."""
    rule, layer = node.rule, node.layer
    if isinstance(rule, Barrier):
        return rule.reason
    if not _plain_arguments(node.call, rule):
        return "is called with arguments other than tensors"
    if sides and not rule.any_mask:
        return "is called with a mask"
    known = rule.any_width or all(
        has_channels(shape, x.axis)
        for shape, x in zip(node.in_shapes, node.inputs, strict=True)
    )
    if not known or not (rule.any_axis or all(map(has_channels, node.out_shapes))):
        return "has no channel axis of known size"
    if getattr(layer, "data_format", "channels_last") == "channels_first":
        return "has its channels first"
    return None


def _plain_arguments(call, rule):
    args, kwargs = call.arguments
    if kwargs.get("training"):
        return False
    if rule.any_arguments:
        return True
    others = {
        k: v for k, v in kwargs.items() if k != "training" and not (k.endswith("mask"))
    }
    leaves = keras.tree.flatten((args, others))
    return all(
        isinstance(leaf, keras.KerasTensor) for leaf in leaves if leaf is not None
    )


def _on_last(node, number, labels):
    """The input's channels; positions instead, if the channels are on another axis."""
    of = node.inputs[number]
    if of.axis == -1:
        return of
    labels.pin(of.labels, f"'{node.layer.name}' takes them for positions")
    made = labels.fresh(width(node.in_shapes[number]))
    labels.pin(made, "positions")
    return Channels(made, foreign=True)


def _barrier(node, reason, values, labels):
    node.rule = Barrier(reason)
    node.inputs = tuple(values[i] for i in node.numbers)
    node.outputs = tuple(
        Channels(labels.fresh(width(shape), node.layer.name))
        for shape in node.out_shapes
    )
    why = f"'{node.layer.name}' ({type(node.layer).__name__}) {reason}"
    for each in (*node.inputs, *node.outputs):
        labels.pin(each.labels, why)
    return node


def _tie_shared(nodes, labels):
    """Ties channels that index the same axis of a weight in several calls."""
    first: dict[tuple, np.ndarray] = {}
    for node in nodes:
        for member in node.members:
            key = id(member.variable), member.axis
            if key in first:
                labels.tie(first[key], member.labels)
            first.setdefault(key, member.labels)


def mixes(node: Node) -> bool:
    """Whether its activation combines all channels, as softmax does."""
    return not acts_by_element(getattr(node.layer, "activation", None))
