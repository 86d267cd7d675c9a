"""Shows a winning ticket on handwritten digits, in about a minute.

    tfticket demo
    tfticket demo --replicates=5

Finds a lottery ticket with several seeds and compares it with the dense network and
with the same masks on newly initialized weights. Prints one table and a verdict, draws
a plot, and exports the sparse network. The same command resumes a run that was stopped,
and repeats no training.
"""

import math
import pathlib
import tempfile
from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output

RESUMES = True
# Prunings, and those after which the masks are tried on other initial weights.
_ROUNDS, _CONTROLLED = 6, (4, 6)


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    about = "Repetitions, each with its own seed."
    flag_groups.define(values, "integer", "replicates", 3, about, 2)
    about = "Training steps per round."
    flag_groups.define(values, "integer", "iterations", 800, about, 10)
    about = "Folder in which the run's own folder is made."
    flag_groups.define(values, "string", "runs_dir", "runs", about)
    about = "Folder of the exported network, saved_models/demo/1 by default."
    flag_groups.define(values, "string", "export_dir", "saved_models", about)


def experiment(values: flags.FlagValues) -> Any:
    """The `tfticket.lottery.LotteryExperiment` that the command runs."""
    from tfticket import lottery

    steps = values.iterations
    recipe = lottery.Recipe(
        iterations=steps, evaluate_every=math.gcd(steps, 20), rate=0.3
    )
    return lottery.LotteryExperiment(
        recipe,
        rounds=_ROUNDS,
        replicates=values.replicates,
        branches=["reinit"],
        branch_rounds=_CONTROLLED,
    )


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Trains, compares and exports."""
    from tfticket.lottery.figures import plots, tables

    asked = experiment(values)
    folder = pathlib.Path(values.runs_dir, asked.name)
    output.say(
        "Trains LeNet-300-100 on digits, prunes 30 % of the weights, rewinds the rest "
        f"to their initial values, {_ROUNDS} times, with {values.replicates} seeds."
    )
    with output.progress(len(asked.parts())) as called:
        results = asked.run(values.runs_dir, **called)
    rows = tables.rows(results)
    output.table(_table(rows))
    plot = folder / "accuracy.png"
    plots.accuracy(rows, plot, "Winning tickets: LeNet-300-100 on digits")
    dense, sparse = _exports(folder, asked, values.export_dir)
    verdict = _verdict(rows, dense, sparse)
    output.say(verdict)
    output.say(f"Plot:        {plot}")
    output.say(f"SavedModel:  {sparse.path}, checked in another process")
    return {
        "run_dir": folder,
        "rows": rows,
        "verdict": verdict,
        "exports": {"dense": dense, "encoded": sparse},
        "files": {"plot": plot, "saved_model": sparse.path},
    }


def _table(rows):
    """A line for each density, with the ticket and its control side by side."""
    from rich import box
    from rich.table import Table

    from tfticket.tickets.rounds import percent

    seeds = rows[0]["seeds"]
    table = Table(
        title=f"Test accuracy after training: mean ± standard deviation, {seeds} seeds",
        box=box.SIMPLE,
    )
    headings = ("ticket %", "re-initialised %", "ticket learns by", "re-initialised by")
    for heading in ("weights kept %", *headings):
        table.add_column(heading, justify="right")
    accuracy, step = "test_accuracy", "early_stop_iteration"
    controls = {row["round"]: row for row in rows if row["branch"] == "reinit"}
    for row in rows:
        if row["branch"] != "ticket":
            continue
        both = (row, controls.get(row["round"]))
        cells = [
            f"{percent(x[accuracy])} ± {percent(x[f'{accuracy}_sd'])}" if x else "-"
            for x in both
        ]
        cells += [f"{x[step]:.0f} ± {x[f'{step}_sd']:.0f}" if x else "-" for x in both]
        table.add_row(percent(row["density"], 1), *cells)
    table.caption = (
        "Learns by: the step of the lowest validation loss. Re-initialised: the "
        "ticket's masks on new initial weights."
    )
    return table


def _exports(folder, asked, export_dir):
    """The dense and the last round's network of the first seed, both exported."""
    from tfticket import data, export

    test = data.load().test[0]
    with tempfile.TemporaryDirectory() as temporary:
        dense = export.saved_model(
            _trained(folder, asked.seed, 0),
            pathlib.Path(temporary, "dense"),
            inputs=test,
        )
    sparse = export.saved_model(
        _trained(folder, asked.seed, _ROUNDS),
        pathlib.Path(export_dir, "demo"),
        1,
        format="encoded",
        inputs=test,
        overwrite=True,
    )
    return dense, sparse


def _trained(folder, seed, number):
    """The trained network of a round."""
    import keras

    from tfticket import lottery

    part = lottery.Part(seed, round=number)
    config = lottery.read_ticket(folder, part).provenance["config"]
    model = keras.saving.deserialize_keras_object(config)
    return lottery.read_ticket(folder, part, trained=True).apply(model)


def _verdict(rows, dense, sparse):
    """The comparison in one sentence, whoever is ahead."""
    from tfticket.tickets.rounds import percent

    def of(branch, number):
        for row in rows:
            if (row["branch"], row["round"]) == (branch, number):
                return row
        raise KeyError((branch, number))

    ticket, control = of("ticket", _ROUNDS), of("reinit", _ROUNDS)
    mean = [
        percent(row["test_accuracy"], 1) for row in (ticket, of("ticket", 0), control)
    ]
    kept = percent(ticket["density"], 1)
    text = (
        f"Kept {kept} %: {mean[0]} % against {mean[1]} % dense and {mean[2]} % "
        f"re-initialised; {dense.size / 1000:.0f} -> {sparse.size / 1000:.0f} kB "
        "encoded"
    )
    if dense.latency_ms is not None:
        text += f", {dense.latency_ms:.2g} -> {sparse.latency_ms:.2g} ms per image"
    return f"{text}."
