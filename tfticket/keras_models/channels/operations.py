"""Rules of operations between layers, `x + 1` or `keras.ops.relu(x)`."""

import keras
import numpy as np

from tfticket.keras_models.channels.merging import (
    Concatenate,
    GetItem,
    Split,
    Take,
    needed_by_element,
    tie_by_element,
)
from tfticket.keras_models.channels.reshaping import Permute, Reshape, Squeeze
from tfticket.keras_models.channels.rule import (
    Channels,
    Resized,
    Rule,
    finite,
)


class ElementWise(Rule):
    """An element-wise function of one or several tensors and constants.

    Args:
        absorbs: Whether a zero in one input makes the output zero, as in a product.
    """

    any_axis = True
    any_arguments = True

    def __init__(self, absorbs=False):
        self._absorbs = absorbs

    def outputs(self, node, labels):
        made = tie_by_element(node, labels)
        zeros = [np.zeros(len(x)) for x in node.inputs]
        with np.errstate(all="ignore"):
            at_zero = self._computed(node, zeros, made)
        if not np.isfinite(at_zero).all():
            labels.pin(made.labels, f"'{node.layer.name}' is not finite at zero")
        return [made]

    def constants(self, node, given):
        with np.errstate(all="ignore"):
            rows = self._computed(node, given, node.outputs[0])
        values = np.where((rows == rows[:1]).all(0), rows[0], np.nan)
        size = len(values)
        given = [x if len(x) in (1, size) else np.full(1, np.nan) for x in given]
        for each in given:
            values = np.where(np.isnan(each), np.nan, values)
        if self._absorbs:
            for each in given:
                values = np.where(each == 0, 0.0, values)
        return [finite(values)]

    def needed(self, node, needed, given):
        return needed_by_element(node, needed[0], given, self._absorbs)

    def resized(self, node, kept):
        if kept.outputs[0].all() or not any(x.size > 1 for x in self._arrays(node)):
            return Resized()
        axis = node.outputs[0].axis

        def cut(x):
            if isinstance(x, keras.KerasTensor) or np.size(x) <= 1:
                return x
            array = keras.ops.convert_to_numpy(x)
            if array.ndim < -axis or array.shape[axis] != len(kept.outputs[0]):
                return x
            return np.compress(kept.outputs[0], array, axis)

        def emit(operation, args, kwargs):
            return operation(
                *keras.tree.map_structure(cut, args),
                **keras.tree.map_structure(cut, kwargs),
            )

        return Resized(emit=emit)

    def _arrays(self, node):
        leaves = keras.tree.flatten(node.call.arguments)
        return [
            keras.ops.convert_to_numpy(x)
            for x in leaves
            if hasattr(x, "shape") and not isinstance(x, keras.KerasTensor)
        ]

    def _computed(self, node, given, made):
        """The result of the operation on numbers, as (positions, channels)."""
        size, axis = len(made), made.axis
        values = {}
        for i, each in zip(node.numbers, given, strict=True):
            # Nothing is known about positions, which are not channels.
            each = np.nan_to_num(each if len(each) == size else each[:1])
            each = each.reshape(-1, *(1 for _ in range(-axis - 1)))
            values[i] = each.astype(_dtype(node, i))
        args, kwargs = node.call.with_values(values)
        result = keras.ops.convert_to_numpy(node.layer(*args, **kwargs))
        result = result.astype(np.float64)
        if result.ndim >= -axis and result.shape[axis] == size:
            return np.moveaxis(result, axis, -1).reshape(-1, size)
        return np.broadcast_to(result.reshape(-1, 1), (result.size, size))


def _dtype(node, number):
    """The dtype of an input of a call."""
    tensors = [
        x
        for x in keras.tree.flatten(node.call.arguments)
        if isinstance(x, keras.KerasTensor)
    ]
    kind = tensors[node.call.inputs.index(number)].dtype
    return "float32" if kind == "bfloat16" else kind


class Reduce(Rule):
    """A sum, mean or maximum over positions."""

    any_axis = True

    def refuses(self, node):
        axes = self._axes(node)
        if axes is None or node.inputs[0].axis % len(node.in_shapes[0]) in axes:
            return "combines all channels"
        if 0 in axes:
            return "takes samples together"
        return None

    def _axes(self, node):
        axis = node.layer.axis
        if axis is None:
            return None
        rank = len(node.in_shapes[0])
        axes = axis if isinstance(axis, (list, tuple)) else (axis,)
        return {x % rank for x in axes}

    def outputs(self, node, labels):
        of, rank = node.inputs[0], len(node.in_shapes[0])
        if getattr(node.layer, "keepdims", False):
            return [of]
        place = of.axis % rank
        after = sum(i not in self._axes(node) for i in range(place, rank))
        return [Channels(of.labels, -after)]

    def constants(self, node, given):
        keeps = type(node.layer).__name__ in ("Mean", "Max", "Min", "Amax", "Amin")
        if keeps:
            return [given[0]]
        zero = type(node.layer).__name__ == "Sum"
        return [np.where((given[0] == 0) & zero, 0.0, np.nan)]

    def needed(self, node, needed, given):
        return [needed[0]]


class Padding(Rule):
    """Pads positions with numbers, or channels with zeros.

    A smaller LayerNormalization counts channels of zeros; they are removed if nothing
    needs them.
    """

    any_axis = True
    any_arguments = True

    def refuses(self, node):
        width = node.layer.pad_width
        if np.ndim(width) < 2 or len(width) == 1 or len(node.numbers) > 1:
            return "pads every axis"
        if any(self._width(node)) and not self._with_zeros(node):
            return "pads the channels' axis with numbers other than zeros"
        return None

    def _width(self, node):
        return node.layer.pad_width[node.inputs[0].axis]

    def _with_zeros(self, node):
        number = node.kwargs.get("constant_values", (*node.args, None)[1])
        return node.layer.mode == "constant" and not number

    def outputs(self, node, labels):
        of = node.inputs[0]
        if not any(self._width(node)):
            return [of]
        before, after = (
            labels.fresh(n, node.layer.name, "padding") for n in self._width(node)
        )
        return [Channels(np.concatenate([before, of.labels, after]), of.axis)]

    def constants(self, node, given):
        zero = np.where((given[0] == 0) & self._with_zeros(node), 0.0, np.nan)
        return [np.pad(zero, self._width(node))]

    def needed(self, node, needed, given):
        before, after = self._width(node)
        return [needed[0][before : len(needed[0]) - after]]

    def resized(self, node, kept):
        if kept.outputs[0].all() or not any(self._width(node)):
            return Resized()
        before, after = self._width(node)
        flags = kept.outputs[0]
        width = list(node.layer.pad_width)
        ends = flags[:before].sum(), flags[len(flags) - after :].sum()
        width[node.inputs[0].axis] = tuple(map(int, ends))
        if not np.any(width):
            return Resized(emit=lambda _, args, __: args[0])
        return Resized(emit=lambda _, args, __: keras.ops.pad(args[0], width))


class AlongPositions(Rule):
    """Reorders positions, or sums them cumulatively."""

    any_axis = True

    def refuses(self, node):
        axes = node.layer.axis
        axes = axes if isinstance(axes, (list, tuple)) else (axes,)
        rank = len(node.in_shapes[0])
        if None in axes or node.inputs[0].axis % rank in {x % rank for x in axes}:
            return "combines all channels"
        return None

    def constants(self, node, given):
        return [np.where(given[0] == 0, 0.0, np.nan)]

    def needed(self, node, needed, given):
        return [needed[0]]


class Pooling(Rule):
    """Pooling as an operation, which treats channels separately."""

    def needed(self, node, needed, given):
        return [needed[0]]


class SoftmaxOverPositions(Rule):
    """A softmax over an axis other than the channels'."""

    any_axis = True

    def refuses(self, node):
        rank = len(node.in_shapes[0])
        axes = node.layer.axis
        axes = axes if isinstance(axes, (list, tuple)) else (axes,)
        if node.inputs[0].axis % rank in {x % rank for x in axes}:
            return "combines all channels"
        return None

    def needed(self, node, needed, given):
        return [needed[0]]


class Matmul(Rule):
    """A product of two tensors, which sums over channels or passes them on."""

    any_axis = True
    # If two channels are multiplied and one is zero, it must be zero, or both are
    # removed.
    counts_channels = True

    def refuses(self, node):
        if len(node.inputs) != 2 or min(map(len, node.in_shapes)) < 2:
            return "multiplies by a constant matrix"
        return None

    def outputs(self, node, labels):
        one, other = node.inputs
        name = f"'{node.layer.name}'"
        if one.axis == -1 and other.axis == -2 and len(one) == len(other):
            labels.tie(one.labels, other.labels)
            made = labels.fresh(_size(node.out_shapes[0][-1]))
            labels.pin(made, "positions")
            return [Channels(made)]
        if other.axis == -1:
            labels.pin(one.labels, f"{name} sums over them as positions")
            return [other]
        labels.pin(other.labels, f"{name} sums over them as positions")
        if one.axis != -1:
            return [one]
        labels.pin(one.labels, f"{name} sums over them as positions")
        made = labels.fresh(_size(node.out_shapes[0][-1]))
        labels.pin(made, "positions")
        return [Channels(made)]

    def constants(self, node, given):
        made = np.full(len(node.outputs[0]), np.nan)
        for each, constants in zip(node.inputs, given, strict=True):
            if each is node.outputs[0]:
                made = np.where(constants == 0, 0.0, made)
        return [made]

    def needed(self, node, needed, given):
        reads = [np.full(len(x), needed[0].any()) for x in node.inputs]
        one, other = node.inputs
        if one.axis == -1 and other.axis == -2 and len(one) == len(other):
            return [x & (given[0] != 0) & (given[1] != 0) for x in reads]
        for i, each in enumerate(node.inputs):
            if each is node.outputs[0]:
                reads[i] = needed[0]
        return reads


def _size(n):
    return n if isinstance(n, int) and n > 0 else 1


_ELEMENTWISE = (
    *("Absolute", "Abs", "Add", "Arctan", "Arcsinh", "Cast", "Ceil", "Celu", "Clip"),
    *("Copy", "Cos", "Cosh", "Divide", "DivideNoNan", "Elu", "Equal", "Erf", "Exp"),
    *("Expm1", "Floor", "Gelu", "Greater", "GreaterEqual", "HardShrink"),
    *("HardSigmoid", "HardSilu", "HardTanh", "LeakyRelu", "Less", "LessEqual", "Log"),
    *("Log1p", "LogSigmoid", "LogicalAnd", "LogicalNot", "LogicalOr", "Maximum"),
    *("Minimum", "Mish", "Negative", "NotEqual", "Power", "Reciprocal", "Relu"),
    *("Relu6", "Round", "Rsqrt", "Selu", "Sigmoid", "Sign", "Silu", "Sin", "Sinh"),
    *("SoftShrink", "Softplus", "Softsign", "SparsePlus", "SparseSigmoid", "Sqrt"),
    *("Square", "Squareplus", "StopGradient", "Subtract", "Tan", "Tanh", "TanhShrink"),
    *("Threshold", "TrueDivide", "Where", "OnesLike", "ZerosLike"),
)
OPERATIONS: dict[str, Rule] = {
    **dict.fromkeys(_ELEMENTWISE, ElementWise()),
    "Multiply": ElementWise(absorbs=True),
    "Concatenate": Concatenate(),
    "Split": Split(),
    "GetItem": GetItem(),
    "Take": Take(),
    "Reshape": Reshape(),
    **dict.fromkeys(("Transpose", "Swapaxes", "Moveaxis"), Permute()),
    **dict.fromkeys(("Squeeze", "ExpandDims"), Squeeze()),
    **dict.fromkeys(("Mean", "Sum", "Max", "Min", "Amax", "Amin"), Reduce()),
    **dict.fromkeys(("Std", "Var", "Prod"), Reduce()),
    "Pad": Padding(),
    **dict.fromkeys(("Cumsum", "Flip", "Roll", "Sort"), AlongPositions()),
    **dict.fromkeys(("MaxPool", "AveragePool"), Pooling()),
    **dict.fromkeys(("Softmax", "LogSoftmax"), SoftmaxOverPositions()),
    "Matmul": Matmul(),
}
