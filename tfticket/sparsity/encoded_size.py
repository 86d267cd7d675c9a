"""How many bytes sparse weights take in an encoded export, and in which form.

The one rule of it: `tfticket.summary` counts by it and the exports store by it. For k
values kept of n, of v bytes each, the smallest of three forms is taken:

    gaps    k (1 + v)     the distance from each value to the next, in one byte
    bits    n / 8 + k v   one bit for every place, then the values
    plain   n v           every value, where few are zero

A distance over `FAR` is several, with stored zeros in between. Only weights of two
dimensions or more and at least `LEAST` values are encoded: floating-point numbers, and
the bytes of quantized ones. Where it is not the byte 0 that stands for zeros, what is
encoded is each byte's difference (XOR) from the one that does, its `Background`.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

FAR = 255
"""The longest distance that one byte holds."""

LEAST = 512
"""Smaller weights are stored as they are."""

ALIGNED = 64
"""Weights of one dtype and form are stored one behind the other. Each is padded with
zeros to a multiple of this many values, so that TensorFlow reads it as a view: Eigen
aligns to 64 bytes, and every dtype has at least one byte."""

Form = Literal["gaps", "bits", "plain"]


@dataclasses.dataclass(frozen=True)
class Background:
    """Bytes that stand for zeros, the same for many rows or columns of a matrix.

    Args:
        lines: The rows or columns that differ, stacked along `axis`.
        line_of: Which of them each row or column of the matrix is.
        axis: 0 for rows, 1 for columns.
    """

    lines: np.ndarray
    line_of: np.ndarray
    axis: int

    @property
    def nbytes(self) -> int:
        """Bytes of both arrays."""
        return self.lines.nbytes + self.line_of.nbytes

    @classmethod
    def of(cls, resting: np.ndarray) -> "Background | None":
        """The background of a matrix; `None` where all of it is 0.

        Args:
            resting: The bytes that stand for zeros, in the shape of the weight.

        Example:

        >>> Background.of(np.full((600, 2), 7, "int8")).lines
        array([[7, 7]], dtype=int8)
        """
        if not np.any(resting):
            return None
        found = []
        for axis in (0, 1):
            lines, of = np.unique(resting, axis=axis, return_inverse=True)
            kind = np.uint8 if lines.shape[axis] <= 256 else np.int32
            found.append(cls(lines, of.ravel().astype(kind), axis))
        return min(found, key=lambda background: background.nbytes)


def aligned(size: int) -> int:
    """The size with the padding that the next weight needs to be aligned."""
    return -(-size // ALIGNED) * ALIGNED


def is_encoded(array: np.ndarray) -> bool:
    """Whether a weight is encoded at all.

    Biases seldom have zeros, and each kind of decoding costs the loader milliseconds.
    """
    numbers = array.dtype.kind in "fiu" or array.dtype.name == "bfloat16"
    return numbers and array.ndim > 1 and array.size >= LEAST


def smallest_form(array: np.ndarray, value_bytes: int) -> Form:
    """The form that takes the fewest bytes for one weight by itself.

    Args:
        array: The weight, or a boolean array of the values kept.
        value_bytes: Bytes of one stored value.

    Example:

    >>> smallest_form(np.eye(64), 4), smallest_form(np.ones(64), 4)
    ('gaps', 'plain')
    """
    gaps = gaps_of(np.flatnonzero(array))
    stored = len(gaps) + int(np.sum(far_zeros(gaps)))
    bytes_of: dict[Form, int] = {
        "gaps": stored * (1 + value_bytes),
        "bits": -(-array.size // 8) + len(gaps) * value_bytes,
        "plain": array.size * value_bytes,
    }
    return min(bytes_of, key=bytes_of.__getitem__)


def encoded_bytes(
    arrays: Sequence[np.ndarray], resting: Mapping[int, np.ndarray] | None = None
) -> list[int]:
    """Bytes that each of a model's weights takes in a file with encoded weights.

    Args:
        arrays: The values of all weights in the model's order, pruned ones zero. The
            order matters a little: a weight stored by distances begins with the
            distance from the last value of the weight before it.
        resting: By place in `arrays`, the bytes that stand for zeros, where that is
            not 0.

    Returns:
        Bytes of each; their sum is what the file's weights take.

    Example:

    >>> encoded_bytes([np.eye(64, dtype="float32"), np.ones(64, "float32")])
    [320, 256]
    """
    sizes = [array.nbytes for array in arrays]
    groups: dict[Any, list[tuple[int, np.ndarray, int]]] = {}
    for i, array in enumerate(arrays):
        if not is_encoded(array):
            continue
        beside, zeros = 0, (resting or {}).get(i)
        background = None if zeros is None else Background.of(zeros)
        if background is not None:
            array, beside = array ^ zeros, background.nbytes
        form = smallest_form(array, array.itemsize)
        if form == "bits":
            kept = int(np.count_nonzero(array))
            sizes[i] = aligned(array.size) // 8 + kept * array.itemsize + beside
        elif form == "gaps":
            groups.setdefault(array.dtype, []).append((i, array, beside))
    for members in groups.values():
        sizes_of_gaps = _bytes_of_gaps([array for _, array, _ in members])
        for (i, _, beside), nbytes in zip(members, sizes_of_gaps, strict=True):
            sizes[i] = nbytes + beside
    return sizes


def _bytes_of_gaps(arrays):
    """Bytes of weights in the form "gaps", stored one behind the other."""
    since_last = 0  # places since the last value of the weights before
    for array in arrays:
        at = np.flatnonzero(array)
        gaps = gaps_of(at)
        gaps[:1] += since_last
        yield (len(gaps) + int(far_zeros(gaps).sum())) * (1 + array.itemsize)
        size = aligned(array.size)
        since_last = size - int(at[-1]) if len(at) else since_last + size


def gaps_of(at: np.ndarray) -> np.ndarray:
    """Distances between neighbouring places; the first one is from place 0."""
    return np.diff(at, prepend=0)


def far_zeros(gaps: np.ndarray) -> np.ndarray:
    """How many zeros have to be stored before each value, as distances are bytes."""
    return np.maximum(gaps - 1, 0) // FAR
