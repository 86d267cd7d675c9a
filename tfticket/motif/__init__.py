"""A gene network that makes stripes, and its edges pruned one by one."""

from tfticket.motif.experiment import METHODS, MotifExperiment, MotifResult, run
from tfticket.motif.network import GeneNetwork
from tfticket.motif.pruning import MOTIF_9, LeaveOneEdgeOut, Motif
from tfticket.motif.reward import boundaries, reward, stability

__all__ = [
    "METHODS",
    "MOTIF_9",
    "GeneNetwork",
    "LeaveOneEdgeOut",
    "Motif",
    "MotifExperiment",
    "MotifResult",
    "boundaries",
    "reward",
    "run",
    "stability",
]
