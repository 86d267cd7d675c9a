"""Values of variables, captured and put back, and the slots of an optimizer."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import keras
import numpy as np
from keras import ops


class State:
    """Captures variables, and puts them back bit for bit.

    Args:
        variables: Name to variable. Their values are copied at once.
    """

    def __init__(self, variables: Mapping[str, keras.Variable]):
        self._variables = dict(variables)
        self.values = {name: host_copy(v) for name, v in variables.items()}

    @classmethod
    def of(cls, model: keras.Model) -> "State":
        """The state of a model: its variables and, if it is compiled, its optimizer's.

        Args:
            model: A built model. Slots of its optimizer are made if they weren't yet.
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
    """The value of a variable or tensor as an array that nothing else writes to.

    What a variable gives by itself may be a view of its memory, on the CPU, or an array
    of JAX that a training step takes away when another variable shares it.
    """
    return np.array(keras.ops.convert_to_numpy(variable))


def built_optimizer(model: keras.Model) -> keras.optimizers.Optimizer:
    """The optimizer of a compiled model, its slots made if they weren't yet."""
    optimizer = model.optimizer
    if not optimizer.built:
        optimizer.build(model.trainable_variables)
    return optimizer


def inner_optimizers(
    optimizer: keras.optimizers.Optimizer,
) -> Iterator[keras.optimizers.Optimizer]:
    """Yields the optimizers that hold slots, out of those that wrap others."""
    yield optimizer
    if getattr(optimizer, "inner_optimizer", None) is not None:
        yield from inner_optimizers(optimizer.inner_optimizer)
    for inner in getattr(optimizer, "_inner_optimizers", None) or ():
        yield from inner_optimizers(inner)


def slots(
    optimizer: keras.optimizers.Optimizer,
) -> Iterator[tuple[keras.Variable, keras.Variable, float]]:
    """Yields (model variable, slot, value at rest) for all kept weight by weight.

    Keras optimizers keep slots in attributes that are lists parallel to their
    trainable variables, and have no public way from a variable to its slots.
    What is kept in another shape (a factored second moment) is not weight by
    weight and left out. The value at rest is what a weight without gradients
    has: 0.0, but for the accumulators of Adagrad and Ftrl, which start above it
    because they divide by it.
    """
    for inner in inner_optimizers(optimizer):
        variables = getattr(inner, "_trainable_variables", None) or []
        for name, values in vars(inner).items():
            if (
                name in ("_trainable_variables", "_variables")
                or not isinstance(values, list)
                or len(values) != len(variables)
            ):
                continue
            rest = 0.0
            if name == "_accumulators":
                rest = getattr(inner, "initial_accumulator_value", 0.0)
            for variable, slot in zip(variables, values, strict=True):
                if isinstance(slot, keras.Variable) and slot.shape == variable.shape:
                    yield variable, slot, rest


def mask_slots(
    optimizer: keras.optimizers.Optimizer,
    weights_and_masks: Iterable[tuple[keras.Variable, keras.Variable]],
) -> None:
    """Puts the slots of what each mask prunes to rest.

    Args:
        optimizer: A Keras optimizer; nothing happens while it is not built.
        weights_and_masks: Pairs of a weight and its boolean mask.
    """
    masks = {id(weight): mask for weight, mask in weights_and_masks}
    for variable, slot, rest in slots(optimizer):
        if id(variable) in masks:
            mask = ops.convert_to_tensor(masks[id(variable)])
            value = ops.convert_to_tensor(slot)
            slot.assign(ops.where(mask, value, ops.cast(rest, slot.dtype)))
