"""Pruning by a threshold for each layer, and the scan that finds the thresholds.

Han et al. 2015 (arXiv 1506.02626): weights smaller than a quality parameter times the
standard deviation of their layer's weights are pruned. How much a layer tolerates is
measured by pruning it alone.
"""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

import keras
import numpy as np

from tfticket.common.arguments import (
    check_bool,
    check_function,
    check_instance,
    check_list,
    check_masked_arrays,
    check_number,
    check_rate,
)
from tfticket.keras_models.variables import State
from tfticket.pruning.masks import get_masks, get_pruned_weights, set_masks
from tfticket.sparsity.scopes import after_cuts
from tfticket.sparsity.topk import pruned_count


@dataclasses.dataclass(frozen=True)
class SensitivityRecord:
    """The model's quality measure with one weight pruned by one threshold.

    Attributes:
        name: Name of the weight, as in `tfticket.get_masks`.
        quality: Its threshold in standard deviations.
        density: Fraction of this weight that is kept, in (0, 1].
        value: What `evaluate` returned.
    """

    name: str
    quality: float
    density: float
    value: float


def threshold_masks(
    weights: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    quality: float | Mapping[str, float],
    allow_empty: bool = False,
) -> dict[str, np.ndarray]:
    """Prunes |w| < quality * standard deviation in each weight, whatever is left.

    The standard deviation is that of the kept weights, so pruning the same model again
    with the same quality prunes more.

    Args:
        weights: Name to float array.
        masks: Name to boolean array of its shape. What is False stays False, and
            does not count for the deviation.
        quality: Threshold in standard deviations, 0 or more: one for all, or
            by name. Names left out keep their mask.
        allow_empty: Whether a weight may be pruned completely.

    Returns:
        Name to new mask, for every name in `masks`.

    Raises:
        ValueError: If a name isn't there, a quality is negative or not finite, a
            weight is not finite, or a weight would lose all it has; says which
            quality keeps one.

    Example:

    >>> weights, masks = {"a": np.array([3.0, -1.0, -2.0])}, {"a": np.ones(3, bool)}
    >>> threshold_masks(weights, masks, 0.5)  # threshold 1.08
    {'a': array([ True, False,  True])}
    """
    weights, masks = check_masked_arrays(weights, masks)
    check_bool("allow_empty", allow_empty)
    if not isinstance(quality, Mapping):
        quality = dict.fromkeys(masks, quality)
    if unknown := [name for name in quality if name not in masks]:
        raise ValueError(f"quality names {unknown}. The masked weights: {list(masks)}")
    made = {}
    for name, mask in masks.items():
        mask = np.asarray(mask, bool)
        if name in quality and mask.any():
            q = check_number(f"quality['{name}']", quality[name], 0)
            mask = _cut(name, np.asarray(weights[name], np.float64), mask, q)
            if not allow_empty and not mask.any():
                raise ValueError(_empties(name, weights[name], masks[name], q))
        made[name] = mask
    return made


def prune_by_threshold(
    model: keras.Model,
    quality: float | Mapping[str, float],
    allow_empty: bool = False,
) -> None:
    """Prunes a wrapped model in place: weights, masks, optimizer slots.

    Args:
        model: A wrapped model.
        quality: As for `threshold_masks`: a number, or by name of the weight.
        allow_empty: Whether a weight may be pruned completely.

    Raises:
        ValueError: As `threshold_masks`, and if the model has no masks.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((20,)), keras.layers.Dense(20)])
    ... )
    >>> prune_by_threshold(model, 1.0)
    >>> float(tfticket.get_masks(model)["dense/kernel"].mean()) < 0.6
    True
    """
    weights, masks = _weights_and_masks(model)
    set_masks(model, threshold_masks(weights, masks, quality, allow_empty))


def scan(
    model: keras.Model,
    evaluate: Callable[[keras.Model], float],
    qualities: Iterable[float] = (0.25, 0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0),
) -> list[SensitivityRecord]:
    """Prunes one weight at a time by each quality and evaluates, without retraining.

    After each, the model is put back bit for bit: weights, masks, state, optimizer.

    Args:
        model: A wrapped model.
        evaluate: Function of the model that returns a number, its accuracy say.
        qualities: Thresholds in standard deviations. One that would leave nothing
            of a weight has no record there.

    Returns:
        List of `SensitivityRecord`, by weight in the model's order, then by quality.

    Raises:
        ValueError: As `threshold_masks`; if the model has no masks, or `evaluate`
            returns anything but a number.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(4)])
    ... )
    >>> norm = lambda model: np.linalg.norm(model.get_layer("dense").layer.kernel)
    >>> records = scan(model, norm, [0.0, 0.5])
    >>> [(record.name, record.quality) for record in records]
    [('dense/kernel', 0.0), ('dense/kernel', 0.5)]
    """
    weights, masks = _weights_and_masks(model)
    before = State.of(model)
    records = []
    check_function("evaluate", evaluate, "model")
    qualities = check_list("qualities", qualities, "a list of numbers")
    qualities = [check_number("qualities", q, 0) for q in qualities]
    for name in masks:
        for quality in qualities:
            cut = threshold_masks(weights, masks, {name: quality}, allow_empty=True)
            if not cut[name].any():
                continue
            try:
                set_masks(model, {name: cut[name]})
                value = _number(evaluate(model))
            finally:
                before.restore()
            density = float(cut[name].mean())
            records.append(SensitivityRecord(name, float(quality), density, value))
    return records


def choose(
    records: Iterable[SensitivityRecord],
    baseline: float,
    max_drop: float,
    higher_is_better: bool = True,
) -> dict[str, float]:
    """The largest quality of each weight that alone costs no more than `max_drop`.

    Losses of several weights add up, so prune by the result and retrain.

    Args:
        records: What `scan` returned.
        baseline: What `evaluate` returns for the model as it is.
        max_drop: How much worse than that a model may be, in the same unit.
        higher_is_better: True for an accuracy, False for a loss.

    Returns:
        Name to quality, 0.0 where each costs more; `prune_by_threshold` takes it.

    Raises:
        ValueError: If `max_drop` is negative or `baseline` is not finite.

    Example:

    >>> mild = SensitivityRecord("a", quality=0.5, density=0.6, value=0.97)
    >>> hard = SensitivityRecord("a", quality=1.0, density=0.3, value=0.90)
    >>> choose([mild, hard], baseline=0.98, max_drop=0.02)
    {'a': 0.5}
    """
    baseline = check_number("baseline", baseline)
    max_drop = check_number("max_drop", max_drop, 0)
    check_bool("higher_is_better", higher_is_better)
    if not isinstance(records, Iterator):
        records = check_list("records", records, "what scan returned")
    records = list(records)
    for record in records:
        check_instance("records", record, SensitivityRecord, "what scan returned")
    chosen: dict[str, float] = {}
    for record in records:
        drop = baseline - record.value
        drop = drop if higher_is_better else -drop
        best = chosen.setdefault(record.name, 0.0)
        if drop <= max_drop and record.quality > best:
            chosen[record.name] = record.quality
    return chosen


def _weights_and_masks(model):
    weights = get_pruned_weights(model)
    if not weights:
        raise ValueError(
            f"Model '{model.name}' has no masks. Wrap it: model = tfticket.prune(model)"
        )
    masks = get_masks(model)
    return weights, {name: masks[name] for name in weights}


def _cut(name, weight, mask, quality):
    alive = weight[mask]
    if not np.all(np.isfinite(alive)):
        raise ValueError(f"Weight '{name}' has NaN or infinite values.")
    return mask & (np.abs(weight) >= quality * np.std(alive))


def _empties(name, weight, mask, quality):
    alive = np.asarray(weight, np.float64)[mask]
    largest = np.max(np.abs(alive)) / np.std(alive)
    # Rounded down, so that what is printed does keep one.
    largest = math.floor(largest * 1e4) / 1e4
    return (
        f"quality={quality} leaves nothing of weight '{name}': its largest is below "
        f"{quality} standard deviations. At most quality={largest} keeps one; "
        "allow_empty=True prunes it all."
    )


def _number(value):
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise ValueError(
            "evaluate must return one number, for example model.evaluate(..., "
            f"return_dict=True)['accuracy']. Received: {value!r}"
        ) from error


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
    check_rate("rate", rate)
    weights, masks = _weights_and_masks(model)
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
