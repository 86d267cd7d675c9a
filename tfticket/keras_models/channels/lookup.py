"""Rules of embeddings, including those that project back."""

import keras
import numpy as np

from tfticket.keras_models.channels.rule import Channels, Member, Rule, numbers

layers = keras.layers


class Embedding(Rule):
    """A table whose columns are the channels; its inputs are row numbers."""

    any_width = True
    any_axis = True

    def refuses(self, node):
        names = {x.name for x in node.layer.weights}
        if names - {"embeddings", "reverse_embeddings"}:
            return f"has the weights {sorted(names)}"
        return None

    def outputs(self, node, labels):
        labels.pin(node.inputs[0].labels, "numbers of rows")
        return [Channels(labels.fresh(node.layer.output_dim, node.layer.name))]

    def members(self, node):
        table = node.layer.embeddings
        return [Member(table, 1, node.outputs[0].labels)]

    def constants(self, node, given):
        table = numbers(node.layer.embeddings)
        same = (table == table[:1]).all(0)
        return [np.where(same, table[0], np.nan)]

    def needed(self, node, needed, given):
        return [np.ones(len(given[0]), bool)]

    def config(self, node, inputs, outputs):
        return {"output_dim": outputs[0]}


class ReversibleEmbedding(Embedding):
    """A table of rows that also projects channels to scores of its rows."""

    any_arguments = True
    any_axis = False

    def _reverse(self, node):
        return node.kwargs.get("reverse", (*node.args, False)[1])

    def outputs(self, node, labels):
        if not self._reverse(node):
            return super().outputs(node, labels)
        made = labels.fresh(node.layer.input_dim, node.layer.name)
        labels.pin(made, "scores of all rows")
        return [Channels(made)]

    def members(self, node):
        layer = node.layer
        if not self._reverse(node):
            members = super().members(node)
            if not layer.tie_weights:
                columns = members[0].labels
                members.append(Member(layer.reverse_embeddings, 0, columns))
            return members
        given = node.inputs[0].labels
        if layer.tie_weights:
            return [Member(layer.embeddings, 1, given, reads=0)]
        return [
            Member(layer.reverse_embeddings, 0, given, reads=0),
            Member(layer.embeddings, 1, given),
        ]

    def constants(self, node, given):
        if self._reverse(node):
            return [np.full(len(node.outputs[0]), np.nan)]
        return super().constants(node, given)

    def needed(self, node, needed, given):
        if self._reverse(node):
            return [np.ones(len(given[0]), bool) & self._reads(node)]
        return super().needed(node, needed, given)

    def _reads(self, node):
        layer = node.layer
        if layer.tie_weights:
            return (numbers(layer.embeddings) != 0).any(0)
        return (numbers(layer.reverse_embeddings) != 0).any(1)

    def config(self, node, inputs, outputs):
        of = inputs if self._reverse(node) else outputs
        return {"output_dim": of[0]}


LOOKUP = {layers.Embedding: Embedding()}
if hasattr(layers, "ReversibleEmbedding"):
    LOOKUP[layers.ReversibleEmbedding] = ReversibleEmbedding()
