"""The page of open questions says what its tables hold."""

import csv
import statistics
import sys

import numpy as np
import pytest
from fixtures import pages

sys.path.insert(0, str(pages.ROOT / "benchmarks"))
import open_questions_page

PAGE = pages.ROOT / "docs" / "results" / "open_questions.md"
TABLES = open_questions_page.tables_of(PAGE)


def rows(name, moment, branch="ticket"):
    """The trainings of an experiment, by round and seed, as text."""
    with TABLES[name].open(newline="") as file:
        found = [r for r in csv.DictReader(file) if r["moment"] == moment]
    return {
        (int(row["round"]), int(row["seed"])): row
        for row in found
        if row["branch"] == branch
    }


def test_the_page_is_made_of_its_tables():
    found = open_questions_page.read(PAGE)
    text = PAGE.read_text()
    assert text == open_questions_page.page(found)
    changed = next(row for row in found["dropout"] if row["round"] == 0)
    changed["accuracy"] += 0.05
    assert text != open_questions_page.page(found)


@pytest.mark.parametrize("moment", ["early stop", "end of training"])
def test_gains_are_differences_to_each_seeds_own_dense_network(moment):
    gains = {}
    for name in ("width 1", "dropout"):
        table = rows(name, moment)
        gains[name] = {
            seed: 100 * (float(table[7, seed]["accuracy"]) - float(row["accuracy"]))
            for (number, seed), row in table.items()
            if number == 0
        }
    (line,) = (
        line
        for line in PAGE.read_text().splitlines()
        if line.startswith(f"| 21.1 | {moment} |")
    )
    for name in gains:
        assert f"{statistics.mean(gains[name].values()):+.2f} (" in line
    more = [gain - gains["width 1"][seed] for seed, gain in gains["dropout"].items()]
    assert f"| {statistics.mean(more):+.2f} (" in line


def test_networks_with_dropout_are_behind_at_every_density_of_the_table():
    for moment in ("early stop", "end of training"):
        plain, dropped = rows("width 1", moment), rows("dropout", moment)
        for number in (0, 3, 7, 9, 12):
            means = [
                statistics.mean(
                    float(row["accuracy"]) for (n, _), row in of.items() if n == number
                )
                for of in (plain, dropped)
            ]
            assert means[1] < means[0], (moment, number)


def test_tickets_of_other_widths_are_read_at_the_same_number_of_weights():
    weights = float(rows("width 1", "early stop")[9, 0]["parameters"])
    table = rows("width 2", "early stop")
    at = []
    for seed in {seed for _, seed in table}:
        of = sorted(
            (np.log(float(row["parameters"])), 100 * float(row["accuracy"]))
            for (_, other), row in table.items()
            if other == seed
        )
        at.append(np.interp(np.log(weights), *zip(*of, strict=True)))
    (line,) = (
        line
        for line in PAGE.read_text().splitlines()
        if line.startswith(f"| ticket of width 2 | {weights:,.0f} |")
    )
    assert f"| {statistics.mean(at):.2f} ± {statistics.stdev(at):.2f} (" in line
