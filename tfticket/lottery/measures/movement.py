"""How far training takes the weights that survive pruning, and those that don't."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from tfticket.common.arguments import (
    check_arrays,
    check_integer,
    check_mapping,
    check_number,
)
from tfticket.sparsity import criteria


def movement(
    initial: Mapping[str, np.ndarray],
    trained: Mapping[str, np.ndarray],
    alive: Mapping[str, np.ndarray],
    kept: Mapping[str, np.ndarray],
    stds: Mapping[str, float] | None = None,
    bins: int = 60,
    limit: float = 3.0,
) -> dict[str, Any]:
    """Movement of the weights the next pruning keeps, and of those it prunes.

    In winning tickets the survivors move more, and away from zero (Frankle & Carbin,
    arXiv 1803.03635, appendix). What was pruned before the training counts in
    neither group, whatever the arrays hold there.

    Args:
        initial: Name to float array, the weights before the training. Names that
            `alive` does not have are passed over, here and in `trained`.
        trained: The same after it.
        alive: Name to boolean array: the masks that the training ran under.
        kept: Name to boolean array: what survives the next pruning, part of `alive`.
        stds: Name to the standard deviation of the layer's initialisation, the unit
            of the histograms. `None` is that of the alive weights in `initial`; to
            compare rounds, give that of the dense layer.
        bins: Number of bins of the histograms.
        limit: The histograms go from `-limit` to `limit` units. What is outside
            counts in the first or the last bin.

    Returns:
        JSON-ready: `edges`, bins + 1 floats; and `weights`, name to `std`, `survive`
        and `pruned`. These two have `count`; `mean_moved`, of |w_T - w_0|;
        `mean_away`, of |w_T| - |w_0|, positive away from zero; `mean_initial`, of
        |w_0|; and `histogram`, of (|w_T| - |w_0|) / std in counts that add up to
        `count`. A bin has its lower edge, not its upper. Means of nothing are None.

    Raises:
        ValueError: If names or shapes differ, `kept` has what is not alive, an alive
            weight is NaN or infinite, or a number is out of range.

    Example:

    >>> found = movement(
    ...     initial={"k": np.array([1.0, -1.0, 0.5])},
    ...     trained={"k": np.array([1.5, -3.0, 0.25])},
    ...     alive={"k": np.array([True, True, True])},
    ...     kept={"k": np.array([True, True, False])},
    ...     stds={"k": 1.0},
    ...     bins=4,
    ...     limit=1.0,
    ... )
    >>> found["edges"]
    [-1.0, -0.5, 0.0, 0.5, 1.0]
    >>> found["weights"]["k"]["survive"]["mean_away"]
    1.25
    >>> found["weights"]["k"]["survive"]["histogram"]
    [0, 0, 0, 2]
    >>> found["weights"]["k"]["pruned"]["histogram"]
    [0, 1, 0, 0]
    """
    bins = check_integer("bins", bins, 1)
    limit = check_number("limit", limit, above=0)
    initial, trained = (
        check_arrays("initial", initial),
        check_arrays("trained", trained),
    )
    alive, kept = check_arrays("alive", alive), check_arrays("kept", kept)
    if stds is not None:
        check_mapping("stds", stds, "names to standard deviations")
    if set(kept) != set(alive):
        raise ValueError(
            "kept and alive must be masks of the same weights. Received: "
            f"kept={sorted(kept)}, alive={sorted(alive)}"
        )
    # Of whole numbers, so that 0 and the limits are exact and both sides alike.
    edges = limit * ((2 * np.arange(bins + 1) - bins) / bins)
    weights = {}
    for name in alive:
        before, after, ran, stays = _arrays(name, initial, trained, alive, kept)
        std = float(before[ran].std()) if ran.any() else 0.0
        if stds is not None:
            std = _given_std(name, stds)
        weights[name] = {
            "std": std,
            "survive": _group(before[stays], after[stays], std, edges),
            "pruned": _group(before[ran & ~stays], after[ran & ~stays], std, edges),
        }
    return {"edges": edges.tolist(), "weights": weights}


def _arrays(name, initial, trained, alive, kept):
    for argument, mapping in (("initial", initial), ("trained", trained)):
        if name not in mapping:
            raise ValueError(
                f"{argument} must have every weight of alive. Missing: '{name}'"
            )
    ran, stays = np.asarray(alive[name], bool), np.asarray(kept[name], bool)
    found = []
    for argument, value in (
        ("initial", initial[name]),
        ("trained", trained[name]),
        ("kept", stays),
    ):
        if np.shape(value) != ran.shape:
            raise ValueError(
                f"{argument}['{name}'] must have the shape of its mask in alive, "
                f"{ran.shape}. Received: shape {np.shape(value)}"
            )
        # In float64: a mean over millions of float32 loses digits.
        found.append(np.asarray(value).astype(np.float64))
        if not np.all(np.isfinite(found[-1][ran])):
            raise ValueError(
                f"{argument}['{name}'] has NaN or infinite weights that are alive: the "
                "training diverged. Lower its learning rate."
            )
    if np.any(stays & ~ran):
        raise ValueError(
            f"kept['{name}'] must be part of alive['{name}']. Received: "
            f"{np.count_nonzero(stays & ~ran)} kept that are not alive"
        )
    return found[0], found[1], ran, stays


def _given_std(name, stds):
    if name not in stds:
        raise ValueError(f"stds must have every weight of alive. Missing: '{name}'")
    return check_number(f"stds[{name!r}]", stds[name], 0)


def _group(before, after, std, edges):
    moved = criteria.movement(after, before)
    away = criteria.magnitude_increase(after, before)
    # A layer of one weight, or of equal ones, has no unit: any move is off the scale.
    with np.errstate(divide="ignore", invalid="ignore"):
        units = np.where(away == 0, 0.0, away / std)
    last = len(edges) - 2
    places = np.clip(np.searchsorted(edges, units, side="right") - 1, 0, last)
    return {
        "count": before.size,
        "mean_moved": _mean(moved),
        "mean_away": _mean(away),
        "mean_initial": _mean(np.abs(before)),
        "histogram": np.bincount(places, minlength=last + 1).tolist(),
    }


def _mean(values):
    return float(values.mean()) if values.size else None
