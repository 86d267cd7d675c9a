"""Docstring examples run, public names have one, and the packages are as drawn."""

import ast
import doctest
import importlib
import inspect
import pathlib
import pkgutil
import re

import keras
import numpy as np
import pytest
from fixtures import without_xla

import tfticket
from tfticket import devices

MODULES = [
    importlib.import_module(module.name)
    for module in pkgutil.walk_packages(tfticket.__path__, "tfticket.")
]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_examples(module, tmp_path, monkeypatch, quick):
    if module is not tfticket.models:  # whose examples show the settings
        monkeypatch.setattr(devices, "compile_options", without_xla.compile_options)
    known = dict(tfticket.criteria._CRITERIA)
    monkeypatch.setattr(tfticket.criteria, "_CRITERIA", known)
    scope = {"keras": keras, "np": np, "tfticket": tfticket, "folder": tmp_path}
    finder = doctest.DocTestFinder(exclude_empty=True)
    for test in finder.find(module, extraglobs=scope):
        keras.utils.clear_session(free_memory=False)
        runner = doctest.DocTestRunner()
        runner.run(test)
        assert runner.failures == 0, test.name


@pytest.mark.parametrize("name", tfticket.__all__)
def test_public_names_are_documented(name):
    thing = getattr(tfticket, name)
    if inspect.isclass(thing) or inspect.isfunction(thing):
        assert inspect.getdoc(thing), name


def test_modules_are_small_rooms():
    for path in pathlib.Path(tfticket.__file__).parent.rglob("*.py"):
        assert len(path.read_text().splitlines()) <= 500, path


# From below to above; a package imports from those before its own group, and from
# itself. `keras_models` takes nothing of masks, `sparsity` nothing of Keras models.
_FLOORS = (
    ("_version",),
    ("common",),
    ("data", "devices", "keras_models"),
    ("models", "sparsity"),
    ("edge_popup", "pruning"),
    ("inspection", "tickets"),
    ("compat", "export", "lottery"),
)


def test_packages_import_from_lower_floors_only():
    floors = {name: i for i, floor in enumerate(_FLOORS) for name in floor}
    root = pathlib.Path(tfticket.__file__).parent
    for path in root.rglob("*.py"):
        own = path.relative_to(root).parts[0].removesuffix(".py")
        if own == "__init__":
            continue  # the face
        imported = r"^ *(?:from|import) tfticket(?:\.| import )(\w+)"
        for used in re.findall(imported, path.read_text(), re.MULTILINE):
            assert used == own or floors[used] < floors[own], f"{path}: {used}"


def _told(path):
    """What a module says it holds; a package also for whom, its next sentence."""
    text = ast.get_docstring(ast.parse(path.read_text()))
    holds, *more = [" ".join(part.split()) for part in text.split("\n\n")]
    if path.name != "__init__.py":
        return holds
    whom = re.split(r"(?<=\.) ", more[0])[0]
    assert whom.startswith("For "), path
    return f"{holds} {whom}"


def test_the_table_of_packages_is_their_docstrings():
    root = pathlib.Path(tfticket.__file__).parent
    rows = set()
    for number, floor in enumerate(_FLOORS):
        for name in set(floor) - {"_version"}:
            paths = sorted((root / name).rglob("__init__.py"))
            for path in paths or [root / f"{name}.py"]:
                folder = path.parent if paths else path
                shown = folder.relative_to(root).as_posix()
                rows.add((str(number), f"`{shown}`", _told(path)))
    for name in ("tfticket", "tfticket_cli"):
        number = len(_FLOORS) + (name == "tfticket_cli")
        path = root.parent / name / "__init__.py"
        rows.add((str(number), f"`{name}`", _told(path)))
    page = (root.parent / "docs" / "architecture.md").read_text()
    table = re.findall(r"^\| (\d) \| (.*?) \| (.*) \|$", page, re.MULTILINE)
    assert len(table) == len(rows)
    assert set(table) == rows


def test_few_rooms_at_the_top():
    root = pathlib.Path(tfticket.__file__).parent
    names = {path.name for path in root.iterdir()} - {"__pycache__", "py.typed"}
    assert len({name for name in names if not name.startswith("_")}) <= 13
