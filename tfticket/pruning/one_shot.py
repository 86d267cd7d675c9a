"""`sparsify`: prune a wrapped model at once, and sparsities weight by weight."""

from collections.abc import Mapping
from typing import Any

import keras

from tfticket.common.arguments import check_integer, check_number
from tfticket.keras_models.names import Pattern
from tfticket.pruning.engine import Pruner
from tfticket.pruning.evidence import FOLLOWED
from tfticket.pruning.targets import Goal, check_target
from tfticket.sparsity.criteria import EVIDENCE, Criterion
from tfticket.sparsity.scopes import Scope
from tfticket.sparsity.structures import Unstructured


def sparsify(
    model: keras.Model,
    sparsity: float | None = None,
    criterion: str | Criterion = "magnitude",
    scope: Scope = "layerwise",
    structure: Unstructured | None = None,
    sparsities: Mapping[Pattern, float] | None = None,
    output_factor: float = 1.0,
    rounds: int = 1,
    data: Any = None,
    loss: Any = None,
    batches: int | None = None,
    seed: int | None = None,
    allow_empty: bool = False,
    *,
    flops: float | None = None,
    parameters: float | None = None,
) -> None:
    """Prunes a wrapped model now, in place, to an exact sparsity.

    Before training it makes the controls that prune at initialisation (SNIP, GraSP,
    SynFlow, magnitude, random); after training, one-shot pruning.

    Args:
        model: A model wrapped by `tfticket.prune`.
        sparsity: Fraction of the units to prune, in [0, 1): of n, `n - round(n * s)`
            stay. What is pruned already counts. `None` where `flops` or `parameters`
            say how far to go.
        criterion: Name of a criterion of `tfticket.criteria`, or a function.
        scope: `"layerwise"` prunes the same fraction of every weight, `"global"` ranks
            them together, `"isomorphic"` those of the same kinds of layers together
            (arXiv 2407.04616), `"erk"` prunes by their shapes (arXiv 1911.11134).
        structure: What is pruned together, of `tfticket.structures`.
        sparsities: Weights that get a sparsity of their own: by path ("dense" or
            "dense/kernel"), compiled regular expression or layer class; 0.0 leaves
            them as they are. They don't count for the others.
        output_factor: Output layers get this part of `sparsity`: 0.5 for half. They
            are then cut by themselves.
        rounds: In how many steps, each pruning the same fraction of the survivors and
            scoring anew. SynFlow's paper takes 100.
        data: For SNIP, GraSP and Taylor: (x, y), or a dataset of batches.
        loss: The loss, if not the one the model is compiled with.
        batches: How many batches of the data to take.
        seed: Seed of a random criterion.
        allow_empty: Whether a weight may be left without survivors. If not, one that a
            cut through several weights would empty keeps its best unit.
        flops: Fraction of the model's operations to be left, in (0, 1], where whole
            channels are cut: `structure=Channel()`.
        parameters: The same of its parameters.

    Raises:
        ValueError: If an argument is out of range, a pattern matches nothing, the
            criterion lacks its data, or a weight would be left empty.

    Example:

    >>> model = tfticket.prune(
    ...     keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ... )
    >>> tfticket.sparsify(model, 0.75)
    >>> int(tfticket.get_masks(model)["dense/kernel"].sum())
    2
    """
    check_target(sparsity, flops, parameters)
    rounds = check_integer("rounds", rounds, 1)
    output_factor = check_number("output_factor", output_factor, 0, 1)
    pruner = Pruner(
        model,
        criterion,
        scope,
        structure,
        allow_empty=allow_empty,
        data=data,
        loss=loss,
        batches=batches,
        seed=seed,
    )
    if followed := [kind for kind in pruner.needs if kind in FOLLOWED]:
        raise ValueError(
            f"criterion={criterion!r} needs {followed[0]} ({EVIDENCE[followed[0]]}). "
            "Use it in GradualPruning or IterativeMagnitudePruning, which see that."
        )
    given = pruner.own_sparsities(sparsities)
    goal = None
    if sparsity is None:
        goal = Goal(pruner, given)
        sparsity = goal.sparsity_for(flops, parameters)
    outputs = pruner.outputs & set(pruner.structures) if output_factor != 1.0 else ()
    own = {**dict.fromkeys(outputs, sparsity * output_factor), **given}
    pruner.check(pruner.cuts_to(sparsity, own))
    if goal and rounds == 1 and not outputs:
        pruner.masked.set_masks(goal.masks(sparsity))  # by the scores it has
        return
    for number in range(1, rounds + 1):
        pruner.prune_to(
            _part(sparsity, number / rounds),
            {name: _part(value, number / rounds) for name, value in own.items()},
        )


def _part(sparsity, part):
    """The sparsity after a part of rounds that each prune as much of what is left."""
    return sparsity if part == 1 else 1 - (1 - sparsity) ** part
