"""Several runs in one table and one figure: sweeps over a recipe, for example."""

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

from tfticket.common.arguments import (
    check_choice,
    check_instance,
    check_list,
    check_path,
    shown,
)
from tfticket.common.files import write_csv
from tfticket.lottery.engine.run_folder import read_config
from tfticket.lottery.figures import plots
from tfticket.lottery.figures.captions import caption
from tfticket.lottery.figures.run import (
    accuracy_rows,
    check_formats,
    finished,
    rewound_to,
    run_settings,
    run_title,
    write_captions,
    write_figure,
)
from tfticket.lottery.figures.tables import Row, rows
from tfticket.lottery.recipe import Recipe

AXES = ("density", "parameters")
_WANTED = "a list of folders, or a dict of labels to folders"


def compare_runs(
    runs: Sequence[str | os.PathLike] | Mapping[str, str | os.PathLike],
    out_dir: str | os.PathLike,
    x: str = "density",
    formats: Sequence[str] = ("png",),
) -> list[Row]:
    """Draws the accuracies of several runs in one figure, and tabulates them.

    Args:
        runs: The folders of two runs or more, finished or not. In a list, a run's
            label lists the settings in which it differs from the others, "width=0.5"
            for example, or is its folder if there are none. In a dict, its key is the
            label.
        out_dir: Folder for `comparison.png`, its numbers `comparison.csv`, and its
            caption.
        x: What the figure has on its x axis: "density", or "parameters" for the
            number of weights left, at which networks of different sizes compare.
        formats: As for `plot_run`.

    Returns:
        A row for each run, branch and round.

    Raises:
        TypeError: If a value is of the wrong type.
        ValueError: If there are fewer than two runs, one is there twice, a folder is
            not a run's, nothing in it is finished, or a value is unknown; nothing is
            written then.

    Example:

    >>> folders = []
    >>> for rate in (0.2, 0.4):
    ...     recipe = tfticket.lottery.Recipe(iterations=20, rate=rate, width=0.1)
    ...     experiment = tfticket.lottery.LotteryExperiment(recipe, rounds=1)
    ...     found = experiment.run(folder)
    ...     folders.append(folder / experiment.name)
    >>> rows = tfticket.lottery.compare_runs(folders, folder / "compared")
    >>> [(row["run"], row["round"]) for row in rows]
    [('rate=0.2', 0), ('rate=0.2', 1), ('rate=0.4', 0), ('rate=0.4', 1)]
    """
    check_choice("x", x, AXES)
    formats = check_formats(formats)
    out = check_path("out_dir", out_dir)
    labelled = _labelled(runs)
    found = _rows_of(labelled)
    drawn = accuracy_rows(found)
    title = " / ".join(
        dict.fromkeys(run_title(config) for _, config in labelled.values())
    )
    write_csv(found, out / "comparison.csv")
    write_figure(
        lambda path: plots.comparison(drawn, path, title, x),
        out / "comparison",
        formats,
    )
    write_captions({"comparison": caption("comparison", drawn)}, out)
    return found


def compared_rows(
    runs: Sequence[str | os.PathLike] | Mapping[str, str | os.PathLike],
) -> list[Row]:
    """The rows of several runs, each with the label of its run as `run`.

    Args:
        runs: As for `compare_runs`.

    Raises:
        TypeError: Where `compare_runs` raises it.
        ValueError: Where `compare_runs` raises it.
    """
    return _rows_of(_labelled(runs))


def _rows_of(labelled):
    return [
        {"run": label, **row}
        for label, (folder, config) in labelled.items()
        for row in rows(finished(folder), rewound_to(config))
    ]


def _labelled(runs):
    """Label to the folder and the configuration of a run."""
    if isinstance(runs, Mapping):
        for label in runs:
            check_instance("runs", label, str, _WANTED)
        labels, folders = list(runs), list(runs.values())
    else:
        labels, folders = [], list(check_list("runs", runs, _WANTED))
    folders = [check_path("runs", folder) for folder in folders]
    if len(folders) < 2:
        raise ValueError(
            "runs must be two folders or more; plot_run draws the figures of one. "
            f"Received: runs={shown(runs)}"
        )
    configs = [read_config(folder) for folder in folders]
    labels = labels or _labels(folders, configs)
    pairs = zip(folders, configs, strict=True)
    return dict(zip(labels, pairs, strict=True))


def _labels(folders, configs):
    """What defines each run and not all others."""
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ValueError(f"runs must be different ones. Received: {shown(folders)}")
    # All that a run of `find_ticket` tells is its settings; other runs know what of
    # theirs is not as by default.
    settings = [run_settings(config) for config in configs]
    fields = {field.name for field in dataclasses.fields(Recipe)}
    identities = [
        config["identity"]
        if isinstance(config.get("identity"), dict)
        else {k: v for k, v in known.items() if k in fields}
        for config, known in zip(configs, settings, strict=True)
    ]
    names = [
        name
        for name in dict.fromkeys(name for identity in identities for name in identity)
        if len({str(identity.get(name)) for identity in identities}) > 1
    ]
    found = []
    for folder, known, identity in zip(folders, settings, identities, strict=True):
        # What is as by default is in the recipe alone.
        values: dict[str, Any] = known | identity
        label = ", ".join(f"{name}={values.get(name)}" for name in names)
        found.append(label or str(folder))
    same = [label for label in found if found.count(label) > 1]
    return [
        f"{label} ({folder})" if label in same else label
        for label, folder in zip(found, folders, strict=True)
    ]
