"""Rules of operations that combine several values, or split one."""

import keras
import numpy as np

from tfticket.keras_models.channels.labels import Labels
from tfticket.keras_models.channels.rule import (
    Channels,
    Node,
    Resized,
    Rule,
    finite,
    has_channels,
)

layers = keras.layers


class Merge(Rule):
    """Several inputs, element by element.

    A channel exists in all inputs or in none. An input with one channel for all others
    is not tied to them, and is never empty.

    Args:
        function: Maps constants, stacked along a new first axis, to constants.
        absorbs: Whether a zero in one input makes the output zero, as in a product.
    """

    any_axis = True

    def __init__(self, function, absorbs=False):
        self.function = function
        self.absorbs = absorbs

    def refuses(self, node):
        if len({len(shape) for shape in node.in_shapes}) > 1:
            return "has inputs of several ranks"
        return None

    def outputs(self, node, labels):
        return [tie_by_element(node, labels)]

    def constants(self, node, given):
        size = len(node.outputs[0])
        values = np.stack(
            [np.broadcast_to(x if len(x) in (1, size) else np.nan, size) for x in given]
        )
        result = self.function(values)
        if self.absorbs:
            result = np.where((values == 0).any(0), 0.0, result)
        return [finite(result)]

    def needed(self, node, needed, given):
        return needed_by_element(node, needed[0], given, self.absorbs)


def tie_by_element(node: Node, labels: Labels) -> Channels:
    """Channels of the output of an element-wise function.

    Inputs with channels on another axis than the first wide input are pinned.
    """
    shape = node.out_shapes[0]
    first = _first_wide(node)
    if first is None:
        for each in node.inputs:
            labels.pin(each.labels, f"'{node.layer.name}' spreads them over others")
        size = shape[-1] if has_channels(shape) else 1
        made = Channels(labels.fresh(size, node.layer.name))
        labels.pin(made.labels, f"'{node.layer.name}' spreads others over them")
        return made
    for each, at in zip(node.inputs, node.in_shapes, strict=True):
        same = each.axis == first.axis
        if same and len(each) == len(first):
            labels.tie(first.labels, each.labels)
        elif len(each) > 1:
            labels.pin(each.labels, f"'{node.layer.name}' has channels on another axis")
            if len(at) >= -first.axis and at[first.axis] == len(first):
                labels.pin(
                    first.labels, f"'{node.layer.name}' has channels on another axis"
                )
        elif len(at) >= -first.axis and at[first.axis] not in (1, None):
            labels.pin(first.labels, f"'{node.layer.name}' adds positions to them")
    return first


def _first_wide(node):
    for each, at in zip(node.inputs, node.in_shapes, strict=True):
        if len(at) >= -each.axis and len(each) == node.out_shapes[0][each.axis]:
            return each
    return None


def needed_by_element(node, needed, given, absorbs=False):
    """The channels that an element-wise function needs from its inputs."""
    size = len(node.outputs[0])
    axis = node.outputs[0].axis
    wide = [len(x) == size and x.axis == axis for x in node.inputs]
    result = []
    for i, each in enumerate(node.inputs):
        if not wide[i]:
            result.append(np.full(len(each), needed.any()))
            continue
        read = needed
        if absorbs:
            # A product with zero needs only one of the zeros.
            for j, other in enumerate(given):
                if j != i and wide[j]:
                    first = given[i] != 0 if j > i else True
                    read = read & ~((other == 0) & first)
        result.append(read)
    return result


class Concatenate(Rule):
    """Joins inputs along channels, or along positions."""

    any_axis = True

    def refuses(self, node):
        rank = len(node.out_shapes[0])
        if node.layer.axis % rank == 0:
            return "joins samples"
        if len({x.axis for x in node.inputs}) > 1:
            return "joins channels on different axes"
        return None

    def _joins_channels(self, node):
        rank = len(node.out_shapes[0])
        return node.layer.axis % rank == node.inputs[0].axis % rank

    def outputs(self, node, labels):
        given = [x.labels for x in node.inputs]
        axis = node.inputs[0].axis
        if self._joins_channels(node):
            return [Channels(np.concatenate(given), axis)]
        for each in given[1:]:
            labels.tie(given[0], each)
        return [Channels(given[0], axis)]

    def constants(self, node, given):
        if self._joins_channels(node):
            return [np.concatenate(given)]
        values = np.stack(given)
        return [np.where((values == values[:1]).all(0), values[0], np.nan)]

    def needed(self, node, needed, given):
        if self._joins_channels(node):
            return np.split(needed[0], np.cumsum([len(x) for x in given])[:-1])
        return [needed[0] for _ in given]


class Split(Rule):
    """Splits channels, or positions."""

    any_axis = True

    def refuses(self, node):
        if node.layer.axis % len(node.in_shapes[0]) == 0:
            return "splits samples"
        return None

    def _splits_channels(self, node):
        rank = len(node.in_shapes[0])
        return node.layer.axis % rank == node.inputs[0].axis % rank

    def _ends(self, node):
        axis = node.inputs[0].axis
        return np.cumsum([shape[axis] for shape in node.out_shapes])[:-1]

    def outputs(self, node, labels):
        of = node.inputs[0]
        if not self._splits_channels(node):
            return [of] * len(node.out_shapes)
        parts = np.split(of.labels, self._ends(node))
        return [Channels(x, of.axis) for x in parts]

    def constants(self, node, given):
        if not self._splits_channels(node):
            return [given[0]] * len(node.outputs)
        return np.split(given[0], self._ends(node))

    def needed(self, node, needed, given):
        if not self._splits_channels(node):
            return [np.any(needed, 0)]
        return [np.concatenate(needed)]

    def resized(self, node, kept):
        if kept.inputs[0].all() or not self._splits_channels(node):
            return Resized()
        ends = np.cumsum([int(x.sum()) for x in kept.outputs])[:-1].tolist()
        axis = node.layer.axis
        return Resized(emit=lambda _, args, __: keras.ops.split(args[0], ends, axis))


class GetItem(Rule):
    """`x[:, 0]` and similar: slices of channels, and any indices of positions."""

    any_axis = True
    any_arguments = True

    def refuses(self, node):
        at = self._key(node)
        if at is None:
            return "picks by arrays"
        key = at[1][at[0]]
        if not isinstance(key, slice):
            return "picks single channels"
        return None

    def _key(self, node):
        """Index of the channels' key, all keys, and the channels' axis afterwards."""
        args, kwargs = node.args, node.kwargs
        key = kwargs["key"] if "key" in kwargs else args[1]
        keys = list(key) if isinstance(key, (tuple, list)) else [key]
        for x in keys:
            if not (x is None or x is Ellipsis or isinstance(x, (int, slice))):
                return None
        rank = len(node.in_shapes[0])
        taken = sum(x is not None and x is not Ellipsis for x in keys)
        if not any(x is Ellipsis for x in keys):
            keys.append(Ellipsis)
        at = next(i for i, x in enumerate(keys) if x is Ellipsis)
        keys[at : at + 1] = [slice(None)] * (rank - taken)
        axes = [i for i, x in enumerate(keys) if x is not None]
        place = axes[node.inputs[0].axis % rank]
        after = sum(not isinstance(x, int) for x in keys[place:])
        return place, keys, -after

    def outputs(self, node, labels):
        place, keys, axis = self._key(node)
        return [Channels(node.inputs[0].labels[keys[place]], axis)]

    def constants(self, node, given):
        place, keys, _ = self._key(node)
        return [given[0][keys[place]]]

    def needed(self, node, needed, given):
        place, keys, _ = self._key(node)
        result = np.zeros(len(given[0]), bool)
        result[keys[place]] = needed[0]
        return [result]

    def resized(self, node, kept):
        place, keys, _ = self._key(node)
        if kept.inputs[0].all() or keys[place] == slice(None):
            return Resized()
        # The axis of the selected channels.
        now = np.cumsum(kept.inputs[0]) - 1
        picked = now[keys[place]][kept.inputs[0][keys[place]]]
        if np.all(np.diff(picked) == 1):
            keys[place] = slice(int(picked[0]), int(picked[-1]) + 1)
            return Resized(emit=lambda _, args, __: args[0][tuple(keys)])
        keys[place] = slice(None)
        axis = node.inputs[0].axis

        def emit(_, args, __):
            rows = keras.ops.take(args[0], picked.tolist(), axis=axis)
            return rows if all(x == slice(None) for x in keys) else rows[tuple(keys)]

        return Resized(emit=emit)


class Take(Rule):
    """`keras.ops.take` of fixed channels, or of any positions."""

    any_axis = True
    any_arguments = True

    def refuses(self, node):
        if len(node.numbers) != 1 or node.layer.axis is None:
            return "takes computed indices"
        if self._takes_channels(node):
            return (
                None if self._numbers(node).ndim == 1 else "takes an array of channels"
            )
        rank = len(node.in_shapes[0])
        if node.layer.axis % rank == 0 or self._numbers(node).ndim != 1:
            return "moves the channels' axis"
        return None

    def _takes_channels(self, node):
        rank = len(node.in_shapes[0])
        return node.layer.axis % rank == node.inputs[0].axis % rank

    def _numbers(self, node):
        args, kwargs = node.args, node.kwargs
        return np.asarray(kwargs["indices"] if "indices" in kwargs else args[1])

    def outputs(self, node, labels):
        of = node.inputs[0]
        if not self._takes_channels(node):
            return [of]
        return [Channels(of.labels[self._numbers(node)], of.axis)]

    def constants(self, node, given):
        if not self._takes_channels(node):
            return [given[0]]
        return [given[0][self._numbers(node)]]

    def needed(self, node, needed, given):
        if not self._takes_channels(node):
            return [needed[0]]
        result = np.zeros(len(given[0]), bool)
        np.logical_or.at(result, self._numbers(node), needed[0])
        return [result]

    def resized(self, node, kept):
        if kept.inputs[0].all() or not self._takes_channels(node):
            return Resized()
        now = np.cumsum(kept.inputs[0]) - 1
        picked = now[self._numbers(node)[kept.outputs[0]]].tolist()
        axis = node.inputs[0].axis
        return Resized(emit=lambda _, args, __: keras.ops.take(args[0], picked, axis))


MERGING = {
    layers.Concatenate: Concatenate(),
    layers.Add: Merge(lambda values: np.sum(values, 0)),
    layers.Subtract: Merge(lambda values: values[0] - values[1]),
    layers.Multiply: Merge(lambda values: np.prod(values, 0), absorbs=True),
    layers.Maximum: Merge(lambda values: np.max(values, 0)),
    layers.Minimum: Merge(lambda values: np.min(values, 0)),
    layers.Average: Merge(lambda values: np.mean(values, 0)),
}
