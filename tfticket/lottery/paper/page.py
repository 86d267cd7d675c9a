"""The page that says what an experiment came to, in Markdown."""

import json
import os
import pathlib
from collections.abc import Mapping, Sequence
from typing import Any

from tfticket.common.arguments import check_bool, check_path
from tfticket.common.files import (
    DAMAGE,
    atomic_path,
    leftovers,
    open_regular,
    write_csv,
    write_json,
)
from tfticket.lottery.engine.run_folder import read_config
from tfticket.lottery.figures.captions import caption
from tfticket.lottery.figures.run import (
    FIGURES,
    Plots,
    accuracy_rows,
    plot_run,
    rewound_to,
    run_settings,
    run_title,
    transfer_rows,
)
from tfticket.lottery.figures.tables import (
    accuracy_cell,
    iteration_cell,
    markdown,
    row_at,
    summary,
    values_of,
)
from tfticket.lottery.figures.trainings import (
    END,
    STOP,
    VERSION,
    Row,
    read_trainings,
    trainings,
)
from tfticket.lottery.paper.claims import (
    ABOUT,
    accuracy_points,
    check,
    claims_markdown,
    percent_earlier,
    plain,
    recipe_differences,
)
from tfticket.lottery.paper.han import check as han_check
from tfticket.lottery.paper.han import han_differences, han_markdown, han_settings
from tfticket.tickets.rounds import EARLY_STOP, percent

# The network of the claims, and the densities of its tables.
_MODEL = "lenet_300_100"
_DENSITIES = (1.0, 0.513, 0.211, 0.135, 0.07, 0.036, 0.029)
_ALT = {
    "accuracy": "Accuracy and early-stop iteration against density",
    "transfer": "The tickets on other data",
    "curves": "Learning curves by density",
    "movement": "How far weights move, for weights that are kept or pruned next",
    "mask": "The pixels that the first layer reads, and its mask",
    "overlap": "Overlap of the masks of two replicates, compared with chance",
    "barrier": "Error between two trainings of a ticket",
    "instability": "Error between two trainings of the dense network, from a step on",
    "attacks": "Accuracy under attack",
    "layers": "Density of each layer",
}
_COLUMNS = {
    "at early stop %": lambda row: accuracy_cell(row, "early_stop_accuracy"),
    "at the end %": lambda row: accuracy_cell(row, "test_accuracy"),
    "early-stop iteration": iteration_cell,
    "n": lambda row: str(row["seeds"]),
    "trainings": lambda row: str(row["replicates"]),
}
_DIFFERENCES = {
    "accuracy at early stop": (STOP, "accuracy", accuracy_points),
    "accuracy at the end": (END, "accuracy", accuracy_points),
    "early stop": (STOP, "iteration", percent_earlier),
}
_DIFFERENCES_ARE = (
    "Tickets are compared with the dense network and with their controls. Accuracies "
    "are in percent, and their differences in percentage points. How much earlier the "
    "ticket stops is computed from the ratio of geometric means, and is negative if it "
    "stops later. Brackets hold 95 % intervals, of paired differences where both "
    "networks have the same seeds, and Welch's otherwise."
)
_SECTION = (
    "section 2 of Frankle & Carbin (2019, [arXiv 1803.03635]"
    "(https://arxiv.org/abs/1803.03635))"
)
_HOW = (
    "Each cell shows the mean ± the standard deviation over n seeds and, in brackets, "
    "the 95 % interval of the mean by Student's t. Copies of a control are averaged "
    "for each seed first."
)


def write_page(
    folder: str | os.PathLike, out: str | os.PathLike, overwrite: bool = False
) -> Plots:
    """Writes the page of a run, the numbers that it is made of, and its pictures.

    The page `NAME.md` is made of two files beside it: `NAME.csv` with a row for each
    training and moment, and `NAME.json` with the run's settings. `page_text` makes it
    of them again.

    Args:
        folder: The run's folder.
        out: The Markdown file to write; pictures go to a folder of its name without
            the suffix.
        overwrite: Whether a page that exists is replaced, its two files, and pictures
            in its folder.

    Returns:
        What was drawn, and what was not.

    Raises:
        ValueError: If `out` is not a `.md` file, the folder is not a run's, or nothing
            in it is finished.
        FileExistsError: If there is a page, one of its files or a picture, unless
            `overwrite`, or a call that was killed left them; nothing is drawn then.
    """
    check_bool("overwrite", overwrite)
    check_path("folder", folder)
    out = check_path("out", out)
    if out.suffix != ".md":
        raise ValueError(f"out must be a Markdown file, NAME.md. Received: out={out}")
    numbers, about = numbers_files(out)
    # All of these come before the page, whose temporary file says whose they are.
    cut_off = not out.exists() and any(leftovers(out.parent, out.name))
    there = (out, numbers, about, *out.with_suffix("").glob("*.png"))
    for path in () if overwrite or cut_off else there:
        if path.exists():
            raise FileExistsError(
                f"'{path}' exists, and writing this page would replace it. Pass "
                "another out, or overwrite=True (--overwrite on the command line)."
            )
    config = read_config(folder)
    with atomic_path(out, overwrite) as temporary:
        try:
            drawn = plot_run(folder, out.with_suffix(""), numbers=False)
            write_csv(trainings(drawn.results, rewound_to(config)), numbers)
            write_json(about, _about(run_title(config), config, drawn, out.parent))
            temporary.write_text(page_text(out), encoding="utf-8")
        except BaseException:
            pictures = [out.with_suffix("") / f"{name}.png" for name in FIGURES]
            for path in () if overwrite else (numbers, about, *pictures):
                path.unlink(missing_ok=True)
            raise
    return drawn


def _about(title, config, drawn, beside):
    return {
        "title": title,
        "config": config,
        "pictures": {
            name: pathlib.Path(os.path.relpath(path, beside)).as_posix()
            for name, path in drawn.written.items()
        },
        "not_drawn": dict(drawn.skipped),
        "notes": [],
    }


def numbers_files(out: str | os.PathLike) -> tuple[pathlib.Path, pathlib.Path]:
    """The two files beside a page that it is made of: `NAME.csv` and `NAME.json`.

    Args:
        out: The page.
    """
    out = pathlib.Path(out)
    return out.with_suffix(".csv"), out.with_suffix(".json")


def page_text(out: str | os.PathLike) -> str:
    """Makes a page's text of the two files beside it.

    Args:
        out: The page, `NAME.md`, which need not be there.

    Returns:
        Markdown.

    Raises:
        FileNotFoundError: If one of the files is missing.
        ValueError: If one of them is not what the report writes.
    """
    numbers, about = numbers_files(out)
    trained = read_trainings(numbers)
    with open_regular(about) as file:
        try:
            known = json.loads(file.read())
            parts = [known[name] for name in _ABOUT]
        except DAMAGE as error:
            raise ValueError(
                f"'{about}' is not what the report writes beside a page: {error!r}"
            ) from error
    for name, value, kind in zip(_ABOUT, parts, _ABOUT.values(), strict=True):
        if not isinstance(value, kind):
            raise ValueError(f"'{about}': {name} must be of type {kind.__name__}.")
    title, config, pictures, not_drawn, notes = parts
    return page(trained, config, title, pictures, not_drawn, notes)


_ABOUT: dict[str, type] = {
    "title": str,
    "config": dict,
    "pictures": dict,
    "not_drawn": dict,
    "notes": list,
}


def page(
    trained: Sequence[Row],
    config: Mapping[str, Any],
    title: str,
    pictures: Mapping[str, str],
    not_drawn: Mapping[str, str],
    notes: Sequence[str] = (),
) -> str:
    """The page's text.

    Args:
        trained: What `tfticket.lottery.figures.trainings.trainings` returns.
        config: The run's configuration.
        title: Of the page.
        pictures: Name of a figure to the link of its file.
        not_drawn: Name of a figure to why it is missing.
        notes: Paragraphs for the head of the page.
    """
    table = summary(trained)
    all_rounds = markdown(
        table,
        {
            "branch": "branch",
            "round": "round",
            "density %": lambda row: percent(row["density"], 1),
            **_COLUMNS,
        },
    )
    is_han = _is_han(config)
    if is_han:
        first = None
    elif run_settings(config).get("model") == _MODEL:
        first = main_table(table)
    else:  # the densities of the main table are those of one network
        first = all_rounds
    sections = [
        f"# {_kind(config)}: {title}",
        *notes,
        f"{_HOW} {EARLY_STOP}",
        _clock(table, config),
        _unfinished(table),
        first,
        *(() if is_han else _differences(trained, table)),
        "## Against the paper",
        *_against_the_paper(trained, config),
        "## Recipe",
        recipe_table(trained, config),
        *_pictures(pictures, not_drawn, table),
        *(() if first is all_rounds else ("## All rounds", all_rounds)),
    ]
    return "\n\n".join(section for section in sections if section) + "\n"


def main_table(rows: Sequence[Row]) -> str:
    """The ticket against its mask re-initialised, at the paper's densities.

    Args:
        rows: What `tfticket.lottery.figures.tables.summary` returns.
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


def _differences(trained, rows):
    """The section that compares tickets with what was trained beside them, if any."""
    tickets = {row["round"]: row for row in rows if row["branch"] == "ticket"}
    dense = tickets.pop(0, None)
    lines = []
    for number, ticket in sorted(tickets.items()):
        # Accuracies on other data differ for another reason.
        controls = [
            row
            for row in rows
            if row["round"] == number
            and row["branch"].partition(":")[0] not in ("ticket", "transfer")
        ]
        if not controls:
            continue
        for other in filter(None, (dense, *controls)):
            name = "dense" if other is dense else other["branch"]
            line = {"kept": percent(ticket["density"], 1), "other": name}
            for column, of in _DIFFERENCES.items():
                line[column] = _difference(trained, ticket, other, *of)
            lines.append(line)
    if not lines:
        return
    columns = {"weights kept %": "kept", "against": "other"}
    yield "## Differences"
    yield _DIFFERENCES_ARE
    yield markdown(lines, columns | {name: name for name in _DIFFERENCES})


def _difference(trained, ticket, other, moment, column, quantity):
    arms = [values_of(trained, row, moment, column) for row in (ticket, other)]
    return quantity(*arms).found if all(arms) else "-"


def recipe_table(trained: Sequence[Row], config: Mapping[str, Any]) -> str:
    """What defines the run, and what it ran on, as a Markdown table.

    Args:
        trained: What `tfticket.lottery.figures.trainings.trainings` returns.
        config: The run's configuration.
    """
    values = run_settings(config)
    ended = [row for row in trained if row["moment"] == END]
    known = {row["seed"] for row in trained} - {None}
    values["seeds finished"] = sorted(known) or "not kept"
    for name in dict.fromkeys(name for row in ended for name in row):
        if name.startswith(VERSION):
            versions = {row.get(name) for row in ended} - {None}
            values[name.removeprefix(VERSION)] = sorted(versions)
    values["trainings"] = f"{len(ended):,}"
    seconds = [row["seconds"] for row in ended]
    if None not in seconds:
        values["trainings"] += f", {sum(seconds) / 3600:.1f} hours in all"
    lines = [
        {"name": name.replace("_", " "), "value": plain(value)}
        for name, value in values.items()
        if name == "rewind_to" or value not in (None, [], ())
        if not _is_unused(name, values)
    ]
    return markdown(lines, {"setting": "name", "value": "value"})


def _is_unused(name, values):
    """Whether a setting means nothing beside the others."""
    if name in ("momentum", "nesterov"):
        return values.get("optimizer") != "sgd"
    return name == "rewind_clock" and not values.get("rewind_to")


def _clock(rows, config):
    """What iterations of rewound networks count from, if there are such."""
    late = any(row["branch"].startswith("late_rewind:") for row in rows)
    if not late and not rewound_to(config):
        return ""
    text = (
        "All iterations are counted on the clock of the dense training: a network that "
        "was rewound to its step K begins at K."
    )
    if run_settings(config).get("rewind_clock", "restart") == "restart":
        text += (
            " In this run such a network trained for as many steps as the dense one, "
            "and so ended K steps after it."
        )
    return text


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


def verdicts(trained: Sequence[Row], config: Mapping[str, Any]) -> list[str]:
    """What of the paper's was reproduced, a line each.

    Args:
        trained: What `tfticket.lottery.figures.trainings.trainings` returns.
        config: The run's configuration.
    """
    claims, differences = _judged(trained, config)
    lines = [
        f"{claim.mark}: {claim.paper}"
        + (f", at {claim.moment}" if claim.moment else "")
        + f": {claim.found}"
        for claim in claims
    ]
    return ([_no_verdict(differences)] if differences else []) + lines


def _judged(trained, config):
    """The claims of the paper that the run is of, and why they get no verdict."""
    settings = run_settings(config)
    is_han = han_settings(settings)
    differences = (han_differences if is_han else recipe_differences)(settings)
    # What was given as an object has a name, which anything can have.
    own = {"data": "data", "build": "a network"}
    differences += [
        f"{name} of the caller's own"
        for key, name in own.items()
        if key in (config.get("identity") or {})
    ]
    if is_han:
        return han_check(trained, settings, not differences), differences
    if settings.get("model") != _MODEL:
        return [], differences
    return check(trained, not differences), differences


def _no_verdict(differences):
    return (
        "There are no verdicts, since this is not the paper's experiment: "
        f"{'; '.join(differences)}."
    )


def _is_han(config):
    # Fine-tuned rather than rewound: another paper's experiment.
    return han_settings(run_settings(config))


def _kind(config):
    return "Prune and fine-tune" if _is_han(config) else "The lottery ticket experiment"


def _against_the_paper(trained, config):
    settings = run_settings(config)
    claims, differences = _judged(trained, config)
    if _is_han(config):
        yield (
            "This table compares the run with tables 1, 3 and 4 of Han et al. (2015, "
            "[arXiv 1506.02626](https://arxiv.org/abs/1506.02626)). The error is that "
            "on the test set at the end of training."
        )
        yield han_markdown(trained, settings)
    elif not claims:
        yield (
            f"No claims are judged: those in {_SECTION} are about LeNet-300-100 on "
            "MNIST."
        )
        return
    else:
        yield f"This table judges the claims in {_SECTION}."
    yield ABOUT
    if differences:
        yield f"**{_no_verdict(differences)}**"
    yield claims_markdown(claims) if claims else None


def _pictures(pictures, not_drawn, rows):
    if pictures or not_drawn:
        yield "## Pictures"
    of = {"accuracy": accuracy_rows(rows), "transfer": transfer_rows(rows)}
    for name, link in pictures.items():
        yield f"![{_ALT.get(name, name)}]({link})"
        if name in _ALT:
            yield f"*{caption(name, of.get(name, []))}*"
    if not_drawn:
        reasons = [f"{name} ({why})" for name, why in not_drawn.items()]
        yield f"Not drawn: {'; '.join(reasons)}."
