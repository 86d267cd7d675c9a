"""Every code block of the README runs, top to bottom, as a reader would run it."""

import shlex
import subprocess
import sys

import pytest
from fixtures import check_here, pages

from tfticket.export import parity


def test_python_blocks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checked = []

    def first_in_another_process(kind, *arguments):
        checked.append(kind)
        first = checked.count(kind) == 1
        run = check_here.in_another_process if first else check_here.run
        return run(kind, *arguments)

    monkeypatch.setattr(parity, "_run", first_in_another_process)
    printed = pages.run_python("README.md")
    assert "100.0% kept" in printed
    assert "same answer for 100.0% of the samples" in printed
    assert checked == ["saved_model", "litert"]
    assert (tmp_path / "ticket.npz").is_file()


def test_all_blocks_are_of_a_language_that_is_tested():
    assert {language for language, _ in pages.blocks("README.md")} <= pages.LANGUAGES


def test_make_has_the_two_commands():
    # `make test` runs this test, so here it is only asked what it would do.
    for command in ("make ticket", "make test"):
        assert command in pages.commands("README.md")
        subprocess.run(
            [*command.split(), "--dry-run"], cwd=pages.ROOT, check=True
        )


# What each script is told beside the flags of the README, so that nothing is downloaded
# and little is trained.
_SHORT = {
    "scripts/find_ticket.py": [
        *("--dataset=digits", "--batch_size=10", "--rounds=1", "--iterations=2"),
        *("--evaluate_every=1", "--out_dir=run", "--export_dir=models"),
    ],
    "scripts/run_lottery.py": ["--rounds=1", "--replicates=1", "--iterations=10"],
    "scripts/train_popup.py": [
        *("--density=0.5", "--epochs=1", "--replicates=1", "--width=0.1"),
        *("--weight_initializer=signed_constant", "--out_dir=run"),
    ],
    "scripts/export.py": [
        f"--model={pages.ROOT / 'saved_models' / 'digits.npz'}",
        *("--to=saved_model", "--noreport"),
    ],
}


@pytest.mark.parametrize("script", _SHORT)
def test_scripts(script, run_script, tmp_path):
    lines = [shlex.split(line) for line in pages.commands("README.md")]
    (flags,) = (words[2:] for words in lines if words[1] == script)
    done = run_script(
        pages.ROOT / script, *flags, *_SHORT[script], cwd=tmp_path, quick=True
    )
    assert done.returncode == 0, done.stderr


def test_no_other_commands():
    others = [
        line
        for line in pages.commands("README.md")
        if line.split()[0] != "make" and line.split()[1] not in _SHORT
    ]
    assert others == []
