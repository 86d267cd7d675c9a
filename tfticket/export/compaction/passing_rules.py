"""Rules of the layers that compute no sum over channels."""

import keras
import numpy as np

from tfticket.export.compaction.channels import (
    ACTIVATION_LAYERS,
    Resized,
    Rule,
    acts_by_element,
    applied,
    pads,
)

layers = keras.layers


class Dropout(Rule):
    """Dropout: nothing in inference."""

    def refuses(self, call):
        if getattr(call.operation, "noise_shape", None) is not None:
            return "has a noise_shape"
        return None


class ElementWise(Rule):
    """An activation that is a layer."""

    def refuses(self, call):
        function = getattr(call.operation, "activation", None)
        if not acts_by_element(function):
            return "its activation may mix channels"
        return None

    def constants(self, call, given):
        return applied(call.operation, given[0])


class PReLU(Rule):
    """Slopes of its own, by channel and perhaps by position."""

    def constants(self, call, given):
        alpha = _positions_by_channels(call.operation.alpha)
        slope = np.where((alpha == alpha[:1]).all(0), alpha[0], np.nan)
        return np.where(given[0] >= 0, given[0], slope * given[0])

    def resized(self, call, kept, kept_out, needed, given):
        alpha = keras.ops.convert_to_numpy(call.operation.alpha)
        # One of all channels has an axis of one.
        return Resized(
            weights={"alpha": alpha[..., kept[0]] if alpha.shape[-1] > 1 else alpha}
        )


class BatchNormalization(Rule):
    """Scale and shift by the moving statistics. Gamma zero makes a constant: beta."""

    def refuses(self, call):
        axis = call.operation.axis
        axis = axis[0] if isinstance(axis, (list, tuple)) else axis
        if axis not in (-1, len(call.in_shapes[0]) - 1):
            return "does not normalize the last axis"
        return None

    def constants(self, call, given):
        layer = call.operation
        mean, variance = _numbers(layer.moving_mean), _numbers(layer.moving_variance)
        scale = 1.0 / np.sqrt(variance + layer.epsilon)
        if layer.scale:
            scale = scale * _numbers(layer.gamma)
        shift = _numbers(layer.beta) if layer.center else 0.0
        return np.where(scale == 0, 0.0, (given[0] - mean) * scale) + shift

    def needed(self, call, needed, given):
        layer = call.operation
        return [needed & (_numbers(layer.gamma) != 0) if layer.scale else needed]

    def resized(self, call, kept, kept_out, needed, given):
        return Resized(
            weights={
                weight.name: keras.ops.convert_to_numpy(weight)[kept[0]]
                for weight in call.operation.weights
            }
        )


class ZeroPadding(Rule):
    """Zeros around: of the constants, only zero stays one."""

    def constants(self, call, given):
        return np.where(given[0] == 0, given[0], np.nan)


class AveragePooling(Rule):
    """A mean, of what is inside the border on some backends only."""

    def constants(self, call, given):
        if pads(call.operation, call.in_shapes[0]):
            return np.where(given[0] == 0, given[0], np.nan)
        return given[0]


class UpSampling(Rule):
    """Repeats, or averages that keep what is constant."""

    def constants(self, call, given):
        if getattr(call.operation, "interpolation", "nearest") in (
            "nearest",
            "bilinear",
        ):
            return given[0]
        return np.where(given[0] == 0, given[0], np.nan)


class Reshape(Rule):
    """Flatten and Reshape: the same numbers, in the same order, in other rows.

    Channels of the output are tied where the same channel of the input reaches
    them, and the other way round.
    """

    def refuses(self, call):
        before, after = call.in_shapes[0], call.out_shapes[0]
        if before[-1] != after[-1] and None in (*before[1:], *after[1:]):
            return "reshapes an unknown size"
        return None

    def constants(self, call, given):
        if (sources := _sources(call)) is None:
            return given[0]
        values = given[0][sources]
        return np.where((values == values[:1]).all(0), values[0], np.nan)

    def ties(self, call, given, classes):
        if (sources := _sources(call)) is None:
            return given[0]
        labels = given[0][sources]
        for row in labels[1:]:
            classes.tie(labels[0], row)
        return labels[0]

    def needed(self, call, needed, given):
        if (sources := _sources(call)) is None:
            return [needed]
        result = np.zeros(given[0].shape, bool)
        result[sources[:, needed]] = True
        return [result]

    def resized(self, call, kept, kept_out, needed, given):
        if not isinstance(call.operation, layers.Reshape):
            return Resized()
        target = (*call.operation.target_shape[:-1], int(kept_out.sum()))
        return Resized({"target_shape": target})


class Permute(Rule):
    """Positions change places; channels may not."""

    def refuses(self, call):
        if call.operation.dims[-1] != len(call.operation.dims):
            return "moves the channel axis"
        return None


class Merge(Rule):
    """Several inputs, element by element.

    A channel is there in all inputs or in none. An input with one channel for all of
    the others is tied to none of them, and never empty.

    Args:
        function: Constants, stacked along a new first axis, to constants.
    """

    def __init__(self, function):
        self.function = function

    def refuses(self, call):
        if len({len(shape) for shape in call.in_shapes}) > 1:
            return "has inputs of several ranks"
        return None

    def constants(self, call, given):
        width = call.out_shapes[0][-1]
        return self.function(np.stack([np.broadcast_to(x, width) for x in given]))

    def ties(self, call, given, classes):
        wide = [x for x in given if len(x) == call.out_shapes[0][-1]]
        for labels in wide[1:]:
            classes.tie(wide[0], labels)
        return wide[0]

    def needed(self, call, needed, given):
        alone = np.array([needed.any()])
        return [needed if len(x) == len(needed) else alone for x in given]


def _product(values):
    return np.where((values == 0).any(0), 0.0, np.prod(values, 0))


class Concatenate(Rule):
    """Inputs beside each other: in channels, or in positions."""

    def _joins_channels(self, call):
        return call.operation.axis in (-1, len(call.out_shapes[0]) - 1)

    def refuses(self, call):
        if call.operation.axis in (0, -len(call.out_shapes[0])):
            return "joins samples"
        return None

    def constants(self, call, given):
        if self._joins_channels(call):
            return np.concatenate(given)
        values = np.stack(given)
        return np.where((values == values[:1]).all(0), values[0], np.nan)

    def ties(self, call, given, classes):
        if self._joins_channels(call):
            return np.concatenate(given)
        for labels in given[1:]:
            classes.tie(given[0], labels)
        return given[0]

    def needed(self, call, needed, given):
        if self._joins_channels(call):
            return np.split(needed, np.cumsum([len(x) for x in given])[:-1])
        return [needed for _ in given]


def _sources(call):
    """Channels of the input that channels of the output are made of.

    Returns:
        Array of (positions, output channels), or `None` where each is its own.
        Positions that are made of the same channels are there once.
    """
    before, after = call.in_shapes[0], call.out_shapes[0]
    if before[-1] == after[-1]:
        # In rows of that length, a number's place in its row stays what it was.
        return None
    channels = np.broadcast_to(np.arange(before[-1]), before[1:])
    return np.unique(channels.reshape(-1, after[-1]), axis=0)


def _numbers(weight):
    return keras.ops.convert_to_numpy(weight).astype(np.float64)


def _positions_by_channels(weight):
    values = _numbers(weight)
    return values.reshape(-1, values.shape[-1])


def _of_keras(*names):
    """The layers of these names that this Keras has."""
    return [getattr(layers, name) for name in names if hasattr(layers, name)]


def _in_each_rank(*names):
    return _of_keras(*(f"{name}{rank}D" for name in names for rank in (1, 2, 3)))


_BY_RULE = [
    (
        Rule(),
        [
            *_of_keras("Identity", "SpatialDropout1D", "SpatialDropout2D"),
            *_of_keras("SpatialDropout3D", "GaussianNoise", "GaussianDropout"),
            *_of_keras("ActivityRegularization", "RepeatVector"),
            *_in_each_rank("MaxPooling", "GlobalMaxPooling", "GlobalAveragePooling"),
            *_in_each_rank("AdaptiveMaxPooling", "AdaptiveAveragePooling", "Cropping"),
        ],
    ),
    (Dropout(), [layers.Dropout, layers.AlphaDropout]),
    (ElementWise(), [layers.Activation, *ACTIVATION_LAYERS]),
    (PReLU(), [layers.PReLU]),
    (BatchNormalization(), [layers.BatchNormalization]),
    (ZeroPadding(), _in_each_rank("ZeroPadding")),
    (AveragePooling(), _in_each_rank("AveragePooling")),
    (UpSampling(), _in_each_rank("UpSampling")),
    (Reshape(), [layers.Flatten, layers.Reshape]),
    (Permute(), [layers.Permute]),
    (Concatenate(), [layers.Concatenate]),
    (Merge(lambda values: np.sum(values, 0)), [layers.Add]),
    (Merge(lambda values: values[0] - values[1]), [layers.Subtract]),
    (Merge(_product), [layers.Multiply]),
    (Merge(lambda values: np.max(values, 0)), [layers.Maximum]),
    (Merge(lambda values: np.min(values, 0)), [layers.Minimum]),
    (Merge(lambda values: np.mean(values, 0)), [layers.Average]),
]
PASSING = {kind: rule for rule, kinds in _BY_RULE for kind in kinds}
# Operations of the graph, what `x + y` makes of two tensors.
OPERATIONS = {
    name: PASSING[getattr(layers, name)]
    for name in ("Add", "Subtract", "Multiply", "Maximum", "Minimum")
}
