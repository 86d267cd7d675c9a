"""Pruning of a round by the sensitivity of layers, as Han et al. choose thresholds."""

from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

from tfticket.cutting import after_cuts
from tfticket.masks import pruned_count
from tfticket.model_masks import get_masks, get_pruned_weights
from tfticket.sensitivity import SensitivityRecord, choose, scan, threshold_masks

_QUALITIES = tuple(np.round(np.arange(0.1, 3.01, 0.1), 1).tolist())


def masks_by_sensitivity(
    model: keras.Model, evaluate: Callable[[keras.Model], float], rate: float
) -> dict[str, np.ndarray]:
    """Masks with exactly a fraction of the survivors less, thresholds chosen by layer.

    A layer's threshold is a quality times the standard deviation of its survivors, and
    the qualities are those at which each layer alone costs as much accuracy (Han et al.
    2015, arXiv 1506.02626, section 3.2 and figure 6). How much that is, is what takes
    the wanted number of weights; all thresholds are then scaled a little, so that the
    number is exact.

    Args:
        model: A wrapped, trained model; it stays as it is.
        evaluate: Its accuracy, on validation data.
        rate: Fraction of the survivors to prune, in (0, 1).

    Returns:
        Name to new mask.
    """
    weights, masks = get_pruned_weights(model), get_masks(model)
    alive = sum(int(np.count_nonzero(mask)) for mask in masks.values())
    count = pruned_count(alive, rate)
    qualities = _qualities(
        scan(model, evaluate, _QUALITIES),
        evaluate(model),
        weights,
        masks,
        alive - count,
    )
    scores = {}
    for name, mask in masks.items():
        values = np.abs(weights[name], dtype=np.float64)
        scores[name] = values / (qualities[name] * np.std(weights[name][mask]))
    return after_cuts(scores, masks, [(tuple(masks), count)])


def _qualities(
    records: Sequence[SensitivityRecord],
    baseline: float,
    weights: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    keep: float,
) -> dict[str, float]:
    """Those of the least loss of accuracy by layer that prune to `keep` weights."""
    drops = sorted({max(0.0, baseline - record.value) for record in records})
    chosen = {}
    for drop in drops:
        chosen = choose(records, baseline, drop)
        # A layer that bears nothing still has a threshold, half of the lowest tried.
        chosen = {
            name: quality or _QUALITIES[0] / 2 for name, quality in chosen.items()
        }
        left = threshold_masks(weights, masks, chosen, allow_empty=True)
        if sum(int(np.count_nonzero(mask)) for mask in left.values()) <= keep:
            break
    return chosen
