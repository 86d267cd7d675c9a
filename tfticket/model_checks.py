"""Which models can be copied, and a clear error for those that can't."""

from typing import Any

import keras

from tfticket.model_masks import named_layers
from tfticket.paths import is_graph
from tfticket.popup_model import PopupModel
from tfticket.wrappers import Prune


def require_transformable(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers by path of a model that can be copied layer by layer.

    Raises:
        TypeError: If the model is not a Keras 3 Sequential or Functional one.
        ValueError: If it is not built, or is wrapped already.
    """
    require_keras_3(model)
    require_graph(model)
    return unwrapped_layers(model)


def unwrapped_layers(model: keras.Model) -> dict[str, keras.layers.Layer]:
    """The layers of a model by path, or a ValueError if one is wrapped already."""
    layers = dict(named_layers(model))
    if any(isinstance(layer, Prune) for layer in layers.values()):
        raise ValueError(
            f"Model '{model.name}' is wrapped already. Call "
            "tfticket.strip(model) first, or train it as it is."
        )
    return layers


def require_keras_3(model: Any) -> None:
    modules = {c.__module__.split(".")[0] for c in type(model).__mro__}
    kinds = {type(x).__module__.split(".")[0] for x in getattr(model, "layers", [])}
    if "tensorflow_model_optimization" in modules | kinds:
        raise TypeError(
            f"{type(model).__name__} is wrapped by TF-MOT, which works on tf_keras "
            "only. Call TF-MOT's strip_pruning, rebuild the model in Keras 3 "
            "(import keras) and copy the weights, then wrap it here."
        )
    if isinstance(model, keras.layers.Layer):
        return
    if "tf_keras" in modules or "tensorflow" in modules:
        raise TypeError(
            f"{type(model).__name__} is a tf_keras (Keras 2) object; tfticket works "
            "on Keras 3. Build it with `import keras` instead of tf_keras, unset "
            "TF_USE_LEGACY_KERAS, and copy the weights with set_weights()."
        )
    raise TypeError(
        "Expected a keras.Model or keras.layers.Layer. "
        f"Received: {model!r} (of type {type(model)})"
    )


def require_graph(model: keras.Model) -> None:
    """Raises unless it is a built Sequential or Functional model of Keras's own."""
    for part in model._flatten_layers():
        of_keras = type(part).__module__.split(".")[0] == "keras"
        if is_graph(part) and not of_keras and not isinstance(part, PopupModel):
            raise TypeError(
                f"Model '{part.name}' is of a class of its own, {type(part).__name__}, "
                "whose methods and attributes a copy would lose. Pass the plain model "
                "of the same layers, keras.Model(model.inputs, model.outputs)."
            )
    if not is_graph(model):
        raise TypeError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed: its "
            "layers can't be swapped from outside. Rebuild it as a Functional model."
        )
    require_built(model)


def require_built(model: keras.Model) -> None:
    """Raises a ValueError if a model has no weights yet."""
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built, so it has no weights to carry over. "
            "Start it with keras.Input(shape), or call it on data first."
        )


# What `fit` and its kin call: a Functional copy has Keras's own.
_TRAINING = (
    *("train_step", "test_step", "predict_step", "make_train_function"),
    *("compute_loss", "compute_metrics", "fit", "compile"),
)


def require_plain_training(model: keras.Model) -> None:
    """Raises a TypeError if a subclassed model trains in a way of its own."""
    own = [
        x for x in _TRAINING if getattr(type(model), x) is not getattr(keras.Model, x)
    ]
    if own:
        raise TypeError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed and has its "
            f"own {', '.join(own)}, which a wrapped copy would lose. Wrap its layers "
            "in its __init__ instead: self.dense = tfticket.prune(Dense(10))."
        )
