"""`compact`: a smaller dense model that computes the same."""

import dataclasses

import keras
import numpy as np

from tfticket.export.compaction.channels import Barrier
from tfticket.export.compaction.liveness import liveness, width
from tfticket.export.compaction.rebuild import rebuild
from tfticket.inspection.costs import summary_rows, total
from tfticket.keras_models.copies import require_graph, require_keras_3
from tfticket.keras_models.graph import FlatGraph
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
        removed: What each layer lost; nothing of layers that are as they were.
        layers: The layers with weights, and those that compact does not know.
        parameters_before: Weights of the stripped model.
        parameters_after: Weights of the smaller one.
        flops_before: Operations of a sample, as `tfticket.summary` counts the dense
            ones; `None` if those of some layer are not known.
        flops_after: The same of the smaller model.
        unread: Input name to the number of its features, or channels, that nothing
            reads. They stay, since the model's inputs do.
    """

    model: keras.Model
    removed: tuple[Removed, ...]
    layers: tuple[CompactLayer, ...]
    parameters_before: int
    parameters_after: int
    flops_before: int | None
    flops_after: int | None
    unread: dict[str, int]

    def __str__(self) -> str:
        rows = [("layer", "kind", "inputs", "outputs", "parameters")]
        rows += [
            (x.name, x.kind, *map(_change, (x.inputs, x.outputs, x.parameters)))
            for x in self.layers
        ]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            "  ".join(cell.ljust(n) for cell, n in zip(row, widths, strict=True))
            for row in rows
        ]
        lines.insert(1, "-" * len(lines[0]))
        lines += [""] if len(self.layers) else []
        parameters = self.parameters_before, self.parameters_after
        flops = self.flops_before, self.flops_after
        lines.append(f"parameters: {_change(parameters)}{_share(*parameters)}")
        if None in flops:
            lines.append("FLOPs: not known of every layer; `tfticket.summary` says why")
        else:
            lines.append(f"FLOPs: {_change(flops)}{_share(*flops)}")
        if not self.removed:
            lines.append("nothing removed: every channel has a way in and a way out")
        lines += [
            f"input '{name}': {count:,} features are read by nothing, and stay"
            for name, count in self.unread.items()
        ]
        lines += [f"'{x.name}' {x.left}: left alone" for x in self.layers if x.left]
        return "\n".join(line.rstrip() for line in lines)


def compact(model: keras.Model) -> Compacted:
    """Removes units and channels that provably do nothing; outputs stay the same.

    Removed are units with no way in, which are constant (the constant goes into the
    next bias; a layer without one gets it), and units with no way out, through Dense,
    convolutions, BatchNormalization, element-wise activations, pooling, padding,
    Flatten, Reshape, Concatenate, Add and their like. A constant that zeros of a
    padded border would break into stays, and so do channels that a sum needs in one
    of its branches. A layer all of whose units are dead keeps one. Grouped
    convolutions, shared layers, channels first, softmax and every layer not known are
    left alone, with the sizes of what they take and make.

    Inputs keep their shape. Where nothing reads a feature, the first kernel keeps the
    row of zeros: a gather before it would cost a pass of its own.

    The same outputs are those of inference. In training, BatchNormalization would see
    other batches' statistics than those that were folded into biases.

    Args:
        model: A built Sequential or Functional model. A wrapped or popup one is
            stripped first; the original stays as it is.

    Returns:
        `Compacted`: the smaller plain model, and what was removed.

    Raises:
        TypeError: If `model` is not a Keras 3 model, or is subclassed.
        ValueError: If it is not built, or a weight is NaN or infinite.

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
    require_graph(model)
    plain = strip(model)
    _require_finite(plain)
    graph = FlatGraph(plain)
    live = liveness(graph)
    smaller, layers = rebuild(graph, live)
    rows = _compare(graph, live, layers)
    return Compacted(
        smaller,
        tuple(_removed(rows)),
        tuple(rows),
        plain.count_params(),
        smaller.count_params(),
        _flops(plain),
        _flops(smaller),
        _unread(graph, live),
    )


def _require_finite(model):
    for weight in model.weights:
        value = keras.ops.convert_to_numpy(weight)
        if value.dtype.kind not in "iub" and not np.all(np.isfinite(value)):
            raise ValueError(
                f"Weight '{weight.path}' has NaN or infinite values, so that nothing "
                "after it is known to be dead. Load weights from before they diverged."
            )


def _compare(graph, live, layers):
    """Rows of the table."""
    rows = {}
    for call, rule, layer in zip(graph.calls, live.rules, layers, strict=True):
        shapes = [(i, graph.shapes[i]) for i in (call.inputs[0], call.outputs[0])]
        kept = [(width(shape), int(live.kept[i].sum())) for i, shape in shapes]
        left = rule.reason if isinstance(rule, Barrier) else ""
        parameters = (0, 0)
        if isinstance(layer, keras.layers.Layer):
            before = call.operation
            parameters = (before.count_params(), layer.count_params())
        if parameters[0] or left:
            rows.setdefault(
                layer.name,
                CompactLayer(layer.name, type(layer).__name__, *kept, parameters, left),
            )
    return list(rows.values())


def _flops(model):
    whole = total(summary_rows(model))
    return None if whole.why_no_flops else whole.flops_dense


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
