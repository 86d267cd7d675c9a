"""What a ticket is compared with: shuffled masks, new, noisy or signed weights."""

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
    stds = _for_each("stds", stds, masks)
    random = np.random.default_rng(check_integer("seed", seed, 0))
    noisy = dict(weights)
    for name, mask in masks.items():
        value = weights[name]
        noise = factor * stds[name] * random.standard_normal(value.shape)
        noisy[name] = np.where(mask, value + noise, 0).astype(value.dtype)
    return noisy


def signed_weights(
    weights: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    sizes: Mapping[str, float],
) -> dict[str, np.ndarray]:
    """Weights of one magnitude a layer, with the signs that they have.

    What a ticket's initial weights are worth may be in their signs alone (Zhou et al.,
    arXiv 1905.01067), who take the standard deviation that a layer is initialised with.

    Args:
        weights: Name to float array; what has no mask stays as it is.
        masks: Name to boolean array; what it prunes becomes 0.
        sizes: Name to the magnitude, 0 or more.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If masks don't fit the weights, or `sizes` lacks one.

    Example:

    >>> weights = {"a": np.array([0.5, -3.0, 1.0])}
    >>> mask = {"a": np.array([True, True, False])}
    >>> signed_weights(weights, mask, {"a": 0.1})["a"]
    array([ 0.1, -0.1,  0. ])
    """
    weights, masks = check_masked_arrays(weights, masks)
    sizes = _for_each("sizes", sizes, masks)
    found = dict(weights)
    for name, mask in masks.items():
        value = weights[name]
        signed = np.sign(value) * sizes[name]
        found[name] = np.where(mask, signed, 0).astype(value.dtype)
    return found


def shuffled_in_signs(
    weights: Mapping[str, np.ndarray], masks: Mapping[str, np.ndarray], seed: int
) -> dict[str, np.ndarray]:
    """Weights whose values are shuffled among the kept ones of their layer and sign.

    Each place keeps its sign, and each layer its values (arXiv 1905.01067).

    Args:
        weights: Name to float array; what has no mask stays as it is.
        masks: Name to boolean array; what it prunes becomes 0.
        seed: Seed of the permutations.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If masks don't fit the weights.

    Example:

    >>> weights = {"a": np.array([1.0, -2.0, 3.0, 9.0])}
    >>> mask = {"a": np.array([True, True, True, False])}
    >>> shuffled_in_signs(weights, mask, seed=3)["a"]
    array([ 3., -2.,  1.,  0.])
    """
    weights, masks = check_masked_arrays(weights, masks)
    random = np.random.default_rng(check_integer("seed", seed, 0))
    found = dict(weights)
    for name, mask in masks.items():
        value = np.where(mask, weights[name], 0).astype(weights[name].dtype)
        for places in (value > 0, value < 0):
            value[places] = random.permutation(value[places])
        found[name] = value
    return found


def flipped_signs(
    weights: Mapping[str, np.ndarray],
    masks: Mapping[str, np.ndarray],
    fraction: float,
    seed: int,
) -> dict[str, np.ndarray]:
    """Weights, a fraction of whose kept ones have the other sign.

    Args:
        weights: Name to float array; what has no mask stays as it is.
        masks: Name to boolean array; what it prunes becomes 0.
        fraction: How many of a layer's kept weights change their sign, in [0, 1].
        seed: Seed of which.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If masks don't fit the weights, or `fraction` is out of range.

    Example:

    >>> weights = {"a": np.array([1.0, 2.0, 3.0])}
    >>> mask = {"a": np.array([True, True, False])}
    >>> flipped_signs(weights, mask, 1.0, seed=0)["a"]
    array([-1., -2.,  0.])
    """
    weights, masks = check_masked_arrays(weights, masks)
    fraction = check_number("fraction", fraction, 0, 1)
    random = np.random.default_rng(check_integer("seed", seed, 0))
    found = dict(weights)
    for name, mask in masks.items():
        value = np.where(mask, weights[name], 0).astype(weights[name].dtype)
        kept = np.flatnonzero(mask)
        flipped = random.permutation(kept)[: round(fraction * kept.size)]
        value.flat[flipped] *= -1
        found[name] = value
    return found


def _for_each(name, values, masks):
    """A number, 0 or more, for each mask."""
    check_mapping(name, values, "names to numbers")
    for key in masks:
        if key not in values:
            raise ValueError(f"{name} must have '{key}'. Received: {name}={values}")
        check_number(f"{name}[{key!r}]", values[key], 0)
    return values
