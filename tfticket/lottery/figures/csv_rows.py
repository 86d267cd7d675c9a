"""The numbers behind the figures of an experiment, as rows."""

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from tfticket.lottery.figures.tables import Row, densities_of, grouped, spread
from tfticket.lottery.results import Part, PartResult


def attack_rows(results: Sequence[PartResult]) -> list[Row]:
    """Accuracy under attack, of each branch, round and attack that was measured.

    Args:
        results: Finished parts, in any order.

    Returns:
        Rows with `branch`, `round`, `density`, `attack`, `replicates` and `accuracy`
        with its `_lowest` and `_highest`. The attack "none" is the plain test
        accuracy of the same parts.
    """
    found = []
    densities = densities_of(results)
    for (branch, round_), group in grouped(results).items():
        group = [result for result in group if result.attacks]
        names = dict.fromkeys(name for result in group for name in result.attacks)
        for attack in ("none", *names) if names else ():
            accuracies = [
                r.test.get("accuracy") if attack == "none" else r.attacks.get(attack)
                for r in group
            ]
            found.append(
                {
                    "branch": branch,
                    "round": round_,
                    "density": densities[branch, round_],
                    "attack": attack,
                    "replicates": sum(a is not None for a in accuracies),
                    **spread("accuracy", accuracies),
                }
            )
    return found


def barrier_rows(results: Sequence[PartResult]) -> list[Row]:
    """The error along the line between two trainings of a ticket, by round.

    Args:
        results: Finished parts, in any order.

    Returns:
        Rows with `round`, `density`, `replicates`, `alpha` (place on the line, 0 to 1)
        and `error` and `barrier`, each with its `_lowest` and `_highest`; the barrier
        is the same in all rows of a round.
    """
    found = []
    of_tickets = [r for r in results if r.barrier and not _step_of(r)]
    for (_, round_), group in grouped(of_tickets).items():
        barriers = spread("barrier", [r.barrier["error_barrier"] for r in group])
        for place, alpha in enumerate(group[0].barrier["alphas"]):
            found.append(
                {
                    "round": round_,
                    "density": statistics.mean(r.density for r in group),
                    "replicates": len(group),
                    "alpha": alpha,
                    **spread("error", [r.barrier["errors"][place] for r in group]),
                    **barriers,
                }
            )
    return found


def instability_rows(results: Sequence[PartResult]) -> list[Row]:
    """The error barrier of the dense network by the step that two copies part at.

    Args:
        results: Finished parts, in any order.

    Returns:
        Rows with `step`, `replicates`, and `barrier` with its `_lowest` and
        `_highest`; of the branches "stability:K", in the order of K.
    """
    groups = grouped(r for r in results if r.barrier and _step_of(r)).values()
    found = [
        {
            "step": int(_step_of(group[0])),
            "replicates": len(group),
            **spread("barrier", [r.barrier["error_barrier"] for r in group]),
        }
        for group in groups
    ]
    return sorted(found, key=lambda row: row["step"])


def _step_of(result):
    """The step K of "stability:K", as text; empty for other branches."""
    return result.part.branch.partition("stability:")[2]


def curve_rows(
    metrics: Mapping[Part, Mapping[str, Sequence[float]]],
    densities: Mapping[Part, float],
    name: str = "val_accuracy",
) -> list[Row]:
    """Learning curves: the mean over replicates at each iteration.

    Args:
        metrics: Part to the columns of its training, `iteration` among them.
        densities: Part to fraction of the weights kept.
        name: Which column.

    Returns:
        Rows with `branch`, `round`, `density`, `iteration`, and `name` with its
        `_lowest` and `_highest`.
    """
    groups: dict[tuple[str, int], list[Part]] = {}
    for part in sorted(metrics, key=lambda p: (p.branch != "ticket", p.branch, p)):
        groups.setdefault((part.branch, part.round), []).append(part)
    found = []
    for (branch, round_), parts in sorted(groups.items(), key=lambda g: g[0][1]):
        at: dict[int, list[float]] = {}
        for part in parts:
            columns = metrics[part]
            for step, value in zip(columns["iteration"], columns[name], strict=True):
                at.setdefault(int(step), []).append(value)
        density = statistics.mean(densities[part] for part in parts)
        found += [
            {
                "branch": branch,
                "round": round_,
                "density": density,
                "iteration": step,
                **spread(name, values),
            }
            for step, values in sorted(at.items())
        ]
    return found


def choose_rounds(rows: Sequence[Row], densities: Sequence[float]) -> list[int]:
    """The rounds of the ticket branch that are nearest to some densities.

    Args:
        rows: What `tfticket.lottery.figures.tables.rows` returns.
        densities: Fractions of the weights kept, above 0.

    Returns:
        Rounds, ascending, each once.

    Example:

    >>> rows = [
    ...     {"branch": "ticket", "round": r, "density": 0.8**r} for r in range(5)
    ... ]
    >>> tfticket.lottery.figures.csv_rows.choose_rounds(rows, [1.0, 0.5, 0.1, 0.01])
    [0, 3, 4]
    """
    tickets = [row for row in rows if row["branch"] == "ticket" and row["density"] > 0]
    return sorted(
        {
            min(tickets, key=lambda row: abs(math.log(row["density"] / density)))[
                "round"
            ]
            for density in densities
            if tickets
        }
    )


def movement_rows(results: Sequence[PartResult], rounds: Sequence[int]) -> list[Row]:
    """How far weights moved in training, of those pruned next and those that survive.

    Args:
        results: Finished parts, in any order.
        rounds: Rounds to give rows of.

    Returns:
        Rows with `round`, `density`, `layer`, `group` ("survive" or "pruned"), and for
        each bin of the histogram `left` and `right` (in standard deviations of the
        layer's initial weights) and `share` of the group's weights, over all
        replicates.
    """
    found = []
    for (_, round_), group in grouped(r for r in results if r.movement).items():
        if round_ not in rounds:
            continue
        density = statistics.mean(r.density for r in group)
        edges = group[0].movement["edges"]
        for layer in group[0].movement["weights"]:
            moved = [r.movement["weights"][layer] for r in group]
            for name in ("survive", "pruned"):
                row = {
                    "round": round_,
                    "density": density,
                    "layer": layer,
                    "group": name,
                }
                found += _bins(row, edges, [of[name]["histogram"] for of in moved])
    return found


def overlap_rows(
    pairs: Mapping[int, Sequence[Mapping[str, Any]]], densities: Mapping[int, float]
) -> list[Row]:
    """What the masks of two replicates share, by round and layer.

    Args:
        pairs: Round to what `pairwise_overlap` returns.
        densities: Round to fraction of the weights kept.

    Returns:
        Rows with `round`, `density`, `layer` (the whole network is "network"), `pairs`,
        `overlap` with its `_lowest` and `_highest`, `chance` and `z`, both means. The
        overlap is the share of a mask's kept weights that the other keeps, too; by
        chance it is the density.
    """
    found = []
    for round_, of in sorted(pairs.items()):
        layers = {name: [p["weights"][name] for p in of] for name in of[0]["weights"]}
        for layer, counts in {**layers, "network": [p["total"] for p in of]}.items():
            # A layer that has nothing left shares nothing.
            counts = [row for row in counts if row["kept_a"] + row["kept_b"]]
            if not counts:
                continue
            kept = [(row["kept_a"] + row["kept_b"]) / 2 for row in counts]
            shares = [r["both"] / k for r, k in zip(counts, kept, strict=True)]
            chance = [r["expected"] / k for r, k in zip(counts, kept, strict=True)]
            known = [row["z"] for row in counts if row["z"] is not None]
            found.append(
                {
                    "round": round_,
                    "density": densities[round_],
                    "layer": layer,
                    "pairs": len(counts),
                    **spread("overlap", shares),
                    "chance": statistics.mean(chance),
                    "z": statistics.mean(known) if known else None,
                }
            )
    return found


def _bins(row, edges, histograms):
    counts = [sum(column) for column in zip(*histograms, strict=True)]
    total = sum(counts)
    return [
        {**row, "left": left, "right": right, "share": count / total if total else 0.0}
        for left, right, count in zip(edges[:-1], edges[1:], counts, strict=True)
    ]
