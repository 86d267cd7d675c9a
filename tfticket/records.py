"""`RoundRecord`: what is known of one round of iterative magnitude pruning."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class RoundRecord:
    """What one round of training came to.

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
