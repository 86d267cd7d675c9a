"""What `DynamicSparseTraining` refuses: models and sources it can't do right by."""

from collections.abc import Mapping
from typing import Any

import keras

from tfticket.keras_models.kernels import MaskedWeight, has_adapter
from tfticket.pruning.evidence import require_repeatable
from tfticket.pruning.masks import masked_layers
from tfticket.sparsity import structures
from tfticket.sparsity.structures import Block, Unstructured


def check_layers(model: keras.Model, structure: Unstructured | None) -> None:
    """Raises a ValueError if a masked layer can't be dropped from and grown.

    Args:
        model: A model.
        structure: What is pruned together in layers that don't say themselves.
    """
    for path, layer in masked_layers(model):
        check_structure(structures.get(layer.structure or structure), path)
        if layer.schedule is not None:
            raise ValueError(
                f"Layer '{path}' has a pruning schedule, which only GradualPruning "
                "follows. Set its schedule to None to keep its sparsity constant."
            )
        if any(has_adapter(weight) for weight in layer.masked_weights()):
            raise ValueError(
                f"Layer '{path}' has LoRA weights, which come back with a grown "
                "weight at once, so it would not start at 0. Train without LoRA."
            )


def check_structure(structure: Unstructured, name: str = "") -> None:
    """Raises a ValueError if it is neither single weights nor blocks.

    Args:
        structure: A structure.
        name: Of the layer whose it is.
    """
    if type(structure) in (Unstructured, Block):
        return
    where = f" of '{name}'" if name else ""
    raise ValueError(
        "DynamicSparseTraining drops and grows single weights or blocks: "
        f"structure must be Unstructured() or Block(shape). Received{where}: "
        f"{structure!r}"
    )


def check_trains(weights: Mapping[str, MaskedWeight]) -> None:
    """Raises a ValueError if nothing trains one of the weights."""
    for name, weight in weights.items():
        if not weight.variable.trainable:
            raise ValueError(
                f"'{name}' is frozen, so what grows would stay 0.0. Exclude it, give "
                "it a sparsity of 0.0, or use method='static'."
            )


def check_source(method: str, data: Any, loss: Any) -> None:
    """Raises a ValueError if a method lacks data for its gradients, or takes none.

    Args:
        method: `"rigl"` needs them.
        data: As for `DenseGradient`, or `None`.
        loss: As for `DenseGradient`.
    """
    if method != "rigl":
        if data is not None or loss is not None:
            raise ValueError(
                f"data and loss are for method='rigl', and method='{method}' takes no "
                "gradients. Leave them out."
            )
        return
    if data is None:
        raise ValueError(
            "method='rigl' grows by the dense gradient, which is taken over data. Pass "
            "data=(x, y) or a dataset of such batches, or use method='set'. Received: "
            "data=None"
        )
    require_repeatable(data, "method='rigl'")
