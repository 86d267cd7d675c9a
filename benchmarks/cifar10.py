"""CIFAR-10 for the benchmarks that train on a CPU: images, crops and flips, and SGD."""

import time
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

PAD = 4  # pixels that a crop may move


def read_images(path: str) -> list[np.ndarray]:
    """Training images and labels, and those of the test.

    Args:
        path: An .npz with x_train, y_train, x_test and y_test; images are uint8.
    """
    with np.load(path) as arrays:
        names = ("x_train", "y_train", "x_test", "y_test")
        return [arrays[name] for name in names]


def accuracy(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """The share of images whose largest output is that of the label."""
    outputs = model.predict(x.astype(np.float32), batch_size=500, verbose=0)
    return float((np.argmax(outputs, -1) == y).mean())


def one_thread() -> None:
    """Leaves the other cores to others; before anything is computed."""
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)


def augmented(x: Any, y: Any) -> tuple[Any, Any]:
    """Images cropped and flipped at random, as in resnet8.py."""
    size = x.shape[1]
    x = tf.pad(tf.cast(x, tf.float32), [[0, 0], [PAD, PAD], [PAD, PAD], [0, 0]])
    count = tf.shape(x)[0]
    move = tf.random.uniform([count, 2], 0, 2 * PAD + 1, tf.int32)
    place = tf.range(size)[None]
    flipped = tf.random.uniform([count, 1]) < 0.5
    columns = move[:, 1:] + tf.where(flipped, size - 1 - place, place)
    x = tf.gather(x, move[:, :1] + place, axis=1, batch_dims=1)
    return tf.gather(x, columns, axis=2, batch_dims=1), y


def train(
    model: keras.Model,
    x: np.ndarray,
    y: np.ndarray,
    *,
    epochs: int,
    seed: int,
    batch: int,
    rate: float,
    decay: float,
    callbacks: Sequence[keras.callbacks.Callback] = (),
) -> int:
    """Trains by SGD on the labels alone and says in how many seconds.

    The rate rises for 5 % of the steps and falls as a cosine.

    Args:
        model: Gives logits.
        x: Images.
        y: Labels.
        epochs: How often each is seen.
        seed: Seed of the order of the images.
        batch: Images in a step.
        rate: Highest learning rate.
        decay: Decoupled weight decay, of kernels.
        callbacks: Keras callbacks for `fit`.
    """
    images = tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y), seed=seed)
    images = images.batch(batch, drop_remainder=True).map(augmented).prefetch(2)
    steps = epochs * (len(y) // batch)
    warmup = max(1, steps // 20)
    rates = keras.optimizers.schedules.CosineDecay(
        rate / 100, steps - warmup, warmup_target=rate, warmup_steps=warmup
    )
    optimizer = keras.optimizers.SGD(
        rates, momentum=0.9, nesterov=True, weight_decay=decay
    )
    optimizer.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(optimizer, loss, metrics=["accuracy"], jit_compile=False)
    start = time.perf_counter()
    model.fit(images, epochs=epochs, verbose=2, callbacks=list(callbacks))
    return round(time.perf_counter() - start)
