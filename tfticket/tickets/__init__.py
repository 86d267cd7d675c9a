"""Lottery tickets (arXiv 1803.03635): masks, the weights they start from, rounds."""

from typing import TYPE_CHECKING

from tfticket.common.on_demand import on_demand

if not TYPE_CHECKING:  # or a checker would take any name for a module
    __getattr__ = on_demand(__name__, "controls", "pictures")
