"""Writes the page of a lottery-ticket experiment: table, claims, recipe, pictures.

    python scripts/lottery_report.py --run_dir=runs/mnist-lenet_300_100-1a2b3c4d5e
    python scripts/lottery_report.py --run_dir=RUN --out=docs/results/lottery.md

Checks the claims of the lottery ticket paper against the run. Pictures go to a
folder beside the page, of its name.
"""

import os

# Before TensorFlow is imported: its start-up notes would hide what is printed.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags
from rich.console import Console

from tfticket.lottery import result_page, run_folder

_RUN_DIR = flags.DEFINE_string("run_dir", None, "Folder of the run.")
_OUT = flags.DEFINE_string("out", "docs/results/lottery.md", "The page to write.")

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
    drawn = result_page.write_page(_RUN_DIR.value, _OUT.value)
    config = run_folder.read_config(_RUN_DIR.value)
    for line in result_page.verdicts(drawn.results, config):
        console.print(line, highlight=False, markup=False, soft_wrap=True)
    for name, why in drawn.skipped.items():
        console.print(f"Not drawn: {name}: {why}", highlight=False, markup=False)
    console.print(f"Written: {_OUT.value}", highlight=False, soft_wrap=True)


if __name__ == "__main__":
    app.run(main)
