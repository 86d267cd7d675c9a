"""The function that an export serves: named inputs to named outputs."""

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfticket.common.arguments import check_instance
from tfticket.keras_models.copies import require_finite
from tfticket.keras_models.graph import input_layers, output_names
from tfticket.keras_models.masked_layer import masks_in_use
from tfticket.keras_models.names import every_layer
from tfticket.pruning.masks import get_masks, get_pruned_weights
from tfticket.pruning.prune_strip import strip

SIGNATURE = "serving_default"


@dataclasses.dataclass(frozen=True)
class Prepared:
    """A model to serve, before its function is traced.

    Args:
        model: The plain model. Its weights are those that are written.
        call: Runs it on a dict of tensors by input name; gives a dict of outputs.
        call_given: The same of the model that was given, for comparison.
        signature: Input name to `tf.TensorSpec`.
        outputs: Names of the outputs, in the model's order.
        notes: What was done to the model that was given.
    """

    model: keras.Model
    call: Callable[[dict], dict]
    call_given: Callable[[dict], dict]
    signature: dict[str, tf.TensorSpec]
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of the model that was given, on any backend.

        Args:
            inputs: Arrays by input name.
        """
        found = self.call_given(inputs)
        return {k: keras.ops.convert_to_numpy(value) for k, value in found.items()}


@dataclasses.dataclass(frozen=True)
class Serving:
    """A plain model made ready to be written.

    Args:
        module: Holds the model's variables and the function, nothing of Keras.
        function: Concrete function from named inputs to a dict of outputs.
        signature: Input name to `tf.TensorSpec`.
        predict: Runs the Keras model that was given, not the stripped one, on a dict
            of arrays, for comparison.
        others: Concrete functions of the same inputs by the name of their signature,
            written besides `serving_default`.
        differences: By name of such a signature, how far its outputs are from what
            follows from those of `serving_default`: a function of the two dicts.
        notes: What was done to the model that was given.
    """

    module: tf.Module
    function: Any
    signature: dict[str, tf.TensorSpec]
    predict: Callable[[dict[str, np.ndarray]], dict[str, np.ndarray]]
    others: dict[str, Callable] = dataclasses.field(default_factory=dict)
    differences: dict[str, Callable] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()


def serving(model: keras.Model) -> Serving:
    """Makes a model ready to be written; a wrapped or popup one is stripped first.

    Inputs are named as the model's `keras.Input`s and outputs as the layers they
    come from, with "_" for what TensorFlow takes in no name ("my-input").

    Raises:
        RuntimeError: If Keras does not run on TensorFlow.
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, a weight is NaN or infinite, or a layer
            keeps a vocabulary table.
    """
    return trace(prepare(model))


def prepare(model: keras.Model, any_backend: bool = False) -> Prepared:
    """`serving` without its last step; raises what that raises.

    Args:
        model: A built Keras model.
        any_backend: Whether what follows runs on other backends than TensorFlow, too.
    """
    if keras.backend.backend() != "tensorflow" and not any_backend:
        raise RuntimeError(
            "This export needs Keras on the TensorFlow backend, and export.onnx and "
            f"export.openvino do not; this is '{keras.backend.backend()}'. Save the "
            "ticket or the stripped model, and load and export it in a process with "
            "KERAS_BACKEND=tensorflow."
        )
    check_instance("model", model, keras.Model, "a keras.Model")
    if not model.built or not getattr(model, "inputs", None):
        raise ValueError(
            f"Model '{model.name}' has no known inputs. Start it with "
            "keras.Input(shape), so that the served function has a signature."
        )
    notes: tuple[str, ...] = ()
    given = model
    masks = get_masks(model)
    if masks:
        model, notes = strip(model), ("stripped",)
        weights = get_pruned_weights(given)
        if any(np.any(weights[name][~masks[name]]) for name in weights):
            given = model  # not masked since its weights were set: strip has done it
    _require_numbers(model)
    signature = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in zip(
            _served_names([layer.name for layer in input_layers(model)]),
            model.inputs,
            strict=True,
        )
    }
    served_outputs = _served_names(output_names(model))

    def function_of(model):
        # Over the same layers, with inputs and outputs as flat lists.
        flat = keras.Model(model.inputs, model.outputs)

        def call(inputs):
            with masks_in_use(model):
                outputs = flat([inputs[name] for name in signature], training=False)
            return dict(zip(served_outputs, keras.tree.flatten(outputs), strict=True))

        return call

    return Prepared(
        model,
        function_of(model),
        function_of(given),
        signature,
        tuple(served_outputs),
        notes,
    )


def _require_numbers(model):
    """Refuses vocabulary tables, and weights that are not finite."""
    for _, layer in every_layer(model):
        if getattr(layer, "lookup_table", None) is not None:
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) keeps a table of its "
                "vocabulary, which is not exported yet. Look up before the model, and "
                "export the part that takes numbers."
            )
    require_finite(model)


def trace(
    prepared: Prepared,
    call: Callable[[dict], dict] | None = None,
    trackables: Sequence | None = None,
) -> Serving:
    """Traces the served function.

    Args:
        prepared: From `prepare`.
        call: Runs the model as it is to be served; `None` is `prepared.call`.
        trackables: What the SavedModel has to hold; `None` is the model's variables.
    """
    call, call_given = call or prepared.call, prepared.call_given
    if trackables is None:
        trackables = [variable.value for variable in prepared.model.variables]
    # Not by the model's name, which need not be an identifier.
    module = tf.Module()
    module.weights = list(trackables)
    function = concrete(call, prepared.signature)

    def predict(inputs):
        inputs = {name: tf.constant(inputs[name]) for name in prepared.signature}
        return {name: value.numpy() for name, value in call_given(inputs).items()}

    return Serving(module, function, prepared.signature, predict, notes=prepared.notes)


def concrete(call: Callable[[dict], dict], signature: dict[str, tf.TensorSpec]) -> Any:
    """The concrete function from named inputs of a function of a dict."""

    def serve(**inputs):
        return call(inputs)

    return tf.function(serve, autograph=False).get_concrete_function(**signature)


def sample_inputs(
    signature: dict[str, tf.TensorSpec], batch: int = 8
) -> dict[str, np.ndarray]:
    """Random inputs that fit a signature: normal floats, integers 0 and 1.

    Raises:
        ValueError: If a dimension other than the batch is unknown.
    """
    random = np.random.default_rng(0)
    inputs: dict[str, np.ndarray] = {}
    for name, spec in signature.items():
        value: np.ndarray
        shape = [batch if size is None else size for size in spec.shape[:1]]
        rest = list(spec.shape[1:])
        if None in rest:
            raise ValueError(
                f"Input '{name}' has the open shape {tuple(spec.shape)}, so no sample "
                "of it can be made up. Pass inputs= with arrays to check the export on."
            )
        if spec.dtype.is_floating:
            value = random.standard_normal(shape + rest)
        else:
            value = random.integers(0, 2, shape + rest)
        inputs[name] = value.astype(spec.dtype.as_numpy_dtype)
    return inputs


def named_inputs(
    inputs: Any, signature: dict[str, tf.TensorSpec]
) -> dict[str, np.ndarray]:
    """A user's sample as arrays by input name, made up where it is `None`.

    Raises:
        ValueError: If names or shapes are not the signature's.
    """
    if inputs is None:
        return sample_inputs(signature)
    if not isinstance(inputs, dict):
        one = len(signature) == 1 and not (
            isinstance(inputs, (list, tuple)) and len(inputs) == 1
        )
        flat = [inputs] if one else list(inputs)
        if len(flat) != len(signature):
            raise ValueError(
                f"inputs must have one array for each of {list(signature)}. "
                f"Received: {len(flat)}"
            )
        inputs = dict(zip(signature, flat, strict=True))
    if set(inputs) != set(signature):
        raise ValueError(
            f"inputs must have one array for each of {list(signature)}. "
            f"Received: {list(inputs)}"
        )
    arrays = {}
    for name, spec in signature.items():
        given = np.asarray(inputs[name])
        arrays[name] = given.astype(spec.dtype.as_numpy_dtype)
        if spec.dtype.is_integer and np.any(arrays[name] != given):
            raise ValueError(
                f"Input '{name}' is of {spec.dtype.name}, which can't hold all the "
                "values of the sample. Pass inputs= with whole numbers in its range."
            )
        if not spec.shape.is_compatible_with(arrays[name].shape):
            raise ValueError(
                f"Input '{name}' must have shape {tuple(spec.shape)}. "
                f"Received: shape {arrays[name].shape}"
            )
        if not arrays[name].size:
            raise ValueError(f"Input '{name}' has no samples to check the export on.")
    return arrays


def _served_names(layers):
    """Names of layers as TensorFlow spells them, each its own."""
    names: list[str] = []
    for layer in layers:
        name = "".join(c if c.isalnum() else "_" for c in layer)
        name = name if name[0].isalpha() else f"arg_{name}"
        number = itertools.count(1)
        unique = name
        while unique in names:
            unique = f"{name}_{next(number)}"
        names.append(unique)
    return names
