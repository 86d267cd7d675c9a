"""A gene network that makes stripes, and its edges pruned one by one."""

from gene_network.experiment import METHODS, MotifExperiment, MotifResult, run
from gene_network.network import GeneNetwork
from gene_network.pruning import MOTIF_9, LeaveOneEdgeOut, Motif
from gene_network.reward import boundaries, reward, stability

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
