"""`latency_plan`: how many channels have to go so that a model is faster here."""

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
from tfticket.export.compact import compact
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
# How many models are made and timed at most.
_TRIALS = 8


@dataclasses.dataclass(frozen=True)
class Measured:
    """What was measured with one number of channels.

    Args:
        sparsity: Fraction of the channels that were gone.
        ratio: Median of the ratios of its time to the dense model's, turn by turn.
        quartiles: Lower and upper quartile of those ratios.
        milliseconds: Medians of a call of the dense and of the smaller model.
    """

    sparsity: float
    ratio: float
    quartiles: tuple[float, float]
    milliseconds: tuple[float, float]


@dataclasses.dataclass(frozen=True, eq=False)
class LatencyPlan(ChannelPlan):
    """What a target of latency leaves of a model. `print` shows a table.

    Args:
        format: Format of the files that were timed.
        batch_size: Samples of a call.
        latency: Fraction of the dense model's time that is left, as measured here.
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
    """Finds the sparsity of channels that leaves so much of a model's time, here.

    Models of different sparsities are made compact, written in the format that will be
    served, and called in turns with the dense one, so that other load on the machine
    falls on both. The first trial leaves the same fraction of the operations; the next
    ones follow from what was measured, eight at most. The files are removed.

    The time of a call is that of this machine, by as many threads as TensorFlow and
    LiteRT take here. It hardly depends on the values of weights, so that the plan can
    be made before a training: hand its `sparsity` to `sparsify` or a schedule.

    Args:
        model: A built Sequential or Functional model with one input, wrapped by
            `prune(model, structure=Channel())` or not. It is only read.
        latency: Fraction of the dense model's time to be left, in (0, 1).
        format: "saved_model" or "litert" (float32).
        batch_size: Samples of a call, 1 or more.
        tolerance: How much less than `latency` may be left, as a fraction of the dense
            model's time. Where whole channels or the machine's noise don't allow that,
            the nearest that was measured below `latency` is taken.
        repeats: Turns of each trial, 1 or more.
        structure: As in `channel_plan`, and so are those that follow.
        criterion: As in `sparsify`.
        scope: As in `sparsify`.
        sparsities: As in `sparsify`.
        exclude: As in `prune`.
        data: As in `sparsify`.
        loss: As in `sparsify`.
        batches: As in `sparsify`.
        seed: As in `sparsify`.

    Returns:
        `LatencyPlan`: the sparsity, what it leaves, and what was measured.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If the model has several inputs or one of open shape, an argument is
            out of range, or the target can't be reached; says what can.

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
    """Smaller models, timed beside the dense one.

    Args:
        model: The model, only read.
        goal: What finds targets for that model.
        form: One of `FORMATS`.
        batch_size: Samples of a call.
        repeats: Turns of each trial.
        folder: Where files are written.
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
        """Makes the model of a sparsity, and times it."""
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
        """Writes a model, unchecked: it is only timed."""
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
    """Seconds of a call of each file, taken in turns.

    Args:
        files: Paths of files or folders, as written, by name.
        inputs: The one input, by its name.
        repeats: Times of each.
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
            f"latency={latency} can't be reached: the least that was measured is "
            f"{nearest.ratio:.3f} of the dense model's time, with "
            f"{nearest.sparsity:.1%} of the channels gone. Ask for that, lower "
            "min_channels, raise max_sparsity, or exclude less. A larger batch_size "
            "makes what does not depend on channels count for less."
        )
    return best


def _between(slow, fast, aim):
    """The share of the operations to try next.

    Args:
        slow: Share and ratio of the fastest trial that was too slow.
        fast: The same of the slowest one that was fast enough; `None` before any.
        aim: The ratio wanted.
    """
    if fast is None:
        return slow[0] * min(0.8, aim / slow[1])
    part = (aim - fast[1]) / (slow[1] - fast[1])
    # Not too near either end, since both ratios are noisy.
    return fast[0] + min(max(part, 0.15), 0.85) * (slow[0] - fast[0])
