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


def data(
    values: flags.FlagValues,
    default: str | None = "digits",
    about: str = "'digits' (embedded, no download) or the name of a TensorFlow "
    "Datasets image set, 'mnist' or 'cifar10' for example.",
) -> None:
    """Where images come from."""
    flags.DEFINE_string("dataset", default, about, flag_values=values)
    flags.DEFINE_string(
        "data_dir",
        None,
        "Directory of TFDS data, prepared or to download to.",
        flag_values=values,
    )
    flags.DEFINE_bool(
        "download",
        True,
        "Whether TFDS may download what is not prepared.",
        flag_values=values,
    )


def training(values: flags.FlagValues, batch_size: int, seed: str) -> None:
    """What every command that trains takes.

    Args:
        values: Where the flags are defined.
        batch_size: Its default.
        seed: What the seed decides.
    """
    flags.DEFINE_enum(
        "model",
        "lenet_300_100",
        MODELS,
        "One of the papers' networks.",
        flag_values=values,
    )
    flags.DEFINE_integer("batch_size", batch_size, "Images a step.", flag_values=values)
    flags.DEFINE_integer("seed", 0, seed, flag_values=values)
    flags.DEFINE_enum(
        "strategy",
        "none",
        STRATEGIES,
        "Which devices of this machine share a batch: 'mirrored' all GPUs with "
        "TensorFlow, 'data_parallel' with JAX.",
        flag_values=values,
    )


def rewinding(values: flags.FlagValues) -> None:
    """Where surviving weights go back to; `rewind_step` reads it."""
    flags.DEFINE_string(
        "rewind_to",
        "0",
        "Step of the first round whose weights the survivors go back to: 0 for the "
        "initial weights, 'none' to keep the trained ones (prune and fine-tune).",
        flag_values=values,
    )


def rewind_step(values: flags.FlagValues) -> int | None:
    """What `rewinding`'s flag says: a step, or `None` for no rewinding.

    Raises:
        ValueError: If it is neither a step nor "none".
    """
    if values.rewind_to == "none":
        return None
    if not values.rewind_to.isdecimal():
        raise ValueError(
            "--rewind_to must be a step (0 is the initial weights) or 'none'. "
            f"Received: --rewind_to={values.rewind_to}"
        )
    return int(values.rewind_to)


def run_dir(values: flags.FlagValues) -> None:
    """The finished or running experiment that a command reads."""
    flags.DEFINE_string(
        "run_dir", None, "Folder of the run. Required.", flag_values=values
    )
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
