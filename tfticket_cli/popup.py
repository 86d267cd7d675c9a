"""Finds subnetworks in random weights by edge-popup, and plots how good they are.

    tfticket popup
    tfticket popup --dataset=mnist --epochs=20 --replicates=3
    tfticket popup --dataset=cifar10 --model=conv_4 --augment

For every density and initialiser, scores are trained on frozen random weights; then
comes one line for each, and a plot of accuracy against density with the trained dense
network as a line. A run that was stopped goes on when it is started again.
"""

import pathlib
from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output

ON_INTERRUPT = "What is finished is kept; the same command goes on from here."


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flag_groups.data(values)
    flag_groups.training(values, batch_size=128, seed="Of the first replicate.")
    flags.DEFINE_list(
        "density",
        ["0.1", "0.2", "0.3", "0.5", "0.7", "0.9"],
        "Fractions of the edges kept.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "weight_initializer",
        ["signed_constant", "kaiming_normal"],
        "Of the frozen weights: signed_constant, kaiming_normal or both.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "replicates", 1, "Repetitions, each with the next seed.", flag_values=values
    )
    flags.DEFINE_float(
        "width",
        1.0,
        "Factor on the units and filters of every hidden layer.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "epochs", 50, "Passes over the training images.", flag_values=values
    )
    flags.DEFINE_float(
        "learning_rate",
        0.1,
        "Of the scores at the start; cosine decay.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "weight_decay", 1e-4, "Weight decay of the scores.", flag_values=values
    )
    flags.DEFINE_enum(
        "score_scope",
        "layerwise",
        ["layerwise", "global"],
        "Choose edges in each layer, or among those of all layers.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "scale_fan",
        False,
        "Scale initial weights by sqrt(1/density).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "rescale",
        False,
        "Multiply kept weights by n/kept (dynamic rescaling, 1905.01067).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "binarize",
        False,
        "Binarise the weights (multi-prize tickets, 2103.09377).",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "augment",
        False,
        "Shift and flip training images at random.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "out_dir",
        None,
        "Folder for settings, results and plot. Default: runs/popup-DATASET-MODEL.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "overwrite",
        False,
        "Replace the results of an earlier run with other flags.",
        flag_values=values,
    )


def experiment(values: flags.FlagValues) -> Any:
    """The `tfticket.edge_popup.experiment.PopupExperiment` that the flags ask for."""
    from tfticket.edge_popup import experiment as popup_experiment

    try:
        densities = [float(text) for text in values.density]
    except ValueError as error:
        raise ValueError(
            "--density must be fractions in (0, 1] with commas between them. "
            f"Received: --density={','.join(values.density)}"
        ) from error
    return popup_experiment.PopupExperiment(
        **flag_groups.settings(
            popup_experiment.PopupExperiment,
            values,
            densities=densities,
            weight_initializers=values.weight_initializer,
        )
    )


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Runs what is missing of the experiment, and says what it came to."""
    from tfticket.edge_popup import experiment as popup_experiment
    from tfticket.tickets import pictures

    asked = experiment(values)
    name = f"popup-{asked.dataset}-{asked.model}"
    out_dir = pathlib.Path(values.out_dir or pathlib.Path("runs", name))

    def on_result(result, done, total):
        output.begin()
        kind = "dense network" if result.kind == "dense" else result.kind
        output.say(
            f"{done:3d}/{total}: {kind} at density {100 * result.density:.3g} %, "
            f"seed {result.seed}: test accuracy {100 * result.test_accuracy:.2f} %"
        )

    with output.console.status("Training"):
        results = popup_experiment.run(
            asked,
            out_dir=out_dir,
            data_dir=values.data_dir,
            download=values.download,
            overwrite=values.overwrite,
            on_result=on_result,
            strategy=values.strategy,
        )
    rows = popup_experiment.summary(results)
    output.console.print(pictures.popup_table(rows))
    plot = out_dir / "plot.png"
    pictures.popup_plot(rows, plot, f"{asked.model} on {asked.dataset}")
    output.say(f"Results:     {out_dir / 'results.json'}")
    output.say(f"Plot:        {plot}")
    return {
        "experiment": asked,
        "rows": rows,
        "results": results,
        "files": {
            "config": out_dir / "config.json",
            "results": out_dir / "results.json",
            "plot": plot,
        },
    }
