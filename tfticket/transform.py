"""`prune` a model, `strip` it again, and the masks of all its layers by name."""

from collections.abc import Collection, Iterator, Mapping

import keras
import numpy as np

from tfticket.clone import clone_with, copy_layer, copy_state
from tfticket.optimizers import mask_slots
from tfticket.popup_layers import Popup
from tfticket.popup_model import PopupModel, chosen_edges
from tfticket.prunable import is_prunable, prunable_weights
from tfticket.wrappers import Prune, apply_mask


def prune(
    model_or_layer: keras.Model | keras.layers.Layer, exclude: Collection[str] = ()
) -> keras.Model | Prune:
    """Copies a model with every prunable layer wrapped in `Prune`.

    Prunable are Dense, EinsumDense, convolutions, and layers with a method
    `get_prunable_weights()`. What other layers hold inside (MultiHeadAttention, LSTM,
    TimeDistributed) stays dense.

    Masks start as all True: nothing is pruned yet, and the copy computes what
    the original computes. The original is left untouched and shares nothing
    with the copy. Compile the copy with an optimizer of its own.

    Args:
        model_or_layer: A built Sequential or Functional `keras.Model`, nested
            ones included, or a single layer, built or not.
        exclude: Names of layers that stay dense ("block/dense" for the layer
            `dense` of a nested model `block`).

    Returns:
        A model of the same kind, layer names unchanged; or, for a layer, a
        `Prune` around a copy of it.

    Raises:
        TypeError: If the model is not a Keras 3 one (tf_keras, TF-MOT), or not
            Sequential or Functional.
        ValueError: If the model is not built, is wrapped already, has nothing
            to prune, or `exclude` names a layer that isn't there.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> wrapped = tfticket.prune(model)
    >>> sorted(tfticket.get_masks(wrapped))
    ['dense/kernel']
    """
    if not isinstance(model_or_layer, keras.Model):
        _require_keras_3(model_or_layer)
        return _wrap_layer(model_or_layer)
    model = model_or_layer
    layers = require_transformable(model, exclude)
    wrap = {
        id(layer)
        for name, layer in layers.items()
        if name not in exclude and prunable_weights(layer)
    }
    if not wrap:
        raise ValueError(
            f"Model '{model.name}' has nothing to prune. Prunable are Dense, "
            "EinsumDense, convolutions, and layers with get_prunable_weights(). "
            f"Its layers: {[type(layer).__name__ for layer in layers.values()]}"
            + (f", of which excluded: {sorted(exclude)}" if exclude else "")
        )

    def clone(layer):
        copy = copy_layer(layer)
        return Prune(copy) if id(layer) in wrap else copy

    return clone_with(model, clone, _copy_weights)


def strip(
    model_or_layer: keras.Model | Prune | Popup,
) -> keras.Model | keras.layers.Layer:
    """Copies a wrapped model without the wrappers, pruned weights exactly 0.0.

    The copy is plain Keras: it saves, loads and clones where tfticket is not
    installed. Masks are applied once more on the way, so that the copy is
    sparse whatever was assigned to the weights in between. Popup layers become
    the Keras layers they stand for, with the weights of the edges in use.

    Args:
        model_or_layer: A model that holds `Prune` or popup layers, or one such
            layer. A model without any is copied as it is.

    Returns:
        A model of the same kind, or the layer; nothing is shared.

    Raises:
        TypeError: If the model is not a Keras 3 Sequential or Functional one.
        ValueError: If the model is not built.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> plain = tfticket.strip(tfticket.prune(model))
    >>> type(plain.layers[0]).__name__
    'Dense'
    """
    _require_keras_3(model_or_layer)
    if isinstance(model_or_layer, (Prune, Popup)):
        layer = model_or_layer
        copy = _plain_layer(layer)
        if layer.built:
            inner = layer.layer if isinstance(layer, Prune) else layer
            copy.build_from_config(inner.get_build_config())
            _copy_weights(layer, copy)
        return copy
    _require_cloneable(model_or_layer)
    model = model_or_layer
    with chosen_edges(model):
        if isinstance(model, PopupModel):
            model = keras.Model(model.inputs, model.outputs, name=model.name)
        return clone_with(model, _plain_layer, _copy_weights)


def get_masks(model: keras.Model) -> dict[str, np.ndarray]:
    """The masks of a wrapped model as plain data; of a popup model, its edges in use.

    Returns:
        Name of the weight ("layer/kernel") to boolean array in its shape, in
        the order of the layers. Empty for a model that has none.
    """
    masks = {name: mask for name, _, mask in masked_weights(model)}
    with chosen_edges(model):
        for path, layer in named_layers(model):
            if isinstance(layer, Popup):
                masks[f"{path}/{layer.kernel.name}"] = layer.mask()
    return {name: keras.ops.convert_to_numpy(mask) for name, mask in masks.items()}


def get_pruned_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """The values of the weights that carry masks, named as in `get_masks`."""
    return {
        name: keras.ops.convert_to_numpy(weight)
        for name, weight, _ in masked_weights(model)
    }


def set_masks(model: keras.Model, masks: Mapping[str, np.ndarray]) -> None:
    """Sets masks by name and zeroes all that belongs to a pruned weight.

    That is the weight, and, where the model is compiled, the optimizer's
    momentum, second moment, average and accumulated gradient of it.

    Args:
        model: A wrapped model.
        masks: Name of the weight to boolean array. Names left out keep their
            mask.

    Raises:
        ValueError: If a name or a shape is not the model's.
    """
    known = {name: (weight, mask) for name, weight, mask in masked_weights(model)}
    for name, mask in masks.items():
        if name not in known:
            raise ValueError(
                f"No masked weight is named '{name}'. The model's: {list(known)}"
            )
        shape = tuple(known[name][0].shape)
        if np.shape(mask) != shape:
            raise ValueError(
                f"The mask of '{name}' must have shape {shape}. "
                f"Received: shape {np.shape(mask)}"
            )
    for name, mask in masks.items():
        known[name][1].assign(np.asarray(mask, bool))
    for _, layer in pruned_layers(model):
        layer.apply_masks()
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        mask_slots(optimizer, known.values())


def named_layers(
    model: keras.Model, prefix: str = "", seen: set[int] | None = None
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path, layer) for every layer, into nested models, each once.

    Args:
        model: A model.
        prefix: What its paths begin with.
        seen: Identities of layers to leave out; those yielded are added.
    """
    seen = set() if seen is None else seen
    for layer in model.layers:
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        if isinstance(layer, keras.Model):
            yield from named_layers(layer, f"{prefix}{layer.name}/", seen)
        else:
            yield f"{prefix}{layer.name}", layer


def masked_names(model: keras.Model, layers: Collection[Prune]) -> set[str]:
    """The names in `get_masks` of what these layers of the model mask."""
    masked = {id(mask) for layer in layers for mask in layer.masks}
    return {name for name, _, mask in masked_weights(model) if id(mask) in masked}


def pruned_layers(model: keras.Model) -> Iterator[tuple[str, Prune]]:
    """Yields (path, wrapper) for every `Prune` of a model."""
    for name, layer in named_layers(model):
        if isinstance(layer, Prune):
            yield name, layer


def named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """Every weight but the masks, named the same whether wrapped or not.

    Names are "layer/weight", with the index of the weight in its layer where a
    layer has two of one name.
    """
    weights = {}
    for path, layer in named_layers(model):
        inner = layer.layer if isinstance(layer, Prune) else layer
        weights.update(_weights_of(path, inner))
    return weights


def _weights_of(path, layer):
    weights = {}
    for i, weight in enumerate(layer.weights):
        key = f"{path}/{weight.name}"
        weights[key if key not in weights else f"{key}:{i}"] = weight
    return weights


def masked_weights(
    model: keras.Model,
) -> Iterator[tuple[str, keras.Variable, keras.Variable]]:
    """Yields (name, weight, mask variable) for every weight that `Prune` masks."""
    for path, layer in pruned_layers(model):
        names = {id(w): name for name, w in _weights_of(path, layer.layer).items()}
        for weight, mask in zip(layer.pruned_weights, layer.masks, strict=True):
            yield names[id(weight)], weight, mask


def _wrap_layer(layer: keras.layers.Layer) -> Prune:
    if isinstance(layer, Prune):
        raise ValueError(f"Layer '{layer.name}' is wrapped already.")
    if not (prunable_weights(layer) if layer.built else is_prunable(layer)):
        raise ValueError(
            f"Layer '{layer.name}' ({type(layer).__name__}) has nothing to prune."
        )
    wrapped = Prune(copy_layer(layer))
    if layer.built:
        wrapped.layer.build_from_config(layer.get_build_config())
        wrapped.build()
        _copy_weights(layer, wrapped)
    return wrapped


def _plain_layer(layer):
    if isinstance(layer, Popup):
        return layer.plain()
    return copy_layer(layer.layer if isinstance(layer, Prune) else layer)


def _copy_weights(source, target):
    """Copies values between a layer and its twin, either of them wrapped."""
    if isinstance(source, Popup) and not isinstance(target, Popup):
        target.kernel.assign(source.effective_kernel())
        if target.bias is not None:
            target.bias.assign(source.bias)
        return
    if isinstance(target, Prune):
        target = target.layer
    if not isinstance(source, Prune):
        copy_state(source, target)
        return
    copy_state(source.layer, target)
    for weight, mask in zip(prunable_weights(target), source.masks, strict=True):
        weight.assign(apply_mask(weight, mask))


def require_transformable(
    model: keras.Model, exclude: Collection[str] = ()
) -> dict[str, keras.layers.Layer]:
    """The layers by path of a model that `prune` and `popup` can copy.

    Raises:
        TypeError: If the model is not a Keras 3 Sequential or Functional one.
        ValueError: If it is not built, is wrapped already, or `exclude` names a
            layer that isn't there.
    """
    _require_keras_3(model)
    if isinstance(exclude, str):
        raise TypeError(
            "exclude must be a collection of layer names, a list for one. "
            f"Received: exclude={exclude!r}"
        )
    _require_cloneable(model)
    layers = dict(named_layers(model))
    if any(isinstance(layer, Prune) for layer in layers.values()):
        raise ValueError(
            f"Model '{model.name}' is wrapped already. Call "
            "tfticket.strip(model) first, or train it as it is."
        )
    if unknown := sorted(set(exclude) - set(layers)):
        raise ValueError(
            f"exclude names layers that the model does not have: {unknown}. "
            f"Its layers: {list(layers)}"
        )
    return layers


def _require_keras_3(model) -> None:
    modules = {c.__module__.split(".")[0] for c in type(model).__mro__}
    kinds = {type(x).__module__.split(".")[0] for x in getattr(model, "layers", [])}
    if "tensorflow_model_optimization" in modules | kinds:
        raise TypeError(
            f"{type(model).__name__} is wrapped by TF-MOT, which works on tf_keras "
            "only. Call TF-MOT's strip_pruning, rebuild the model in Keras 3 "
            "(import keras) and copy the weights, then wrap it here."
        )
    if isinstance(model, keras.layers.Layer):
        return
    if "tf_keras" in modules or "tensorflow" in modules:
        raise TypeError(
            f"{type(model).__name__} is a tf_keras (Keras 2) object; tfticket works "
            "on Keras 3. Build it with `import keras` instead of tf_keras, unset "
            "TF_USE_LEGACY_KERAS, and copy the weights with set_weights()."
        )
    raise TypeError(
        "Expected a keras.Model or keras.layers.Layer. "
        f"Received: {model!r} (of type {type(model)})"
    )


def _require_cloneable(model: keras.Model) -> None:
    for part in model._flatten_layers():
        ours = isinstance(part, PopupModel)
        kind = type(part)
        if (
            isinstance(part, keras.Model)
            and (isinstance(part, keras.Sequential) or hasattr(part, "operations"))
            and not ours
            and kind.__module__.split(".")[0] != "keras"
        ):
            raise TypeError(
                f"Model '{part.name}' is of a class of its own, {kind.__name__}, whose "
                "methods and attributes a copy would lose. Pass the plain model of the "
                "same layers, keras.Model(model.inputs, model.outputs)."
            )
    if not isinstance(model, keras.Sequential) and not hasattr(model, "operations"):
        raise TypeError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed: its "
            "layers can't be swapped from outside. Wrap them in its __init__ "
            "with tfticket.prune(layer), or rebuild it as a Functional model."
        )
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so it has no weights to carry over. "
            "Start it with keras.Input(shape), or call it on data first."
        )
