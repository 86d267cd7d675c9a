"""Tables and figures of a run."""

from typing import TYPE_CHECKING

from tfticket.common.on_demand import on_demand

if not TYPE_CHECKING:  # or a checker would take any name for a module
    __getattr__ = on_demand(
        __name__,
        "csv_rows",
        "mask_image",
        "plots",
        "popup",
        "progress",
        "run",
        "tables",
    )
