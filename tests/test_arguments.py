"""Whatever is passed for an argument is taken for what it is, or refused by name."""

import contextlib
import inspect
import io
import pathlib
import traceback

import numpy as np
import pytest
from fixtures import check_here
from fixtures.public_calls import (
    CALLS,
    HOOKS,
    LONG,
    RESULTS,
    VALUES,
    Began,
    find,
    public_callables,
    write_files,
)

import tfticket

PACKAGE = pathlib.Path(tfticket.__file__).parent


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    with pytest.MonkeyPatch.context() as patch:
        check_here.install(patch.setattr)
        write_files(folder)
    return folder


def test_every_public_callable_is_in_the_table():
    there = public_callables()
    known = {id(find(name)) for name in [*CALLS, *HOOKS, *RESULTS]}
    methods = {name for name in there if name in CALLS}
    missing = [n for n, x in there.items() if id(x) not in known and n not in methods]
    assert not missing


@pytest.mark.parametrize("name", CALLS)
def test_every_argument_is_in_the_table(name):
    call = CALLS[name]
    parameters = inspect.signature(find(name)).parameters.values()
    named = {
        p.name
        for p in parameters
        if p.kind not in (p.VAR_KEYWORD, p.VAR_POSITIONAL) and p.name != "self"
    }
    good = set(call.good())
    assert set(call.kinds) <= good
    assert set(call.kinds) == good or "Popup" in name  # the rest is Keras's
    assert not named - good or "UpdatePruningStep" in name


def raised_in_the_package(error):
    frames = traceback.extract_tb(error.__traceback__)
    return PACKAGE in pathlib.Path(frames[-1].filename).parents


def shows(message, value):
    if isinstance(value, (list, dict)) and value:
        held = [*value, *(value.values() if isinstance(value, dict) else ())]
        if any(shows(message, part) for part in held):
            return True
    shape = getattr(value, "shape", ())
    texts = {str(value), repr(value), str(shape) if shape else repr(value)}
    texts |= {repr(np.asarray(value))}
    texts |= {"array("} if shape else set()
    texts |= {str(float(value))} if isinstance(value, int) else set()
    if isinstance(value, (list, dict)):
        texts |= {f"{type(value).__name__} of {len(value)}", str(list(value))}
    return any(" ".join(text.split())[:40] in message for text in texts)


def wrong(call, argument, label, outcome, value):
    """What is wrong with an outcome, or nothing."""
    kind = call.kinds[argument]
    if not isinstance(outcome, Exception):
        if label not in kind.takes | kind.may:
            return "accepted"
        return ""
    if label in kind.takes:
        return f"refused: {type(outcome).__name__}: {outcome}"
    if not isinstance(outcome, (TypeError, ValueError, *call.errors)):
        return f"raised {type(outcome).__name__}: {outcome}"
    message = " ".join(str(outcome).split())
    if not raised_in_the_package(outcome):
        last = traceback.extract_tb(outcome.__traceback__)[-1]
        return f"raised in {last.filename}:{last.lineno}: {outcome!r}"
    if isinstance(outcome, OSError) and shows(message, value):
        return ""  # a path that is not there
    if argument not in message and call.named.get(argument, argument) not in message:
        return f"does not say {argument}: {message}"
    nothing = value is None or (isinstance(value, (list, dict)) and not value)
    if not nothing and not shows(message, value):
        return f"does not show the value: {message}"
    if len(message) > 1500:
        return f"goes on for {len(message)} characters"
    return ""


class Tried:
    """Calls with one argument replaced, the good ones made again when used."""

    def __init__(self, name):
        self.call, self._function = CALLS[name], find(name)
        self._name, self._made = name, None

    def __call__(self, argument, value):
        if self._made is None:
            within = self.call.within
            good = self.call.good()
            function = self._function
            if within is not None:
                function = getattr(within(), self._name.rpartition(".")[2])
            self._made = function, good
        function, good = self._made
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                function(**{**good, argument: value} if argument else good)
        except Exception as error:
            return error
        except Began:
            pass
        self._made = None
        return None


def patched(patch, call):
    def begin(*args, **kwargs):
        raise Began

    for name in call.work:
        patch.setattr(name, begin)


def failures(name, labels):
    tried = Tried(name)
    found = []
    brief = labels is FEW and name in LONG
    if not brief:
        outcome = tried(None, None)
        assert outcome is None, outcome
    for argument in tried.call.kinds:
        kind = tried.call.kinds[argument]
        for label in labels:
            if label in kind.untried or (brief and label in kind.takes | kind.may):
                continue
            value = VALUES[label]
            problem = wrong(tried.call, argument, label, tried(argument, value), value)
            if problem:
                found.append(f"{argument}={label}: {problem}")
    return found


# Those that found most; all of them take minutes.
FEW = ("None", "text", "NaN", "True", "0-d 1")
EVERY = pytest.mark.parametrize(
    "labels", [FEW, pytest.param(tuple(VALUES), marks=pytest.mark.slow)], ids=len
)


@EVERY
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", CALLS)
def test_an_argument_is_taken_or_refused_by_name(
    name, labels, files, monkeypatch, tmp_path
):
    for path in files.iterdir():
        (tmp_path / path.name).symlink_to(path)
    monkeypatch.chdir(tmp_path)
    patched(monkeypatch, CALLS[name])
    found = failures(name, labels)
    assert not found, "\n" + "\n".join(found)
