"""Copies models and layers without sharing, and says which models can be copied."""

import contextlib
from collections.abc import Callable, Collection, Mapping
from typing import Any

import keras
import numpy as np

from tfticket.common.arguments import shown
from tfticket.common.files import temporary_folder
from tfticket.keras_models.masked_layer import MaskedModel, carrier
from tfticket.keras_models.names import (
    every_layer,
    is_graph,
    named_layers,
    weights_by_path,
)
from tfticket.keras_models.quantized import require_not_quantized
from tfticket.keras_models.twins import copy_layer
from tfticket.keras_models.variables import host_copy


def clone_with(
    model: keras.Model,
    clone_layer: Callable[[keras.layers.Layer], keras.layers.Layer],
    copy_weights: Callable[[keras.layers.Layer, keras.layers.Layer], None],
) -> keras.Model:
    """Clones a model and its nested models, layer by layer, then copies weights.

    The clone is not compiled.

    Args:
        model: A Sequential or Functional model.
        clone_layer: Function of a layer that returns its copy, not built.
        copy_weights: Function of a layer and its copy, called when all are built.

    Raises:
        ValueError: If the copy of a layer has another name.
    """
    pairs: dict[int, keras.layers.Layer] = {}

    def clone(layer):
        if id(layer) in pairs:
            # A layer that several nested models share stays shared.
            return pairs[id(layer)][1]
        if not isinstance(layer, keras.layers.Layer):
            # An operation between layers (`keras.ops.add`), which has no weights.
            return copy_layer(layer)
        copy = clone_layer(layer)
        if copy.name != layer.name:
            raise ValueError(
                f"The configuration of layer '{layer.name}' ({type(layer).__name__}) "
                "does not contain its name, so the copy's weights can't be matched by "
                "name. Let its get_config and __init__ pass `name` on."
            )
        pairs[id(layer)] = (layer, copy)
        return copy

    with _uncompiled(model):
        copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    for source, target in pairs.values():
        copy_weights(source, target)
    return copy


def copy_by_name(
    values: Mapping[str, Any],
    weights: Mapping[str, keras.Variable],
    target: keras.layers.Layer,
    freed: Collection[str] = (),
) -> None:
    """Sets a layer's weights by name, and which of them are trainable.

    Args:
        values: Maps the names of weights to values that differ from their twins'.
        weights: Maps a name to the twin's weight.
        target: The layer, built.
        freed: Names of weights that are trainable even if their twins are not.
    """
    for name, variable in weights_by_path(target).items():
        variable.assign(host_copy(values.get(name, weights[name])))
        variable.trainable = name in freed or weights[name].trainable


def build_like(source: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Builds a copy if its source is built, without copying values."""
    if not source.built or (copy.built and copy.weights):
        return
    config = source.get_build_config()
    if isinstance(source, keras.Model) and "input_shape" in (config or {}):
        # Keras would build its layers without storing the shape for the next copy.
        copy(keras.tree.map_shape_structure(keras.KerasTensor, config["input_shape"]))
    else:
        copy.build_from_config(config)


def copy_state(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Copies everything from a layer's twin: weights, adapted state, vocabularies."""
    try:
        target.set_weights(source.get_weights())
    except ValueError:
        # A copy made from the configuration may lack the quantized weights.
        require_not_quantized(source, "copied")
        raise
    for old, new in zip(source.weights, target.weights, strict=True):
        new.trainable = old.trainable
    pairs = zip(every_layer(source), every_layer(target), strict=True)
    for (_, old), (_, new) in pairs:
        if not hasattr(old, "finalize_state"):
            continue
        # Preprocessing layers compute more from their weights, or have tables.
        store: dict[str, Any] = {}
        old.save_own_variables(store)
        new.load_own_variables({k: np.array(value) for k, value in store.items()})
        if not hasattr(old, "save_assets"):
            continue
        with temporary_folder() as folder:
            old.save_assets(str(folder))
            new.load_assets(str(folder))


@contextlib.contextmanager
def _uncompiled(model):
    """Prevents Keras from cloning the compile state, which fails for some losses."""
    models = [x for _, x in every_layer(model) if getattr(x, "compiled", False)]
    for part in models:
        part.compiled = False
    try:
        yield
    finally:
        for part in models:
            part.compiled = True


def require_transformable(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the layers by path of a model that can be copied layer by layer.

    Raises:
        TypeError: If the model is not a Keras 3 Sequential or Functional one.
        ValueError: If the model is not built, is quantized, or is wrapped already.
    """
    require_keras_3(model)
    require_graph(model)
    require_not_quantized(model, "wrapped")
    return unwrapped_layers(model)


def unwrapped_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """Returns the layers by path; raises a ValueError if one is wrapped already."""
    layers = dict(named_layers(model))
    if any(carrier(layer) is not None for layer in layers.values()):
        raise ValueError(
            f"Model '{model.name}' is wrapped already. Call "
            "tfticket.strip(model) first, or train it as it is."
        )
    return layers


def require_keras_3(model: Any) -> None:
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
        "model must be a keras.Model or keras.layers.Layer. Received: "
        f"model={shown(model)} (of type {type(model).__name__})"
    )


def require_graph(model: keras.Model) -> None:
    """Raises an error unless it is a built Sequential or Functional model of Keras."""
    for _, part in every_layer(model):
        of_keras = type(part).__module__.split(".")[0] == "keras"
        if is_graph(part) and not of_keras and not isinstance(part, MaskedModel):
            raise TypeError(
                f"Model '{part.name}' has a custom class, {type(part).__name__}, whose "
                "methods and attributes a copy would lose. Pass the plain model of the "
                "same layers, keras.Model(model.inputs, model.outputs)."
            )
    if not is_graph(model):
        raise TypeError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed: its "
            "layers can't be swapped from outside. Rebuild it as a Functional model."
        )
    require_built(model)


def require_built(model: keras.Model) -> None:
    """Raises a ValueError if a model has no weights yet."""
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so it has no weights to carry over. "
            "Start it with keras.Input(shape), or call it on data first."
        )


def require_finite(model: keras.Model, mend: str = "") -> None:
    """Raises a ValueError that names the first weight with NaN or infinite values.

    Args:
        model: A built model.
        mend: Rest of the sentence: the consequence, and the fix.
    """
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        if value.dtype.kind not in "iub" and not np.all(np.isfinite(value)):
            raise ValueError(
                f"Weight '{weight.path}' has NaN or infinite values{mend or '.'}"
            )


# Methods that `fit`, `evaluate` and `predict` call; a Functional copy has Keras's own.
_TRAINING = (
    *("train_step", "test_step", "predict_step", "make_train_function"),
    *("compute_loss", "compute_metrics", "fit", "compile"),
)


def require_plain_training(model: keras.Model) -> None:
    """Raises a TypeError if a subclassed model has its own way to train."""
    own = [
        x for x in _TRAINING if getattr(type(model), x) is not getattr(keras.Model, x)
    ]
    if own:
        raise TypeError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed and has its "
            f"own {', '.join(own)}, which a wrapped copy would lose. Wrap its layers "
            "in its __init__ instead: self.dense = tfticket.prune(Dense(10))."
        )
