"""How far masks agree, against what two masks of their sizes share by chance."""

import itertools
import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from tfticket.common.arguments import check_arrays, check_integer, check_values


def overlap(a: Mapping[str, np.ndarray], b: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Weights that two masks both keep, and how many both would keep by chance.

    By chance is: `a` as it is, and of each weight as many kept as in `b`, drawn
    uniformly. What both keep then has the hypergeometric distribution, of mean
    k1 k2 / n and variance k1 k2 (n - k1) (n - k2) / (n^2 (n - 1)). In the total, every
    weight is drawn for itself, so that masks do not seem alike only because both keep
    more of one layer than of another: means and variances add up.

    Args:
        a: Name of the weight to boolean array; True is kept.
        b: The same, of the same names and shapes.

    Returns:
        JSON-ready: `weights`, name to row; and `total`, a row. A row has `size` (n),
        `kept_a` (k1), `kept_b` (k2), `both`, `expected`, `std`, `z`, which is (both -
        expected) / std or None where std is 0, and `jaccard`, which is both / (kept
        in either) or None where neither keeps any.

    Raises:
        ValueError: If names or shapes differ.

    Example:

    >>> found = overlap({"k": np.arange(4) < 2}, {"k": np.arange(4) < 1})
    >>> found["total"]["both"], found["total"]["expected"], found["total"]["z"]
    (1, 0.5, 1.0)
    """
    a, b = check_arrays("a", a), check_arrays("b", b)
    if set(a) != set(b):
        raise ValueError(
            "a and b must be masks of the same weights. Received: "
            f"a={sorted(a)}, b={sorted(b)}"
        )
    rows, variances = {}, []
    for name in a:
        first, second = np.asarray(a[name], bool), np.asarray(b[name], bool)
        if first.shape != second.shape:
            raise ValueError(
                f"a['{name}'] and b['{name}'] must have the same shape. Received: "
                f"shapes {first.shape} and {second.shape}"
            )
        size = first.size
        # Python's integers: the product of four counts does not fit into 64 bits.
        kept_a, kept_b, both = (
            int(np.count_nonzero(mask)) for mask in (first, second, first & second)
        )
        ways = kept_a * kept_b * (size - kept_a) * (size - kept_b)
        variances.append(ways / (size * size * (size - 1)) if ways else 0.0)
        expected = kept_a * kept_b / size if size else 0.0
        rows[name] = _row(size, kept_a, kept_b, both, expected, variances[-1])
    sums = [
        sum(row[column] for row in rows.values())
        for column in ("size", "kept_a", "kept_b", "both", "expected")
    ]
    total = _row(*sums, sum(variances))  # type: ignore[call-arg]
    return {"weights": rows, "total": total}


def pairwise_overlap(
    masks_by_seed: Mapping[int, Mapping[str, np.ndarray]],
) -> list[dict[str, Any]]:
    """`overlap` of the masks of all pairs of replicates.

    Args:
        masks_by_seed: Seed to masks, all of the same names and shapes.

    Returns:
        For every pair, in the order of the mapping, what `overlap` gives and `seeds`,
        a list of the two. Empty for fewer than two replicates.

    Raises:
        ValueError: If names or shapes differ.

    Example:

    >>> masks = {seed: {"k": np.arange(4) < 2 + seed} for seed in range(3)}
    >>> [(pair["seeds"], pair["total"]["both"]) for pair in pairwise_overlap(masks)]
    [([0, 1], 2), ([0, 2], 2), ([1, 2], 3)]
    """
    masks_by_seed = check_values("masks_by_seed", masks_by_seed, check_arrays)
    for seed in masks_by_seed:
        check_integer("masks_by_seed", seed, 0)
    return [
        {"seeds": [first, second], **overlap(a, b)}
        for (first, a), (second, b) in itertools.combinations(masks_by_seed.items(), 2)
    ]


def _row(size, kept_a, kept_b, both, expected, variance):
    std, either = math.sqrt(variance), kept_a + kept_b - both
    return {
        "size": size,
        "kept_a": kept_a,
        "kept_b": kept_b,
        "both": both,
        "expected": expected,
        "std": std,
        "z": (both - expected) / std if std else None,
        "jaccard": both / either if either else None,
    }
