"""Rules of normalizations: by channel, and over channels."""

import keras
import numpy as np

from tfticket.keras_models.channels.passing import Passing
from tfticket.keras_models.channels.rule import (
    Channels,
    Member,
    Resized,
    Rule,
    cut,
    numbers,
)

layers = keras.layers


class BatchNormalization(Passing):
    """Scales and shifts by moving statistics. A zero gamma makes the constant beta."""

    any_mask = True

    def refuses(self, node):
        axis = node.layer.axis
        axis = axis[0] if isinstance(axis, (list, tuple)) else axis
        if axis not in (-1, len(node.in_shapes[0]) - 1):
            return "does not normalize the last axis"
        return None

    def members(self, node):
        return [
            Member(x, 0, node.inputs[0].labels, zeroed="variance" not in x.name)
            for x in node.layer.weights
        ]

    def constants(self, node, given):
        layer = node.layer
        mean, variance = numbers(layer.moving_mean), numbers(layer.moving_variance)
        scale = 1.0 / np.sqrt(variance + layer.epsilon)
        if layer.scale:
            scale = scale * numbers(layer.gamma)
        shift = numbers(layer.beta) if layer.center else 0.0
        return [np.where(scale == 0, 0.0, (given[0] - mean) * scale) + shift]

    def needed(self, node, needed, given):
        layer = node.layer
        return [needed[0] & (numbers(layer.gamma) != 0) if layer.scale else needed[0]]


class OverChannels(Rule):
    """Statistics over all channels of a position, which count zeros too.

    The kept channels must be normalized by the statistics of the full width, which
    count constant channels, zero or not.
    """

    counts_channels = True

    def refuses(self, node):
        rank = len(node.in_shapes[0])
        axis = node.layer.axis
        axes = axis if isinstance(axis, (list, tuple)) else (axis,)
        if all(x % rank != rank - 1 for x in axes):
            return "normalizes an axis other than the last"
        return None

    def members(self, node):
        return [
            Member(x, len(x.shape) - 1, node.inputs[0].labels)
            for x in node.layer.weights
        ]

    def constants(self, node, given):
        known = np.full(len(given[0]), np.nan)
        shift = 0.0
        for weight in node.layer.weights:
            values = numbers(weight).reshape(-1, weight.shape[-1])
            if weight.name == "beta":
                shift = np.where((values == values[:1]).all(0), values[0], np.nan)
            else:
                known = np.where((values == 0).all(0), 0.0, known)
        return [known + shift]

    def needed(self, node, needed, given):
        return [np.isnan(given[0]) & needed[0].any()]


class LayerNormalization(OverChannels):
    """Mean and variance over channels.

    The smaller layer normalizes the kept channels together with the removed ones, which
    are zeros or other constants, because no smaller width has the same mean and
    variance for all inputs.
    """

    def resized(self, node, kept):
        flags = kept.inputs[0]
        if flags.all():
            return Resized()
        gone = int((~flags).sum())
        weights = {
            name: np.concatenate(
                [value, np.zeros((*value.shape[:-1], gone), value.dtype)], -1
            )
            for name, value in cut(node, kept).items()
        }
        rank = len(node.in_shapes[0])
        # Unknown channels are removed only if nothing reads the layer's output.
        removed = np.nan_to_num(kept.constants[0][~flags])
        shifts = np.concatenate([np.zeros(int(flags.sum())), removed])

        def emit(layer, args, kwargs):
            padding = [(0, 0)] * (rank - 1) + [(0, gone)]
            whole = keras.ops.pad(args[0], padding)
            if removed.any():
                whole = whole + shifts.astype(whole.dtype)
            whole = layer(whole, **kwargs)
            return whole[(slice(None),) * (rank - 1) + (slice(0, -gone),)]

        return Resized(weights=weights, emit=emit)


class RMSNormalization(OverChannels):
    """The mean of squares over channels; a factor corrects it to the full width."""

    def needed(self, node, needed, given):
        if node.shared:
            # Constants differ from call to call.
            return [(given[0] != 0) & needed[0].any()]
        return super().needed(node, needed, given)

    def resized(self, node, kept):
        flags = kept.inputs[0]
        if flags.all():
            return Resized()
        share = flags.sum() / len(flags)
        squares = np.nansum(np.square(kept.constants[0][~flags])) / len(flags)
        weights = {
            name: (value / np.sqrt(share)).astype(value.dtype)
            for name, value in cut(node, kept).items()
        }
        # This corrects x / sqrt(sum / n + epsilon), where the layer has sum / k.
        epsilon = float((node.layer.epsilon + squares) / share)
        return Resized({"epsilon": epsilon}, weights)


class UnitNormalization(OverChannels):
    """The norm over channels, to which zeros contribute nothing."""

    def constants(self, node, given):
        return [np.where(given[0] == 0, 0.0, np.nan)]

    def needed(self, node, needed, given):
        return [(given[0] != 0) & needed[0].any()]


class GroupNormalization(Rule):
    """Statistics of each group of channels; a group is kept or removed as a whole."""

    def refuses(self, node):
        rank = len(node.in_shapes[0])
        if node.layer.axis % rank != rank - 1:
            return "does not normalize the last axis"
        return None

    def outputs(self, node, labels):
        given = node.inputs[0]
        rows = given.labels.reshape(node.layer.groups, -1)
        for column in rows.T[1:]:
            labels.tie(rows[:, 0], column)
        return [Channels(given.labels, given.axis)]

    def members(self, node):
        labels = node.inputs[0].labels
        return [Member(x, 0, labels) for x in node.layer.weights]

    def constants(self, node, given):
        known = np.full(len(given[0]), np.nan)
        if node.layer.scale:
            known = np.where(numbers(node.layer.gamma) == 0, 0.0, known)
        return [known + (numbers(node.layer.beta) if node.layer.center else 0.0)]

    def needed(self, node, needed, given):
        read = needed[0].reshape(node.layer.groups, -1).any(1)
        return [np.repeat(read, len(needed[0]) // len(read))]

    def config(self, node, inputs, outputs):
        return {"groups": node.layer.groups * outputs[0] // len(node.inputs[0])}


NORMALIZATION = {
    layers.BatchNormalization: BatchNormalization(),
    layers.LayerNormalization: LayerNormalization(),
    layers.GroupNormalization: GroupNormalization(),
    layers.UnitNormalization: UnitNormalization(),
}
if hasattr(layers, "RMSNormalization"):
    NORMALIZATION[layers.RMSNormalization] = RMSNormalization()
