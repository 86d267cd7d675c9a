"""Han et al.'s table of pruned and retrained networks, beside a run's results."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tfticket.lottery.figures.tables import WIDE, markdown, summary, values_by_seed
from tfticket.lottery.figures.trainings import END, LAYER, Row
from tfticket.lottery.measures.intervals import Region
from tfticket.lottery.paper.claims import (
    Claim,
    accuracy_points,
    judged,
    setting_differences,
)
from tfticket.tickets.rounds import percent

# Errors in %, and the weights kept of each layer in % (arXiv 1506.02626, tables 1, 3
# and 4).
PAPER: dict[str, dict[str, Any]] = {
    "lenet_300_100": {"dense": 1.64, "pruned": 1.59, "kept": (8, 9, 26)},
    "lenet_5": {"dense": 0.80, "pruned": 0.77, "kept": (66, 12, 8, 19)},
}
# What the paper says of its recipe, as settings of a run.
_SETTINGS = {
    "dataset": "mnist",
    "width": 1.0,
    "augment": False,
    "scope": "sensitivity",
    "criterion": "magnitude",
    "rewind_to": None,
    "retrain_factor": 0.1,
}
_REGULARISED = "the paper's tables are with L2 regularisation"
_RATIO = 12
_CLAIM = (
    "12 times smaller without loss of accuracy: the error rises by no more than 0.2 "
    "points"
)


def han_settings(settings: Mapping[str, Any]) -> bool:
    """Whether a run is of this paper's kind: pruned and fine-tuned, not rewound.

    Args:
        settings: Settings of the run, as `run_settings` gives them.
    """
    return settings.get("rewind_to", 0) is None


def han_differences(settings: Mapping[str, Any]) -> list[str]:
    """What of a run's settings is not as the paper says of its own, a phrase each.

    Args:
        settings: Settings of the run, as `run_settings` gives them.
    """
    found = setting_differences(settings, _SETTINGS)
    if not settings.get("l2"):
        # What Keras calls weight decay is decoupled from the gradient.
        kind = "decoupled" if settings.get("weight_decay") else "no"
        found.append(f"{kind} weight decay, {_REGULARISED}")
    return found


def han_markdown(trained: Sequence[Row], settings: Mapping[str, Any]) -> str | None:
    """The paper's line for this network and the run's, as Markdown.

    The run's is that of the round which is nearest to a twelfth of the weights.

    Args:
        trained: What `tfticket.lottery.figures.trainings.trainings` returns.
        settings: Settings of the run, as `run_settings` gives them.

    Returns:
        The table; `None` where the run is not one of pruning and fine-tuning, or of a
        network that the paper has not.
    """
    paper, pair = PAPER.get(settings.get("model", "")), _pair(trained, settings)
    if paper is None or pair is None:
        return None
    dense, here = pair
    layers = [name for name in here if name.startswith(LAYER)]
    lines = [
        {
            "of": "paper",
            "dense": f"{paper['dense']:.2f}",
            "pruned": f"{paper['pruned']:.2f}",
            "ratio": f"{_RATIO}x",
            **{
                name: str(kept)
                for name, kept in zip(layers, paper["kept"], strict=False)
            },
        },
        {
            "of": f"here, round {here['round']}",
            "dense": _error(dense),
            "pruned": _error(here),
            "ratio": f"{1 / here['density']:.1f}x",
            **{name: percent(here[name], 1) for name in layers},
        },
    ]
    columns = {"": "of", "error dense %": "dense", "error pruned %": "pruned"}
    columns |= {"smaller": "ratio"}
    columns |= {f"{name.removeprefix(LAYER)} kept %": name for name in layers}
    return markdown(lines, columns)


def check(
    trained: Sequence[Row], settings: Mapping[str, Any], judge: bool = True
) -> list[Claim]:
    """Judges the paper's claim on a network that is 12 times smaller.

    Args:
        trained: As for `han_markdown`.
        settings: As for `han_markdown`.
        judge: Whether to give a verdict: only where `han_differences` finds none.

    Returns:
        The one claim; none where `han_markdown` has no table.
    """
    pair = _pair(trained, settings)
    if settings.get("model") not in PAPER or pair is None:
        return []
    ended = [r for r in trained if r["branch"] == "ticket" and r["moment"] == END]
    dense, here = (
        values_by_seed([r for r in ended if r["round"] == row["round"]], "accuracy")
        for row in pair
    )
    if not dense or not here:
        return [Claim(_CLAIM, "", "no accuracy at the end of training was kept", None)]
    region = Region(low=-0.2, closed=True)
    # Accuracies, whose difference is that of the errors with the sign turned.
    found = judged(_CLAIM, END, [accuracy_points(here, dense, region, "accuracy ")])
    return [found if judge else dataclasses.replace(found, verdict=None)]


def _pair(trained, settings):
    """The rows of the dense network and of the one nearest to a twelfth, or `None`."""
    if not han_settings(settings):
        return None
    rounds = {r["round"]: r for r in summary(trained) if r["branch"] == "ticket"}
    dense = rounds.pop(0, None)
    if dense is None or not rounds:
        return None
    return dense, min(rounds.values(), key=lambda r: abs(r["density"] * _RATIO - 1))


def _error(row):
    """As `accuracy_cell`, of the error."""
    name = "test_accuracy"
    if row[name] is None:
        return "-"
    mean = percent(1 - row[name])
    if row[f"{name}_sd"] is None:
        return mean
    low, high = (percent(1 - row[f"{name}_{end}"]) for end in ("high", "low"))
    return WIDE.format(mean, percent(row[f"{name}_sd"]), low, high)
