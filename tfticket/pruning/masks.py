"""Masks of a model as plain data: read by name, set by name."""

import math
import weakref
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import keras
import numpy as np

from tfticket.common.arguments import check_instance, check_mapping
from tfticket.keras_models.kernels import MaskedWeight, apply_mask
from tfticket.keras_models.masked_layer import MaskedLayer, carrier, masks_in_use
from tfticket.keras_models.names import join, named_layers
from tfticket.keras_models.variables import mask_slots
from tfticket.pruning.optimizer_care import care_for

# Weights above which operations are started one by one: the overhead is then
# negligible, and compiled they would hold memory for several layers at a time.
_LARGE = 10**7

_MADE: "weakref.WeakKeyDictionary[keras.Model, ModelMasks]" = (
    weakref.WeakKeyDictionary()
)


def get_masks(model: keras.Model) -> dict[str, np.ndarray]:
    """The masks of a wrapped model as plain data; of a popup model, its edges in use.

    Returns:
        Name of the weight ("layer/kernel") to boolean array in its shape, in
        the order of the layers. Empty for a model that has none.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ... )
    >>> tfticket.get_masks(model)["dense/kernel"].shape
    (4, 2)
    """
    # Copies: what `ModelMasks` reads may be a view of the variables.
    return {name: np.array(mask) for name, mask in ModelMasks.of(model).masks().items()}


def set_masks(model: keras.Model, masks: Mapping[str, np.ndarray]) -> None:
    """Sets masks by name and zeroes all that belongs to a pruned weight.

    That is the weight, and, where the model is compiled, the optimizer's
    momentum, second moment, average and accumulated gradient of it. A weight of
    `prune(keep_dense=True)` keeps its value behind the mask.

    Args:
        model: A wrapped model.
        masks: Name of the weight to array of booleans, or of numbers that are exactly
            0 or 1. Names left out keep their mask.

    Raises:
        ValueError: If a name or a shape is not the model's, a value is none of these,
            or the masks of a layer follow from its scores. Nothing is changed then.
    """
    found = ModelMasks.of(model)
    found.set_masks(found.checked(masks))


def get_pruned_weights(model: keras.Model) -> dict[str, np.ndarray]:
    """What layers compute with where masks can be set, named as in `get_masks`."""
    return {name: np.array(v) for name, v in ModelMasks.of(model).values().items()}


def masked_layers(
    model: keras.Model, settable: bool = True
) -> Iterator[tuple[str, MaskedLayer]]:
    """Yields (path, layer) for every layer of a model that carries masks.

    Args:
        model: A model.
        settable: Whether to leave out layers that choose their masks themselves.
    """
    for path, layer in named_layers(model):
        masks = carrier(layer)
        if masks is not None and not (settable and masks.chooses_masks):
            yield path, masks


def masked_weights(model: keras.Model) -> dict[str, MaskedWeight]:
    """Every weight of a model whose mask can be set, by its name in `get_masks`."""
    return {
        join(path, weight.name): weight
        for path, layer in masked_layers(model)
        for weight in layer.masked_weights()
    }


def masked_names(model: keras.Model, layers: Collection[MaskedLayer]) -> set[str]:
    """The names in `get_masks` of what these layers of the model mask."""
    wanted = {id(x.mask) for layer in layers for x in layer.masked_weights()}
    return {name for name, x in masked_weights(model).items() if id(x.mask) in wanted}


class ModelMasks:
    """The masked weights of one model, found once to be read and set many times.

    Finding weights and starting their operations one by one takes longer than what
    they do to a small network, so here it is done once and, on TensorFlow, compiled.

    Args:
        model: A model, whose layers stay the same.
    """

    def __init__(self, model: keras.Model):
        self.weights: dict[str, MaskedWeight] = {}
        self.layers: dict[str, MaskedLayer] = {}
        self._some_choose = False
        for path, layer in masked_layers(model, settable=False):
            self._some_choose |= layer.chooses_masks
            for weight in () if layer.chooses_masks else layer.masked_weights():
                name = join(path, weight.name)
                self.weights[name] = weight
                self.layers[name] = layer
        # Weak, since `of` keeps what it makes as long as the model lives.
        self._model = weakref.ref(model)
        self._compiled: Any = None

    @classmethod
    def of(cls, model: keras.Model) -> "ModelMasks":
        """That of a model, the same each time: it is compiled once."""
        check_instance("model", model, keras.layers.Layer, "a keras.Model")
        found = _MADE.get(model)
        if found is None or not found._fits(model):
            found = _MADE[model] = cls(model)
        return found

    def _fits(self, model):
        now = {id(weight.mask) for weight in masked_weights(model).values()}
        return now == {id(weight.mask) for weight in self.weights.values()}

    def masks(self) -> dict[str, np.ndarray]:
        """As `get_masks`, but the arrays may be views of the variables' memory."""
        if not self._some_choose:
            return {name: _array(w.mask.value) for name, w in self.weights.items()}
        model = self._model()
        with masks_in_use(model):
            return {
                join(path, weight.name): _array(weight.mask)
                for path, layer in masked_layers(model, settable=False)
                for weight in layer.masked_weights()
            }

    def gradient_masks(self) -> dict[str, np.ndarray]:
        """Name to where weights that keep their dense values get a gradient."""
        return {
            name: _array(weight.gradient_mask.value)
            for name, weight in self.weights.items()
            if weight.keeps_dense
        }

    def values(self) -> dict[str, np.ndarray]:
        """As `get_pruned_weights`, but the arrays may be views."""
        return {name: _array(weight.value()) for name, weight in self.weights.items()}

    def checked(self, masks: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Masks as boolean arrays; a ValueError if they do not fit the model."""
        check_mapping("masks", masks, "names to masks")
        for name, mask in masks.items():
            if name not in self.weights:
                raise ValueError(
                    f"masks: no settable mask is named '{name}'. The model's: "
                    f"{list(self.weights)}"
                )
            shape = tuple(self.weights[name].variable.shape)
            if np.shape(mask) != shape:
                raise ValueError(
                    f"The mask of '{name}' must have shape {shape}. "
                    f"Received: shape {np.shape(mask)}"
                )
        return {name: boolean_mask(name, mask) for name, mask in masks.items()}

    def set_masks(
        self,
        masks: Mapping[str, np.ndarray],
        gradient_masks: Mapping[str, np.ndarray] | None = None,
        kept: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """As `set_masks`, unchecked. Masks not named stay; all weights are masked.

        Args:
            masks: Name to boolean array.
            gradient_masks: The same for gradients of weights that keep dense values.
            kept: The same of weights that keep their value and their slots, if it is
                not all that the mask keeps: what comes back starts at 0.0.
        """
        given = dict(masks), dict(gradient_masks or {}), dict(kept or {})
        for layer in self.layers.values():
            layer.has_pruner = True
        optimizer = getattr(self._model(), "optimizer", None)
        care_for(optimizer)
        slots = () if optimizer is None else optimizer.variables
        # Traced again if slots have been made in the meantime. Not worth it once.
        key = (optimizer, len(slots))
        if self._compiled is None or self._compiled[0] != key:
            self._compiled = key, self._compile()
            self._set(*given)
        else:
            self._compiled[1](*given)

    def _compile(self):
        size = sum(math.prod(weight.mask.shape) for weight in self.weights.values())
        if keras.backend.backend() != "tensorflow" or size > _LARGE:
            return self._set
        import tensorflow as tf

        # A model that XLA compiles is small and quick, and starting an operation for
        # each weight, mask and slot then takes longer than what they do.
        xla = bool(getattr(self._model(), "jit_compile", False))
        return tf.function(self._set, autograph=False, jit_compile=xla)

    def _set(self, masks, gradient_masks, kept):
        for name, mask in masks.items():
            self.weights[name].mask.assign(mask)
        for name, mask in gradient_masks.items():
            self.weights[name].gradient_mask.assign(mask)
        pairs = []
        for name, weight in self.weights.items():
            mask = weight.gradient_mask if weight.keeps_dense else weight.mask
            mask = kept.get(name, mask)
            pairs.append((weight.variable, mask))
            if not weight.keeps_dense:
                weight.variable.assign(apply_mask(weight.variable, mask))
        optimizer = getattr(self._model(), "optimizer", None)
        if optimizer is not None:
            mask_slots(optimizer, pairs)


def boolean_mask(name: str, mask: Any) -> np.ndarray:
    """A mask as booleans: what is neither kept nor pruned is no mask.

    Raises:
        ValueError: If a value is neither a boolean nor exactly 0 or 1.
    """
    mask = np.asarray(mask)
    if mask.dtype == bool:
        return mask
    kind = mask.dtype.kind  # "V": bfloat16 and its like
    if kind in "iuf" or (kind == "V" and mask.dtype.names is None):
        wrong = mask[(mask != 0) & (mask != 1)]
    else:
        wrong = mask.ravel()
    if wrong.size:
        some = ", ".join(repr(value) for value in wrong[:3].tolist())
        raise ValueError(
            f"The mask of '{name}' must be of booleans, True for what is kept, or of "
            f"numbers that are exactly 0 or 1. Received in masks: {some}"
            f"{', ...' if wrong.size > 3 else ''} ({wrong.size} of {mask.size} values, "
            f"dtype {mask.dtype}). Compare first, as in mask = scores > 0.5."
        )
    return mask.astype(bool)


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
