"""Captures and restores values of variables, and handles slots of optimizers."""

from collections.abc import Iterable, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops

from tfticket.keras_models.internals import slots_by_variable


class State:
    """Captures variables and restores them bit for bit.

    Args:
        variables: Maps names to variables. Their values are copied at once.
    """

    def __init__(self, variables: Mapping[str, keras.Variable]):
        self._variables = dict(variables)
        self.values = {name: host_copy(v) for name, v in variables.items()}

    @classmethod
    def of(cls, model: keras.Model) -> "State":
        """The state of a model: its variables and, if it is compiled, its optimizer's.

        Args:
            model: A built model. Missing slots of its optimizer are created.
        """
        variables = list(model.variables)
        if getattr(model, "optimizer", None) is not None:
            variables += built_optimizer(model).variables
        return cls({str(i): variable for i, variable in enumerate(variables)})

    def restore(self) -> None:
        """Assigns the captured values to the variables."""
        for name, variable in self._variables.items():
            variable.assign(self.values[name])


def host_copy(variable: Any) -> np.ndarray:
    """The value of a variable or tensor, as an array that nothing else writes to.

    A variable may return a view of its memory on the CPU, or an array of JAX that a
    training step frees when another variable shares it.
    """
    return np.array(keras.ops.convert_to_numpy(variable))


def built_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """The optimizer of a compiled model, after creating its slots if necessary."""
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return optimizer


def mask_slots(
    optimizer: keras.optimizers.Optimizer,
    weights_and_masks: Iterable[tuple[keras.Variable, keras.Variable]],
) -> None:
    """Resets the optimizer slots of pruned entries to their values at rest.

    Args:
        optimizer: A Keras optimizer; nothing happens if it is not built.
        weights_and_masks: Pairs of a weight and its boolean mask.
    """
    masks = {id(weight): mask for weight, mask in weights_and_masks}
    for variable, slot, rest in slots_by_variable(optimizer):
        if id(variable) in masks:
            mask = ops.convert_to_tensor(masks[id(variable)])
            value = ops.convert_to_tensor(slot)
            slot.assign(ops.where(mask, value, ops.cast(rest, slot.dtype)))
