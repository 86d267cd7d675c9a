"""`latency_plan` finds how many channels to prune for a latency on this machine."""

import dataclasses
import pathlib
import statistics
from collections.abc import Collection, Mapping
from typing import Any, Literal

import keras
import numpy as np

from tfticket.common.arguments import check_choice, check_integer, check_number
from tfticket.common.files import temporary_folder
from tfticket.export.checking.timing import runner, timed
from tfticket.export.compact_model import compact
from tfticket.export.saved_model_export import write
from tfticket.export.served.function import serving
from tfticket.export.served.samples import sample_inputs
from tfticket.export.tflite.conversion import convert
from tfticket.keras_models.names import Pattern, named_weights
from tfticket.pruning.masks import get_masks
from tfticket.pruning.prune_strip import strip
from tfticket.pruning.targets import ChannelPlan, Goal, goal_of
from tfticket.sparsity.criteria import Criterion
from tfticket.sparsity.scopes import Scope
from tfticket.sparsity.structures import Channel

FORMATS = ("saved_model", "litert")
# Largest number of models that are made and timed.
_TRIALS = 8


@dataclasses.dataclass(frozen=True)
class Measured:
    """The measurements at one sparsity of channels.

    Args:
        sparsity: Fraction of the channels that were pruned.
        ratio: Median of the ratios of the smaller model's time to the dense model's,
            turn by turn.
        quartiles: Lower and upper quartile of those ratios.
        milliseconds: Median time of a call of the dense and of the smaller model.
    """

    sparsity: float
    ratio: float
    quartiles: tuple[float, float]
    milliseconds: tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyPlan(ChannelPlan):
    """The sparsity that meets a latency target. `print` shows a table.

    Args:
        format: Format of the files that were timed.
        batch_size: Samples of a call.
        latency: The smaller model's time as a fraction of the dense model's, as
            measured here.
        measured: The measurements, in order.
    """

    format: str
    batch_size: int
    latency: float
    measured: tuple[Measured, ...]

    def __str__(self) -> str:
        chosen = next(x for x in self.measured if x.ratio == self.latency)
        before, after = chosen.milliseconds
        low, high = chosen.quartiles
        return (
            f"{super().__str__()}\n{self.format}, batch {self.batch_size}: "
            f"{before:.3g} ms -> {after:.3g} ms ({self.latency:.1%}; quartiles "
            f"{low:.1%} to {high:.1%}), {len(self.measured)} models timed"
        )


def latency_plan(
    model: keras.Model,
    latency: float,
    *,
    format: Literal["saved_model", "litert"] = "saved_model",
    batch_size: int = 1,
    tolerance: float = 0.05,
    repeats: int = 20,
    structure: Channel | None = None,
    criterion: str | Criterion = "magnitude",
    scope: Scope = "layerwise",
    sparsities: Mapping[Pattern, float] | None = None,
    exclude: Collection[Pattern] = (),
    data: Any = None,
    loss: Any = None,
    batches: int | None = None,
    seed: int | None = None,
) -> LatencyPlan:
    """Finds the sparsity of channels that meets a latency target on this machine.

    It makes compact models of different sparsities, writes them in the format that you
    will serve, and calls each in turn with the dense model, so that other load on the
    machine affects both. The first trial leaves the same fraction of the operations;
    the next ones follow from the measurements. There are at most eight trials, and the
    files are deleted.

    Times hold for this machine and for the number of threads that TensorFlow and LiteRT
    use here. They hardly depend on the values of weights, so you can plan before you
    train: pass the plan's `sparsity` to `sparsify` or to a schedule.

    Args:
        model: A built Sequential or Functional model with one input, wrapped by
            `prune(model, structure=Channel())` or not. It is not changed.
        latency: Target time as a fraction of the dense model's time, in (0, 1).
        format: "saved_model" or "litert" (float32).
        batch_size: Samples of a call, 1 or more.
        tolerance: How far below `latency` the result may be, as a fraction of the dense
            model's time. If whole channels or noise don't allow that, the nearest
            measurement below `latency` is the result.
        repeats: Number of turns per trial, 1 or more.
        structure: As in `channel_plan`.
        criterion: As in `sparsify`.
        scope: As in `sparsify`.
        sparsities: As in `sparsify`.
        exclude: As in `prune`.
        data: As in `sparsify`.
        loss: As in `sparsify`.
        batches: As in `sparsify`.
        seed: As in `sparsify`.

    Returns:
        `LatencyPlan`: the sparsity, the latency that it reaches, and the measurements.

    Raises:
        TypeError: If an argument has the wrong type.
        ValueError: If the model has several inputs or one of open shape, if an argument
            is out of range, or if the target can't be reached. The error says what can
            be.

    Example:

    >>> model = keras.Sequential([keras.Input((64,)), keras.layers.Dense(2000),
    ...     keras.layers.Dense(1000), keras.layers.Dense(2)])
    >>> plan = tfticket.export.latency_plan(
    ...     model, 0.8, format="litert", tolerance=0.5, repeats=5
    ... )
    >>> 0 < plan.sparsity < 1 and plan.latency <= 0.8
    True
    """
    check_number("latency", latency, above=0, below=1, meaning="the fraction left")
    check_choice("format", format, FORMATS)
    check_integer("batch_size", batch_size, 1)
    check_number("tolerance", tolerance, above=0, below=1)
    check_integer("repeats", repeats, 1)
    goal = goal_of(
        model,
        criterion,
        scope,
        structure,
        sparsities,
        exclude,
        data=data,
        loss=loss,
        batches=batches,
        seed=seed,
    )
    if len(model.inputs) != 1 or None in model.inputs[0].shape[1:]:
        shapes = [x.shape for x in model.inputs]
        raise ValueError(
            "latency_plan times models with one input whose size is known. The inputs "
            f"of '{model.name}' have shapes {shapes}."
        )
    with temporary_folder() as folder:
        trials = _Trials(model, goal, format, batch_size, repeats, folder)
        found = _search(trials, latency, tolerance)
    return LatencyPlan(
        **vars(goal.plan(found.sparsity)),
        format=format,
        batch_size=batch_size,
        latency=found.ratio,
        measured=tuple(trials.measured),
    )


class _Trials:
    """Smaller models, timed in turns with the dense one.

    Args:
        model: The model, which is not changed.
        goal: Finds sparsities for targets of this model.
        form: One of `FORMATS`.
        batch_size: Samples of a call.
        repeats: Number of turns per trial.
        folder: Folder for the files.
    """

    def __init__(
        self,
        model: keras.Model,
        goal: Goal,
        form: str,
        batch_size: int,
        repeats: int,
        folder: pathlib.Path,
    ):
        self.goal = goal
        self.measured: list[Measured] = []
        self._model = model
        self._form = form
        self._batch_size = batch_size
        self._repeats = repeats
        self._folder = folder
        self._count = 0
        self._dense = self._written(strip(model) if get_masks(model) else model)

    def time(self, sparsity: float) -> Measured:
        """Makes the model for a sparsity, and times it."""
        smaller = strip(self._model)
        weights = named_weights(smaller)
        for name, mask in self.goal.masks(sparsity).items():
            if name in weights:
                value = keras.ops.convert_to_numpy(weights[name])
                weights[name].assign(np.where(mask, value, 0))
        files = {"dense": self._dense, "small": self._written(compact(smaller).model)}
        times = times_of(files, self._inputs, self._repeats)
        ratios = np.divide(times["small"], times["dense"])
        low, ratio, high = map(float, np.quantile(ratios, [0.25, 0.5, 0.75]))
        spent = [1e3 * statistics.median(times[name]) for name in files]
        found = Measured(sparsity, ratio, (low, high), (spent[0], spent[1]))
        self.measured.append(found)
        return found

    def _written(self, model):
        """Writes a model without a check, because it is only timed."""
        ready = serving(model)
        self._inputs = sample_inputs(ready.signature, self._batch_size)
        self._count += 1
        path = self._folder / str(self._count)
        write(ready, path)
        if self._form == "saved_model":
            return path
        lite = path.with_suffix(".tflite")
        lite.write_bytes(convert(path, model.name))
        return lite


def times_of(
    files: Mapping[str, pathlib.Path], inputs: dict[str, np.ndarray], repeats: int
) -> dict[str, list[float]]:
    """Seconds per call of each file, measured in turns.

    Args:
        files: Paths of the written files or folders, by name.
        inputs: The only input, by its name.
        repeats: Number of calls per file.
    """
    return timed({k: runner(path) for k, path in files.items()}, inputs, repeats)


def _search(trials, latency, tolerance):
    """The trial nearest below a latency; stops at one within the tolerance."""
    goal = trials.goal
    cost = "parameters" if goal.plan(0.0).flops is None else "flops"
    least = goal.left(cost, 1.0)
    slow, fast, best = (1.0, 1.0), None, None
    share, tried = max(latency, least), set()
    while len(tried) < _TRIALS:
        sparsity = goal.sparsity_for(**{cost: share})
        if sparsity in tried:
            break
        tried.add(sparsity)
        found = trials.time(sparsity)
        if found.ratio <= latency:
            best = max(best or found, found, key=lambda x: x.ratio)
            fast = (share, found.ratio)
            if found.ratio >= latency - tolerance:
                break
        elif share == least:
            break
        else:
            slow = (share, found.ratio)
        share = max(least, _between(slow, fast, latency - tolerance / 2))
    if best is None:
        nearest = min(trials.measured, key=lambda x: x.ratio)
        raise ValueError(
            f"latency={latency} can't be reached: the lowest measurement is "
            f"{nearest.ratio:.3f} of the dense model's time, with "
            f"{nearest.sparsity:.1%} of the channels pruned. Ask for that, lower "
            "min_channels, raise max_sparsity, or exclude less. With a larger "
            "batch_size, costs that do not depend on channels matter less."
        )
    return best


def _between(slow, fast, aim):
    """The share of the operations to try next.

    Args:
        slow: Share and ratio of the fastest trial that was too slow.
        fast: The same of the slowest trial that was fast enough; `None` if there is
            none yet.
        aim: The target ratio.
    """
    if fast is None:
        return slow[0] * min(0.8, aim / slow[1])
    part = (aim - fast[1]) / (slow[1] - fast[1])
    # Not too near either end, since both ratios are noisy.
    return fast[0] + min(max(part, 0.15), 0.85) * (slow[0] - fast[0])
