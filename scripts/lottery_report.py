"""Writes the page of a lottery-ticket experiment: table, claims, recipe, pictures.

    python scripts/lottery_report.py --run_dir=runs/mnist-lenet_300_100-1a2b3c4d5e
    python scripts/lottery_report.py --run_dir=RUN --out=lottery.md --overwrite

Judges the claims of the lottery ticket paper by intervals over the run's seeds.
Also writes NAME.csv, with a row for each training and moment, NAME.json, with the
settings, and a folder NAME of pictures.
"""

from tfticket_cli.main import script

if __name__ == "__main__":
    script("report", __doc__)
