"""Copies of models and layers that share nothing and lose nothing."""

import contextlib
import tempfile
from collections.abc import Callable
from typing import Any

import keras
import numpy as np


def clone_with(
    model: keras.Model,
    clone_layer: Callable[[keras.layers.Layer], keras.layers.Layer],
    copy_weights: Callable[[keras.layers.Layer, keras.layers.Layer], None],
) -> keras.Model:
    """Clones a model into nested ones, layer by layer, then copies weights.

    The clone is not compiled.

    Args:
        model: A Sequential or Functional model.
        clone_layer: Function of a layer that returns its copy, not built.
        copy_weights: Called with each layer and its copy, when all are built.

    Raises:
        ValueError: If a layer's copy has another name.
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
                "does not carry its name, so the copy's weights can't be told by "
                "name. Let its get_config and __init__ pass `name` on."
            )
        pairs[id(layer)] = (layer, copy)
        return copy

    with _uncompiled(model):
        copy = keras.models.clone_model(model, clone_function=clone, recursive=True)
    for source, target in pairs.values():
        copy_weights(source, target)
    return copy


def copy_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """A layer of the same configuration, not built."""
    return layer.__class__.from_config(layer.get_config())


def build_like(source: keras.layers.Layer, copy: keras.layers.Layer) -> None:
    """Gives a copy its weights, not yet their values, if its source has them."""
    if not source.built:
        return
    config = source.get_build_config()
    if isinstance(source, keras.Model) and "input_shape" in (config or {}):
        # Keras would build its layers, and not note the shape for the next copy.
        copy(keras.tree.map_shape_structure(keras.KerasTensor, config["input_shape"]))
    else:
        copy.build_from_config(config)


def copy_state(source: keras.layers.Layer, target: keras.layers.Layer) -> None:
    """Gives a layer all that its twin has: weights, adapted state, vocabularies."""
    target.set_weights(source.get_weights())
    for old, new in zip(source.weights, target.weights, strict=True):
        new.trainable = old.trainable
    pairs = zip(source._flatten_layers(), target._flatten_layers(), strict=True)
    for old, new in pairs:
        if not hasattr(old, "finalize_state"):
            continue
        # Preprocessing layers work out more from their weights, or keep tables.
        store: dict[str, Any] = {}
        old.save_own_variables(store)
        new.load_own_variables({k: np.array(value) for k, value in store.items()})
        if not hasattr(old, "save_assets"):
            continue
        with tempfile.TemporaryDirectory() as folder:
            old.save_assets(folder)
            new.load_assets(folder)


@contextlib.contextmanager
def _uncompiled(model):
    """Keeps Keras from cloning the compile state, which not every loss survives."""
    models = [x for x in model._flatten_layers() if getattr(x, "compiled", False)]
    for part in models:
        part.compiled = False
    try:
        yield
    finally:
        for part in models:
            part.compiled = True
