"""Finds subnetworks in random weights by edge-popup, and plots how good they are.

    python scripts/train_popup.py
    python scripts/train_popup.py --dataset=mnist --epochs=20 --replicates=3
    python scripts/train_popup.py --dataset=cifar10 --model=conv_4 --augment

For every density and initialiser, scores are trained on frozen random weights; then
comes one line for each, and a plot of accuracy against density with the trained dense
network as a line. A run that was stopped goes on when it is started again.
"""

from tfticket_cli.main import script

if __name__ == "__main__":
    script("popup", __doc__)
