"""How the epochs of one `fit` divide into rounds, and where the rewind point lies."""

from typing import Literal


def plan_rounds(
    rounds: int,
    rewind_to: int | None,
    rewind_unit: Literal["step", "epoch"],
    epochs: int,
    steps: int | None,
    per_execution: int | str,
) -> tuple[int, int | None]:
    """Epochs of a round and the step of the rewind point.

    Args:
        rounds: Times to prune; there is one training more.
        rewind_to: Steps or epochs of the first round; `None` is no rewinding.
        rewind_unit: Which of the two.
        epochs: Of the whole `fit`.
        steps: Of an epoch, `None` if the data does not say.
        per_execution: Steps that run together.

    Raises:
        ValueError: If epochs don't divide into rounds, or the rewind point is not
            one that a round passes through.

    Example:

    >>> plan_rounds(2, 1, "epoch", epochs=9, steps=100, per_execution=10)
    (3, 100)
    """
    if epochs % (rounds + 1):
        raise ValueError(
            f"rounds={rounds} needs {rounds + 1} trainings of equal "
            f"length (one dense, one after each pruning), and epochs={epochs} is "
            f"no multiple of {rounds + 1}. Fit for "
            f"epochs={(epochs // (rounds + 1) + 1) * (rounds + 1)}, say."
        )
    epochs_per_round = epochs // (rounds + 1)
    if not rewind_to:
        return epochs_per_round, rewind_to
    if steps is None:
        raise ValueError(
            f"rewind_to={rewind_to} needs to know how many steps an epoch "
            "has, and this data does not say. Pass steps_per_epoch to fit."
        )
    step = rewind_to * (steps if rewind_unit == "epoch" else 1)
    if step >= epochs_per_round * steps:
        raise ValueError(
            f"rewind_to={rewind_to} {rewind_unit}s is not before the "
            f"end of a round, which has {epochs_per_round} epochs of {steps} steps."
        )
    if not isinstance(per_execution, int):
        raise ValueError(
            f"rewind_to={rewind_to} needs to know which steps run together. "
            f"Compile with a number, not steps_per_execution={per_execution!r}."
        )
    if step % steps % per_execution:
        raise ValueError(
            f"rewind_to={step} steps falls inside one execution of {per_execution} "
            "steps. Rewind to a multiple of steps_per_execution, or compile with "
            "one that divides it."
        )
    return epochs_per_round, step
