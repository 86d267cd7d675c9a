"""Draws the figures of a lottery-ticket experiment, finished or still running.

    tfticket plot --run_dir=runs/mnist-lenet_300_100-1a2b3c4d5e
    tfticket plot --run_dir=RUN --rounds=0,3,7,15 --out_dir=figures --format=svg,pdf

Prints one line for each branch and round, and writes each figure to a file and its
numbers as CSV. Names the figures that lack data.
"""

from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output

# As `tfticket.tickets.pictures.FORMATS`, whose import takes seconds.
_FORMATS = ("png", "svg", "pdf")


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flag_groups.run_dir(values)
    about = "Folder for the figures. Default: plots in the run's folder."
    flag_groups.define(values, "string", "out_dir", None, about)
    about = (
        "Rounds for learning curves, movement and mask images. Default: the rounds "
        "nearest to the paper's densities."
    )
    flag_groups.define(values, "list", "rounds", None, about)
    about = "Formats of the figures: png, svg, pdf, or several of them."
    flag_groups.define(values, "list", "format", ["png"], about)


def check(values: flags.FlagValues) -> None:
    """Refuses a missing folder, unknown formats, and rounds that are no numbers."""
    flag_groups.check_run_dir(values)
    if not values.format or not set(values.format) <= set(_FORMATS):
        raise ValueError(
            f"--format must be one or more of {', '.join(_FORMATS)}. "
            f"Received: {','.join(values.format)}"
        )
    flag_groups.steps("rounds", values.rounds or [], 0)


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Draws what there are results of, and says what."""
    from tfticket import lottery
    from tfticket.lottery.figures import tables
    from tfticket.lottery.figures.run import rewound_to

    rounds = values.rounds or None
    drawn = lottery.plot_run(
        values.run_dir,
        values.out_dir,
        rounds and flag_groups.steps("rounds", rounds, 0),
        formats=values.format,
    )
    step = rewound_to(lottery.read_config(values.run_dir))
    rows = tables.rows(drawn.results, step)
    output.table(tables.as_rich(rows))
    for path in drawn.written.values():
        output.say(f"Written:   {path}")
    for name, why in drawn.skipped.items():
        output.say(f"Not drawn: {name}: {why}")
    return {
        "run_dir": values.run_dir,
        "rows": rows,
        "files": drawn.written,
        "not_drawn": drawn.skipped,
    }
