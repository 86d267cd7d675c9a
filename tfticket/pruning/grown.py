"""How many units `DynamicSparseTraining` keeps, how long, and what they start as."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np

from tfticket.keras_models.names import Pattern
from tfticket.pruning.engine import Pruner
from tfticket.sparsity.regrowth import Regrowth, kept_by
from tfticket.sparsity.scopes import Cut
from tfticket.sparsity.structures import NM


def units_kept(
    pruner: Pruner,
    sparsity: float | None,
    sparsities: Mapping[Pattern, float] | None,
) -> dict[str, int]:
    """Name to the number of units that a sparsity keeps, those of N:M as they must be.

    Args:
        pruner: The model's pruner.
        sparsity: Fraction of the units that is pruned; `None` where N:M decides.
        sparsities: Weights that have a sparsity of their own, by pattern.

    Raises:
        ValueError: If N:M prunes more than it should, or there is no sparsity for a
            weight that has another structure.
    """
    sizes = pruner.sizes()
    own = pruner.own_sparsities(sparsities)
    full: dict[str, int] = {}
    for name, structure in pruner.structures.items():
        if isinstance(structure, NM) and own.get(name) != 0.0:
            kept = kept_by(structure, pruner.shapes[name], pruner.axes[name])
            _require(name, structure, kept / sizes[name], own.get(name, sparsity))
            # It takes no part in what the others share.
            full[name], own[name] = kept, 1 - kept / sizes[name]
        elif sparsity is None:
            raise ValueError(
                "sparsity must be a fraction in [0, 1), unless start='present' takes "
                "all masks as they are or NM(kept, group) says how many weights stay. "
                f"Received: sparsity=None, and '{name}' has structure={structure!r}"
            )
    cuts = pruner.cuts_to(sparsity or 0.0, own)
    return {x[0]: sizes[x[0]] - count for x, count in cuts} | full


def _require(name, structure, density, sparsity):
    if sparsity is not None and sparsity < 1 - density - 1e-9:
        raise ValueError(
            f"'{name}' is at {structure.kept}:{structure.group}, which prunes "
            f"{1 - density:.4g} of it, more than sparsity={sparsity}. Pass at least "
            "that, or sparsity=None."
        )


def cuts_that_fit(pruner: Pruner, cuts: Sequence[Cut]) -> list[Cut]:
    """The cuts, none of which is of more units than N:M lets go.

    Args:
        pruner: The model's pruner.
        cuts: Which weights lose how many units, if nothing is pruned yet.
    """

    def most(name):
        structure, size = pruner.structures[name], pruner.sizes()[name]
        if not isinstance(structure, NM):
            return size
        return size - kept_by(structure, pruner.shapes[name], pruner.axes[name])

    return [(names, min(count, sum(map(most, names)))) for names, count in cuts]


class Ages:
    """When what is kept grew, to tell how long it had lived when it is dropped.

    Args:
        step: Step at which all that is kept then counts as grown.
    """

    def __init__(self, step: int):
        self._first = step
        self._since: dict[str, np.ndarray] = {}

    def exchanged(
        self, step: int, masks: Mapping[str, np.ndarray], found: Mapping[str, Regrowth]
    ) -> dict[str, float]:
        """Name to how many steps what is dropped had lived, the mean over weights.

        Args:
            step: Step of the update.
            masks: Name to the mask before it.
            found: Name to what the update makes of it.

        Example:

        >>> ages = Ages(0)
        >>> mask = np.array([True, False])
        >>> found = Regrowth(np.array([False, False]), np.array([False, True]), 1)
        >>> ages.exchanged(10, {"kernel": mask}, {"kernel": found})
        {'kernel': 10.0}
        """
        lived = {}
        for name, (survivors, mask, moved) in found.items():
            if not moved:
                continue
            since = self._since.get(name)
            if since is None:
                since = np.full(mask.shape, self._first, np.int64)
                self._since[name] = since
            dropped = masks[name] & ~survivors
            lived[name] = float(step - since[dropped].mean())
            since[mask & ~survivors] = step
        return lived


def initial_values(
    initializer: keras.initializers.Initializer, seed: int, variable: keras.Variable
) -> np.ndarray:
    """Values in the shape of a variable.

    Args:
        initializer: Draws them; with a seed of its own it draws the same each time.
        seed: Its seed if it has none.
        variable: The variable.
    """
    config = initializer.get_config()
    if config.get("seed", 0) is None:
        initializer = type(initializer).from_config({**config, "seed": seed})
    return initializer(variable.shape, dtype=variable.dtype)
