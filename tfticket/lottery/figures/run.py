"""All figures of a run's folder beside their numbers, and why others are missing."""

import dataclasses
import os
import pathlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure

from tfticket.common.arguments import (
    check_bool,
    check_integer,
    check_list,
    check_path,
    optional,
)
from tfticket.common.files import atomic_path, write_csv
from tfticket.lottery.engine.run_folder import (
    read_config,
    read_metrics,
    read_results,
    read_ticket,
)
from tfticket.lottery.figures import csv_rows, mask_image, plots
from tfticket.lottery.figures.captions import caption
from tfticket.lottery.figures.tables import Row, dense_row, layer_rows, rows
from tfticket.lottery.measures.overlap import pairwise_overlap
from tfticket.lottery.results import Part, PartResult
from tfticket.tickets.pictures import FORMATS, save

# Of the paper's figure 3, but for the last, and of its highest accuracy.
_CURVES = (1.0, 0.513, 0.211, 0.135, 0.07, 0.036)
_FEW = (0.513, 0.211, 0.07, 0.029)
# Their accuracy is of other data, or the ticket's own again.
_APART = ("transfer", "stability")


@dataclasses.dataclass(frozen=True)
class Plots:
    """What `plot_run` drew.

    Args:
        written: Maps the name of a figure to its file, in the first of the formats.
        skipped: Maps the name of a figure to the reason why it was not drawn.
        results: The finished parts that it was drawn from.
    """

    written: dict[str, pathlib.Path]
    skipped: dict[str, str]
    results: Sequence[PartResult] = ()


def plot_run(
    folder: str | os.PathLike,
    out_dir: str | os.PathLike | None = None,
    rounds: Sequence[int] | None = None,
    numbers: bool = True,
    formats: Sequence[str] = ("png",),
) -> Plots:
    """Draws the figures that a run has results for.

    Args:
        folder: Folder of the run.
        out_dir: Folder for figures, CSV files and `captions.md`, which says what each
            figure shows. Default: `plots` in the run's folder.
        rounds: Rounds of learning curves, movement and mask images. Default: those
            nearest to the paper's densities.
        numbers: Whether to write each figure's numbers as CSV, and the captions.
        formats: What to write each figure as: "png", "svg" or "pdf".

    Raises:
        ValueError: If the folder is not a run's, nothing in it is finished, a round
            is not in it, or a format is unknown.
    """
    check_path("folder", folder)
    optional(check_path, "out_dir", out_dir)
    check_bool("numbers", numbers)
    formats = check_formats(formats)
    if rounds is not None:
        rounds = check_list("rounds", rounds, "a list of rounds")
        rounds = [check_integer("rounds", number, 0) for number in rounds]
    run = _Run(folder, rounds)
    out = pathlib.Path(folder, "plots") if out_dir is None else pathlib.Path(out_dir)
    found, captions = Plots({}, {}, run.results), {}
    for name, prepare in FIGURES.items():
        try:
            numbers_of, draw = prepare(run)
        except _NoDataError as reason:
            found.skipped[name] = str(reason)
            continue
        if numbers:
            write_csv(numbers_of, out / f"{name}.csv")
        found.written[name] = write_figure(draw, out / name, formats)
        captions[name] = caption(name, numbers_of)
    if numbers:
        write_captions(captions, out)
    return found


def check_formats(formats: Any) -> Sequence[str]:
    """The formats, if they are what figures can be written as."""
    formats = check_list("formats", formats, "a list of formats")
    if not formats or any(kind not in list(FORMATS) for kind in formats):
        raise ValueError(
            f"formats must be one or more of {list(FORMATS)}. Received: {formats}"
        )
    return formats


def write_figure(
    draw: Callable[[pathlib.Path], Figure], stem: pathlib.Path, formats: Sequence[str]
) -> pathlib.Path:
    """Draws a figure once and writes it in each format.

    Args:
        draw: Writes the figure to a path, and returns it.
        stem: The path without the format.
        formats: The formats, one or more.

    Returns:
        The file of the first format.
    """
    first, *others = (stem.with_name(f"{stem.name}.{kind}") for kind in formats)
    figure = draw(first)
    for path in others:
        save(figure, path)
    return first


def accuracy_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows that the figure "accuracy" compares: those of the run's own data.

    Args:
        rows: Rows of any table that has the column `branch`.
    """
    return [row for row in rows if row["branch"].partition(":")[0] not in _APART]


def transfer_rows(rows: Sequence[Row]) -> list[Row]:
    """The rows of the figure "transfer", tickets on other data.

    Args:
        rows: Rows of any table that has the column `branch`.
    """
    return [row for row in rows if row["branch"].startswith("transfer:")]


def write_captions(captions: Mapping[str, str], out: pathlib.Path) -> None:
    """Writes what figures show to `captions.md` beside them, a paragraph each.

    Args:
        captions: Name of a figure to its caption.
        out: Folder of the figures.
    """
    text = "\n\n".join(f"**{name}**: {words}" for name, words in captions.items())
    with atomic_path(out / "captions.md") as temporary:
        temporary.write_text(f"{text}\n", encoding="utf-8")


def run_title(config: Mapping[str, Any]) -> str:
    """Network and data set of a run, "lenet_300_100 on mnist" for example.

    Args:
        config: The run's configuration.
    """
    settings = run_settings(config)
    return " on ".join(str(settings[k]) for k in ("model", "dataset") if k in settings)


def run_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """A run's `config.json` without its sections: what is in them comes up.

    Example:

    >>> config = {"identity": {}, "recipe": {"dataset": "mnist", "rate": 0.2}}
    >>> tfticket.lottery.figures.run.run_settings(config)
    {'dataset': 'mnist', 'rate': 0.2}
    """
    flat: dict[str, Any] = {}
    for name, value in config.items():
        if name != "identity":
            flat |= run_settings(value) if isinstance(value, dict) else {name: value}
    # Data and network that were given as objects stand above the recipe's names.
    identity = config.get("identity") or {}
    for name, key in (("dataset", "dataset"), ("build", "model")):
        if name in identity:
            flat[key] = identity[name]
    return flat


def rewound_to(config: Mapping[str, Any]) -> int:
    """The step that a run's tickets are rewound to, 0 where they are not.

    Args:
        config: The run's configuration.

    Example:

    >>> tfticket.lottery.figures.run.rewound_to({"recipe": {"rewind_to": 500}})
    500
    """
    step = run_settings(config).get("rewind_to")
    return step if isinstance(step, int) else 0


class _NoDataError(Exception):
    """A figure has nothing to show; says why."""


class _Run:
    """The results of a folder, and what the figures take from it."""

    def __init__(self, folder, rounds):
        self.folder = folder
        self.results, config = finished(folder), read_config(folder)
        self.rows = rows(self.results, rewound_to(config))
        self.title = run_title(config)
        self._rounds = None if rounds is None else sorted(set(rounds))
        known = sorted({r.part.round for r in self.tickets()})
        if unknown := sorted(set(self._rounds or ()) - set(known)):
            raise ValueError(
                f"rounds must be of those finished, {known}. Received: {unknown}"
            )

    def tickets(self) -> list[PartResult]:
        return [r for r in self.results if r.part.branch == "ticket"]

    def rounds(self, densities: Sequence[float]) -> list[int]:
        if self._rounds is not None:
            return self._rounds
        return csv_rows.choose_rounds(self.rows, densities)


def finished(folder: str | os.PathLike) -> list[PartResult]:
    """The results of a run, which has to have some.

    Args:
        folder: The run's folder.

    Raises:
        ValueError: If the folder is not a run's, or nothing in it is finished.
    """
    results = read_results(folder)
    if not results:
        raise ValueError(
            f"'{folder}' has no finished training yet. Run the experiment first, or "
            "wait for its first one."
        )
    return results


_Prepared = tuple[Sequence[Row], Callable[[pathlib.Path], Figure]]


def _accuracy(run: _Run) -> _Prepared:
    shown = accuracy_rows(run.rows)
    if not shown:
        raise _NoDataError("no round of the ticket or a control is finished")
    return shown, lambda path: plots.accuracy(shown, path, run.title)


def _transfer(run: _Run) -> _Prepared:
    shown = transfer_rows(run.rows)
    if not shown:
        raise _NoDataError("no branch transfer:NAME in the experiment")
    return shown, lambda path: plots.accuracy(shown, path, run.title)


def _curves(run: _Run) -> _Prepared:
    chosen = run.rounds(_CURVES)
    parts = {
        result.part: result.density
        for result in run.results
        if result.part.branch in ("ticket", "reinit") and result.part.round in chosen
    }
    if not parts:
        raise _NoDataError("no round of the ticket is finished")
    metrics = {part: read_metrics(run.folder, part) for part in parts}
    shown = csv_rows.curve_rows(metrics, parts)
    dense = dense_row(run.rows)
    # By three times the dense network's early stop all that matters has happened.
    until: Any = dense and int(3 * dense["early_stop_iteration"])
    return shown, lambda path: plots.learning_curves(shown, path, run.title, until)


def _movement(run: _Run) -> _Prepared:
    moved = [result for result in run.tickets() if result.movement]
    if not moved:
        raise _NoDataError(
            "no movement was measured: no round has been pruned after its training"
        )
    with_it = [row for row in rows(moved) if row["branch"] == "ticket"]
    chosen = run._rounds or csv_rows.choose_rounds(with_it, (1.0, 0.211, 0.036))
    shown = csv_rows.movement_rows(moved, chosen)
    if not shown:
        raise _NoDataError(f"no movement was measured at rounds {chosen}")
    return shown, lambda path: plots.movement(shown, path, run.title)


def _mask(run: _Run) -> _Prepared:
    chosen = run.rounds(_FEW)
    seed: Any = min((r.part.seed for r in run.tickets()), default=None)
    parts = {r.part for r in run.tickets()}
    tickets = {
        number: read_ticket(run.folder, Part(seed, round=number))
        for number in chosen
        if Part(seed, round=number) in parts
    }
    if not tickets:
        raise _NoDataError("no round of the ticket is finished")
    config = next(iter(tickets.values())).provenance.get("config", {})
    try:
        name, shape = mask_image.flattened_input(config)
        masks = {number: ticket.masks[name] for number, ticket in tickets.items()}
    except (KeyError, ValueError) as error:
        raise _NoDataError(str(error)) from error
    title = f"{run.title}: mask of {name}, seed {seed}"
    shown = mask_image.pixel_rows(masks, shape)
    return shown, lambda path: mask_image.mask_image(masks, shape, path, title)


def _overlap(run: _Run) -> _Prepared:
    pairs = {}
    for number in sorted({result.part.round for result in run.tickets()}):
        parts = [r.part for r in run.tickets() if r.part.round == number]
        if len(parts) < 2:
            continue
        pairs[number] = pairwise_overlap(
            {part.seed: read_ticket(run.folder, part).masks for part in parts}
        )
    if not pairs:
        raise _NoDataError("it takes two seeds or more")
    densities = {r["round"]: r["density"] for r in run.rows if r["branch"] == "ticket"}
    shown = csv_rows.overlap_rows(pairs, densities)
    return shown, lambda path: plots.overlap(shown, path, run.title)


def _barrier(run: _Run) -> _Prepared:
    shown = csv_rows.barrier_rows(run.results)
    if not shown:
        raise _NoDataError("no branch stability in the experiment")
    return shown, lambda path: plots.barrier(shown, path, run.title)


def _instability(run: _Run) -> _Prepared:
    shown = csv_rows.instability_rows(run.results)
    if not shown:
        raise _NoDataError("no branch stability:K in the experiment")
    return shown, lambda path: plots.instability(shown, path, run.title)


def _attacks(run: _Run) -> _Prepared:
    shown = csv_rows.attack_rows(run.results)
    if not shown:
        raise _NoDataError("no accuracy under attack was measured")
    return shown, lambda path: plots.attacks(shown, path, run.title)


def _layers(run: _Run) -> _Prepared:
    shown = [row for row in layer_rows(run.results) if row["branch"] == "ticket"]
    if not shown:
        raise _NoDataError("no round of the ticket is finished")
    return shown, lambda path: plots.layer_densities(shown, path, run.title)


FIGURES: dict[str, Callable[[_Run], _Prepared]] = {
    "accuracy": _accuracy,
    "transfer": _transfer,
    "curves": _curves,
    "movement": _movement,
    "mask": _mask,
    "overlap": _overlap,
    "barrier": _barrier,
    "instability": _instability,
    "attacks": _attacks,
    "layers": _layers,
}
