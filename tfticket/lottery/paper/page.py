"""The page that says what an experiment came to, in Markdown."""

import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfticket.common.arguments import check_bool, check_path
from tfticket.common.files import atomic_path, leftovers
from tfticket.lottery.engine.run_folder import read_config
from tfticket.lottery.figures.run import (
    FIGURES,
    Plots,
    plot_run,
    run_settings,
    run_title,
)
from tfticket.lottery.figures.tables import (
    Row,
    accuracy_cell,
    iteration_cell,
    markdown,
    row_at,
    rows,
)
from tfticket.lottery.paper.claims import check, claims_markdown
from tfticket.lottery.paper.han import han_markdown
from tfticket.lottery.results import PartResult
from tfticket.tickets.rounds import EARLY_STOP, percent

_DENSITIES = (1.0, 0.513, 0.211, 0.135, 0.07, 0.036, 0.029)
_CAPTIONS = {
    "accuracy": "Accuracy and early-stop iteration against density",
    "transfer": "The tickets on other data",
    "curves": "Learning curves by density",
    "movement": "How far weights move, for weights that are kept or pruned next",
    "mask": "The pixels that the first layer reads, and its mask",
    "overlap": "Overlap of the masks of two replicates, compared with chance",
    "barrier": "Error between two trainings of a ticket",
    "attacks": "Accuracy under attack",
    "layers": "Density of each layer",
}
_COLUMNS = {
    "at early stop %": lambda row: accuracy_cell(row, "early_stop_accuracy"),
    "at the end %": lambda row: accuracy_cell(row, "test_accuracy"),
    "early-stop iteration": iteration_cell,
    "trainings": lambda row: str(row["replicates"]),
}


def write_page(
    folder: str | os.PathLike, out: str | os.PathLike, overwrite: bool = False
) -> Plots:
    """Writes the page of a run, and its pictures to a folder beside it.

    Args:
        folder: Of the run.
        out: The Markdown file to write; pictures go to a folder of its name without
            the suffix.
        overwrite: Whether a page that exists is replaced, and pictures in its folder.

    Returns:
        What was drawn, and what was not.

    Raises:
        ValueError: If `out` is not a `.md` file, the folder is not a run's, or nothing
            in it is finished.
        FileExistsError: If there is a page or a picture, unless `overwrite`, or a call
            that was killed left the pictures; nothing is drawn then.
    """
    check_bool("overwrite", overwrite)
    check_path("folder", folder)
    out = check_path("out", out)
    if out.suffix != ".md":
        raise ValueError(f"out must be a Markdown file, NAME.md. Received: out={out}")
    config = read_config(folder)
    # Pictures are drawn before the page, whose temporary file says whose they are.
    cut_off = not out.exists() and leftovers(out.parent, out.name)
    pictures = out.with_suffix("").glob("*.png")
    for path in () if overwrite or cut_off else (out, *pictures):
        if path.exists():
            raise FileExistsError(
                f"'{path}' exists, and writing this page would replace it. Pass "
                "another out, or overwrite=True (--overwrite on the command line)."
            )
    with atomic_path(out, overwrite) as temporary:
        try:
            drawn = plot_run(folder, out.with_suffix(""), numbers=False)
            text = page(drawn.results, config, run_title(folder), drawn, out.parent)
            temporary.write_text(text, encoding="utf-8")
        except BaseException:
            for name in () if overwrite else FIGURES:
                out.with_suffix("").joinpath(f"{name}.png").unlink(missing_ok=True)
            raise
    return drawn


def page(
    results: Sequence[PartResult],
    config: Mapping[str, Any],
    title: str,
    drawn: Plots,
    beside: pathlib.Path,
) -> str:
    """The page's text.

    Args:
        results: Finished parts.
        config: Of the run.
        title: Of the page.
        drawn: The pictures.
        beside: The folder that the page is in, for links.
    """
    table = rows(results)
    sections = [
        f"# {_kind(config)}: {title}",
        "Each cell shows the mean over replicates and, in brackets, the range from the "
        f"lowest to the highest. {EARLY_STOP}",
        _unfinished(table),
        None if _is_han(config) else main_table(table),
        "## Against the paper",
        *_against_the_paper(table, results, config),
        "## Recipe",
        recipe_table(results, config),
        "## Pictures",
        *_pictures(drawn, beside),
        "## All rounds",
        markdown(
            table,
            {
                "branch": "branch",
                "round": "round",
                "density %": lambda row: percent(row["density"], 1),
                **_COLUMNS,
            },
        ),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def main_table(rows: Sequence[Row]) -> str:
    """The ticket against its mask re-initialised, at the paper's densities.

    Args:
        rows: What `tfticket.lottery.figures.tables.rows` returns.
    """
    lines = []
    for density in _DENSITIES:
        for branch, name in (("ticket", "ticket"), ("reinit", "re-initialised")):
            row = row_at(rows, branch, density)
            if row is not None:
                name = "dense" if row["round"] == 0 else name
                lines.append({**row, "network": name, "wanted": percent(density, 1)})
    return markdown(
        lines, {"weights kept %": "wanted", "network": "network", **_COLUMNS}
    )


def recipe_table(results: Sequence[PartResult], config: Mapping[str, Any]) -> str:
    """What defines the run, and what it ran on, as a Markdown table.

    Args:
        results: Finished parts.
        config: Of the run.
    """
    values = run_settings(config)
    values["seeds finished"] = sorted({result.part.seed for result in results})
    for name in dict.fromkeys(name for r in results for name in r.versions):
        values[name] = sorted({r.versions[name] for r in results if name in r.versions})
    hours = sum(sum(result.seconds.values()) for result in results) / 3600
    values["trainings"] = f"{len(results)}, {hours:.1f} hours in all"
    lines = [
        {"name": name.replace("_", " "), "value": _plain(value)}
        for name, value in values.items()
        if name == "rewind_to" or value not in (None, [], ())
    ]
    return markdown(lines, {"setting": "name", "value": "value"})


def _plain(value):
    if value is None:
        return "none"
    if isinstance(value, list | tuple):
        return ", ".join(map(_plain, value))
    return f"{value:,}" if type(value) is int else " ".join(str(value).split())


def _unfinished(rows):
    uneven = [
        branch
        for branch in dict.fromkeys(row["branch"] for row in rows)
        if len({row["replicates"] for row in rows if row["branch"] == branch}) > 1
    ]
    if not uneven:
        return ""
    return (
        "**The run is not finished**: rounds have different numbers of trainings in "
        f"{', '.join(uneven)}, so their means are over different seeds."
    )


def verdicts(results: Sequence[PartResult], config: Mapping[str, Any]) -> list[str]:
    """What of the paper's was reproduced, a line each.

    Args:
        results: Finished parts.
        config: Of the run.
    """
    han = han_markdown(results, run_settings(config))
    if han is not None:
        return [han.splitlines()[-1]]
    return [
        f"{claim.mark}: {claim.paper}, at {claim.moment}: {claim.found}"
        for claim in check(rows(results))
    ]


def _is_han(config):
    # Fine-tuned rather than rewound: another paper's experiment.
    return run_settings(config).get("rewind_to", 0) is None


def _kind(config):
    return "Prune and fine-tune" if _is_han(config) else "The lottery ticket experiment"


def _against_the_paper(table, results, config):
    values = run_settings(config)
    if (han := han_markdown(results, values)) is not None:
        return [
            "This table compares the run with tables 1, 3 and 4 of Han et al. (2015, "
            "[arXiv 1506.02626](https://arxiv.org/abs/1506.02626)). The error is that "
            "on the test set at the end of training.",
            han,
        ]
    return [_about_claims(values), claims_markdown(check(table))]


def _about_claims(values):
    of = (values.get("model"), values.get("dataset"))
    text = (
        "This table checks the claims in section 2 of Frankle & Carbin (2019, "
        "[arXiv 1803.03635](https://arxiv.org/abs/1803.03635)). Differences of "
        "accuracy are in percentage points."
    )
    if of == ("lenet_300_100", "mnist"):
        return text
    return f"{text} The claims are about LeNet-300-100 on MNIST; this run differs."


def _pictures(drawn, beside):
    for name, path in drawn.written.items():
        link = pathlib.Path(os.path.relpath(path, beside)).as_posix()
        yield f"![{_CAPTIONS[name]}]({link})"
    if drawn.skipped:
        reasons = [f"{name} ({why})" for name, why in drawn.skipped.items()]
        yield f"Not drawn: {'; '.join(reasons)}."
