"""Rules of the layers that sum over channels: Dense and convolutions."""

import keras
import numpy as np

from tfticket.export.compaction.channels import Resized, Rule, applied, pads

layers = keras.layers


class Linear(Rule):
    """A kernel over all input channels, a bias, an activation.

    An output none of whose weights sees a changing input is constant. A constant
    input goes into the bias, unless zeros at the border come in between.

    Args:
        size: What the configuration calls the number of outputs.
        transposed: Whether the kernel has outputs before inputs.
    """

    def __init__(self, size: str = "filters", transposed: bool = False):
        self._size = size
        self._transposed = transposed

    def refuses(self, call):
        if getattr(call.operation, "groups", 1) != 1:
            return "has groups of channels"
        return _other_weights(call.operation, {"kernel", "bias"})

    def constants(self, call, given):
        kernel = self._kernel(call.operation)
        foldable = self._foldable(call, given[0])
        changing = (kernel != 0).any(0)[~foldable].any(0)
        values = _bias(call.operation, kernel.shape[-1])
        values = values + _folded(kernel, given[0], foldable)
        values = np.where(changing, np.nan, values)
        return applied(call.operation.activation, values)

    def ties(self, call, given, classes):
        return classes.fresh(call.out_shapes[0][-1])

    def needed(self, call, needed, given):
        kernel = self._kernel(call.operation)
        read = (kernel != 0).any(0)[:, needed].any(1)
        return [read & ~self._foldable(call, given[0])]

    def resized(self, call, kept, kept_out, needed, given):
        layer = call.operation
        kernel = self._kernel(layer)
        foldable = self._foldable(call, given[0])
        extra = np.where(needed, _folded(kernel, given[0], foldable), 0.0)
        # What is kept for the sake of others counts as zero, so that the inputs it
        # had need not be there.
        kernel = np.where(foldable[:, np.newaxis] | ~needed, 0, kernel)
        kernel = kernel[:, kept[0]][:, :, kept_out]
        if self._transposed:
            kernel = kernel.swapaxes(-1, -2)
        shape = layer.kernel.shape
        weights = {"kernel": kernel.reshape(*shape[:-2], *kernel.shape[-2:])}
        config = {self._size: int(kept_out.sum())}
        _add_bias(layer, config, weights, kept_out, needed, extra)
        return Resized(config, weights)

    def _kernel(self, layer):
        """The kernel as (window, inputs, outputs)."""
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        kernel = kernel.reshape(-1, *kernel.shape[-2:])
        return kernel.swapaxes(-1, -2) if self._transposed else kernel

    def _foldable(self, call, given):
        layer = call.operation
        if isinstance(layer, layers.Dense) or not (
            self._transposed or pads(layer, call.in_shapes[0])
        ):
            return ~np.isnan(given)
        # A transposed convolution has borders that fewer windows reach.
        return given == 0


class Depthwise(Rule):
    """Each input channel makes outputs of its own, which stay or go with it."""

    def refuses(self, call):
        return _other_weights(call.operation, {"kernel", "bias"})

    def constants(self, call, given):
        layer = call.operation
        values = _of_each_channel(layer, layer.kernel, call.in_shapes[0], given[0])
        return applied(layer.activation, values + _bias(layer, len(values)))

    def ties(self, call, given, classes):
        return np.repeat(given[0], call.operation.depth_multiplier)

    def needed(self, call, needed, given):
        nonzero = _any_weight(call.operation.kernel)
        return [(nonzero & needed.reshape(nonzero.shape)).any(1)]

    def resized(self, call, kept, kept_out, needed, given):
        layer = call.operation
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        weights = {"kernel": kernel[..., kept[0], :]}
        if layer.use_bias:
            weights["bias"] = keras.ops.convert_to_numpy(layer.bias)[kept_out]
        return Resized(weights=weights)


class Separable(Rule):
    """A depthwise convolution, and one of window 1 over what it makes."""

    def refuses(self, call):
        return _other_weights(
            call.operation, {"depthwise_kernel", "pointwise_kernel", "bias"}
        )

    def constants(self, call, given):
        layer = call.operation
        between, pointwise = self._parts(call, given[0])
        changing = (pointwise != 0)[0][np.isnan(between)].any(0)
        values = _bias(layer, pointwise.shape[-1])
        values = values + _folded(pointwise, between, ~np.isnan(between))
        return applied(layer.activation, np.where(changing, np.nan, values))

    def ties(self, call, given, classes):
        return classes.fresh(call.out_shapes[0][-1])

    def needed(self, call, needed, given):
        between, pointwise = self._parts(call, given[0])
        read = (pointwise != 0)[0][:, needed].any(1) & np.isnan(between)
        return [read.reshape(len(given[0]), -1).any(1)]

    def resized(self, call, kept, kept_out, needed, given):
        layer = call.operation
        between, pointwise = self._parts(call, given[0])
        known = ~np.isnan(between)
        extra = np.where(needed, _folded(pointwise, between, known), 0.0)
        pointwise = np.where(known[:, np.newaxis] | ~needed, 0, pointwise)
        rows = np.repeat(kept[0], layer.depth_multiplier)
        shape = (*layer.pointwise_kernel.shape[:-2], rows.sum(), kept_out.sum())
        depthwise = keras.ops.convert_to_numpy(layer.depthwise_kernel)
        weights = {
            "depthwise_kernel": depthwise[..., kept[0], :],
            "pointwise_kernel": pointwise[:, rows][:, :, kept_out].reshape(shape),
        }
        config = {"filters": int(kept_out.sum())}
        _add_bias(layer, config, weights, kept_out, needed, extra)
        return Resized(config, weights)

    def _parts(self, call, given):
        """Constants between the two, and the second one's kernel."""
        layer = call.operation
        between = _of_each_channel(
            layer, layer.depthwise_kernel, call.in_shapes[0], given
        )
        pointwise = keras.ops.convert_to_numpy(layer.pointwise_kernel)
        return between, pointwise.reshape(1, *pointwise.shape[-2:])


def _other_weights(layer, known):
    if others := {weight.name for weight in layer.weights} - known:
        return f"has the weights {sorted(others)}"
    return None


def _any_weight(kernel):
    """Flags (inputs, multiples) of a depthwise kernel: is a weight of it not zero?"""
    kernel = keras.ops.convert_to_numpy(kernel)
    return (kernel != 0).any(tuple(range(kernel.ndim - 2)))


def _of_each_channel(layer, kernel, shape, given):
    """Constants that a depthwise kernel makes, before bias and activation."""
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
    """What the foldable inputs add to each output."""
    used = foldable & (np.nan_to_num(given) != 0)
    return given[used] @ kernel[:, used].sum(0, dtype=np.float64)


def _add_bias(layer, config, weights, kept_out, needed, extra):
    """Adds to the bias, which a layer without one gets if it must."""
    if layer.use_bias or extra[kept_out].any():
        bias = np.where(needed, _bias(layer, len(extra)) + extra, 0.0)
        config["use_bias"] = True
        weights["bias"] = bias[kept_out]


WEIGHTED = {
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
