"""Rules of operations that change only the shape."""

import math

import keras
import numpy as np

from tfticket.keras_models.channels.rule import Channels, Resized, Rule

layers = keras.layers


class Reshape(Rule):
    """Flatten and Reshape: the same numbers in the same order with other axes.

    Channels of the output are tied if the same channel of the input reaches them, and
    vice versa.
    """

    any_axis = True

    def refuses(self, node):
        if _sources(node) is None:
            return "reshapes an unknown size"
        return None

    def outputs(self, node, labels):
        sources = node.inputs[0].labels[_sources(node)]
        for row in sources[1:]:
            labels.tie(sources[0], row)
        return [Channels(sources[0], _out_axis(node))]

    def constants(self, node, given):
        values = given[0][_sources(node)]
        return [np.where((values == values[:1]).all(0), values[0], np.nan)]

    def needed(self, node, needed, given):
        result = np.zeros(given[0].shape, bool)
        result[_sources(node)[:, needed[0]]] = True
        return [result]

    def resized(self, node, kept):
        count = int(kept.outputs[0].sum())
        if kept.outputs[0].all():
            return Resized()
        axis = _out_axis(node)
        if isinstance(node.layer, layers.Flatten):
            return Resized()
        if isinstance(node.layer, layers.Reshape):
            return Resized({"target_shape": _replaced(node.layer, axis, count)})
        shape = _replaced(node.layer, axis, count)
        return Resized(emit=lambda _, args, __: keras.ops.reshape(args[0], shape))


def _replaced(operation, axis, count):
    shape = getattr(operation, "target_shape", None) or operation.newshape
    shape = [-1 if n is None else n for n in shape]
    shape[axis] = count
    return tuple(shape)


def _out_axis(node):
    """The last axis longer than 1, which becomes the channels' axis."""
    shape = node.out_shapes[0]
    axis = -1
    while shape[axis] == 1 and len(shape) + axis > 1:
        axis -= 1
    return -1 if shape[axis] == 1 or len(shape) + axis < 1 else axis


def _sources(node):
    """The input channels that each output channel consists of.

    Returns:
        Array of (positions, output channels), or `None` if it is not known. Positions
        with the same channels occur once.
    """
    before, axis = node.in_shapes[0], node.inputs[0].axis
    after = node.out_shapes[0][_out_axis(node)]
    tail = before[axis:]
    if None in tail or after is None:
        return None
    channels = np.arange(tail[0]).reshape(-1, *(1 for _ in tail[1:]))
    channels = np.broadcast_to(channels, tail).ravel()
    size = len(channels)
    if after % size == 0:
        # Rows of the output consist of whole rows.
        return np.tile(channels, after // size)[np.newaxis]
    if size % after:
        if None in before[1:]:
            return None
        channels = np.tile(channels, math.prod(before[1:]) // size)
    return np.unique(channels.reshape(-1, after), axis=0)


class Permute(Rule):
    """Reorders axes, including the channels' axis."""

    any_axis = True

    def refuses(self, node):
        order = _order(node)
        if order is None or order[0] != 0:
            return "moves the samples' axis"
        return None

    def outputs(self, node, labels):
        of, order = node.inputs[0], _order(node)
        place = order.index(of.axis % len(order))
        return [Channels(of.labels, place - len(order))]

    def constants(self, node, given):
        return [given[0]]

    def needed(self, node, needed, given):
        return [needed[0]]


def _order(node):
    """The axis that moves to each place."""
    operation, rank = node.layer, len(node.in_shapes[0])
    if isinstance(operation, layers.Permute):
        return [0, *operation.dims]
    kind = type(operation).__name__
    order = list(range(rank))
    if kind == "Transpose":
        axes = operation.axes
        return order[::-1] if axes is None else [x % rank for x in axes]
    if kind == "Swapaxes":
        one, other = operation.axis1 % rank, operation.axis2 % rank
        order[one], order[other] = order[other], order[one]
        return order
    source, target = operation.source, operation.destination
    source = [source] if isinstance(source, int) else list(source)
    target = [target] if isinstance(target, int) else list(target)
    moved = dict(
        zip((x % rank for x in target), (x % rank for x in source), strict=True)
    )
    rest = iter(x for x in order if x not in moved.values())
    return [moved[i] if i in moved else next(rest) for i in order]


class Squeeze(Rule):
    """Removes or inserts axes of length 1."""

    any_axis = True

    def refuses(self, node):
        if self._axis(node) is None:
            return "removes the channels' axis"
        return None

    def _axis(self, node):
        before, of = node.in_shapes[0], node.inputs[0]
        place, rank = of.axis % len(before), len(before)
        axes = node.layer.axis
        axes = axes if isinstance(axes, (tuple, list)) else (axes,)
        if type(node.layer).__name__ == "ExpandDims":
            rank = len(node.out_shapes[0])
            new = {x % rank for x in axes}
            old = [i for i in range(rank) if i not in new]
            return old[place] - rank
        if None in axes:
            axes = [i for i, n in enumerate(before) if n == 1]
        gone = {x % rank for x in axes}
        if place in gone:
            return None
        return -sum(i not in gone for i in range(place, rank))

    def outputs(self, node, labels):
        return [Channels(node.inputs[0].labels, self._axis(node))]

    def constants(self, node, given):
        return [given[0]]

    def needed(self, node, needed, given):
        return [needed[0]]


RESHAPING = {
    layers.Flatten: Reshape(),
    layers.Reshape: Reshape(),
    layers.Permute: Permute(),
}
