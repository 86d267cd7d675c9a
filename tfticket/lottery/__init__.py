"""The lottery-ticket experiment: rounds, controls and replicates, never run twice."""

from tfticket.lottery.engine.branches import Branch
from tfticket.lottery.engine.run_folder import (
    RunInUseError,
    read_config,
    read_metrics,
    read_results,
    read_ticket,
)
from tfticket.lottery.experiment import LotteryExperiment
from tfticket.lottery.recipe import Recipe
from tfticket.lottery.results import Part, PartResult
from tfticket.lottery.single import Experiment, Found, find_ticket

__all__ = [
    "Branch",
    "Experiment",
    "Found",
    "LotteryExperiment",
    "Part",
    "PartResult",
    "Recipe",
    "RunInUseError",
    "find_ticket",
    "read_config",
    "read_metrics",
    "read_results",
    "read_ticket",
]
