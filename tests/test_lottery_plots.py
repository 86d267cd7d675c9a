"""Figures and page of a run, made from a folder of invented results."""

import collections
import csv
import dataclasses
import io
import itertools
import json
import math
import pathlib
import re
import statistics
import subprocess
import sys

import keras
import numpy as np
import pytest
from rich.console import Console

import tfticket
from tfticket.lottery import Part, PartResult
from tfticket.lottery.engine.run_folder import LotteryFolder, read_results
from tfticket.lottery.figures import (
    captions,
    comparison,
    csv_rows,
    mask_image,
    plots,
    tables,
    trainings,
)
from tfticket.lottery.figures.run import FIGURES, plot_run
from tfticket.lottery.measures.movement import movement
from tfticket.lottery.measures.overlap import pairwise_overlap
from tfticket.lottery.paper import page
from tfticket.tickets import pictures
from tfticket_cli import main, plot

SCRIPTS = pathlib.Path(__file__).parents[1] / "scripts"


def made_run(
    path, seeds=(0, 1), rounds=16, units=6, size=8, extras=True, identity=None
):
    """Writes what an experiment would: results shaped like those of the paper."""
    keras.utils.set_random_seed(0)
    model = tfticket.prune(
        keras.Sequential(
            [
                keras.Input((size, size, 1)),
                keras.layers.Flatten(),
                keras.layers.Dense(units, name="fc1"),
                keras.layers.Dense(10, name="fc"),
            ]
        )
    )
    full = tfticket.Ticket.from_model(model)
    folder = LotteryFolder(path)
    recipe = {"dataset": "mnist", "model": "lenet_300_100", "iterations": 5000}
    recipe["width"] = 1.0  # as by default, so that no identity has it
    about = {"recipe": recipe, "seeds": list(seeds)}
    with folder.opened({"identity": identity or {}}, about):
        pass
    random = np.random.default_rng(0)
    branches = ["ticket", "reinit", "noise:0.5", "stability"] if extras else ["ticket"]
    for seed in seeds:
        for round_ in range(rounds + 1):
            for branch in branches if round_ else ["ticket"]:
                for copy in range(3 if branch == "reinit" else 1):
                    part = Part(seed, branch, copy, round_)
                    finish(folder, full, part, random, extras)
    return folder.path


def finish(folder, full, part, random, extras):
    rates = {"fc1/kernel": 0.8, "fc/kernel": 0.9}
    size = int(math.sqrt(full.masks["fc1/kernel"].shape[0]))
    rows = np.arange(size) - (size - 1) / 2
    centre = np.exp(-(rows[:, None] ** 2 + rows**2) / size).reshape(-1, 1)
    masks = {}
    for name, mask in full.masks.items():
        score = random.random(mask.shape) + (2 * centre if "fc1" in name else 0)
        keep = round(mask.size * rates[name] ** part.round)
        masks[name] = score >= np.sort(score, axis=None)[mask.size - keep]
    ticket = tfticket.Ticket(masks, full.weights, full.provenance)
    layers = {name: [int(m.sum()), m.size] for name, m in masks.items()}
    height = math.log(ticket.density) / math.log(0.135)  # 1 at 13.5 %
    top = 0.978 + 0.005 * math.exp(-((height - 1) ** 2) / 0.3)
    stop = 3800 - 1500 * math.exp(-((height - 0.8) ** 2) / 0.3)
    if part.branch == "reinit":
        top, stop = 0.978 - 0.008 * height**2, 3800 + 1100 * height
    accuracy = float(top + random.normal(0, 0.0008))
    steps = [100 * (i + 1) for i in range(50)]
    values = [
        accuracy - 0.12 * math.exp(-s / stop * 9) + random.normal(0, 5e-4)
        for s in steps
    ]
    test = {"accuracy": accuracy, "loss": 0.08}
    more = {}
    if extras and part.branch in ("ticket", "reinit"):
        more["attacks"] = {"fgsm:0.1": accuracy - 0.3, "pgd:0.1": accuracy - 0.5}
    if extras and part.branch == "ticket":
        initial = {k: v for k, v in full.weights.items() if k in masks}
        moved = {
            k: v + random.normal(0, 0.1, v.shape) + 0.1 * np.sign(v)
            for k, v in initial.items()
        }
        kept = {k: m & (np.abs(moved[k]) > 0.1) for k, m in masks.items()}
        more["movement"] = movement(initial, moved, masks, kept)
    if part.branch == "stability":
        alphas = [i / 10 for i in range(11)]
        errors = [0.02 + 0.2 * a * (1 - a) / (1 + part.round) for a in alphas]
        more["barrier"] = {
            "alphas": alphas,
            "errors": errors,
            "error_barrier": max(errors) - 0.02,
        }
    result = PartResult(
        part,
        ticket.density,
        sum(kept for kept, _ in layers.values()),
        layers,
        5000,
        round(stop + random.normal(0, 150)),
        test,
        {**test, "accuracy": accuracy + 0.0005},
        test,
        test,
        seconds={"train": 30.0, "between": 2.0},
        versions={"keras": "3.15", "tfticket": "0"},
        **more,
    )
    columns = {"iteration": steps, "val_accuracy": values}
    folder.finish(result, {"ticket.npz": ticket}, columns, [])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return made_run(tmp_path_factory.mktemp("runs") / "run", rounds=4)


@pytest.fixture(scope="module")
def results(run):
    return read_results(run)


@pytest.fixture(scope="module")
def drawn(run):
    return plot_run(run)


@pytest.fixture(scope="module")
def bare(tmp_path_factory):
    """A run of which nothing was measured that need not be."""
    path = tmp_path_factory.mktemp("runs") / "bare"
    return made_run(path, seeds=(3,), rounds=1, extras=False)


def labels(axes):
    return [line.get_label() for line in axes.containers]


def test_accuracy_has_a_line_a_branch_and_the_dense_network_dashed(results):
    rows = tables.rows(results)
    figure = plots.accuracy(rows, title="title")
    assert len(figure.axes) == 3
    for axes in figure.axes:
        want = ["winning ticket", "noise 0.5", "re-initialised", "stability"]
        assert labels(axes) == want
        assert axes.xaxis_inverted()
        assert axes.get_xscale() == "log"
        (dashed,) = [line for line in axes.lines if line.get_label() == "dense"]
        assert dashed.get_linestyle() == "--"
    ticket = figure.axes[0].containers[0]
    line, _, (bars,) = ticket
    dense = tables.dense_row(rows)
    assert line.get_xdata()[0] == 100
    assert line.get_ydata()[0] == pytest.approx(100 * dense["early_stop_accuracy"])
    low, high = bars.get_segments()[0][:, 1]
    assert low == pytest.approx(100 * dense["early_stop_accuracy_lowest"])
    assert high == pytest.approx(100 * dense["early_stop_accuracy_highest"])


def test_a_control_that_fails_does_not_squash_the_rest(results):
    rows = tables.rows(results)
    assert plots.accuracy(rows).axes[0].get_title(loc="right") == ""
    rows[-1] |= dict.fromkeys([k for k in rows[-1] if "accuracy" in k], 0.1)
    axes = plots.accuracy(rows).axes[0]
    assert axes.get_ylim()[0] == pytest.approx(94.8, abs=0.2)
    assert axes.get_ylim()[1] < 99
    assert axes.get_title(loc="right") == "lower values not shown"


def test_ticks_do_not_touch(results):
    rows = [
        {**tables.rows(results)[0], "round": r, "density": 0.8**r} for r in range(30)
    ]
    figure = plots.accuracy(rows)
    figure.draw_without_rendering()
    for axes in figure.axes:
        ticks = axes.get_xticks()
        assert ticks[0] == 100
        assert len(ticks) >= 7
        boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
        boxes.sort(key=lambda box: box.x0)
        assert all(a.x1 < b.x0 for a, b in itertools.pairwise(boxes))


@pytest.mark.parametrize("densities", [(1.0, 0.8), (1.0, 0.51), (0.02, 0.015)])
def test_two_densities_give_three_ticks(results, densities):
    rows = [
        {**tables.rows(results)[0], "round": n, "density": d}
        for n, d in enumerate(densities)
    ]
    for axes in plots.accuracy(rows).axes:
        ticks = axes.get_xticks()
        assert len(ticks) >= 3
        assert all(100 * densities[1] <= t <= 100 * densities[0] for t in ticks)


def test_a_narrow_log_axis_has_three_ticks(results):
    rows = tables.layer_rows(results)
    for row in rows:
        row |= {"density": 0.3, "layer_density": 0.31}
    (axes,) = plots.layer_densities(rows).axes
    low, high = axes.get_ylim()
    assert sum(low <= tick <= high for tick in axes.get_yticks()) >= 3


def test_a_phone_can_show_every_figure(results):
    rows = tables.rows(results)
    for figure in (
        plots.accuracy(rows),
        plots.barrier(csv_rows.barrier_rows(results)),
        plots.attacks(csv_rows.attack_rows(results)),
    ):
        # Of 7 inches, 390 pixels make letters of 10 points 8 pixels high.
        assert figure.get_figwidth() <= 7
        figure.draw_without_rendering()
        left = {round(axes.get_position().x0, 2) for axes in figure.axes}
        assert max(left) - min(left) < 0.1


def test_learning_curves(results):
    part = [r.part for r in results if r.part.branch in ("ticket", "reinit")]
    columns = {"iteration": [10, 20, 30], "val_accuracy": [0.9, 0.95, 0.97]}
    lower = {**columns, "val_accuracy": [0.8, 0.85, 0.87]}
    metrics = {p: lower if p.seed else columns for p in part if p.round in (0, 3)}
    rows = csv_rows.curve_rows(metrics, dict.fromkeys(part, 0.5))
    assert [row["branch"] for row in rows[::3]] == ["ticket", "ticket", "reinit"]
    assert rows[0]["val_accuracy"] == pytest.approx(0.85)
    assert rows[0]["val_accuracy_lowest"] == 0.8
    whole = plots.learning_curves(rows)
    assert len(whole.axes) == 1
    # Two densities, one of them re-initialised, and the legend's dashed line.
    assert [line.get_linestyle() for line in whole.axes[0].lines] == [*"--", "--", "--"]
    begin, whole = plots.learning_curves(rows, until=20).axes
    assert list(begin.lines[0].get_xdata()) == [10, 20]
    assert list(whole.lines[0].get_xdata()) == [10, 20, 30]


def test_movement(results):
    rows = csv_rows.movement_rows(results, [0, 2])
    assert {row["round"] for row in rows} == {0, 2}
    share = sum(
        row["share"]
        for row in rows
        if (row["round"], row["layer"], row["group"]) == (0, "fc1/kernel", "pruned")
    )
    assert share == pytest.approx(1)
    figure = plots.movement(rows)
    assert len(figure.axes) == 4
    assert figure.axes[0].get_title() == "fc1/kernel, 100 %"


def test_pixel_counts_of_channels():
    mask = np.zeros((2 * 3 * 2, 5), bool)
    mask[3, :4] = True  # row 0, column 1, channel 1
    mask[10:12, 0] = True  # row 1, column 2, both channels
    assert mask_image.pixel_counts(mask, (2, 3, 2)).tolist() == [[0, 4, 0], [0, 0, 2]]
    rows = mask_image.pixel_rows({7: mask}, (2, 3, 2))
    assert rows[1] == {"round": 7, "row": 0, "column": 1, "kept": 4}
    assert len(rows) == 6
    figure = mask_image.mask_image({0: mask, 7: mask}, (2, 3, 2))
    images = [axes for axes in figure.axes if axes.get_label() != "<colorbar>"]
    assert len(images) == 4
    assert images[1].images[0].get_array().shape == (5, 12)
    with pytest.raises(ValueError, match="one round or more"):
        mask_image.mask_image({}, (2, 2))


@pytest.mark.parametrize(
    ("shape", "image", "message"),
    [
        ((12, 5), (3, 3), r"image_shape=\(3, 3\) has 9 values, and the mask of shape"),
        ((12,), (3, 4), r"matrix.*shape \(12,\)"),
        ((12, 5), (12,), r"image_shape must be \(height, width\)"),
    ],
)
def test_a_mask_that_is_not_of_the_image_is_refused(shape, image, message):
    with pytest.raises(ValueError, match=message):
        mask_image.pixel_counts(np.ones(shape, bool), image)


def test_the_first_dense_layer_of_pixels_is_found():
    shape = (28, 28, 1)
    for name, want in [("lenet_300_100", ("fc1/kernel", shape)), ("lenet_5", None)]:
        model = tfticket.models.build(name, shape, 10)
        config = tfticket.tickets.ticket.plain_config(model)
        if want is None:
            with pytest.raises(ValueError, match="not of pixels"):
                mask_image.flattened_input(config)
        else:
            assert mask_image.flattened_input(config) == want


def test_overlap_and_chance():
    a, b = np.arange(10) < 4, (np.arange(10) >= 2) & (np.arange(10) < 6)
    pairs = {3: pairwise_overlap({0: {"k": a}, 1: {"k": b}})}
    rows = csv_rows.overlap_rows(pairs, {3: 0.4})
    assert [row["layer"] for row in rows] == ["k", "network"]
    assert rows[0]["overlap"] == 0.5
    assert rows[0]["chance"] == pytest.approx(0.4)
    (axes,) = plots.overlap(rows).axes
    assert labels(axes) == ["k", "network"]
    assert sum(line.get_linestyle() == ":" for line in axes.lines) == 3


def test_barrier(results):
    rows = csv_rows.barrier_rows(results)
    assert len(rows) == 4 * 11
    assert rows[5]["error"] == pytest.approx(0.02 + 0.05 / 2)
    assert rows[5]["barrier"] == pytest.approx(0.05 / 2)
    left, right = plots.barrier(rows).axes
    assert len(left.lines) == 4
    assert right.containers[0][0].get_ydata()[0] == pytest.approx(2.5)


def test_instability_of_the_dense_network(results):
    def of(seed, step, height):
        barrier = {"alphas": [0, 1], "errors": [0, 0], "error_barrier": height}
        part = Part(seed, f"stability:{step}")
        return dataclasses.replace(results[0], part=part, barrier=barrier)

    steps = [of(0, 500, 0.01), of(1, 500, 0.03), of(0, 0, 0.2), of(1, 2000, 0.0)]
    rows = csv_rows.instability_rows([*results, *steps])
    assert [(row["step"], row["replicates"]) for row in rows] == [
        *((0, 1), (500, 2), (2000, 1)),
    ]
    assert rows[1]["barrier"] == pytest.approx(0.02)
    assert rows[1]["barrier_highest"] == 0.03
    assert csv_rows.barrier_rows([*results, *steps]) == csv_rows.barrier_rows(results)
    (axes,) = plots.instability(rows).axes
    drawn = axes.containers[0][0]
    assert drawn.get_xdata().tolist() == [0, 500, 2000]
    assert drawn.get_ydata() == pytest.approx([20, 2, 0])
    # The barrier of what is called stable, 2 points.
    assert [2.0, 2.0] in [list(line.get_ydata()) for line in axes.lines]


def test_attacks_and_layers(results):
    rows = csv_rows.attack_rows(results)
    assert {row["attack"] for row in rows} == {"none", "fgsm:0.1", "pgd:0.1"}
    figure = plots.attacks(rows)
    assert [axes.get_title() for axes in figure.axes] == [
        "no attack",
        "FGSM, pixels by 0.1",
        "PGD, pixels by 0.1",
    ]
    assert labels(figure.axes[0]) == ["winning ticket", "re-initialised"]
    (axes,) = plots.layer_densities(tables.layer_rows(results)).axes
    names = [line.get_label() for line in axes.lines]
    assert names == ["fc1/kernel", "fc/kernel", "network"]


def test_everything_of_a_run_is_drawn_with_its_numbers(run, drawn):
    assert drawn.skipped == {
        "transfer": "no branch transfer:NAME in the experiment",
        "instability": "no branch stability:K in the experiment",
    }
    assert len(drawn.written) == 8
    for path in drawn.written.values():
        assert path.parent == run / "plots"
        assert path.read_bytes().startswith(b"\x89PNG")
        with open(path.with_suffix(".csv"), newline="") as file:
            assert list(csv.DictReader(file))
    with open(run / "plots" / "accuracy.csv", newline="") as file:
        assert {row["branch"] for row in csv.DictReader(file)} == {
            "ticket",
            "reinit",
            "noise:0.5",
        }


def test_what_lacks_data_is_not_drawn_and_said(bare, tmp_path):
    drawn = plot_run(bare, tmp_path / "out", rounds=[1], numbers=False)
    assert set(drawn.written) == {"accuracy", "curves", "mask", "layers"}
    assert drawn.skipped["overlap"] == "it takes two seeds or more"
    assert "movement" in drawn.skipped["movement"]
    assert not list((tmp_path / "out").glob("*.csv"))
    with pytest.raises(ValueError, match=r"those finished, \[0, 1\]. Received: \[9\]"):
        plot_run(bare, tmp_path / "out", rounds=[9])


def test_figures_for_papers(bare, tmp_path):
    kinds = {"svg": b"<?xml", "pdf": b"%PDF", "png": b"\x89PNG"}
    out = tmp_path / "out"
    drawn = plot_run(bare, out, rounds=[1], numbers=False, formats=list(kinds))
    assert drawn.written["layers"] == out / "layers.svg"
    for kind, begin in kinds.items():
        assert (out / f"layers.{kind}").read_bytes().startswith(begin)
    again = plot_run(bare, tmp_path / "again", [1], numbers=False, formats=["svg"])
    # Neither a date nor random names.
    assert again.written["mask"].read_bytes() == (out / "mask.svg").read_bytes()
    assert not (tmp_path / "again" / "layers.png").exists()
    for wrong in ([], ["gif"], ["png", "PDF"], [["png"]]):
        with pytest.raises(ValueError, match=r"formats must be .*'png', 'svg', 'pdf'"):
            plot_run(bare, out, formats=wrong)
    assert tuple(pictures.FORMATS) == plot._FORMATS


def test_every_figure_has_its_caption(run, drawn):
    text = (run / "plots" / "captions.md").read_text()
    assert re.findall(r"^\*\*(\w+)\*\*: ", text, re.M) == list(drawn.written)
    (first,) = [line for line in text.splitlines() if line.startswith("**accuracy")]
    assert "over 2 seeds. Bars go from the lowest to the highest training." in first
    assert set(captions._CAPTIONS) == {*FIGURES, "comparison"}


def test_bars_are_intervals_of_three_seeds(tmp_path):
    path = made_run(tmp_path / "run", seeds=(0, 1, 2), rounds=2, extras=False)
    rows = tables.rows(read_results(path))
    values = [
        r.test["accuracy"] for r in read_results(path) if r.part == Part(r.part.seed)
    ]
    half = 4.302653 * np.std(values, ddof=1) / np.sqrt(3)  # Student's t, 2 degrees
    _, _, (bars,) = plots.accuracy(rows).axes[1].containers[0]
    low, high = bars.get_segments()[0][:, 1]
    assert high - low == pytest.approx(200 * half, rel=1e-5)
    assert captions.caption("accuracy", rows).endswith("the mean by Student's t.")
    one = {**rows[0], "seeds": 1, "replicates": 1}
    assert captions.caption("accuracy", [one]).endswith(" There is one seed.")
    copies = captions.caption("accuracy", [{**one, "replicates": 3}])
    assert "over its copies. Bars go from the lowest" in copies
    # A measure that two seeds lack has no interval, and none is drawn.
    few = [{**rows[0], "early_stop_iteration_low": None}, *rows[1:]]
    assert captions.bar_ends(few) == ("lowest", "highest")
    plots.accuracy(few)
    assert "over 1 to 3 seeds" in captions.caption(
        "accuracy", [*rows, {**rows[0], "seeds": 1}]
    )


class TestComparison:
    @pytest.fixture(scope="class")
    def widths(self, tmp_path_factory):
        path = tmp_path_factory.mktemp("runs")
        return [
            made_run(
                path / f"run_{units}",
                seeds=(0, 1),
                rounds=2,
                units=units,
                extras=units == 6,
                identity={} if units == 6 else {"width": units / 6},
            )
            for units in (6, 12)
        ]

    def test_one_table_and_one_figure(self, widths, tmp_path):
        rows = tfticket.lottery.compare_runs(
            widths, tmp_path, x="parameters", formats=["png", "pdf"]
        )
        assert {row["run"] for row in rows} == {"width=1.0", "width=2.0"}
        for label, folder in zip(("width=1.0", "width=2.0"), widths, strict=True):
            mine = [{k: v for k, v in r.items() if k != "run"} for r in rows]
            mine = [r for r, row in zip(mine, rows, strict=True) if row["run"] == label]
            assert mine == tables.rows(read_results(folder))
        with open(tmp_path / "comparison.csv", newline="") as file:
            assert len(list(csv.DictReader(file))) == len(rows)
        assert (tmp_path / "comparison.png").exists()
        assert (tmp_path / "comparison.pdf").exists()
        assert "2 seeds" in (tmp_path / "captions.md").read_text()
        console = Console(file=io.StringIO(), width=120)
        console.print(tables.as_rich(rows))
        assert "width=2.0" in console.file.getvalue()

    def test_lines(self, widths):
        rows = comparison.compared_rows({"small": widths[0], "large": widths[1]})
        figure = plots.comparison(rows, x="parameters")
        axes = figure.axes[0]
        assert labels(axes) == [
            *("small, winning ticket", "small, noise 0.5", "small, re-initialised"),
            *("small, stability", "large, winning ticket"),
        ]
        small, large = axes.containers[0], axes.containers[-1]
        counts = [r["parameters"] for r in rows if r["run"] == "large"]
        assert list(large[0].get_xdata()) == counts
        assert small[0].get_color() != large[0].get_color()
        assert small[0].get_linestyle() == large[0].get_linestyle() == "-"
        assert axes.containers[1][0].get_linestyle() == "--"
        assert len(axes.get_xticks()) >= 3
        assert axes.xaxis_inverted()
        tickets = [row for row in rows if row["branch"] == "ticket"]
        assert labels(plots.comparison(tickets).axes[0]) == ["small", "large"]

    def test_what_cannot_be_compared_is_refused(self, widths, bare, tmp_path):
        def refused(match, runs, error=ValueError, **more):
            with pytest.raises(error, match=match):
                tfticket.lottery.compare_runs(runs, tmp_path / "out", **more)
            assert not (tmp_path / "out").exists()

        refused("two folders or more", widths[:1])
        refused("two folders or more", {})
        refused("must be different ones", [widths[0], widths[0].parent / "run_6"])
        refused("runs must be a list of folders", str(widths[0]), TypeError)
        refused("runs must be", {1: widths[0], "b": bare}, TypeError)
        refused("not the folder of a run", {"a": widths[0], "b": tmp_path})
        refused("x must be one of", widths, x="weights")
        refused("formats must be one or more", widths, formats=["gif"])
        with LotteryFolder(tmp_path / "run").opened({"identity": {}}):
            pass
        refused("no finished training yet", [widths[1], tmp_path / "run"])
        labels_ = {"a": widths[0], "b": bare}
        assert tfticket.lottery.compare_runs(labels_, tmp_path / "out")

    def test_runs_of_one_recipe_are_told_apart_by_their_folders(self, widths, bare):
        rows = comparison.compared_rows([widths[0], bare])
        assert {row["run"] for row in rows} == {str(widths[0]), str(bare)}
        rows = comparison.compared_rows([widths[0], bare, widths[1]])
        assert {row["run"] for row in rows} == {
            *(f"width=1.0 ({folder})" for folder in (widths[0], bare)),
            "width=2.0",
        }

    @pytest.mark.slow
    def test_runs_of_find_are_told_apart_by_their_settings(self, tmp_path):
        for rate in (0.2, 0.4):
            asked = tfticket.lottery.Experiment(
                iterations=20, rounds=1, width=0.1, rate=rate
            )
            tfticket.lottery.find_ticket(asked, tmp_path / str(rate))
        rows = comparison.compared_rows([tmp_path / "0.2", tmp_path / "0.4"])
        assert {row["run"].split(", ")[0] for row in rows} == {"rate=0.2", "rate=0.4"}

    def test_many_branches_have_lines_of_their_own(self, widths):
        (row, *_) = comparison.compared_rows({"a": widths[0], "b": widths[1]})
        names = ["ticket", "reinit", "signs", "static", "set", "rigl", "gradual"]
        rows = [{**row, "run": run, "branch": name} for run in "ab" for name in names]
        axes = plots.comparison(rows).axes[0]
        styles = {
            (line[0].get_color(), line[0].get_marker(), line[0].get_linestyle())
            for line in axes.containers
        }
        assert len(styles) == len(axes.containers) == 14

    def test_the_command(self, widths, bare, tmp_path, capfd):
        assert comparison.AXES == plot._AXES
        runs = f"--run_dir={widths[0]},{widths[1]}"
        for flags, told in (
            ([runs], "--out_dir"),
            ([runs, f"--out_dir={tmp_path}", "--rounds=1"], "--rounds is for one run"),
            ([f"--run_dir={bare}", "--x=parameters"], "--x is for several runs"),
            (["--run_dir="], "--run_dir must name"),
        ):
            assert main.run(plot, flags, "tfticket plot") == 2
            assert told in capfd.readouterr().err
        assert not list(tmp_path.iterdir())
        flags = [runs, f"--out_dir={tmp_path}", "--x=parameters", "--json"]
        assert main.run(plot, flags, "tfticket plot") == 0
        result = json.loads(capfd.readouterr().out)
        assert result["files"] == {"comparison": str(tmp_path / "comparison.png")}
        assert len(result["rows"]) == (3 + 3 * 2) + 3


def test_a_folder_that_is_no_run_or_has_nothing_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not the folder of a run"):
        plot_run(tmp_path)
    with LotteryFolder(tmp_path / "run").opened({"identity": "x"}):
        pass
    with pytest.raises(ValueError, match="no finished training yet"):
        plot_run(tmp_path / "run")


def test_page(run, tmp_path):
    drawn = page.write_page(run, tmp_path / "page.md")
    text = (tmp_path / "page.md").read_text()
    assert "# The lottery ticket experiment: lenet_300_100 on mnist" in text
    assert "| 100.0 | dense | " in text
    assert "| iterations | 5,000 |" in text
    assert "There are no verdicts, since" in text
    assert "iterations 5,000, the paper's 50,000" in text
    assert "not measured" in text  # 13.5 % and below
    assert "not finished" not in text
    links = re.findall(r"!\[.+\]\((.+)\)", text)
    assert links[0] == "page/accuracy.png"
    assert len(links) == 8
    # It is made of the numbers beside it, which are all of the run's.
    rows = trainings.read_trainings(tmp_path / "page.csv")
    made = trainings.trainings(drawn.results)
    assert len(rows) == 2 * len(drawn.results)
    for read, row in zip(rows, made, strict=True):
        assert {k: v for k, v in read.items() if v is not None} == row
    assert tables.summary(rows) == tables.rows(drawn.results)
    assert page.page_text(tmp_path / "page.md") == text
    changed = (tmp_path / "page.csv").read_text().replace("reinit", "rewound")
    (tmp_path / "page.csv").write_text(changed)
    assert "| rewound |" in page.page_text(tmp_path / "page.md")


def test_the_papers_recipe_gets_verdicts_and_a_copy_of_it_does_not(results):
    trained = trainings.trainings(results)
    paper = {"dataset": "mnist", "model": "lenet_300_100", "iterations": 50_000}
    config = {"recipe": paper, "identity": {"dataset": "mnist"}}
    known = page.verdicts(trained, config)
    assert {line.split()[0] for line in known} <= {
        *("reproduced:", "refuted:", "undecided", "not"),
    }
    own = {**config, "identity": {"dataset": "mnist", "data": "0123"}}
    lines = page.verdicts(trained, own)
    assert lines[0].endswith("the paper's experiment: data of the caller's own.")
    marks = {line.split(":")[0] for line in lines[1:]}
    assert marks <= {"no verdict", "not measured"}


def test_table_at_the_papers_densities(results):
    row = {**tables.rows(results)[-1], "density": 0.2107}
    lines = [{**row, "branch": name} for name in ("ticket", "reinit", "noise:0.5")]
    _, _, ticket, reinit = page.main_table(lines).splitlines()
    assert ticket.startswith("| 21.1 | ticket | ")
    assert reinit.startswith("| 21.1 | re-initialised | ")


def test_page_says_what_is_not_finished_and_not_the_papers(results):
    late = trainings.trainings([r for r in results if r.part != Part(1, round=4)])
    config = {"recipe": {"dataset": "digits", "model": "lenet_300_100"}}
    text = page.page(late, config, "title", {}, {})
    assert "**The run is not finished**" in text
    assert "**There are no verdicts, since this is not the paper's experiment: " in text
    assert "dataset digits, the paper's mnist." in text
    assert not re.search("reproduced \\||refuted \\||undecided with", text)
    assert "## Pictures" not in text


def test_the_legend_of_a_deep_network_is_inside_the_figure(tmp_path):
    names = [f"stage{number}_block1_shortcut/kernel" for number in range(30)]
    rows = [
        {"branch": "ticket", "layer": name, "density": kept, "layer_density": kept}
        for name in names
        for kept in (1.0, 0.5, 0.25)
    ]
    figure = plots.layer_densities(rows, tmp_path / "layers.svg")
    (legend,) = figure.legends
    (axes,) = figure.axes
    box, panel = legend.get_window_extent(), axes.get_window_extent()
    assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
    assert figure.bbox.y0 <= box.y0 < box.y1 <= panel.y0
    assert panel.height > 200
    styles = {(x.get_color(), x.get_marker()) for x in axes.lines[:30]}
    assert len(styles) == 30


def test_differences_of_a_ticket_and_its_controls_are_by_seed(results):
    def accuracy(branch, number, moment):
        found = collections.defaultdict(list)
        for r in results:
            if (r.part.branch, r.part.round) == (branch, number):
                test = r.early_stop_test if moment == "early stop" else r.test
                found[r.part.seed].append(100 * test["accuracy"])
        return {seed: statistics.mean(values) for seed, values in found.items()}

    config = {"recipe": {"dataset": "mnist", "model": "lenet_300_100"}}
    text = page.page(trainings.trainings(results), config, "title", {}, {})
    section = text.partition("## Differences")[2].partition("## ")[0]
    line = [line for line in section.splitlines() if "| reinit |" in line][-1]
    for moment, cell in zip(
        ("early stop", "end of training"), line.split(" | ")[2:], strict=False
    ):
        ticket, reinit = (accuracy(b, 4, moment) for b in ("ticket", "reinit"))
        assert len(ticket) == len(reinit) == 2
        apart = [value - reinit[seed] for seed, value in ticket.items()]
        # Student's t of 2 seeds.
        half = 12.706 * statistics.stdev(apart) / math.sqrt(2)
        mean = statistics.mean(apart)
        assert cell.startswith(f"{mean:+.2f} ({mean - half:+.2f} to "), cell
    assert len(re.findall(r"\| dense \|", section)) == 4
    assert section.count("| noise:0.5 |") == 4


def test_the_page_of_another_network_has_all_rounds_and_no_claims(results):
    config = {"recipe": {"dataset": "cifar10", "model": "conv_2"}}
    alone = [r for r in results if r.part.branch == "ticket"]
    text = page.page(trainings.trainings(alone), config, "title", {}, {})
    assert "No claims are judged" in text
    assert not re.search("claim of the paper|## Differences|## All rounds", text)
    assert text.count("| ticket | ") == 5
    assert page.verdicts(trainings.trainings(alone), config)[1:] == []


@pytest.mark.slow
def test_scripts(bare, tmp_path, run_script):
    plot, report = SCRIPTS / "plot_lottery.py", SCRIPTS / "lottery_report.py"
    found = subprocess.run(
        [
            sys.executable,
            plot,
            f"--run_dir={bare}",
            "--out_dir=out",
            "--rounds=1",
            "--json",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert found.returncode == 0, found.stderr
    assert "early-stop" in found.stderr
    assert "Not drawn: overlap: it takes two seeds" in found.stderr
    told = json.loads(found.stdout)
    assert told["files"]["mask"] == str(pathlib.Path("out", "mask.png"))
    assert told["not_drawn"]["overlap"].startswith("it takes two seeds")
    assert told["rows"] == tables.rows(read_results(bare))
    assert (tmp_path / "out" / "mask.png").is_file()
    found = run_script(
        report, f"--run_dir={bare}", "--out=page.md", "--json", cwd=tmp_path
    )
    assert found.returncode == 0, found.stderr
    assert "not measured: at 3.6 %, back at the accuracy" in found.stderr
    assert found.stderr.count("back at the accuracy") == 1
    told = json.loads(found.stdout)
    assert all((tmp_path / path).is_file() for path in told["files"].values())
    assert told["rows"] == tables.rows(read_results(bare))
    assert set(told["verdicts"]) < set(found.stderr.splitlines())
    assert "(page/accuracy.png)" in (tmp_path / "page.md").read_text()
    assert (tmp_path / "page" / "accuracy.png").is_file()


def test_a_page_that_exists_is_kept_unless_it_may_be_replaced(bare, tmp_path):
    out = tmp_path / "page.md"
    out.write_text("mine")
    with pytest.raises(FileExistsError, match=r"page\.md' exists.*--overwrite"):
        page.write_page(bare, out)
    assert out.read_text() == "mine"
    assert list(tmp_path.iterdir()) == [out]
    page.write_page(bare, out, overwrite=True)
    assert out.read_text().startswith("# ")
    for name in ("page.md", "page.csv", "page.json"):
        with pytest.raises(FileExistsError, match=rf"{name}' exists"):
            page.write_page(bare, out)
        (tmp_path / name).unlink()
    with pytest.raises(FileExistsError, match=r"\.png' exists"):
        page.write_page(bare, out)


def told(done):
    """Standard error without what TensorFlow notes in a fork of the script server."""
    lines = done.stderr.splitlines(keepends=True)
    return "".join(line for line in lines if "failed call to cuInit" not in line)


def test_report_takes_overwrite(bare, tmp_path, run_script):
    out = tmp_path / "page.md"
    out.write_text("mine")
    flags = [SCRIPTS / "lottery_report.py", f"--run_dir={bare}", "--out=page.md"]
    found = run_script(*flags, cwd=tmp_path)
    assert found.returncode == main.FILES
    assert told(found).startswith("Error: 'page.md' exists")
    assert out.read_text() == "mine"
    found = run_script(*flags, "--overwrite", cwd=tmp_path)
    assert found.returncode == 0, found.stderr
    assert out.read_text().startswith("# ")


@pytest.mark.parametrize(
    ("script", "flag", "message", "status"),
    [
        ("plot_lottery.py", "--rounds=x", "--rounds must be whole", 2),
        ("plot_lottery.py", "--format=png,gif", "--format must be one or more of", 2),
        ("plot_lottery.py", "--run_dir=.", "is not the folder of a run", 3),
        ("lottery_report.py", "--run_dir=.", "is not the folder of a run", 3),
        ("lottery_report.py", "--out=page.html", "must be a Markdown file", 2),
    ],
)
def test_mistakes_are_told_in_a_line(
    bare, tmp_path, run_script, script, flag, message, status
):
    flags = [f"--run_dir={bare}", flag]
    found = run_script(SCRIPTS / script, *flags, cwd=tmp_path)
    assert found.returncode == status
    assert found.stdout == ""
    assert told(found).startswith("Error: ")
    assert told(found).count("\n") == 1
    assert message in told(found)
