"""Finds a lottery ticket by iterative magnitude pruning, and exports it.

    python scripts/find_ticket.py
    python scripts/find_ticket.py --dataset=mnist --iterations=5000 --evaluate_every=50
    python scripts/find_ticket.py --model=conv_2 --dataset=cifar10 --rewind_to=500

Trains the network, prunes its smallest weights, rewinds the rest, and again;
then prints one line a round, plots accuracy and early-stop iteration against
density, and writes the ticket, a SavedModel and a .tflite file, each checked
against the model in another process.
"""

import os
import pathlib

# Before TensorFlow is imported: its start-up notes would hide the progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging
from rich.console import Console

from tfticket import data, export, get_masks, lottery, models, progress, report

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
    "rounds", 12, "How many times to prune; there is one training more."
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
    "iterations", None, "Training steps in a round. Default: 1000."
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", None, "The same in passes over the training images; give one of the two."
)
_EVALUATE_EVERY = flags.DEFINE_integer(
    "evaluate_every",
    None,
    "Steps between validations; must divide --iterations. Default: 10, or an epoch "
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


def experiment_from_flags() -> lottery.Experiment:
    rewind_to = _REWIND_TO.value
    if rewind_to != "none" and not rewind_to.isdecimal():
        raise ValueError(
            "--rewind_to must be a step (0 is the initial weights) or 'none'. "
            f"Received: --rewind_to={rewind_to}"
        )
    return lottery.Experiment(
        dataset=_DATASET.value,
        model=_MODEL.value,
        rounds=_ROUNDS.value,
        rate=_RATE.value,
        output_rate=_OUTPUT_RATE.value,
        scope=_SCOPE.value,
        rewind_to=None if rewind_to == "none" else int(rewind_to),
        iterations=_ITERATIONS.value,
        epochs=_EPOCHS.value,
        evaluate_every=_EVALUATE_EVERY.value,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
        seed=_SEED.value,
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}. Flags start with --.")
    logging.set_verbosity(logging.WARNING)  # TensorFlow tells how it saves
    console = Console()
    try:
        run(console)
    except (ValueError, OSError, ImportError, export.ExportError) as error:
        console.print(f"Error: {error}", style="red", markup=False)
        raise SystemExit(1) from error


def run(console):
    experiment = experiment_from_flags()
    name = f"{experiment.dataset}-{experiment.model}"
    out_dir = pathlib.Path(_OUT_DIR.value or pathlib.Path("runs", name))
    served = pathlib.Path(_EXPORT_DIR.value, name)
    lite = served.with_name(f"{name}.tflite")
    for path in (served / "1", lite):
        if path.exists() and not _OVERWRITE.value:
            raise FileExistsError(
                f"{path} exists. Pass --overwrite to replace it, or choose another "
                "--export_dir."
            )

    def on_start(dataset, model, compiled):
        console.print(dataset.describe(), highlight=False)
        prunable = sum(mask.size for mask in get_masks(model).values())
        console.print(
            f"{model.name}: {prunable:,} prunable weights, compiled with {compiled}",
            highlight=False,
        )

    found = lottery.find_ticket(
        experiment,
        out_dir=out_dir,
        data_dir=_DATA_DIR.value,
        download=_DOWNLOAD.value,
        overwrite=_OVERWRITE.value,
        callbacks=[progress.RoundProgress(console)],
        on_start=on_start,
    )
    console.print(report.rounds_table(found.records))
    plot = out_dir / "plot.png"
    report.rounds_plot(
        found.records, plot, f"{experiment.model} on {found.dataset.name}"
    )
    images = found.dataset.test[0]
    console.print(f"Ticket:      {out_dir / 'ticket.npz'}", highlight=False)
    console.print(f"Plot:        {plot}", highlight=False)
    kwargs = {"inputs": images, "overwrite": _OVERWRITE.value}
    exported = export.saved_model(found.model, served, version=1, **kwargs)
    console.print(f"SavedModel:  {exported}", highlight=False, soft_wrap=True)
    exported = export.litert(found.model, lite, **kwargs)
    console.print(f"LiteRT:      {exported}", highlight=False, soft_wrap=True)
    trained = lite.with_suffix(".npz")
    found.ticket.with_weights(found.model).save(trained)
    console.print(f"Trained:     {trained}, for scripts/export.py", highlight=False)


if __name__ == "__main__":
    app.run(main)
