"""Masks on the layers of a model as it is: same class, same variables, no copy."""

from collections.abc import Collection, Iterable
from typing import Any

import keras
from keras import ops

from tfticket.keras_models.copies import copy_state
from tfticket.keras_models.internals import (
    entry_layer,
    is_training,
    open_to_state,
)
from tfticket.keras_models.kernels import (
    MaskedWeight,
    PrunableWeight,
    apply_mask,
    prunable_weights,
)
from tfticket.keras_models.masked_layer import ON_LAYER, MaskedLayer, carrier
from tfticket.keras_models.names import (
    Pattern,
    choose,
    every_layer,
    is_only,
    join,
    sublayers,
)
from tfticket.pruning.follower import require_follower
from tfticket.pruning.masking import (
    constrain,
    copy_masked,
    masked_call,
    plain_layer,
    without_masking,
)
from tfticket.pruning.optimizer_care import care_for
from tfticket.sparsity import schedules, structures
from tfticket.sparsity.schedules import Schedule
from tfticket.sparsity.structures import Unstructured

# The attribute of a layer that Keras finds the masks' variables by.
_STATES = "mask_states"


class MaskState(keras.random.SeedGenerator):
    """A mask as Keras keeps the state of a seed: no weight, and in no file.

    Every trainer of Keras carries such a state through its steps, which a mask that
    changes between them needs on JAX; `weights`, `get_weights()` and files of the
    model stay as they are.

    Args:
        shape: Shape of the weight.
        name: Name of the variable.
    """

    def __init__(self, shape: tuple[int, ...], name: str):
        # Not SeedGenerator's own, which makes a state of two integers.
        self.name = name
        self.state = keras.Variable(
            ops.ones(shape, "bool"), dtype="bool", trainable=False, name=name
        )


class MasksOnLayer(MaskedLayer):
    """The masks of one layer that is otherwise as it was.

    Args:
        layer: A built layer. Its `call` is replaced by one that masks gradients.
        weights: The weights that get masks.
        schedule: As for `tfticket.Prune`.
        structure: As for `tfticket.Prune`.
    """

    def __init__(
        self,
        layer: keras.layers.Layer,
        weights: Iterable[PrunableWeight],
        schedule: Schedule | None = None,
        structure: Unstructured | None = None,
    ):
        self.layer = layer
        self.attributes = (ON_LAYER, _STATES, "call")
        self.schedule = schedule
        self.structure = structure
        self.follower = None
        weights = list(weights)
        states = [
            MaskState(
                tuple(x.variable.shape), f"{layer.name}_{x.name}_mask".replace("/", "_")
            )
            for x in weights
        ]
        self._masked = [
            MaskedWeight(**vars(weight), mask=state.state)
            for weight, state in zip(weights, states, strict=True)
        ]
        self._call = layer.call
        with open_to_state(layer):
            setattr(layer, _STATES, states)
        object.__setattr__(layer, ON_LAYER, self)
        object.__setattr__(layer, "call", self.call)
        constrain(self._masked)

    @property
    def name(self) -> str:
        """Name of the layer."""
        return self.layer.name

    def inner_layer(self) -> keras.layers.Layer:
        return self.layer

    def masked_weights(self) -> list[MaskedWeight]:
        return list(self._masked)

    def call(self, *args: Any, **kwargs: Any) -> Any:
        """The layer's own `call`, gradients masked on the way back."""
        if is_training(self.layer):
            require_follower(self)
            care_for(getattr(entry_layer(self.layer), "optimizer", None))
        outputs, losses = masked_call(self, self._call, args, kwargs)
        for loss in losses:
            self.layer.add_loss(loss)
        return outputs

    def plain(self) -> keras.layers.Layer:
        return plain_layer(self.layer)

    def copy_to(self, plain: keras.layers.Layer) -> None:
        copy_masked(self, plain)

    def copy_from(self, plain: keras.layers.Layer) -> None:
        copy_state(plain, self.layer)

    def take_off(self) -> None:
        """Zeroes what is pruned and leaves the layer as it was without masks."""
        for weight in self._masked:
            weight.variable.assign(apply_mask(weight.variable, weight.mask))
        without_masking(self.layer)
        object.__delattr__(self.layer, "call")
        object.__delattr__(self.layer, ON_LAYER)
        with open_to_state(self.layer):
            getattr(self.layer, _STATES).clear()  # which Keras follows
            delattr(self.layer, _STATES)


def put_masks_on(
    model: keras.layers.Layer,
    exclude: Collection[Pattern],
    include: Collection[Pattern],
    schedule: Schedule | None,
    structure: Unstructured | None,
) -> None:
    """Puts masks on the layers of a built model; arguments as of `tfticket.prune`.

    Raises:
        ValueError: If `exclude` or `include` names nothing that is there, or nothing is
            left to prune. The model is then as it was.
    """
    schedule = None if schedule is None else schedules.get(schedule)
    structure = None if structure is None else structures.get(structure)
    found = _holders(model)
    things = {path: [layer] for path, (layer, _) in found.items()}
    excluded = set().union(*choose("exclude", exclude, things).values())
    included = set().union(*choose("include", include, things).values())
    chosen = {
        path: each
        for path, each in found.items()
        if path not in excluded
        and (path in included or not isinstance(each[0], keras.layers.Embedding))
    }
    if not chosen:
        raise ValueError(
            f"Model '{model.name}' has nothing to prune. Layers with kernels: "
            f"{sorted(found)}"
            + (f", of which excluded: {sorted(excluded)}" if excluded else "")
        )
    for layer, weights in chosen.values():
        MasksOnLayer(layer, weights, schedule, structure)
    _forget_step(model)


def _holders(model):
    """(layer, weights) by path of every layer that itself holds prunable weights.

    A recurrent layer counts as the holder of its cells' kernels, which it may use
    without calling the cell.
    """
    found: dict[str, tuple[keras.layers.Layer, list[PrunableWeight]]] = {}
    seen: set[int] = set()

    def walk(path, parent):
        for name, part in sublayers(parent):
            if id(part) in seen:
                continue
            seen.add(id(part))
            inner = join(path, "" if is_only(part, parent) else name)
            weights = prunable_weights(part)
            itself = any(x.layer is part for x in weights)
            if weights and (itself or isinstance(part, keras.layers.RNN)):
                found[inner] = part, weights
            else:
                walk(inner, part)

    if isinstance(model, keras.Model):
        walk("", model)
    else:
        found[""] = model, prunable_weights(model)
    return found


def take_masks_off(model: keras.layers.Layer) -> int:
    """Takes every mask off a model that `prune(in_place=True)` put on, and counts."""
    found = [carrier(layer) for _, layer in every_layer(model)]
    masks = [x for x in found if isinstance(x, MasksOnLayer)]
    for each in masks:
        each.take_off()
    if masks:
        _forget_step(model)
    return len(masks)


def _forget_step(model):
    """Makes every model in it trace its training step again."""
    for _, part in every_layer(model):
        if isinstance(part, keras.Model):
            part.train_function = None
