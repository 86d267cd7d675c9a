"""The lottery-ticket experiment: rounds, controls and replicates, never run twice."""

from tfticket.lottery.results import Part, PartResult
from tfticket.lottery.single import Experiment, Found, find_ticket

__all__ = ["Experiment", "Found", "Part", "PartResult", "find_ticket"]
