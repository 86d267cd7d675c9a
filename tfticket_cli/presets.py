"""`--preset`: an experiment of the papers, by name."""

import importlib.util
import pathlib
import runpy
from typing import Any

from absl import flags

from tfticket_cli import flag_groups

# Flags of what a preset decides whole, whether its line names them or not.
_OF_A_PRESET = (
    *("dataset", "model", "width", "dropout", "batch_size", "augment", "optimizer"),
    *("learning_rate", "weight_decay", "l2", "momentum", "nesterov", "schedule"),
    *("warmup", "drops", "iterations", "rate", "output_rate", "conv_rate", "rates"),
    *("exclude", "scope", "criterion", "rewind_to", "rewind_clock", "retrain_factor"),
    *("normalize", "train_size", "label_noise", "data_seed"),
)


def known() -> dict[str, dict[str, Any]]:
    """`tfticket.lottery.PRESETS`, read without importing tfticket."""
    spec = importlib.util.find_spec("tfticket")
    assert spec is not None
    assert spec.origin is not None
    path = pathlib.Path(spec.origin).with_name("lottery") / "presets.py"
    return runpy.run_path(str(path))["PRESETS"]


def define(values: flags.FlagValues) -> None:
    """The flag that names an experiment of the papers."""
    about = (
        f"An experiment of the papers, with its recipe: {', '.join(known())}. Other "
        "flags may only add to it."
    )
    flag_groups.define(values, "string", "preset", None, about)


def apply(values: flags.FlagValues) -> None:
    """Gives flags the values of `--preset`, which is done once and again alike.

    Raises:
        ValueError: If there is no such preset, or a flag contradicts it.
    """
    name, table = values.preset, known()
    if name is None:
        return
    if name not in table:
        raise ValueError(
            f"--preset must be one of {', '.join(table)}. "
            f"Received: --preset={name}.{flag_groups.did_you_mean(name, table)}"
        )
    wanted = {flag: values[flag].default for flag in _OF_A_PRESET}
    wanted |= {flag: _as_flag(flag, value) for flag, value in table[name].items()}
    for flag, value in wanted.items():
        if not values[flag].present:
            values[flag].value = value
        elif values[flag].value != value and flag != "rounds":
            raise ValueError(
                f"--preset={name} has {flag}={_shown(value)}, and a flag contradicts "
                f"it: --{flag}={_shown(values[flag].value)}. Leave one of them out."
            )


def _as_flag(name, value):
    """An argument of a `Recipe` as the flag of its name has it."""
    if name == "drops":
        return [str(step) for step in value]
    if name == "rates":
        return [f"{pattern}:{rate:g}" for pattern, rate in value.items()]
    if name == "rewind_to":
        return "none" if value is None else str(value)
    return value


def _shown(value):
    return ",".join(value) if isinstance(value, list) else value
