"""Tables, figures and progress of runs, drawn from what their folders hold.

For reports. matplotlib is imported when the first figure is drawn.
"""

from typing import TYPE_CHECKING

from tfticket.common.on_demand import on_demand

if not TYPE_CHECKING:  # or a checker would take any name for a module
    __getattr__ = on_demand(
        __name__,
        "captions",
        "comparison",
        "csv_rows",
        "mask_image",
        "plots",
        "popup",
        "progress",
        "run",
        "tables",
        "trainings",
    )
