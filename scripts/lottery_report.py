"""Writes the page of a lottery-ticket experiment: table, claims, recipe, pictures.

    python scripts/lottery_report.py --run_dir=runs/mnist-lenet_300_100-1a2b3c4d5e
    python scripts/lottery_report.py --run_dir=RUN --out=lottery.md --overwrite

Checks the claims of the lottery ticket paper against the run. Pictures go to a
folder beside the page, of its name.
"""

from tfticket_cli.main import script

if __name__ == "__main__":
    script("report", __doc__)
