"""The mask of the highest scores, chosen inside a training step, exactly.

`masks` chooses on the host, where a partition is fastest; this is the same choice
made of operations that compile on every Keras backend. It closes in on a threshold
by counting, four passes over the scores with the last step's threshold to begin with
and some ten without, and never sorts.
"""

import functools
import math

import keras
from keras import ops

_TINY = 1.1754944e-38  # the smallest normal float32
_HUGE = 3e38
_BASE = 2048  # more than a row has scores
_MOST_PASSES = 300
_ROWS_OF_MEAN = 16
# How far from the first threshold the next one lies, as a fraction of it: with a guess,
# the same multiplied by the square root of the number of scores.
_WARM_STEP, _COLD_STEP = 0.1, 0.5


def top_mask(scores, keep, guess=0.0):
    """Boolean mask of exactly `keep` scores, the highest; ties go to the lower index.

    Counts how many scores reach either of two thresholds and moves them to where
    they should enclose the sought one: by interpolation, which is quick where scores
    are spread smoothly, and by dividing in three every eighth pass, which bounds the
    number of passes whatever they are. Only where equal scores straddle the
    threshold are indices compared. Scores that are less than
    1.2e-38 apart, which compilers take for 0, count as equal.

    Args:
        scores: Float tensor of any shape, non-negative and below 3e38.
        keep: How many to keep, an integer or integer tensor between 1 and the
            number of scores.
        guess: Where to look for the threshold first, a float or float tensor: the
            one of a step before halves the number of passes. It changes nothing
            else. 0.0 is no guess.

    Returns:
        Boolean tensor shaped like `scores`, and the threshold, a float32 scalar.

    Example:

    >>> scores = np.array([0.5, 0.2, 0.5, 0.5], "float32")
    >>> mask, threshold = tfticket.edge_popup.topk_in_graph.top_mask(scores, keep=2)
    >>> np.array(mask), float(threshold)
    (array([ True, False,  True, False]), 0.5)
    """
    scores = ops.cast(ops.convert_to_tensor(scores), "float32")
    shape = scores.shape
    choose = _compiled(math.prod(shape))
    flat = ops.reshape(scores, (-1,))
    mask, threshold = choose(flat, ops.cast(keep, "int32"), ops.cast(guess, "float32"))
    return ops.reshape(mask, shape), threshold


def _top_mask(flat, keep, guess):
    count, mean = _counter(flat)
    size = flat.shape[0]
    # With no guess, the mean of some of the scores is a place to begin.
    warm = guess > 0
    first = ops.maximum(ops.where(warm, guess, mean), _TINY)
    first_step = ops.where(warm, _WARM_STEP / math.sqrt(size), _COLD_STEP)

    def is_open(tried, ends, excess, passes):
        return (excess[0] > 0) & (passes < _MOST_PASSES)

    def narrow(tried, ends, excess, passes):
        counted = count(tried) - keep
        reached = ops.cast(counted >= 0, "int32")
        nearest = reached[0] + reached[1] + ops.arange(2, dtype="int32")
        ends = ops.take(ops.concatenate([ends[:1], tried, ends[1:]]), nearest)
        excess = ops.take(ops.concatenate([excess[:1], counted, excess[1:]]), nearest)
        passes = passes + 1
        # What to try next is part of the state, or compilers would work it out anew
        # for every score.
        tried = _next_tried(ends, excess, first_step, passes)
        # No float lies between the two ends: what is left is equal.
        inside = (tried > ends[0]) & (tried < ends[1])
        passes = ops.where(inside[0] | inside[1], passes, _MOST_PASSES)
        return tried, ends, excess, passes

    # Too many scores reach the lower end, `excess[0]` of them; too few the upper.
    start = (
        first * (1 + first_step * _pair(-1, 1)),
        _pair(0, _HUGE),
        ops.stack([size - keep, -keep]),
        ops.zeros((), "int32"),
    )
    _, ends, excess, _ = ops.while_loop(is_open, narrow, start)
    return _first_of_equals(flat, ends, excess), ends[0]


def _counter(flat):
    """A function that counts the scores that reach each of two thresholds; a mean."""
    size = flat.shape[0]
    width = _row_width(size)
    rows = -(-size // width)
    padded = ops.reshape(ops.pad(flat, [[0, rows * width - size]]), (rows, width))
    ones = ops.ones((width,), "float32")

    def count(thresholds):
        # As a product with ones, which compilers vectorise better than a sum of
        # booleans, and both in one: a row's counts are below _BASE, so exact. So are
        # 1 and _BASE themselves where products round what they multiply, as a GPU's
        # do to ten bits (TF32); their sum would not be.
        reached = ops.where(padded >= thresholds[0], 1.0, 0.0)
        reached = ops.where(padded >= thresholds[1], 1.0 * _BASE, reached)
        both = ops.matmul(reached, ones)
        upper = ops.floor(both / _BASE)
        pair = ops.stack([both - _BASE * upper + upper, upper])
        return ops.sum(ops.cast(pair, "int32"), axis=1)

    some = padded[:: max(1, rows // _ROWS_OF_MEAN)]
    return count, ops.minimum(ops.mean(some), _HUGE / 2)


def _next_tried(ends, excess, first_step, passes):
    """The two thresholds to count next.

    With all that was tried on one side of the sought one, they lie away from there, by
    growing steps; else where interpolation puts them, or in the thirds of the interval
    where that leads nowhere, and every eighth time.
    """
    growth = ops.power(32.0, ops.cast(ops.minimum(passes, 9), "float32"))
    step = first_step * growth
    rising = ends[0] * (1 + step * _pair(1 / 8, 1))
    falling = ends[1] * (1 - ops.minimum(step, 0.75) * _pair(1, 1 / 8))
    tried = _interpolated(ends, excess)
    tried = ops.where(ends[1] >= _HUGE, rising, tried)
    tried = ops.where(ends[0] <= 0, falling, tried)
    misses = (tried <= ends[0]) | (tried >= ends[1]) | (passes % 8 == 0)
    tried = ops.where(misses, _thirds(ends), tried)
    return ops.clip(ops.maximum(tried, tried[0]), ends[0], ends[1])


def _first_of_equals(flat, ends, excess):
    """The mask of what reaches the upper end, and of equals below it the first."""
    size = flat.shape[0]

    def last_tie():
        tied = (flat >= ends[0]) & (flat < ends[1])
        place = ops.cumsum(ops.cast(tied, "int32"))
        return ops.sum(ops.cast(place < -excess[1], "int32"))

    last = ops.cond(excess[0] > 0, last_tie, lambda: ops.full((), size, "int32"))
    by_index = ops.arange(size, dtype="int32") <= last
    return (flat >= ends[1]) | ((flat >= ends[0]) & by_index)


def _interpolated(ends, excess):
    """Two thresholds that likely enclose the sought one.

    Were the scores between the ends spread evenly, the sought one would lie at `share`
    of the way, with a standard deviation of `spread`.
    """
    between = ops.cast(excess[0] - excess[1], "float32")
    share = ops.cast(excess[0], "float32") / between
    spread = ops.sqrt(share * (1 - share) / (between + 1))
    return ends[0] + (ends[1] - ends[0]) * (share + spread * _pair(-0.67, 0.67))


def _thirds(ends):
    """Divides the interval: its exponents while they differ, then its values."""
    floor = ops.maximum(ends[0], _TINY)
    ratio = ops.sqrt(ops.sqrt(ends[1]) / ops.sqrt(floor))
    values = ends[0] + (ends[1] - ends[0]) * _pair(1 / 3, 2 / 3)
    exponents = floor * ops.stack([ratio, ratio * ratio])
    return ops.where(ends[1] > 4 * floor, exponents, ops.maximum(values, floor))


def _pair(first, second):
    return ops.convert_to_tensor([first, second], "float32")


def _row_width(size):
    """Largest divisor of `size` that makes rows of a good length, else a power of 2."""
    widths = [width for width in range(128, 1025) if size % width == 0]
    return max(widths, default=512)


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
