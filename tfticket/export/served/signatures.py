"""Signatures for named classes, and for uint8 images as input."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfticket.common.arguments import check_integer
from tfticket.export.served.function import Prepared, Serving, concrete

CLASSIFY = "classify"

PREPROCESSING = {
    "divide_255": lambda image: image / 255.0,
    "minus_1_to_1": lambda image: image / 127.5 - 1.0,
}
"""Functions of an image in the model's dtype, values 0 to 255."""


def with_image_input(prepared: Prepared, image: str | Callable) -> Prepared:
    """The same model with uint8 input, which the served function preprocesses.

    Args:
        prepared: A model with one input.
        image: A name in `PREPROCESSING`, or a function of TensorFlow or Keras
            operations that maps the uint8 batch to the model's input.

    Raises:
        ValueError: If `image` is not such a name, if the model has several inputs or
            one of whole numbers, or if the function returns another shape.
    """
    if not callable(image) and image not in PREPROCESSING:
        raise ValueError(
            f"image must be one of {sorted(PREPROCESSING)}, or a function of the uint8 "
            f"batch. Received: image={image!r}"
        )
    if len(prepared.signature) != 1:
        raise ValueError(
            f"image={image!r} is for models with one input, and this one has "
            f"{list(prepared.signature)}. Preprocess inside the model."
        )
    [(name, spec)] = prepared.signature.items()
    if not spec.dtype.is_floating:
        raise ValueError(
            f"image={image!r} is for models that take floats, and input '{name}' is of "
            f"{spec.dtype.name} already. Leave image out."
        )

    def preprocess(inputs):
        given = inputs[name]
        if callable(image):
            value = tf.cast(tf.convert_to_tensor(image(given)), spec.dtype)
        else:
            value = PREPROCESSING[image](tf.cast(given, spec.dtype))
        if not spec.shape.is_compatible_with(value.shape):
            raise ValueError(
                f"image gives the shape {tuple(value.shape)}, and input '{name}' of "
                f"the model has {tuple(spec.shape)}. Return that shape."
            )
        return {name: value}

    return dataclasses.replace(
        prepared,
        call=lambda inputs: prepared.call(preprocess(inputs)),
        call_given=lambda inputs: prepared.call_given(preprocess(inputs)),
        signature={name: tf.TensorSpec(spec.shape, tf.uint8, name=name)},
    )


def with_classes(ready: Serving, labels: Sequence[str], top_k: int | None) -> Serving:
    """Adds the signature "classify" with names and scores, the best first.

    Its outputs are `classes`, strings of shape (batch, top_k), and `scores`, the
    model's output for each of them.

    Args:
        ready: A model with one output of shape (batch, classes).
        labels: Names of the classes, in the order of the model's output.
        top_k: Number of classes to name; `None` for all.

    Raises:
        ValueError: If the model lacks that output, if labels are not one different
            string per class, or if `top_k` is not between 1 and their number.
    """
    labels = list(labels)
    outputs = ready.function.structured_outputs
    if len(outputs) != 1 or next(iter(outputs.values())).shape.rank != 2:
        shapes = {name: tuple(value.shape) for name, value in outputs.items()}
        raise ValueError(
            "labels are for models with one output of shape (batch, classes), and this "
            f"one has {shapes}. Leave labels out."
        )
    [(output, spec)] = outputs.items()
    texts = all(isinstance(label, str) for label in labels)
    if len(labels) != spec.shape[-1] or not texts or len(set(labels)) != len(labels):
        raise ValueError(
            f"labels must have {spec.shape[-1]} different strings, one for each value "
            f"of output '{output}'. Received: {labels}"
        )
    count = len(labels)
    if top_k is not None:
        count = check_integer("top_k", top_k, 1, len(labels))

    def classify(inputs):
        scores, best = tf.math.top_k(ready.function(**inputs)[output], count)
        return {"classes": tf.gather(tf.constant(labels), best), "scores": scores}

    def difference(default, classified):
        """How far the scores are from the model's output for the named classes."""
        index = {label.encode(): i for i, label in enumerate(labels)}
        at = np.vectorize(lambda label: index.get(label, -1))(classified["classes"])
        scores = classified["scores"].astype(np.float64)
        values = default[output].astype(np.float64)
        if np.any(at < 0) or at.shape != (len(values), count) != scores.shape:
            return np.inf
        found = np.take_along_axis(values, at, axis=1)
        best = -np.sort(-values, axis=1)[:, :count]
        return float(max(np.max(abs(scores - found)), np.max(abs(scores - best))))

    return dataclasses.replace(
        ready,
        others={**ready.others, CLASSIFY: concrete(classify, ready.signature)},
        differences={**ready.differences, CLASSIFY: difference},
    )
