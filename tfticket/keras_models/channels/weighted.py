"""Rules of layers that sum over channels: Dense and convolutions."""

import keras
import numpy as np

from tfticket.keras_models.channels.rule import (
    Channels,
    Member,
    Resized,
    Rule,
    applied,
    numbers,
    pads,
)

layers = keras.layers


class Linear(Rule):
    """A kernel over all input channels, a bias, an activation.

    An output is constant if all its weights read constant inputs. A constant input is
    added to the bias, unless zeros at the border prevent that.

    Args:
        size: Name of the number of outputs in the configuration.
        transposed: Whether the kernel has outputs before inputs.
    """

    def __init__(self, size: str = "filters", transposed: bool = False):
        self._size = size
        self._transposed = transposed

    def of(self, layer, rule_of):
        return GROUPED if getattr(layer, "groups", 1) != 1 else self

    def refuses(self, node):
        return _other_weights(node.layer, {"kernel", "bias"})

    def outputs(self, node, labels):
        return [Channels(labels.fresh(node.out_shapes[0][-1], node.layer.name))]

    def members(self, node):
        kernel, made = node.layer.kernel, node.outputs[0].labels
        read = len(kernel.shape) - (1 if self._transposed else 2)
        written = len(kernel.shape) - (2 if self._transposed else 1)
        return [
            Member(kernel, read, node.inputs[0].labels, reads=0),
            Member(kernel, written, made),
            *_bias_member(node.layer, made),
        ]

    def constants(self, node, given):
        kernel = self._kernel(node.layer)
        foldable = self._foldable(node, given[0])
        changing = (kernel != 0).any(0)[~foldable].any(0)
        values = _bias(node.layer, kernel.shape[-1])
        values = values + _folded(kernel, given[0], foldable)
        values = np.where(changing, np.nan, values)
        return [applied(node.layer.activation, values)]

    def needed(self, node, needed, given):
        kernel = self._kernel(node.layer)
        read = (kernel != 0).any(0)[:, needed[0]].any(1)
        return [read & ~self._foldable(node, given[0])]

    def resized(self, node, kept):
        layer, needed = node.layer, kept.needed[0]
        kernel = self._kernel(layer)
        foldable = self._foldable(node, kept.constants[0])
        extra = _folded(kernel, kept.constants[0], foldable)
        extra = np.where(needed, extra, 0.0)
        # A channel that is kept only because of others counts as zero, so its inputs
        # need not exist.
        kernel = np.where(foldable[:, np.newaxis] | ~needed, 0, kernel)
        kernel = kernel[:, kept.inputs[0]][:, :, kept.outputs[0]]
        if self._transposed:
            kernel = kernel.swapaxes(-1, -2)
        shape = layer.kernel.shape
        weights = {"kernel": kernel.reshape(*shape[:-2], *kernel.shape[-2:])}
        config = {self._size: int(kept.outputs[0].sum())}
        _add_bias(layer, config, weights, kept.outputs[0], needed, extra)
        return Resized(config, weights)

    def _kernel(self, layer):
        """The kernel as (window, inputs, outputs)."""
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        kernel = kernel.reshape(-1, *kernel.shape[-2:])
        return kernel.swapaxes(-1, -2) if self._transposed else kernel

    def _foldable(self, node, given):
        layer = node.layer
        if isinstance(layer, layers.Dense) or not (
            self._transposed or pads(layer, node.in_shapes[0])
        ):
            return ~np.isnan(given)
        # A transposed convolution has borders that fewer windows reach.
        return given == 0


class Grouped(Rule):
    """A convolution in groups, each of which reads its own channels.

    Each group keeps the same number of channels: a channel is tied to those at its
    place in the other groups. If each group has one channel, as in a depthwise
    convolution, a group is removed as a whole.
    """

    def refuses(self, node):
        return _other_weights(node.layer, {"kernel", "bias"})

    def outputs(self, node, labels):
        groups, given = node.layer.groups, node.inputs[0]
        size = node.out_shapes[0][-1] // groups
        if len(given) == groups:
            return [Channels(np.repeat(given.labels, size))]
        _tie_rows(given.labels.reshape(groups, -1), labels)
        made = labels.fresh(size, node.layer.name)
        return [Channels(np.tile(made, groups))]

    def members(self, node):
        kernel, made = node.layer.kernel, node.outputs[0].labels
        rank, given = len(kernel.shape), node.inputs[0].labels
        members = [Member(kernel, rank - 1, made), *_bias_member(node.layer, made)]
        if kernel.shape[-2] > 1:
            first = given[: kernel.shape[-2]]
            members.insert(0, Member(kernel, rank - 2, first, reads=0))
        return members

    def constants(self, node, given):
        kernel = keras.ops.convert_to_numpy(node.layer.kernel)
        changing = (kernel != 0).any(tuple(range(kernel.ndim - 1)))
        values = np.where(changing, np.nan, _bias(node.layer, kernel.shape[-1]))
        return [applied(node.layer.activation, values)]

    def needed(self, node, needed, given):
        groups = node.layer.groups
        kernel = keras.ops.convert_to_numpy(node.layer.kernel)
        kernel = (kernel != 0).any(tuple(range(kernel.ndim - 2))) & needed[0]
        # (place in its group, outputs) to (group, place in it)
        return [kernel.reshape(len(kernel), groups, -1).any(2).T.ravel()]

    def config(self, node, inputs, outputs):
        one_each = len(node.inputs[0]) == node.layer.groups
        groups = inputs[0] if one_each else node.layer.groups
        return {"filters": outputs[0], "groups": groups}


def _tie_rows(rows, labels):
    for row in rows[1:]:
        labels.tie(rows[0], row)


class Depthwise(Rule):
    """Each input channel has its own outputs, which are kept or removed with it."""

    def refuses(self, node):
        return _other_weights(node.layer, {"kernel", "bias"})

    def outputs(self, node, labels):
        given = node.inputs[0].labels
        return [Channels(np.repeat(given, node.layer.depth_multiplier))]

    def members(self, node):
        kernel, given = node.layer.kernel, node.inputs[0].labels
        made = node.outputs[0].labels
        return [
            Member(kernel, len(kernel.shape) - 2, given),
            *_bias_member(node.layer, made),
        ]

    def constants(self, node, given):
        layer = node.layer
        values = _of_each_channel(layer, layer.kernel, node.in_shapes[0], given[0])
        return [applied(layer.activation, values + _bias(layer, len(values)))]

    def needed(self, node, needed, given):
        nonzero = _any_weight(node.layer.kernel)
        return [(nonzero & needed[0].reshape(nonzero.shape)).any(1)]


class Separable(Rule):
    """A depthwise convolution and a convolution of window 1 on its output."""

    def refuses(self, node):
        return _other_weights(
            node.layer, {"depthwise_kernel", "pointwise_kernel", "bias"}
        )

    def outputs(self, node, labels):
        return [Channels(labels.fresh(node.out_shapes[0][-1], node.layer.name))]

    def members(self, node):
        layer, given, made = node.layer, node.inputs[0].labels, node.outputs[0].labels
        rank = len(layer.pointwise_kernel.shape)
        between = np.repeat(given, layer.depth_multiplier)
        return [
            Member(layer.depthwise_kernel, rank - 2, given),
            Member(layer.pointwise_kernel, rank - 2, between),
            Member(layer.pointwise_kernel, rank - 1, made),
            *_bias_member(layer, made),
        ]

    def constants(self, node, given):
        layer = node.layer
        between, pointwise = self._parts(node, given[0])
        changing = (pointwise != 0)[0][np.isnan(between)].any(0)
        values = _bias(layer, pointwise.shape[-1])
        values = values + _folded(pointwise, between, ~np.isnan(between))
        return [applied(layer.activation, np.where(changing, np.nan, values))]

    def needed(self, node, needed, given):
        between, pointwise = self._parts(node, given[0])
        read = (pointwise != 0)[0][:, needed[0]].any(1) & np.isnan(between)
        return [read.reshape(len(given[0]), -1).any(1)]

    def resized(self, node, kept):
        layer, needed, kept_out = node.layer, kept.needed[0], kept.outputs[0]
        between, pointwise = self._parts(node, kept.constants[0])
        known = ~np.isnan(between)
        extra = np.where(needed, _folded(pointwise, between, known), 0.0)
        pointwise = np.where(known[:, np.newaxis] | ~needed, 0, pointwise)
        rows = np.repeat(kept.inputs[0], layer.depth_multiplier)
        shape = (*layer.pointwise_kernel.shape[:-2], rows.sum(), kept_out.sum())
        depthwise = keras.ops.convert_to_numpy(layer.depthwise_kernel)
        weights = {
            "depthwise_kernel": depthwise[..., kept.inputs[0], :],
            "pointwise_kernel": pointwise[:, rows][:, :, kept_out].reshape(shape),
        }
        config = {"filters": int(kept_out.sum())}
        _add_bias(layer, config, weights, kept_out, needed, extra)
        return Resized(config, weights)

    def _parts(self, node, given):
        """Constants between the two convolutions, and the second one's kernel."""
        layer = node.layer
        between = _of_each_channel(
            layer, layer.depthwise_kernel, node.in_shapes[0], given
        )
        pointwise = keras.ops.convert_to_numpy(layer.pointwise_kernel)
        return between, pointwise.reshape(1, *pointwise.shape[-2:])


class EinsumDense(Rule):
    """A kernel over the last axis of the input, possibly over more, and a bias.

    The last axis of the output is new. Other new axes, such as heads, are positions.
    """

    def refuses(self, node):
        if reason := _other_weights(node.layer, {"kernel", "bias"}):
            return reason
        inputs, kernel, outputs = self._terms(node.layer)
        if any(len(set(x)) < len(x) for x in (inputs, kernel, outputs)):
            return "has an equation with one axis twice"
        if inputs[-1] not in kernel or inputs[-1] in outputs:
            return "does not sum over the last axis"
        if outputs[-1] not in kernel or outputs[-1] in inputs:
            return "has no new last axis in its output"
        bias = getattr(node.layer, "bias", None)
        if bias is not None and bias.shape[-1] not in (1, node.out_shapes[0][-1]):
            return "has a bias on another axis"
        return None

    def _terms(self, layer):
        inputs, rest = layer.equation.replace(" ", "").split(",")
        return (inputs, *rest.split("->"))

    def outputs(self, node, labels):
        return [Channels(labels.fresh(node.out_shapes[0][-1], node.layer.name))]

    def members(self, node):
        inputs, kernel, outputs = self._terms(node.layer)
        made = node.outputs[0].labels
        weight = node.layer.kernel
        return [
            Member(weight, kernel.index(inputs[-1]), node.inputs[0].labels, reads=0),
            Member(weight, kernel.index(outputs[-1]), made),
            *_bias_member(node.layer, made),
        ]

    def constants(self, node, given):
        _, kernel, outputs = self._terms(node.layer)
        weights = keras.ops.convert_to_numpy(node.layer.kernel)
        axis = kernel.index(outputs[-1])
        others = tuple(i for i in range(weights.ndim) if i != axis)
        values = np.zeros((1, weights.shape[axis]))
        if (bias := getattr(node.layer, "bias", None)) is not None:
            values = values + numbers(bias).reshape(-1, bias.shape[-1])
        same = (values == values[:1]).all(0) & ~(weights != 0).any(others)
        values = np.where(same, values[0], np.nan)
        return [applied(node.layer.activation, values)]

    def config(self, node, inputs, outputs):
        shape = node.layer.get_config()["output_shape"]
        shape = [shape] if isinstance(shape, int) else list(shape)
        return {"output_shape": [*shape[:-1], outputs[0]]}


def _bias_member(layer, labels):
    bias = getattr(layer, "bias", None)
    if bias is None or bias.shape[-1] != len(labels):
        return []
    return [Member(bias, len(bias.shape) - 1, labels)]


def _other_weights(layer, known):
    if others := {weight.name for weight in layer.weights} - known:
        return f"has the weights {sorted(others)}"
    return None


def _any_weight(kernel):
    """Flags (inputs, multiples) of a depthwise kernel: whether a weight is not zero."""
    kernel = keras.ops.convert_to_numpy(kernel)
    return (kernel != 0).any(tuple(range(kernel.ndim - 2)))


def _of_each_channel(layer, kernel, shape, given):
    """Constants that a depthwise kernel outputs, before bias and activation."""
    nonzero = _any_weight(kernel)
    kernel = keras.ops.convert_to_numpy(kernel)
    sums = kernel.sum(tuple(range(kernel.ndim - 2)), dtype=np.float64)
    inside = np.where(given == 0, 0.0, np.nan) if pads(layer, shape) else given
    return np.where(nonzero, inside[:, np.newaxis] * sums, 0.0).ravel()


def _bias(layer, size):
    if not layer.use_bias:
        return np.zeros(size)
    return keras.ops.convert_to_numpy(layer.bias).astype(np.float64)


def _folded(kernel, given, foldable):
    """The contribution of the foldable inputs to each output."""
    used = foldable & (np.nan_to_num(given) != 0)
    return given[used] @ kernel[:, used].sum(0, dtype=np.float64)


def _add_bias(layer, config, weights, kept_out, needed, extra):
    """Adds to the bias, and creates one if that is necessary."""
    if layer.use_bias or extra[kept_out].any():
        bias = np.where(needed, _bias(layer, len(extra)) + extra, 0.0)
        config["use_bias"] = True
        weights["bias"] = bias[kept_out]


GROUPED = Grouped()
WEIGHTED = {
    layers.EinsumDense: EinsumDense(),
    layers.Dense: Linear("units"),
    layers.Conv1D: Linear(),
    layers.Conv2D: Linear(),
    layers.Conv3D: Linear(),
    layers.Conv1DTranspose: Linear(transposed=True),
    layers.Conv2DTranspose: Linear(transposed=True),
    layers.Conv3DTranspose: Linear(transposed=True),
    layers.DepthwiseConv1D: Depthwise(),
    layers.DepthwiseConv2D: Depthwise(),
    layers.SeparableConv1D: Separable(),
    layers.SeparableConv2D: Separable(),
}
