"""Finds a lottery ticket by iterative magnitude pruning, and exports it.

    tfticket find
    tfticket find --dataset=mnist --iterations=5000 --evaluate_every=50
    tfticket find --model=conv_2 --dataset=cifar10 --rewind_to=500

Trains the network, prunes its smallest weights, rewinds the rest, and again;
then prints one line a round, plots accuracy and early-stop iteration against
density, and writes the ticket, a SavedModel and a .tflite file, each checked
against the model in another process.
"""

import pathlib
from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flag_groups.data(values)
    flag_groups.training(
        values,
        batch_size=60,
        seed="Same seed, same machine: the same ticket, bit for bit.",
    )
    flags.DEFINE_integer(
        "rounds",
        12,
        "How many times to prune; there is one training more.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "rate",
        0.2,
        "Fraction of the surviving weights pruned after a round, in (0, 1).",
        flag_values=values,
    )
    flags.DEFINE_float(
        "output_rate",
        None,
        "The same for the output layer. Default: half of --rate.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "scope",
        "layerwise",
        ["layerwise", "global"],
        "Prune each layer by the rate, or all of them by one cut.",
        flag_values=values,
    )
    flag_groups.rewinding(values)
    flags.DEFINE_integer(
        "iterations",
        None,
        "Training steps in a round. Default: 1000.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "epochs",
        None,
        "The same in passes over the training images; give one of the two.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "evaluate_every",
        None,
        "Steps between validations; must divide --iterations. Default: 10, or an epoch "
        "with --epochs.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "learning_rate",
        None,
        "Adam's learning rate. Default: the paper's for the model.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "out_dir",
        None,
        "Folder for the run: settings, a ticket a round, rounds.json, plot.png. "
        "Default: runs/DATASET-MODEL.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "export_dir",
        "saved_models",
        "Folder for the SavedModel and the .tflite file.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "overwrite",
        False,
        "Replace an earlier run and its exported files.",
        flag_values=values,
    )


def experiment(values: flags.FlagValues) -> Any:
    """The `tfticket.lottery.Experiment` that the flags ask for."""
    from tfticket import lottery

    return lottery.Experiment(
        **flag_groups.settings(
            lottery.Experiment, values, rewind_to=flag_groups.rewind_step(values)
        )
    )


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Runs the experiment, writes its files and says what it came to."""
    from tfticket import export, get_masks, lottery
    from tfticket.inspection import progress
    from tfticket.tickets import pictures

    asked = experiment(values)
    name = f"{asked.dataset}-{asked.model}"
    out_dir = pathlib.Path(values.out_dir or pathlib.Path("runs", name))
    served = pathlib.Path(values.export_dir, name)
    lite = served.with_name(f"{name}.tflite")
    for path in (served / "1", lite):
        if path.exists() and not values.overwrite:
            raise FileExistsError(
                f"{path} exists. Pass --overwrite to replace it, or choose another "
                "--export_dir."
            )

    def on_start(dataset, model, compiled):
        output.begin()
        output.say(dataset.describe())
        prunable = sum(mask.size for mask in get_masks(model).values())
        output.say(
            f"{model.name}: {prunable:,} prunable weights, compiled with {compiled}"
        )

    found = lottery.find_ticket(
        asked,
        out_dir=out_dir,
        data_dir=values.data_dir,
        download=values.download,
        overwrite=values.overwrite,
        callbacks=[progress.RoundProgress(output.console, rounds=asked.rounds)],
        on_start=on_start,
        strategy=values.strategy,
    )
    output.console.print(pictures.rounds_table(found.records))
    plot = out_dir / "plot.png"
    pictures.rounds_plot(found.records, plot, f"{asked.model} on {found.dataset.name}")
    output.say(f"Ticket:      {out_dir / 'ticket.npz'}")
    output.say(f"Plot:        {plot}")
    kwargs = {"inputs": found.dataset.test[0], "overwrite": values.overwrite}
    saved_model = export.saved_model(found.model, served, version=1, **kwargs)
    output.say(f"SavedModel:  {saved_model}")
    litert = export.litert(found.model, lite, **kwargs)
    output.say(f"LiteRT:      {litert}")
    trained = lite.with_suffix(".npz")
    found.ticket.with_weights(found.model).save(trained)
    output.say(f"Trained:     {trained}, for tfticket export")
    return {
        "experiment": found.experiment,
        "rounds": found.records,
        "density": found.ticket.density,
        "test_accuracy": found.records[-1].test["accuracy"],
        "exports": {"saved_model": saved_model, "litert": litert},
        "files": {
            "config": out_dir / "config.json",
            "rounds": out_dir / "rounds.json",
            "ticket": out_dir / "ticket.npz",
            "plot": plot,
            "saved_model": saved_model.path,
            "litert": litert.path,
            "trained": trained,
        },
    }
