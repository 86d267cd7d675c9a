"""Finds subnetworks in random weights by edge-popup, and plots how good they are.

    tfticket popup
    tfticket popup --dataset=mnist --epochs=20 --replicates=3
    tfticket popup --dataset=cifar10 --model=conv_4 --augment

Trains scores on frozen random weights for every density and initializer, then prints
one line for each and plots accuracy against density, with the trained dense network as
a line. The same command resumes a run that was stopped.
"""

import pathlib
from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output

RESUMES = True
_INITIALIZERS = ("signed_constant", "kaiming_normal")


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flag_groups.data(values)
    flag_groups.training(values, batch_size=128, seed="Seed of the first replicate.")
    densities = ["0.1", "0.2", "0.3", "0.5", "0.7", "0.9"]
    about = "Fractions of the edges kept."
    flag_groups.define(values, "list", "density", densities, about)
    about = "Initializers of the frozen weights: signed_constant, kaiming_normal."
    flag_groups.define(values, "list", "weight_initializer", [*_INITIALIZERS], about)
    about = "Repetitions, each with the next seed."
    flag_groups.define(values, "integer", "replicates", 1, about, 1)
    about = "Passes over the training images."
    flag_groups.define(values, "integer", "epochs", 50, about, 1)
    about = "Learning rate of the scores at the start; it decays by a cosine."
    flag_groups.define(values, "float", "learning_rate", 0.1, about, above=0)
    about = "Weight decay of the scores."
    flag_groups.define(values, "float", "weight_decay", 1e-4, about, 0)
    about = "Rank the scores of each layer by themselves, or of all layers together."
    scopes = ("layerwise", "global")
    flag_groups.choice(values, "score_scope", "layerwise", scopes, about)
    about = "Scale initial weights by sqrt(1/density)."
    flag_groups.define(values, "bool", "scale_fan", False, about)
    about = "Multiply kept weights by n/kept (dynamic rescaling, 1905.01067)."
    flag_groups.define(values, "bool", "rescale", False, about)
    about = "Binarise the weights (multi-prize tickets, 2103.09377)."
    flag_groups.define(values, "bool", "binarize", False, about)
    flag_groups.processes(values)
    about = "Folder for settings, results and plot."
    flag_groups.out_dir(values, "runs/popup-DATASET-MODEL", about)


def check(values: flags.FlagValues) -> None:
    """Refuses densities that are no fractions, and initializers that don't exist."""
    _densities(values)
    flag_groups.processes_asked(values)
    for name in values.weight_initializer:
        if name not in _INITIALIZERS:
            raise ValueError(
                f"--weight_initializer must be of {', '.join(_INITIALIZERS)}. "
                f"Received: {name!r}.{flag_groups.did_you_mean(name, _INITIALIZERS)}"
            )


def _densities(values):
    try:
        densities = [float(text) for text in values.density]
        if not all(0 < density <= 1 for density in densities):
            raise ValueError
    except ValueError as error:
        raise ValueError(
            "--density must be fractions in (0, 1] with commas between them. "
            f"Received: --density={','.join(values.density)}"
        ) from error
    return densities


def experiment(values: flags.FlagValues) -> Any:
    """The `tfticket.lottery.PopupExperiment` that the flags ask for."""
    from tfticket import lottery

    return lottery.PopupExperiment(
        **flag_groups.settings(
            lottery.PopupExperiment,
            values,
            densities=_densities(values),
            weight_initializers=values.weight_initializer,
        )
    )


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Runs the missing parts, and prints the results."""
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
            processes=flag_groups.processes_asked(values),
            **called,
        )
    rows = lottery.popup_rows(results)
    output.table(lottery.popup_table(rows))
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
