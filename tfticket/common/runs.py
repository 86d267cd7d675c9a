"""The folder of a run: continued, replaced or left alone; and what it was made with."""

import importlib
import json
import pathlib
from collections.abc import Iterable, Mapping
from typing import Any

import keras

from tfticket._version import __version__
from tfticket.common.files import write_json

CONFIG = "config.json"


def held_config(folder: pathlib.Path) -> dict[str, Any] | None:
    """What the run in a folder was asked to do; `None` where there is no file.

    Raises:
        FileExistsError: If the folder holds files that are no run's.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        config = json.loads((folder / CONFIG).read_text())
        of_a_run = "tfticket" in config.pop("versions")
    except (OSError, ValueError, LookupError, TypeError, AttributeError):
        of_a_run = False
    if not of_a_run:
        raise FileExistsError(
            f"out_dir={folder} holds files that are no run's and won't be touched. "
            "Choose another folder."
        )
    return config


def claim(
    folder: pathlib.Path,
    config: Mapping[str, Any],
    results: Iterable[str],
    overwrite: bool = False,
) -> None:
    """Makes a folder that of an experiment, or finds that it is.

    Args:
        folder: The folder of the run, which need not exist.
        config: What defines the experiment.
        results: Names or patterns of what a run writes beside its configuration.
        overwrite: Whether the results of another experiment may be removed. Other
            files stay.

    Raises:
        FileExistsError: If the folder holds another experiment and `overwrite` is
            off, or files that are no run's.
    """
    config = json.loads(json.dumps(config))
    held = held_config(folder)
    if held == config:
        return
    if held is not None and not overwrite:
        changed = sorted(k for k in config if held.get(k) != config[k])
        raise FileExistsError(
            f"out_dir={folder} holds another experiment: {changed} differ. Choose "
            "another folder, or pass overwrite (--overwrite) to replace that run."
        )
    if held is not None:
        for pattern in (CONFIG, *results):
            for path in folder.glob(pattern):
                path.unlink()
    write_json(folder / CONFIG, {**config, "versions": versions()})


def versions() -> dict[str, str]:
    """Versions of tfticket, Keras and its backend, by name."""
    backend = keras.backend.backend()
    return {
        "tfticket": __version__,
        "keras": keras.__version__,
        backend: importlib.import_module(backend).__version__,
    }
