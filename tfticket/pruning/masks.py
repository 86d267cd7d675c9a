"""Masks of a model as plain data: read by name, set by name."""

import math
import weakref
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np

from tfticket.edge_popup.layers import Popup
from tfticket.edge_popup.model import chosen_edges
from tfticket.keras_models.kernels import PrunableWeight
from tfticket.keras_models.names import (
    every_layer,
    is_graph,
    join,
    name_of,
    sublayers,
    weights_by_path,
)
from tfticket.keras_models.variables import mask_slots
from tfticket.pruning.wrapper import Prune, apply_mask, masked_value


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
    """What layers compute with where they carry masks, named as in `get_masks`."""
    return {
        join(path, weight.name): keras.ops.convert_to_numpy(value)
        for path, layer in pruned_layers(model)
        for weight, value in zip(layer.prunable, layer.pruned_values(), strict=True)
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
    zero_pruned(model, list(known.values()))


def zero_pruned(
    model: keras.Model,
    weights_and_masks: Sequence[tuple[keras.Variable, keras.Variable]],
) -> None:
    """Zeroes weights where their masks are False, and puts their slots to rest.

    Args:
        model: The model; its optimizer's slots are left where it has none.
        weights_and_masks: Pairs of a weight of the model and its boolean mask.
    """
    for weight, mask in weights_and_masks:
        weight.assign(apply_mask(weight, mask))
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None:
        mask_slots(optimizer, weights_and_masks)


def named_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path, layer) for every layer, into nested models, each once.

    A layer made of others counts as one, unless some of those are wrapped: then
    they count each for themselves.

    Args:
        model: A model. The layers of a subclassed one go by their attributes.
    """
    seen = set()

    def walk(prefix, parent):
        for name, layer in sublayers(parent):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            path = join(prefix, "" if _is_only(layer, parent) else name)
            if is_graph(layer) or holds_wrapped(layer):
                yield from walk(path, layer)
            else:
                yield path, layer

    return walk("", model)


def _is_only(layer, parent):
    """Whether a graph is nothing but a subclassed model, as `prune` wraps it.

    Its weights are then named as that model's by itself.
    """
    inner = getattr(layer, "layer", layer) if isinstance(layer, Prune) else layer
    if is_graph(inner) or not isinstance(inner, keras.Model) or not is_graph(parent):
        return False
    return [x for x in parent.layers if x.weights] == [layer]


def holds_wrapped(layer: keras.layers.Layer) -> bool:
    """Whether a layer that is not wrapped itself has wrapped ones inside."""
    if isinstance(layer, (Prune, Popup)):
        return False
    return any(isinstance(part, (Prune, Popup)) for _, part in every_layer(layer))


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

    Names are "layer/weight", and for a layer made of others the way to the one
    inside: "attention/query_dense/kernel".
    """
    weights: dict[str, Any] = {}
    masks: set[int] = set()
    for path, layer in named_layers(model):
        if isinstance(layer, Prune):
            masks.update(id(mask) for mask in layer.masks)
            layer = layer.layer
        weights.update(weights_by_path(layer, path))
    # What belongs to a layer whose parts are wrapped, or to a subclassed model itself.
    known = masks | {id(weight) for weight in weights.values()}
    for path, layer in every_layer(model):
        for i, weight in enumerate(layer.weights):
            if id(weight) not in known and not _within(layer, weight):
                weights[join(path, name_of(weight, layer, i))] = weight
                known.add(id(weight))
    return weights


def _within(layer, weight):
    """Whether the weight belongs to a layer inside this one."""
    return any(weight is w for _, part in sublayers(layer) for w in part.weights)


def masked_weights(
    model: keras.Model,
) -> Iterator[tuple[str, keras.Variable, keras.Variable]]:
    """Yields (name, weight, mask variable) for every weight that `Prune` masks."""
    for path, layer in pruned_layers(model):
        for weight, mask in zip(layer.prunable, layer.masks, strict=True):
            yield join(path, weight.name), weight.variable, mask


# Weights above which operations are started one by one: what that takes is then
# nothing, and compiled they would hold memory for several layers at a time.
_LARGE = 10**7

_MADE: "weakref.WeakKeyDictionary[keras.Model, Masked]" = weakref.WeakKeyDictionary()


class Masked:
    """What `get_masks`, `get_pruned_weights` and `set_masks` do, for one model.

    Finding weights and calling their operations one by one takes longer than what
    they do to a small network, so here it is done once and, on TensorFlow, compiled.

    Args:
        model: A wrapped, built model, whose layers stay the same.
    """

    def __init__(self, model: keras.Model):
        self.weights: dict[str, PrunableWeight] = {}
        self.wrappers: dict[str, Prune] = {}
        self._masks: dict[str, keras.Variable] = {}
        for path, wrapper in pruned_layers(model):
            for weight, mask in zip(wrapper.prunable, wrapper.masks, strict=True):
                name = join(path, weight.name)
                self.weights[name] = weight
                self.wrappers[name] = wrapper
                self._masks[name] = mask
        # Weak, since `of` keeps what it makes as long as the model lives.
        self._model = weakref.ref(model)
        self._compiled: Any = None

    @classmethod
    def of(cls, model: keras.Model) -> "Masked":
        """That of a model, the same each time: it is compiled once."""
        found = _MADE.get(model)
        if found is None or not found._fits(model):
            found = _MADE[model] = cls(model)
        return found

    def _fits(self, model):
        now = {
            id(mask) for _, wrapper in pruned_layers(model) for mask in wrapper.masks
        }
        return now == {id(mask) for mask in self._masks.values()}

    def masks(self) -> dict[str, np.ndarray]:
        """As `get_masks`."""
        return {name: _array(mask.value) for name, mask in self._masks.items()}

    def values(self) -> dict[str, np.ndarray]:
        """As `get_pruned_weights`."""
        return {
            name: _array(masked_value(weight, self._masks[name]))
            for name, weight in self.weights.items()
        }

    def set_masks(self, masks: Mapping[str, np.ndarray]) -> None:
        """As `set_masks`, names and shapes unchecked."""
        optimizer = getattr(self._model(), "optimizer", None)
        slots = () if optimizer is None else optimizer.variables
        # Traced anew where slots have been made in the meantime. Once is no use.
        key = (optimizer, len(slots))
        if self._compiled is None or self._compiled[0] != key:
            self._compiled = key, self._compile()
            self._set(dict(masks))
        else:
            self._compiled[1](dict(masks))

    def _compile(self):
        size = sum(math.prod(mask.shape) for mask in self._masks.values())
        if keras.backend.backend() != "tensorflow" or size > _LARGE:
            return self._set
        import tensorflow as tf

        # A model that XLA compiles is small and quick, and what starts an operation
        # for each weight, mask and slot here is then longer than what it does.
        xla = bool(getattr(self._model(), "jit_compile", False))
        return tf.function(self._set, autograph=False, jit_compile=xla)

    def _set(self, masks):
        for name, mask in masks.items():
            self._masks[name].assign(mask)
        pairs = [(self.weights[k].variable, mask) for k, mask in self._masks.items()]
        zero_pruned(self._model(), pairs)


def _array(value):
    # Without the copy that convert_to_numpy makes: whoever writes to the variable
    # leaves the memory of a tensor that is still in use.
    if keras.backend.backend() == "torch":
        return keras.ops.convert_to_numpy(value)
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        # Keras's takes a variable for a tensor, and an array of a variable is a copy.
        value = tf.convert_to_tensor(value)
    return np.asarray(value)
