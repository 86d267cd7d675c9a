"""How the layers of a Functional or Sequential model hang together."""

import keras

from tfticket.model_masks import holds_wrapped
from tfticket.paths import is_graph
from tfticket.prunable import prunable_weights
from tfticket.wrappers import Prune


def output_layers(model: keras.Model) -> list[Prune]:
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
        if isinstance(layer, Prune):
            # Of a model that is wrapped whole, nobody knows which layer is the last.
            if not isinstance(layer.layer, keras.Model):
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
            holds_wrapped(layer) or prunable_weights(layer)
        ):
            return
        for source in layer._inbound_nodes[node_index].input_tensors:
            walk(source)

    for output in keras.tree.flatten(model.outputs):
        walk(output)
    return list(found.values())
