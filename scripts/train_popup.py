"""Finds subnetworks in random weights by edge-popup, and plots how good they are.

    python scripts/train_popup.py
    python scripts/train_popup.py --dataset=mnist --epochs=20 --replicates=3
    python scripts/train_popup.py --dataset=cifar10 --model=conv_4 --augment

For every density and initialiser, scores are trained on frozen random weights; then
comes one line for each, and a plot of accuracy against density with the trained dense
network as a line. A run that was stopped goes on when it is started again.
"""

import os
import pathlib

# Before TensorFlow is imported: its start-up notes would hide the progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

from absl import app, flags, logging
from rich.console import Console

from tfticket import data, models, popup_experiment, report

_DEFAULT = popup_experiment.PopupExperiment()

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
    "model", _DEFAULT.model, sorted(models.MODELS), "Network to search."
)
_DENSITY = flags.DEFINE_list(
    "density", [str(d) for d in _DEFAULT.densities], "Fractions of the edges kept."
)
_WEIGHT_INITIALIZER = flags.DEFINE_list(
    "weight_initializer",
    list(_DEFAULT.weight_initializers),
    "Of the frozen weights: signed_constant, kaiming_normal or both.",
)
_REPLICATES = flags.DEFINE_integer(
    "replicates", _DEFAULT.replicates, "Repetitions, each with the next seed."
)
_WIDTH = flags.DEFINE_float(
    "width", _DEFAULT.width, "Factor on the units and filters of every hidden layer."
)
_EPOCHS = flags.DEFINE_integer(
    "epochs", _DEFAULT.epochs, "Passes over the training images."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "Images a step.")
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate", _DEFAULT.learning_rate, "Of the scores at the start; cosine decay."
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay", _DEFAULT.weight_decay, "Weight decay of the scores."
)
_SCORE_SCOPE = flags.DEFINE_enum(
    "score_scope",
    _DEFAULT.score_scope,
    ["layerwise", "global"],
    "Choose edges in each layer, or among those of all layers.",
)
_SCALE_FAN = flags.DEFINE_bool(
    "scale_fan", False, "Scale initial weights by sqrt(1/density)."
)
_RESCALE = flags.DEFINE_bool(
    "rescale", False, "Multiply kept weights by n/kept (dynamic rescaling, 1905.01067)."
)
_BINARIZE = flags.DEFINE_bool(
    "binarize", False, "Binarise the weights (multi-prize tickets, 2103.09377)."
)
_AUGMENT = flags.DEFINE_bool(
    "augment", False, "Shift and flip training images at random."
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the first replicate.")
_OUT_DIR = flags.DEFINE_string(
    "out_dir",
    None,
    "Folder for settings, results and plot. Default: runs/popup-DATASET-MODEL.",
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace the results of an earlier run with other flags."
)


def experiment_from_flags() -> popup_experiment.PopupExperiment:
    try:
        densities = [float(text) for text in _DENSITY.value]
    except ValueError as error:
        raise ValueError(
            "--density must be fractions in (0, 1] with commas between them. "
            f"Received: --density={','.join(_DENSITY.value)}"
        ) from error
    return popup_experiment.PopupExperiment(
        dataset=_DATASET.value,
        model=_MODEL.value,
        densities=densities,
        weight_initializers=_WEIGHT_INITIALIZER.value,
        replicates=_REPLICATES.value,
        width=_WIDTH.value,
        epochs=_EPOCHS.value,
        batch_size=_BATCH_SIZE.value,
        learning_rate=_LEARNING_RATE.value,
        weight_decay=_WEIGHT_DECAY.value,
        score_scope=_SCORE_SCOPE.value,
        scale_fan=_SCALE_FAN.value,
        rescale=_RESCALE.value,
        binarize=_BINARIZE.value,
        augment=_AUGMENT.value,
        seed=_SEED.value,
    )


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}. Flags start with --.")
    logging.set_verbosity(logging.WARNING)
    console = Console()
    try:
        run(console)
    except (ValueError, OSError, ImportError) as error:
        console.print(f"Error: {error}", style="red", markup=False)
        raise SystemExit(1) from error


def run(console):
    experiment = experiment_from_flags()
    name = f"popup-{experiment.dataset}-{experiment.model}"
    out_dir = pathlib.Path(_OUT_DIR.value or pathlib.Path("runs", name))

    def on_result(result, done, total):
        kind = "dense network" if result.kind == "dense" else result.kind
        console.print(
            f"{done:3d}/{total}: {kind} at density {100 * result.density:.3g} %, "
            f"seed {result.seed}: test accuracy {100 * result.test_accuracy:.2f} %",
            highlight=False,
        )

    with console.status("Training"):
        results = popup_experiment.run(
            experiment,
            out_dir=out_dir,
            data_dir=_DATA_DIR.value,
            download=_DOWNLOAD.value,
            overwrite=_OVERWRITE.value,
            on_result=on_result,
        )
    rows = popup_experiment.summary(results)
    console.print(report.popup_table(rows))
    plot = out_dir / "plot.png"
    report.popup_plot(rows, plot, f"{experiment.model} on {experiment.dataset}")
    console.print(f"Results:     {out_dir / 'results.json'}", highlight=False)
    console.print(f"Plot:        {plot}", highlight=False)


if __name__ == "__main__":
    app.run(main)
