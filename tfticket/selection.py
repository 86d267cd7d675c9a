"""The mask of the highest scores, chosen inside a training step, exactly.

`masks` chooses on the host, where a partition is fastest; this is the same choice
made of operations that compile on every Keras backend. It closes in on a threshold
by counting, some twelve passes over the scores, and never sorts.
"""

import functools
import math

import keras
from keras import ops

_TINY = 1.1754944e-38  # the smallest normal float32
_HUGE = 3e38
_ROW = 1024
_MOST_PASSES = 300


def top_mask(scores, keep):
    """Boolean mask of exactly `keep` scores, the highest; ties go to the lower index.

    Counts how many scores reach a threshold, and moves it to where `keep` of them
    do: by the Anderson-Björck variant of false position, which is quick where
    scores are spread smoothly, and by halving every eighth pass, which bounds the
    number of passes whatever they are. Only where equal scores straddle the
    threshold are indices compared. Scores below 1.2e-38 count as equal.

    Args:
        scores: Float tensor of any shape, non-negative and below 3e38.
        keep: How many to keep, an integer or integer tensor between 1 and the
            number of scores.

    Returns:
        Boolean tensor shaped like `scores`.

    Example:

    >>> scores = np.array([0.5, 0.2, 0.5, 0.5], "float32")
    >>> np.array(tfticket.selection.top_mask(scores, keep=2))
    array([ True, False,  True, False])
    """
    scores = ops.cast(ops.convert_to_tensor(scores), "float32")
    shape = scores.shape
    choose = _compiled(math.prod(shape))
    flat = ops.reshape(scores, (-1,))
    return ops.reshape(choose(flat, ops.cast(keep, "int32")), shape)


def _top_mask(flat, keep):
    rows = -(-flat.shape[0] // _ROW)
    padding = [[0, rows * _ROW - flat.shape[0]]]
    padded = ops.reshape(ops.pad(flat, padding, constant_values=0.0), (rows, _ROW))
    ones = ops.ones((_ROW,), "float32")

    def count(threshold):
        # As a product with ones, which compilers vectorise better than a sum of
        # booleans; within a row the float32 sum is exact.
        reached = ops.cast(padded >= threshold, "float32")
        return ops.sum(ops.cast(ops.matmul(reached, ones), "int32"))

    # No score is above their sum, and fewer than a third are above thrice the mean:
    # good enough to begin with, and several times faster than a maximum.
    total = ops.minimum(ops.sum(ops.matmul(padded, ones)), _HUGE)
    ceiling = total * 1.001 + _TINY
    thrice_mean = total * (3 / flat.shape[0])
    # At least `keep` scores reach `low` and fewer reach `high`; the excesses are
    # by how many, halved or so for an end that stays where it is (`side`).
    start = (
        ops.zeros((), "float32"),
        ceiling,
        ops.cast(flat.shape[0] - keep, "float32"),
        ops.cast(-keep, "float32"),
        flat.shape[0] - keep,
        -keep,
        ops.zeros((), "int32"),
        ops.zeros((), "int32"),
    )

    def is_open(low, high, low_excess, high_excess, over, under, side, passes):
        return (over > 0) & (passes < _MOST_PASSES)

    def narrow(low, high, low_excess, high_excess, over, under, side, passes):
        middle = low + (high - low) * (low_excess / (low_excess - high_excess))
        no_high_yet = high >= ceiling
        middle = ops.where(no_high_yet, ops.maximum(thrice_mean, 4 * low), middle)
        halve = (passes % 8 == 7) | (middle <= low) | (middle >= high)
        middle = ops.where(halve, _halfway(low, high), middle)
        # No float lies between the two: what is left is equal.
        closed = (middle <= low) | (middle >= high)
        found = count(middle) - keep
        excess = ops.cast(found, "float32")
        up = found >= 0
        high_excess *= ops.where(up & (side > 0), _less(excess, low_excess), 1.0)
        low_excess *= ops.where(~up & (side < 0), _less(excess, high_excess), 1.0)
        rises, falls = up & ~closed, ~up & ~closed
        return (
            ops.where(rises, middle, low),
            ops.where(falls, middle, high),
            ops.where(rises, excess, low_excess),
            ops.where(falls, excess, high_excess),
            ops.where(rises, found, over),
            ops.where(falls, found, under),
            ops.where(up, 1, -1),
            ops.where(closed, _MOST_PASSES, passes + 1),
        )

    low, high, _, _, over, under, _, _ = ops.while_loop(is_open, narrow, start)

    def by_index():
        above = flat >= high
        band = (flat >= low) & ~above
        place = ops.cumsum(ops.cast(band, "int32"))
        return above | (band & (place <= -under))

    return ops.cond(over > 0, by_index, lambda: flat >= low)


def _less(excess, replaced):
    """Weight of the end that stays, when the other moved twice (Anderson-Björck)."""
    share = 1 - excess / replaced
    return ops.where(share > 0, share, 0.5)


def _halfway(low, high):
    """Halves the interval: its exponents while they differ, then its values."""
    low = ops.maximum(low, _TINY)
    geometric = ops.sqrt(low) * ops.sqrt(high)
    return ops.where(high > 4 * low, geometric, low + (high - low) / 2)


@functools.cache
def _compiled(size):
    """`_top_mask`, compiled by XLA on TensorFlow also where the step is not.

    Outside XLA every pass would write its booleans to memory. The other backends
    compile whole steps themselves. One function a size, since TensorFlow warns of
    one that is traced for many.
    """
    if keras.backend.backend() != "tensorflow":
        return _top_mask
    import tensorflow as tf

    return tf.function(_top_mask, jit_compile=True, autograph=False)
