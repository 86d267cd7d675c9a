"""Docstring examples run, public names have one, and the modules are as drawn."""

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
def test_examples(module, tmp_path, monkeypatch):
    if module is not tfticket.models:  # whose examples show the settings
        monkeypatch.setattr(devices, "compile_options", without_xla.compile_options)
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
        assert len(path.read_text().splitlines()) <= 400, path


def test_architecture_lists_every_module_and_imports_go_up_the_list():
    package = pathlib.Path(tfticket.__file__).parent
    page = (package.parent / "docs" / "architecture.md").read_text()
    rows = re.findall(r"^\| (`.*`) \|", page, re.MULTILINE)
    rank = {
        name: row
        for row, names in enumerate(rows)
        for name in re.findall(r"\w+", names)
    }
    for path in package.rglob("*.py"):
        name = path.relative_to(package).parts[0].removesuffix(".py")
        if name.startswith("_"):
            continue
        for used in re.findall(
            r"^ *from tfticket\.([a-z][a-z_]*)", path.read_text(), re.M
        ):
            assert used == name or rank[used] < rank[name], f"{path} imports {used}"
