"""Intervals of means and differences over seeds, and what they say of a threshold."""

import dataclasses
import math
import numbers
import statistics
from collections.abc import Hashable, Iterable, Mapping, Sequence

from scipy import special

from tfticket.common.arguments import (
    check_instance,
    check_mapping,
    check_number,
    shown,
)

LEVEL = 0.95
REPRODUCED, REFUTED, UNDECIDED = "reproduced", "refuted", "undecided"
_POWER = 0.8
_MOST_SEEDS = 1000


@dataclasses.dataclass(frozen=True)
class Interval:
    """A mean or a difference of means, and the interval that Student's t gives it.

    Args:
        mean: The mean, or the difference.
        low: Lower end of the interval; minus infinity from one seed.
        high: Upper end; infinity from one seed.
        sds: Standard deviations that it rests on: of the values, of the paired
            differences, or of both arms (Welch). Empty from one seed.
        n: Seeds, of the smaller arm.
        kind: `"mean"`, `"paired"` or `"Welch"`.
    """

    mean: float
    low: float
    high: float
    sds: tuple[float, ...]
    n: int
    kind: str = "mean"


@dataclasses.dataclass(frozen=True)
class Region:
    """The values for which a statement holds, between two bounds.

    Args:
        low: Lower bound.
        high: Upper bound.
        closed: Whether the bounds themselves count: "at least" instead of "more than".

    Example:

    >>> above = Region(low=0.3)
    >>> values = {0: 0.52, 1: 0.55, 2: 0.50}
    >>> above.verdict(mean_interval(values.values()))
    'reproduced'
    >>> above.verdict(mean_interval([0.52]))
    """

    low: float = -math.inf
    high: float = math.inf
    closed: bool = False

    def verdict(self, interval: Interval) -> str | None:
        """What an interval says of the statement.

        Args:
            interval: Interval of the quantity.

        Returns:
            `"reproduced"` if all of the interval is in the region, `"refuted"` if none
            of it is, else `"undecided"`; `None` from one seed.
        """
        if interval.n < 2:
            return None
        if self.closed:
            inside = interval.low >= self.low and interval.high <= self.high
            outside = interval.high < self.low or interval.low > self.high
        else:
            inside = interval.low > self.low and interval.high < self.high
            outside = interval.high <= self.low or interval.low >= self.high
        return REPRODUCED if inside else REFUTED if outside else UNDECIDED

    def contains(self, value: float) -> bool:
        """Whether the statement holds for a value."""
        if self.closed:
            return self.low <= value <= self.high
        return self.low < value < self.high


def quantile(probability: float, degrees: float) -> float:
    """Student's t quantile.

    Args:
        probability: In (0, 1).
        degrees: Degrees of freedom, above 0.

    Example:

    >>> round(quantile(0.975, 2), 3)
    4.303
    """
    return float(special.stdtrit(degrees, probability))


def mean_interval(values: Iterable[float], level: float = LEVEL) -> Interval:
    """The mean of seeds and its interval.

    Args:
        values: One for each seed, one or more.
        level: Confidence level, in (0, 1).

    Raises:
        TypeError: If `values` is no list of numbers.
        ValueError: If there are no values, or `level` is out of range.

    Example:

    >>> found = mean_interval([1.0, 2.0, 3.0])
    >>> found.mean, round(found.low, 2), round(found.high, 2)
    (2.0, -0.48, 4.48)
    """
    check_number("level", level, above=0, below=1)
    try:
        if isinstance(values, (bytes, Mapping)):
            raise TypeError
        values = [_real("values", value) for value in values]
    except TypeError:
        raise TypeError(
            f"values must be a list of numbers. Received: values={shown(values)}"
        ) from None
    if not values:
        raise ValueError(
            "values must be those of one seed or more. Received: values=[]"
        )
    return _interval(statistics.fmean(values), [values], level, "mean")


def difference(
    first: Mapping[Hashable, float],
    second: Mapping[Hashable, float],
    level: float = LEVEL,
) -> Interval:
    """The difference of two arms and its interval.

    The interval is that of the paired differences where both arms have the same seeds,
    and Welch's otherwise.

    Args:
        first: Seed to value.
        second: What is subtracted, likewise.
        level: Confidence level, in (0, 1).

    Raises:
        TypeError: If an arm is no dict of numbers.
        ValueError: If an arm is empty, or `level` is out of range.

    Example:

    >>> difference({0: 2.0, 1: 3.5}, {0: 1.0, 1: 2.0}).kind
    'paired'
    >>> difference({0: 2.0, 1: 3.5}, {5: 1.0, 6: 2.0}).kind
    'Welch'
    """
    check_number("level", level, above=0, below=1)
    for name, arm in (("first", first), ("second", second)):
        if not check_mapping(name, arm, "seeds to numbers"):
            raise ValueError(
                f"{name} must hold one seed or more. Received: {name}={arm}"
            )
        for seed, value in arm.items():
            _real(f"{name}[{seed!r}]", value)
    if set(first) == set(second):
        apart = [float(first[seed] - second[seed]) for seed in first]
        return _interval(statistics.fmean(apart), [apart], level, "paired")
    arms = [[float(value) for value in arm.values()] for arm in (first, second)]
    mean = statistics.fmean(arms[0]) - statistics.fmean(arms[1])
    return _interval(mean, arms, level, "Welch")


def _real(name, value):
    # NaN is one: a training may have ended so, and then decides nothing.
    if isinstance(value, bool) or not isinstance(value, numbers.Real):
        raise TypeError(f"{name} must be a number. Received: {name}={shown(value)}")
    return float(value)


def seeds_to_decide(
    interval: Interval, region: Region, level: float = LEVEL
) -> int | None:
    """How many seeds would probably decide, with this mean and this spread.

    The least number of seeds in each arm with which a t test tells this mean from the
    nearest bound with a power of 80 %. Where the mean lies between two bounds,
    both have to be told from it, so that each gets a power of 90 %.

    Args:
        interval: Interval of the quantity, from two seeds or more.
        region: Region of the statement.
        level: Confidence level of the interval that has to decide, in (0, 1).

    Returns:
        The number, or `None` if 1,000 would not do or nothing can be said.

    Example:

    >>> found = Interval(0.5, -0.74, 1.74, (1.0,), 5)
    >>> seeds_to_decide(found, Region(low=0.0))
    34
    """
    check_instance("interval", interval, Interval, "an Interval")
    check_instance("region", region, Region, "a Region")
    check_number("level", level, above=0, below=1)
    bounds = [bound for bound in (region.low, region.high) if math.isfinite(bound)]
    distance = min((abs(interval.mean - bound) for bound in bounds), default=0.0)
    spread = math.hypot(*interval.sds)
    if interval.n < 2 or not distance > 0 or not math.isfinite(spread):
        return None
    both = len(bounds) == 2 and region.contains(interval.mean)
    wanted = 1 - (1 - _POWER) / 2 if both else _POWER

    def decides(n):
        errors = [sd / math.sqrt(n) for sd in interval.sds]
        degrees = _degrees(errors, [n] * len(errors))
        away = distance / math.hypot(*errors)
        missed = special.nctdtr(degrees, away, quantile((1 + level) / 2, degrees))
        return 1 - missed >= wanted

    if spread == 0:
        return 2
    return next((n for n in range(2, _MOST_SEEDS + 1) if decides(n)), None)


def _interval(
    mean: float, samples: Sequence[Sequence[float]], level: float, kind: str
) -> Interval:
    n = min(map(len, samples))
    if n < 2:
        return Interval(mean, -math.inf, math.inf, (), n, kind)
    if not all(math.isfinite(value) for sample in samples for value in sample):
        return Interval(mean, math.nan, math.nan, (math.nan,) * len(samples), n, kind)
    sds = tuple(statistics.stdev(sample) for sample in samples)
    sizes = [len(sample) for sample in samples]
    errors = [sd / math.sqrt(size) for sd, size in zip(sds, sizes, strict=True)]
    half = math.hypot(*errors)
    if half:
        half *= quantile((1 + level) / 2, _degrees(errors, sizes))
    return Interval(mean, mean - half, mean + half, sds, n, kind)


def _degrees(errors, sizes):
    """Welch and Satterthwaite's degrees of freedom; n - 1 of a single sample."""
    # Divided by the largest first: the fourth power of a small error is 0.
    most = max(errors)
    parts = [(error / most) ** 2 for error in errors]
    below = sum(p**2 / (size - 1) for p, size in zip(parts, sizes, strict=True))
    return sum(parts) ** 2 / below
