"""Make Keras 3 models sparse: masks, lottery tickets, supermasks, checked exports.

For users. `dir(tfticket)` is the public interface; what needs TensorFlow or matplotlib
is imported when it is first used.
"""

import runpy
import sys
from typing import TYPE_CHECKING

# Python imports a package before its `__main__`, with "-m" in place of the program's
# name. The program starts here instead of after the imports below, which take seconds,
# and imports this package again if a command needs it.
if sys.argv[:1] == ["-m"] and sys.orig_argv[-len(sys.argv)] in (
    __name__,
    f"-m{__name__}",
):
    sys.argv[0] = __file__
    del sys.modules[__name__]
    runpy.run_module("tfticket_cli", run_name="__main__", alter_sys=True)

from tfticket._version import __version__
from tfticket.common.on_demand import on_demand
from tfticket.edge_popup.layers import (
    PopupConv1D,
    PopupConv2D,
    PopupConv3D,
    PopupDense,
    PopupDepthwiseConv2D,
    PopupEinsumDense,
)
from tfticket.edge_popup.model import PopupModel
from tfticket.edge_popup.twin import DensityScheduler, popup, set_density
from tfticket.inspection.summary import SummaryRow, summary, summary_rows
from tfticket.inspection.tensorboard import PruningSummaries
from tfticket.keras_models.channels.groups import (
    ChannelGroup,
    ChannelGroups,
    channel_groups,
)
from tfticket.keras_models.channels.registry import channel_rule
from tfticket.keras_models.channels.rule import Channels, Member
from tfticket.keras_models.channels.rule import Rule as ChannelRule
from tfticket.pruning import thresholds as sensitivity
from tfticket.pruning.calibrated import (
    OneShotBlock,
    OneShotReport,
    OneShotRow,
    one_shot,
)
from tfticket.pruning.dynamic import DynamicSparseTraining, UpdateRecord
from tfticket.pruning.gradual import GradualPruning
from tfticket.pruning.masks import get_masks, set_masks
from tfticket.pruning.one_shot import sparsify
from tfticket.pruning.prune_model import prune
from tfticket.pruning.prune_strip import strip
from tfticket.pruning.quantized import mask_quantized, quantized_masks
from tfticket.pruning.statistics import renew_batch_norm
from tfticket.pruning.targets import ChannelPlan, channel_plan
from tfticket.pruning.topk_training import TopKTraining
from tfticket.pruning.wrapper import Prune
from tfticket.sparsity import criteria, schedules, structures
from tfticket.tickets.iterative import IterativeMagnitudePruning
from tfticket.tickets.rounds import RoundRecord
from tfticket.tickets.ticket import Ticket

if TYPE_CHECKING:
    from tfticket import compat as compat
    from tfticket import data as data
    from tfticket import devices as devices
    from tfticket import export as export
    from tfticket import lottery as lottery
    from tfticket import models as models

# TF-MOT's name for it.
UpdatePruningStep = GradualPruning

# Short public paths of modules that live in packages, also for `import`.
for _name in ("criteria", "schedules", "sensitivity", "structures"):
    sys.modules[f"tfticket.{_name}"] = globals()[_name]
del _name

# Imported when first used: they need TensorFlow or matplotlib, and training on
# another Keras backend does not.
_ON_DEMAND = ("compat", "data", "devices", "export", "lottery", "models")

__all__ = [
    "ChannelGroup",
    "ChannelGroups",
    "ChannelPlan",
    "ChannelRule",
    "Channels",
    "DensityScheduler",
    "DynamicSparseTraining",
    "GradualPruning",
    "IterativeMagnitudePruning",
    "Member",
    "OneShotBlock",
    "OneShotReport",
    "OneShotRow",
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
    "TopKTraining",
    "UpdatePruningStep",
    "UpdateRecord",
    "__version__",
    "channel_groups",
    "channel_plan",
    "channel_rule",
    "criteria",
    "get_masks",
    "mask_quantized",
    "one_shot",
    "popup",
    "prune",
    "quantized_masks",
    "renew_batch_norm",
    "schedules",
    "sensitivity",
    "set_density",
    "set_masks",
    "sparsify",
    "strip",
    "structures",
    "summary",
    "summary_rows",
]


if not TYPE_CHECKING:  # or a checker would take any name for a module
    __getattr__ = on_demand(__name__, *_ON_DEMAND)


def __dir__() -> list[str]:
    return sorted([*__all__, *_ON_DEMAND])
