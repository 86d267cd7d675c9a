"""Augmentation by a Keras layer: kept as text, drawn by the seed and number of a batch.

Keras's layers for images draw from a state that goes on from call to call, so what a
batch becomes would depend on all batches before, those too that were prefetched and
never used. Here each call begins with a state of its own.
"""

import hashlib
import json
from typing import Any

import keras
import numpy as np

from tfticket.common.arguments import check_bool, shown

# Numbers that a layer may draw for one batch without those of the next.
_DRAWS = 64


def check_augment(name: str, value: Any) -> bool | str:
    """The value as a bool, or the layer as text that makes it again.

    Args:
        name: Name of the argument, for the error.
        value: A bool, a `keras.layers.Layer`, or what this returned of one.

    Returns:
        The bool, or JSON. Equal layers give the same text: names that Keras counted up
        are replaced.

    Raises:
        TypeError: If it is anything else.
        ValueError: If the layer can't be made again from its configuration.

    Example:

    >>> text = check_augment("augment", keras.layers.RandomFlip("horizontal"))
    >>> text == check_augment("augment", text)
    True
    """
    if isinstance(value, str):
        try:
            config = json.loads(value)
        except ValueError:
            config = None
        if not isinstance(config, dict):
            raise ValueError(
                f"{name} must be True, False, a Keras layer, or the JSON of one. "
                f"Received: {name}={shown(value)}"
            )
    elif isinstance(value, keras.layers.Layer):
        config = keras.saving.serialize_keras_object(value)
    elif isinstance(value, type) or hasattr(value, "call"):
        raise TypeError(
            f"{name} must be True, False or a Keras layer. "
            f"Received: {name}={shown(value)}"
        )
    else:
        return check_bool(name, value)
    try:
        text = json.dumps(_renamed(config, [0]), sort_keys=True)
        make(text)
    except Exception as error:
        raise ValueError(
            f"{name} must be a layer that its configuration makes again: {error} "
            f"Received: {name}={shown(value)}"
        ) from error
    return text


def make(text: str) -> keras.layers.Layer:
    """The layer that `check_augment` made a text of."""
    layer = keras.saving.deserialize_keras_object(json.loads(text))
    if not isinstance(layer, keras.layers.Layer):
        raise ValueError("It is no layer.")
    return layer


class Augmenter:
    """A layer whose random numbers follow from a seed and the number of a batch.

    Args:
        text: What `check_augment` returned of the layer.
        images: A few images, to try it on.

    Raises:
        ValueError: If the layer gives images of another shape or type, or other ones
            when it is called again with the same seed and number.
    """

    def __init__(self, text: str, images: np.ndarray):
        if keras.backend.backend() != "tensorflow":
            raise ValueError(
                "augment by a Keras layer needs the TensorFlow backend, where its "
                f"random numbers can be set. Received: augment={shown(text)}"
            )
        self._layer = make(text)
        self._states: list[Any] | None = None
        self._check(text, images)

    def __call__(self, images: Any, seed: int, number: Any) -> Any:
        """The images of a batch, augmented.

        Args:
            images: The batch, a tensor.
            seed: Seed of the training.
            number: Number of the batch in it.
        """
        import tensorflow as tf

        first = tf.cast(tf.cast(number, tf.int64) * _DRAWS & 0xFFFFFFFF, tf.uint32)
        for place, state in enumerate(self._states or ()):
            # Of each generator its own: two with one seed would draw the same.
            word = hashlib.sha256(f"augment {place} {seed}".encode()).digest()[:4]
            own = tf.constant(int.from_bytes(word, "big"), tf.uint32)
            state.assign(tf.stack([own, first]))
        return self._layer(images, training=True)

    def _check(self, text, images):
        self._layer(images, training=True)  # which builds it
        self._states = [
            variable
            for variable in self._layer.variables
            if variable.name == "seed_generator_state"
        ]
        first, _, again = (np.asarray(self(images, 0, number)) for number in (0, 1, 0))
        if first.shape != images.shape or first.dtype != images.dtype:
            raise ValueError(
                f"augment must keep images of shape {images.shape} and {images.dtype}, "
                f"and makes {first.shape} and {first.dtype} of them. "
                f"Received: augment={shown(text)}"
            )
        if first.tobytes() != again.tobytes():
            raise ValueError(
                "augment must draw its random numbers from keras.random.SeedGenerator, "
                "or a training could not be resumed: called with the same seed twice "
                f"it gave two results. Received: augment={shown(text)}"
            )


def _renamed(config, count):
    """A configuration, its layers named by their order."""
    if isinstance(config, list):
        return [_renamed(part, count) for part in config]
    if not isinstance(config, dict):
        return config
    found = {
        key: _renamed(part, count)
        for key, part in config.items()
        if key not in ("build_config", "build_input_shape")
    }
    if found.get("class_name") == "Sequential":
        # Where it was called there is an input, and it may be called with other ones.
        config = found["config"]
        inputs = [x for x in config["layers"] if x["class_name"] == "InputLayer"]
        config["layers"] = [x for x in config["layers"] if x not in inputs]
    # Only layers have both: a policy of types has a name that means something.
    if {"name", "trainable"} <= set(found.get("config") or ()):
        found["config"]["name"] = f"augment_{count[0]}"
        count[0] += 1
    return found
