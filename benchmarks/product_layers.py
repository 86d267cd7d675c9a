"""Sign-In (Gadhikar et al. 2025, arXiv 2504.12801): kernels that are products m * w.

The mask stays, as in static sparse training. A product can change its sign more easily
than a weight can: m stays positive while w passes 0. Every so often both are taken back
to m^2 - w^2 = 1, which leaves the product as it is.
"""

from collections.abc import Mapping

import keras
import numpy as np


class ProductDense(keras.layers.Layer):
    """A dense layer whose kernel is mask * m * w.

    Args:
        units: Number of outputs.
        activation: As of a Dense layer.
    """

    def __init__(self, units: int, activation, **kwargs):
        super().__init__(**kwargs)
        self.units, self.activation = units, activation

    def build(self, input_shape):
        shape = (input_shape[-1], self.units)
        self.m = self.add_weight(shape=shape, name="m")
        self.w = self.add_weight(shape=shape, name="w")
        self.mask = self.add_weight(shape=shape, trainable=False, name="mask")
        self.bias = self.add_weight(shape=(self.units,), name="bias")

    def call(self, inputs):
        kernel = self.mask * self.m * self.w
        return self.activation(keras.ops.matmul(inputs, kernel) + self.bias)

    @property
    def kernel(self) -> np.ndarray:
        """What it computes with."""
        return keras.ops.convert_to_numpy(self.mask * self.m * self.w)

    def put(self, kernel: np.ndarray) -> None:
        """Splits a kernel into factors with m^2 - w^2 = 1."""
        m = np.sqrt((np.sqrt(4 * kernel**2 + 1) + 1) / 2)
        self.m.assign(m)
        self.w.assign(kernel / m)


def of_products(model: keras.Sequential) -> keras.Sequential:
    """A network like this one, its dense layers made of products.

    Args:
        model: Of dense layers and others without weights.
    """
    return keras.Sequential(
        [
            keras.Input(model.input_shape[1:]),
            *(
                ProductDense(x.units, x.activation, name=x.name)
                if isinstance(x, keras.layers.Dense)
                else type(x).from_config(x.get_config())
                for x in model.layers
            ),
        ]
    )


def begin(
    model: keras.Sequential,
    kernels: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
) -> None:
    """Gives a network of products its initial kernels and masks.

    Args:
        model: Of `of_products`.
        kernels: Name of a layer's kernel to its values.
        masks: Name of a layer's kernel to its mask.
    """
    for layer in product_layers(model):
        layer.put(kernels[f"{layer.name}/kernel"])
        layer.mask.assign(masks[f"{layer.name}/kernel"])


def product_layers(model: keras.Sequential) -> list[ProductDense]:
    """The layers whose kernels are products."""
    return [layer for layer in model.layers if isinstance(layer, ProductDense)]


class Rebalance(keras.callbacks.Callback):
    """Takes the factors back to m^2 - w^2 = 1 every so many steps.

    Args:
        frequency: Steps from one time to the next.
        end: Step after which the factors stay as they are.
    """

    def __init__(self, frequency: int, end: int):
        super().__init__()
        self._frequency, self._end, self._done = frequency, end, 0

    def on_train_batch_end(self, batch, logs=None):
        step = int(self.model.optimizer.iterations)
        if step // self._frequency > self._done and step <= self._end:
            self._done = step // self._frequency
            for layer in product_layers(self.model):
                layer.put(keras.ops.convert_to_numpy(layer.m * layer.w))
