"""Han et al.'s table of pruned and retrained networks, beside what a run came to."""

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tfticket.lottery.figures.tables import grouped, markdown
from tfticket.lottery.results import PartResult
from tfticket.tickets.rounds import percent

# Errors in %, and the weights kept of each layer in % (arXiv 1506.02626, tables 1, 3
# and 4).
PAPER: dict[str, dict[str, Any]] = {
    "lenet_300_100": {"dense": 1.64, "pruned": 1.59, "kept": (8, 9, 26)},
    "lenet_5": {"dense": 0.80, "pruned": 0.77, "kept": (66, 12, 8, 19)},
}
_RATIO = 12
_WITHIN = 0.2


def han_markdown(
    results: Sequence[PartResult], settings: Mapping[str, Any]
) -> str | None:
    """The paper's line for this network and the run's, as Markdown.

    The run's is that of the round which is nearest to a twelfth of the weights.

    Args:
        results: Finished parts.
        settings: Of the run, as `plot_run.run_settings` gives them.

    Returns:
        The table and a sentence; `None` where the run is not one of pruning and
        fine-tuning, or of a network that the paper has not.
    """
    paper = PAPER.get(settings.get("model", ""))
    if paper is None or settings.get("rewind_to", 0) is not None:
        return None
    rounds = {
        number: group
        for (branch, number), group in grouped(results).items()
        if branch == "ticket"
    }
    dense = rounds.get(0)
    pruned = {number: group for number, group in rounds.items() if number}
    if not dense or not pruned:
        return None
    number = min(pruned, key=lambda n: abs(pruned[n][0].density * _RATIO - 1))
    here = pruned[number]
    layers = here[0].layers
    lines = [
        {
            "of": "paper",
            "dense": f"{paper['dense']:.2f}",
            "pruned": f"{paper['pruned']:.2f}",
            "ratio": f"{_RATIO}x",
            **{
                name: str(kept)
                for name, kept in zip(layers, paper["kept"], strict=True)
            },
        },
        {
            "of": f"here, round {number}",
            "dense": _errors(dense),
            "pruned": _errors(here),
            "ratio": f"{1 / statistics.mean([r.density for r in here]):.1f}x",
            **{
                name: percent(
                    statistics.mean(
                        [r.layers[name][0] / r.layers[name][1] for r in here]
                    ),
                    1,
                )
                for name in layers
            },
        },
    ]
    columns = {"": "of", "error dense %": "dense", "error pruned %": "pruned"}
    columns |= {"smaller": "ratio", **{f"{name} kept %": name for name in layers}}
    change = 100 * (_mean_error(here) - _mean_error(dense))
    verdict = "reproduced" if change <= _WITHIN else "not reproduced"
    return (
        f"{markdown(lines, columns)}\n\nThe error changes by {change:+.2f} points; "
        f"within {_WITHIN} of dense at {_RATIO}x: {verdict}."
    )


def _mean_error(group):
    return statistics.mean([1 - result.test["accuracy"] for result in group])


def _errors(group):
    errors = sorted(1 - result.test["accuracy"] for result in group)
    text = percent(statistics.mean(errors))
    if len(errors) == 1:
        return text
    return f"{text} ({percent(errors[0])} to {percent(errors[-1])})"
