"""Whatever ends an experiment, going on gives the tickets it would have given."""

import hashlib
import json
import pathlib
import signal
import subprocess
import sys
import time

import pytest

FIXTURES = pathlib.Path(__file__).with_name("fixtures")
SCRIPT = pathlib.Path(__file__).parents[1] / "scripts" / "run_lottery.py"


@pytest.fixture
def ended(run_script, tmp_path):
    def run(*what):
        program = FIXTURES / "kill_lottery.py"
        done = run_script(program, *what, cwd=tmp_path, quick=True)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


def contents(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.suffix in (".npz", ".csv")
    }


# By luck; test_nothing_lost takes every event.
@pytest.mark.slow
@pytest.mark.parametrize(("times", "moments"), [(3, 1), (20, 3)])
def test_killed_at_random_moments(times, moments, ended, tmp_path):
    found = ended("kill", tmp_path, times, 0)
    assert found["hit"] >= times
    # Some were in the middle of the experiment.
    assert len(set(found["left"])) >= moments
    assert any(0 < parts < 5 for parts in found["left"])
    whole = contents(tmp_path / "whole")
    assert len(whole) == 5 * 3 + 3  # metrics, ticket, trained; next masks of the main
    for name in found["folders"]:
        assert contents(tmp_path / name) == whole
    assert not list(tmp_path.rglob("*.tmp*"))


def test_a_full_disk(ended, tmp_path):
    # A limit on the size of files stands in for it: writing fails half-way.
    found = ended("full", tmp_path)
    assert found["code"] == 0
    assert "File too large" in found["error"]
    assert not any(name.endswith(".npz") for name in found["left"])
    assert "result.json" not in found["left"]


@pytest.mark.slow
def test_two_processes_on_one_folder(ended, tmp_path):
    found = ended("hold", tmp_path)
    assert found["told"].startswith("RunInUseError")
    assert f"process {found['first']} on " in found["told"]
    assert found["after"] == 0


@pytest.mark.slow
def test_interrupted_by_the_keyboard(tmp_path):
    flags = ["--rounds=1", "--iterations=100000", "--checkpoint_seconds=0"]
    running = subprocess.Popen(
        [sys.executable, SCRIPT, *flags, f"--runs_dir={tmp_path}"],
        # A shell has its background processes ignore the key, and their children too.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    until = time.monotonic() + 120
    while not list(tmp_path.rglob("checkpoint.npz")) and time.monotonic() < until:
        time.sleep(0.1)
    running.send_signal(signal.SIGINT)
    _, told = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "To resume, run the same command: python " in told


@pytest.mark.parametrize(
    ("flags", "told"),
    [
        (["--branches=renit"], "branches must be of"),
        (["--rewind_to=first"], "--rewind_to must be a step"),
        (["--branch_rounds=a"], "--branch_rounds must be whole numbers"),
        (["--dataset=nist"], "No data set is named 'nist'"),
    ],
)
def test_flags_that_are_wrong(flags, told, tmp_path, run_script):
    done = run_script(SCRIPT, *flags, f"--runs_dir={tmp_path}", cwd=tmp_path)
    assert done.returncode == 2
    assert told in done.stderr
