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


@pytest.fixture
def rows():
    with (RESULTS / "dynamic.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_the_page_is_made_of_its_tables():
    found = dynamic_page.read(RESULTS / "dynamic.csv")
    text = (RESULTS / "dynamic.md").read_text()
    assert text == dynamic_page.page(found, TIMED)
    of = found["RigL", 0.98]
    seed = next(iter(of))
    of[seed] = of[seed][0] + 5, of[seed][1]
    assert text != dynamic_page.page(found, TIMED)


def test_no_training_is_there_twice_and_means_are_of_all(rows):
    keys = [(row["method"], row["sparsity"], row["seed"]) for row in rows]
    assert len(set(keys)) == len(keys)
    page = (RESULTS / "dynamic.md").read_text()
    for method in {row["method"] for row in rows}:
        for sparsity in ("0.98", "0.99", "0.995"):
            of = [
                100 * float(row["accuracy"])
                for row in rows
                if row["method"] == method and row["sparsity"] in (sparsity, "0.0")
            ]
            assert not of or f"{statistics.mean(of):.2f} (" in page


def test_operations_are_those_of_the_methods(rows):
    """By hand: two passes with what is kept, one with what gets a gradient."""
    updates, steps, batch, images = 89, 12_000, 60, 240
    for row in rows:
        density = 1 - float(row["sparsity"])
        expected = {
            "dense": 1,
            "static": density,
            "SET": density,
            "small dense": density,
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
