"""The state of an optimizer, cut like the weights that it belongs to."""

import warnings

import keras
import numpy as np

from tfticket.export.compaction.liveness import Liveness
from tfticket.keras_models.internals import (
    inner_optimizers,
    slots_by_variable,
    trainable_variables,
    uses_weight_decay,
)
from tfticket.keras_models.names import named_weights, weights_by_path


def require_optimizer(model: keras.Model) -> None:
    """Raises a ValueError unless a model's optimizer can be carried over.

    Args:
        model: The model to make smaller.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None:
        raise ValueError(
            f"Model '{model.name}' is not compiled, so there is no optimizer to carry "
            "over. Compile it, or leave optimizer=True out."
        )
    slots = {id(slot) for _, slot, _ in slots_by_variable(optimizer)}
    for inner in inner_optimizers(optimizer):
        kind = type(inner).__name__
        if not inner.built:
            raise ValueError(
                f"The optimizer of model '{model.name}' ({kind}) has not been built, "
                "so it has nothing to carry over. Train first, or leave "
                "optimizer=True out and compile the smaller model."
            )
        rest = [x for x in inner.variables if id(x) not in slots and len(x.shape)]
        if rest:
            raise ValueError(
                f"{kind} keeps {rest[0].path!r} and {len(rest) - 1} more values for "
                "whole rows and columns of weights, which can't be cut. Leave "
                "optimizer=True out and compile the smaller model."
            )


def carry_over(
    model: keras.Model,
    plain: keras.Model,
    smaller: keras.Model,
    live: Liveness,
    layers: list[keras.layers.Layer],
) -> None:
    """Compiles a smaller model like its original, with its optimizer's state.

    Args:
        model: The original, compiled and trained, wrapped or not.
        plain: The model without wrappers; `model` itself if it had none.
        smaller: The smaller model.
        live: The channels of `plain` that were kept.
        layers: What each call of `plain` calls in the smaller model.
    """
    smaller.compile(**_compile_arguments(model))
    twins = _twins(model, plain, live, layers)
    pairs = zip(
        inner_optimizers(model.optimizer),
        inner_optimizers(smaller.optimizer),
        strict=True,
    )
    for old, new in pairs:
        kept = [
            twins[id(variable)][0]
            for variable in trainable_variables(old)
            if id(variable) in twins and not uses_weight_decay(old, variable)
        ]
        if kept:
            new.exclude_from_weight_decay(var_list=kept)
    smaller.optimizer.build(smaller.trainable_variables)
    _copy_slots(model.optimizer, smaller.optimizer, twins)


def _compile_arguments(model):
    """Arguments for `compile`; all of them are new objects."""
    config = model.get_compile_config()
    try:
        return keras.saving.deserialize_keras_object(config)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"What model '{model.name}' was compiled with can't be created again from "
            "its configuration. Put keras.saving.register_keras_serializable() over "
            "your own loss, metric or optimizer, or leave optimizer=True out. Keras "
            f"says: {str(error).splitlines()[0]}"
        ) from error


def _twins(model, plain, live, layers):
    """Maps the identity of a variable to its twin, and to what the twin kept.

    What it kept is a list of (axis, flags) that cuts an array of the variable's shape.
    """
    plain_twins = {}
    for node, layer in zip(live.traced.nodes, layers, strict=True):
        if not isinstance(layer, keras.layers.Layer):
            continue
        kept = live.around(node).members
        cuts: dict[int, list] = {}
        for member, flags in zip(node.members, kept, strict=True):
            cuts.setdefault(id(member.variable), []).append((member.axis, flags))
        smaller = weights_by_path(layer)
        for name, variable in weights_by_path(node.call.operation).items():
            if name in smaller:
                plain_twins.setdefault(
                    id(variable), (smaller[name], cuts.get(id(variable), []))
                )
    names = named_weights(plain)
    return {
        id(variable): plain_twins[id(names[name])]
        for name, variable in named_weights(model).items()
        if name in names and id(names[name]) in plain_twins
    }


def _copy_slots(old, new, twins):
    """Copies the state of another optimizer, and cuts its slots to the new shapes."""
    targets = _by_variable(new)
    at_rest = []
    for variable, slots in _by_variable(old).values():
        twin, cuts = twins.get(id(variable), (None, ()))
        if twin is None or id(twin) not in targets:
            at_rest.append(variable.path)
            continue
        values = [_cut(slot, cuts) for slot in slots]
        if any(value.shape != tuple(twin.shape) for value in values):
            at_rest.append(variable.path)
            continue
        for target, value in zip(targets[id(twin)][1], values, strict=True):
            target.assign(value)
    for source, target in zip(_others(old), _others(new), strict=True):
        target.assign(source)
    if at_rest:
        warnings.warn(
            "The optimizer is reset for these weights, since they are not cut "
            f"channel by channel: {at_rest}.",
            stacklevel=4,
        )


def _by_variable(optimizer):
    """Maps each variable's identity to it and its slots, in the optimizer's order."""
    found: dict[int, tuple[keras.Variable, list[keras.Variable]]] = {}
    for variable, slot, _ in slots_by_variable(optimizer):
        found.setdefault(id(variable), (variable, []))[1].append(slot)
    return found


def _others(optimizer):
    """Yields what an optimizer stores besides slots, such as the number of steps."""
    slots = {id(slot) for _, slot, _ in slots_by_variable(optimizer)}
    seen = set()
    for inner in inner_optimizers(optimizer):
        for variable in inner.variables:
            if id(variable) not in slots | seen and not len(variable.shape):
                seen.add(id(variable))
                yield variable


def _cut(slot, cuts):
    value = keras.ops.convert_to_numpy(slot)
    for axis, flags in cuts:
        value = np.compress(flags, value, axis)
    return value
