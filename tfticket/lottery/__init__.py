"""Experiments that are never run twice: tickets, their controls, and supermasks.

For reproducing the papers, and for comparisons of your own. `LotteryExperiment` runs
rounds, controls and replicates of a `Recipe`, `find_ticket` one ticket,
`PopupExperiment` networks that are never trained. All three have a folder that is
locked, checked and continued.
"""

from typing import TYPE_CHECKING

from tfticket.common.on_demand import on_demand
from tfticket.common.runs import RunInUseError
from tfticket.lottery.engine.branches import Branch
from tfticket.lottery.engine.processes import WorkerDiedError
from tfticket.lottery.engine.run_folder import (
    read_config,
    read_metrics,
    read_results,
    read_ticket,
)
from tfticket.lottery.experiment import LotteryExperiment
from tfticket.lottery.measures.adversarial import attacked_accuracy, attacked_images
from tfticket.lottery.measures.movement import movement
from tfticket.lottery.measures.overlap import overlap, pairwise_overlap
from tfticket.lottery.measures.stability import barrier, interpolate
from tfticket.lottery.popup_experiment import PopupExperiment, PopupPart, PopupResult
from tfticket.lottery.presets import PRESETS
from tfticket.lottery.recipe import Recipe
from tfticket.lottery.results import Part, PartResult
from tfticket.lottery.single import Experiment, Found, find_ticket
from tfticket.tickets.controls import (
    flipped_signs,
    noisy_weights,
    shuffled_in_signs,
    shuffled_masks,
    signed_weights,
)

if TYPE_CHECKING:
    from tfticket.lottery.figures.comparison import compare_runs
    from tfticket.lottery.figures.popup import popup_plot, popup_rows, popup_table
    from tfticket.lottery.figures.progress import PartProgress, part_line
    from tfticket.lottery.figures.run import Plots, plot_run
    from tfticket.lottery.paper.page import write_page
    from tfticket.tickets.pictures import rounds_plot, rounds_table

__all__ = [
    "PRESETS",
    "Branch",
    "Experiment",
    "Found",
    "LotteryExperiment",
    "Part",
    "PartProgress",
    "PartResult",
    "Plots",
    "PopupExperiment",
    "PopupPart",
    "PopupResult",
    "Recipe",
    "RunInUseError",
    "WorkerDiedError",
    "attacked_accuracy",
    "attacked_images",
    "barrier",
    "compare_runs",
    "find_ticket",
    "flipped_signs",
    "interpolate",
    "movement",
    "noisy_weights",
    "overlap",
    "pairwise_overlap",
    "part_line",
    "plot_run",
    "popup_plot",
    "popup_rows",
    "popup_table",
    "read_config",
    "read_metrics",
    "read_results",
    "read_ticket",
    "rounds_plot",
    "rounds_table",
    "shuffled_in_signs",
    "shuffled_masks",
    "signed_weights",
    "write_page",
]

if not TYPE_CHECKING:  # or a checker would take any name for one of these
    # They draw, by matplotlib.
    __getattr__ = on_demand(
        __name__,
        "figures",
        "paper",
        PartProgress="tfticket.lottery.figures.progress",
        Plots="tfticket.lottery.figures.run",
        compare_runs="tfticket.lottery.figures.comparison",
        part_line="tfticket.lottery.figures.progress",
        plot_run="tfticket.lottery.figures.run",
        popup_plot="tfticket.lottery.figures.popup",
        popup_rows="tfticket.lottery.figures.popup",
        popup_table="tfticket.lottery.figures.popup",
        rounds_plot="tfticket.tickets.pictures",
        rounds_table="tfticket.tickets.pictures",
        write_page="tfticket.lottery.paper.page",
    )


def __dir__() -> list[str]:
    return sorted(__all__)
