"""The script from flags to files, as a user runs it."""

import json
import os
import pathlib
import shutil
import subprocess
import sys

import numpy as np
import pytest

import tfticket

SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "find_ticket.py"
FAST = ["--rounds=2", "--iterations=60", "--rewind_to=4"]


@pytest.fixture
def run(run_script):
    def run(folder, *flags, check=True):
        done = run_script(SCRIPT, *flags, cwd=folder, quick=True, COLUMNS="120")
        if check:
            assert done.returncode == 0, done.stdout + done.stderr
        return done

    return run


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run from start to end, in a process of its own."""
    folder = tmp_path_factory.mktemp("run")
    done = subprocess.run(
        [sys.executable, str(SCRIPT), *FAST],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "COLUMNS": "120"},
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder, done


def test_what_it_prints_and_writes(finished):
    folder, done = finished
    out = folder / "runs" / "digits-lenet_300_100"
    tickets = [f"round_0{r}.npz" for r in range(3)]
    assert sorted(p.name for p in out.iterdir()) == [
        "config.json", "plot.png", "rounds.json", "ticket.npz", "tickets",
    ]  # fmt: skip
    assert sorted(p.name for p in (out / "tickets").iterdir()) == tickets
    for text in ("density %", "test accuracy", "early-stop", "parameters left"):
        assert text in done.stdout
    assert "normalised by mean" in done.stdout
    assert "round  1: density  80.2 %" in done.stdout
    assert done.stdout.count("same answer for 100.0% of the samples") == 2
    served = folder / "saved_models"
    assert (served / "digits-lenet_300_100" / "1" / "saved_model.pb").is_file()
    assert (served / "digits-lenet_300_100.tflite").is_file()

    rounds = json.loads((out / "rounds.json").read_text())
    last = tfticket.Ticket.load(out / "ticket.npz")
    assert rounds[2]["parameters"] == sum(int(m.sum()) for m in last.masks.values())
    assert last.provenance["step"] == 4
    config = json.loads((out / "config.json").read_text())
    assert (config["rounds"], config["seed"], config["rewind_to"]) == (2, 0, 4)
    assert (out / "plot.png").read_bytes()[1:4] == b"PNG"


def test_same_seed_same_ticket_bit_for_bit(finished, run_script, tmp_path):
    folder, _ = finished
    done = run_script(SCRIPT, *FAST, "--out_dir=again", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    first = (folder / "runs" / "digits-lenet_300_100" / "ticket.npz").read_bytes()
    assert (tmp_path / "again" / "ticket.npz").read_bytes() == first


def test_another_run_is_not_overwritten_unasked(finished, run):
    folder, _ = finished
    before = (folder / "runs" / "digits-lenet_300_100" / "ticket.npz").read_bytes()
    done = run(folder, *FAST, "--export_dir=elsewhere", "--seed=3", check=False)
    assert done.returncode == 1
    assert "holds another run" in done.stderr
    done = run(folder, *FAST, "--out_dir=elsewhere", check=False)
    assert done.returncode == 1
    assert "exists" in done.stderr
    assert "--overwrite" in done.stderr
    after = (folder / "runs" / "digits-lenet_300_100" / "ticket.npz").read_bytes()
    assert after == before
    assert not (folder / "elsewhere").exists()


def test_overwrite_replaces_a_run_and_nothing_else(finished, run, tmp_path):
    for name in ("runs", "saved_models"):
        shutil.copytree(finished[0] / name, tmp_path / name)
    out = tmp_path / "runs" / "digits-lenet_300_100"
    before = (out / "ticket.npz").read_bytes()
    extra = out / "tickets" / "round_09.npz"
    extra.write_text("of the older run")
    notes = out / "notes.txt"
    notes.write_text("what I saw")
    run(tmp_path, *FAST, "--seed=1", "--overwrite")
    assert (out / "ticket.npz").read_bytes() != before  # another seed, another ticket
    assert json.loads((out / "config.json").read_text())["seed"] == 1
    assert not extra.exists()
    assert notes.read_text() == "what I saw"
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("years of work")
    (mine / "config.json").write_text('{"model_type": "of another program"}')
    done = run(tmp_path, *FAST, "--out_dir=mine", "--overwrite", check=False)
    assert done.returncode == 1
    assert "won't be touched" in done.stderr
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--dataset=no_such_set", "No data set is named"),
        ("--model=resnet", "lenet_300_100"),
        ("--rate=1.5", "rate must be a fraction"),
        ("--rewind_to=first", "--rewind_to must be a step"),
        ("--rewind_to=99", "rewind_to=99 is not before the end"),
        ("--scope=local", "layerwise"),
        ("--rounds=few", "rounds"),
        ("--no_such_flag=1", "no_such_flag"),
        ("--batch_size=9999", "batch_size=9999 is more than"),
    ],
)
def test_bad_flags_are_errors_before_training(flag, says, run, tmp_path):
    done = run(tmp_path, *FAST, flag, check=False)
    assert done.returncode == 2
    assert done.stdout == ""
    assert says in done.stderr
    assert "Traceback" not in done.stderr
    assert os.listdir(tmp_path) == []


def test_help_is_for_a_person(run, tmp_path):
    done = run(tmp_path, "--help")
    for flag in (
        "dataset", "model", "rounds", "rate", "rewind_to", "scope", "epochs",
        "iterations", "batch_size", "learning_rate", "seed", "out_dir", "overwrite",
    ):  # fmt: skip
        assert f"--{flag}" in done.stdout or f"--[no]{flag}" in done.stdout
    assert "Finds a lottery ticket" in done.stdout


def test_epochs_and_fine_tuning_and_global(run, tmp_path):
    run(
        tmp_path, "--rounds=1", "--epochs=2", "--rewind_to=none", "--scope=global",
        "--rate=0.5", "--model=conv_2", "--batch_size=200",
    )  # fmt: skip
    out = tmp_path / "runs" / "digits-conv_2"
    rounds = json.loads((out / "rounds.json").read_text())
    assert [r["iteration"] for r in rounds] == [12, 24]
    ticket = tfticket.Ticket.load(out / "ticket.npz")
    total = sum(m.size for m in ticket.masks.values())
    assert rounds[1]["parameters"] == total - round(total * 0.5)
    for name, mask in ticket.masks.items():
        assert np.all(ticket.weights[name][~mask] == 0)
