r"""Runs a lottery-ticket experiment: rounds, controls and replicates of one recipe.

    python scripts/run_lottery.py
    python scripts/run_lottery.py --preset=lenet_mnist --replicates=5 --branches=reinit
    python scripts/run_lottery.py --branches=reinit,shuffled,noise:0.5 --replicates=3
    python scripts/run_lottery.py --dataset=mnist --iterations=50000 --rounds=16 \
        --replicates=3 --branches=reinit --branch_rounds=3,7,9,12,15,16
    python scripts/run_lottery.py --rewind_to=none --retrain_factor=0.1 \
        --scope=sensitivity --rate=0.39 --rounds=5

The run's folder is named after its recipe. The same command resumes a run that was
stopped, and a command that asks for more extends it: no training is repeated.
`scripts/plot_lottery.py` draws the figures of a run, `scripts/lottery_report.py` writes
its tables.
"""

from tfticket_cli.main import script

if __name__ == "__main__":
    script("lottery", __doc__)
