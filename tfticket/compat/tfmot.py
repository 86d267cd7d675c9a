"""TF-MOT's pruning names: `import tfticket.compat.tfmot as tfmot`."""

import types

from tfticket.compat.low_magnitude import (
    PrunableLayer,
    UpdatePruningStep,
    prune_low_magnitude,
    prune_scope,
    strip_pruning,
)
from tfticket.compat.policies import PruneForLatencyOnXNNPack, PruningPolicy
from tfticket.compat.translated import PruningSchedule
from tfticket.inspection.tensorboard import PruningSummaries
from tfticket.sparsity.schedules import ConstantSparsity, PolynomialDecay

__all__ = [
    "ConstantSparsity",
    "PolynomialDecay",
    "PrunableLayer",
    "PruneForLatencyOnXNNPack",
    "PruningPolicy",
    "PruningSchedule",
    "PruningSummaries",
    "UpdatePruningStep",
    "prune_low_magnitude",
    "prune_scope",
    "sparsity",
    "strip_pruning",
]

_NAMES = {name: globals()[name] for name in __all__ if name != "sparsity"}
sparsity = types.SimpleNamespace(
    keras=types.SimpleNamespace(
        **_NAMES,
        # TF-MOT's guides write both pruning_schedule.X and X.
        pruning_schedule=types.SimpleNamespace(
            ConstantSparsity=ConstantSparsity,
            PolynomialDecay=PolynomialDecay,
            PruningSchedule=PruningSchedule,
        ),
    )
)
