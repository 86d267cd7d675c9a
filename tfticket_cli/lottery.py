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
    flag_groups.training(values, batch_size=60, seed="Of the first replicate.")
    _define_network(values)
    _define_pruning(values)
    _define_run(values)


def _define_network(values):
    flags.DEFINE_float(
        "width", 1.0, "Factor on the width of every hidden layer.", flag_values=values
    )
    flags.DEFINE_enum(
        "optimizer",
        "adam",
        ["adam", "sgd"],
        "SGD has momentum 0.9.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "learning_rate",
        None,
        "Default: the paper's for the model with Adam, 0.1 with SGD.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "weight_decay", 0.0, "Decoupled weight decay.", flag_values=values
    )
    flags.DEFINE_integer(
        "warmup",
        0,
        "Steps over which the learning rate rises from 0.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "drops",
        [],
        "Steps at which the learning rate is divided by 10.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "iterations", 1000, "Training steps in a round.", flag_values=values
    )
    flags.DEFINE_integer(
        "evaluate_every",
        None,
        "Steps between validations; must divide --iterations. Default: a hundredth of "
        "them, from 10 to 100.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "augment", False, "Random shifts and horizontal flips.", flag_values=values
    )


def _define_pruning(values):
    flags.DEFINE_float(
        "rate",
        0.2,
        "Fraction of the survivors pruned after a round, in (0, 1).",
        flag_values=values,
    )
    flags.DEFINE_float(
        "output_rate",
        None,
        "The same of the output layer. Default: half of --rate.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "conv_rate",
        None,
        "The same of convolutions. Default: --rate.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "scope",
        "layerwise",
        ["layerwise", "global", "sensitivity"],
        "Prune each layer by the rate, all of them by one cut, or by thresholds at "
        "which each layer alone costs as much accuracy.",
        flag_values=values,
    )
    flags.DEFINE_string(
        "criterion",
        "magnitude",
        "Name of one of tfticket.criteria.",
        flag_values=values,
    )
    flag_groups.rewinding(values)
    flags.DEFINE_float(
        "retrain_factor",
        1.0,
        "Factor on the learning rate of every round but the first.",
        flag_values=values,
    )


def _define_run(values):
    flags.DEFINE_integer(
        "rounds", 12, "How many times to prune.", 1, flag_values=values
    )
    flags.DEFINE_integer(
        "replicates",
        1,
        "Repetitions, each with a seed of its own.",
        1,
        flag_values=values,
    )
    flags.DEFINE_list(
        "branches",
        [],
        "Controls: reinit, random_sparsity, shuffled, noise:FACTOR, one_shot, "
        "magnitude_at_init, snip, grasp, synflow, late_rewind:STEP, lr_rewind, "
        "fine_tune, small_dense, stability, transfer:DATASET.",
        flag_values=values,
    )
    flags.DEFINE_list(
        "branch_rounds",
        None,
        "Rounds that controls start from. Default: all but 0.",
        flag_values=values,
    )
    flags.DEFINE_integer(
        "copies",
        1,
        "Of each control that is drawn at random, a replicate.",
        1,
        flag_values=values,
    )
    flags.DEFINE_list(
        "attacks",
        [],
        "fgsm:SIZE, pgd:SIZE: measures test accuracy under attack, SIZE the largest "
        "change of a pixel in [0, 1].",
        flag_values=values,
    )
    flags.DEFINE_string(
        "runs_dir",
        "runs",
        "Folder that the run's own folder is made in.",
        flag_values=values,
    )
    flags.DEFINE_enum(
        "runner",
        "local",
        ["local", "ray"],
        "One process after another here, or a Ray cluster that shares --runs_dir.",
        flag_values=values,
    )
    flags.DEFINE_float(
        "checkpoint_seconds",
        60.0,
        "Least time between checkpoints of a training.",
        0.0,
        flag_values=values,
    )


def experiment(values: flags.FlagValues) -> Any:
    """The `tfticket.lottery.LotteryExperiment` that the flags ask for."""
    from tfticket import lottery

    recipe = lottery.Recipe(
        **flag_groups.settings(
            lottery.Recipe,
            values,
            drops=flag_groups.integers("drops", values.drops),
            rewind_to=flag_groups.rewind_step(values),
        )
    )
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

    from tfticket.inspection import progress
    from tfticket.lottery.figures import tables

    # Controls compile functions of their own, which TensorFlow takes for a mistake.
    tf.get_logger().setLevel("ERROR")
    asked = experiment(values)
    folder = pathlib.Path(values.runs_dir, asked.name)
    output.say(f"Run: {folder}")
    with progress.PartProgress(asked, output.console) as bar:

        def on_part(*args):
            output.begin()
            bar.on_part(*args)

        def on_evaluation(*args):
            output.begin()
            bar.on_evaluation(*args)

        results = asked.run(
            values.runs_dir,
            data_dir=values.data_dir,
            download=values.download,
            runner=values.runner,
            checkpoint_seconds=values.checkpoint_seconds,
            on_part=on_part,
            on_evaluation=on_evaluation,
            strategy=values.strategy,
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
