"""Initial weights that the papers use and Keras does not have."""

import keras
from keras import ops


@keras.saving.register_keras_serializable(package="tfticket")
class SignedConstant(keras.initializers.Initializer):
    """Plus or minus one constant, each with probability a half.

    Args:
        value: The constant.
        seed: Integer; `None` draws one from Keras's global seed.

    Example:

    >>> values = tfticket.initializers.SignedConstant(0.5)((3, 2))
    >>> bool(np.all(np.abs(values) == 0.5))
    True
    """

    def __init__(self, value: float = 1.0, seed: int | None = None):
        self.value = value
        self._random = keras.initializers.RandomUniform(-1.0, 1.0, seed)
        self.seed = self._random.seed

    def __call__(self, shape, dtype=None):
        uniform = self._random(shape, dtype)
        value = ops.cast(self.value, uniform.dtype)
        return ops.where(uniform < 0, -value, value)

    def get_config(self):
        return {"value": self.value, "seed": self.seed}
