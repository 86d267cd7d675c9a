"""What a round is: its record, and how the epochs of one `fit` divide into rounds."""

import dataclasses
from typing import Literal

EARLY_STOP = (
    "Early stop: the iteration of minimum validation loss, found afterwards; "
    "training always runs its full budget."
)


@dataclasses.dataclass(frozen=True)
class RoundRecord:
    """The result of one round of training.

    Args:
        round: 0 for the first (dense) round, then 1, 2, ...
        density: Fraction of the maskable weights kept in this round.
        parameters: Maskable weights kept, a count.
        iteration: Optimizer iteration at the end of the round.
        best_iteration: Iteration of the minimum validation loss, the paper's
            early-stop iteration, counted from the start of training (a round
            that is rewound to step k starts at k). `None` without validation.
        logs: Training and validation logs of the last epoch.
        best_logs: Logs of the epoch of minimum validation loss.
        test: Metrics on `test_data` at the end of the round.
        best_test: The same with the weights of `best_iteration`.
    """

    round: int
    density: float
    parameters: int
    iteration: int
    best_iteration: int | None
    logs: dict[str, float]
    best_logs: dict[str, float]
    test: dict[str, float]
    best_test: dict[str, float]


def flat(record: RoundRecord) -> dict[str, float | int]:
    """A record as one level of JSON-ready values, without what is missing."""
    flat = {
        field: getattr(record, field)
        for field in ("round", "density", "parameters", "iteration", "best_iteration")
        if getattr(record, field) is not None
    }
    for group in ("logs", "best_logs", "test", "best_test"):
        prefix = {"logs": "", "best_logs": "best_"}.get(group, f"{group}_")
        flat.update({prefix + k: v for k, v in getattr(record, group).items()})
    return flat


def percent(value: float | None, digits: int = 2) -> str:
    """A fraction in percent, without the sign; "-" for `None`."""
    return "-" if value is None else f"{100 * value:.{digits}f}"


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
        rounds: Number of prunings; there is one more training.
        rewind_to: Steps or epochs of the first round; `None`: no rewinding.
        rewind_unit: Which of the two.
        epochs: Total epochs of the `fit`.
        steps: Steps of an epoch, `None` if the data does not say.
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
