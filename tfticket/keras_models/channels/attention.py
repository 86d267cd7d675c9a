"""Rules of attention: the width, the heads, and each head's keys and values.

A head is a separate kind of unit. Removing some of a head's key channels changes the
scale of the products, which the smaller layer derives from its size; the query
compensates for it.
"""

import keras
import numpy as np

from tfticket.keras_models.calls import attention_flops
from tfticket.keras_models.channels.rule import (
    Channels,
    Member,
    Product,
    Resized,
    Rule,
    cut,
    numbers,
)
from tfticket.keras_models.names import weights_by_path

layers = keras.layers

_PARTS = ("query", "key", "value", "gate", "output")
_NAMES = ("kernel", "bias")


class MultiHeadAttention(Rule):
    """Keras's layer: q, k and v of each head, the output, heads, and a gate if any.

    Args:
        grouped: Whether several query heads share one head of keys and values.
    """

    any_arguments = True

    def __init__(self, grouped=False):
        self._grouped = grouped

    def refuses(self, node):
        known = {f"{part}_dense/{name}" for part in _PARTS for name in _NAMES}
        if others := set(weights_by_path(node.layer)) - known:
            return f"has the weights {sorted(others)}"
        weights = self._weights(node)
        if len(weights["output_dense/kernel"].shape) != 3:
            return "has outputs of several axes"
        if len(node.inputs) not in (2, 3):
            return "is called with tensors other than query, value and key"
        return None

    def _weights(self, node):
        return weights_by_path(node.layer)

    def outputs(self, node, labels):
        weights, layer = self._weights(node), node.layer
        name = layer.name
        _, heads, dims = weights["key_dense/kernel"].shape
        node.own["heads"] = labels.fresh(heads, name, "heads")
        node.own["compared"] = node.own["passed"] = labels.fresh(dims, name, "key_dim")
        if not self._grouped:
            size = weights["value_dense/kernel"].shape[2]
            node.own["passed"] = labels.fresh(size, name, "value_dim")
        made = [Channels(labels.fresh(weights["output_dense/kernel"].shape[2], name))]
        for shape in node.out_shapes[1:]:
            size = shape[-1] if isinstance(shape[-1], int) else 1
            made.append(Channels(labels.fresh(size)))
            labels.pin(made[-1].labels, "positions")
            labels.pin(node.own["heads"], f"'{name}' returns the scores of each")
        return made

    def members(self, node):
        heads, compared, passed = (node.own[x] for x in ("heads", "compared", "passed"))
        weights = self._weights(node)
        repeats = weights["query_dense/kernel"].shape[1] // len(heads)
        of_query = np.repeat(heads, repeats)
        given = dict(zip(("query", "value", "key"), node.inputs, strict=False))
        numbers_of = {"query": 0, "value": 1, "key": len(node.inputs) - 1, "gate": 0}
        given.setdefault("key", given["value"])
        given["gate"] = given["query"]
        made = node.outputs[0].labels
        sides = {
            "query": (of_query, compared),
            "key": (heads, compared),
            "value": (heads, passed),
            "gate": (of_query, passed),
        }
        members = []
        for part, (rows, dims) in sides.items():
            for name in _NAMES:
                if (weight := weights.get(f"{part}_dense/{name}")) is None:
                    continue
                if name == "kernel":
                    number = numbers_of[part]
                    members.append(Member(weight, 0, given[part].labels, number))
                first = len(weight.shape) - 2
                members.append(Member(weight, first, rows))
                members.append(Member(weight, first + 1, dims))
        kernel = weights["output_dense/kernel"]
        members += [
            Member(kernel, 0, of_query),
            Member(kernel, 1, passed),
            Member(kernel, 2, made),
        ]
        if (bias := weights.get("output_dense/bias")) is not None:
            members.append(Member(bias, 0, made))
        return members

    def constants(self, node, given):
        weights = self._weights(node)
        nonzero = (numbers(weights["output_dense/kernel"]) != 0).any((0, 1))
        bias = weights.get("output_dense/bias")
        made = np.where(nonzero, np.nan, 0.0 if bias is None else numbers(bias))
        return [made, *(np.full(len(x), np.nan) for x in node.outputs[1:])]

    def products(self, node):
        by = {(id(x.variable), x.axis): x.labels for x in node.members}
        weights = self._weights(node)
        query, value = weights["query_dense/kernel"], weights["value_dense/kernel"]
        heads = by[id(query), 1]
        compared, passed = by[id(query), 2], by[id(value), 2]
        count = _places(node, len(heads) * (len(compared) + len(passed)))
        return [Product(count, (heads, compared)), Product(count, (heads, passed))]

    def resized(self, node, kept):
        weights = cut(node, kept)
        if not weights:
            return Resized()
        shapes = {
            name: np.shape(weights.get(name, weight))
            for name, weight in self._weights(node).items()
        }
        _, heads, dims = shapes["query_dense/kernel"]
        before = self._weights(node)["query_dense/kernel"].shape[2]
        if dims != before:
            # Scores are divided by the square root of the size.
            for name in ("query_dense/kernel", "query_dense/bias"):
                if name in shapes:
                    value = weights.get(name)
                    if value is None:
                        weight = self._weights(node)[name]
                        value = keras.ops.convert_to_numpy(weight)
                    factor = np.sqrt(dims / before)
                    weights[name] = (value * factor).astype(value.dtype)
        return Resized(self._config(node, heads, dims, shapes), weights)

    def _config(self, node, heads, dims, shapes):
        width = shapes["output_dense/kernel"][2]
        if self._grouped:
            own = shapes["key_dense/kernel"][1]
            return {
                "head_dim": dims,
                "num_query_heads": heads,
                "num_key_value_heads": own,
            }
        config = {
            "num_heads": heads,
            "key_dim": dims,
            "value_dim": shapes["value_dense/kernel"][2],
        }
        if width != shapes["query_dense/kernel"][0] or node.layer.get_config().get(
            "output_shape"
        ):
            config["output_shape"] = [width]
        return config


def _places(node, size):
    """Pairs of positions whose products an attention layer computes."""
    shapes = [(1, *shape[1:]) for shape in node.in_shapes]
    if any(None in shape for shape in shapes):
        return None
    return attention_flops(node.layer, *shapes) // (2 * size)


class GroupedQueryAttention(MultiHeadAttention):
    """Groups of query heads that share a head of keys and values; a group is a unit.

    The output is as wide as the query.
    """

    def __init__(self):
        super().__init__(grouped=True)

    def outputs(self, node, labels):
        made = super().outputs(node, labels)
        # The layer has no separate size for its output.
        labels.tie(made[0].labels, node.inputs[0].labels)
        return made


class Attention(Rule):
    """Attention without projections; channels that are compared are tied."""

    any_arguments = True
    # A compared channel that is zero must be zero, or be removed, on both sides.
    counts_channels = True

    def refuses(self, node):
        if len(node.inputs) not in (2, 3):
            return "is called with tensors other than query, value and key"
        if {x.name for x in node.layer.weights} - {"scale", "concat_score_weight"}:
            return "has weights other than its scale"
        return None

    def outputs(self, node, labels):
        query, value, key = (*node.inputs, node.inputs[1])[:3]
        labels.tie(query.labels, key.labels)
        made = [Channels(value.labels)]
        for shape in node.out_shapes[1:]:
            size = shape[-1] if isinstance(shape[-1], int) else 1
            made.append(Channels(labels.fresh(size)))
            labels.pin(made[-1].labels, "positions")
        return made

    def members(self, node):
        labels = node.inputs[0].labels
        return [
            Member(x, 0, labels)
            for x in node.layer.weights
            if len(x.shape) == 1 and x.name == "scale"
        ]

    def products(self, node):
        query, value = node.inputs[0].labels, node.inputs[1].labels
        count = _places(node, len(query) + len(value))
        return [Product(count, (query,)), Product(count, (value,))]

    def constants(self, node, given):
        # The weights sum to one.
        return [given[1], *(np.full(len(x), np.nan) for x in node.outputs[1:])]

    def needed(self, node, needed, given):
        query, key = given[0], given[len(given) - 1]
        if getattr(node.layer, "score_mode", "") == "dot" and not node.members:
            compared = (query != 0) & (key != 0)
        else:
            compared = (query != 0) | (key != 0)
        for member in node.members:
            compared &= numbers(member.variable) != 0
        compared &= any(x.any() for x in needed)
        if len(given) == 3:
            return [compared, needed[0], compared]
        return [compared, needed[0] | compared]


ATTENTION = {
    layers.MultiHeadAttention: MultiHeadAttention(),
    layers.Attention: Attention(),
    layers.AdditiveAttention: Attention(),
}
if hasattr(layers, "GroupQueryAttention"):
    ATTENTION[layers.GroupQueryAttention] = GroupedQueryAttention()
