"""Statistics of BatchNormalization as a pruned network has them."""

import contextlib
from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfticket.common.arguments import check_instance, shown
from tfticket.keras_models.names import every_layer
from tfticket.pruning.blocks import gradients
from tfticket.pruning.calibration import batches_of, calling


def renew_batch_norm(
    model: keras.Model, data: Any, batch_size: int = 128, batches: int | None = None
) -> int:
    """Computes the moving statistics of BatchNormalization anew, without training.

    What a layer was pruned of changes the mean and variance of all that follows. This
    goes once through data, with each BatchNormalization normalizing by the batch at
    hand, and takes the mean and variance over all of it. Nothing else changes.

    Args:
        model: A model, wrapped or not; it is changed in place.
        data: Samples as for `tfticket.one_shot`. A few hundred will do.
        batch_size: Samples in a batch, of arrays. The larger, the closer the statistics
            of a batch come to those of all data.
        batches: How many batches to take. `None` is all.

    Returns:
        How many layers have new statistics: 0 without a BatchNormalization.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there are no samples, or what a layer sees is not finite. The
            model is then as it was.

    Example:

    >>> layers = [keras.Input((3,)), keras.layers.BatchNormalization()]
    >>> model = keras.Sequential(layers)
    >>> samples = np.array([[1.0, 2.0, 3.0], [3.0, 2.0, 1.0]])
    >>> tfticket.renew_batch_norm(model, samples)
    1
    >>> np.array(model.layers[0].moving_mean)
    array([2., 2., 2.], dtype=float32)
    """
    check_instance("model", model, keras.Model, "a keras.Model")
    found = [
        layer
        for _, layer in every_layer(model)
        if isinstance(layer, keras.layers.BatchNormalization)
    ]
    seen = {id(layer): _Moments(layer) for layer in found}
    samples = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(gradients(False))
        for layer in found:
            stack.enter_context(_watched(layer, seen[id(layer)]))
        for batch in batches_of(data, batch_size, batches):
            _call(model, batch, data)
            samples += 1
    if not samples:
        raise ValueError("data holds no samples.")
    for layer in found:
        seen[id(layer)].require_finite(layer)
    renewed = [layer for layer in found if seen[id(layer)].count]
    for layer in renewed:
        mean, variance = seen[id(layer)].found()
        layer.moving_mean.assign(mean)
        layer.moving_variance.assign(variance)
    return len(renewed)


class _Moments:
    """Sums of what one layer sees, by channel."""

    def __init__(self, layer):
        self._axis = layer.axis
        self.count = 0
        self._sum: Any = 0.0
        self._squares: Any = 0.0

    def see(self, x):
        """The mean and variance of a batch, which are added to all others."""
        axes = [i for i in range(len(x.shape)) if i != self._axis % len(x.shape)]
        mean, variance = ops.moments(ops.cast(x, "float32"), axes)
        count = int(np.prod([x.shape[i] for i in axes]))
        m, v = (ops.convert_to_numpy(a).astype(np.float64) for a in (mean, variance))
        self._sum = self._sum + count * m
        self._squares = self._squares + count * (v + m**2)
        self.count += count
        return mean, variance

    def found(self):
        mean = self._sum / self.count
        return mean, np.maximum(self._squares / self.count - mean**2, 0.0)

    def require_finite(self, layer):
        if not np.all(np.isfinite(self._squares)):
            raise ValueError(
                f"What '{layer.name}' sees on the data is not finite. Is there a NaN "
                "in the data, or in the weights before it?"
            )


@contextlib.contextmanager
def _watched(layer: keras.layers.Layer, moments: _Moments) -> Iterator[None]:
    """While it lasts, the layer normalizes by the batch at hand."""
    call = layer.call
    variables = layer.moving_mean, layer.moving_variance

    def seen(inputs, *args, **kwargs):
        values = zip(variables, moments.see(inputs), strict=True)
        scope = keras.StatelessScope(
            [(x, ops.cast(value, x.dtype)) for x, value in values]
        )
        with scope:
            return call(inputs, *args, **kwargs)

    with calling(layer, seen):
        yield


def _call(model, batch, data):
    try:
        model(batch, training=False)
    except Exception as error:
        first = str(error).strip().partition("\n")[0]
        raise ValueError(
            f"data must be what model '{model.name}' takes, and calling it failed: "
            f"{type(error).__name__}: {first} Received: data={shown(data)}"
        ) from error
