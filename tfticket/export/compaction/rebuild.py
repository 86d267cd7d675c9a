"""Builds the smaller model: the same calls of layers with only the kept channels."""

import re
from typing import Any

import keras

from tfticket.export.compaction.liveness import Liveness
from tfticket.keras_models.channels.rule import Barrier, Resized
from tfticket.keras_models.copies import copy_state
from tfticket.keras_models.graph import FlatGraph, assemble
from tfticket.keras_models.names import every_layer, weights_by_path
from tfticket.keras_models.twins import copy_layer, live_config


def rebuild(
    graph: FlatGraph, live: Liveness
) -> tuple[keras.Model, list[keras.layers.Layer]]:
    """Makes the smaller model.

    Layers keep their names. If the name of a layer in a nested model is taken, the
    names of the models around it are put before it. An output of a nested model becomes
    the output of an `Identity` with the nested model's name.

    Args:
        graph: The model, flat.
        live: The channels that are needed and kept.

    Returns:
        The model, which is Sequential if `graph.model` is and its calls are a chain of
        layers, and otherwise Functional; and what each call of the graph calls in it.
    """
    names = _names(graph)
    resized = [_resized(node, live) for node in live.traced.nodes]
    copies: dict[tuple, Any] = {}
    ordered = []
    for call, changes in zip(graph.calls, resized, strict=True):
        key = _key(call.operation, changes)
        if key not in copies:
            name = names[id(call.operation)]
            if any(other[0] == key[0] for other in copies):
                # A shared layer without weights can differ from call to call.
                name = _unused(name, {x.name for x in copies.values()} | {*names})
            copies[key] = _copy(call.operation, name, changes.config)
        ordered.append(copies[key])
    inputs = [copy_layer(layer) for layer in graph.input_layers]
    emits = [x.emit for x in resized]
    if _is_chain(graph) and not any(emits):
        model = keras.Sequential([*inputs, *ordered], name=graph.model.name)
    else:
        if any(emits):
            _count_past(names.values())
        model = _connect(graph, ordered, inputs, emits)
    for call, changes, copy in zip(graph.calls, resized, ordered, strict=True):
        _set_weights(call.operation, copy, changes.weights)
    return model, ordered


def _resized(node, live):
    if isinstance(node.rule, Barrier):
        return Resized()
    return node.rule.resized(node, live.around(node))


def _key(operation, changes):
    own = () if getattr(operation, "weights", ()) else repr(changes.config)
    return id(operation), own


# Operations that `emit` makes, which Keras names by a counter.
_MADE = {
    "add": lambda x: x + 1,
    "get_item": lambda x: x[:, :1],
    "pad": lambda x: keras.ops.pad(x, [(0, 0), (0, 1)]),
    "reshape": lambda x: keras.ops.reshape(x, (-1, 2)),
    "split": lambda x: keras.ops.split(x, 2, axis=1),
    "take": lambda x: keras.ops.take(x, [0], axis=1),
}


def _count_past(names):
    """Makes Keras's counter skip the names that operations of the model have.

    A loaded model has names that Keras has not given out yet.
    """
    for name, make in _MADE.items():
        numbers = [re.fullmatch(rf"{name}(?:_(\d+))?", x) for x in names]
        highest = max((int(x[1] or 0) for x in numbers if x), default=-1)
        number = -1 if highest >= 0 else highest
        while number < highest:
            x = keras.Input((4,), name="x")
            made = keras.Model(x, make(x)).operations[-1].name
            number = int(made.removeprefix(name).removeprefix("_") or 0)


def _unused(name, taken):
    number = 1
    while f"{name}_{number}" in taken:
        number += 1
    return f"{name}_{number}"


def _copy(operation, name, changes):
    if not changes:
        copy = copy_layer(operation)
        copy.name = name
        return copy
    config = {**live_config(operation), **changes, "name": name}
    return operation.__class__.from_config(config)


def _names(graph):
    """A unique name for each operation, by its identity."""
    top = {call.operation.name for call in graph.calls if not call.within}
    taken = {
        *top,
        *graph.output_names,
        *(layer.name for layer in graph.input_layers),
    }
    names = {}
    for call in graph.calls:
        operation = call.operation
        if id(operation) in names:
            continue
        name = operation.name
        if call.within and name in taken:
            name = f"{call.within}_{name}"
        number = 1
        while call.within and name in taken:
            name = f"{call.within}_{operation.name}_{number}"
            number += 1
        names[id(operation)] = name
        taken.add(name)
    return names


def _is_chain(graph):
    ends = [*graph.inputs, *(call.outputs[-1] for call in graph.calls)]
    names = [call.operation.name for call in graph.calls]
    return (
        isinstance(graph.model, keras.Sequential)
        and all(
            call.inputs == (before,)
            and len(call.outputs) == 1
            and call.takes_only_tensors()
            and isinstance(call.operation, keras.layers.Layer)
            for call, before in zip(graph.calls, ends, strict=False)
        )
        and len(set(names)) == len(names)
        and graph.output_names == names[-1:]
    )


def _connect(graph, ordered, inputs, emits):
    values = {i: x.output for i, x in zip(graph.inputs, inputs, strict=True)}
    for call, layer, emit in zip(graph.calls, ordered, emits, strict=True):
        args, kwargs = call.with_values(values)
        made = layer(*args, **kwargs) if emit is None else emit(layer, args, kwargs)
        values.update(zip(call.outputs, keras.tree.flatten(made), strict=True))
    return assemble(graph, values)


def _set_weights(source, target, changed):
    """Sets the weights of the smaller layer, and which of them are trained."""
    if not isinstance(source, keras.layers.Layer):
        return
    if not changed:
        copy_state(source, target)
        return
    old = weights_by_path(source)
    for name, weight in weights_by_path(target).items():
        like = old.get(name)
        weight.assign(changed.get(name, like))
        # A bias that was added for constants is trained if the layer is.
        weight.trainable = source.trainable if like is None else like.trainable
    for _, part in every_layer(target):
        if hasattr(part, "finalize_state"):
            # Preprocessing layers compute more from their weights.
            part.finalize_state()
