"""Accuracy of a classifier on images that are moved against it: FGSM and PGD."""

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import ops

from tfticket.common.arguments import (
    check_array,
    check_bool,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    shown,
)
from tfticket.keras_models.gradients import compiled, gradient_of, tensors

METHODS = ("fgsm", "pgd")


def attacked_accuracy(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    method: str,
    epsilon: float | np.ndarray,
    steps: int = 10,
    step_size: float | np.ndarray | None = None,
    batch_size: int = 1000,
    low: float | np.ndarray | None = None,
    high: float | np.ndarray | None = None,
    seed: int = 0,
    from_logits: bool = True,
) -> float:
    """Accuracy on the images that `attacked_images` makes of these.

    Args:
        model: As for `attacked_images`, and so is every other argument.

    Returns:
        Fraction of the images whose label has the highest output, in [0, 1].

    Raises:
        ValueError: As `attacked_images`.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.eye(2), np.zeros(2)])
    >>> images, labels = np.array([[1.0, 0.5], [0.0, 2.0]]), np.array([0, 1])
    >>> attacked_accuracy(model, images, labels, "fgsm", epsilon=0.0)
    1.0
    >>> attacked_accuracy(model, images, labels, "fgsm", epsilon=0.5)
    0.5
    """
    moved = attacked_images(
        model,
        images,
        labels,
        method,
        epsilon,
        steps,
        step_size,
        batch_size,
        low,
        high,
        seed,
        from_logits,
    )
    function, values = _as_function(model)
    function = compiled(function)
    right = 0
    for rows, size in _batches(len(moved), batch_size):
        outputs = function(values, ops.convert_to_tensor(moved[rows]))
        guesses = np.argmax(ops.convert_to_numpy(outputs), axis=-1)
        right += int(np.sum((guesses == np.asarray(labels)[rows])[:size]))
    return right / len(moved)


def attacked_images(
    model: keras.Model,
    images: np.ndarray,
    labels: np.ndarray,
    method: str,
    epsilon: float | np.ndarray,
    steps: int = 10,
    step_size: float | np.ndarray | None = None,
    batch_size: int = 1000,
    low: float | np.ndarray | None = None,
    high: float | np.ndarray | None = None,
    seed: int = 0,
    from_logits: bool = True,
) -> np.ndarray:
    """Images moved so that a classifier's loss rises, none by more than `epsilon`.

    FGSM is one step of `epsilon` along the sign of the gradient of the loss
    (Goodfellow et al. 2015, arXiv 1412.6572). PGD starts at random inside the ball and
    goes several steps, back onto the ball after each (Madry et al. 2018, arXiv
    1706.06083). The model runs with `training=False` and stays as it is. What is made
    of an image does not depend on `batch_size`, but for rounding.

    Args:
        model: A built classifier of one input, with outputs (n, classes).
        images: Float array (n, ..., channels), normalised as the model wants them.
        labels: Integer array (n,).
        method: "fgsm" or "pgd".
        epsilon: Radius of the ball in the maximum norm, in the units of `images`; a
            number, or an array with one for each channel.
        steps: Steps of PGD.
        step_size: Length of each, like `epsilon`. `None` is 2.5 epsilon / steps, so
            that every point of the ball can be reached from every other.
        batch_size: Images at once.
        low: Least value that an image may have, like `epsilon`; `None` is no bound.
            For images normalised by mean and std it is (0 - mean) / std.
        high: Greatest value, likewise.
        seed: Of PGD's start.
        from_logits: Whether the outputs are logits. Probabilities so near 0 or 1 that
            the loss is flat give no gradient, and the model seems stronger than it is.

    Returns:
        Float32 array shaped like `images`.

    Raises:
        ValueError: If an argument is out of range or does not fit another.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.set_weights([np.eye(2), np.zeros(2)])
    >>> image, label = np.array([[1.0, 0.5]]), np.array([0])
    >>> attacked_images(model, image, label, "fgsm", epsilon=0.25)
    array([[0.75, 0.75]], dtype=float32)
    """
    check_choice("method", method, METHODS)
    steps = check_integer("steps", steps, 1)
    batch_size = check_integer("batch_size", batch_size, 1)
    seed = check_integer("seed", seed, 0)
    check_bool("from_logits", from_logits)
    images, labels = _checked_data(model, images, labels)
    channels = images.shape[-1]
    epsilon = _length("epsilon", epsilon, channels)
    if step_size is not None:
        step_size = _length("step_size", step_size, channels)
    if method == "fgsm":
        steps, step_size = 1, epsilon
    elif step_size is None:
        step_size = 2.5 * epsilon / steps
    low = _bound("low", low, images)
    high = _bound("high", high, images)
    take_step, values = _step_function(model, from_logits, int(labels.max()))
    step_size = ops.convert_to_tensor(np.broadcast_to(step_size, channels).copy())
    generator = np.random.default_rng(seed)
    moved = np.empty_like(images)
    for rows, size in _batches(len(images), batch_size):
        start = images[rows]
        # The image itself is within reach, even where rounding has put it just
        # outside the bounds: no bound moves what the attack does not.
        least = np.minimum(np.maximum(start - epsilon, low), start)
        most = np.maximum(np.minimum(start + epsilon, high), start)
        if method == "pgd":
            noise = generator.uniform(-1.0, 1.0, start.shape).astype(np.float32)
            start = np.clip(start + noise * epsilon, least, most)
        x, label, least, most = (
            ops.convert_to_tensor(value) for value in (start, labels[rows], least, most)
        )
        for _ in range(steps):
            x = take_step(values, x, label, least, most, step_size)
        moved[rows[:size]] = ops.convert_to_numpy(x)[:size]
    return moved


def _checked_data(model, images, labels):
    check_instance("model", model, keras.Model, "a keras.Model")
    images, labels = check_array("images", images), check_array("labels", labels)
    if not model.built:
        raise ValueError(
            f"Model '{model.name}' is not built. Call it on a batch of images first."
        )
    if images.ndim < 2 or len(images) == 0:
        raise ValueError(
            "images must have shape (n, ..., channels) with n of 1 or more. Received: "
            f"shape {images.shape}, images={shown(images)}"
        )
    if labels.shape != images.shape[:1] or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            "labels must be integers, one for each image, of shape "
            f"{images.shape[:1]}. Received: {labels.dtype} of shape {labels.shape}, "
            f"labels={shown(labels)}"
        )
    if labels.min() < 0:
        raise ValueError(f"labels must be 0 or more. Received: {labels.min()}")
    images = images.astype(np.float32)
    if not np.all(np.isfinite(images)):
        raise ValueError("images must be finite. Received: NaN or infinite values")
    return images, labels.astype(np.int32)


def _per_channel(name, value, channels):
    per_channel = isinstance(value, (list, tuple)) or np.ndim(value) > 0
    if not per_channel:
        value = check_number(name, value)
    array = check_array(name, value).astype(np.float32)
    if array.shape not in ((), (1,), (channels,)):
        raise ValueError(
            f"{name} must be a number, or one for each of the {channels} channels. "
            f"Received: {name} of shape {array.shape}"
        )
    if not np.all(np.isfinite(array)):
        raise ValueError(f"{name} must be finite. Received: {name}={value}")
    return array


def _length(name, value, channels):
    array = _per_channel(name, value, channels)
    if np.any(array < 0):
        raise ValueError(f"{name} must be 0 or more. Received: {name}={value}")
    return array


def _bound(name, value, images):
    """The bound as an array, infinite for `None`; an error if images go past it."""
    sign = {"low": 1, "high": -1}[name]
    if value is None:
        return np.float32(-sign * np.inf)
    bound = _per_channel(name, value, images.shape[-1])
    past = sign * (bound - images)
    # Normalising an image and its bound may round them apart.
    if np.any(past > 1e-5 * np.maximum(1.0, np.abs(bound))):
        raise ValueError(
            f"images go past {name}={value} by {past.max():.3g}. Give the bounds in "
            "the units of the images: normalised as they are."
        )
    return bound


def _batches(samples: int, batch_size: int) -> Iterator[tuple[np.ndarray, int]]:
    """Yields row numbers, always as many, and how many of them count.

    The last batch is filled up with the last row, so that one shape is compiled.
    """
    batch_size = min(batch_size, samples)
    for start in range(0, samples, batch_size):
        rows = np.arange(start, start + batch_size)
        yield np.minimum(rows, samples - 1), min(batch_size, samples - start)


def _as_function(model: keras.Model) -> tuple[Any, list]:
    """Outputs as a function of (values of all variables, images), and the values."""
    variables = list(model.variables)

    def outputs(values, x):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            return model(x, training=False)

    return outputs, tensors(variables)


def _step_function(model, from_logits, greatest_label):
    outputs_of, values = _as_function(model)

    def take_step(values, x, labels, least, most, step_size):
        def loss(inputs):
            outputs = outputs_of(values, inputs[0])
            _check_outputs(outputs, greatest_label)
            losses = ops.sparse_categorical_crossentropy(
                labels, ops.cast(outputs, "float32"), from_logits=from_logits
            )
            # A sum: each image has the gradient it has alone.
            return ops.sum(losses), None

        (gradient,), _ = gradient_of(loss, [x])
        # NaN, from a square root at 0 for one, is no direction.
        moved = x + step_size * ops.sign(ops.nan_to_num(gradient))
        return ops.minimum(ops.maximum(moved, least), most)

    return compiled(take_step), values


def _check_outputs(outputs, greatest_label):
    if len(getattr(outputs, "shape", ())) != 2:
        raise ValueError(
            "model must have one output of shape (n, classes). Received: "
            f"{keras.tree.map_structure(lambda x: tuple(x.shape), outputs)}"
        )
    if greatest_label >= outputs.shape[1]:
        raise ValueError(
            f"labels must be below the model's {outputs.shape[1]} classes. Received: "
            f"{greatest_label}"
        )


def parse_attack(text: str) -> tuple[str, float]:
    """Method and size of an attack written like "fgsm:0.1".

    Raises:
        ValueError: If it is written otherwise.
    """
    method, _, size = str(text).partition(":")
    try:
        if method in METHODS and 0 < float(size) <= 1:
            return method, float(size)
    except ValueError:
        pass
    raise ValueError(
        "attacks must be written like fgsm:0.1 or pgd:0.1, the number in (0, 1]. "
        f"Received: {text!r}"
    )
