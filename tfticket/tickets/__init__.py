"""Lottery tickets (arXiv 1803.03635): masks, the weights to start from, rounds.

For finding a ticket in one `fit`, saving it and applying it. `iterative` prunes and
rewinds, `ticket` is the file, `controls` makes what tickets are compared with.
"""

from typing import TYPE_CHECKING

from tfticket.common.on_demand import on_demand

if not TYPE_CHECKING:  # or a checker would take any name for a module
    __getattr__ = on_demand(__name__, "controls", "pictures")
