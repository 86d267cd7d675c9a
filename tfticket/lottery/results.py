"""`Part` and `PartResult`: one training of an experiment, and its result."""

import dataclasses
import pathlib
import re
from typing import Any

from tfticket.common.arguments import (
    check_instance,
    check_integer,
    check_mapping,
    shown,
)


@dataclasses.dataclass(frozen=True, order=True)
class Part:
    """One training of an experiment: the smallest piece that is run or kept.

    Args:
        seed: Seed of the replicate.
        branch: `"ticket"` for the iterative pruning itself, else a control, written
            as for `LotteryExperiment.branches`.
        copy: Number of the copy of a control that is drawn at random; else 0.
        round: Number of prunings that made the masks.

    Example:

    >>> str(Part(seed=0, branch="noise:0.5", copy=1, round=7).path)
    'seed_0/noise_0.5/copy_1/round_07'
    """

    seed: int
    branch: str = "ticket"
    copy: int = 0
    round: int = 0

    def __post_init__(self):
        for name in ("seed", "copy", "round"):
            number = check_integer(name, getattr(self, name), 0)
            object.__setattr__(self, name, number)
        check_instance("branch", self.branch, str, "the name of a branch")
        kind = self.branch.partition(":")[0]
        # Data sets of a family have names such as imagenet_resized/8x8.
        up = ".." in re.split(r"[/\\]", self.branch)
        if not kind.isidentifier() or up or "\0" in self.branch:
            raise ValueError(
                "branch must be 'ticket' or a control, as LotteryExperiment takes it. "
                f"Received: branch={self.branch!r}"
            )

    @property
    def path(self) -> pathlib.PurePosixPath:
        """Folder of the part inside the run's, readable."""
        branch = self.branch.replace(":", "_")
        copy = f"copy_{self.copy}" if self.branch != "ticket" else ""
        return pathlib.PurePosixPath(
            f"seed_{self.seed}", branch, copy, f"round_{self.round:02d}"
        )


@dataclasses.dataclass(frozen=True)
class PartResult:
    """The result of one training.

    Args:
        part: The training.
        density: Weights kept as a fraction of all maskable ones of the network that the
            experiment prunes, in [0, 1].
        parameters: Maskable weights kept, a count.
        layers: Name of the weight to [kept, all], counts.
        iterations: The iteration that this training ended at.
        early_stop_iteration: That of the minimum validation loss, on the same clock.
        test: Loss and accuracy on the test part at the end of training.
        early_stop_test: The same with the weights of the early stop.
        validation: The same on the validation part at the end of training.
        early_stop_validation: The same at the early stop.
        movement: What `measures.movement.movement` found, for the branch
            `"ticket"`: how far weights moved that survive the next pruning, and how
            far those that don't.
        attacks: Name ("fgsm:0.1") to test accuracy under that attack.
        barrier: What `measures.stability.barrier` found, for the branch
            `"stability"`.
        seconds: `train` in `fit`, `between` for everything else of the part but the
            writing of its files.
        versions: Versions of tfticket, Keras and its backend.
        first_iteration: The iteration that it began at: 0, or with
            `rewind_clock="continue"` the step that it was rewound to. `None` in parts
            that a version without a choice of clocks wrote, and which began at 0.
        rewound_to: Step of the dense training that its weights were of.
    """

    part: Part
    density: float
    parameters: int
    layers: dict[str, list[int]]
    iterations: int
    early_stop_iteration: int
    test: dict[str, float]
    early_stop_test: dict[str, float]
    validation: dict[str, float]
    early_stop_validation: dict[str, float]
    movement: dict[str, Any] = dataclasses.field(default_factory=dict)
    attacks: dict[str, float] = dataclasses.field(default_factory=dict)
    barrier: dict[str, Any] = dataclasses.field(default_factory=dict)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    versions: dict[str, str] = dataclasses.field(default_factory=dict)
    first_iteration: int | None = None
    rewound_to: int | None = None

    def as_json(self) -> dict[str, Any]:
        """The result as JSON-ready data."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> "PartResult":
        """What `as_json` gave."""
        check_mapping("values", values, "fields to values")
        fields = {field.name for field in dataclasses.fields(cls)}
        needed = {"part", "density", "parameters", "layers", "test"}
        if not needed <= set(values) <= fields or not isinstance(values["part"], dict):
            raise ValueError(
                f"values must be what as_json gave. Received: values={shown(values)}"
            )
        return cls(**{**values, "part": Part(**values["part"])})
