r"""Runs a lottery-ticket experiment: rounds, controls and replicates of one recipe.

    tfticket lottery
    tfticket lottery --preset=lenet_mnist --replicates=5 --branches=reinit
    tfticket lottery --branches=reinit,shuffled,noise:0.5 --replicates=3
    tfticket lottery --dataset=mnist --iterations=50000 --rounds=16 \
        --replicates=3 --branches=reinit --branch_rounds=3,7,9,12,15,16 --processes=auto
    tfticket lottery --rewind_to=none --retrain_factor=0.1 \
        --scope=sensitivity --rate=0.39 --rounds=5

The run's folder is named after its recipe. The same command resumes a run that was
stopped, and a command that asks for more extends it: no training is repeated.
`tfticket plot` draws the figures of a run, `tfticket report` writes its tables.
"""

import pathlib
import re
from typing import Any

from absl import flags

from tfticket_cli import flag_groups, presets
from tfticket_cli.output import Output

RESUMES = True

# Those of `tfticket.lottery.Branch`, and whether they take a value (`None`: as wanted);
# a test compares.
BRANCHES: dict[str, bool | None] = {
    "fine_tune": False,
    "frozen_at_init": False,
    "gradual": False,
    "grasp": None,
    "late_rewind": True,
    "lr_rewind": False,
    "magnitude_at_init": False,
    "noise": True,
    "one_shot": False,
    "random_sparsity": False,
    "reinit": False,
    "rigl": False,
    "set": False,
    "shuffled": False,
    "shuffled_in_signs": False,
    "small_dense": False,
    "sign_noise": True,
    "signs": False,
    "snip": None,
    "stability": None,
    "static": False,
    "ste": False,
    "synflow": False,
    "transfer": True,
}


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    presets.define(values)
    flag_groups.data(values)
    flag_groups.training(values, batch_size=60, seed="Seed of the first replicate.")
    flag_groups.recipe(values, 1000, "")
    about = "Repetitions, each with its own seed."
    flag_groups.define(values, "integer", "replicates", 1, about, 1)
    about = (
        "Controls: reinit, random_sparsity, shuffled, noise:FACTOR, signs, "
        "shuffled_in_signs, sign_noise:FRACTION, frozen_at_init, one_shot, "
        "magnitude_at_init, snip[:IMAGES], grasp[:IMAGES], synflow, late_rewind:STEP, "
        "lr_rewind, "
        "fine_tune, small_dense, static, set, rigl, ste, gradual, stability[:STEP], "
        "transfer:DATASET."
    )
    flag_groups.define(values, "list", "branches", [], about)
    about = "Rounds whose tickets the controls start from. Default: all but 0."
    flag_groups.define(values, "list", "branch_rounds", None, about)
    about = "Number of draws per replicate of each control that is drawn at random."
    flag_groups.define(values, "integer", "copies", 1, about, 1)
    about = (
        "fgsm:SIZE, pgd:SIZE: measure test accuracy under these attacks. SIZE is the "
        "largest change of a pixel in [0, 1]."
    )
    flag_groups.define(values, "list", "attacks", [], about)
    about = "Folder in which the run's own folder is made."
    flag_groups.define(values, "string", "runs_dir", "runs", about)
    about = (
        "Train in this process one by one; in one program of JAX (vmap); or in a Ray "
        "cluster that shares --runs_dir."
    )
    flag_groups.choice(values, "runner", "local", ("local", "vmap", "ray"), about)
    flag_groups.processes(values)
    about = "Shortest time between two checkpoints of a training, in seconds."
    flag_groups.define(values, "float", "checkpoint_seconds", 60.0, about, 0.0)


def check(values: flags.FlagValues) -> None:
    """Refuses flags that don't go together, and controls that don't exist."""
    presets.apply(values)
    flag_groups.check_recipe(values)
    flag_groups.processes_asked(values)
    rounds = flag_groups.steps("branch_rounds", values.branch_rounds or [])
    if rounds and max(rounds) > values.rounds:
        raise ValueError(
            f"--branch_rounds goes up to --rounds={values.rounds}. "
            f"Received: {max(rounds)}"
        )
    for text in values.branches:
        kind, colon, value = text.partition(":")
        if kind not in BRANCHES:
            raise ValueError(
                f"--branches must be of {', '.join(BRANCHES)}; noise, sign_noise, "
                "late_rewind and transfer with a value, as in noise:0.5. "
                f"Received: {text!r}.{flag_groups.did_you_mean(kind, BRANCHES)}"
            )
        takes = BRANCHES[kind] if BRANCHES[kind] is not None else bool(value)
        if takes != bool(value) or (colon and not value):
            wanted = "needs a value, as in noise:0.5" if BRANCHES[kind] else "has none"
            raise ValueError(f"--branches: {kind} {wanted}. Received: {text!r}")
    for text in values.attacks:
        if not re.fullmatch(r"(fgsm|pgd):(0?\.\d+|1(\.0*)?)", text):
            raise ValueError(
                "--attacks must be fgsm:SIZE or pgd:SIZE with SIZE in (0, 1]. "
                f"Received: {text!r}"
            )


def experiment(values: flags.FlagValues) -> Any:
    """The `tfticket.lottery.LotteryExperiment` that the flags ask for."""
    from tfticket import lottery

    presets.apply(values)
    recipe = lottery.Recipe(**flag_groups.recipe_settings(lottery.Recipe, values))
    rounds = values.branch_rounds
    return lottery.LotteryExperiment(
        recipe,
        rounds=values.rounds,
        replicates=values.replicates,
        seed=values.seed,
        branches=values.branches,
        branch_rounds=rounds and flag_groups.steps("branch_rounds", rounds),
        copies=values.copies,
        attacks=values.attacks,
    )


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Runs the missing parts, and prints the results."""
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
            processes=flag_groups.processes_asked(values),
            **called,
        )
    rows = tables.rows(results)
    output.table(tables.as_rich(rows))
    output.say(f"Figures: tfticket plot --run_dir={folder}")
    return {
        "run_dir": folder,
        "recipe": asked.recipe,
        "rows": rows,
        "files": {"config": folder / "config.json"},
    }
