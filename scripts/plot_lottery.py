"""Draws the figures of a lottery-ticket experiment, finished or still running.

    python scripts/plot_lottery.py --run_dir=runs/mnist-lenet_300_100-1a2b3c4d5e
    python scripts/plot_lottery.py --run_dir=RUN --rounds=0,3,7,15 --out_dir=figures

Prints one line for each branch and round, and writes a PNG file for each figure and
its numbers as CSV. Says which figures lack data.
"""

import os

# Before TensorFlow is imported: its start-up notes would hide what is printed.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags
from rich.console import Console

from tfticket.lottery import plot_run, tables

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Folder of the run.")
_OUT_DIR = flags.DEFINE_string(
    "out_dir", None, "Where figures go. Default: plots in the run's folder."
)
_ROUNDS = flags.DEFINE_list(
    "rounds",
    None,
    "Rounds of learning curves, movement and mask images. Default: those nearest to "
    "the paper's densities.",
)

flags.mark_flag_as_required("run_dir")


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}. Flags start with --.")
    console = Console()
    try:
        run(console)
    except (ValueError, OSError) as error:
        console.print(f"Error: {error}", style="red", markup=False)
        raise SystemExit(1) from error


def run(console):
    drawn = plot_run.plot_run(_RUN_DIR.value, _OUT_DIR.value, rounds_from_flags())
    console.print(tables.as_rich(tables.rows(drawn.results)))
    for path in drawn.written.values():
        console.print(f"Written:   {path}", highlight=False, soft_wrap=True)
    for name, why in drawn.skipped.items():
        console.print(f"Not drawn: {name}: {why}", highlight=False, markup=False)


def rounds_from_flags():
    if not _ROUNDS.value:
        return None
    if not all(number.isdecimal() for number in _ROUNDS.value):
        raise ValueError(
            "--rounds must be numbers of rounds, 0,3,7 for example. Received: "
            f"--rounds={','.join(_ROUNDS.value)}"
        )
    return [int(number) for number in _ROUNDS.value]


if __name__ == "__main__":
    app.run(main)
