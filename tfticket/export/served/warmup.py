"""Warm-up requests, which TensorFlow Serving replays before it answers.

A TFRecord file of `tensorflow.serving.PredictionLog` messages, whose Python classes
are in a package that nothing else here needs. Three of their fields are used; a
message in a field is the field's number, its length and its bytes.
"""

import pathlib
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf

FILE = "assets.extra/tf_serving_warmup_requests"

# Numbers of fields, in tensorflow_serving/apis: PredictionLog, PredictLog,
# PredictRequest, an entry of a map, ModelSpec.
_PREDICT_LOG = 6
_REQUEST = 1
_MODEL_SPEC, _INPUTS = 1, 2
_KEY, _VALUE = 1, 2
_NAME, _SIGNATURE_NAME = 1, 3


def write_warmup(
    folder: pathlib.Path,
    model_name: str,
    signatures: Sequence[str],
    inputs: Mapping[str, np.ndarray],
) -> None:
    """Writes one request per signature to the file that TensorFlow Serving reads.

    Args:
        folder: The folder of the SavedModel.
        model_name: The model's name on the server.
        signatures: Names of signatures, which have the same inputs.
        inputs: Arrays by name.
    """
    path = folder / FILE
    path.parent.mkdir(exist_ok=True)
    with tf.io.TFRecordWriter(str(path)) as file:
        for signature in signatures:
            file.write(prediction_log(model_name, signature, inputs))


def prediction_log(
    model_name: str, signature: str, inputs: Mapping[str, np.ndarray]
) -> bytes:
    """One `PredictionLog` that holds a `PredictRequest`, serialized.

    Args:
        model_name: The name in its `ModelSpec`.
        signature: The signature in its `ModelSpec`.
        inputs: Arrays by name.

    Example:

    >>> len(prediction_log("digits", "serving_default", {"x": np.zeros((1, 64))}))
    569
    """
    spec = _field(_NAME, model_name.encode())
    spec += _field(_SIGNATURE_NAME, signature.encode())
    request = _field(_MODEL_SPEC, spec)
    for name, value in inputs.items():
        tensor = tf.make_tensor_proto(value).SerializeToString(deterministic=True)
        request += _field(_INPUTS, _field(_KEY, name.encode()) + _field(_VALUE, tensor))
    return _field(_PREDICT_LOG, _field(_REQUEST, request))


def _field(number, content):
    return _varint(number << 3 | 2) + _varint(len(content)) + content


def _varint(value):
    """Seven bits per byte, the lowest first; the eighth says that more follow."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])
