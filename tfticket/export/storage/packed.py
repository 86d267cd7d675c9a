"""Arrays that a SavedModel computes once when it loads, and its functions read."""

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf

from tfticket.sparsity.encoded_size import aligned


class Packed(tf.saved_model.experimental.TrackableResource):
    """Joined arrays in one variable that the checkpoint doesn't hold.

    Every loader runs `_create_resource` and then `_initialize`: Python's, and the one
    of TensorFlow's C API, which TensorFlow Serving uses. There is one variable for all
    arrays, because each costs the loader three functions.

    Args:
        shapes: Shapes of the arrays, in order.
        dtype: The dtype of all of them.
        compute: Function without arguments that returns the flat values, in which
            padding follows each array up to its `aligned` size.
        content: Bytes that differ if the values differ.
    """

    def __init__(
        self,
        shapes: Sequence[tuple[int, ...]],
        dtype: tf.DType,
        compute: Callable[[], tf.Tensor],
        content: bytes,
    ):
        super().__init__()
        self._shapes = [tuple(shape) for shape in shapes]
        self._dtype = tf.as_dtype(dtype)
        self._compute = compute
        # In a session the function that makes the variable runs again each time and has
        # to find it by name. A process that loads one model twice shares it; two
        # models must not, which is why the name is made of the content.
        self._name = f"tfticket_{hashlib.sha256(content).hexdigest()[:32]}"
        self._sizes = [int(np.prod(shape)) for shape in self._shapes]
        self._padded = [aligned(size) for size in self._sizes]
        self._initialize()

    def _create_resource(self):
        return tf.raw_ops.VarHandleOp(
            dtype=self._dtype,
            shape=[sum(self._padded)],
            shared_name=self._name,
            container="",
        )

    def _initialize(self):
        tf.raw_ops.AssignVariableOp(
            resource=self.resource_handle, value=self._compute()
        )

    def read(self) -> list[tf.Tensor]:
        """The arrays, as views of the variable; nothing is copied."""
        flat = tf.raw_ops.ReadVariableOp(
            resource=self.resource_handle, dtype=self._dtype
        )
        parts = tf.split(flat, self._padded) if len(self._padded) > 1 else [flat]
        return [
            tf.reshape(part if size == padded else part[:size], shape)
            for part, size, padded, shape in zip(
                parts, self._sizes, self._padded, self._shapes, strict=True
            )
        ]
