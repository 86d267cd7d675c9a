"""Flags that several commands share, each defined once."""

import dataclasses
from typing import Any

from absl import flags

# Those of `tfticket.models`, which takes seconds to import; a test compares them.
MODELS = (
    "conv_2",
    "conv_4",
    "conv_6",
    "conv_8",
    "lenet_300_100",
    "lenet_5",
    "resnet_20",
)
# Of `tfticket.devices`, compared too.
STRATEGIES = ("none", "mirrored", "data_parallel")


def define(
    values: flags.FlagValues,
    kind: str,
    name: str,
    default: Any,
    about: str,
    *limits: Any,
) -> None:
    """Defines a flag.

    Args:
        values: Where it is defined.
        kind: As in the names of absl: "integer", "float", "string", "bool", "list".
        name: Name of the flag.
        default: Its default.
        about: What `--help` says.
        *limits: The lowest value of a number.
    """
    of_kind = getattr(flags, f"DEFINE_{kind}")
    of_kind(name, default, about, *limits, flag_values=values)


def choice(
    values: flags.FlagValues,
    name: str,
    default: str,
    choices: tuple[str, ...],
    about: str,
) -> None:
    """Defines a flag that is one of some words."""
    flags.DEFINE_enum(name, default, list(choices), about, flag_values=values)


def data(
    values: flags.FlagValues,
    default: str | None = "digits",
    about: str = "'digits' (embedded, no download) or the name of a TensorFlow "
    "Datasets image set, 'mnist' or 'cifar10' for example.",
) -> None:
    """Where images come from."""
    define(values, "string", "dataset", default, about)
    about = "Directory of TFDS data, prepared or to download to."
    define(values, "string", "data_dir", None, about)
    about = "Whether TFDS may download what is not prepared."
    define(values, "bool", "download", True, about)


def training(values: flags.FlagValues, batch_size: int, seed: str) -> None:
    """What every command that trains takes.

    Args:
        values: Where the flags are defined.
        batch_size: Its default.
        seed: What the seed decides.
    """
    about = "One of the papers' networks."
    choice(values, "model", "lenet_300_100", MODELS, about)
    about = "Factor on the units and filters of every hidden layer."
    define(values, "float", "width", 1.0, about)
    define(values, "integer", "batch_size", batch_size, "Images a step.")
    about = "Shift and flip training images at random."
    define(values, "bool", "augment", False, about)
    define(values, "integer", "seed", 0, seed)
    about = (
        "Which devices of this machine share a batch: 'mirrored' all GPUs with "
        "TensorFlow, 'data_parallel' with JAX."
    )
    choice(values, "strategy", "none", STRATEGIES, about)


def recipe(values: flags.FlagValues, iterations: int | None, more: str) -> None:
    """What `tfticket.lottery.Recipe` takes beside what every training takes.

    Args:
        values: Where the flags are defined.
        iterations: Its default.
        more: What else is to be said of when validations are.
    """
    about = "SGD has momentum 0.9."
    choice(values, "optimizer", "adam", ("adam", "sgd"), about)
    about = "Default: the paper's for the model with Adam, 0.1 with SGD."
    define(values, "float", "learning_rate", None, about)
    define(values, "float", "weight_decay", 0.0, "Decoupled weight decay.")
    about = "Steps over which the learning rate rises from 0."
    define(values, "integer", "warmup", 0, about)
    about = "Steps at which the learning rate is divided by 10."
    define(values, "list", "drops", [], about)
    about = "Training steps in a round." + (" Default: 1000." if not iterations else "")
    define(values, "integer", "iterations", iterations, about)
    about = (
        "Steps between validations; must divide --iterations. Default: a hundredth of "
        f"them, from 10 to 100{more}."
    )
    define(values, "integer", "evaluate_every", None, about)
    about = "How many times to prune; there is one training more."
    define(values, "integer", "rounds", 12, about)
    about = "Fraction of the surviving weights pruned after a round, in (0, 1)."
    define(values, "float", "rate", 0.2, about)
    about = "The same for the output layer. Default: half of --rate."
    define(values, "float", "output_rate", None, about)
    about = "The same for convolutions. Default: --rate."
    define(values, "float", "conv_rate", None, about)
    about = (
        "Prune each layer by the rate, all of them by one cut, or by thresholds at "
        "which each layer alone costs as much accuracy."
    )
    scopes = ("layerwise", "global", "sensitivity")
    choice(values, "scope", "layerwise", scopes, about)
    about = "Name of one of tfticket.criteria."
    define(values, "string", "criterion", "magnitude", about)
    about = (
        "Step of the first round whose weights the survivors go back to: 0 for the "
        "initial weights, 'none' to keep the trained ones (prune and fine-tune)."
    )
    define(values, "string", "rewind_to", "0", about)
    about = "Factor on the learning rate of every round but the first."
    define(values, "float", "retrain_factor", 1.0, about)


def recipe_settings(kind: type, values: flags.FlagValues) -> dict[str, Any]:
    """What the flags of `recipe` say, as arguments of a `Recipe`.

    Args:
        kind: `Recipe` or a class of its fields and more.
        values: Flags.

    Raises:
        ValueError: If a flag is neither a number nor a word that it takes.
    """
    drops, rewind_to = integers("drops", values.drops), None
    if values.rewind_to != "none":
        if not values.rewind_to.isdecimal():
            raise ValueError(
                "--rewind_to must be a step (0 is the initial weights) or 'none'. "
                f"Received: --rewind_to={values.rewind_to}"
            )
        rewind_to = int(values.rewind_to)
    return settings(kind, values, drops=drops, rewind_to=rewind_to)


def out_dir(values: flags.FlagValues, default: str, about: str) -> None:
    """The folder of a run, and whether another may be replaced.

    Args:
        values: Where the flags are defined.
        default: What the folder is called if not given.
        about: What goes into it.
    """
    define(values, "string", "out_dir", None, f"{about} Default: {default}.")
    about = "Replace an earlier run with other flags."
    define(values, "bool", "overwrite", False, about)


def run_dir(values: flags.FlagValues) -> None:
    """The finished or running experiment that a command reads."""
    define(values, "string", "run_dir", None, "Folder of the run. Required.")
    flags.mark_flag_as_required("run_dir", flag_values=values)


def integers(flag: str, texts: list[str]) -> list[int]:
    """A list flag whose values must be numbers.

    Raises:
        ValueError: If one is not.
    """
    if wrong := [text for text in texts if not text.strip().isdecimal()]:
        raise ValueError(
            f"--{flag} must be numbers with commas between, 0,3,7 for example. "
            f"Received: {wrong[0]!r}"
        )
    return [int(text) for text in texts]


def settings(kind: type, values: flags.FlagValues, **given: Any) -> dict[str, Any]:
    """The arguments of a dataclass: its fields that are flags, and what is given.

    Args:
        kind: The dataclass.
        values: Flags.
        given: Arguments that are not a flag's value as it is.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: values[name].value for name in names if name in values} | given
