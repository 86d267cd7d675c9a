"""The function that an export serves, from named inputs to named outputs."""

import contextlib
import dataclasses
import itertools
import keyword
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfticket.common.arguments import check_instance
from tfticket.export.checking.exported import ExportError
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
        call: Runs it on a dict of tensors by input name and returns a dict of outputs.
        call_given: The same for the given model, for comparison.
        signature: Maps input names to `tf.TensorSpec`s.
        outputs: Names of the outputs, in the model's order.
        notes: Changes to the given model.
        state: Variables of the given model that a call may change.
    """

    model: keras.Model
    call: Callable[[dict], dict]
    call_given: Callable[[dict], dict]
    signature: dict[str, tf.TensorSpec]
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    state: tuple[Any, ...] = ()

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of the given model on any backend; its state does not change.

        Args:
            inputs: Arrays by input name.
        """
        with kept(self.state):
            found = self.call_given(inputs)
            return {k: keras.ops.convert_to_numpy(value) for k, value in found.items()}

    def state_lost(
        self, inputs: dict[str, np.ndarray], deterministic: bool
    ) -> tuple[str, ...]:
        """A note if the model keeps a state, for files that keep none.

        Args:
            inputs: Arrays by input name.
            deterministic: Whether that is an error.

        Raises:
            ExportError: If `deterministic` is True and a call changes a variable.
        """
        with kept(self.state) as changed:
            self.call_given(inputs)
        if not changed:
            return ()
        if not deterministic:
            return ("the model keeps a state between calls, and the file does not",)
        raise ExportError(
            f"Model '{self.model.name}' keeps a state between calls in inference, "
            "which the file does not. Remove the layer that does (stateful=True), or "
            "pass deterministic=False if every call should begin from the present "
            "state. Nothing was kept."
        )


@dataclasses.dataclass(frozen=True)
class Serving:
    """A plain model that is ready to be written.

    Args:
        module: Holds the model's variables and the function, and no Keras objects.
        function: Concrete function from named inputs to a dict of outputs.
        signature: Input name to `tf.TensorSpec`.
        predict: Runs the given Keras model, not the stripped one, on a dict of arrays,
            for comparison.
        others: Concrete functions of the same inputs, by the names of their signatures,
            which are written in addition to `serving_default`.
        differences: Maps the name of such a signature to a function of two dicts of
            outputs, which returns how far the signature's outputs are from those of
            `serving_default`.
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
    """Prepares a model to be written; a wrapped or popup model is stripped first.

    Inputs are named like the model's `keras.Input`s, and outputs like the layers that
    they come from. Characters that TensorFlow does not allow ("my-input") become "_",
    and names that it does not allow ("class", "2nd") get "arg_" before them. Notes say
    which.

    Raises:
        RuntimeError: If Keras does not run on TensorFlow.
        TypeError: If `model` is not a Keras model.
        ValueError: If the model is not built, a weight is NaN or infinite, or a layer
            keeps a vocabulary table.
    """
    return trace(prepare(model))


def prepare(model: keras.Model, any_backend: bool = False) -> Prepared:
    """Does all but the last step of `serving`, and raises the same errors.

    Args:
        model: A built Keras model.
        any_backend: Whether the next steps also run on other backends than TensorFlow.
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
            given = model  # strip has masked the weights
    _require_numbers(model)
    own_inputs = [layer.name for layer in input_layers(model)]
    own_outputs = output_names(model)
    signature = {
        name: tf.TensorSpec(tensor.shape, tensor.dtype, name=name)
        for name, tensor in zip(_served_names(own_inputs), model.inputs, strict=True)
    }
    served_outputs = _served_names(own_outputs)
    notes += _renamed("input", own_inputs, signature)
    notes += _renamed("output", own_outputs, served_outputs)

    def function_of(model):
        # A model of the same layers, with flat lists of inputs and outputs.
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
        tuple(_state(given)),
    )


def _state(model):
    """Variables that a call in inference may change in any way."""
    yield from (variable for variable in model.variables if not variable.trainable)
    for _, layer in every_layer(model):
        if getattr(layer, "stateful", False) is True:
            yield from keras.tree.flatten(getattr(layer, "states", None) or ())


@contextlib.contextmanager
def kept(variables: Sequence) -> Iterator[list]:
    """A context that restores the values of variables at its end.

    At its end, its list has the variables that were changed.

    Args:
        variables: Keras's or TensorFlow's variables.
    """
    before = [keras.ops.convert_to_numpy(variable) for variable in variables]
    changed: list[Any] = []
    try:
        yield changed
    finally:
        for variable, value in zip(variables, before, strict=True):
            now = keras.ops.convert_to_numpy(variable)
            if not np.array_equal(now, value, equal_nan=value.dtype.kind == "f"):
                variable.assign(value)
                changed.append(variable)


def _renamed(kind, own, served):
    """One note per name that TensorFlow does not allow."""
    return tuple(
        f"{kind} '{name}' is served as '{other}'"
        for name, other in zip(own, served, strict=True)
        if name != other
    )


def _require_numbers(model):
    """Refuses vocabulary tables, and weights that are not finite."""
    for _, layer in every_layer(model):
        if getattr(layer, "lookup_table", None) is not None:
            raise ValueError(
                f"Layer '{layer.name}' ({type(layer).__name__}) keeps a table of its "
                "vocabulary, which is not exported yet. Look the words up before the "
                "model, and export the part that takes numbers."
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
        call: Runs the model as it will be served; `None` for `prepared.call`.
        trackables: Objects that the SavedModel has to hold; `None` for the model's
            variables.
    """
    call, call_given = call or prepared.call, prepared.call_given
    if trackables is None:
        trackables = [variable.value for variable in prepared.model.variables]
    # The model's name is not used, because it need not be an identifier.
    module = tf.Module()
    function = concrete(call, prepared.signature)
    held = {id(part) for part in trackables}
    # Keras does not count the state of recurrent layers, and of random numbers without
    # their own generator, among a model's variables.
    states = [
        variable for variable in function.graph.variables if id(variable) not in held
    ]
    module.weights = [*trackables, *states]

    def predict(inputs):
        inputs = {name: tf.constant(inputs[name]) for name in prepared.signature}
        with kept([*prepared.state, *states]):
            return {name: value.numpy() for name, value in call_given(inputs).items()}

    return Serving(module, function, prepared.signature, predict, notes=prepared.notes)


def concrete(call: Callable[[dict], dict], signature: dict[str, tf.TensorSpec]) -> Any:
    """Makes a concrete function of named inputs from a function of a dict."""

    def serve(**inputs):
        return call(inputs)

    return tf.function(serve, autograph=False).get_concrete_function(**signature)


def _served_names(layers):
    """Unique names of layers that TensorFlow allows."""
    names: list[str] = []
    for layer in layers:
        name = "".join(c if c.isascii() and c.isalnum() else "_" for c in layer)
        # They become parameters of a Python function, even of a method.
        if not name[0].isalpha() or name == "self" or keyword.iskeyword(name):
            name = f"arg_{name}"
        number = itertools.count(1)
        unique = name
        while unique in names:
            unique = f"{name}_{next(number)}"
        names.append(unique)
    return names
