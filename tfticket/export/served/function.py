"""The function that an export serves: named inputs to named outputs."""

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
        call: Runs it on a dict of tensors by input name; gives a dict of outputs.
        call_given: The same of the model that was given, for comparison.
        signature: Input name to `tf.TensorSpec`.
        outputs: Names of the outputs, in the model's order.
        notes: What was done to the model that was given.
        state: Variables of the model that was given that a call may change.
    """

    model: keras.Model
    call: Callable[[dict], dict]
    call_given: Callable[[dict], dict]
    signature: dict[str, tf.TensorSpec]
    outputs: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    state: tuple[Any, ...] = ()

    def predict(self, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Outputs of the model that was given, on any backend; its state stays.

        Args:
            inputs: Arrays by input name.
        """
        with kept(self.state):
            found = self.call_given(inputs)
            return {k: keras.ops.convert_to_numpy(value) for k, value in found.items()}

    def state_lost(
        self, inputs: dict[str, np.ndarray], deterministic: bool
    ) -> tuple[str, ...]:
        """A note where the model keeps a state, for files that keep none.

        Args:
            inputs: Arrays by input name.
            deterministic: Whether that is an error.

        Raises:
            ExportError: If it is, and a call changes a variable.
        """
        with kept(self.state) as changed:
            self.call_given(inputs)
        if not changed:
            return ()
        if not deterministic:
            return ("the model keeps a state between calls, and the file does not",)
        raise ExportError(
            f"Model '{self.model.name}' keeps a state between calls in inference, "
            "which the file does not. Take the layer out that does (stateful=True), or "
            "pass deterministic=False if every call is to begin from the state of now. "
            "Nothing was kept."
        )


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
    come from, with "_" for what TensorFlow takes in no name ("my-input") and "arg_"
    before what it takes alone for something else ("class", "2nd"). Notes say which.

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
        tuple(_state(given)),
    )


def _state(model):
    """Variables that a call in inference may change, in whatever way."""
    yield from (variable for variable in model.variables if not variable.trainable)
    for _, layer in every_layer(model):
        if getattr(layer, "stateful", False) is True:
            yield from keras.tree.flatten(getattr(layer, "states", None) or ())


@contextlib.contextmanager
def kept(variables: Sequence) -> Iterator[list]:
    """A context after which variables have the values from before.

    Its list has those that were changed, when it ends.

    Args:
        variables: Keras's or TensorFlow's.
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
    """A note for each name that TensorFlow does not take."""
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
    function = concrete(call, prepared.signature)
    held = {id(part) for part in trackables}
    # State that Keras does not count to a model's variables: that of recurrent layers,
    # and of random numbers without a generator of their own.
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
    """The concrete function from named inputs of a function of a dict."""

    def serve(**inputs):
        return call(inputs)

    return tf.function(serve, autograph=False).get_concrete_function(**signature)


def _served_names(layers):
    """Names of layers as TensorFlow spells them, each its own."""
    names: list[str] = []
    for layer in layers:
        name = "".join(c if c.isascii() and c.isalnum() else "_" for c in layer)
        # They are parameters of a Python function on the way, a method's even.
        if not name[0].isalpha() or name == "self" or keyword.iskeyword(name):
            name = f"arg_{name}"
        number = itertools.count(1)
        unique = name
        while unique in names:
            unique = f"{name}_{next(number)}"
        names.append(unique)
    return names
