"""`PopupModel`: a model in which the edges of all popup layers compete."""

import contextlib
import math
from collections.abc import Iterator

import keras
from keras import ops

from tfticket.edge_popup.layers import Popup
from tfticket.edge_popup.topk_in_graph import top_mask
from tfticket.keras_models.masked_layer import MaskedModel
from tfticket.keras_models.names import every_layer


@keras.saving.register_keras_serializable(package="tfticket")
class PopupModel(MaskedModel, keras.Model):
    """A Functional model whose popup layers have `score_scope="global"`.

    One threshold goes through the scores of all its popup layers, so that layers
    share out the edges kept among themselves. In total exactly
    `round(density * n)` are kept, ties by order of the layers, then by index.
    `tfticket.popup(model, score_scope="global")` makes one; layer names and
    attributes are those of `keras.Model`.
    """

    def call(self, inputs, training=None, mask=None):
        with self.masks_in_use():
            return super().call(inputs, training=training, mask=mask)

    def as_plain_model(self) -> keras.Model:
        """A `keras.Model` of the same layers, which then need `masks_in_use`."""
        return keras.Model(self.inputs, self.outputs, name=self.name)

    @contextlib.contextmanager
    def masks_in_use(self) -> Iterator[None]:
        """Inside, the popup layers know which edges they use."""
        layers = popup_layers(self)
        if layers:
            scores = [ops.stop_gradient(layer.scores.value) for layer in layers]
            joined = ops.concatenate([ops.reshape(ops.abs(s), (-1,)) for s in scores])
            kept = sum(layer.kept.value for layer in layers)
            mask, threshold = top_mask(joined, kept, layers[0].threshold)
            layers[0].threshold.assign(threshold)
            start = 0
            for layer, score in zip(layers, scores, strict=True):
                size = math.prod(score.shape)
                layer._global_mask = ops.reshape(
                    mask[start : start + size], score.shape
                )
                start += size
        try:
            yield
        finally:
            for layer in layers:
                layer._global_mask = None


def popup_layers(model: keras.Model) -> list[Popup]:
    """The popup layers of a model, nested ones included, each once."""
    return [layer for _, layer in every_layer(model) if isinstance(layer, Popup)]
