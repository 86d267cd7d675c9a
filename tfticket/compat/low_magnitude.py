"""TF-MOT's `prune_low_magnitude` and `strip_pruning`, built on `tfticket.Prune`."""

import abc
import contextlib
import warnings
from typing import Any

import keras

from tfticket.common.arguments import check_instance, shown
from tfticket.compat.policies import PruningPolicy
from tfticket.compat.translated import wrapper_arguments
from tfticket.keras_models.copies import clone_with, copy_state
from tfticket.keras_models.kernels import DEPTHWISE, holds_kernels
from tfticket.keras_models.masked_layer import MaskedLayer
from tfticket.keras_models.names import is_graph
from tfticket.keras_models.twins import copy_layer
from tfticket.pruning.gradual import GradualPruning
from tfticket.pruning.masks import masked_layers
from tfticket.pruning.prune_strip import strip, wrap_copy
from tfticket.pruning.wrapper import Prune
from tfticket.sparsity.schedules import ConstantSparsity, Schedule

_HALF = ConstantSparsity(0.5, 0)


class PrunableLayer(abc.ABC):
    """A layer of your own that says which of its weights to prune.

    Example:

    >>> from tfticket.compat import tfmot
    >>> class Scaled(keras.layers.Dense, tfmot.sparsity.keras.PrunableLayer):
    ...     def get_prunable_weights(self):
    ...         return [self.kernel, self.bias]
    >>> layer = tfmot.sparsity.keras.prune_low_magnitude(Scaled(3, name="scaled"))
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> sorted(tfticket.get_masks(model))
    ['scaled/bias', 'scaled/kernel']
    """

    @abc.abstractmethod
    def get_prunable_weights(self) -> list[keras.Variable]:
        """The variables to prune, once the layer is built."""


def prune_low_magnitude(
    to_prune: keras.layers.Layer | keras.Model | list[keras.layers.Layer],
    pruning_schedule: Schedule = _HALF,
    block_size: tuple[int, int] = (1, 1),
    block_pooling_type: str = "AVG",
    pruning_policy: PruningPolicy | None = None,
    sparsity_m_by_n: tuple[int, int] | None = None,
    **kwargs: Any,
) -> keras.layers.Layer | keras.Model | list[keras.layers.Layer]:
    """Wraps layers so that training with `UpdatePruningStep` prunes them.

    Layers with nothing to prune stay as they are, and so do depthwise convolutions.
    Unlike TF-MOT, this copies a model or a built layer and wraps the copy; it wraps an
    unbuilt layer itself. A wrapped layer keeps its name.

    Args:
        to_prune: A layer, a list of layers, or a Sequential or Functional model. Every
            layer of a model and of its nested models is wrapped if it can be.
        pruning_schedule: When to prune and to which sparsity: `ConstantSparsity`,
            `PolynomialDecay`, or any callable of the step, 1 in the first batch, that
            returns (should_prune, sparsity). The default is `ConstantSparsity(0.5, 0)`.
        block_size: Height and width of the blocks that are pruned as units, for weights
            of rank 2.
        block_pooling_type: `"AVG"` or `"MAX"` of the magnitudes in a block.
        pruning_policy: Which layers of a model to wrap. Ignored unless `to_prune` is
            a model.
        sparsity_m_by_n: (m, n) for m zeros in every n weights along the input channels,
            from the first step on, whatever the schedule says. It counts pruned
            weights, and `tfticket.structures.NM` counts kept weights.
        **kwargs: Arguments of the wrapper if `to_prune` is one layer; `input_shape` is
            for the first layer of a Sequential model. They are ignored otherwise.

    Returns:
        The wrapped layer, list or model. A model is not compiled.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If an argument is out of range, if both blocks and m by n are given,
            if a model is subclassed, if the policy refuses it, or if a custom layer
            does not say what to prune.

    Example:

    >>> from tfticket.compat.tfmot import prune_low_magnitude, UpdatePruningStep
    >>> from tfticket.compat.tfmot import ConstantSparsity
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> pruned = prune_low_magnitude(model, ConstantSparsity(0.5, 0, frequency=1))
    >>> pruned.compile("adam", "mse")
    >>> x, y = np.ones((8, 4)), np.ones((8, 2))
    >>> history = pruned.fit(x, y, verbose=0, callbacks=[UpdatePruningStep()])
    >>> int(tfticket.get_masks(pruned)["dense/kernel"].sum())
    4
    """
    own = wrapper_arguments(
        pruning_schedule, block_size, block_pooling_type, sparsity_m_by_n
    )
    if isinstance(to_prune, list):
        return [
            copy_layer(layer)
            if isinstance(layer, keras.layers.InputLayer)
            else _wrap_unless_wrapped(layer, own)
            for layer in to_prune
        ]
    if isinstance(to_prune, keras.Model):
        return _prune_model(to_prune, own, pruning_policy)
    if isinstance(to_prune, keras.layers.Layer):
        return _wrap(to_prune, own, kwargs)
    raise TypeError(
        "to_prune must be a keras.layers.Layer, a list of them, or a Sequential or "
        f"Functional keras.Model. Received: to_prune={shown(to_prune)}. For models of "
        "tf_keras, use TF-MOT itself or tfticket.compat.convert.convert."
    )


class UpdatePruningStep(GradualPruning):
    """`GradualPruning` that behaves like TF-MOT's callback of this name.

    If its schedule would prune all entries of a weight, it keeps one. On a model
    without masks it warns and does nothing. It takes the arguments of `GradualPruning`.

    Example:

    >>> from tfticket.compat import tfmot
    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> schedule = tfmot.ConstantSparsity(0.99, 0, frequency=1)
    >>> pruned = tfmot.prune_low_magnitude(model, schedule)
    >>> pruned.compile("adam", "mse")
    >>> x, y = np.ones((8, 2)), np.ones((8, 2))
    >>> callbacks = [tfmot.UpdatePruningStep()]
    >>> history = pruned.fit(x, y, verbose=0, callbacks=callbacks)
    >>> int(tfticket.get_masks(pruned)["dense/kernel"].sum())
    1
    """

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._arguments["keeps_one"] = True
        self._follows = True

    def on_train_begin(self, logs=None):
        self._follows = any(masked_layers(self.model))
        if self._follows:
            super().on_train_begin(logs)
            return
        warnings.warn(
            f"Model '{self.model.name}' has no masks, so UpdatePruningStep prunes "
            "nothing. Wrap it before you compile it: model = "
            "prune_low_magnitude(model).",
            stacklevel=2,
        )

    def on_train_batch_begin(self, batch, logs=None):
        if self._follows:
            super().on_train_batch_begin(batch, logs)

    def on_train_batch_end(self, batch, logs=None):
        if self._follows:
            super().on_train_batch_end(batch, logs)

    def on_epoch_end(self, epoch=None, logs=None, **kwargs):
        if self._follows:
            super().on_epoch_end(epoch, logs, **kwargs)

    def on_train_end(self, logs=None):
        if self._follows:
            super().on_train_end(logs)


def strip_pruning(model: keras.Model) -> keras.Model:
    """Copies a model without the wrappers; pruned weights are exactly 0.0.

    Args:
        model: A model that `prune_low_magnitude` wrapped, or some layers of it.

    A Sequential model need not be built; its copy is then not built either.

    Raises:
        TypeError: If it is not a Keras model.
        ValueError: If any other model is not built.

    Example:

    >>> from tfticket.compat import tfmot
    >>> layer = tfmot.sparsity.keras.prune_low_magnitude(keras.layers.Dense(2))
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> type(tfmot.sparsity.keras.strip_pruning(model).layers[0]).__name__
    'Dense'
    """
    check_instance("model", model, keras.Model, "a keras.Model")
    if isinstance(model, keras.Sequential) and not model.built:
        copies = [
            layer.plain() if isinstance(layer, MaskedLayer) else copy_layer(layer)
            for layer in model.layers
        ]
        return keras.Sequential(copies, name=model.name)
    return strip(model)


def prune_scope() -> contextlib.AbstractContextManager:
    """Does nothing, since the classes are registered. TF-MOT loads models in it.

    Example:

    >>> from tfticket.compat import tfmot
    >>> with tfmot.sparsity.keras.prune_scope():
    ...     layer = keras.layers.Dense(2)
    """
    return contextlib.nullcontext()


def _prune_model(model, own, policy):
    if not is_graph(model):
        raise ValueError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed, which "
            "prune_low_magnitude does not take. Wrap its layers in its __init__, or "
            "use tfticket.prune."
        )
    if policy is not None:
        check_instance("pruning_policy", policy, PruningPolicy, "a PruningPolicy")
        policy.ensure_model_supports_pruning(model)

    def clone(layer):
        if isinstance(layer, MaskedLayer) or (
            policy and not policy.allow_pruning(layer)
        ):
            return copy_layer(layer)
        copy = copy_layer(layer)
        return Prune(copy, **own) if _is_for_wrapping(layer) else copy

    def copy_weights(source, target):
        wrapped_now = isinstance(target, MaskedLayer) and not isinstance(
            source, MaskedLayer
        )
        copy_state(source, target.layer if wrapped_now else target)

    return clone_with(model, clone, copy_weights)


def _wrap_unless_wrapped(layer, own):
    return layer if isinstance(layer, MaskedLayer) else _wrap(layer, own, {})


def _wrap(layer, own, kwargs):
    if isinstance(layer, MaskedLayer):
        raise ValueError(f"Layer '{layer.name}' is wrapped already.")
    # TF-MOT makes up a name and ignores the argument; here it is the layer's name.
    kwargs = {key: value for key, value in kwargs.items() if key != "name"}
    shape = _shape_asked_for(kwargs)
    if not _is_for_wrapping(layer):
        return layer if shape is None else _with_input_shape(layer, shape)
    if shape is None:
        shape = _shape_made_with(layer)
    if shape is not None:
        kwargs["input_shape"] = shape
    with warnings.catch_warnings():
        # Keras has already told the caller that keras.Input is better.
        warnings.filterwarnings("ignore", "Do not pass an `input_shape`")
        make = wrap_copy if layer.built else Prune
        return make(layer, **own, **kwargs)


def _shape_asked_for(kwargs):
    """Removes the first layer's shape from arguments; `None` if there is none."""
    shape = kwargs.pop("input_shape", None)
    if "input_dim" in kwargs:
        shape = (kwargs.pop("input_dim"),)
    if "batch_input_shape" in kwargs:
        shape = kwargs.pop("batch_input_shape")[1:]
    return None if shape is None else tuple(shape)


def _shape_made_with(layer):
    """The input shape that a layer got as the first one of a Sequential model."""
    probe = keras.Sequential(name="probe")
    # This does not build it: only Model's `layers` include the input of a Sequential
    # model.
    probe.add(layer, rebuild=False)
    inputs = super(keras.Sequential, probe).layers[:-1]
    return tuple(inputs[0].batch_shape[1:]) if inputs else None


def _with_input_shape(layer, shape):
    """A copy of a layer of Keras that can be the first one of a Sequential model."""
    return layer.__class__.from_config({**layer.get_config(), "input_shape": shape})


def _is_for_wrapping(layer: Any) -> bool:
    """Whether TF-MOT would prune a layer, False if it would wrap it and do nothing."""
    if not isinstance(layer, keras.layers.Layer):
        raise TypeError(
            "prune_low_magnitude takes keras.layers.Layer objects. Received in "
            f"to_prune: {layer!r} (of type {type(layer)})"
        )
    if hasattr(layer, "get_prunable_weights"):
        return True
    if type(layer).__module__.split(".")[0] != "keras":
        raise ValueError(
            f"Layer '{layer.name}' has a custom class, {type(layer).__name__}, that "
            "does not say what to prune. Give it a method get_prunable_weights() that "
            "returns a list of its variables, or wrap only the other layers with "
            "keras.models.clone_model and a clone_function."
        )
    # TF-MOT leaves depthwise convolutions dense.
    return not isinstance(layer, DEPTHWISE) and holds_kernels(layer)
