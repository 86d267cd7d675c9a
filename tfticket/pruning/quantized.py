"""Zeros of a model that Keras has quantized: which are left, and how they come back."""

from collections.abc import Mapping

import keras
import numpy as np

from tfticket.common.arguments import check_instance, check_mapping
from tfticket.keras_models.names import weights_by_path
from tfticket.keras_models.quantized import quantized_layers, quantized_weights
from tfticket.pruning.masks import boolean_mask


def quantized_masks(model: keras.Model) -> dict[str, np.ndarray]:
    """Which weights of a quantized model are not zero, named as in `get_masks`.

    `quantize("int8")` and `quantize("int4")` keep every zero of the model, and make a
    few more, of the smallest weights. "gptq" makes up for the rounding of one weight
    with the others, and so moves zeros.

    Args:
        model: A model after `model.quantize("int8" | "int4" | "gptq" | "awq")`.

    Returns:
        Name of each quantized weight ("layer/kernel") to a boolean array in its shape,
        however Keras stores it. "float8" kernels stay in floating point, and are not
        here.

    Raises:
        TypeError: If `model` is not a Keras model.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    >>> model.layers[0].set_weights([np.eye(4, 3), np.zeros(3)])
    >>> model.quantize("int4")
    >>> tfticket.quantized_masks(model)["d/kernel"].sum()
    np.int64(3)
    """
    check_instance("model", model, keras.Model, "a keras.Model")
    return {name: weight.kept() for name, weight in quantized_weights(model).items()}


def mask_quantized(
    model: keras.Model, masks: Mapping[str, np.ndarray]
) -> dict[str, int]:
    """Sets pruned weights of a quantized model to zero, in place.

    That is the whole number that stands for 0.0 in the weight's group, in whatever
    form Keras stores it. All other weights stay as they are.

    Args:
        model: A model after `quantize`, stripped before.
        masks: Masks of the model that was stripped, from `get_masks`. Those of layers
            that were not quantized are left out: these have their zeros.

    Returns:
        Name of each quantized weight that has a mask to how many pruned weights were
        not zero.

    Raises:
        TypeError: If `model` is not a Keras model.
        ValueError: If nothing in the model is quantized to whole numbers, or a mask
            fits no weight, or has another shape or other values than 0 and 1. Nothing
            is changed then.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="d")])
    >>> model.layers[0].set_weights([np.ones((4, 3)), np.zeros(3)])
    >>> model.quantize("int8")
    >>> tfticket.mask_quantized(model, {"d/kernel": np.eye(4, 3)})
    {'d/kernel': 9}
    """
    check_instance("model", model, keras.Model, "a keras.Model")
    weights = quantized_weights(model)
    if not weights:
        modes = sorted(set(quantized_layers(model).values()))
        raise ValueError(
            f"Model '{model.name}' has no weights in whole numbers (modes of its "
            f"layers: {modes or 'none'}). Call model.quantize('int8'), 'int4', 'gptq' "
            "or 'awq' first; tfticket.set_masks is for a model that is not quantized."
        )
    check_mapping("masks", masks, "names to masks")
    others = set(weights_by_path(model))
    checked = {}
    for name, mask in masks.items():
        if name in weights:
            shape = weights[name].shape
            if np.shape(mask) != shape:
                raise ValueError(
                    f"The mask of '{name}' must have shape {shape}. "
                    f"Received: shape {np.shape(mask)}"
                )
            checked[name] = boolean_mask(name, mask)
        elif name not in others:
            raise ValueError(
                f"masks: no weight is named '{name}'. Those that are quantized: "
                f"{list(weights)}"
            )
    return {name: weights[name].set_mask(mask) for name, mask in checked.items()}
