"""The script from flags to files, as a user runs it."""

import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import keras
import numpy as np
import pytest
from fixtures import without_xla

import tfticket
from tfticket import devices, lottery
from tfticket.common import files
from tfticket.common.runs import RunFolder
from tfticket_cli import main

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
    assert sorted(p.name for p in out.iterdir() if p.name != ".lock") == [
        "config.json", "plot.png", "rounds.json", "seed_0", "ticket.npz", "tickets",
    ]  # fmt: skip
    assert sorted(p.name for p in (out / "tickets").iterdir()) == tickets
    for text in ("density %", "test accuracy", "early-stop", "parameters left"):
        assert text in done.stdout
    assert "normalised by mean" in done.stdout
    assert "round  1: density 80.2 %" in done.stderr
    assert "I0000" not in done.stderr  # of TensorFlow's start
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


def test_same_seed_same_ticket_bit_for_bit(finished, tmp_path):
    folder, _ = finished
    first = (folder / "runs" / "digits-lenet_300_100" / "ticket.npz").read_bytes()
    assert found_in(tmp_path / "again")[0] == first


def test_another_run_is_not_overwritten_unasked(finished, run):
    folder, _ = finished
    before = (folder / "runs" / "digits-lenet_300_100" / "ticket.npz").read_bytes()
    done = run(folder, *FAST, "--export_dir=elsewhere", "--seed=3", check=False)
    assert done.returncode == main.FILES
    assert "holds another run: ['seed'] differ" in done.stderr
    done = run(folder, *FAST, "--out_dir=elsewhere", check=False)
    assert done.returncode == main.FILES
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
    assert done.returncode == main.FILES
    assert "won't be touched" in done.stderr
    assert (mine / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize(
    ("flag", "says"),
    [
        ("--dataset=no_such_set", "No data set is named"),
        ("--model=resnet", "lenet_300_100"),
        ("--rate=1.5", "rate must be above 0 and below 1"),
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


@pytest.mark.slow
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


EXPERIMENT = lottery.Experiment(rounds=2, iterations=60, rewind_to=4)


def copied(finished, folder):
    shutil.copytree(finished[0] / "runs" / "digits-lenet_300_100", folder / "run")
    return folder / "run"


@pytest.fixture
def quickly(monkeypatch):
    """Without the seconds of XLA, whose bits are others."""
    monkeypatch.setattr(devices, "compile_options", without_xla.compile_options)


def found_in(folder, experiment=EXPERIMENT):
    """The ticket's bytes, and which rounds were missing."""
    missing = []
    lottery.find_ticket(
        experiment, folder, on_part=lambda *args: missing.append(args[-1])
    )
    return (folder / "ticket.npz").read_bytes(), missing


def test_what_is_missing_or_damaged_is_made_again(finished, tmp_path):
    run = copied(finished, tmp_path)
    ticket = (run / "ticket.npz").read_bytes()
    rounds = (run / "rounds.json").read_text()
    trained = run / "seed_0" / "ticket" / "round_01" / "trained.npz"
    content = bytearray(trained.read_bytes())
    content[len(content) // 2] ^= 1
    trained.write_bytes(content)
    (run / "ticket.npz").unlink()
    shutil.rmtree(run / "tickets")
    shutil.rmtree(run / "seed_0" / "ticket" / "round_02")
    with pytest.warns(UserWarning, match=r"round_01' is damaged.*'trained.npz'"):
        again, missing = found_in(run)
    assert missing == [False, True, True]
    assert again == ticket
    assert (run / "rounds.json").read_text() == rounds
    assert len(list((run / "tickets").iterdir())) == 3
    assert found_in(run)[1] == [False] * 3


class _StoppedError(Exception):
    pass


def stop_at(number, steps):
    """A callback that stops at an evaluation of a training, counted from 0."""
    paths = []

    def on_evaluation(part, done, of):
        assert done <= of
        if part.path not in paths:
            paths.append(part.path)
        if (len(paths) - 1, done) == (number, steps):
            raise _StoppedError

    return on_evaluation


# Without rewinding the optimizer goes on, so that a checkpoint has its state too.
REWINDINGS = [4, pytest.param(None, marks=pytest.mark.slow)]


@pytest.mark.parametrize("rewind_to", REWINDINGS)
def test_stopped_in_the_middle_of_a_round(rewind_to, quickly, tmp_path):
    asked = dataclasses.replace(EXPERIMENT, rounds=1, rewind_to=rewind_to)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    found_in(whole, asked)
    with pytest.raises(_StoppedError):
        lottery.find_ticket(
            asked, stopped, checkpoint_seconds=0, on_evaluation=stop_at(1, 30)
        )
    (checkpoint,) = stopped.rglob("checkpoint.npz")
    assert checkpoint.parent.name == "round_01"
    assert found_in(stopped, asked)[1] == [False, True]
    for path in whole.rglob("*.npz"):
        assert (stopped / path.relative_to(whole)).read_bytes() == path.read_bytes()
    for name in ("rounds.json", "seed_0/ticket/round_01/metrics.csv"):
        assert (stopped / name).read_text() == (whole / name).read_text()


def test_a_second_process_is_told_who_holds_the_folder(finished, run, tmp_path):
    held = copied(finished, tmp_path)
    with RunFolder(held).opened({"seed": 0}):
        done = run(tmp_path, *FAST, "--out_dir=run", check=False)
    assert done.returncode == main.IN_USE
    assert f"'run' is in use by process {os.getpid()}" in done.stderr


def test_what_killed_writes_leave_blocks_nothing(quickly, tmp_path):
    run, experiment = tmp_path / "run", lottery.Experiment(rounds=1, iterations=20)
    run.mkdir()
    leftovers = [".config.json.a1b2c3d4.tmp.json", "..holder.json.x_y_z_12.tmp.json"]
    for name in [*leftovers, ".lock", ".holder.json"]:
        (run / name).write_text('{"half')
    part = run / "seed_0" / "ticket" / "round_00"
    ticket, _ = found_in(run, experiment)
    for name in leftovers:
        (part / name).touch()
    assert found_in(run, experiment) == (ticket, [False] * 2)
    assert not [path for path in run.rglob("*") if ".tmp" in path.name]


def test_a_killed_export_replaces_its_own_files_alone(finished, run, tmp_path):
    for name in ("runs", "saved_models"):
        shutil.copytree(finished[0] / name, tmp_path / name)
    served = tmp_path.resolve() / "saved_models" / "digits-lenet_300_100"
    lite = served.with_name(f"{served.name}.tflite")
    places = [str(path.relative_to(tmp_path.resolve())) for path in (served, lite)]

    def leave_note(*own):
        lines = [places, *([str(path), files._identity(path)] for path in own)]
        note = tmp_path / "runs" / served.name / lottery.single.EXPORTING
        note.write_text("".join(f"{json.dumps(line)}\n" for line in lines))

    lite.write_bytes(b"a user's")
    leave_note(served / "1")
    done = run(tmp_path, *FAST, check=False)
    assert done.returncode == 3  # a file that is there
    assert f"{lite.name} exists. Pass --overwrite" in done.stderr
    assert lite.read_bytes() == b"a user's"
    leave_note(served / "1", lite)
    run(tmp_path, *FAST)
    assert lite.read_bytes() != b"a user's"


def test_its_figures_are_drawn_as_those_of_an_experiment(finished, tmp_path):
    drawn = lottery.plot_run(copied(finished, tmp_path), tmp_path / "plots")
    assert {"accuracy", "curves", "movement", "layers"} <= set(drawn.written)


def test_without_a_folder_nothing_is_kept(quickly, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    found = lottery.find_ticket(lottery.Experiment(rounds=1, iterations=20))
    assert found.ticket.density == pytest.approx(0.8, abs=0.01)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("rewind_to", REWINDINGS)
def test_the_callback_in_one_fit_finds_the_same(rewind_to, quickly):
    """Without rewinding too, where the optimizer goes on."""
    # In one fit all rounds are as long as the first.
    clock = {"rewind_to": rewind_to, "rewind_clock": "restart"}
    asked = dataclasses.replace(EXPERIMENT, **clock)
    found = lottery.find_ticket(asked)
    digits = found.dataset
    keras.utils.set_random_seed(asked.seed)
    model = tfticket.prune(tfticket.models.build(asked.model, (8, 8, 1), 10))
    model.compile(
        asked.optimizer_for(),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **found.compiled,
    )
    callback = tfticket.IterativeMagnitudePruning(
        rounds=asked.rounds,
        rewind_to=rewind_to,
        test_data=digits.evaluation_pipeline("test"),
        seed=asked.seed,
    )
    model.fit(
        digits.training_pipeline(asked.batch_size, asked.seed),
        epochs=(asked.rounds + 1) * asked.iterations // asked.evaluate_every,
        steps_per_epoch=asked.evaluate_every,
        validation_data=digits.evaluation_pipeline("validation"),
        callbacks=[callback],
        shuffle=False,
        verbose=0,
    )
    assert callback.records == found.records
    for name, mask in callback.ticket.masks.items():
        np.testing.assert_array_equal(mask, found.ticket.masks[name])
    for name, value in callback.ticket.weights.items():
        np.testing.assert_array_equal(value, found.ticket.weights[name])
