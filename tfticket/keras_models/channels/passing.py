"""Rules of layers that treat channels separately."""

import keras
import numpy as np

from tfticket.keras_models.channels.rule import (
    ACTIVATION_LAYERS,
    Member,
    Resized,
    Rule,
    acts_by_element,
    applied,
    cut,
    finite,
    numbers,
    pads,
)

layers = keras.layers


class Passing(Rule):
    """Treats channels separately, and leaves constants unchanged."""

    def constants(self, node, given):
        return [given[0]] * len(node.outputs)

    def needed(self, node, needed, given):
        return [needed[0], *(np.ones(len(x), bool) for x in given[1:])]


class OverPositions(Passing):
    """A mean or maximum over positions; a mask may exclude all of them."""

    any_mask = False


class ElementWise(Passing):
    """An activation in the form of a layer."""

    def refuses(self, node):
        function = getattr(node.layer, "activation", None)
        if not acts_by_element(function):
            return "its activation may mix channels"
        return None

    def constants(self, node, given):
        return [applied(node.layer, given[0])]


class PReLU(Passing):
    """Trained slopes, by channel and possibly by position."""

    def members(self, node):
        alpha = node.layer.alpha
        if alpha.shape[-1] == 1:
            return []
        return [Member(alpha, len(alpha.shape) - 1, node.inputs[0].labels)]

    def constants(self, node, given):
        alpha = numbers(node.layer.alpha)
        alpha = alpha.reshape(-1, alpha.shape[-1])
        slope = np.where((alpha == alpha[:1]).all(0), alpha[0], np.nan)
        return [np.where(given[0] >= 0, given[0], slope * given[0])]


class LayerScale(Passing):
    """One factor per channel, as in ConvNeXt."""

    def members(self, node):
        return [Member(node.layer.gamma, 0, node.inputs[0].labels)]

    def constants(self, node, given):
        gamma = numbers(node.layer.gamma)
        return [np.where(gamma == 0, 0.0, given[0] * gamma)]

    def needed(self, node, needed, given):
        return [needed[0] & (numbers(node.layer.gamma) != 0)]

    def config(self, node, inputs, outputs):
        return {"projection_dim": outputs[0]}


class Rescaling(Passing):
    """A scale and an offset, shared by all channels or one per channel."""

    def refuses(self, node):
        for value in self._parts(node):
            if np.ndim(value) > 1:
                return "has a scale or an offset by position"
        return None

    def constants(self, node, given):
        scale, offset = self._parts(node)
        return [finite(given[0] * scale + offset)]

    def resized(self, node, kept):
        if kept.inputs[0].all():
            return Resized()
        names = ("scale", "offset")
        config = {
            name: value[kept.inputs[0]].tolist()
            for name, value in zip(names, self._parts(node), strict=True)
            if value.ndim == 1 and len(value) > 1
        }
        return Resized(config)

    def _parts(self, node):
        return [np.asarray(x, float) for x in (node.layer.scale, node.layer.offset)]


class Normalization(Passing):
    """Adapted means and variances per channel, which inference does not change."""

    def refuses(self, node):
        rank = len(node.in_shapes[0])
        axis = node.layer.axis
        axes = axis if isinstance(axis, (list, tuple)) else (axis,)
        if any(x % rank != rank - 1 for x in axes if x is not None):
            return "normalizes an axis other than the last"
        if node.layer.invert:
            return "inverts a normalization"
        return None

    def constants(self, node, given):
        mean, variance = (
            np.ravel(keras.ops.convert_to_numpy(x)).astype(float)
            for x in (node.layer.mean, node.layer.variance)
        )
        scale = np.maximum(np.sqrt(variance), keras.config.epsilon())
        return [(given[0] - mean) / scale]

    def members(self, node):
        by_channel = [x for x in node.layer.weights if len(x.shape) == 1]
        labels = node.inputs[0].labels
        return [Member(x, 0, labels, zeroed=False) for x in by_channel]

    def inside(self, node, needed):
        return []

    def resized(self, node, kept):
        if kept.inputs[0].all() or not self._by_channel(node):
            return Resized()
        if node.members:
            return Resized(weights=cut(node, kept))
        given = (node.layer.input_mean, node.layer.input_variance)
        names = ("mean", "variance")
        return Resized(
            {
                name: np.ravel(value)[kept.inputs[0]].tolist()
                for name, value in zip(names, given, strict=True)
                if np.size(value) > 1
            }
        )

    def _by_channel(self, node):
        return np.size(node.layer.mean) > 1


class ZeroPadding(Passing):
    """Zeros at the border, after which only the constant zero is still constant."""

    def constants(self, node, given):
        return [np.where(given[0] == 0, given[0], np.nan)]


class AveragePooling(Passing):
    """A mean, which on some backends excludes the border."""

    def constants(self, node, given):
        if pads(node.layer, node.in_shapes[0]):
            return [np.where(given[0] == 0, given[0], np.nan)]
        return [given[0]]


class UpSampling(Passing):
    """Repeats or interpolates values; constants stay constant."""

    def constants(self, node, given):
        keeps = ("nearest", "bilinear")
        if getattr(node.layer, "interpolation", "nearest") in keeps:
            return [given[0]]
        return [np.where(given[0] == 0, given[0], np.nan)]


def of_keras(*names):
    """The layers with these names that this Keras has."""
    return [getattr(layers, name) for name in names if hasattr(layers, name)]


def in_each_rank(*names):
    """The layers with these names and 1D, 2D and 3D."""
    return of_keras(*(f"{name}{rank}D" for name in names for rank in (1, 2, 3)))


_BY_RULE = [
    (
        Passing(),
        [
            *of_keras("Identity", "SpatialDropout1D", "SpatialDropout2D"),
            *of_keras("SpatialDropout3D", "GaussianNoise", "GaussianDropout"),
            *of_keras("ActivityRegularization", "RepeatVector", "Dropout"),
            *of_keras("AlphaDropout"),
            *in_each_rank("MaxPooling", "Cropping"),
            *in_each_rank("AdaptiveMaxPooling", "AdaptiveAveragePooling"),
        ],
    ),
    (OverPositions(), in_each_rank("GlobalMaxPooling", "GlobalAveragePooling")),
    (ElementWise(), [layers.Activation, *ACTIVATION_LAYERS]),
    (PReLU(), [layers.PReLU]),
    (Rescaling(), [layers.Rescaling]),
    (Normalization(), [layers.Normalization]),
    (ZeroPadding(), in_each_rank("ZeroPadding")),
    (AveragePooling(), in_each_rank("AveragePooling")),
    (UpSampling(), in_each_rank("UpSampling")),
]
PASSING = {kind: rule for rule, kinds in _BY_RULE for kind in kinds}
# Layers of keras.applications, whose classes are not public.
BY_NAME = {"LayerScale": LayerScale(), "StochasticDepth": Passing()}
