"""Draws the figures of a lottery-ticket experiment, finished or still running.

    tfticket plot --run_dir=runs/mnist-lenet_300_100-1a2b3c4d5e
    tfticket plot --run_dir=RUN --rounds=0,3,7,15 --out_dir=figures --format=svg,pdf
    tfticket plot --run_dir=RUN,OTHER_RUN --x=parameters --out_dir=figures

Prints one line for each branch and round, and writes each figure to a file and its
numbers as CSV, with their captions. Names the figures that lack data. Several runs come
into one table and one figure of their accuracies.
"""

import pathlib
from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output

# As `tfticket.tickets.pictures.FORMATS`, whose import takes seconds.
_FORMATS = ("png", "svg", "pdf")
# As `tfticket.lottery.figures.comparison.AXES`.
_AXES = ("density", "parameters")


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flag_groups.run_dir(values, several=True)
    about = (
        "Folder for the figures. Default: plots in the run's folder; several runs need "
        "one."
    )
    flag_groups.define(values, "string", "out_dir", None, about)
    about = (
        "Rounds for learning curves, movement and mask images. Default: the rounds "
        "nearest to the paper's densities."
    )
    flag_groups.define(values, "list", "rounds", None, about)
    about = "Formats of the figures: png, svg, pdf, or several of them."
    flag_groups.define(values, "list", "format", ["png"], about)
    about = (
        "What several runs are compared at: the density, or the number of weights left."
    )
    flag_groups.choice(values, "x", "density", _AXES, about)


def check(values: flags.FlagValues) -> None:
    """Refuses a missing folder, and flags with wrong values or without a use."""
    flag_groups.check_run_dir(values)
    if not values.format or not set(values.format) <= set(_FORMATS):
        raise ValueError(
            f"--format must be one or more of {', '.join(_FORMATS)}. "
            f"Received: {','.join(values.format)}"
        )
    flag_groups.steps("rounds", values.rounds or [], 0)
    several = len(values.run_dir) > 1
    if several and values.out_dir is None:
        raise ValueError(
            "A figure of several runs is in none of their folders: name one with "
            f"--out_dir. Received: --run_dir={','.join(values.run_dir)}"
        )
    for name in ["rounds"] if several else ["x"]:
        if values[name].present:
            raise ValueError(
                f"--{name} is for {'one run' if several else 'several runs'}. "
                f"Received: --run_dir={','.join(values.run_dir)}"
            )


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Draws what there are results of, and says what."""
    from tfticket import lottery
    from tfticket.lottery.figures import tables
    from tfticket.lottery.figures.run import rewound_to

    if len(values.run_dir) > 1:
        return _compare(values, output)
    (folder,) = values.run_dir
    rounds = values.rounds or None
    drawn = lottery.plot_run(
        folder,
        values.out_dir,
        rounds and flag_groups.steps("rounds", rounds, 0),
        formats=values.format,
    )
    rows = tables.rows(drawn.results, rewound_to(lottery.read_config(folder)))
    output.table(tables.as_rich(rows))
    for path in drawn.written.values():
        output.say(f"Written:   {path}")
    for name, why in drawn.skipped.items():
        output.say(f"Not drawn: {name}: {why}")
    return {
        "run_dir": folder,
        "rows": rows,
        "files": drawn.written,
        "not_drawn": drawn.skipped,
    }


def _compare(values, output):
    from tfticket import lottery
    from tfticket.lottery.figures import tables

    rows = lottery.compare_runs(
        values.run_dir, values.out_dir, values.x, formats=values.format
    )
    output.table(tables.as_rich(rows))
    path = pathlib.Path(values.out_dir, f"comparison.{values.format[0]}")
    output.say(f"Written:   {path}")
    return {"run_dir": values.run_dir, "rows": rows, "files": {"comparison": path}}
