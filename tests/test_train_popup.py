"""The popup experiment: what it runs, resumes and refuses; and its script."""

import dataclasses
import json
import os
import pathlib
import re
import shutil

import numpy as np
import pytest

from tfticket import data
from tfticket.common.runs import RunFolder
from tfticket.lottery import (
    PopupExperiment,
    PopupResult,
    popup_plot,
    popup_rows,
    popup_table,
)
from tfticket_cli import main

pytestmark = pytest.mark.usefixtures("without_xla")
SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "train_popup.py"
SHORT = PopupExperiment(
    densities=[0.3, 0.6],
    weight_initializers=["signed_constant"],
    replicates=2,
    epochs=2,
    width=0.1,
)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("popup") / "run"
    return folder, SHORT.run(folder)


def test_every_part_runs_once_and_the_seed_decides(finished):
    folder, results = finished
    parts = [(r.kind, r.density, r.seed) for r in results]
    assert parts == [
        ("dense", 1.0, 0),
        ("dense", 1.0, 1),
        *(("signed_constant", d, s) for d in (0.3, 0.6) for s in (0, 1)),
    ]
    assert results[2].test_accuracy != results[3].test_accuracy
    written = json.loads((folder / "results.json").read_text())
    assert written == [dataclasses.asdict(result) for result in results]


def test_a_stopped_run_goes_on_with_what_is_missing(finished, tmp_path):
    folder, results = finished
    shutil.copytree(folder, tmp_path / "run")
    # One that was not reached, and one that was damaged since.
    shutil.rmtree(tmp_path / "run" / results[5].path)
    damaged = tmp_path / "run" / results[4].path / "result.json"
    damaged.write_text(damaged.read_text().replace('"density": 0.6', '"density": 0.5'))
    told = []
    with pytest.warns(UserWarning, match=r"density_0\.6' is damaged"):
        again = SHORT.run(tmp_path / "run", on_part=lambda *args: told.append(args))
    assert [count for _, *count in told] == [
        *([number, 6, False] for number in range(1, 5)),
        *([number, 6, True] for number in (5, 6)),
    ]
    assert again == results  # to the bit


def test_stopped_in_the_middle_of_a_training(finished, tmp_path):
    shorter = dataclasses.replace(SHORT, densities=[0.3], replicates=1)

    class StoppedError(Exception):
        pass

    def stop(part, done, of):
        if part.kind != "dense" and done == of:
            raise StoppedError

    with pytest.raises(StoppedError):
        shorter.run(tmp_path, checkpoint_seconds=0, on_evaluation=stop)
    assert list(tmp_path.rglob("checkpoint.npz"))
    steps = []
    again = shorter.run(tmp_path, on_evaluation=lambda *args: steps.append(args[1:]))
    assert steps == [(20, 20)]  # the rest of that training
    # To the bit what was trained in one go.
    assert again == [x for x in finished[1] if x.seed == 0 and x.density != 0.6]


def test_another_process_holds_the_folder(finished, run_script, tmp_path):
    shutil.copytree(finished[0], tmp_path / "run")
    flags = ["--density=0.3,0.6", "--weight_initializer=signed_constant"]
    flags += ["--epochs=2", "--width=0.1", "--replicates=2"]
    with RunFolder(tmp_path / "run").opened({"seed": 0}):
        done = run_script(SCRIPT, *flags, "--out_dir=run", cwd=tmp_path)
    assert done.returncode == main.IN_USE
    assert f"'run' is in use by process {os.getpid()} on " in done.stderr


def test_another_experiment_in_the_folder_is_refused(finished, tmp_path):
    folder, _ = finished
    with pytest.raises(FileExistsError, match=r"another run: \['width'\]"):
        dataclasses.replace(SHORT, width=0.2).run(folder)
    (tmp_path / "x.txt").touch()
    with pytest.raises(FileExistsError, match="no run's"):
        SHORT.run(tmp_path)


def test_rows():
    rows = popup_rows(
        [
            PopupResult("dense", 1.0, 0, 0.9, 0.9, 0.1),
            PopupResult("dense", 1.0, 1, 0.7, 0.9, 0.3),
        ]
    )
    want = {"test_accuracy": 0.8, "random_accuracy": 0.2}
    want |= {"test_accuracy_lowest": 0.7, "test_accuracy_highest": 0.9}
    # t(0.975, 1) is 12.7062.
    want |= {"test_accuracy_sd": 0.02**0.5}
    want |= {"test_accuracy_low": 0.8 - 1.27062, "test_accuracy_high": 0.8 + 1.27062}
    assert rows[0].pop("kind") == "dense"
    assert rows[0].pop("replicates") == 2
    assert rows[0].pop("density") == 1.0
    assert rows == [pytest.approx(want, abs=1e-5)]


def test_plot_and_table(finished, tmp_path):
    rows = popup_rows(finished[1])
    popup_plot(rows, tmp_path / "plot.png", "title")
    assert (tmp_path / "plot.png").read_bytes().startswith(b"\x89PNG")
    table = popup_table(rows)
    assert table.row_count == 3
    assert next(iter(table.columns[0].cells)) == "trained, dense"


def test_augmentation_shifts_flips_and_repeats():
    digits = data.load("digits")
    plain, first, again, other = (
        next(iter(digits.training_pipeline(64, seed, augment=augment)))[0].numpy()
        for seed, augment in ((0, False), (0, True), (0, True), (1, True))
    )
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)
    seen = set()
    for image, augmented in zip(plain[..., 0], first[..., 0], strict=True):
        moves = {
            (flip, dy, dx): np.pad(image[:, :: -1 if flip else 1], 1)[
                1 + dy : 9 + dy, 1 + dx : 9 + dx
            ]
            for flip in (False, True)
            for dy in (-1, 0, 1)
            for dx in (-1, 0, 1)
        }
        found = [
            move for move, want in moves.items() if np.array_equal(want, augmented)
        ]
        assert found
        seen.update(found[:1])
    assert len(seen) > 9


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"densities": [0.5, 1.5]}, "densities=1.5"),
        ({"densities": []}, "densities"),
        ({"densities": [0.5, 0.5]}, "none of them twice"),
        ({"weight_initializers": ["ones"]}, "'ones'"),
        ({"model": "vgg"}, "model='vgg'"),
        ({"score_scope": "model"}, "score_scope='model'"),
        ({"replicates": 0}, "replicates=0"),
        ({"width": -1}, "width=-1"),
        ({"learning_rate": 0.0}, "learning_rate=0.0"),
        ({"weight_decay": -0.1}, "weight_decay=-0.1"),
    ],
)
def test_bad_values(values, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        PopupExperiment(**values)


@pytest.mark.slow
def test_the_script(finished, run_script, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(finished[0], folder)
    (folder / "notes.txt").write_text("mine")
    flags = ["--density=0.3,0.6", "--weight_initializer=kaiming_normal", "--epochs=1"]
    flags += ["--width=0.1", f"--out_dir={folder}"]

    def script(*more):
        return run_script(SCRIPT, *flags, *more, cwd=tmp_path)

    refused = script()
    assert refused.returncode == main.FILES
    assert "holds another run" in refused.stderr
    wrong = script("--density=half", "--overwrite")
    assert wrong.returncode == 2
    assert "--density must be fractions" in wrong.stderr
    held = json.loads((folder / "results.json").read_text())
    assert held == [dataclasses.asdict(result) for result in finished[1]]
    done = script("--overwrite", "--json")
    assert done.returncode == 0, done.stderr
    assert "dense network at density 100 %" in done.stderr
    assert "kaiming_normal at density 60 %" in done.stderr
    assert "trained, dense" in done.stderr
    told = json.loads(done.stdout)
    assert told["files"]["plot"] == str(folder / "plot.png")
    assert (folder / "plot.png").is_file()
    written = json.loads((folder / "results.json").read_text())
    assert len(written) == 3
    assert told["results"] == written
    assert told["rows"] == popup_rows([PopupResult(**r) for r in written])
    assert (folder / "notes.txt").read_text() == "mine"
