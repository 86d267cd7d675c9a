"""Lottery-ticket pruning for Keras 3: masks, rewinding, tickets, checked export."""

import importlib
from types import ModuleType
from typing import TYPE_CHECKING

from tfticket._version import __version__
from tfticket.callbacks import IterativeMagnitudePruning
from tfticket.gradual import GradualPruning
from tfticket.model_masks import get_masks, set_masks
from tfticket.popup_layers import (
    PopupConv1D,
    PopupConv2D,
    PopupConv3D,
    PopupDense,
    PopupDepthwiseConv2D,
    PopupEinsumDense,
)
from tfticket.popup_model import PopupModel
from tfticket.popup_twin import DensityScheduler, popup, set_density
from tfticket.pruning_summaries import PruningSummaries
from tfticket.records import RoundRecord
from tfticket.sparsify import sparsify
from tfticket.summary import SummaryRow, summary, summary_rows
from tfticket.tickets import Ticket
from tfticket.transform import prune, strip
from tfticket.wrappers import Prune

if TYPE_CHECKING:
    from tfticket import criteria as criteria
    from tfticket import data as data
    from tfticket import devices as devices
    from tfticket import export as export
    from tfticket import lottery as lottery
    from tfticket import models as models
    from tfticket import motif as motif
    from tfticket import popup_experiment as popup_experiment
    from tfticket import progress as progress
    from tfticket import report as report
    from tfticket import schedules as schedules
    from tfticket import structures as structures

# Imported when first used: they need TensorFlow or matplotlib, and training on
# another Keras backend does not.
_ON_DEMAND = (
    "data",
    "devices",
    "export",
    "lottery",
    "models",
    "motif",
    "popup_experiment",
    "progress",
    "report",
)

# TF-MOT's name of it.
UpdatePruningStep = GradualPruning

__all__ = [
    "DensityScheduler",
    "GradualPruning",
    "IterativeMagnitudePruning",
    "PopupConv1D",
    "PopupConv2D",
    "PopupConv3D",
    "PopupDense",
    "PopupDepthwiseConv2D",
    "PopupEinsumDense",
    "PopupModel",
    "Prune",
    "PruningSummaries",
    "RoundRecord",
    "SummaryRow",
    "Ticket",
    "UpdatePruningStep",
    "__version__",
    "get_masks",
    "popup",
    "prune",
    "set_density",
    "set_masks",
    "sparsify",
    "strip",
    "summary",
    "summary_rows",
]


if not TYPE_CHECKING:  # or a checker would take any name for one of these

    def __getattr__(name: str) -> ModuleType:
        if name in _ON_DEMAND:
            return importlib.import_module(f"tfticket.{name}")
        raise AttributeError(f"module 'tfticket' has no attribute '{name}'")


def __dir__() -> list[str]:
    return sorted([*globals(), *_ON_DEMAND])
