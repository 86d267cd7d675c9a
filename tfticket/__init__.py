"""Lottery-ticket pruning for Keras 3: masks, rewinding, tickets, checked export."""

from tfticket._version import __version__
from tfticket.callbacks import IterativeMagnitudePruning, RoundRecord
from tfticket.tickets import Ticket
from tfticket.transform import get_masks, prune, set_masks, strip
from tfticket.wrappers import Prune

__all__ = [
    "IterativeMagnitudePruning",
    "Prune",
    "RoundRecord",
    "Ticket",
    "__version__",
    "get_masks",
    "prune",
    "set_masks",
    "strip",
]
