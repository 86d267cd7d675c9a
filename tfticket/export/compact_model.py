"""`compact` makes a smaller dense model that computes the same."""

import dataclasses
import math

import keras
import numpy as np

from tfticket.common.arguments import check_bool
from tfticket.common.columns import aligned
from tfticket.export.compaction.liveness import liveness
from tfticket.export.compaction.optimizer_state import carry_over, require_optimizer
from tfticket.export.compaction.rebuild import rebuild
from tfticket.keras_models.channels.costs import uses
from tfticket.keras_models.channels.rule import Barrier, numbers
from tfticket.keras_models.channels.trace import trace
from tfticket.keras_models.copies import (
    require_built,
    require_finite,
    require_graph,
    require_keras_3,
)
from tfticket.keras_models.graph import FlatGraph
from tfticket.keras_models.masked_layer import MaskedModel, carrier
from tfticket.keras_models.names import every_layer, is_graph
from tfticket.pruning.prune_strip import strip


@dataclasses.dataclass(frozen=True)
class Removed:
    """What a layer lost on one side.

    Args:
        layer: Name of the layer.
        axis: "inputs" or "outputs".
        before: Number of channels or units before.
        after: Number of channels or units after.
    """

    layer: str
    axis: str
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class CompactLayer:
    """One layer with weights, before and after.

    Args:
        name: Name of the layer.
        kind: Class of the layer.
        inputs: Input channels before and after.
        outputs: Output channels before and after.
        parameters: Number of weights before and after.
        left: Why the layer and its neighbours kept their size; "" if nothing prevented
            a smaller one.
    """

    name: str
    kind: str
    inputs: tuple[int, int]
    outputs: tuple[int, int]
    parameters: tuple[int, int]
    left: str = ""


@dataclasses.dataclass(frozen=True)
class Compacted:
    """A smaller model, and what was removed. `str()` is a table, layer by layer.

    Args:
        model: The smaller model.
        removed: What each layer lost; layers that lost nothing are left out.
        layers: The layers with weights, and those without a channel rule.
        parameters_before: Weights of the stripped model.
        parameters_after: Weights of the smaller one.
        flops_before: Operations per sample: two for each use of a kernel's weight, and
            the products inside attention. `None` if it is not known how often a kernel
            is used.
        flops_after: FLOPs of the smaller model.
        unread: Maps the name of an input to the number of its features or channels that
            nothing reads. They stay, because the model's inputs keep their shapes.
        note: Anything else to know about the smaller model; may be "".
    """

    model: keras.Model
    removed: tuple[Removed, ...]
    layers: tuple[CompactLayer, ...]
    parameters_before: int
    parameters_after: int
    flops_before: int | None
    flops_after: int | None
    unread: dict[str, int]
    note: str = ""

    def __str__(self) -> str:
        rows = [("layer", "kind", "inputs", "outputs", "parameters")]
        rows += [
            (x.name, x.kind, *map(_change, (x.inputs, x.outputs, x.parameters)))
            for x in self.layers
        ]
        lines = aligned(rows)
        lines.insert(1, "-" * max(map(len, lines)))
        lines += [""] if len(self.layers) else []
        parameters = self.parameters_before, self.parameters_after
        flops = self.flops_before, self.flops_after
        lines.append(f"parameters: {_change(parameters)}{_share(*parameters)}")
        if None in flops:
            lines.append("FLOPs: not known, since the input's size is not")
        else:
            lines.append(f"FLOPs: {_change(flops)}{_share(*flops)}")
        if not self.removed:
            lines.append("nothing removed: every channel has a way in and a way out")
        lines += [
            f"input '{name}': {count:,} features stay, although nothing reads them"
            for name, count in self.unread.items()
        ]
        lines += [f"'{x.name}' {x.left}: left alone" for x in self.layers if x.left]
        lines += [self.note] if self.note else []
        return "\n".join(line.rstrip() for line in lines)


def compact(model: keras.Model, optimizer: bool = False) -> Compacted:
    """Removes units and channels that provably have no effect on the outputs.

    It removes units that no input reaches, which are constant, and units that reach no
    output. The constant is added to the next bias; a layer without a bias gets one. It
    follows channels as far as the rules of `tfticket.keras_models.channels` reach:
    convolutions (depthwise and grouped ones too), Dense and EinsumDense,
    normalizations, attention and its heads, recurrent layers, embeddings, element-wise
    layers and operations, pooling, padding, reshaping, slicing, sums, products and
    concatenations. If units are tied by a sum or by two calls of a shared layer, it
    removes them only if none is needed. It also removes a unit of `channel_groups`
    whose weights are all zero.

    A constant stays if a padded border of zeros would change it. If all units of a
    layer are dead, the layer keeps one. Layers without a rule keep the sizes of their
    inputs and outputs; the result names them and says why.

    LayerNormalization counts channels that are zero. To keep its mean and variance, a
    padding before the smaller layer adds one zero per removed channel, and a slice
    after it removes them.

    Inputs keep their shape. If nothing reads a feature, the first kernel keeps the row
    of zeros, because a gather before it would cost an extra pass.

    The outputs are the same in inference. In training, BatchNormalization would see
    other batches' statistics than those that were folded into biases.

    Args:
        model: A built Sequential or Functional model. A wrapped or popup model is
            stripped first. The original is not changed.
        optimizer: Whether to compile the smaller model like `model`, with the state of
            its optimizer: the number of steps, and momentum and other slots, which are
            cut like the weights. Training then continues as it would have with zeros.
            If False, the smaller model is not compiled.

    Returns:
        `Compacted`: the smaller plain model, and what was removed. A Functional model
        with a custom class keeps this class unless the class has its own `__init__`.

    Raises:
        TypeError: If `model` is not a Keras 3 model, or is subclassed.
        ValueError: If the model is not built or a weight is NaN or infinite. With
            `optimizer=True`: if the model has no trained optimizer, or one that keeps
            sums of whole rows and columns (Adafactor).

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(3, name="a"),
    ...     keras.layers.Dense(1, name="b")])
    >>> model.layers[0].set_weights([np.array([[1, 0, 2], [3, 0, 4]]), np.ones(3)])
    >>> small = tfticket.export.compact(model)
    >>> [(x.layer, x.axis, x.before, x.after) for x in small.removed]
    [('a', 'outputs', 3, 2), ('b', 'inputs', 3, 2)]
    """
    if not isinstance(model, keras.Model):
        if isinstance(model, keras.layers.Layer):
            raise TypeError(
                f"model must be a keras.Model. Received: {model!r}. Put the layer into "
                "one: keras.Sequential([keras.Input(shape), layer])."
            )
        require_keras_3(model)
    if not is_graph(model):
        require_graph(model)  # which says why
    require_built(model)
    if check_bool("optimizer", optimizer):
        require_optimizer(model)
    plain = strip(model) if _has_masks(model) else model
    require_finite(
        plain,
        ", so that nothing after it is known to be dead. Load weights from before they "
        "diverged.",
    )
    graph = FlatGraph(plain)
    live = liveness(trace(graph))
    smaller, layers = rebuild(graph, live)
    if optimizer:
        carry_over(model, plain, smaller, live, layers)
    rows = _compare(live, layers)
    return Compacted(
        smaller,
        tuple(_removed(rows)),
        tuple(rows),
        plain.count_params(),
        smaller.count_params(),
        _flops(graph),
        _flops(FlatGraph(smaller)),
        _unread(graph, live),
        _note(plain, smaller),
    )


def _note(model, smaller):
    if type(model) in (type(smaller), keras.Sequential):
        return ""
    return (
        f"the smaller model is a plain Functional one: {type(model).__name__} has an "
        "__init__ of its own, which would create layers of the old sizes"
    )


def _has_masks(model):
    return isinstance(model, MaskedModel) or any(
        carrier(layer) is not None for _, layer in every_layer(model)
    )


def _flops(graph):
    """Operations per sample; `None` if it is not known how often a kernel is used."""
    used, others = uses(graph)
    counts = [
        None if count is None else 2 * count * math.prod(weight.shape)
        for weight in graph.model.weights
        for count in [used.get(id(weight), 0)]
    ]
    return None if None in (*counts, others) else sum(counts) + others


def _compare(live, layers):
    """Rows of the table."""
    rows = {}
    for node, layer in zip(live.traced.nodes, layers, strict=True):
        kept = [_sizes(live, x) for x in ((*node.inputs, None)[0], node.outputs[0])]
        parameters = (0, 0)
        if isinstance(layer, keras.layers.Layer):
            parameters = (node.call.operation.count_params(), layer.count_params())
        left = _left(node, live)
        if parameters[0] or (left and not _takes_inputs_only(node, live)):
            rows.setdefault(
                layer.name,
                CompactLayer(layer.name, type(layer).__name__, *kept, parameters, left),
            )
    return list(rows.values())


def _takes_inputs_only(node, live):
    """Whether a call reads only channels of the model's inputs, which stay anyway."""
    pins = live.traced.pins
    taken = {label for of in node.inputs for label in of.labels.tolist()}
    return {pins.get(label) for label in taken} == {"an input of the model"}


def _sizes(live, channels):
    """Number of channels before and after."""
    if channels is None:
        return 0, 0
    return len(channels), int(live.stays[channels.labels].sum())


def _left(node, live):
    """Why a call keeps channels that have no effect; "" if no reason is known."""
    if isinstance(node.rule, Barrier):
        return node.rule.reason
    if not node.members:
        return ""
    kept = live.around(node)
    if node.rule.counts_channels:
        return _left_by_statistics(node, live, kept)
    reads = node.rule.needed(node, kept.needed, kept.constants)
    count = 0
    for number, of, read in zip(node.numbers, node.inputs, reads, strict=True):
        if not of.foreign:
            count += int((read & ~np.isnan(live.constants[number])).sum())
    return (
        f"reads {count:,} channels that are constant, and can't fold" if count else ""
    )


def _left_by_statistics(node, live, kept):
    """Why statistics keep channels whose own weights are zero, "" if they don't."""
    dead = ~np.isin(
        node.inputs[0].labels,
        np.concatenate(
            [
                x.labels[(numbers(x.variable) != 0).any(_others(x))]
                for x in node.members
                if x.zeroed
            ]
            or [node.inputs[0].labels]
        ),
    )
    count = int((dead & np.isnan(kept.constants[0])).sum())
    if not count:
        return ""
    return f"counts {count:,} channels that are not constant, and have no weight in it"


def _others(member):
    return tuple(i for i in range(len(member.variable.shape)) if i != member.axis)


def _removed(rows):
    for row in rows:
        for axis, (before, after) in (("inputs", row.inputs), ("outputs", row.outputs)):
            if after < before:
                yield Removed(row.name, axis, before, after)


def _unread(graph, live):
    counts = {
        layer.name: int((~live.needed[i]).sum())
        for layer, i in zip(graph.input_layers, graph.inputs, strict=True)
    }
    return {name: count for name, count in counts.items() if count}


def _change(pair):
    before, after = pair
    return f"{before:,} -> {after:,}" if before != after else f"{before:,}"


def _share(before, after):
    return f" ({after / before:.1%})" if before and before != after else ""
