"""The format "csr": large Dense layers compute on their non-zero weights."""

import contextlib
import dataclasses
from collections.abc import Callable, Collection, Mapping

import keras
import numpy as np
import tensorflow as tf

from tfticket.export.storage.encoded import Stored, store
from tfticket.export.storage.encoding import encode, positions
from tfticket.export.storage.format_table import CSR
from tfticket.export.storage.packed import Packed
from tfticket.keras_models.calls import calls_replaced
from tfticket.keras_models.names import every_layer
from tfticket.sparsity.encoded_size import aligned


def candidates(model: keras.Model) -> list[keras.layers.Dense]:
    """The layers that are faster on sparse weights, by `format_table.CSR`.

    Args:
        model: A plain model.
    """
    return [
        layer
        for _, layer in every_layer(model)
        if type(layer) is keras.layers.Dense
        and layer.built
        and not layer.quantization_mode
        and not getattr(layer, "lora_enabled", False)
        and layer.compute_dtype == layer.variable_dtype == "float32"
        and _pays(keras.ops.convert_to_numpy(layer.kernel))
    ]


def store_csr(
    model: keras.Model,
    as_they_are: Collection[int] = (),
    resting: Mapping[int, np.ndarray] | None = None,
) -> tuple[Stored, Callable]:
    """Stores the kernels of `candidates` as their transposes, and encodes the rest.

    Args:
        model: A plain model.
        as_they_are: The `id`s of weights that must not be encoded.
        resting: As in `store`.

    Returns:
        What is stored, and a context manager in which those layers are traced to
        compute on it.
    """
    layers = [x for x in candidates(model) if id(x.kernel) not in as_they_are]
    matrices = [_Matrix.of(layer) for layer in layers]
    kernels = {id(layer.kernel) for layer in layers}
    rest = store(
        model.variables,
        elsewhere=kernels,
        as_they_are=as_they_are,
        resting=resting,
    )
    if not layers:
        return rest, contextlib.nullcontext

    def compute():
        return tf.concat([matrix.padded_indices() for matrix in matrices], 0)

    content = b"".join(matrix.places.numpy().tobytes() for matrix in matrices)
    content += str([matrix.shape for matrix in matrices]).encode()
    # The places of values are computed once. TensorFlow's own sparse matrix is made
    # from them in each call and can't be kept: a loader loses the shape of its variant.
    pack = Packed([(m.count, 2) for m in matrices], tf.int64, compute, content)

    @contextlib.contextmanager
    def computing():
        calls = {
            layer: _call_of(layer, matrix, where)
            for layer, matrix, where in zip(layers, matrices, pack.read(), strict=True)
        }
        with calls_replaced(calls):
            yield

    held = [array for m in matrices for array in (m.places, m.values)]
    nbytes = rest.nbytes + sum(array.numpy().nbytes for array in held)
    stored = dataclasses.replace(
        rest, trackables=[*rest.trackables, pack, *held], nbytes=nbytes
    )
    return stored, computing


@dataclasses.dataclass(frozen=True)
class _Matrix:
    """A kernel's transpose: rows are outputs, as TensorFlow's sparse products want."""

    shape: tuple[int, int]
    count: int
    places: tf.Variable
    values: tf.Variable

    @classmethod
    def of(cls, layer):
        kernel = keras.ops.convert_to_numpy(layer.kernel)
        # Zeros that are stored between distant values are ordinary entries.
        encoded = encode(kernel.T.ravel(), "gaps")
        return cls(
            kernel.T.shape,
            len(encoded.values),
            tf.Variable(encoded.places),
            tf.Variable(encoded.values),
        )

    def padded_indices(self):
        """Row and column of each value, flat."""
        at = tf.cast(positions(self.places, int(np.prod(self.shape))), tf.int64)
        width = tf.constant(self.shape[1], tf.int64)
        flat = tf.reshape(tf.stack([at // width, at % width], axis=1), [-1])
        return tf.pad(flat, [[0, aligned(2 * self.count) - 2 * self.count]])


def _call_of(layer, matrix, where):
    shape = tf.constant(matrix.shape, tf.int64)

    def few(x):
        return tf.raw_ops.SparseTensorDenseMatMul(
            a_indices=where,
            a_values=matrix.values,
            a_shape=shape,
            b=x,
            adjoint_b=True,
        )

    def many(x):
        sparse = tf.raw_ops.SparseTensorToCSRSparseMatrix(
            indices=where, values=matrix.values, dense_shape=shape
        )
        # We transpose here, because the operation's own flag takes several times as
        # long.
        return tf.raw_ops.SparseMatrixMatMul(a=sparse, b=tf.transpose(x))

    def call(inputs, training=None):
        del training
        x = tf.convert_to_tensor(inputs)
        rows = tf.reshape(x, [-1, matrix.shape[1]])
        # Making TensorFlow's sparse matrix costs as much as some ten rows' product.
        product = tf.cond(
            tf.shape(rows)[0] <= CSR["few_rows"], lambda: few(rows), lambda: many(rows)
        )
        product.set_shape([matrix.shape[0], None])
        outputs = tf.reshape(
            tf.transpose(product), tf.concat([tf.shape(x)[:-1], [matrix.shape[0]]], 0)
        )
        outputs.set_shape([*x.shape[:-1], matrix.shape[0]])
        if layer.use_bias:
            outputs = keras.ops.add(outputs, layer.bias)
        return layer.activation(outputs) if layer.activation else outputs

    return call


def _pays(kernel):
    zeros = 1 - np.count_nonzero(kernel) / max(1, kernel.size)
    return kernel.size >= CSR["min_weights"] and zeros >= CSR["min_sparsity"]
