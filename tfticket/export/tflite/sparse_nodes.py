"""A model as XNNPACK's operations, and the role that each can have in a cluster.

As in the written file, BatchNormalization and scales after a convolution, zero padding
before one, ReLU and dropout are not separate operations.
"""

import dataclasses
import math
from typing import Any

import keras

from tfticket.export.tflite import window_rules
from tfticket.export.tflite.scales import number_of
from tfticket.keras_models.calls import computes_as_keras, positions
from tfticket.keras_models.graph import Call, FlatGraph

layers = keras.layers

START, INSIDE, END, OUTSIDE = "start", "inside", "end", "outside"

_CONVOLUTIONS = (layers.Conv2D, layers.DepthwiseConv2D, layers.SeparableConv2D)
_NOTHING = (
    *(layers.Dropout, layers.SpatialDropout2D, layers.GaussianNoise),
    *(layers.GaussianDropout, layers.AlphaDropout, layers.Identity),
    *(layers.ActivityRegularization, layers.InputLayer),
)
# By name: of functions of `keras.activations`, and of the operations of `keras.ops`.
_FUSED = ("linear", "relu", "relu6")
_UNARY = (
    *("sigmoid", "tanh", "elu", "gelu", "silu", "leaky_relu", "exponential"),
    *("hard_silu", "abs", "exp", "negative", "square", "sqrt"),
)
# Operations that the converter writes as sums and products with constants.
_WITH_CONSTANTS = ("hard_sigmoid", "mish", "softplus", "softsign", "selu", "celu")


@dataclasses.dataclass
class Node:
    """One operation.

    Args:
        name: The layer's path, with the kernel's name if the layer has several kernels.
        kind: A description in words.
        inputs: Numbers of the nodes that it reads; `None` for an input of the model.
        role: "start", "inside" or "end" of a cluster, or "outside" of any.
        rule: Name of the rule that keeps it outside.
        mended: The role that it has once that is fixed.
        kernel: Its kernel, if it has one.
        flops: Multiplications and additions per sample; `None` if not known.
        is_pointwise: Whether it is a 1x1 convolution.
        is_single: Whether it makes one vector per image, as a global pooling does.
    """

    name: str
    kind: str
    inputs: tuple[int | None, ...]
    role: str = INSIDE
    rule: str = ""
    mended: str = INSIDE
    kernel: Any = None
    flops: int | None = None
    is_pointwise: bool = False
    is_single: bool = False


@dataclasses.dataclass
class Nodes:
    """The operations of a model, in an order in which they can run.

    Args:
        graph: The model's flat graph.
        all: The operations.
        outputs: Numbers of the nodes that make the model's outputs.
    """

    graph: FlatGraph
    all: list[Node] = dataclasses.field(default_factory=list)
    outputs: set[int | None] = dataclasses.field(default_factory=set)

    def __post_init__(self) -> None:
        graph = self.graph
        self._makers: dict[int, int | None] = dict.fromkeys(graph.inputs)
        self._readers = graph.readers()
        # Outputs of a convolution that can still be scaled in its kernel, and padded
        # values that only one convolution reads.
        self._scalable: set[int] = set()
        self._pads: dict[int, tuple] = {}
        for call in graph.calls:
            self._see(call)
        self.outputs = {self._made_by(number) for number in graph.outputs}

    def _made_by(self, number):
        """The node that makes an output; the converter removes a reshaping after it."""
        maker = self._makers[number]
        if len(self.graph.shapes[number]) == 4:
            while maker is not None and self.all[maker].kind in ("Flatten", "Reshape"):
                maker = self.all[maker].inputs[0]
        return maker

    def _see(self, call):
        operation = call.operation
        if isinstance(operation, layers.Layer) and not computes_as_keras(operation):
            self._outside(call, "unknown")
        elif isinstance(operation, _NOTHING):
            self._same(call)
        elif getattr(operation, "compute_dtype", "float32") != "float32" or getattr(
            operation, "quantization_mode", None
        ):
            self._outside(call, "dtype")
        elif isinstance(operation, _CONVOLUTIONS):
            self._convolution(call)
        elif getattr(operation, "kernel", None) is not None:
            node = self._outside(call, "operation")
            node.kernel, node.flops = operation.kernel, _flops(call, operation.kernel)
        elif isinstance(operation, layers.ZeroPadding2D) and self._pads_one(call):
            self._pads[call.outputs[0]] = operation.padding
            self._makers[call.outputs[0]] = self._makers[call.inputs[0]]
        else:
            self._other(call)

    def _other(self, call):
        operation, kind = call.operation, type(call.operation).__name__
        if isinstance(operation, layers.BatchNormalization):
            is_last = operation.axis in (-1, len(call.in_shapes[0]) - 1)
            self._scale(call, "normalization", is_last)
        elif isinstance(operation, layers.Rescaling):
            self._scale(call, "constant")
        elif kind in ("Add", "Multiply"):
            if not call.takes_only_tensors():
                self._scale(call, "constant", number_of(call) is not None)
            elif kind == "Add" and len(set(call.in_shapes)) > 1:
                self._outside(call, "broadcast")
            else:
                self._elementwise(call)
        elif isinstance(operation, layers.LayerNormalization) and self._is_pixel(call):
            self._unary(call)  # written as differences and products of the pixel
        elif is_mean(call):
            self._add(call, END, single=True)
        elif isinstance(operation, layers.Reshape) and self._keeps_one_pixel(call):
            # For a batch of one, the converter writes a mean with keepdims=True.
            if call.out_shapes[0][0] is None:
                self._outside(call, "batch")
            else:
                self._same(call)
        elif isinstance(operation, layers.UpSampling2D) and (
            operation.interpolation == "bilinear" and _sides(call) > 1
        ):
            self._unary(call)
        else:
            self._activation(call)

    def _activation(self, call):
        name = window_rules.activation_name(call.operation)
        if name in _FUSED:
            # After a convolution or a sum it is a limit on their output; after an image
            # or a mean it is a separate operation.
            self._unary(call) if self._stands_alone(call) else self._same(call)
        elif name in _UNARY:
            self._unary(call)
        else:
            self._outside(call, "constant" if name in _WITH_CONSTANTS else "operation")

    def _stands_alone(self, call):
        if window_rules.activation_name(call.operation) == "linear":
            return False
        maker = self._makers[call.inputs[0]]
        return maker is None or self.all[maker].role == END

    def _convolution(self, call):
        layer = call.operation
        padding = self._pads.get(call.inputs[0], ((0, 0), (0, 0)))
        parts = window_rules.parts(layer, padding, call.in_shapes[0])
        name = _path(call)
        for part in parts:
            taken = (self._makers[call.inputs[0]],)
            if part is not parts[0]:
                taken = (len(self.all) - 1,)
            node = Node(
                f"{name}/{part.weight}" if len(parts) > 1 else name,
                part.kind,
                taken,
                OUTSIDE if part.rule else part.role,
                part.rule,
                part.role,
                part.kernel,
                _flops(call, part.kernel),
                part.is_pointwise,
                _sides(call, out=True) == 1,
            )
            self.all.append(node)
        number = call.outputs[0]
        self._makers[number] = len(self.all) - 1
        activation = window_rules.function_name(layer.activation)
        if activation == "linear":
            self._scalable.add(number)
        elif activation not in _FUSED:
            role = INSIDE if activation in _UNARY else OUTSIDE
            rule = "constant" if activation in _WITH_CONSTANTS else "operation"
            self._append(
                Node(
                    f"{name}'s {activation}",
                    activation,
                    (self._makers[number],),
                    role,
                    "" if role == INSIDE else rule,
                    is_single=_sides(call, out=True) == 1,
                ),
                call,
            )

    def _scale(self, call, rule, fits=True):
        """A scale and offset, either part of the convolution before it or outside."""
        taken = call.inputs[0]
        if fits and taken in self._scalable and len(self._readers[taken]) == 1:
            self._same(call)
            self._scalable.update(call.outputs)
        else:
            self._outside(call, rule)

    def _elementwise(self, call):
        if all(len(shape) == 4 for shape in call.in_shapes):
            self._add(call, INSIDE)
        else:
            self._outside(call, "rank")

    _unary = _elementwise

    def _pads_one(self, call):
        readers = self._readers.get(call.outputs[0], [])
        return len(readers) == 1 and isinstance(
            getattr(readers[0], "operation", None), _CONVOLUTIONS
        )

    def _keeps_one_pixel(self, call):
        """Whether it restores the 4 axes that a global pooling removed."""
        maker = self._makers[call.inputs[0]]
        return (
            maker is not None
            and self.all[maker].role == END
            and len(call.out_shapes[0]) == 4
            and call.out_shapes[0][1:3] == (1, 1)
            and len(self._readers[call.inputs[0]]) == 1
        )

    def _is_pixel(self, call):
        return len(call.in_shapes[0]) == 4 and _sides(call) == 1

    def _same(self, call):
        for number in call.outputs:
            self._makers[number] = self._makers[call.inputs[0]]

    def _outside(self, call, rule):
        return self._add(call, OUTSIDE, rule)

    def _add(self, call, role, rule="", single=None):
        taken = tuple(dict.fromkeys(self._makers[i] for i in call.inputs))
        is_single = _sides(call, out=True) == 1 if single is None else single
        kind = type(call.operation).__name__
        return self._append(
            Node(_path(call), kind, taken, role, rule, is_single=is_single), call
        )

    def _append(self, node, call):
        self.all.append(node)
        for number in call.outputs:
            self._makers[number] = len(self.all) - 1
        return node


def _path(call):
    name = call.operation.name
    return f"{call.within}/{name}" if call.within else name


def _flops(call, kernel):
    """Operations per sample with one kernel of a layer."""
    places = positions(call.operation, call.in_shapes[0], (1, *call.out_shapes[0][1:]))
    return None if places is None else 2 * places * math.prod(kernel.shape)


def _sides(call, out=False):
    """Pixels of an image of the input or output; 0 if it is not one, or open."""
    shape = call.out_shapes[0] if out else call.in_shapes[0]
    if len(shape) != 4 or None in shape[1:3]:
        return 0
    return shape[1] * shape[2]


def is_mean(call: Call) -> bool:
    """Whether a call is a global average of an image.

    Args:
        call: Call of a layer or an operation.
    """
    operation = call.operation
    if len(call.inputs) != 1 or len(call.in_shapes[0]) != 4:
        return False
    if isinstance(operation, layers.GlobalAveragePooling2D):
        return operation.data_format == "channels_last"
    if type(operation).__name__ != "Mean" or isinstance(operation, layers.Layer):
        return False
    axes = operation.axis
    axes = (axes,) if isinstance(axes, int) else tuple(axes or ())
    return {axis % 4 for axis in axes} == {1, 2}
