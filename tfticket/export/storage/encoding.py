"""Encodes weights sparsely in NumPy, and decodes them by TensorFlow operations.

`tfticket.sparsity.encoded_size` defines the forms and chooses one.
"""

import dataclasses

import numpy as np
import tensorflow as tf

from tfticket.sparsity.encoded_size import FAR, Form, far_zeros, gaps_of

_WHOLE = {1: tf.int8, 2: tf.int16, 4: tf.int32, 8: tf.int64}  # by bytes


@dataclasses.dataclass(frozen=True)
class Encoded:
    """A stored flat array.

    Args:
        form: How it is stored.
        size: Number of values in the array, zeros included.
        places: Bytes that say where values are, uint8; empty if plain.
        values: The non-zero values, with the zeros between distant ones.
    """

    form: Form
    size: int
    places: np.ndarray
    values: np.ndarray

    @property
    def nbytes(self) -> int:
        """Bytes of places and values."""
        return self.places.nbytes + self.values.nbytes


def encode(flat: np.ndarray, form: Form) -> Encoded:
    """Encodes a flat array; `decode` restores each value bit by bit.

    The sign of a zero is lost: -0.0, which a product with a mask produces, is stored as
    zero and restored as 0.0.

    Args:
        flat: Array of one dimension.
        form: How to store it.

    Example:

    >>> encode(np.float32([0, 0, 7, 0, 5]), "gaps").places
    array([2, 2], dtype=uint8)
    """
    if form == "plain":
        return Encoded(form, flat.size, np.zeros(0, np.uint8), flat)
    if form == "bits":
        kept = flat != 0
        places = np.packbits(kept, bitorder="little")
        return Encoded(form, flat.size, places, flat[kept])
    at = np.flatnonzero(flat)
    gaps = gaps_of(at)
    far = far_zeros(gaps)
    last = np.cumsum(far + 1) - 1  # the position of each value, after its stored zeros
    places = np.full(len(at) + int(far.sum()), FAR, np.uint8)
    values = np.zeros(len(places), flat.dtype)
    places[last] = gaps - FAR * far
    values[last] = flat[at]
    return Encoded(form, flat.size, places, values)


def positions(places: tf.Tensor, size: int) -> tf.Tensor:
    """The positions of the values of the form "gaps" in the flat array.

    Args:
        places: The distances, uint8.
        size: Values in the array, zeros included.
    """
    kind = tf.int32 if size < 2**31 else tf.int64
    return tf.cumsum(tf.cast(places, kind))


def decode(
    form: Form,
    size: int,
    dtype: tf.DType,
    values: tf.Tensor,
    places: tf.Tensor | None = None,
) -> tf.Tensor:
    """Decodes the flat array by operations of core TensorFlow.

    Args:
        form: How it is stored.
        size: Values in the array, zeros included.
        dtype: The dtype of the result.
        values: As in `Encoded`, possibly with a narrower dtype.
        places: As in `Encoded`; `None` if plain.
    """
    values = tf.cast(values, dtype)
    if form == "plain":
        return values
    if form == "bits":
        eight = tf.constant(list(range(8)), tf.uint8)
        bits = tf.bitwise.right_shift(places[:, tf.newaxis], eight)  # type: ignore[index]
        kept = tf.cast(tf.bitwise.bitwise_and(bits, tf.constant(1, tf.uint8)), tf.bool)
        at = tf.where(tf.reshape(kept, [-1])[:size])
    else:
        at = positions(places, size)[:, tf.newaxis]
    # We scatter integers: scatter adds to zero, and a float sum flushes subnormals.
    whole = _WHOLE[values.dtype.size]
    flat = tf.scatter_nd(at, tf.bitcast(values, whole), tf.constant([size], at.dtype))
    return tf.bitcast(flat, values.dtype)


def decode_by_gather(encoded: Encoded, dtype: tf.DType) -> tf.Tensor:
    """Decodes the flat array by operations that other runtimes also have.

    OpenVINO can't convert `tf.bitcast`. Every value is looked up and none is computed,
    so this is exact bit by bit, too.

    Args:
        encoded: The stored array.
        dtype: The dtype of the result.
    """
    if encoded.form == "plain":
        return tf.cast(tf.constant(encoded.values), dtype)
    first = np.zeros(1, encoded.values.dtype)
    values = tf.constant(np.concatenate([first, encoded.values]))
    places = tf.constant(encoded.places)
    # For each weight the number of its value, starting with 1; 0 is the zero before
    # them.
    if encoded.form == "bits":
        powers = tf.constant([1 << bit for bit in range(8)], tf.int32)
        bits = tf.cast(places, tf.int32)[:, tf.newaxis] // powers % 2
        kept = tf.reshape(bits, [-1])[: encoded.size]
        number = tf.cumsum(kept) * kept
    else:
        count = len(encoded.values)
        at = positions(places, encoded.size)[:, tf.newaxis]
        number = tf.scatter_nd(
            at, tf.range(1, count + 1), tf.constant([encoded.size], at.dtype)
        )
    return tf.gather(tf.cast(values, dtype), number)
