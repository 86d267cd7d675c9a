"""The page of dynamic sparse training says what its tables hold."""

import csv
import statistics
import sys

import pytest
from fixtures import pages

sys.path.insert(0, str(pages.ROOT / "benchmarks"))
import dynamic_page

RESULTS = pages.ROOT / "docs" / "results"
TIMED = RESULTS / "dynamic_time.csv"


TABLES = ("dynamic.csv", "dynamic_cifar10.csv")


def rows(name):
    with (RESULTS / name).open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_is_made_of_its_tables():
    tables = [dynamic_page.read(RESULTS / name) for name in TABLES]
    text = (RESULTS / "dynamic.md").read_text()
    assert text == dynamic_page.page(*tables, TIMED)
    for table, sparsity in zip(tables, (0.98, 0.8), strict=True):
        of = table["RigL", sparsity]
        seed = next(iter(of))
        accuracy, flops = of[seed]
        of[seed] = accuracy + 5, flops
        assert text != dynamic_page.page(*tables, TIMED)
        of[seed] = accuracy, flops


@pytest.mark.parametrize("name", TABLES)
def test_no_training_is_there_twice_and_means_are_of_all(name):
    table = rows(name)
    keys = [(row["method"], row["sparsity"], row["seed"]) for row in table]
    assert len(set(keys)) == len(keys)
    page = (RESULTS / "dynamic.md").read_text()
    for method, sparsity in {key[:2] for key in keys}:
        of = [
            100 * float(row["accuracy"])
            for row in table
            if (row["method"], row["sparsity"]) == (method, sparsity)
        ]
        assert f"{statistics.mean(of):.2f} (" in page


def test_operations_are_those_of_the_methods():
    """By hand: two passes with what is kept, one with what gets a gradient."""
    updates, steps, batch, images = 89, 12_000, 60, 240
    small = {0.98: (7, 2), 0.99: (3, 1), 0.995: (2, 1)}
    rounds = {0.98: 6, 0.99: 7, 0.995: 8}
    for row in rows("dynamic.csv"):
        sparsity = float(row["sparsity"])
        density = 1 - sparsity
        first, second = small.get(sparsity, (300, 100))
        expected = {
            "dense": 1,
            "static": density,
            "Sign-In": density,
            "SET": density,
            "small dense": (784 * first + first * second + 10 * second) / 266_200,
            # One dense training, then each with half of the weights.
            "ticket": 1 + sum(density * 2**n for n in range(rounds.get(sparsity, 0))),
            "STE": (2 * density + 1) / 3,
            "Top-KAST": (2 * density + 5 * density) / 3,
            # 1,000 dense, then by turns; sparse from 9,000 on.
            "AC/DC": (5_000 + 7_000 * density) / steps,
            "RigL": density
            + updates * images * (2 * density + 1) / (3 * steps * batch),
        }
        if row["method"] in expected:
            found = pytest.approx(expected[row["method"]], rel=0.03)
            assert float(row["flops"]) == found, row


def test_the_front_is_of_those_that_none_beats():
    means = {"a": (0.1, 90.0), "b": (0.2, 89.0), "c": (0.2, 95.0), "d": (1.0, 94.0)}
    assert dynamic_page.front(means) == ["a", "c"]
