"""Runs a lottery-ticket experiment: rounds, controls and replicates of one recipe.

    python scripts/run_lottery.py
    python scripts/run_lottery.py --branches=reinit,shuffled,noise:0.5 --replicates=3
    python scripts/run_lottery.py --dataset=mnist --iterations=50000 --rounds=16 \
        --replicates=3 --branches=reinit --branch_rounds=3,7,9,12,15,16
    python scripts/run_lottery.py --rewind_to=none --retrain_factor=0.1 \
        --scope=sensitivity --rate=0.39 --rounds=5

The run's folder is named by its recipe. The same command goes on where a run was
stopped, and one that asks for more adds it: what is finished is never done twice.
`scripts/plot_lottery.py` draws the figures of a run, `scripts/lottery_report.py` writes
its tables.
"""

import os
import pathlib
import warnings

# Before TensorFlow is imported: its start-up notes would hide the progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import tensorflow as tf
from absl import app, flags, logging
from rich.console import Console

from tfticket import data, lottery, models, progress
from tfticket.lottery import tables

_DEFAULT = lottery.Recipe()
_DATASET = flags.DEFINE_string(
    "dataset",
    data.EMBEDDED,
    "'digits' (embedded, no download) or the name of a TensorFlow Datasets image set.",
)
_DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "Directory of TFDS data, prepared or to download to."
)
_DOWNLOAD = flags.DEFINE_bool(
    "download", True, "Whether TFDS may download what is not prepared."
)
_MODEL = flags.DEFINE_enum(
    "model", _DEFAULT.model, sorted(models.MODELS), "Network to prune."
)
_WIDTH = flags.DEFINE_float(
    "width", _DEFAULT.width, "Factor on the width of every hidden layer."
)
_OPTIMIZER = flags.DEFINE_enum(
    "optimizer", _DEFAULT.optimizer, ["adam", "sgd"], "SGD has momentum 0.9."
)
_LEARNING_RATE = flags.DEFINE_float(
    "learning_rate",
    None,
    "Default: the paper's for the model with Adam, 0.1 with SGD.",
)
_WEIGHT_DECAY = flags.DEFINE_float(
    "weight_decay", _DEFAULT.weight_decay, "Decoupled weight decay."
)
_WARMUP = flags.DEFINE_integer(
    "warmup", _DEFAULT.warmup, "Steps over which the learning rate rises from 0."
)
_DROPS = flags.DEFINE_list(
    "drops", [], "Steps at which the learning rate is divided by 10."
)
_BATCH_SIZE = flags.DEFINE_integer("batch_size", _DEFAULT.batch_size, "Images a step.")
_ITERATIONS = flags.DEFINE_integer(
    "iterations", _DEFAULT.iterations, "Training steps in a round."
)
_EVALUATE_EVERY = flags.DEFINE_integer(
    "evaluate_every",
    None,
    "Steps between validations; must divide --iterations. Default: a hundredth of "
    "them, from 10 to 100.",
)
_AUGMENT = flags.DEFINE_bool("augment", False, "Random shifts and horizontal flips.")
_RATE = flags.DEFINE_float(
    "rate", _DEFAULT.rate, "Fraction of the survivors pruned after a round, in (0, 1)."
)
_OUTPUT_RATE = flags.DEFINE_float(
    "output_rate", None, "The same of the output layer. Default: half of --rate."
)
_CONV_RATE = flags.DEFINE_float(
    "conv_rate", None, "The same of convolutions. Default: --rate."
)
_SCOPE = flags.DEFINE_enum(
    "scope",
    _DEFAULT.scope,
    ["layerwise", "global", "sensitivity"],
    "Prune each layer by the rate, all of them by one cut, or by thresholds at which "
    "each layer alone costs as much accuracy.",
)
_CRITERION = flags.DEFINE_string(
    "criterion", _DEFAULT.criterion, "Name of one of tfticket.criteria."
)
_REWIND_TO = flags.DEFINE_string(
    "rewind_to",
    "0",
    "Step whose weights the survivors go back to: 0 for the initial weights, 'none' to "
    "keep the trained ones.",
)
_RETRAIN_FACTOR = flags.DEFINE_float(
    "retrain_factor",
    _DEFAULT.retrain_factor,
    "Factor on the learning rate of every round but the first.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 12, "How many times to prune.", 1)
_REPLICATES = flags.DEFINE_integer(
    "replicates", 1, "Repetitions, each with a seed of its own.", 1
)
_SEED = flags.DEFINE_integer("seed", 0, "Of the first replicate.", 0)
_BRANCHES = flags.DEFINE_list(
    "branches",
    [],
    "Controls: reinit, random_sparsity, shuffled, noise:FACTOR, one_shot, "
    "magnitude_at_init, snip, grasp, synflow, late_rewind:STEP, lr_rewind, fine_tune, "
    "small_dense, stability, transfer:DATASET.",
)
_BRANCH_ROUNDS = flags.DEFINE_list(
    "branch_rounds", None, "Rounds that controls start from. Default: all but 0."
)
_COPIES = flags.DEFINE_integer(
    "copies", 1, "Of each control that is drawn at random, a replicate.", 1
)
_ATTACKS = flags.DEFINE_list(
    "attacks",
    [],
    "fgsm:SIZE, pgd:SIZE: measures test accuracy under attack, SIZE the largest change "
    "of a pixel in [0, 1].",
)
_RUNS_DIR = flags.DEFINE_string(
    "runs_dir", "runs", "Folder that the run's own folder is made in."
)
_RUNNER = flags.DEFINE_enum(
    "runner",
    "local",
    ["local", "ray"],
    "One process after another here, or a Ray cluster that shares --runs_dir.",
)
_CHECKPOINT_SECONDS = flags.DEFINE_float(
    "checkpoint_seconds", 60.0, "Least time between checkpoints of a training.", 0.0
)


def experiment_from_flags() -> lottery.LotteryExperiment:
    recipe = lottery.Recipe(
        dataset=_DATASET.value,
        model=_MODEL.value,
        width=_WIDTH.value,
        optimizer=_OPTIMIZER.value,
        learning_rate=_LEARNING_RATE.value,
        weight_decay=_WEIGHT_DECAY.value,
        warmup=_WARMUP.value,
        drops=_integers("drops", _DROPS.value),
        batch_size=_BATCH_SIZE.value,
        iterations=_ITERATIONS.value,
        evaluate_every=_EVALUATE_EVERY.value,
        augment=_AUGMENT.value,
        rate=_RATE.value,
        output_rate=_OUTPUT_RATE.value,
        conv_rate=_CONV_RATE.value,
        scope=_SCOPE.value,
        criterion=_CRITERION.value,
        rewind_to=_rewind_to(_REWIND_TO.value),
        retrain_factor=_RETRAIN_FACTOR.value,
    )
    rounds = _BRANCH_ROUNDS.value
    return lottery.LotteryExperiment(
        recipe,
        rounds=_ROUNDS.value,
        replicates=_REPLICATES.value,
        seed=_SEED.value,
        branches=_BRANCHES.value,
        branch_rounds=None if rounds is None else _integers("branch_rounds", rounds),
        copies=_COPIES.value,
        attacks=_ATTACKS.value,
    )


def _rewind_to(text):
    if text == "none":
        return None
    if not text.isdecimal():
        raise ValueError(
            "--rewind_to must be a step (0 is the initial weights) or 'none'. "
            f"Received: --rewind_to={text}"
        )
    return int(text)


def _integers(flag, texts):
    if wrong := [text for text in texts if not text.strip().isdecimal()]:
        raise ValueError(
            f"--{flag} must be numbers with commas between. Received: {wrong[0]!r}"
        )
    return [int(text) for text in texts]


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}. Flags start with --.")
    logging.set_verbosity(logging.WARNING)
    # Controls compile functions of their own, which TensorFlow takes for a mistake.
    tf.get_logger().setLevel("ERROR")
    console = Console()
    # Plain sentences, as what they tell of (a damaged part) is for the user.
    warnings.showwarning = lambda message, *_, **__: console.print(
        f"Warning: {message}", style="yellow", markup=False, soft_wrap=True
    )
    try:
        experiment = experiment_from_flags()
        folder = pathlib.Path(_RUNS_DIR.value, experiment.name)
        console.print(f"Run: {folder}", highlight=False, soft_wrap=True)
        with progress.PartProgress(experiment, console) as bar:
            results = experiment.run(
                _RUNS_DIR.value,
                data_dir=_DATA_DIR.value,
                download=_DOWNLOAD.value,
                runner=_RUNNER.value,
                checkpoint_seconds=_CHECKPOINT_SECONDS.value,
                on_part=bar.on_part,
                on_evaluation=bar.on_evaluation,
            )
    except KeyboardInterrupt:
        console.print(
            "Interrupted. What is finished is kept; the same command goes on from "
            "here.",
            style="yellow",
        )
        raise SystemExit(130) from None
    except (ValueError, OSError, ImportError, lottery.RunInUseError) as error:
        console.print(f"Error: {error}", style="red", markup=False, soft_wrap=True)
        raise SystemExit(1) from error
    console.print(tables.as_rich(tables.rows(results)))
    console.print(
        f"Figures: python scripts/plot_lottery.py --run_dir={folder}",
        highlight=False,
        soft_wrap=True,
    )


if __name__ == "__main__":
    app.run(main)
