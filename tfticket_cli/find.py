"""Finds a lottery ticket by iterative magnitude pruning, and exports it.

    tfticket find
    tfticket find --dataset=mnist --iterations=5000 --evaluate_every=50
    tfticket find --model=conv_2 --dataset=cifar10 --rewind_to=500

Trains the network, prunes its smallest weights, rewinds the others, and repeats this.
Then it prints a table of the rounds, plots accuracy and early-stop iteration against
density, and writes the ticket, a SavedModel and a .tflite file, each checked against
the model in another process. The same command resumes a run that was stopped.
"""

import contextlib
import pathlib
from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output

RESUMES = True


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flag_groups.data(values)
    flag_groups.training(
        values,
        batch_size=60,
        seed="On the same machine, the same seed finds the same ticket, bit for bit.",
    )
    flag_groups.recipe(values, None, ", or an epoch with --epochs")
    about = "Passes over the training images per round, instead of --iterations."
    flag_groups.define(values, "integer", "epochs", None, about, 1)
    about = (
        "Folder of the run: settings, a ticket for each round, rounds.json, plot.png."
    )
    flag_groups.out_dir(values, "runs/DATASET-MODEL", about)
    about = "Folder of the SavedModel and the .tflite file; --overwrite replaces them."
    flag_groups.define(values, "string", "export_dir", "saved_models", about)


def check(values: flags.FlagValues) -> None:
    """Refuses flags that don't go together."""
    flag_groups.check_recipe(values)
    if values.iterations is not None and values.epochs is not None:
        raise ValueError(
            "Give one of --iterations and --epochs, not both. Received: "
            f"--iterations={values.iterations} --epochs={values.epochs}"
        )
    if values.schedule == "cosine" and values.rewind_to == "none":
        raise ValueError(
            "--schedule=cosine ends with the first round, and without rewinding the "
            "optimizer goes on through all of them. Received: --rewind_to=none"
        )


def experiment(values: flags.FlagValues) -> Any:
    """The `tfticket.lottery.Experiment` that the flags ask for."""
    from tfticket import lottery

    return lottery.Experiment(**flag_groups.recipe_settings(lottery.Experiment, values))


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Runs the experiment, writes its files and prints the results."""
    from tfticket import lottery
    from tfticket.common.files import dead_note, held_note, is_own
    from tfticket.common.runs import RunFolder

    asked = experiment(values)
    name = f"{asked.dataset}-{asked.model}"
    out_dir = pathlib.Path(values.out_dir or pathlib.Path("runs", name))
    served = pathlib.Path(values.export_dir, name)
    lite = served.with_name(f"{name}.tflite")
    note, places = out_dir / lottery.single.EXPORTING, [str(served), str(lite)]
    # Those that this run had written when it was killed are its own.
    left, own = dead_note(note)
    own = own if left == places else {}

    def may_replace(path):
        return values.overwrite or is_own(path, own)

    for path in (served / "1", lite):
        if path.exists() and not may_replace(path):
            raise FileExistsError(
                f"{path} exists. Pass --overwrite to replace it, or choose another "
                "--export_dir."
            )
    found = _found(asked, out_dir, values, output)
    # The note goes last: as long as it is there, the same command may write again and
    # clears what a kill has left in the folder.
    with contextlib.ExitStack() as last, RunFolder(out_dir).locked():
        last.enter_context(held_note(note, places, own))
        return _written(found, out_dir, served, lite, may_replace, output)


def _written(found, out_dir, served, lite, may_replace, output):
    from tfticket import lottery

    asked = found.experiment
    output.table(lottery.rounds_table(found.records))
    plot = out_dir / "plot.png"
    lottery.rounds_plot(found.records, plot, f"{asked.model} on {found.dataset.name}")
    output.say(f"Ticket:      {out_dir / 'ticket.npz'}")
    output.say(f"Plot:        {plot}")
    exports = _exports(found, served, lite, may_replace, output)
    trained = lite.with_suffix(".npz")
    found.ticket.with_weights(found.model).save(trained)
    output.say(f"Trained:     {trained}, for tfticket export")
    return {
        "experiment": found.experiment,
        "rounds": found.records,
        "density": found.ticket.density,
        "test_accuracy": found.records[-1].test["accuracy"],
        "exports": exports,
        "files": {
            "config": out_dir / "config.json",
            "rounds": out_dir / "rounds.json",
            "ticket": out_dir / "ticket.npz",
            "plot": plot,
            **{kind: exported.path for kind, exported in exports.items()},
            "trained": trained,
        },
    }


def _found(asked, out_dir, values, output):
    from tfticket import get_masks, lottery

    def on_start(dataset, model, compiled):
        output.begin()
        output.say(dataset.describe())
        prunable = sum(mask.size for mask in get_masks(model).values())
        output.say(
            f"{model.name}: {prunable:,} prunable weights, compiled with {compiled}"
        )

    def line(result):
        _, _, told = lottery.part_line(result).partition(": ")
        return f"round {result.part.round:2d}: {told}"

    with output.progress(asked.rounds + 1, line) as called:
        return lottery.find_ticket(
            asked,
            out_dir=out_dir,
            data_dir=values.data_dir,
            download=values.download,
            overwrite=values.overwrite,
            on_start=on_start,
            strategy=values.strategy,
            **called,
        )


def _exports(found, served, lite, may_replace, output):
    from tfticket import export

    inputs = found.dataset.test[0]
    saved_model = export.saved_model(
        *(found.model, served, 1), inputs=inputs, overwrite=may_replace(served / "1")
    )
    output.say(f"SavedModel:  {saved_model}")
    litert = export.litert(
        found.model, lite, inputs=inputs, overwrite=may_replace(lite)
    )
    output.say(f"LiteRT:      {litert}")
    return {"saved_model": saved_model, "litert": litert}
