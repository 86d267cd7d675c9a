"""Every code block of the README runs, top to bottom, as a reader would run it.

What it tells scripts is tested with the commands of the guides, in `test_docs`.
"""

import re
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


def test_make_has_the_commands():
    # `make test` runs this test, so here it is only asked what it would do.
    assert "make ticket" in pages.commands("README.md")
    for command in ("ticket", "test"):
        subprocess.run(["make", command, "--dry-run"], cwd=pages.ROOT, check=True)


def test_the_first_screen_prunes_a_model_and_exports_it():
    """A reader sees what it is, figures, how to install it and ten lines of code."""
    first = (pages.ROOT / "README.md").read_text().splitlines()[:52]
    text = "\n".join(first)
    for wanted in (
        "smaller and faster",
        "pip install tfticket",
        ".png)",
        "| network |",
    ):
        assert wanted in text
    for name in ("tfticket.prune(model", "export.compact(", "export.litert("):
        assert name in text


def test_figures_of_the_table_are_those_of_the_pages():
    """Each number in the README's table is in the page that its row links to."""
    rows = [
        line
        for line in (pages.ROOT / "README.md").read_text().splitlines()
        if line.startswith("| [") and "docs/results/" in line
    ]
    assert len(rows) == 6
    for row in rows:
        page = (pages.ROOT / re.search(r"\((.*?)\)", row)[1]).read_text()
        for number in re.findall(r"\d[\d,]*\.?\d*", row.split("|", 4)[4]):
            shown = float(number.replace(",", ""))
            digits = len(number.partition(".")[2])
            there = [
                float(text.replace(",", ""))
                for text in re.findall(r"\d[\d,]*\.?\d*", page)
            ]
            assert any(round(value, digits) == shown for value in there), (row, number)
