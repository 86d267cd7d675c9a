"""The graph of a Functional or Sequential model, with nested models inlined.

Built on the public `keras.models.clone_model`, which visits every call of a graph in an
order in which they can run. Nothing is copied: it "clones" each operation itself, and
calls a stand-in that only has the shape of the result.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import keras

from tfticket.keras_models.kernels import prunable_weights
from tfticket.keras_models.masked_layer import MaskedLayer, carrier
from tfticket.keras_models.names import holds_masked, is_graph


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or of an operation between layers.

    Args:
        operation: The called operation; several calls have the same one if it is
            shared.
        inputs: Numbers of the input values, in the order of its arguments.
        outputs: Numbers of the output values.
        in_shapes: Shapes of the inputs, batch first.
        out_shapes: Shapes of the outputs.
        arguments: Its positional and keyword arguments, with a `keras.KerasTensor` in
            place of each input.
        within: Joined names of the nested models around it; "" at the top.
    """

    operation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    in_shapes: tuple[tuple, ...]
    out_shapes: tuple[tuple, ...]
    arguments: tuple[tuple, dict[str, Any]]
    within: str

    def with_values(self, values: dict[int, Any]) -> tuple[tuple, dict[str, Any]]:
        """The arguments, with the given values in place of the tensors."""
        tensors = _tensors(self.arguments)
        number = {id(x): i for x, i in zip(tensors, self.inputs, strict=True)}
        return keras.tree.map_structure(
            lambda x: values[number[id(x)]] if _is_tensor(x) else x, self.arguments
        )

    def takes_only_tensors(self) -> bool:
        """Whether only tensors decide what the call computes in inference."""
        return _only_tensors(*self.arguments)


@dataclasses.dataclass(eq=False)
class FlatGraph:
    """The calls of a model in an order in which they can run.

    The calls inside a nested model replace the call of that model. It stays one call if
    its layers alone would compute something else: if it is called with a mask or with
    `training=True`, if it casts its inputs or changes their rank, or if several outputs
    of the model come from it and have its name.

    Args:
        model: A built Sequential or Functional model. It is not changed.
        shapes: Shape of every value, by its number.
        inputs: Numbers of the values that are the model's inputs.
        outputs: Numbers of the values that are its outputs.
        calls: The calls, in order.
        input_layers: The layers that the inputs come from, in the same order.
        output_names: Names that Keras gives to the outputs, from the layers that they
            come from.

    Example:

    >>> inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    >>> model = keras.Sequential([keras.Input((3,)), inner, keras.layers.ReLU()])
    >>> [type(call.operation).__name__ for call in FlatGraph(model).calls]
    ['Dense', 'ReLU']
    """

    model: keras.Model
    shapes: list[tuple] = dataclasses.field(init=False)
    inputs: list[int] = dataclasses.field(init=False)
    outputs: list[int] = dataclasses.field(init=False)
    calls: list[Call] = dataclasses.field(init=False)
    input_layers: list[keras.layers.InputLayer] = dataclasses.field(init=False)
    output_names: list[str] = dataclasses.field(init=False)

    def __post_init__(self):
        self.shapes, self.calls = [], []
        graph = _functional(self.model)
        self.input_layers = _input_layers(graph)
        self.output_names = list(graph.output_names)
        self.inputs = [self._new_value(tensor) for tensor in graph.inputs]
        self.outputs = self._add(graph, graph.inputs, self.inputs, "")

    def readers(self) -> dict[int, list[Call | None]]:
        """The calls that read each value, once each, and `None` for every output."""
        found: dict[int, list[Call | None]] = {}
        for call in self.calls:
            for number in set(call.inputs):
                found.setdefault(number, []).append(call)
        for number in self.outputs:
            found.setdefault(number, []).append(None)
        return found

    def _new_value(self, tensor):
        self.shapes.append(tuple(tensor.shape))
        return len(self.shapes) - 1

    def _add(self, graph, tensors, numbers, within):
        """Adds the calls of a Functional model; returns the numbers of its outputs.

        `tensors` and `numbers` belong to its input values.
        """
        # Names are given, or Keras would advance the counters for the user's layers.
        inputs = [
            keras.Input(
                batch_shape=x.shape, dtype=x.dtype, sparse=x.sparse, name=f"in{i}"
            )
            for i, x in enumerate(tensors)
        ]
        known = {id(x): number for x, number in zip(inputs, numbers, strict=True)}

        def visit(operation, *args, **kwargs):
            taken = _tensors((args, kwargs))
            values = tuple(known[id(x)] for x in taken)
            if self._can_be_inlined(operation, args, kwargs, within):
                name = f"{within}_{operation.name}" if within else operation.name
                made = self._add(_functional(operation), taken, values, name)
                results = [
                    keras.KerasTensor(self.shapes[number], output.dtype)
                    for number, output in zip(made, operation.outputs, strict=True)
                ]
            else:
                results = _results(operation, args, kwargs)
                made = tuple(self._new_value(x) for x in results)
                self._note(operation, values, made, (args, kwargs), within)
            stand_in = _StandIn(results, f"call{len(known)}")
            results = keras.tree.flatten(stand_in(*taken))
            known.update(
                (id(x), number) for x, number in zip(results, made, strict=True)
            )
            return results

        clone = keras.models.clone_model(
            graph,
            input_tensors=inputs,
            clone_function=lambda operation: operation,
            call_function=visit,
        )
        return [known[id(x)] for x in clone.outputs]

    def _note(self, operation, taken, made, arguments, within):
        shapes = [tuple(self.shapes[i] for i in numbers) for numbers in (taken, made)]
        self.calls.append(Call(operation, taken, made, *shapes, arguments, within))

    def _can_be_inlined(self, model, args, kwargs, within):
        if not _has_graph(model) or not _only_tensors(args, kwargs):
            return False
        # A custom class may do more than its graph says.
        graph = type(_functional(model))
        if type(model).call not in (graph.call, keras.Sequential.call):
            return False
        # Two outputs of one nested model share its name, which only it can give them.
        if not within and self.output_names.count(model.name) > 1:
            return False
        # A model casts its inputs and adds or drops a last axis of length 1; its layers
        # alone would not.
        taken = _tensors((args, kwargs))
        return [_kind(x) for x in model.inputs] == [_kind(x) for x in taken]


class _StandIn(keras.Operation):
    """An operation that takes any tensors and returns tensors like the given ones."""

    def __init__(self, results, name):
        super().__init__(name=name)
        self._results = results

    def compute_output_spec(self, *tensors):
        return [keras.KerasTensor(x.shape, x.dtype, x.sparse) for x in self._results]

    def call(self, *tensors):
        raise NotImplementedError("it stands in for a call, and computes nothing")


class Traced(keras.Operation):
    """A layer or a function of tensors that Keras runs on shapes alone.

    Args:
        function: The layer or function.
    """

    def __init__(self, function: Any):
        super().__init__(name="traced")
        self.call = function


def _results(operation, args, kwargs):
    """The outputs of a call, as a flat list of tensors without values."""
    casts_weights = (
        isinstance(operation, keras.layers.Layer)
        and operation.compute_dtype != operation.variable_dtype
        and not type(operation).__module__.startswith("keras.")
    )
    # Only a call of the whole layer casts its weights, which decides the output dtype
    # of a custom layer in mixed precision; Keras's layers know theirs.
    source = Traced(operation) if casts_weights else operation
    return keras.tree.flatten(source.compute_output_spec(*args, **kwargs))


def _functional(model):
    """A Functional model of the same graph, for a model of any class."""
    return keras.Model(model.inputs, model.outputs, name=model.name)


def input_layers(model: keras.Model) -> list[keras.layers.InputLayer]:
    """The layers that a model's inputs come from, in the order of the inputs.

    Args:
        model: A built Sequential or Functional model.
    """
    return _input_layers(_functional(model))


def _input_layers(graph):
    layers = [x for x in graph.layers if isinstance(x, keras.layers.InputLayer)]
    by_tensor = {id(layer.output): layer for layer in layers}
    return [by_tensor[id(tensor)] for tensor in graph.inputs]


def output_names(model: keras.Model) -> list[str]:
    """Names that Keras gives to a model's outputs, from their layers.

    Args:
        model: A built Sequential or Functional model.
    """
    return list(_functional(model).output_names)


def input_structure(model: keras.Model) -> Any:
    """A model's symbolic inputs in their original structure: a tensor, list or dict.

    Args:
        model: A built Sequential or Functional model.
    """
    return model.inputs[0] if isinstance(model, keras.Sequential) else model.input


def output_structure(model: keras.Model) -> Any:
    """A model's symbolic outputs in their original structure: a tensor, list or dict.

    Args:
        model: A built Sequential or Functional model.
    """
    return model.outputs[0] if isinstance(model, keras.Sequential) else model.output


def assemble(graph: FlatGraph, tensors: dict[int, Any]) -> keras.Model:
    """Makes a model of new calls with another model's structure of inputs and outputs.

    If a layer with another name makes an output, an `Identity` with the right name
    follows it. The class is the model's, if Keras can make that class from tensors.

    Args:
        graph: The graph of the model that provides the structure.
        tensors: Tensors by the number of the graph's value, for all inputs and outputs.
    """
    made = keras.Model(
        [tensors[i] for i in graph.inputs], [tensors[i] for i in graph.outputs]
    )
    outputs = [
        tensors[i] if found == name else _named(tensors[i], name)
        for i, found, name in zip(
            graph.outputs, made.output_names, graph.output_names, strict=True
        )
    ]
    kind = type(graph.model)
    own = next(x for x in kind.__mro__ if "__init__" in vars(x))
    if isinstance(graph.model, keras.Sequential) or not own.__module__.startswith(
        "keras."
    ):
        kind = keras.Model
    return kind(
        keras.tree.pack_sequence_as(
            input_structure(graph.model), [tensors[i] for i in graph.inputs]
        ),
        keras.tree.pack_sequence_as(output_structure(graph.model), outputs),
        name=graph.model.name,
    )


def _named(tensor, name):
    """The same values from a layer with that name."""
    dtype = tensor.dtype if keras.backend.is_float_dtype(tensor.dtype) else None
    return keras.layers.Identity(name=name, dtype=dtype)(tensor)


def last_operations(model: keras.Model, counts: Callable[[Any], bool]) -> list[Any]:
    """The counted operations that have no other between them and an output.

    Args:
        model: A built Sequential or Functional model. Nested models count as part of
            it.
        counts: Function that says whether an operation counts.

    Returns:
        Each such operation once. If kernels count, this is the classifier of a usual
        network, and one layer per head of a network with several heads.

    Example:

    >>> layers = [keras.layers.Dense(2, name=name) for name in ("hidden", "out")]
    >>> model = keras.Sequential([keras.Input((3,)), *layers, keras.layers.ReLU()])
    >>> [layer.name for layer in last_operations(model, lambda x: x in layers)]
    ['out']
    """
    graph = FlatGraph(model)
    makers = {number: call for call in graph.calls for number in call.outputs}
    found: dict[int, Any] = {}
    to_visit, seen = list(graph.outputs)[::-1], set()
    while to_visit:
        number = to_visit.pop()
        if number in seen or number not in makers:
            continue
        seen.add(number)
        call = makers[number]
        # A nested model that could not be inlined has its own last operations.
        last = []
        if _has_graph(call.operation):
            last = last_operations(call.operation, counts)
        if not last and counts(call.operation):
            last = [call.operation]
        found.update((id(operation), operation) for operation in last)
        if not last:
            to_visit.extend(call.inputs[::-1])
    return list(found.values())


def output_layers(model: keras.Model) -> list[MaskedLayer]:
    """The wrapped layers that have no layer with a kernel between them and an output.

    If a layer made of others comes last and hides which of them is last, or if the last
    one is not wrapped, there is none.

    Args:
        model: A wrapped Sequential or Functional model. Nested models count as
            part of it.

    Returns:
        Each such layer once: the classifier of a usual network, or one layer per head
        of a network with several outputs.
    """

    def counts(operation):
        # A layer with a kernel that is excluded from pruning is still an output layer.
        return isinstance(operation, keras.layers.Layer) and (
            carrier(operation) is not None
            or holds_masked(operation)
            or bool(prunable_weights(operation))
        )

    return [
        layer
        for layer in map(carrier, last_operations(model, counts))
        if layer is not None
        and not layer.chooses_masks
        # If a model is wrapped as a whole, it is unknown which layer is the last.
        and not isinstance(layer.inner_layer(), keras.Model)
    ]


def _has_graph(operation):
    # A Sequential model that was never called on a single tensor has none.
    return is_graph(operation) and hasattr(operation, "outputs")


def _kind(tensor):
    return tensor.dtype, len(tensor.shape)


def _is_tensor(value):
    return isinstance(value, keras.KerasTensor)


def _tensors(arguments):
    return [x for x in keras.tree.flatten(arguments) if _is_tensor(x)]


def _only_tensors(args, kwargs):
    # `training=False` is what we do anyway. A mask is among the arguments of all that
    # can see it, nested models included.
    others = {k: v for k, v in kwargs.items() if k not in ("training", "mask")}
    leaves = keras.tree.flatten((args, others))
    return (
        all(_is_tensor(leaf) for leaf in leaves)
        and not kwargs.get("training")
        and all(x is None for x in keras.tree.flatten(kwargs.get("mask")))
    )
