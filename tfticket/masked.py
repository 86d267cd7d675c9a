"""`Masked`: the masked weights of one model, found once to be set many times."""

import math
import weakref
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfticket.model_masks import pruned_layers, zero_pruned
from tfticket.paths import join
from tfticket.prunable import PrunableWeight
from tfticket.wrappers import Prune, masked_value

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
