"""The graph of a Functional or Sequential model, nested models inlined."""

import dataclasses
from typing import Any

import keras

from tfticket.keras_models.kernels import prunable_weights
from tfticket.keras_models.masked_layer import MaskedLayer
from tfticket.keras_models.names import holds_masked, is_graph


@dataclasses.dataclass(frozen=True, eq=False)
class Call:
    """One call of a layer or of an operation between layers.

    Args:
        operation: What is called; the same one in several calls if it is shared.
        inputs: Numbers of the values it takes, in the order of its arguments.
        outputs: Numbers of the values it makes.
        in_shapes: Shapes of the inputs, batch first.
        out_shapes: Shapes of the outputs.
        arguments: Keras's record of the arguments, in which the inputs are tensors.
        within: Names of the nested models around it, joined; "" at the top.
    """

    operation: Any
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    in_shapes: tuple[tuple, ...]
    out_shapes: tuple[tuple, ...]
    arguments: Any
    within: str

    def with_values(self, values: dict[int, Any]) -> tuple[tuple, dict]:
        """The arguments, with values by number in place of the tensors."""
        tensors = self.arguments.keras_tensors
        return self.arguments.fill_in(
            {
                id(tensor): values[number]
                for tensor, number in zip(tensors, self.inputs, strict=True)
            }
        )

    def takes_only_tensors(self) -> bool:
        """Whether nothing but tensors decides what it computes in inference."""
        return _only_tensors(self.arguments)


@dataclasses.dataclass(eq=False)
class FlatGraph:
    """The calls of a model in an order in which they can run.

    Args:
        model: The model itself.
        shapes: Shape of every value, by its number.
        inputs: Numbers of the values that are the model's inputs.
        outputs: Numbers of the values that are its outputs.
        calls: What happens in between.
    """

    model: keras.Model
    shapes: list[tuple] = dataclasses.field(init=False)
    inputs: list[int] = dataclasses.field(init=False)
    outputs: list[int] = dataclasses.field(init=False)
    calls: list[Call] = dataclasses.field(init=False)

    def __post_init__(self):
        self.shapes, self.calls = [], []
        graph = functional(self.model)
        self._ends = [tensor._keras_history.operation for tensor in graph.outputs]
        values = {id(tensor): self._value(tensor) for tensor in graph.inputs}
        self.inputs = list(values.values())
        self._add(graph, values, "")
        self.outputs = [values[id(tensor)] for tensor in graph.outputs]

    @property
    def input_layers(self) -> list[keras.layers.InputLayer]:
        return [x._keras_history.operation for x in functional(self.model).inputs]

    @property
    def output_names(self) -> list[str]:
        """Names that Keras gives the outputs: those of the layers they come from."""
        return [operation.name for operation in self._ends]

    def _value(self, tensor):
        self.shapes.append(tuple(tensor.shape))
        return len(self.shapes) - 1

    def _add(self, graph, values, within):
        for depth in sorted(graph._nodes_by_depth, reverse=True):
            for node in graph._nodes_by_depth[depth]:
                if node.is_input:
                    continue
                taken = tuple(values[id(tensor)] for tensor in node.input_tensors)
                made = self._inlined(node, taken, within)
                if made is None:
                    made = tuple(self._value(tensor) for tensor in node.outputs)
                    self.calls.append(
                        Call(
                            node.operation,
                            taken,
                            made,
                            tuple(self.shapes[i] for i in taken),
                            tuple(self.shapes[i] for i in made),
                            node.arguments,
                            within,
                        )
                    )
                for tensor, number in zip(node.outputs, made, strict=True):
                    values[id(tensor)] = number

    def _inlined(self, node, taken, within):
        """The outputs of a nested model whose calls were added; None if it can't be."""
        model = node.operation
        if not is_graph(model) or not _only_tensors(node.arguments):
            return None
        # Two outputs of one nested model share its name, which only it can give them.
        if self._ends.count(model) > 1:
            return None
        graph = functional(model)
        # A model casts its inputs and adds or drops a last axis of one; its layers
        # by themselves would not.
        if [_kind(x) for x in graph.inputs] != [_kind(x) for x in node.input_tensors]:
            return None
        values = dict(zip(map(id, graph.inputs), taken, strict=True))
        self._add(graph, values, f"{within}_{model.name}" if within else model.name)
        return tuple(values[id(tensor)] for tensor in graph.outputs)


def functional(model: keras.Model) -> keras.Model:
    """The model itself, or what a Sequential model keeps its graph in."""
    return model._functional if isinstance(model, keras.Sequential) else model


def _kind(tensor):
    return tensor.dtype, len(tensor.shape)


def _only_tensors(arguments):
    # `training=False` says what is done here anyway. A mask is in the arguments of all
    # that can see it, nested models too.
    others = {
        k: v for k, v in arguments.kwargs.items() if k not in ("training", "mask")
    }
    leaves = keras.tree.flatten((arguments.args, others))
    return (
        all(isinstance(leaf, keras.KerasTensor) for leaf in leaves)
        and not arguments.kwargs.get("training")
        and arguments.kwargs.get("mask") is None
    )


def output_layers(model: keras.Model) -> list[MaskedLayer]:
    """The wrapped layers that have no layer with a kernel between them and an output.

    None where a layer made of others comes last and hides which of them does, or where
    the last one is not wrapped.

    Args:
        model: A wrapped Sequential or Functional model. Nested models count as
            part of it.

    Returns:
        Each such layer once: the classifier of a usual network, one layer a
        head of one with several outputs.
    """
    found = {}
    seen = set()

    def walk(tensor):
        layer, node_index, _ = tensor._keras_history
        if (id(layer), node_index) in seen:
            return
        seen.add((id(layer), node_index))
        if isinstance(layer, MaskedLayer) and not layer.chooses_masks:
            # Of a model that is wrapped whole, nobody knows which layer is the last.
            if not isinstance(layer.inner_layer(), keras.Model):
                found[id(layer)] = layer
            return
        if is_graph(layer):
            # The inputs of the nested model are fed by the node below: going on
            # from there is right only if nothing inside stopped the walk.
            before = len(found)
            for output in keras.tree.flatten(layer.outputs):
                walk(output)
            if len(found) > before:
                return
        elif isinstance(layer, keras.layers.Layer) and (
            # Excluded from pruning, it is an output layer all the same.
            holds_masked(layer) or prunable_weights(layer)
        ):
            return
        for source in layer._inbound_nodes[node_index].input_tensors:
            walk(source)

    for output in keras.tree.flatten(model.outputs):
        walk(output)
    return list(found.values())
