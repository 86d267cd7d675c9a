"""Public names are annotated, and a type checker reports their wrong use."""

import importlib
import inspect
import os
import pathlib
import subprocess
import sys

import pytest

import tfticket

ROOT = pathlib.Path(__file__).parents[1]
PUBLIC = [
    "tfticket",
    "tfticket.compat.convert",
    "tfticket.compat.tfmot",
    "tfticket.criteria",
    "tfticket.data",
    "tfticket.devices",
    "tfticket.export",
    "tfticket.lottery",
    "tfticket.models",
    "tfticket.inspection.progress",
    "tfticket.tickets.pictures",
    "tfticket.schedules",
    "tfticket.sensitivity",
    "tfticket.structures",
]
USE = """
import keras

import tfticket

model = tfticket.prune(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))
ticket: tfticket.Ticket = tfticket.Ticket.from_model(model)
density: float = ticket.density
masks = tfticket.get_masks(model)
kept: int = int(masks["dense/kernel"].sum())
callback = tfticket.IterativeMagnitudePruning(rounds=2, rate=0.2, scope="global")
schedule = tfticket.schedules.PolynomialDecay(0.0, 0.9, 0, 100)
error: float = tfticket.export.saved_model(model, "model").max_error
recipe = tfticket.lottery.Recipe(iterations=50)
for result in tfticket.lottery.LotteryExperiment(recipe).run("runs"):
    iteration: int | None = result.early_stop_iteration
"""
# A wrong line to what is said of it.
WRONG = {
    "tfticket.IterativeMagnitudePruning(rounds='two')": "arg-type",
    "tfticket.IterativeMagnitudePruning(rounds=2, scope='both')": "arg-type",
    "tfticket.schedules.PolynomialDecay(0.0, 0.9)": "call-arg",
    "text: str = ticket.density": "assignment",
    "tfticket.export.saved_model(model, 'model', form='dense')": "call-arg",
    "tfticket.export.litert(model, 'x', quantization='int4')": "arg-type",
    "tfticket.lottery.Recipe(iterations=0.5)": "arg-type",
    "tfticket.prunee(model)": "attr-defined",
}


def public():
    for module in map(importlib.import_module, PUBLIC):
        names = getattr(module, "__all__", None)
        for name in names or [n for n in vars(module) if not n.startswith("_")]:
            thing = getattr(module, name)
            home = getattr(thing, "__module__", None) or ""
            if home.startswith("tfticket") and (names or home == module.__name__):
                yield thing


def functions():
    """Public functions, and methods that are not Keras's or dataclasses'."""
    for thing in public():
        if inspect.isfunction(thing):
            yield thing.__qualname__, thing
        if not inspect.isclass(thing):
            continue
        theirs = {
            name
            for base in thing.__mro__
            if base is not object and not base.__module__.startswith("tfticket")
            for name in vars(base)
        }
        for name, member in inspect.getmembers(thing):
            if name.startswith("_") and name != "__init__":
                continue
            if isinstance(member, property):
                member = member.fget
            function = getattr(member, "__func__", member)
            if name in theirs and name != "__init__":
                continue
            if getattr(function, "__module__", "").startswith("tfticket"):
                yield f"{thing.__qualname__}.{name}", function


def test_public_functions_are_annotated():
    found = dict(functions())
    assert len(found) > 80
    bare = {}
    for name, function in found.items():
        signature = inspect.signature(function)
        missing = [
            p.name
            for p in signature.parameters.values()
            if p.annotation is p.empty and p.name not in ("self", "cls")
        ]
        if signature.return_annotation is signature.empty and "__init__" not in name:
            missing.append("return")
        if missing and "<lambda>" not in function.__qualname__:
            bare[name] = missing
    assert not bare


@pytest.fixture(scope="module")
def told(tmp_path_factory):
    """What mypy says of a script outside the sources that uses tfticket, by line."""
    pytest.importorskip("mypy")
    script = tmp_path_factory.mktemp("types") / "script.py"
    script.write_text("\n".join([USE, *WRONG, ""]))
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mypy",
            f"--config-file={ROOT / 'setup.cfg'}",
            f"--cache-dir={ROOT / '.mypy_cache'}",
            script,
        ],
        env={**os.environ, "MYPYPATH": str(ROOT)},
        cwd=script.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert not done.stderr
    lines = [line for line in done.stdout.splitlines() if ": error: " in line]
    return script, lines


@pytest.mark.slow
def test_right_use_passes_and_wrong_use_is_reported(told):
    script, lines = told
    text = script.read_text().splitlines()
    found = {}
    for line in lines:
        path, number, message = line.split(":", 2)
        assert path == script.name, line  # nothing is wrong in tfticket itself
        found.setdefault(text[int(number) - 1], message)
    assert set(found) == set(WRONG)
    for line, code in WRONG.items():
        assert f"[{code}]" in found[line]


def test_marker():
    assert (pathlib.Path(tfticket.__file__).parent / "py.typed").is_file()
