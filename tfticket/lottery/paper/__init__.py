"""What the papers claim, held against a run, and the page that says how it came out.

For reproductions: Frankle & Carbin's figures and Han et al.'s table.
"""

from typing import TYPE_CHECKING

from tfticket.common.on_demand import on_demand

if not TYPE_CHECKING:  # or a checker would take any name for a module
    __getattr__ = on_demand(__name__, "claims", "han", "page")
