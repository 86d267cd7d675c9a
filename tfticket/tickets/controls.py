"""What a ticket is compared with: shuffled masks, new or noisy weights."""

from collections.abc import Mapping

import numpy as np

from tfticket.common.arguments import (
    check_integer,
    check_mapping,
    check_masked_arrays,
    check_number,
    check_values,
)
from tfticket.pruning.masks import boolean_mask


def shuffled_masks(masks: Mapping[str, np.ndarray], seed: int) -> dict[str, np.ndarray]:
    """Masks with as many weights kept in each layer, in places drawn at random.

    Args:
        masks: Name to boolean array.
        seed: Seed of the permutations.

    Example:

    >>> masks = {"a": np.array([[True, False], [False, False]])}
    >>> int(shuffled_masks(masks, seed=0)["a"].sum())
    1
    """
    masks = check_values("masks", masks, boolean_mask)
    random = np.random.default_rng(check_integer("seed", seed, 0))
    return {
        name: random.permutation(mask.ravel()).reshape(mask.shape)
        for name, mask in masks.items()
    }


def noisy_weights(
    weights: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    factor: float,
    stds: Mapping[str, float],
    seed: int,
) -> dict[str, np.ndarray]:
    """Weights with Gaussian noise added to those that a mask keeps.

    The lottery ticket paper does so in units of the standard deviation that a layer
    was initialised with (arXiv 1803.03635, appendix).

    Args:
        weights: Name to float array; what has no mask stays as it is.
        masks: Name to boolean array.
        factor: Standard deviation of the noise, in units of `stds`.
        stds: Name to the standard deviation of the layer's initial weights.
        seed: Seed of the noise.

    Example:

    >>> weights = {"a": np.zeros(3, np.float32)}
    >>> mask = {"a": np.array([True, False, False])}
    >>> noisy_weights(weights, mask, 0.0, {"a": 0.1}, seed=0)["a"]
    array([0., 0., 0.], dtype=float32)
    """
    weights, masks = check_masked_arrays(weights, masks)
    factor = check_number("factor", factor, 0)
    check_mapping("stds", stds, "names to standard deviations")
    for name in masks:
        if name not in stds:
            raise ValueError(f"stds must have '{name}'. Received: stds={stds}")
        check_number(f"stds[{name!r}]", stds[name], 0)
    random = np.random.default_rng(check_integer("seed", seed, 0))
    noisy = dict(weights)
    for name, mask in masks.items():
        value = weights[name]
        noise = factor * stds[name] * random.standard_normal(value.shape)
        noisy[name] = np.where(mask, value + noise, 0).astype(value.dtype)
    return noisy
