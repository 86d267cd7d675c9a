"""The format "encoded": weights are stored sparse, and expanded once at load."""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from tfticket.export.served.function import concrete
from tfticket.export.storage.encoding import decode, encode
from tfticket.export.storage.packed import Packed
from tfticket.sparsity.encoded_size import (
    Background,
    aligned,
    is_encoded,
    smallest_form,
)

ValueDtype = str
"""'float32' keeps each weight's own dtype; 'float16' stores matrices in half."""


@dataclasses.dataclass(frozen=True)
class Stored:
    """Weights as a SavedModel stores them, and how its function reads them.

    Args:
        trackables: Objects that the SavedModel has to hold.
        read: Function that returns the values of the weights by the `id` of their
            `keras.Variable`, called inside the served function.
        nbytes: Bytes of all weights as stored.
        rounding: Largest absolute difference between a stored value and the weight's.
        dense: Integer weights that are stored unchanged, because encoding them would
            save nothing.
    """

    trackables: list
    read: Callable[[], dict[int, tf.Tensor]]
    nbytes: int
    rounding: float = 0.0
    dense: tuple[keras.Variable, ...] = ()


def store(
    variables: Sequence[keras.Variable],
    value_dtype: ValueDtype = "float32",
    elsewhere: Collection[int] = (),
    as_they_are: Collection[int] = (),
    resting: Mapping[int, np.ndarray] | None = None,
) -> Stored:
    """Stores each weight of two dimensions or more in its smallest form.

    Args:
        variables: The weights of a model.
        value_dtype: "float16" rounds those of dtype float32. Biases, statistics and
            small weights do not change.
        elsewhere: The `id`s of weights that are stored elsewhere.
        as_they_are: The `id`s of weights that must not be encoded.
        resting: Maps the `id` of a quantized weight to the bytes that stand for zeros.

    Raises:
        ValueError: If a weight is too large for float16.
    """
    trackables, nbytes, rounding, dense = [], 0, 0.0, []
    backgrounds: dict[int, Background] = {}
    groups: dict[Any, dict[tuple, list]] = {}
    for variable in variables:
        if id(variable) in elsewhere:
            continue
        value = keras.ops.convert_to_numpy(variable)
        stored, form = value.dtype, "plain"
        if is_encoded(value) and id(variable) not in as_they_are:
            stored = stored_dtype(value, value_dtype)
            value, background = _from_background(
                value, (resting or {}).get(id(variable))
            )
            form = smallest_form(value, stored.itemsize)
            if form == "plain" and value.dtype.kind in "iu":
                dense.append(variable)
            elif background is not None:
                backgrounds[id(variable)] = background
                nbytes += background.nbytes
        if form == "plain" and stored == value.dtype:
            trackables.append(variable.value)
            nbytes += value.nbytes
        else:
            group = groups.setdefault(value.dtype, {}).setdefault((stored, form), [])
            group.append((variable, value))
    packs = []
    for dtype, forms in groups.items():
        parts, members = [], []
        for (stored, form), group in forms.items():
            flat = np.concatenate([_padded(value) for _, value in group])
            fewer = narrow(flat, stored, group)
            rounding = max(rounding, largest_difference(fewer, flat))
            parts.append(encode(fewer, form))
            members += [variable for variable, _ in group]
        behind = [backgrounds.get(id(variable)) for variable in members]
        pack, variables_of_pack = _pack(parts, members, tf.as_dtype(dtype), behind)
        nbytes += sum(part.nbytes for part in parts)
        packs.append((pack, members))
        trackables += [pack, *variables_of_pack]

    def read():
        return {
            id(variable): value
            for pack, members in packs
            for variable, value in zip(members, pack.read(), strict=True)
        }

    return Stored(trackables, read, nbytes, rounding, tuple(dense))


def with_values(
    call: Callable[[dict], dict],
    variables: Sequence[keras.Variable],
    read: Callable[[], dict[int, tf.Tensor]],
) -> Callable[[dict], dict]:
    """Makes a function of a model that reads some weights from elsewhere.

    Args:
        call: Function that runs the model.
        variables: All the model's weights.
        read: As in `Stored`.
    """

    def call_with_values(inputs):
        values = read()
        mapping = [(v, values[id(v)]) for v in variables if id(v) in values]
        with keras.StatelessScope(state_mapping=mapping) as scope:
            outputs = call(inputs)
        # What the model assigns to its other weights would be lost with the scope.
        for variable in variables:
            new = scope.get_current_value(variable)
            if new is not None and id(variable) not in values:
                variable.assign(new)
        return outputs

    return call_with_values


def assigned(
    call: Callable[[dict], dict],
    variables: Sequence[keras.Variable],
    signature: dict[str, tf.TensorSpec],
) -> set[int]:
    """The `id`s of weights that a call changes, such as a recurrent state or a count.

    If they were expanded once at load, they would never change.

    Args:
        call: Function that runs the model.
        variables: All the model's weights.
        signature: Input name to `tf.TensorSpec`.

    Raises:
        ValueError: If it changes something that is not among the weights.
    """
    found, known = set(), {id(variable) for variable in variables}
    beyond = False

    def watched(inputs):
        nonlocal beyond
        with keras.StatelessScope() as scope:
            outputs = call(inputs)
        beyond = bool(set(scope.state_mapping) - known)
        found.update(id(v) for v in variables if scope.get_current_value(v) is not None)
        return outputs

    concrete(watched, signature)
    if beyond:
        raise ValueError(
            "A layer changes a state that Keras does not count to the model's "
            "variables (stateful=True, or keras.random without a SeedGenerator of the "
            "layer's own), which would stay as it is in this format. Pass "
            "format='dense', or change the layer."
        )
    return found


def _from_background(value, resting):
    """A quantized weight's difference from its zeros, and those zeros."""
    background = None if resting is None else Background.of(resting)
    return (value if background is None else value ^ resting), background


def _pack(parts, members, dtype, behind):
    """Joins arrays, and makes the variables that they are decoded from."""
    shapes = [tuple(variable.shape) for variable in members]
    arrays = [
        None if x is None else (tf.Variable(x.lines), tf.Variable(x.line_of), x.axis)
        for x in behind
    ]
    held = [
        [tf.Variable(part.values)]
        if part.form == "plain"
        else [tf.Variable(part.values), tf.Variable(part.places)]
        for part in parts
    ]

    def compute():
        flat = [
            decode(part.form, part.size, dtype, *stored)
            for part, stored in zip(parts, held, strict=True)
        ]
        whole = flat[0] if len(flat) == 1 else tf.concat(flat, 0)
        if any(arrays):
            whole = tf.bitwise.bitwise_xor(whole, _drawn(arrays, shapes, dtype))
        return whole

    content = [f"{shapes} {dtype.name}".encode()]
    for part in parts:
        content.append(f"{part.form} {part.values.dtype}".encode())
        content += [part.places.tobytes(), part.values.tobytes()]
    for one in behind:
        if one is not None:
            content.append(f"{one.axis} {one.lines.shape}".encode())
            content += [one.lines.tobytes(), one.line_of.tobytes()]
    pack = Packed(shapes, dtype, compute, b"".join(content))
    beside = [[lines, line_of] for lines, line_of, _ in filter(None, arrays)]
    return pack, [variable for stored in held + beside for variable in stored]


def _drawn(arrays, shapes, dtype):
    """The joined backgrounds of weights; 0 if a weight has none."""
    parts = []
    for background, shape in zip(arrays, shapes, strict=True):
        size = int(np.prod(shape))
        if background is None:
            parts.append(tf.zeros([aligned(size)], dtype))
            continue
        lines, line_of, axis = background
        at = tf.cast(line_of, tf.int32)
        flat = tf.reshape(tf.gather(lines, at, axis=axis), [-1])
        parts.append(tf.pad(flat, [[0, aligned(size) - size]]))
    return tf.concat(parts, 0)


def stored_dtype(value: np.ndarray, value_dtype: ValueDtype) -> np.dtype:
    """The dtype that a weight's values are stored in.

    Args:
        value: The weight.
        value_dtype: "float32" or "float16".
    """
    if value_dtype == "float16" and value.dtype == np.float32:
        return np.dtype(np.float16)
    return value.dtype


def _padded(value):
    flat = value.ravel()
    return np.pad(flat, (0, aligned(flat.size) - flat.size))


def narrow(
    flat: np.ndarray,
    dtype: np.dtype,
    group: Sequence[tuple[keras.Variable, np.ndarray]],
) -> np.ndarray:
    """Converts values to the dtype that they are stored in.

    Args:
        flat: The values of some weights.
        dtype: Their dtype, or float16.
        group: The weights with their values, for the error.

    Raises:
        ValueError: If a value is too large for float16.
    """
    if dtype == flat.dtype:
        return flat
    with np.errstate(over="ignore"):
        fewer = flat.astype(dtype)
    if not np.all(np.isfinite(fewer)):
        worst = max(group, key=lambda pair: np.max(np.abs(pair[1]), initial=0))
        raise ValueError(
            f"Weight '{worst[0].path}' has values up to "
            f"{np.max(np.abs(worst[1])):.3g}, and value_dtype='float16' ends at 65504. "
            "Pass value_dtype='float32'."
        )
    return fewer


def largest_difference(fewer: np.ndarray, flat: np.ndarray) -> float:
    """The largest absolute difference that a narrower dtype makes.

    Args:
        fewer: The stored values.
        flat: The values.
    """
    if fewer.dtype == flat.dtype:
        return 0.0
    return float(np.max(np.abs(fewer.astype(np.float64) - flat), initial=0.0))
