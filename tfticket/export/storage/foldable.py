"""The format "foldable": encoded weights, expanded by operations that runtimes fold.

"encoded" expands into a variable that no checkpoint holds, and OpenVINO can't read
that. This format keeps the encoded bytes as constants of the served function. A runtime
that folds constants expands them when it loads the file.
"""

from collections.abc import Collection, Sequence

import keras
import tensorflow as tf

from tfticket.export.storage.encoded import (
    Stored,
    ValueDtype,
    largest_difference,
    narrow,
    stored_dtype,
)
from tfticket.export.storage.encoding import Encoded, decode_by_gather, encode
from tfticket.sparsity.encoded_size import Form, is_encoded, smallest_form

TENSORFLOW_FOLDS = 10 * 2**20
"""Bytes of the largest tensor that TensorFlow computes ahead (`kMaxConstantSize` of its
`common_runtime/constant_folding.cc`); a larger one it computes in every call."""

_MOST_BYTES = 2**31 - 2**24  # the limit of a protocol buffer, minus room for the graph


def store_foldable(
    variables: Sequence[keras.Variable],
    value_dtype: ValueDtype = "float32",
    as_they_are: Collection[int] = (),
) -> Stored:
    """Stores each weight of two dimensions or more as constants in its smallest form.

    Args:
        variables: The weights of a model.
        value_dtype: As for `encoded.store`.
        as_they_are: The `id` of weights that are not to be encoded.

    Raises:
        ValueError: If a weight is too large for float16, or all weights together are
            too large for a graph.
    """
    trackables, nbytes, rounding = [], 0, 0.0
    parts: dict[int, tuple[Encoded, tuple[int, ...], tf.DType]] = {}
    for variable in variables:
        value = keras.ops.convert_to_numpy(variable)
        form: Form = "plain"
        stored = value.dtype
        if is_encoded(value) and id(variable) not in as_they_are:
            stored = stored_dtype(value, value_dtype)
            form = smallest_form(value, stored.itemsize)
        if form == "plain" and stored == value.dtype:
            trackables.append(variable.value)
            nbytes += value.nbytes
            continue
        flat = value.ravel()
        fewer = narrow(flat, stored, [(variable, value)])
        rounding = max(rounding, largest_difference(fewer, flat))
        part = encode(fewer, form)
        parts[id(variable)] = (part, value.shape, tf.as_dtype(value.dtype))
        nbytes += part.nbytes
    constants = sum(part.nbytes for part, *_ in parts.values())
    if constants > _MOST_BYTES:
        raise ValueError(
            "format='foldable' keeps weights in the graph, which holds 2 GB. These are "
            f"{constants / 1e9:.1f} GB. Use format='encoded', or 'dense' for OpenVINO."
        )

    def read():
        return {
            key: tf.reshape(decode_by_gather(part, dtype), shape)
            for key, (part, shape, dtype) in parts.items()
        }

    return Stored(trackables, read, nbytes, rounding)


def not_folded(variables: Sequence[keras.Variable]) -> list[str]:
    """Paths of weights that TensorFlow would expand in every call.

    Args:
        variables: The weights of a model.
    """
    values = [(v.path, keras.ops.convert_to_numpy(v)) for v in variables]
    return [
        path
        for path, value in values
        # The positions of values are computed in 32 bits.
        if is_encoded(value)
        and value.size * max(4, value.itemsize) > TENSORFLOW_FOLDS
        and smallest_form(value, value.itemsize) != "plain"
    ]
