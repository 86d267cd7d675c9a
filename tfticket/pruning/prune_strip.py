"""`wrap` a model with masks, `strip` it again."""

import warnings
from collections.abc import Collection
from typing import Any

import keras

from tfticket.common.arguments import check_bool
from tfticket.keras_models.copies import (
    build_like,
    clone_with,
    copy_by_name,
    copy_state,
    require_built,
    require_graph,
    require_keras_3,
    require_plain_training,
    require_transformable,
    unwrapped_layers,
)
from tfticket.keras_models.internals import attributes
from tfticket.keras_models.kernels import (
    apply_mask,
    may_be_prunable,
    prunable_weights,
)
from tfticket.keras_models.masked_layer import (
    MaskedLayer,
    MaskedModel,
    carrier,
    inner_layer,
    masks_in_use,
)
from tfticket.keras_models.names import (
    Pattern,
    choose,
    holds_masked,
    is_graph,
    join,
    named_weights,
    sublayers,
    weights_by_path,
)
from tfticket.keras_models.quantized import require_not_quantized
from tfticket.keras_models.twins import copy_layer
from tfticket.keras_models.variables import host_copy
from tfticket.pruning.channel_units import weights_of_groups
from tfticket.pruning.in_place import put_masks_on, take_masks_off
from tfticket.pruning.masks import masked_weights
from tfticket.pruning.wrapper import Prune
from tfticket.sparsity.schedules import Schedule
from tfticket.sparsity.structures import Channel, Unstructured


def wrap(
    model_or_layer: keras.Model | keras.layers.Layer,
    exclude: Collection[Pattern] = (),
    include: Collection[Pattern] = (),
    schedule: Schedule | None = None,
    structure: Unstructured | None = None,
    in_place: bool = False,
    keep_dense: bool = False,
) -> keras.Model | Prune:
    """As `tfticket.prune` without a target: all masks are True."""
    if check_bool("keep_dense", keep_dense) and in_place:
        raise ValueError(
            "keep_dense=True needs wrappers: a file of a model that is masked in place "
            "holds no masks, and would be dense. Leave in_place or keep_dense out."
        )
    if check_bool("in_place", in_place):
        _require_bare(model_or_layer, structure)
        put_masks_on(model_or_layer, exclude, include, schedule, structure)
        return model_or_layer
    own = {"schedule": schedule, "structure": structure, "keep_dense": keep_dense}
    whole = isinstance(structure, Channel) and structure.grouped
    require_keras_3(model_or_layer)
    if not isinstance(model_or_layer, keras.Model):
        return wrap_copy(model_or_layer, **own)
    model = model_or_layer
    if not is_graph(model):
        return _wrap_subclassed(model, own)
    layers = require_transformable(model)
    wrap = _layers_to_wrap(model, layers, exclude, include, whole)
    weights: dict[int, list[str]] = {}
    if whole:
        excluded = {id(layer) for layer in layers.values()} - wrap
        holds_kernels = {id(x) for x in layers.values() if prunable_weights(x)}
        weights = weights_of_groups(model, excluded & holds_kernels)
        wrap = _require_groups(model, set(weights))

    def clone(layer):
        copy = copy_layer(layer)
        if id(layer) not in wrap:
            return copy
        return Prune(copy, **own, weights=weights.get(id(layer)))

    return clone_with(model, clone, _copy_weights)


def _require_bare(layer, structure):
    """Raises an error if masks can't be put on the layers of a model as they are."""
    require_keras_3(layer)
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            f"model_or_layer must be a Keras layer or model. Received: {layer!r} "
            f"(of type {type(layer).__name__})"
        )
    if carrier(layer) is not None or holds_masked(layer):
        raise ValueError(
            f"'{layer.name}' is wrapped already. Call tfticket.strip on it first, or "
            "train it as it is."
        )
    if not layer.built:
        require_built(layer)
    require_not_quantized(layer, "masked")
    if isinstance(structure, Channel) and structure.grouped:
        raise ValueError(
            "structure=Channel() masks biases and normalizations too, for which the "
            "layers have to be wrapped: leave in_place out. In place, "
            "Channel(grouped=False) prunes the output channels of kernels."
        )


def _layers_to_wrap(model, layers, exclude, include, whole):
    """Identities of the layers that get a wrapper.

    Whole channels of an Embedding are the width of what reads it: they go together.
    """
    things = {path: [layer] for path, layer in layers.items()}
    excluded = set().union(*choose("exclude", exclude, things).values())
    included = set().union(*choose("include", include, things).values())
    if hopeless := [path for path in included if not prunable_weights(layers[path])]:
        raise ValueError(
            f"include names layers that have nothing to prune: {hopeless}."
        )
    wrap = {
        id(layer)
        for path, layer in layers.items()
        if path not in excluded
        and prunable_weights(layer)
        and (whole or path in included or not isinstance(layer, keras.layers.Embedding))
    }
    if not wrap:
        raise ValueError(
            f"Model '{model.name}' has nothing to prune. Prunable are kernels of "
            "Dense, EinsumDense, convolutions and recurrent cells, Embedding layers "
            "named in include, and layers with get_prunable_weights(). "
            f"Its layers: {[type(layer).__name__ for layer in layers.values()]}"
            + (f", of which excluded: {sorted(excluded)}" if excluded else "")
        )
    return wrap


def prune_weights(model: keras.Model, names: Collection[str]) -> keras.Model:
    """Copies a model with masks on the weights named, and on no others.

    Args:
        model: A built Sequential or Functional model without masks.
        names: Names of weights as in `get_masks`: "layer/kernel", "norm/gamma".

    Raises:
        ValueError: If the model has no weight of a name.
    """
    layers = require_transformable(model)
    weights: dict[int, list[str] | None] = {}
    known: set[str] = set()
    for path, layer in layers.items():
        there = [name for name in weights_by_path(layer) if join(path, name) in names]
        known.update(join(path, name) for name in there)
        if there:
            kernels = [weight.name for weight in prunable_weights(layer)]
            weights[id(layer)] = None if there == kernels else there
    if unknown := sorted(set(names) - known):
        raise ValueError(f"Model '{model.name}' has no weights named {unknown}.")

    def clone(layer):
        copy = copy_layer(layer)
        if id(layer) not in weights:
            return copy
        return Prune(copy, weights=weights[id(layer)])

    return clone_with(model, clone, _copy_weights)


def _require_groups(model, found):
    if not found:
        raise ValueError(
            f"No channels of model '{model.name}' can be cut as a whole. "
            "print(tfticket.channel_groups(model)) says why; structure=Channel("
            "grouped=False) prunes output channels kernel by kernel."
        )
    return found


def wrap_copy(layer: keras.layers.Layer, **arguments: Any) -> Prune:
    """Wraps a copy of a layer, with its weights if it is built.

    Args:
        layer: The layer, left as it is.
        **arguments: Further arguments of `Prune`.

    Raises:
        ValueError: If the layer is wrapped already, quantized, or has nothing to prune.
    """
    if isinstance(layer, MaskedLayer) or holds_masked(layer):
        raise ValueError(f"Layer '{layer.name}' is wrapped already.")
    require_not_quantized(layer, "wrapped")
    if not may_be_prunable(layer):
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has nothing to prune."
        )
    wrapped = Prune(copy_layer(layer), **arguments)
    if layer.built:
        build_like(layer, wrapped.layer)
        wrapped.build()
        _copy_weights(layer, wrapped)
    return wrapped


def _wrap_subclassed(model, own):
    require_built(model)
    require_plain_training(model)
    unwrapped_layers(model)
    wrapped = wrap_copy(model, **own)
    shapes = model.get_build_config()
    if "input_shape" not in (shapes or {}):
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) takes several arguments: "
            f"{sorted((shapes or {}).get('shapes_dict', {}))}. Let its call take one, "
            "a list or a dict of tensors, or wrap its layers in its __init__."
        )
    inputs = keras.tree.map_shape_structure(
        lambda shape: keras.Input(batch_shape=(None, *shape[1:])),
        shapes["input_shape"],
    )
    return keras.Model(inputs, wrapped(inputs), name=f"pruned_{model.name}")


def strip(
    model_or_layer: keras.Model | keras.layers.Layer,
    in_place: bool = False,
) -> keras.Model | keras.layers.Layer:
    """Copies a wrapped model without the wrappers, pruned weights exactly 0.0.

    The copy is plain Keras: it saves, loads and clones where tfticket is not
    installed. Masks are applied once more on the way, so that the copy is
    sparse whatever was assigned to the weights in between. LoRA weights of wrapped
    layers are merged into their kernels. Popup layers become
    the Keras layers they stand for, with the weights of the edges in use.

    Args:
        model_or_layer: A model that holds `Prune` or popup layers, or one such
            layer. A model without any is copied as it is. A subclassed model that
            wraps its layers itself is rebuilt from its configuration, then its
            wrappers are taken out.
        in_place: Whether to take the masks of `prune(model, in_place=True)` off the
            model itself, whose pruned weights then are exactly 0.0 and free.

    Returns:
        A model of the same kind, or the layer; nothing is shared. With `in_place` the
        model or layer itself.

    A model that has trained and of which nothing is pruned is warned of.

    Raises:
        TypeError: If the model is not one of Keras 3.
        ValueError: If the model is not built; with `in_place`, if its masks were put
            on by wrappers, or it has none.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> plain = tfticket.strip(tfticket.prune(model))
    >>> type(plain.layers[0]).__name__
    'Dense'
    """
    require_keras_3(model_or_layer)
    if isinstance(model_or_layer, keras.Model):
        _warn_if_dense(model_or_layer)
    if not check_bool("in_place", in_place):
        return plain_copy(model_or_layer)
    if not take_masks_off(model_or_layer):
        raise ValueError(
            f"'{model_or_layer.name}' has no masks that prune(in_place=True) put on. "
            "Wrapped layers are other layers: tfticket.strip(model) returns a copy "
            "without them."
        )
    return model_or_layer


def _warn_if_dense(model):
    """Says that a training has pruned nothing, which no `fit` can say by itself."""
    optimizer = getattr(model, "optimizer", None)
    steps = int(host_copy(optimizer.iterations)) if optimizer is not None else 0
    masked = masked_weights(model)
    if steps and masked and all(host_copy(x.mask).all() for x in masked.values()):
        warnings.warn(
            f"Model '{model.name}' is wrapped and has trained {steps} steps, and none "
            f"of its {len(masked)} masks prunes a weight, so the copy is dense. Pass "
            "tfticket.GradualPruning(schedule) or another callback that prunes to "
            "fit, or call tfticket.sparsify(model, sparsity).",
            stacklevel=3,
        )


def plain_copy(
    model_or_layer: keras.Model | keras.layers.Layer,
) -> keras.Model | keras.layers.Layer:
    """As `strip`, of a model that may be dense on purpose."""
    require_keras_3(model_or_layer)
    if isinstance(model_or_layer, keras.Model) and is_graph(model_or_layer):
        model = model_or_layer
        require_graph(model)
        with masks_in_use(model):
            if isinstance(model, MaskedModel):
                model = model.as_plain_model()
            return clone_with(model, _plain_layer, _copy_weights)
    layer = model_or_layer
    if isinstance(layer, keras.Model):
        require_built(layer)
    copy = _plain_layer(layer)
    if layer.built:
        build_like(inner_layer(layer), copy)
        _copy_weights(layer, copy)
    return copy


def _plain_layer(layer):
    """A copy, not built, of a layer without masks on it or in it."""
    if (masks := carrier(layer)) is not None:
        return masks.plain()
    copy = copy_layer(layer)
    if holds_masked(copy):
        _take_masks_out(copy)
    return copy


def _take_masks_out(layer):
    """Puts plain layers in place of masked ones, in every attribute."""
    if is_graph(layer):
        raise TypeError(
            f"Model '{layer.name}' is made by the layer that holds it and has wrapped "
            "layers: strip that model by itself."
        )
    for attribute, value in attributes(layer).items():
        plain = _without_masks(value)
        if plain is not value:
            # Deleted first, or Keras would go on tracking the masked layer.
            delattr(layer, attribute)
            setattr(layer, attribute, plain)
    for _, part in sublayers(layer):
        if holds_masked(part):
            _take_masks_out(part)


def _without_masks(value):
    """An attribute's value with plain copies of masked layers, itself if none."""
    if isinstance(value, MaskedLayer):
        return value.plain()
    if isinstance(value, dict):
        plain = {key: _without_masks(part) for key, part in value.items()}
        changed = any(plain[key] is not value[key] for key in value)
    elif isinstance(value, (list, tuple)):
        plain = [_without_masks(part) for part in value]
        changed = any(x is not y for x, y in zip(plain, value, strict=True))
    else:
        return value
    return plain if changed else value


def _copy_weights(source, target):
    """Copies values between a layer and its twin, either of them masked."""
    if isinstance(target, MaskedLayer):
        target.copy_from(source)
    elif (masks := carrier(source)) is not None:
        masks.copy_to(target)
    elif holds_masked(source):
        masked = masked_weights(source)
        values = {name: apply_mask(x.value(), x.mask) for name, x in masked.items()}
        copy_by_name(values, named_weights(source), target)
    else:
        copy_state(source, target)
