"""Scores in, masks of an exact size out: the largest of many scores, of joint arrays.

A mask is a boolean array in the shape of its weight: True is kept. One rule of rounding
holds everywhere (`pruned_count`), and ties are broken by index, so that a count is
exact even where every weight is equal.

For large arrays a sample brackets the lowest score that is kept; one pass counts what
lies above the bracket and collects what lies inside, a few percent of all; the exact
number is found among those, and a second pass writes the masks. The sample decides how
long it takes, never what comes out: where the bracket misses, a wider one is tried.
"""

import dataclasses
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from tfticket.common.arguments import check_density

# Scores looked at together. What is computed of them stays in the processor's cache.
_CHUNK = 1 << 16
# Scores in a sample. More of them take longer to draw, fewer leave more candidates.
_SAMPLE = 1 << 15
# Of smaller pools, what a sample costs in memory would show.
_LEAST_STRETCH = 16
# Up to so many living scores, one partition of all is faster than sampling first.
_FEW = 1 << 21
# Half the bracket's width in standard deviations of the sample's rank, by attempt.
# The first misses once in 16,000 times. The last is everything, and can't miss.
_SPREADS = (4.0, 16.0, math.inf)
# Below this share of living scores, comparing all costs more than picking them out.
_SPARSE = 1 / 8
# NumPy is slow with half floats, and booleans have no limits to compare with.
_WIDER = {"e": np.dtype(np.float32), "?": np.dtype(np.uint8)}


def pruned_count(size: int, sparsity: float) -> int:
    """Number of weights that a sparsity prunes: `round(size * sparsity)`.

    The one rounding rule of the package: Python's `round` of the float
    product, half to even. A layer of `n` weights keeps `n - round(n * s)`.

    Args:
        size: Number of weights there are to choose from.
        sparsity: Fraction of them to prune, in [0, 1].

    Raises:
        ValueError: If `sparsity` is outside [0, 1].

    Example:

    >>> pruned_count(266_200, 0.2)
    53240
    """
    if not 0.0 <= sparsity <= 1.0:
        raise ValueError(
            f"sparsity must be a fraction in [0, 1]. Received: sparsity={sparsity}"
        )
    return round(size * sparsity)


def kept_count(size: int, density: float) -> int:
    """Number of weights that a density keeps: `round(size * density)`.

    The same rule as `pruned_count`, said of what stays: for supermasks, which are
    defined by the fraction kept.

    Args:
        size: Number of weights there are to choose from.
        density: Fraction of them to keep, in (0, 1].

    Raises:
        ValueError: If `density` is outside (0, 1], or keeps not a single one.

    Example:

    >>> kept_count(235_200, 0.3)
    70560
    """
    kept = round(size * check_density("density", density))
    if kept == 0:
        raise ValueError(
            f"density={density} keeps none of {size} weights. Choose one above "
            f"{0.5 / size:.2g}."
        )
    return kept


def density(masks: Mapping[str, np.ndarray]) -> float:
    """Fraction of all masked weights that is kept, in [0, 1].

    >>> density({"a": np.array([True, False]), "b": np.array([True, True])})
    0.75
    """
    total = sum(mask.size for mask in masks.values())
    return sum(int(np.count_nonzero(mask)) for mask in masks.values()) / total


class PartError(ValueError):
    """What is wrong with one of the parts: its number `part`, and the `reason`."""

    def __init__(self, part: int, reason: str):
        super().__init__(f"In part {part}: {reason}")
        self.part = part
        self.reason = reason


def keep_largest(
    parts: Sequence[np.ndarray],
    keep: int,
    alive: Sequence[np.ndarray] | None = None,
    key: Callable[[np.ndarray], np.ndarray] | None = None,
) -> list[np.ndarray]:
    """Masks of the `keep` highest scores of all parts; of equal ones the first stay.

    The first are those of the earlier part, then of the lower flat index. Nothing
    is sorted or joined: beside the masks, memory is needed for a few percent of
    the scores.

    Args:
        parts: Arrays of any shape and real dtype, one score a weight. Scores of
            different dtypes are compared in the dtype that NumPy joins them to.
        keep: Number of weights to keep in all.
        alive: Boolean arrays shaped like the parts. What is False is never kept,
            and its score is never looked at. `None`: everything is alive.
        key: Function of an array that gives what is compared, entry by entry:
            `np.abs` ranks weights by magnitude. It is called on pieces, several
            times, so that the scores of all never exist at once. `None`: the parts
            are the scores.

    Returns:
        Boolean arrays shaped like the parts with exactly `keep` True together.

    Raises:
        PartError: A `ValueError`, if a score that is alive is NaN or infinite, or
            shapes differ. It says in which part.
        ValueError: If `keep` is outside [0, number alive], or `alive` has not one
            array for each part.

    Example:

    >>> keep_largest([np.array([3.0, 1.0]), np.array([1.0, 2.0])], keep=3)
    [array([ True,  True]), array([False,  True])]
    """
    parts = [np.asarray(part) for part in parts]
    pool = _Pool.of(parts, alive, key)
    if not 0 <= keep <= pool.living:
        raise ValueError(
            f"keep must be between 0 and the {pool.living} weights that are alive. "
            f"Received: keep={keep}"
        )
    if 0 < keep < pool.living:
        masks = pool.masks(*_threshold(pool, keep))
    else:
        for _ in pool.living_scores():  # Checks that they are finite.
            pass
        masks = [
            living.copy() if keep and living is not None else np.full(size, keep > 0)
            for living, size in zip(pool.alive, map(np.size, parts), strict=True)
        ]
    return [mask.reshape(part.shape) for mask, part in zip(masks, parts, strict=True)]


def _threshold(pool: "_Pool", keep: int) -> tuple[np.generic, int]:
    """The lowest score that is kept, and how many of those equal to it are."""
    for attempt, spread in enumerate(_SPREADS):
        bracket = pool.bracket(keep, spread, seed=attempt)
        if bracket is None:
            return _nth_largest(_all_living(pool), keep)
        low, high = bracket
        counts = np.zeros(4, np.int64)
        inside = []
        for scores, alive in pool.living_scores():
            # Scores equal to a bound are counted, not collected: where values are
            # few, they can be most.
            counts += [
                np.count_nonzero(_and(scores > high, alive)),
                np.count_nonzero(upper := _and(scores >= high, alive)),
                np.count_nonzero(lower := _and(scores > low, alive)),
                np.count_nonzero(_and(scores >= low, alive)),
            ]
            inside.append(scores[np.flatnonzero(lower > upper)])
        above_high, from_high, above_low, from_low = counts.tolist()
        if above_high < keep <= from_high:
            return high, keep - above_high
        if from_high < keep <= above_low:
            return _nth_largest(np.concatenate(inside), keep - from_high)
        if above_low < keep <= from_low:
            return low, keep - above_low
    raise AssertionError("unreachable: the last bracket is None")


def _and(flags: np.ndarray, others: np.ndarray | None) -> np.ndarray:
    return flags if others is None else np.logical_and(flags, others, out=flags)


def _all_living(pool: "_Pool") -> np.ndarray:
    """Every living score, in one array that is filled chunk by chunk."""
    everything = np.empty(pool.living, pool.dtype)
    end = 0
    for scores, alive in pool.living_scores():
        living = scores if alive is None else scores[alive]
        start, end = end, end + living.size
        everything[start:end] = living
    return everything


def _nth_largest(scores: np.ndarray, n: int) -> tuple[np.generic, int]:
    """The n-th largest score, and how many equal to it are among the n largest.

    Args:
        scores: Flat array, put into another order.
        n: From 1 to the number of scores.
    """
    cut = scores.size - n
    scores.partition(cut)
    return scores[cut], n - int(np.count_nonzero(scores[cut:] > scores[cut]))


@dataclasses.dataclass(frozen=True)
class _Pool:
    """Flat scores and which of them are alive, walked over in chunks of one dtype."""

    parts: list[np.ndarray]
    alive: list[np.ndarray | None]
    living: int
    dtype: np.dtype
    key: Callable[[np.ndarray], np.ndarray] | None

    @classmethod
    def of(
        cls,
        parts: Sequence[np.ndarray],
        alive: Sequence[Any] | None,
        key: Callable[[np.ndarray], np.ndarray] | None,
    ) -> "_Pool":
        if alive is None:
            alive = [None] * len(parts)
        elif len(alive) != len(parts):
            raise ValueError(
                "alive must have one array for each part. Received: "
                f"len(alive)={len(alive)}, len(parts)={len(parts)}"
            )
        flags, count = [], 0
        for number, (part, living) in enumerate(zip(parts, alive, strict=True)):
            if living is None:
                living = np.True_
            elif np.shape(living) != part.shape:
                raise PartError(
                    number,
                    "alive must have the shape of scores. Received: "
                    f"alive.shape={np.shape(living)}, scores.shape={part.shape}",
                )
            living = np.ravel(living).astype(bool, copy=False)
            everything = living.all()
            flags.append(None if everything else living)
            count += part.size if everything else int(np.count_nonzero(living))
        dtypes = {_WIDER.get(part.dtype.char, part.dtype) for part in parts}
        dtype = np.result_type(*dtypes or [float])
        return cls([np.ravel(part) for part in parts], flags, count, dtype, key)

    def chunks(self) -> Iterator[tuple[int, slice, np.ndarray, np.ndarray | None]]:
        """Part number, window in the part, its scores, and which are alive."""
        for number, part in enumerate(self.parts):
            for start in range(0, part.size, _CHUNK):
                window = slice(start, start + _CHUNK)
                alive = self.alive[number]
                alive = None if alive is None else alive[window]
                yield number, window, self._scores(part[window]), alive

    def _scores(self, values: np.ndarray) -> np.ndarray:
        values = values.astype(self.dtype, copy=False)
        return values if self.key is None else self.key(values)

    def living_scores(self) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """Scores by chunks, checked to be finite, and which of them count."""
        for number, _, scores, alive in self.chunks():
            if alive is not None:
                few = np.count_nonzero(alive) < alive.size * _SPARSE
                if few or not np.isfinite(scores).all():
                    scores, alive = scores[np.flatnonzero(alive)], None
            if alive is None and not np.isfinite(scores).all():
                raise PartError(
                    number,
                    "scores must be finite, found NaN or infinity. Weights that have "
                    "diverged can't be ranked: lower the learning rate or clip "
                    "gradients.",
                )
            yield scores, alive

    def bracket(self, keep: int, spread: float, seed: int) -> tuple | None:
        """Two scores that the `keep`-th highest likely lies between. `None`: any."""
        if self.living <= _FEW or spread == math.inf:
            return None
        if self.dtype.kind in "iu":
            limits: tuple = np.iinfo(self.dtype).min, np.iinfo(self.dtype).max
        else:
            limits = -math.inf, math.inf
        low, high = np.array(limits, self.dtype)
        sample = self.sample(seed)
        share = keep / self.living
        rank = sample.size * share
        slack = spread * (math.sqrt(rank * (1 - share)) + 1)
        last = sample.size - 1
        lower, upper = last - math.ceil(rank + slack), last - math.floor(rank - slack)
        within = [index for index in (lower, upper) if 0 <= index <= last]
        if not within:
            return None
        sample.partition(within)
        return (
            sample[lower] if lower >= 0 else low,
            sample[upper] if upper <= last else high,
        )

    def sample(self, seed: int) -> np.ndarray:
        """Scores that are alive, of one drawn from each of many equal stretches."""
        # Steps of one length would see but few values where scores have a period.
        size = sum(part.size for part in self.parts)
        stretches = min(_SAMPLE, size // _LEAST_STRETCH)
        positions = np.arange(stretches) + np.random.default_rng(seed).random(stretches)
        positions = (positions * (size / stretches)).astype(np.int64)
        drawn, start = [], 0
        for part, living in zip(self.parts, self.alive, strict=True):
            ends = np.searchsorted(positions, [start, start + part.size])
            here = positions[slice(*ends)] - start
            drawn.append(part[here if living is None else here[living[here]]])
            start += part.size
        return self._scores(np.concatenate(drawn, dtype=self.dtype))

    def masks(self, threshold: np.generic, ties: int) -> list[np.ndarray]:
        """What is above the threshold, and the first `ties` of what is equal to it."""
        masks = [np.empty(part.size, bool) for part in self.parts]
        for number, window, scores, alive in self.chunks():
            mask = np.greater(scores, threshold, out=masks[number][window])
            if ties:
                tied = _and(scores == threshold, alive)
                count = int(np.count_nonzero(tied))
                if count > ties:
                    tied[np.flatnonzero(tied)[ties:]] = False
                mask |= tied
                ties -= min(ties, count)
            _and(mask, alive)
        return masks
