"""Every code block of the README runs, top to bottom, as a reader would run it."""

import pathlib
import re
import shlex
import subprocess
import sys

import pytest
from fixtures import check_here

import tfticket
from tfticket.export import parity

ROOT = pathlib.Path(__file__).parents[1]
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
COMMANDS = [
    line
    for language, block in BLOCKS
    if language == "sh"
    for line in block.splitlines()
]


def test_python_blocks(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    checked = []

    def first_in_another_process(kind, *arguments):
        checked.append(kind)
        first = checked.count(kind) == 1
        run = check_here.in_another_process if first else check_here.run
        return run(kind, *arguments)

    monkeypatch.setattr(parity, "_run", first_in_another_process)
    scope = {}
    for language, block in BLOCKS:
        if language == "python":
            exec(compile(block, "README.md", "exec"), scope)
    out = capsys.readouterr().out
    assert "100.0%" in out
    assert "same answer for 100.0% of the samples" in out
    assert checked.count("saved_model") > 1
    assert (tmp_path / "ticket.keras").is_file()


def test_all_blocks_are_of_a_language_that_is_tested():
    assert {language for language, _ in BLOCKS} == {"python", "sh"}


@pytest.mark.parametrize("command", COMMANDS)
def test_commands(command, run_script, tmp_path):
    words = shlex.split(command)
    if words[0] == "make":
        # `make test` runs this test, so here it is only asked what it would do.
        subprocess.run([*words, "--dry-run"], cwd=ROOT, check=True)
        return
    if words[0] == "saved_model_cli":
        return  # run with the line that writes what it looks at
    assert words[0] == "python"
    if words[1] == "scripts/export.py":
        model = ROOT / "saved_models" / "digits.npz"
        flags = [f for f in words[2:] if not f.startswith("--model")]
        flags += [f"--model={model}", "--to=saved_model", f"--out_dir={tmp_path}"]
        flags.remove("--report")  # as test_python_blocks runs it
        script = [sys.executable, str(ROOT / words[1])]
        subprocess.run([*script, *flags], check=True, cwd=tmp_path)
        (look,) = (line for line in COMMANDS if line.startswith("saved_model_cli"))
        look = look.replace("saved_models/", f"{tmp_path}/")
        tool = pathlib.Path(sys.executable).with_name("saved_model_cli")
        done = run_script(tool, *shlex.split(look)[1:], cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert "serving_default" in done.stdout
        return
    if "lottery" in words[1]:
        _lottery_command(words, run_script, tmp_path)
        return
    # The flags as they stand, but nothing downloaded and little trained.
    flags = [word for word in words[2:] if not word.startswith("--dataset")]
    if "--help" not in flags:
        flags += ["--batch_size=10", f"--out_dir={tmp_path}/run"]
        if "popup" in words[1]:
            flags += ["--epochs=1", "--replicates=1", "--width=0.1"]
            flags += ["--weight_initializer=signed_constant"]
        else:
            flags += ["--rounds=1", "--iterations=2", "--evaluate_every=1"]
            flags += [f"--export_dir={tmp_path}/models"]
        flags = ["--rewind_to=1" if f.startswith("--rewind_to") else f for f in flags]
    script = ROOT / words[1]
    if "popup" in words[1]:
        done = subprocess.run(
            [sys.executable, str(script), *flags], check=False, cwd=tmp_path
        )
    else:  # test_find_ticket runs it in a process of its own, too
        done = run_script(script, *flags, cwd=tmp_path, quick=True)
    assert done.returncode == 0


def _lottery_command(words, run_script, tmp_path):
    """Runs an experiment with little trained, then the figures of what that wrote."""
    flags = [word for word in words[2:] if not word.startswith("--run_dir")]
    short = ["--rounds=1", "--replicates=1", "--iterations=10"]
    experiment = [word for word in flags if word.startswith("--branches")]
    run = ["scripts/run_lottery.py", *(experiment or flags), *short]
    done = run_script(ROOT / run[0], *run[1:], "--runs_dir=runs", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    if "plot" in words[1]:
        # The folder that the README names is that of its own command.
        (named,) = (word for word in words if word.startswith("--run_dir"))
        default = tfticket.lottery.LotteryExperiment()
        assert named == f"--run_dir=runs/{default.name}"
        (folder,) = (tmp_path / "runs").iterdir()
        done = run_script(ROOT / words[1], f"--run_dir={folder}", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert (folder / "plots" / "accuracy.png").is_file()
