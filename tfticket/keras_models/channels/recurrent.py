"""Rules of recurrent layers, and of layers that run another layer at each step."""

import dataclasses

import keras
import numpy as np

from tfticket.keras_models.channels.rule import (
    Channels,
    Member,
    Node,
    Resized,
    Rule,
    acts_by_element,
)
from tfticket.keras_models.names import weights_by_path

layers = keras.layers


class Recurrent(Rule):
    """LSTM, GRU and SimpleRNN: a unit has gates, a state and readers.

    Args:
        gates: Blocks of columns in the kernels.
        size: Name of the number of units in the configuration.
    """

    any_arguments = True

    def __init__(self, gates, size="units"):
        self._gates = gates
        self._size = size

    def refuses(self, node):
        cell = node.layer.cell
        known = {"kernel", "recurrent_kernel", "bias"}
        if others := {x.name for x in cell.weights} - known:
            return f"has the weights {sorted(others)}"
        if node.layer.stateful:
            return "is stateful"
        for name in ("activation", "recurrent_activation"):
            if not acts_by_element(getattr(cell, name, None)):
                return "has an activation that combines all channels"
        return None

    def outputs(self, node, labels):
        made = labels.fresh(getattr(node.layer.cell, self._size), node.layer.name)
        for state in node.inputs[1:]:
            labels.tie(state.labels, made)
        return [Channels(made)] * len(node.out_shapes)

    def members(self, node):
        return self.members_of(
            node.layer.cell, node.inputs[0].labels, node.outputs[0].labels
        )

    def members_of(self, cell, given, made):
        """Members of a cell, from labels of its input and of its units."""
        gates = np.tile(made, self._gates)
        kernel, recurrent = cell.kernel, cell.recurrent_kernel
        last = len(kernel.shape) - 1
        members = [
            Member(kernel, last - 1, given, reads=0),
            Member(kernel, last, gates),
            Member(recurrent, last - 1, made),
            Member(recurrent, last, gates),
        ]
        if cell.use_bias:
            members.append(Member(cell.bias, len(cell.bias.shape) - 1, gates))
        return members

    def constants(self, node, given):
        made = self.constants_of(node.layer.cell)
        for state in given[1:]:
            made = np.where(state == 0, made, np.nan)
        return [made] * len(node.outputs)

    def constants_of(self, cell):
        """Zeros for the units of a cell whose weights are all zero."""
        at_zero = keras.ops.convert_to_numpy(cell.activation(np.zeros((1, 1))))
        silent = ~self._nonzero(cell.kernel).any(0)
        silent &= ~self._nonzero(cell.recurrent_kernel).any(0)
        if cell.use_bias:
            bias = keras.ops.convert_to_numpy(cell.bias) != 0
            silent &= ~bias.reshape(-1, self._gates, len(silent)).any((0, 1))
        return np.where(silent & (at_zero.item() == 0), 0.0, np.nan)

    def needed(self, node, needed, given):
        units = self.units_needed(node.layer.cell, np.any(needed, 0))
        kernel = self._nonzero(node.layer.cell.kernel)
        return [kernel[:, units].any(1), *(units for _ in given[1:])]

    def inside(self, node, needed):
        units = self.units_needed(node.layer.cell, np.any(needed, 0))
        return [(node.outputs[0].labels, units)]

    def units_needed(self, cell, needed):
        """The units that the needed ones depend on, over all steps."""
        recurrent = self._nonzero(cell.recurrent_kernel)
        while True:
            wider = needed | recurrent[:, needed].any(1)
            if np.array_equal(wider, needed):
                return needed
            needed = wider

    def _nonzero(self, kernel):
        """Flags of (inputs, units): whether a weight of any gate is not zero."""
        values = keras.ops.convert_to_numpy(kernel) != 0
        values = values.any(tuple(range(values.ndim - 2)))
        return values.reshape(len(values), self._gates, -1).any(1)

    def config(self, node, inputs, outputs):
        return {self._size: outputs[0]}


class RecurrentCell(Recurrent):
    """`RNN` of one of Keras's cells."""

    def __init__(self, gates=0):
        super().__init__(gates)

    def of(self, layer, rule_of):
        return RecurrentCell(_GATES.get(type(layer.cell), 0))

    def refuses(self, node):
        if not self._gates:
            return "runs a cell without a channel rule"
        return super().refuses(node)

    def config(self, node, inputs, outputs):
        return {"cell": _serialized(node.layer.cell, {"units": outputs[0]})}


_GATES = {layers.LSTMCell: 4, layers.GRUCell: 3, layers.SimpleRNNCell: 1}


class Bidirectional(Rule):
    """Two recurrent layers, whose units are concatenated or added."""

    any_arguments = True

    def refuses(self, node):
        layer = node.layer
        rule = RECURRENT.get(type(layer.forward_layer))
        if (
            rule is None
            or type(layer.forward_layer) is layers.RNN
            or type(layer.backward_layer) is not type(layer.forward_layer)
        ):
            return "runs layers without a channel rule"
        if len(node.inputs) > 1:
            return "is given states"
        for part in (layer.forward_layer, layer.backward_layer):
            if reason := rule.refuses(dataclasses.replace(node, layer=part)):
                return reason
        return None

    def _rule(self, node):
        return RECURRENT[type(node.layer.forward_layer)]

    def outputs(self, node, labels):
        layer, rule = node.layer, self._rule(node)
        size = getattr(layer.forward_layer.cell, rule._size)
        forward = labels.fresh(size, f"{layer.name}/forward")
        backward = labels.fresh(size, f"{layer.name}/backward")
        sides = [Channels(forward), Channels(backward)]
        if layer.merge_mode is None:
            made = sides
        elif layer.merge_mode == "concat":
            made = [Channels(np.concatenate([forward, backward]))]
        else:
            labels.tie(forward, backward)
            made = [sides[0]]
        states = len(node.out_shapes) - len(made)
        return [*made, *(side for side in sides for _ in range(states // 2))]

    def _sides(self, node):
        """Labels of the forward and of the backward units."""
        made = node.outputs
        if node.layer.merge_mode is None:
            return made[0].labels, made[1].labels
        if node.layer.merge_mode == "concat":
            return np.split(made[0].labels, 2)
        return made[0].labels, made[0].labels

    def members(self, node):
        rule, given = self._rule(node), node.inputs[0].labels
        cells = node.layer.forward_layer.cell, node.layer.backward_layer.cell
        return [
            member
            for cell, made in zip(cells, self._sides(node), strict=True)
            for member in rule.members_of(cell, given, made)
        ]

    def constants(self, node, given):
        rule = self._rule(node)
        cells = node.layer.forward_layer.cell, node.layer.backward_layer.cell
        alive = np.concatenate(
            [
                x.labels[np.isnan(rule.constants_of(c))]
                for x, c in zip(map(Channels, self._sides(node)), cells, strict=True)
            ]
        )
        return [np.where(np.isin(x.labels, alive), np.nan, 0.0) for x in node.outputs]

    def needed(self, node, needed, given):
        rule = self._rule(node)
        read = np.zeros(len(given[0]), bool)
        cells = node.layer.forward_layer.cell, node.layer.backward_layer.cell
        for cell, (_, units) in zip(cells, self.inside(node, needed), strict=True):
            read |= rule._nonzero(cell.kernel)[:, units].any(1)
        return [read]

    def inside(self, node, needed):
        made = np.concatenate([x.labels for x in node.outputs])
        wanted = made[np.concatenate(needed)]
        cells = node.layer.forward_layer.cell, node.layer.backward_layer.cell
        return [
            (labels, self._rule(node).units_needed(cell, np.isin(labels, wanted)))
            for cell, labels in zip(cells, self._sides(node), strict=True)
        ]

    def resized(self, node, kept):
        resized = super().resized(node, kept)
        if not resized.weights:
            return Resized()
        rule, layer = self._rule(node), node.layer
        sizes = [
            resized.weights.get(f"{part}_layer/cell/recurrent_kernel")
            for part in ("forward", "backward")
        ]
        parts = layer.forward_layer, layer.backward_layer
        made = {}
        for name, part, kernel in zip(
            ("layer", "backward_layer"), parts, sizes, strict=True
        ):
            size = {} if kernel is None else {rule._size: kernel.shape[-2]}
            made[name] = _serialized(part, size)
        return Resized(made, resized.weights)


class TimeDistributed(Rule):
    """Runs another layer at each step, under that layer's rule."""

    def of(self, layer, rule_of):
        return _Stepwise(rule_of(layer.layer))


class _Stepwise(Rule):
    def __init__(self, rule):
        self._rule = rule

    def _step(self, node: Node) -> Node:
        """The call of one step."""

        def without(shapes):
            return tuple((x[0], *x[2:]) for x in shapes)

        call = dataclasses.replace(
            node.call,
            operation=node.layer.layer,
            in_shapes=without(node.call.in_shapes),
            out_shapes=without(node.call.out_shapes),
        )
        shapes = without(node.in_shapes)
        return dataclasses.replace(
            node, call=call, layer=node.layer.layer, in_shapes=shapes, rule=self._rule
        )

    def refuses(self, node):
        inner = self._rule
        if not hasattr(inner, "_step") and hasattr(inner, "reason"):
            return f"runs a layer that {inner.reason}"
        if min(map(len, (*node.in_shapes, *node.out_shapes))) < 3:
            return "runs a layer on single numbers"
        if not acts_by_element(getattr(node.layer.layer, "activation", None)):
            return "has an activation that combines all channels"
        return inner.refuses(self._step(node))

    def outputs(self, node, labels):
        return self._rule.outputs(self._step(node), labels)

    def members(self, node):
        return self._rule.members(self._step(node))

    def constants(self, node, given):
        return self._rule.constants(self._step(node), given)

    def needed(self, node, needed, given):
        return self._rule.needed(self._step(node), needed, given)

    def inside(self, node, needed):
        return self._rule.inside(self._step(node), needed)

    def resized(self, node, kept):
        resized = self._rule.resized(self._step(node), kept)
        if not resized.config and not resized.weights:
            return Resized()
        inner = _serialized(node.layer.layer, resized.config)
        names = {x: f"layer/{x}" for x in weights_by_path(node.layer.layer)}
        names.setdefault("bias", "layer/bias")
        weights = {names[name]: x for name, x in resized.weights.items()}
        return Resized({"layer": inner}, weights)


def _serialized(layer, changes):
    """The configuration of a layer inside another one, with changed entries."""
    serialized = keras.saving.serialize_keras_object(layer)
    serialized["config"].update(changes)
    # It was built for the old sizes.
    serialized.pop("build_config", None)
    return serialized


RECURRENT = {
    layers.LSTM: Recurrent(4),
    layers.GRU: Recurrent(3),
    layers.SimpleRNN: Recurrent(1),
    layers.RNN: RecurrentCell(),
    **{
        getattr(layers, f"ConvLSTM{rank}D"): Recurrent(4, "filters")
        for rank in (1, 2, 3)
    },
}
STEPWISE = {
    layers.Bidirectional: Bidirectional(),
    layers.TimeDistributed: TimeDistributed(),
}
