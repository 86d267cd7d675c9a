"""Edge-popup (arXiv 1911.13299): subnetworks of frozen random weights.

`layers` has the popup layers, `model` and `twin` make models of them, `experiment`
compares densities and initialisers on a data set.
"""

from typing import TYPE_CHECKING

from tfticket.common.on_demand import on_demand

if not TYPE_CHECKING:  # or a checker would take any name for a module
    __getattr__ = on_demand(__name__, "experiment")
