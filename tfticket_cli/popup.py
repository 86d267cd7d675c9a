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
    flag_groups.training(values, batch_size=128, seed="Seed of the first replicate.")
    densities = ["0.1", "0.2", "0.3", "0.5", "0.7", "0.9"]
    about = "Fractions of the edges kept."
    flag_groups.define(values, "list", "density", densities, about)
    initializers = ["signed_constant", "kaiming_normal"]
    about = "Of the frozen weights: signed_constant, kaiming_normal or both."
    flag_groups.define(values, "list", "weight_initializer", initializers, about)
    about = "Repetitions, each with the next seed."
    flag_groups.define(values, "integer", "replicates", 1, about)
    about = "Passes over the training images."
    flag_groups.define(values, "integer", "epochs", 50, about)
    about = "Learning rate of the scores at the start; cosine decay."
    flag_groups.define(values, "float", "learning_rate", 0.1, about)
    about = "Weight decay of the scores."
    flag_groups.define(values, "float", "weight_decay", 1e-4, about)
    about = "Choose edges in each layer, or among those of all layers."
    scopes = ("layerwise", "global")
    flag_groups.choice(values, "score_scope", "layerwise", scopes, about)
    about = "Scale initial weights by sqrt(1/density)."
    flag_groups.define(values, "bool", "scale_fan", False, about)
    about = "Multiply kept weights by n/kept (dynamic rescaling, 1905.01067)."
    flag_groups.define(values, "bool", "rescale", False, about)
    about = "Binarise the weights (multi-prize tickets, 2103.09377)."
    flag_groups.define(values, "bool", "binarize", False, about)
    about = "Folder for settings, results and plot."
    flag_groups.out_dir(values, "runs/popup-DATASET-MODEL", about)


def experiment(values: flags.FlagValues) -> Any:
    """The `tfticket.lottery.PopupExperiment` that the flags ask for."""
    from tfticket import lottery

    try:
        densities = [float(text) for text in values.density]
    except ValueError as error:
        raise ValueError(
            "--density must be fractions in (0, 1] with commas between them. "
            f"Received: --density={','.join(values.density)}"
        ) from error
    return lottery.PopupExperiment(
        **flag_groups.settings(
            lottery.PopupExperiment,
            values,
            densities=densities,
            weight_initializers=values.weight_initializer,
        )
    )


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Runs what is missing of the experiment, and says what it came to."""
    from tfticket import lottery

    asked = experiment(values)
    name = f"popup-{asked.dataset}-{asked.model}"
    out_dir = pathlib.Path(values.out_dir or pathlib.Path("runs", name))

    def line(result):
        kind = "dense network" if result.kind == "dense" else result.kind
        return (
            f"{kind} at density {100 * result.density:.3g} %, seed {result.seed}: "
            f"test accuracy {100 * result.test_accuracy:.2f} %"
        )

    with output.progress(len(asked.parts()), line) as called:
        results = asked.run(
            out_dir=out_dir,
            data_dir=values.data_dir,
            download=values.download,
            overwrite=values.overwrite,
            strategy=values.strategy,
            **called,
        )
    rows = lottery.popup_rows(results)
    output.console.print(lottery.popup_table(rows))
    plot = out_dir / "plot.png"
    lottery.popup_plot(rows, plot, f"{asked.model} on {asked.dataset}")
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
