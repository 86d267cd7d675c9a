"""`popup`: turns a Keras model into its popup twin; and the density of one."""

import math
from collections.abc import Callable, Collection
from typing import Any

import keras

from tfticket.common.arguments import check_density, check_function, check_instance
from tfticket.edge_popup.keras_objects import check_weight_initializer
from tfticket.edge_popup.layers import (
    POPUP_ARGUMENTS,
    POPUP_LAYERS,
    Popup,
)
from tfticket.edge_popup.model import PopupModel, popup_layers
from tfticket.keras_models.copies import (
    clone_with,
    copy_state,
    require_transformable,
)
from tfticket.keras_models.names import Pattern, choose
from tfticket.keras_models.twins import copy_layer, live_config
from tfticket.keras_models.variables import host_copy
from tfticket.sparsity.topk import kept_count


def popup(
    model: keras.Model,
    density: float = 0.5,
    weight_initializer: Any = "signed_constant",
    exclude: Collection[Pattern] = (),
    **popup_arguments: Any,
) -> keras.Model:
    """Copies a model with its layers turned into popup layers (arXiv 1911.13299).

    Kernels become frozen and get scores, of which the highest choose the
    subnetwork; biases become zero and frozen; BatchNormalization loses its affine
    parameters, gamma and beta, and keeps its running statistics. So nothing but
    scores is trained. The original is left untouched.

    A layer with trained weights and no popup twin (LSTM, Embedding,
    LayerNormalization, ...) is refused: name it in `exclude` to have it copied as
    it is, weights and all, and trained as usual.

    Args:
        model: A built Sequential or Functional `keras.Model`, nested ones included.
        density: Fraction of the edges kept, in (0, 1].
        weight_initializer: `"signed_constant"`, `"kaiming_normal"`, any Keras
            initializer, or `None` to keep the model's own kernels.
        exclude: Names of layers that stay as they are.
        **popup_arguments: `score_initializer`, `scale_fan`, `score_scope`,
            `score_regularizer`, `rescale` and `binarize`, as in `Popup`.

    Returns:
        A model of the same kind with the same layer names; with
        `score_scope="global"` a `PopupModel`, which is Functional.

    Raises:
        TypeError: If the model is not a Keras 3 Sequential or Functional one, or
            an argument is unknown.
        ValueError: If the model is not built, is wrapped by `Prune`, holds a layer
            without a popup twin or nothing to turn into one, if `exclude` names a
            layer that isn't there, or `density` keeps no edge of a layer.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    >>> twin = tfticket.popup(model, density=0.25)
    >>> int(tfticket.get_masks(twin)["dense/kernel"].sum())
    3
    """
    check_density("density", density)
    if unknown := sorted(set(popup_arguments) - set(POPUP_ARGUMENTS)):
        raise TypeError(
            f"popup has no argument {', '.join(unknown)}. It takes exclude and "
            f"{', '.join(POPUP_ARGUMENTS)}."
        )
    if weight_initializer is not None:
        check_weight_initializer(weight_initializer)
    layers = require_transformable(model)
    things = {path: [layer] for path, layer in layers.items()}
    exclude = set().union(*choose("exclude", exclude, things).values())
    excluded = {id(layers[name]) for name in exclude}  # type: ignore[index]
    _require_twins(model, layers, excluded)
    arguments = {
        **popup_arguments,
        "density": density,
        # With the model's own kernels, what they start as does not matter.
        "weight_initializer": weight_initializer or "zeros",
    }

    def clone(layer):
        if id(layer) in excluded:
            return copy_layer(layer)
        return _twin(layer, arguments)

    def copy_weights(source, target):
        if isinstance(target, Popup):
            if weight_initializer is None:
                target.kernel.assign(host_copy(source.kernel))
        elif not isinstance(target, keras.layers.BatchNormalization) or (
            id(source) in excluded
        ):
            copy_state(source, target)
        else:
            target.moving_mean.assign(host_copy(source.moving_mean))
            target.moving_variance.assign(host_copy(source.moving_variance))

    twin = clone_with(model, clone, copy_weights)
    if popup_arguments.get("score_scope") == "global":
        twin = PopupModel(twin.inputs, twin.outputs, name=twin.name)
        set_density(twin, density)
    return twin


def set_density(model: keras.Model, density: float) -> None:
    """Sets the fraction of edges that the popup layers of a model keep.

    Args:
        model: A model with popup layers.
        density: Fraction of the edges kept, in (0, 1].

    Raises:
        ValueError: If the model has no popup layers, or `density` is outside
            (0, 1] or keeps no edge of a layer (of the model, with a global scope).
    """
    check_instance("model", model, keras.layers.Layer, "a keras.Model")
    density = check_density("density", density)
    layers = popup_layers(model)
    if not layers:
        raise ValueError(
            f"Model '{model.name}' has no popup layers. Make it with "
            "tfticket.popup(model), or of layers such as tfticket.PopupDense."
        )
    sizes = [math.prod(layer.scores.shape) for layer in layers]
    if isinstance(model, PopupModel):
        # Shares that add up to the count of the whole, whatever their rounding.
        total, before, counts = 0, 0, []
        kept_count(sum(sizes), density)
        for size in sizes:
            total += size
            counts.append(round(total * density) - before)
            before += counts[-1]
    else:
        counts = [kept_count(size, density) for size in sizes]
    for layer, count in zip(layers, counts, strict=True):
        layer.kept.assign(count)
        layer.density = density


class DensityScheduler(keras.callbacks.Callback):
    """Sets the density of popup layers at the beginning of every epoch.

    Args:
        schedule: Function of the epoch (an integer from 0) that returns the
            density, a fraction in (0, 1].

    Raises:
        ValueError: As `set_density`, when `fit` gets there.

    Example:

    >>> scheduler = tfticket.DensityScheduler(lambda epoch: max(0.1, 1 - epoch / 10))
    """

    def __init__(self, schedule: Callable[[int], float]):
        super().__init__()
        self.schedule = check_function("schedule", schedule, "epoch")

    def on_epoch_begin(self, epoch, logs=None):
        self._density = self.schedule(epoch)
        set_density(self.model, self._density)

    def on_epoch_end(self, epoch, logs=None):
        if logs is not None:
            logs["density"] = self._density


def _require_twins(model, layers, excluded):
    """Refuses a model with a layer that has no twin, or with nothing to make one of."""
    twinned = {k: layer for k, layer in layers.items() if id(layer) not in excluded}
    refused = [
        f"'{name}' ({type(layer).__name__})"
        for name, layer in twinned.items()
        if not _has_twin(layer)
    ]
    if refused:
        raise ValueError(
            f"No popup twin exists for {', '.join(refused)}. Twins exist for "
            f"{', '.join(kind.__name__ for kind in POPUP_LAYERS)} and "
            "BatchNormalization. To copy such layers as they are and train them as "
            "usual, pass their names in exclude."
        )
    if not any(type(layer) in POPUP_LAYERS for layer in twinned.values()):
        raise ValueError(f"Model '{model.name}' has no layer with a popup twin.")


def _has_twin(layer):
    if isinstance(layer, (keras.layers.BatchNormalization, Popup)):
        return True
    return type(layer) in POPUP_LAYERS or not layer.trainable_variables


def _twin(layer, arguments):
    config = live_config(layer)
    if isinstance(layer, keras.layers.BatchNormalization):
        return type(layer).from_config({**config, "center": False, "scale": False})
    if type(layer) not in POPUP_LAYERS:
        return copy_layer(layer)
    kind = POPUP_LAYERS[type(layer)]
    own = {k: v for k, v in config.items() if k not in kind._kernel_arguments}
    return kind.from_config({**own, **_serialised(arguments)})


def _serialised(arguments):
    serialised = dict(arguments)
    for name, value in arguments.items():
        if "initializer" in name and callable(value):
            serialised[name] = keras.initializers.serialize(value)
        elif "regularizer" in name and callable(value):
            serialised[name] = keras.regularizers.serialize(value)
    return serialised
