"""The smaller model: the same calls, of layers that have only the channels kept."""

import keras

from tfticket.export.compaction.channels import Barrier, Resized
from tfticket.export.compaction.liveness import Liveness
from tfticket.keras_models.copies import copy_layer, copy_state
from tfticket.keras_models.graph import (
    FlatGraph,
    input_structure,
    output_structure,
)


def rebuild(
    graph: FlatGraph, live: Liveness
) -> tuple[keras.Model, list[keras.layers.Layer]]:
    """Makes the smaller model.

    Layers keep their names. One of a nested model whose name is taken gets those of
    the models around it before its own. An output that came from a nested model comes
    from an `Identity` of its name.

    Args:
        graph: The model, flat.
        live: What of it is needed and kept.

    Returns:
        The model, Sequential if `graph.model` is and its calls are a chain of layers,
        else Functional; and what each call of the graph calls in it.
    """
    names = _names(graph)
    resized, copies = {}, {}
    for call, rule in zip(graph.calls, live.rules, strict=True):
        key = id(call.operation)
        if key in copies:
            continue
        resized[key] = _resized(call, rule, live)
        copies[key] = _copy(call.operation, names[key], resized[key].config)
    ordered = [copies[id(call.operation)] for call in graph.calls]
    inputs = [copy_layer(layer) for layer in graph.input_layers]
    if _is_chain(graph):
        model = keras.Sequential([*inputs, *ordered], name=graph.model.name)
    else:
        model = _connect(graph, ordered, inputs)
    for call in graph.calls:
        key = id(call.operation)
        _set_weights(call.operation, copies[key], resized[key].weights)
    return model, ordered


def _resized(call, rule, live):
    if isinstance(rule, Barrier):
        return Resized()
    out = call.outputs[0]
    return rule.resized(
        call,
        [live.kept[i] for i in call.inputs],
        live.kept[out],
        live.needed[out],
        [live.constants[i] for i in call.inputs],
    )


def _copy(operation, name, changes):
    if name == operation.name and not changes:
        return copy_layer(operation)
    config = {**operation.get_config(), **changes, "name": name}
    return operation.__class__.from_config(config)


def _names(graph):
    """Name of each operation by its identity, each name once."""
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


def _connect(graph, ordered, inputs):
    values = {i: x.output for i, x in zip(graph.inputs, inputs, strict=True)}
    makers = {i: layer.name for i, layer in zip(graph.inputs, inputs, strict=True)}
    for call, layer in zip(graph.calls, ordered, strict=True):
        args, kwargs = call.with_values(values)
        made = keras.tree.flatten(layer(*args, **kwargs))
        values.update(zip(call.outputs, made, strict=True))
        makers.update(dict.fromkeys(call.outputs, layer.name))
    outputs = [
        values[i] if makers[i] == name else _named(values[i], name)
        for i, name in zip(graph.outputs, graph.output_names, strict=True)
    ]
    return keras.Model(
        keras.tree.pack_sequence_as(
            input_structure(graph.model), [values[i] for i in graph.inputs]
        ),
        keras.tree.pack_sequence_as(output_structure(graph.model), outputs),
        name=graph.model.name,
    )


def _named(tensor, name):
    """The same values, from a layer of that name."""
    dtype = tensor.dtype if keras.backend.is_float_dtype(tensor.dtype) else None
    return keras.layers.Identity(name=name, dtype=dtype)(tensor)


def _set_weights(source, target, changed):
    """Gives the smaller layer its weights, and flags that say which are trained."""
    if not isinstance(source, keras.layers.Layer):
        return
    if not changed:
        copy_state(source, target)
        return
    old = {weight.name: weight for weight in source.weights}
    for weight in target.weights:
        like = old.get(weight.name)
        value = changed.get(weight.name, like)
        weight.assign(value)
        # A bias made for constants is trained if the layer is.
        weight.trainable = source.trainable if like is None else like.trainable
