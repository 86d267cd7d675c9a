"""Draws the figures of a lottery-ticket experiment, finished or still running.

    python scripts/plot_lottery.py --run_dir=runs/mnist-lenet_300_100-1a2b3c4d5e
    python scripts/plot_lottery.py --run_dir=RUN --rounds=0,3,7,15 --out_dir=figures

Prints one line for each branch and round, and writes a PNG file for each figure and
its numbers as CSV. Names the figures that lack data.
"""

from tfticket_cli.main import script

if __name__ == "__main__":
    script("plot", __doc__)
