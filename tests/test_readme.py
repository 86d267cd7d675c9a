"""Every code block of the README runs, top to bottom, as a reader would run it.

What it tells scripts is tested with the commands of the guides, in `test_docs`.
"""

import subprocess

import pytest
from fixtures import check_here, pages

from tfticket.export.checking import processes


@pytest.mark.usefixtures("without_xla")
def test_python_blocks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    checked = []

    def in_this_process(program, *arguments):
        checked.append(program)
        return check_here.run(program, *arguments)

    monkeypatch.setattr(processes, "run", in_this_process)
    printed = pages.run_python("README.md")
    assert "100.0% kept" in printed
    assert "same answer for 100.0% of the samples" in printed
    assert set(checked) == {"run_saved_model", "run_c_api", "run_litert"}
    assert (tmp_path / "ticket.npz").is_file()


def test_all_blocks_are_of_a_language_that_is_tested():
    assert {language for language, _ in pages.blocks("README.md")} <= pages.LANGUAGES


def test_make_has_the_two_commands():
    # `make test` runs this test, so here it is only asked what it would do.
    for command in ("make ticket", "make test"):
        assert command in pages.commands("README.md")
        subprocess.run([*command.split(), "--dry-run"], cwd=pages.ROOT, check=True)
