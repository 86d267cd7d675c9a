"""Flags that several commands share, each defined once."""

import dataclasses
import difflib
import math
import pathlib
from collections.abc import Iterable
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
    "resnet_8",
    "vgg_11",
    "vgg_16",
    "vgg_19",
)
# As `tfticket.models.DROPOUT`, which is compared too.
DROPOUT = ("lenet_300_100", "lenet_5", "conv_2", "conv_4", "conv_6", "conv_8")
# Those of `tfticket.devices` and `tfticket.criteria`, compared too.
STRATEGIES = ("none", "mirrored", "data_parallel")
CRITERIA = (
    "change",
    "grasp",
    "lamp",
    "magnitude",
    "magnitude_increase",
    "movement",
    "obs",
    "random",
    "recent_change",
    "snip",
    "synflow",
    "taylor",
    "wanda",
)
_SEEDS = 2**32 - 1


def define(
    values: flags.FlagValues,
    kind: str,
    name: str,
    default: Any,
    about: str,
    least: float | None = None,
    most: float | None = None,
    above: float | None = None,
    below: float | None = None,
) -> None:
    """Defines a flag. A number out of range is refused when flags are read.

    Args:
        values: Where it is defined.
        kind: As in the names of absl: "integer", "float", "string", "bool", "list".
        name: Name of the flag.
        default: Its default.
        about: What `--help` says.
        least: The lowest value of a number.
        most: The highest value.
        above: A number that it has to be above.
        below: A number that it has to be below.
    """
    of_kind = getattr(flags, f"DEFINE_{kind}")
    of_kind(name, default, about, flag_values=values)
    limits = {"at least": least, "at most": most, "above": above, "below": below}
    words = [f"{word} {limit}" for word, limit in limits.items() if limit is not None]
    if not words:
        return

    def is_within(value):
        if value is None:
            return True
        fits = math.isfinite(value)
        fits &= least is None or value >= least
        fits &= most is None or value <= most
        fits &= above is None or value > above
        return fits and (below is None or value < below)

    flags.register_validator(
        name, is_within, f"{name} must be {' and '.join(words)}", flag_values=values
    )


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
    """Flags that say where images come from."""
    define(values, "string", "dataset", default, about)
    about = "Directory of TFDS data that is prepared, or to download to."
    define(values, "string", "data_dir", None, about)
    about = "Whether TFDS may download a set that is not prepared."
    define(values, "bool", "download", True, about)


def training(values: flags.FlagValues, batch_size: int, seed: str) -> None:
    """Flags of every command that trains.

    Args:
        values: Where the flags are defined.
        batch_size: Its default.
        seed: What the seed decides.
    """
    about = "One of the papers' networks."
    choice(values, "model", "lenet_300_100", MODELS, about)
    about = "Factor on the number of units and filters of every hidden layer."
    define(values, "float", "width", 1.0, about, above=0)
    define(values, "integer", "batch_size", batch_size, "Images per step.", 1)
    about = "Shift and flip training images at random."
    define(values, "bool", "augment", False, about)
    define(values, "integer", "seed", 0, seed, 0, _SEEDS)
    about = (
        "Which devices of this machine share a batch: 'mirrored' all GPUs with "
        "TensorFlow, 'data_parallel' with JAX."
    )
    choice(values, "strategy", "none", STRATEGIES, about)


def recipe(values: flags.FlagValues, iterations: int | None, more: str) -> None:
    """Flags of `tfticket.lottery.Recipe` that are not those of every training.

    Args:
        values: Where the flags are defined.
        iterations: Its default.
        more: What `--evaluate_every` says of its default besides.
    """
    about = (
        "Fraction of the units of every hidden fully connected layer that a training "
        "step drops."
    )
    define(values, "float", "dropout", 0.0, about, 0, below=1)
    about = "The optimizer."
    choice(values, "optimizer", "adam", ("adam", "sgd"), about)
    about = "Learning rate. Default: the paper's for the model with Adam, 0.1 with SGD."
    define(values, "float", "learning_rate", None, about, above=0)
    define(values, "float", "momentum", 0.9, "Momentum of SGD.", 0, below=1)
    define(values, "bool", "nesterov", False, "Whether it is Nesterov's.")
    about = (
        "Weight decay as in the papers and PyTorch: added to the gradient of every "
        "trainable variable, and in no loss that is reported."
    )
    define(values, "float", "l2", 0.0, about, 0)
    about = "Decoupled weight decay, which does not go through the gradient."
    define(values, "float", "weight_decay", 0.0, about, 0)
    about = "What the learning rate does after the warm-up; a cosine falls to 0."
    choice(values, "schedule", "constant", ("constant", "cosine"), about)
    about = "Steps over which the learning rate rises from 0."
    define(values, "integer", "warmup", 0, about, 0)
    about = "Steps at which the learning rate is divided by 10."
    define(values, "list", "drops", [], about)
    about = "Training steps per round." + (" Default: 1000." if not iterations else "")
    define(values, "integer", "iterations", iterations, about, 1)
    about = (
        "Steps between validations; must divide --iterations. Default: a hundredth of "
        f"--iterations, between 10 and 100{more}."
    )
    define(values, "integer", "evaluate_every", None, about, 1)
    about = "Number of prunings. There is one more training than that."
    define(values, "integer", "rounds", 12, about, 1)
    about = "Fraction of the kept weights that is pruned after a round, in (0, 1)."
    define(values, "float", "rate", 0.2, about, above=0, below=1)
    about = (
        "Rate of the output layer; 0 leaves it dense, the only choice with "
        "--scope=global. Default: half of --rate, and --rate with --scope=global."
    )
    define(values, "float", "output_rate", None, about, 0, below=1)
    about = "Rate of convolutions, likewise. Default: --rate."
    define(values, "float", "conv_rate", None, about, 0, below=1)
    about = (
        "PATTERN:RATE, rates of single layers, likewise: a path as in fc1:0.1, or a "
        "regular expression as in re:_shortcut:0."
    )
    define(values, "list", "rates", [], about)
    about = (
        "Layers without masks, which stay dense and don't count: paths, or regular "
        "expressions as in re:conv."
    )
    define(values, "list", "exclude", [], about)
    about = (
        "Prune each layer by the rate, rank the weights of all layers together, or "
        "prune by thresholds at which each layer alone costs the same accuracy."
    )
    scopes = ("layerwise", "global", "sensitivity")
    choice(values, "scope", "layerwise", scopes, about)
    about = "Which weights are pruned: a name of tfticket.criteria."
    choice(values, "criterion", "magnitude", CRITERIA, about)
    about = (
        "Step of the first round to whose weights the kept ones are rewound: 0 for "
        "the initial weights, 'none' to keep the trained ones (prune and fine-tune)."
    )
    define(values, "string", "rewind_to", "0", about)
    about = (
        "What a training that begins at step K of the dense one counts from: "
        "'continue' from K, with --iterations less K steps; 'restart' from 0, with all."
    )
    choice(values, "rewind_clock", "continue", ("continue", "restart"), about)
    about = "Factor on the learning rate in every round after the first."
    define(values, "float", "retrain_factor", 1.0, about, above=0)
    about = (
        "Inputs normalised by mean and standard deviation of the training images, or "
        "from 0 to 1."
    )
    choice(values, "normalize", "standard", ("standard", "unit"), about)
    about = "Training images to keep. Default: all."
    define(values, "integer", "train_size", None, about, 1)
    about = "Fraction of the training labels that are replaced by another class."
    define(values, "float", "label_noise", 0.0, about, 0, 1)
    about = "Seed of --train_size and --label_noise, the same for all replicates."
    define(values, "integer", "data_seed", 0, about, 0)
    about = "Controls see the data in the order of their ticket."
    define(values, "bool", "same_order", False, about)
    about = "Training images per class that a criterion is taken over, if it needs any."
    define(values, "integer", "calibration", 10, about, 1)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """ " Did you mean x?", or nothing if no known word is close."""
    found = difflib.get_close_matches(word, list(known), 1)
    return f" Did you mean {found[0]}?" if found else ""


def check_recipe(values: flags.FlagValues) -> None:
    """Refuses flags of `recipe` that don't go together, before TensorFlow is imported.

    Raises:
        ValueError: If one is wrong.
    """
    rewind_to(values)
    steps("drops", values.drops)
    if values.dropout and values.model not in DROPOUT:
        raise ValueError(
            "--dropout needs a --model with hidden fully connected layers, one of "
            f"{', '.join(DROPOUT)}. Received: --model={values.model}"
        )
    iterations, every = values.iterations, values.evaluate_every
    if iterations and every and iterations % every:
        raise ValueError(
            "--evaluate_every must divide --iterations, because a round ends with a "
            f"validation. Received: --iterations={iterations} --evaluate_every={every}"
        )
    _check_optimizer(values)
    own: dict[str, Any] = rates(values)
    given = {name: values[name].value for name in ("output_rate", "conv_rate")}
    own |= {name: value for name, value in given.items() if value is not None}
    if values.scope == "layerwise":
        return
    for name, value in own.items():
        flag = f"--{name}" if name in values else f"--rates={name}:{value:g}"
        if values.scope == "sensitivity":
            raise ValueError(
                f"{flag} has no meaning with --scope=sensitivity. To leave a layer "
                "dense, use --exclude."
            )
        if value:
            raise ValueError(
                f"{flag} must be 0 with --scope=global, where one cut goes through all "
                f"layers that are not left dense. Received: {value:g}"
            )
    if values.scope == "sensitivity" and values.criterion != "magnitude":
        raise ValueError(
            "--scope=sensitivity chooses thresholds of magnitudes. "
            f"Received: --criterion={values.criterion}"
        )


def _check_optimizer(values):
    if values.optimizer == "adam":
        for name in ("momentum", "nesterov"):
            if values[name].present:
                raise ValueError(
                    f"--{name} is for --optimizer=sgd. "
                    f"Received: --optimizer={values.optimizer}"
                )
    if values.nesterov and not values.momentum:
        raise ValueError("--nesterov needs a momentum. Received: --momentum=0")
    if values.schedule == "constant":
        return
    if values.drops:
        raise ValueError(
            "--drops is for --schedule=constant; a cosine falls by itself. "
            f"Received: --drops={','.join(values.drops)}"
        )
    if values.iterations and values.warmup >= values.iterations:
        raise ValueError(
            "--warmup must be less than --iterations with --schedule=cosine. "
            f"Received: --warmup={values.warmup} --iterations={values.iterations}"
        )


def rates(values: flags.FlagValues) -> dict[str, float]:
    """Pattern to rate, of the list that `--rates` is.

    Raises:
        ValueError: If one is written otherwise than as PATTERN:RATE.
    """
    found = {}
    for text in values.rates:
        pattern, _, rate = text.rpartition(":")
        try:
            found[pattern] = float(rate)
            if not pattern or not 0 <= found[pattern] < 1:
                raise ValueError
        except ValueError:
            raise ValueError(
                "--rates must be PATTERN:RATE with RATE in [0, 1), as in fc1:0.1. "
                f"Received: {text!r}"
            ) from None
    return found


def rewind_to(values: flags.FlagValues) -> int | None:
    """The step that `--rewind_to` names; `None` for "none".

    Raises:
        ValueError: If it is neither a number nor "none".
    """
    if values.rewind_to == "none":
        return None
    if not values.rewind_to.isdecimal():
        raise ValueError(
            "--rewind_to must be a step (0 is the initial weights) or 'none'. "
            f"Received: --rewind_to={values.rewind_to}"
        )
    return int(values.rewind_to)


def recipe_settings(kind: type, values: flags.FlagValues) -> dict[str, Any]:
    """What the flags of `recipe` say, as arguments of a `Recipe`.

    Args:
        kind: `Recipe`, or a class with more fields.
        values: Flags.
    """
    drops = steps("drops", values.drops)
    return settings(
        kind, values, drops=drops, rewind_to=rewind_to(values), rates=rates(values)
    )


def processes(values: flags.FlagValues) -> None:
    """The flag `--processes`."""
    about = (
        "Trainings that run side by side, each in a process with one thread: a number "
        "up to the cores, or 'auto' for all of them. Default: train in this process."
    )
    define(values, "string", "processes", None, about)


def processes_asked(values: flags.FlagValues) -> int | str | None:
    """What `--processes` asks for, as an argument of `run`.

    Raises:
        ValueError: If it is neither a number nor "auto".
    """
    text = values.processes
    if text is None or text == "auto":
        return text
    if not text.isdecimal() or not int(text):
        raise ValueError(
            f"--processes must be a number or 'auto'. Received: --processes={text}"
        )
    return int(text)


def out_dir(values: flags.FlagValues, default: str, about: str) -> None:
    """The folder of a run, and whether another may be replaced.

    Args:
        values: Where the flags are defined.
        default: What the folder is called if not given.
        about: What goes into it.
    """
    define(values, "string", "out_dir", None, f"{about} Default: {default}.")
    about = "Replace an earlier run that had other flags."
    define(values, "bool", "overwrite", False, about)


def run_dir(values: flags.FlagValues, several: bool = False) -> None:
    """The finished or running experiment that a command reads, or several of them."""
    about = (
        "Folder of the run, or folders of several" if several else "Folder of the run"
    )
    define(
        values, "list" if several else "string", "run_dir", None, f"{about}. Required."
    )
    flags.mark_flag_as_required("run_dir", flag_values=values)


def check_run_dir(values: flags.FlagValues) -> None:
    """Refuses a run's folder that is not named, is not there, or is of no run."""
    given = values.run_dir
    if not given:
        raise ValueError(
            "--run_dir must name the folder of a run. Received: --run_dir="
        )
    for folder in given if isinstance(given, list) else [given]:
        if not pathlib.Path(folder, "config.json").is_file():
            raise FileNotFoundError(
                f"--run_dir={folder} is not the folder of a run: it has no "
                "config.json. `tfticket lottery` prints the folder that it makes."
            )


def steps(flag: str, texts: list[str], least: int = 1) -> list[int]:
    """The values of a list flag, which must be whole numbers.

    Raises:
        ValueError: If one is none, or too low.
    """
    for text in texts:
        if not text.strip().isdecimal() or int(text) < least:
            raise ValueError(
                f"--{flag} must be whole numbers from {least} on with commas between "
                f"them, as in --{flag}=3,7. Received: {text!r}"
            )
    return [int(text) for text in texts]


def settings(kind: type, values: flags.FlagValues, **given: Any) -> dict[str, Any]:
    """The arguments of a dataclass: its fields that are flags, and what is given.

    Args:
        kind: The dataclass.
        values: Flags.
        given: Arguments that differ from the flag's value.
    """
    names = [field.name for field in dataclasses.fields(kind)]
    return {name: values[name].value for name in names if name in values} | given
