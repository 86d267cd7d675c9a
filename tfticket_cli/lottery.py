r"""Runs a lottery-ticket experiment: rounds, controls and replicates of one recipe.

    tfticket lottery
    tfticket lottery --branches=reinit,shuffled,noise:0.5 --replicates=3
    tfticket lottery --dataset=mnist --iterations=50000 --rounds=16 \
        --replicates=3 --branches=reinit --branch_rounds=3,7,9,12,15,16
    tfticket lottery --rewind_to=none --retrain_factor=0.1 \
        --scope=sensitivity --rate=0.39 --rounds=5

The run's folder is named by its recipe. The same command goes on where a run was
stopped, and one that asks for more adds it: what is finished is never done twice.
`tfticket plot` draws the figures of a run, `tfticket report` writes its tables.
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
    flag_groups.training(values, batch_size=60, seed="Seed of the first replicate.")
    flag_groups.recipe(values, 1000, "")
    about = "Repetitions, each with a seed of its own."
    flag_groups.define(values, "integer", "replicates", 1, about)
    about = (
        "Controls: reinit, random_sparsity, shuffled, noise:FACTOR, one_shot, "
        "magnitude_at_init, snip, grasp, synflow, late_rewind:STEP, lr_rewind, "
        "fine_tune, small_dense, static, set, rigl, ste, gradual, stability, "
        "transfer:DATASET."
    )
    flag_groups.define(values, "list", "branches", [], about)
    about = "Rounds that controls start from. Default: all but 0."
    flag_groups.define(values, "list", "branch_rounds", None, about)
    about = "How often to repeat each control that is drawn at random, by replicate."
    flag_groups.define(values, "integer", "copies", 1, about)
    about = (
        "fgsm:SIZE, pgd:SIZE: measures test accuracy under attack, SIZE the largest "
        "change of a pixel in [0, 1]."
    )
    flag_groups.define(values, "list", "attacks", [], about)
    about = "Folder that the run's own folder is made in."
    flag_groups.define(values, "string", "runs_dir", "runs", about)
    about = "One process after another here, or a Ray cluster that shares --runs_dir."
    flag_groups.choice(values, "runner", "local", ("local", "ray"), about)
    about = "Least time between checkpoints of a training."
    flag_groups.define(values, "float", "checkpoint_seconds", 60.0, about, 0.0)


def experiment(values: flags.FlagValues) -> Any:
    """The `tfticket.lottery.LotteryExperiment` that the flags ask for."""
    from tfticket import lottery

    recipe = lottery.Recipe(**flag_groups.recipe_settings(lottery.Recipe, values))
    rounds = values.branch_rounds
    return lottery.LotteryExperiment(
        recipe,
        rounds=values.rounds,
        replicates=values.replicates,
        seed=values.seed,
        branches=values.branches,
        branch_rounds=rounds and flag_groups.integers("branch_rounds", rounds),
        copies=values.copies,
        attacks=values.attacks,
    )


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Does what is missing of the run, and says what it came to."""
    import tensorflow as tf

    from tfticket.lottery.figures import tables

    # Controls compile functions of their own, which TensorFlow takes for a mistake.
    tf.get_logger().setLevel("ERROR")
    asked = experiment(values)
    folder = pathlib.Path(values.runs_dir, asked.name)
    output.say(f"Run: {folder}")
    with output.progress(len(asked.parts())) as called:
        results = asked.run(
            values.runs_dir,
            data_dir=values.data_dir,
            download=values.download,
            runner=values.runner,
            checkpoint_seconds=values.checkpoint_seconds,
            strategy=values.strategy,
            **called,
        )
    rows = tables.rows(results)
    output.console.print(tables.as_rich(rows))
    output.say(f"Figures: tfticket plot --run_dir={folder}")
    return {
        "run_dir": folder,
        "recipe": asked.recipe,
        "rows": rows,
        "files": {"config": folder / "config.json"},
    }
