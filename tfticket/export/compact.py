"""`compact`: a smaller dense model that computes the same."""

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
        before: Channels or units there were.
        after: Those there are.
    """

    layer: str
    axis: str
    before: int
    after: int


@dataclasses.dataclass(frozen=True)
class CompactLayer:
    """One layer with weights, before and after.

    Args:
        name: Its name.
        kind: Its class.
        inputs: Input channels before and after.
        outputs: Output channels before and after.
        parameters: Number of weights before and after.
        left: Why it and what it is connected to kept their size, "" if nothing
            stood in the way.
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
        flops_before: Operations of a sample, two for each weight of a kernel and place
            where it is used, and the products inside attention; `None` if it is not
            known how often a kernel is used.
        flops_after: FLOPs of the smaller model.
        unread: Input name to the number of its features, or channels, that nothing
            reads. They stay, since the model's inputs do.
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
            f"input '{name}': {count:,} features are read by nothing, and stay"
            for name, count in self.unread.items()
        ]
        lines += [f"'{x.name}' {x.left}: left alone" for x in self.layers if x.left]
        lines += [self.note] if self.note else []
        return "\n".join(line.rstrip() for line in lines)


def compact(model: keras.Model, optimizer: bool = False) -> Compacted:
    """Removes units and channels that provably do nothing; outputs stay the same.

    Removed are units with no way in, which are constant (the constant goes into the
    next bias; a layer without one gets it), and units with no way out, as far as the
    rules of `tfticket.keras_models.channels` reach: convolutions, also depthwise and
    grouped ones, Dense and EinsumDense, normalizations, attention and its heads,
    recurrent layers, embeddings, element-wise layers and operations, pooling, padding,
    reshaping, slicing, sums, products and concatenations. Units that are tied, by a sum
    or by two calls of a shared layer, go if none is needed. What `channel_groups` names
    as one unit and is zero in all weights goes.

    A constant that zeros of a padded border would break into stays. A layer all of
    whose units are dead keeps one. Layers without a rule are left alone, with the sizes
    of what they take and make; the result names them and says why.

    LayerNormalization counts channels that are zero. So that its mean and variance stay
    what they are, the smaller layer gets as many zeros as channels were removed, by a
    padding before it that a slice after it takes away.

    Inputs keep their shape. Where nothing reads a feature, the first kernel keeps the
    row of zeros: a gather before it would cost a pass of its own.

    The same outputs are those of inference. In training, BatchNormalization would see
    other batches' statistics than those that were folded into biases.

    Args:
        model: A built Sequential or Functional model. A wrapped or popup one is
            stripped first; the original stays as it is.
        optimizer: Whether the smaller model is compiled like `model`, with the state of
            its optimizer: the number of steps and, cut like the weights, momentum and
            whatever else is kept weight by weight. Training then goes on as it would
            have with zeros. Off, the smaller model is not compiled.

    Returns:
        `Compacted`: the smaller plain model, and what was removed. A Functional model
        of a class of its own keeps its class, unless that has an `__init__` of its own.

    Raises:
        TypeError: If `model` is not a Keras 3 model, or is subclassed.
        ValueError: If it is not built, a weight is NaN or infinite, or `optimizer` is
            on and the model has none that was trained, or one that keeps sums of whole
            rows and columns (Adafactor).

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
        "__init__ of its own, which would make the sizes of before"
    )


def _has_masks(model):
    return isinstance(model, MaskedModel) or any(
        carrier(layer) is not None for _, layer in every_layer(model)
    )


def _flops(graph):
    """Operations of a sample; None if it is not known how often a kernel is used."""
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
    """Whether all it takes are channels of the model's inputs, which stay anyway."""
    pins = live.traced.pins
    taken = {label for of in node.inputs for label in of.labels.tolist()}
    return {pins.get(label) for label in taken} == {"an input of the model"}


def _sizes(live, channels):
    """Channels there were and are."""
    if channels is None:
        return 0, 0
    return len(channels), int(live.stays[channels.labels].sum())


def _left(node, live):
    """Why a call keeps channels that do nothing, "" if nothing is known to."""
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
