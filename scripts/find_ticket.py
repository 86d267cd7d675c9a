"""Finds a lottery ticket by iterative magnitude pruning, and exports it.

    python scripts/find_ticket.py
    python scripts/find_ticket.py --dataset=mnist --iterations=5000 --evaluate_every=50
    python scripts/find_ticket.py --model=conv_2 --dataset=cifar10 --rewind_to=500

Trains the network, prunes its smallest weights, rewinds the others, and repeats this.
Then it prints a table of the rounds, plots accuracy and early-stop iteration against
density, and writes the ticket, a SavedModel and a .tflite file, each checked against
the model in another process. The same command resumes a run that was stopped.
"""

from tfticket_cli.main import script

if __name__ == "__main__":
    script("find", __doc__)
