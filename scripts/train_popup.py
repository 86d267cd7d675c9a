"""Finds subnetworks in random weights by edge-popup, and plots how good they are.

    python scripts/train_popup.py
    python scripts/train_popup.py --dataset=mnist --epochs=20 --replicates=3
    python scripts/train_popup.py --dataset=cifar10 --model=conv_4 --augment

Trains scores on frozen random weights for every density and initializer, then prints
one line for each and plots accuracy against density, with the trained dense network as
a line. The same command resumes a run that was stopped.
"""

from tfticket_cli.main import script

if __name__ == "__main__":
    script("popup", __doc__)
