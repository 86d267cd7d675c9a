"""Rewrites a network with layers that XNNPACK can take into a sparse cluster.

Every step is exact: it reverses the order of pixels or splits a product differently. If
a layer is not known to work on mirror images, its image is flipped back first.
"""

import dataclasses
import math
from typing import Any

import keras
import numpy as np

from tfticket.export.tflite import scales
from tfticket.export.tflite.mirrored_graph import (
    WINDOWS,
    head,
    is_image,
    is_pixelwise,
    windows,
    zero_pads,
)
from tfticket.export.tflite.sparse_nodes import is_mean
from tfticket.keras_models.calls import computes_as_keras
from tfticket.keras_models.copies import copy_state
from tfticket.keras_models.graph import FlatGraph, assemble
from tfticket.keras_models.twins import copy_layer

layers = keras.layers

_POOLS = (layers.MaxPooling2D, layers.AveragePooling2D)
# Of one input, and the same with two axes less.
_UNARY = (layers.Activation, layers.ReLU, layers.Dropout, layers.Identity)

FLIPPED = "kernels flipped, with the image"
PADDED = "padding made even on both sides"
FOLDED = "taken into the convolution before it"
SPLIT = "split into a depthwise and a 1x1 convolution"
DENSE = "a 1x1 convolution on one pixel, written as Dense"
HARD = "hard_sigmoid written as ReLU up to 6"
FLAT = "the last global pooling, without axes of one pixel"
COPIED = "an output of the model, copied by a pooling of one pixel"
POOLED = "a global pooling that keeps its axes, for a Reshape"


@dataclasses.dataclass(frozen=True)
class Value:
    """A tensor of the new model, and how it differs from the one of the old model.

    Args:
        tensor: The tensor.
        flipped: Whether the pixels are in reverse order.
        scale: The factor that it still has to be multiplied with.
        pads: Zeros that still have to be padded: before and after, for height and
            width.
        is_flat: Whether it lacks the two axes of its one pixel.
    """

    tensor: Any
    flipped: bool = False
    scale: float = 1.0
    pads: tuple[tuple[int, int], tuple[int, int]] = ((0, 0), (0, 0))
    is_flat: bool = False


class Rewriter:
    """Rewrites a model, call by call.

    Args:
        graph: The model.
        axes: Axes to flip.
        batch_size: Size of the batch; `None` leaves it open.
        flipped_inputs: Whether the input images are already flipped.
    """

    def __init__(
        self,
        graph: FlatGraph,
        axes: tuple[int, ...],
        batch_size: int | None,
        flipped_inputs: bool,
    ):
        self._graph, self._axes = graph, axes
        self.changes: dict[str, list[str]] = {}
        self._copies: dict[int, Any] = {}
        self._names = {call.operation.name for call in graph.calls}
        self._pads = zero_pads(graph)
        self._seen: set[int] = set()
        self._readers = graph.readers()
        self._uses: dict[int, int] = {}
        for call in graph.calls:
            self._uses[id(call.operation)] = self._uses.get(id(call.operation), 0) + 1
        self._head = head(graph)
        self._known: dict[int, Value] = {}
        for number, layer in zip(graph.inputs, graph.input_layers, strict=True):
            shape = layer.batch_shape
            tensor = keras.Input(
                batch_shape=(batch_size or shape[0], *shape[1:]),
                dtype=layer.dtype,
                name=layer.name,
            )
            flipped = flipped_inputs and len(shape) == 4 and bool(axes)
            self._known[number] = Value(tensor, flipped)

    def model(self) -> keras.Model:
        """The new model."""
        for call in self._graph.calls:
            if id(call) not in self._seen:
                self._write(call)
        tensors = {
            i: self._plain(i) for i in {*self._graph.inputs, *self._graph.outputs}
        }
        tensors |= {i: self._known[i].tensor for i in self._graph.inputs}
        return assemble(self._graph, tensors)

    def _write(self, call):
        operation = call.operation
        if isinstance(operation, layers.Layer) and not computes_as_keras(operation):
            self._copy(call)
        elif isinstance(operation, WINDOWS) and self._is_usual(call):
            self._convolution(call)
        elif isinstance(operation, _POOLS) and self._is_usual(call):
            self._pooling(call)
        elif call.outputs[0] in self._pads:
            value = self._known[call.inputs[0]]
            pads = self._pads[call.outputs[0]]
            self._known[call.outputs[0]] = dataclasses.replace(value, pads=pads)
        elif is_mean(call):
            self._mean(call)
        elif not self._multiplied(call) and not self._flattened(call):
            self._copy(call)

    def _is_usual(self, call):
        return (
            call.operation.data_format == "channels_last"
            and None not in (*call.in_shapes[0],)[1:]
        )

    # Windows.

    def _convolution(self, call):
        layer, value = call.operation, self._known[call.inputs[0]]
        if self._is_head(call):
            self._dense(call)
            return
        alone = self._uses[id(layer)] == 1
        if not alone or value.is_flat:
            tensor = self._given(call.inputs[0], pads=False)
            value = dataclasses.replace(value, tensor=tensor, scale=1.0, is_flat=False)
        value = self._turned(value, call.in_shapes[0])
        seen = self._seen_windows(call, value.flipped)
        if value.flipped and math.prod(layer.kernel_size) > 1:
            self._note(FLIPPED, layer.name)
        tensor, padding = self._padded(call, value.tensor, seen, alone)
        chain = scales.chain(call, self._readers) if alone else scales.Chain((call,))
        if isinstance(layer, layers.SeparableConv2D):
            self._note(SPLIT, layer.name)
        for step in chain.calls[1:]:
            if not (chain.is_hard and step is chain.calls[-1]):
                self._note(FOLDED, step.operation.name)
        tensor = self._run_parts(call, tensor, padding, value, chain)
        self._follow(call, chain, Value(tensor, value.flipped))

    def _seen_windows(self, call, flipped):
        return [
            x.mirrored() if flipped and axis in self._axes else x
            for axis, x in zip((1, 2), windows(call, self._pads), strict=True)
        ]

    def _run_parts(self, call, tensor, padding, value, chain):
        """Runs the layer, or the two layers of a separable convolution."""
        layer = call.operation
        if id(layer) in self._copies:  # a shared one
            for made in self._copies[id(layer)]:
                tensor = made(tensor)
            return tensor
        self._copies[id(layer)] = []
        axes = [axis - 1 for axis in self._axes] if value.flipped else []
        for part in scales.parts(layer, chain, value.scale):
            config = {**part.config, "padding": padding}
            if part.config["name"] == layer.name:
                config["name"] = self._own_name(call)
            made = part.kind.from_config(config)
            tensor = made(tensor)
            made.kernel.assign(np.flip(part.kernel, axes))
            if part.bias is not None:
                made.bias.assign(part.bias)
            made.trainable = layer.trainable
            self._copies[id(layer)].append(made)
            padding = "valid"  # the 1x1 convolution has none
        return tensor

    def _follow(self, call, chain, value):
        """Assigns the value to the result of the chain of calls."""
        if chain.is_hard:
            name = chain.calls[-1].operation.name
            self._note(HARD, name)
            relu = layers.ReLU(6.0, name=self._name(name, "_relu6"))
            value = dataclasses.replace(value, tensor=relu(value.tensor), scale=1 / 6)
        self._seen.update(id(x) for x in chain.calls)
        self._known.update((x.outputs[0], value) for x in chain.calls)

    def _padded(self, call, tensor, seen, alone):
        """The padded input, and the padding that the layer still has to do."""
        layer = call.operation
        if all(x.before == 0 and x.after <= 0 for x in seen):
            return tensor, "valid"
        even = all(x.is_even for x in seen)
        # A shared layer may be called on other sizes, which "same" pads differently.
        if even and alone and all(x.stride == 1 for x in seen):
            return tensor, "same"
        if even:
            sides = tuple((x.size // 2,) * 2 for x in seen)
            if layer.padding == "same" or self._pads.get(call.inputs[0]) != sides:
                self._note(PADDED, layer.name)
        else:
            sides = tuple((max(x.before, 0), max(x.after, 0)) for x in seen)
        cut = tuple((max(-x.before, 0), 0) for x in seen)
        if any(map(any, cut)):
            name = self._name(layer.name, "_crop")
            tensor = layers.Cropping2D(cut, name=name)(tensor)
        if any(map(any, sides)):
            name = self._name(layer.name, "_pad")
            tensor = layers.ZeroPadding2D(sides, name=name)(tensor)
        return tensor, "valid"

    def _pooling(self, call):
        """Runs a pooling, on reversed images only if its windows can be mirrored."""
        both = (self._seen_windows(call, flipped) for flipped in (False, True))
        pairs = zip(*both, strict=True)
        self._copy(call, pixelwise=all(x.before == y.before for x, y in pairs))

    # One pixel.

    def _is_head(self, call):
        """Whether a call is a 1x1 convolution on the pixel of the last mean."""
        layer = call.operation
        return (
            type(layer) is layers.Conv2D
            and tuple(layer.kernel_size) == (1, 1)
            and layer.groups == 1
            and call.in_shapes[0][1:3] == (1, 1)
            and call.inputs[0] not in self._pads
            and call.outputs[0] in self._head
            and self._uses[id(layer)] == 1
        )

    def _dense(self, call):
        layer, value = call.operation, self._known[call.inputs[0]]
        chain = scales.chain(call, self._readers)
        (part,) = scales.parts(layer, chain, value.scale)
        tensor = value.tensor
        if not value.is_flat:
            shape = (call.in_shapes[0][-1],)
            tensor = layers.Reshape(shape, name=self._name(layer.name, "_flat"))(tensor)
        config = {
            "name": self._own_name(call),
            "units": layer.filters,
            "activation": part.config["activation"],
            "use_bias": part.bias is not None,
            "dtype": part.config["dtype"],
        }
        made = layers.Dense.from_config(config)
        tensor = made(tensor)
        made.kernel.assign(part.kernel[0, 0])
        if part.bias is not None:
            made.bias.assign(part.bias)
        made.trainable = layer.trainable
        self._note(DENSE, layer.name)
        self._follow(call, chain, Value(tensor, is_flat=True))

    def _flattened(self, call):
        """Handles a Flatten or Reshape of one pixel; whether the call was one."""
        if not isinstance(call.operation, layers.Flatten | layers.Reshape):
            return False
        value = self._known[call.inputs[0]]
        if not value.is_flat or len(call.out_shapes[0]) != 2:
            return False
        self._known[call.outputs[0]] = dataclasses.replace(value, is_flat=False)
        return True

    def _mean(self, call):
        operation, value = call.operation, self._known[call.inputs[0]]
        readers = self._readers.get(call.outputs[0], [])
        after = readers[0] if len(readers) == 1 else None
        pixel = (1, 1, call.in_shapes[0][-1])
        if value.is_flat or any(map(any, value.pads)):
            self._copy(call)
            return
        if (
            after is not None
            and isinstance(after.operation, layers.Reshape)
            and after.out_shapes[0][1:] == pixel
            and len(call.out_shapes[0]) == 2
        ):
            name = operation.name
            tensor = layers.GlobalAveragePooling2D(keepdims=True, name=name)(
                value.tensor
            )
            self._note(POOLED, name)
            self._seen.add(id(after))
            number = after.outputs[0]
        elif (
            call.out_shapes[0][1:] == pixel
            and call.outputs[0] in self._head
            and call.outputs[0] not in self._graph.outputs
        ):
            # Element-wise operations on one pixel would join the cluster.
            is_layer = isinstance(operation, layers.Layer)
            name = operation.name if is_layer else self._name("mean", "_pixel")
            tensor = layers.GlobalAveragePooling2D(name=name)(value.tensor)
            self._note(FLAT, operation.name)
            self._known[call.outputs[0]] = Value(
                tensor, scale=value.scale, is_flat=True
            )
            return
        else:
            tensor = self._called(call, {call.inputs[0]: value.tensor})[0]
            number = call.outputs[0]
        self._known[number] = Value(tensor, scale=value.scale)

    # Scales.

    def _multiplied(self, call):
        """Handles a product whose scale can be deferred; whether it was one."""
        if type(call.operation).__name__ != "Multiply":
            return False
        values = [self._known[i] for i in call.inputs]
        if len(values) == 1 and scales.number_of(call) is not None:
            value = values[0]
            scale = value.scale * scales.number_of(call)
            self._known[call.outputs[0]] = dataclasses.replace(value, scale=scale)
            return True
        if not call.takes_only_tensors() or len(set(call.inputs)) != len(call.inputs):
            return False
        if any(x.is_flat or any(map(any, x.pads)) for x in values):
            return False
        scale = math.prod(x.scale for x in values)
        for i, value in zip(call.inputs, values, strict=True):
            self._known[i] = dataclasses.replace(value, scale=1.0)
        self._copy(call)
        for i, value in zip(call.inputs, values, strict=True):
            self._known[i] = value
        number = call.outputs[0]
        self._known[number] = dataclasses.replace(self._known[number], scale=scale)
        return True

    # All else.

    def _copy(self, call, pixelwise=None):
        """Makes the same call, on reversed images if that makes no difference."""
        values = [self._known[i] for i in call.inputs]
        flat = all(x.is_flat for x in values) and isinstance(call.operation, _UNARY)
        if flat:
            given = {i: self._given(i, flat=True) for i in call.inputs}
        else:
            given = {i: self._given(i) for i in call.inputs}
        images = [
            x.flipped
            for x, shape in zip(values, call.in_shapes, strict=True)
            if is_image(shape)
        ]
        flipped = any(images)
        if pixelwise is None:
            pixelwise = is_pixelwise(call)
        ranks = {len(shape) for shape in call.in_shapes}
        if flipped and not (pixelwise and all(images) and ranks == {4}):
            for i, value in zip(call.inputs, values, strict=True):
                if value.flipped:
                    given[i] = self._flip(given[i])
            flipped = False
        made = self._called(call, given)
        for number, tensor in zip(call.outputs, made, strict=True):
            image = flipped and is_image(self._graph.shapes[number])
            self._known[number] = Value(tensor, image, is_flat=flat)

    def _called(self, call, given):
        operation = call.operation
        if id(operation) not in self._copies:
            copy = operation
            if isinstance(operation, layers.Layer):
                copy = copy_layer(operation)
                copy.name = self._own_name(call)
            self._copies[id(operation)] = copy
        copy = self._copies[id(operation)]
        args, kwargs = call.with_values(given)
        made = keras.tree.flatten(copy(*args, **kwargs))
        if isinstance(operation, layers.Layer):
            copy_state(operation, copy)
        return made

    def _given(self, number, flat=False, pads=True):
        """A value as in the old model, apart from the order of the pixels."""
        value = self._known[number]
        tensor = value.tensor
        name = f"value_{number}"
        if value.is_flat and not flat:
            shape = self._graph.shapes[number][1:]
            tensor = layers.Reshape(shape, name=self._name(name, "_pixel"))(tensor)
        if value.scale != 1.0:
            tensor = layers.Rescaling(value.scale, name=self._name(name, "_scale"))(
                tensor
            )
        if pads and any(map(any, value.pads)):
            sides = value.pads
            if value.flipped:
                sides = tuple(
                    side[::-1] if axis in self._axes else side
                    for axis, side in zip((1, 2), sides, strict=True)
                )
            tensor = layers.ZeroPadding2D(sides, name=self._name(name, "_pad"))(tensor)
        return tensor

    def _plain(self, number):
        tensor = self._given(number)
        if self._known[number].flipped:
            return self._flip(tensor)
        shape = self._graph.shapes[number]
        if not is_image(shape) or number in self._graph.inputs:
            return tensor
        # If a map of a sparse cluster is an output of the model, XNNPACK answers it
        # wrongly.
        name = self._name(f"value_{number}", "_copy")
        self._note(COPIED, name)
        return layers.MaxPooling2D(1, name=name)(tensor)

    def _turned(self, value, shape):
        """The image, reversed for a window if images have to be."""
        if value.flipped or not self._axes or not is_image(shape):
            return value
        return dataclasses.replace(value, tensor=self._flip(value.tensor), flipped=True)

    def _flip(self, tensor):
        return keras.ops.flip(tensor, axis=self._axes)

    def _own_name(self, call):
        """The layer's name, unless the layer that flips an output back gets it."""
        name = call.operation.name
        turned = any(
            i in self._graph.outputs and len(self._graph.shapes[i]) == 4
            for i in call.outputs
        )
        return self._name(name, "_before") if turned else name

    def _name(self, name, ending):
        number = 0
        found = f"{name}{ending}"
        while found in self._names:
            number += 1
            found = f"{name}{ending}_{number}"
        self._names.add(found)
        return found

    def _note(self, what, name):
        names = self.changes.setdefault(what, [])
        if name not in names:
            names.append(name)
