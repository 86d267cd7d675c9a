"""What the callbacks refuse whose weights come back: models they can't do right by."""

from collections.abc import Collection, Mapping
from typing import Any

import keras

from tfticket.keras_models.kernels import MaskedWeight, has_adapter
from tfticket.keras_models.names import join
from tfticket.pruning.masks import masked_layers
from tfticket.sparsity import structures
from tfticket.sparsity.structures import NM, Block, Channel, Heads, Unstructured


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
        if any(weight.keeps_dense for weight in layer.masked_weights()):
            raise ValueError(
                f"Layer '{path}' keeps its dense weights behind the mask, with which a "
                "grown weight would start. Use tfticket.prune(model) without "
                "keep_dense, or tfticket.TopKTraining."
            )


def check_structure(structure: Unstructured, name: str = "") -> None:
    """Raises a ValueError if what goes together can't come back together.

    Args:
        structure: A structure.
        name: Of the layer whose it is.
    """
    where = f" of '{name}'" if name else ""
    if isinstance(structure, Channel) and structure.grouped:
        raise ValueError(
            "Channels that go together come back with weights of 0.0 before them and "
            "behind them, where every gradient is 0.0, so they would never train. Use "
            f"structure=Channel(grouped=False). Received{where}: {structure!r}"
        )
    if type(structure) not in (Unstructured, Block, NM, Channel, Heads):
        raise ValueError(
            "DynamicSparseTraining drops and grows single weights, blocks, N:M and "
            "channels: structure must be Unstructured(), Block(shape), NM(kept, group) "
            f"or Channel(grouped=False). Received{where}: {structure!r}"
        )


def check_dense_behind(
    model: keras.Model,
    method: str,
    structure: Unstructured | None,
    dense: Collection[str],
) -> None:
    """Raises a ValueError if masks are of another kind than `TopKTraining` needs.

    Args:
        model: A model.
        method: Its method; `"ac_dc"` needs weights that are 0.0 where they are pruned.
        structure: What is pruned together in layers that don't say themselves.
        dense: Names of the weights that are not pruned, and may be of any kind.
    """
    for path, layer in masked_layers(model):
        own = structures.get(layer.structure or structure)
        if isinstance(own, Channel) and own.grouped:
            raise ValueError(
                "TopKTraining prunes each weight by itself, and channels that go "
                "together are in several. Use structure=Channel(grouped=False). "
                f"Received of '{path}': {own!r}"
            )
        if layer.schedule is not None:
            raise ValueError(
                f"Layer '{path}' has a pruning schedule, which only GradualPruning "
                "follows. Set its schedule to None."
            )
        for weight in layer.masked_weights():
            if join(path, weight.name) in dense:
                continue
            if weight.keeps_dense == (method == "ac_dc"):
                way = "" if weight.keeps_dense else ", keep_dense=True"
                state = "keeps" if weight.keeps_dense else "does not keep"
                raise ValueError(
                    f"Layer '{path}' {state} its dense weights behind the mask, and "
                    f"method='{method}' needs the opposite. Wrap the model anew: "
                    f"tfticket.prune(model{way})."
                )


def check_trains(weights: Mapping[str, MaskedWeight]) -> None:
    """Raises a ValueError if nothing trains one of the weights."""
    for name, weight in weights.items():
        if not weight.variable.trainable:
            raise ValueError(
                f"'{name}' is frozen, so what grows would stay 0.0. Exclude it, give "
                "it a sparsity of 0.0, or use method='static'."
            )


def check_initializer(initializer: Any) -> keras.initializers.Initializer:
    """The initializer, made of its name where it is one.

    Raises:
        TypeError: If it is neither a text nor an initializer.
        ValueError: If Keras has none of that name.
    """
    if isinstance(initializer, keras.initializers.Initializer):
        return initializer
    if not isinstance(initializer, str):
        raise TypeError(
            "initializer must be a keras.initializers.Initializer or the name of one. "
            f"Received: initializer={initializer!r} (of type "
            f"{type(initializer).__name__})"
        )
    try:
        found = keras.initializers.get(initializer)
    except ValueError:
        found = None
    if not isinstance(found, keras.initializers.Initializer):
        raise ValueError(
            "initializer must be the name of a Keras initializer, 'zeros' or "
            f"'glorot_uniform' for example. Received: initializer={initializer!r}"
        )
    return found
