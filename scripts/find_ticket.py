"""Finds a lottery ticket by iterative magnitude pruning, and exports it.

    python scripts/find_ticket.py
    python scripts/find_ticket.py --dataset=mnist --rounds=16 --iterations=50000 \
        --evaluate_every=100
    python scripts/find_ticket.py --model=conv_2 --dataset=cifar10 --rewind_to=500

Trains the network, prunes its smallest weights, rewinds the rest, and again;
then prints one line a round, plots accuracy and early-stop iteration against
density, and writes the ticket, a SavedModel and a .tflite file, each checked
against the model in another process.
"""

import pathlib

from absl import app, flags
from rich.console import Console

from tfticket import data, models

_DATASET = flags.DEFINE_string(
    "dataset",
    data.EMBEDDED,
    "'digits' (embedded, no download) or the name of a TensorFlow Datasets image set, "
    "'mnist' or 'cifar10' for example.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of TFDS data, prepared or to download to."
)
_DOWNLOAD = flags.DEFINE_bool(
    "download", True, "Whether TFDS may download what is not prepared."
)
_MODEL = flags.DEFINE_enum(
    "model", "lenet_300_100", sorted(models.MODELS), "Network to prune."
)
_ROUNDS = flags.DEFINE_integer(
    "rounds", 10, "How many times to prune; there is one training more."
)
_RATE = flags.DEFINE_float(
    "rate", 0.2, "Fraction of the surviving weights pruned after a round, in (0, 1)."
)
_OUTPUT_RATE = flags.DEFINE_float(
    "output_rate", None, "The same for the output layer. Default: half of --rate."
)
_SCOPE = flags.DEFINE_enum(
    "scope",
    "layerwise",
    ["layerwise", "global"],
    "Prune each layer by the rate, or all of them by one cut.",
)
_REWIND_TO = flags.DEFINE_string(
    "rewind_to",
    "0",
    "Step of the first round whose weights the survivors go back to: 0 for the initial "
    "weights, 'none' to keep the trained ones (prune and fine-tune).",
)
_ITERATIONS = flags.DEFINE_integer(
    "iterations", None, "Training steps in a round. Default: 1500."
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", None, "The same in passes over the training images; give one of the two."
)
_EVALUATE_EVERY = flags.DEFINE_integer(
    "evaluate_every",
    None,
    "Steps between validations; must divide --iterations. Default: 50, or an epoch "
    "with --epochs.",
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", models.BATCH_SIZE, "Images a step.")
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", None, "Adam's learning rate. Default: the paper's for the model."
)
_SEED = flags.DEFINE_integer(
    "seed", 0, "Same seed, same machine: the same ticket, bit for bit."
)
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "Folder for the run: settings, a ticket a round, rounds.json, plot.png. Default: "
    "runs/DATASET-MODEL.",
)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir", "saved_models", "Folder for the SavedModel and the .tflite file."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace an earlier run and its exported files."
)


def experiment_from_flags(dataset_size):
    """The flags as an Experiment; needs the size of an epoch for --epochs."""
    from tfticket.lottery import Experiment

    if _EPOCHS.value is not None and _ITERATIONS.value is not None:
        raise ValueError("Give one of --epochs and --iterations, not both.")
    iterations, evaluate_every = _ITERATIONS.value, _EVALUATE_EVERY.value
    if _EPOCHS.value is not None:
        steps = max(1, dataset_size() // _BATCH_SIZE.value)
        iterations = _EPOCHS.value * steps
        evaluate_every = evaluate_every or steps
    return Experiment()
