"""Rows of results against numbers worked out by hand."""

import csv
import dataclasses
import io
import math

import pytest
from rich.console import Console

from tfticket.common import files
from tfticket.lottery import Part, PartResult
from tfticket.lottery.figures import csv_rows, tables


def result(part, density=1.0, accuracy=0.98, stop=4000, best=None, layers=None):
    measured = {"accuracy": accuracy, "loss": 0.5}
    return PartResult(
        part=part,
        density=density,
        parameters=round(1000 * density),
        layers=layers or {"fc1/kernel": [round(900 * density), 900]},
        iterations=5000,
        early_stop_iteration=stop,
        test=measured,
        early_stop_test={"accuracy": accuracy if best is None else best, "loss": 0.4},
        validation={"accuracy": accuracy, "loss": 0.75},
        early_stop_validation={"accuracy": accuracy, "loss": 0.25},
    )


def test_rows_of_hand_computed_numbers():
    results = [
        result(Part(1, "reinit", 1, 3), 0.5, 0.90, 300),
        result(Part(0, "reinit", 0, 3), 0.5, 0.96, 100),
        result(Part(0, "reinit", 1, 3), 0.5, 0.93, 200),
        result(Part(1), 1.0, 0.75, 500, best=0.5),
        result(Part(0), 1.0, 0.25, 1000, best=1.0),
        result(Part(0, round=3), 0.5),
    ]
    dense, ticket, reinit = tables.rows(results)
    assert [dense["branch"], dense["round"], dense["replicates"]] == ["ticket", 0, 2]
    assert [ticket["branch"], ticket["round"]] == ["ticket", 3]
    assert dense["test_accuracy"] == 0.5
    assert dense["test_accuracy_lowest"] == 0.25
    assert dense["test_accuracy_highest"] == 0.75
    assert dense["early_stop_accuracy"] == 0.75
    assert dense["early_stop_iteration"] == 750
    assert dense["early_stop_iteration_highest"] == 1000
    assert dense["validation_loss"] == 0.75
    assert dense["early_stop_validation_loss"] == 0.25
    assert [reinit["replicates"], reinit["seeds"]] == [3, 2]
    # The two copies of seed 0 are 0.945 on average; t(0.975, 1) is 12.706.
    assert reinit["test_accuracy_sd"] == pytest.approx(0.045 / math.sqrt(2))
    half = 12.706 * 0.045 / 2
    assert reinit["test_accuracy_low"] == pytest.approx(0.9225 - half, abs=1e-5)
    assert reinit["test_accuracy_high"] == pytest.approx(0.9225 + half, abs=1e-5)
    assert ticket["test_accuracy_sd"] is None
    assert reinit["test_accuracy"] == pytest.approx(0.9225)
    assert reinit["density:fc1/kernel"] == 0.5
    assert reinit["parameters"] == 500


def test_one_seed_counts_as_much_as_another():
    """Where one has more copies, as in a run that is not finished."""
    parts = [
        result(Part(0, "reinit", copy, 1), accuracy=accuracy)
        for copy, accuracy in enumerate([0.90, 0.92])
    ]
    (row,) = tables.rows([*parts, result(Part(1, "reinit", 0, 1), accuracy=0.97)])
    assert row["test_accuracy"] == pytest.approx((0.91 + 0.97) / 2)
    assert row["test_accuracy_low"] < row["test_accuracy"] < row["test_accuracy_high"]
    middle = (row["test_accuracy_low"] + row["test_accuracy_high"]) / 2
    assert middle == pytest.approx(row["test_accuracy"])


def test_densities_of_layers():
    two = {"fc1/kernel": [10, 100], "fc/kernel": [5, 10]}
    more = {"fc1/kernel": [20, 100], "fc/kernel": [5, 10]}
    parts = [result(Part(seed, round=1), layers=k) for seed, k in [(0, two), (1, more)]]
    first, last = tables.layer_rows(parts)
    assert [first["layer"], last["layer"]] == ["fc1/kernel", "fc/kernel"]
    assert first["kept"] == 15
    assert first["weights"] == 100
    assert first["layer_density"] == pytest.approx(0.15)
    assert last["layer_density"] == 0.5


def test_a_loss_that_is_not_a_number_is_seen():
    bad = dataclasses.replace(result(Part(1)), validation={"loss": math.nan})
    (row,) = tables.rows([result(Part(0)), bad])
    assert math.isnan(row["validation_loss_lowest"])
    assert row["test_accuracy"] == 0.98
    bare = dataclasses.replace(result(Part(0)), validation={})
    assert tables.rows([bare])[0]["validation_loss"] is None


def test_no_results_are_no_rows(tmp_path):
    assert tables.rows([]) == []
    assert tables.dense_row([]) is None
    assert tables.row_at([], "ticket", 1.0) is None
    assert csv_rows.choose_rounds([], [1.0]) == []
    files.write_csv([], tmp_path / "none.csv")
    assert (tmp_path / "none.csv").read_text().strip() == ""


def test_row_at_takes_the_rounding_of_small_networks_but_no_other_round():
    rows = tables.rows([result(Part(0, round=r), 0.81**r) for r in range(8)])
    assert tables.row_at(rows, "ticket", 0.53)["round"] == 3
    assert tables.row_at(rows, "ticket", 0.6) is None
    assert tables.row_at(rows, "reinit", 0.53) is None


def test_csv_round_trip(tmp_path):
    rows = tables.rows([result(Part(0), accuracy=1 / 3), result(Part(0, "noise:0.5"))])
    rows[1]["more"] = None
    files.write_csv(rows, tmp_path / "rows.csv")
    with open(tmp_path / "rows.csv", newline="") as file:
        read = list(csv.DictReader(file))
    for row, back in zip(rows, read, strict=True):
        for key, value in row.items():
            if value is None:
                assert back[key] == ""
            else:
                assert type(value)(back[key]) == value


def test_markdown():
    table = [{"a": "x|y", "n": 1}, {"a": None, "n": 2.5}]
    text = tables.markdown(table, {"a": "a", "number": lambda row: f"{row['n']}"})
    assert text.splitlines() == [
        "| a | number |",
        "| --- | ---: |",
        "| x\\|y | 1 |",
        "| - | 2.5 |",
    ]
    assert tables.markdown([], {"a": "a"}) == "| a |\n| --- |"
    with pytest.raises(ValueError, match="one column or more"):
        tables.markdown(table, {})


def test_printed_table():
    table = tables.as_rich(
        tables.rows([result(Part(0)), result(Part(1), accuracy=0.97, stop=2000)])
    )
    console = Console(file=io.StringIO(), width=120)
    console.print(table)
    text = console.file.getvalue()
    assert "97.50±0.71 91.15-103.85" in text
    assert "3,000±1,414 -9,706-15,706" in text
