"""Files of every kind that is read, damaged and crafted: refused, or what was written.

`python tests/test_damaged_files.py [INPUTS]` prints the figures of docs/security.md.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import pathlib
import sys
import tempfile
import time
import tracemalloc
import warnings
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import pytest
from fixtures.public_calls import write_files

import tfticket
from tfticket.compat.convert import convert
from tfticket.compat.keras_file import read_keras_file
from tfticket.compat.old_h5 import load_h5
from tfticket.export import triton_export
from tfticket.export.browser import trial
from tfticket.lottery.engine.checkpoint import Checkpoint
from tfticket.lottery.engine.run_folder import LotteryFolder

PART = tfticket.lottery.Part(0, round=1)
FIXTURES = pathlib.Path(__file__).parent / "fixtures"


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Args:
        path: Where it is in the folder that `made` fills.
        read: Reads it, given that folder; gives something that `==` compares, or
            raises.
        checked: Whether the format has checksums, so that no other value is accepted.
    """

    path: str
    read: Callable[[pathlib.Path], Any]
    checked: bool = True


def _arrays(named):
    return {k: (str(v.dtype), v.shape, v.tobytes()) for k, v in named.items()}


def _ticket(folder):
    found = tfticket.Ticket.load(folder / "good.npz")
    return _arrays(found.masks), _arrays(found.weights), found.provenance


def _warned(read):
    """What is read; what was warned of, as an error."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        found = read()
    if found in (None, []):
        raise ValueError(str(caught[0].message) if caught else "nothing, unsaid")
    return found


def _checkpoint(folder):
    found = _warned(Checkpoint(folder / "checkpoint.npz", "key", 0).load)
    return found[0], _arrays(found[1])


@functools.cache
def _into():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")])


def _weights(model):
    return [x.tobytes() for x in model.get_weights()]


def _read_h5(folder):
    return _weights(convert(folder / "whole.h5", _into(), masks_from_zeros=True))


def _read_keras(folder):
    found = read_keras_file(str(folder / "lstm.keras"))
    return [
        (path, [x.tobytes() for x in weights], [x.tobytes() for x in masks])
        for path, weights, masks in found
    ]


def _read_tflite(folder):
    # Not of samples, whose size is what the file asks for.
    path = folder / "good.tflite"
    return trial._signature(path, trial._content(path))


def _read_saved_model(folder):
    return triton_export._config(folder / "saved" / "1", "m", 4, 1)


RESULT = f"run/{PART.path}/result.json"
KINDS = {
    "ticket": Kind("good.npz", _ticket),
    "checkpoint": Kind("checkpoint.npz", _checkpoint),
    "config.json": Kind(
        "run/config.json", lambda folder: tfticket.lottery.read_config(folder / "run")
    ),
    "result.json": Kind(
        RESULT, lambda folder: _warned(lambda: LotteryFolder(folder / "run").results())
    ),
    "metrics.csv": Kind(
        f"run/{PART.path}/metrics.csv",
        lambda folder: tfticket.lottery.read_metrics(folder / "run", PART),
    ),
    "ticket of a part": Kind(
        f"run/{PART.path}/ticket.npz",
        lambda folder: _warned(lambda: LotteryFolder(folder / "run").results()),
    ),
    ".h5 in convert": Kind("whole.h5", _read_h5, checked=False),
    ".h5 in load_h5": Kind(
        "old.h5", lambda folder: _weights(load_h5(folder / "old.h5")), checked=False
    ),
    ".keras in convert": Kind("lstm.keras", _read_keras),
    ".tflite": Kind("good.tflite", _read_tflite, checked=False),
    "saved_model.pb": Kind("saved/1/saved_model.pb", _read_saved_model, checked=False),
}


def made(folder):
    """One file of each kind."""
    write_files(folder)
    random = np.random.default_rng(0)
    values = {"best:a": random.normal(size=300), "variable:0": np.arange(4.0)}
    Checkpoint(folder / "checkpoint.npz", "key", 0).save({"best": 1}, values)
    (folder / "old.h5").write_bytes((folder / "whole.h5").read_bytes())
    model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
    model.export(folder / "exported", verbose=False)
    (folder / "saved/1/saved_model.pb").write_bytes(
        (folder / "exported/saved_model.pb").read_bytes()
    )
    source = FIXTURES / "tf_keras_lstm.keras"
    (folder / "lstm.keras").write_bytes(source.read_bytes())


def damaged(written, count, seed=0):
    """Files made of one: bits and bytes changed, cut, lengthened, moved, made huge."""
    random = np.random.default_rng(seed)
    size = len(written)
    for number in range(count):
        content = bytearray(written)
        at = int(random.integers(size))
        length = int(random.integers(1, 65))
        way = number % 8
        if way < 3:  # one byte
            content[at] ^= (0x01, 0x06, 0xFF)[way]
        elif way == 3:
            del content[at:]
        elif way == 4:  # what may be a length
            content[at : at + 4] = (b"\xff" * 4, b"\x7f\xff\xff\xff", bytes(4))[at % 3]
        elif way == 5:
            content[at : at + length] = random.bytes(length)
        elif way == 6:  # a piece from elsewhere
            other = int(random.integers(size))
            content[at : at + length] = content[other : other + length]
        elif way == 7 and at % 2:
            content[at:at] = random.bytes(length)
        else:  # digits, as of a shape
            content[at : at + 1] = b"9" * length
        yield bytes(content)


def outcome(kind, folder, wanted, honest):
    """What reading came to, and what is wrong with that, if anything."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    # Of this process: a machine that is busy with others makes no file slow.
    began, wrong, found = time.process_time(), "", "refused"
    try:
        with contextlib.redirect_stdout(None):
            value = kind.read(folder)
        found = "the same" if value == wanted else "other values"
        if kind.checked and found == "other values":
            wrong = found
    except (ValueError, OSError) as error:
        # A part is named by its folder.
        named = (folder / kind.path, (folder / kind.path).parent)
        if not any(str(name) in str(error) for name in named):
            wrong = f"no path: {type(error).__name__}: {str(error)[:200]}"
    except Exception as error:
        wrong = f"{type(error).__name__}: {str(error)[:200]}"
    took = time.process_time() - began
    peak = tracemalloc.get_traced_memory()[1] - before
    if took > 2:
        wrong = wrong or f"{took:.1f} s"
    if peak > 2 * honest:
        wrong = wrong or f"{peak / 1e6:.1f} MB where {honest / 1e6:.1f} do"
    return found, wrong, took, peak / honest


def tried(name, folder, count):
    """Figures of a kind, and what went wrong."""
    kind = KINDS[name]
    path = folder / kind.path
    written = path.read_bytes()
    tracemalloc.start()
    try:
        wanted = kind.read(folder)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        kind.read(folder)
        # Whatever the file, reading takes objects of Python and an error's traceback.
        honest = tracemalloc.get_traced_memory()[1] - before + (1 << 17)
        counts: collections.Counter = collections.Counter()
        wrong, slowest, most = [], 0.0, 0.0
        for content in damaged(written, count):
            path.write_bytes(content)
            found, problem, took, memory = outcome(kind, folder, wanted, honest)
            counts[found] += 1
            slowest, most = max(slowest, took), max(most, memory)
            if problem:
                wrong.append(problem)
    finally:
        tracemalloc.stop()
        path.write_bytes(written)
    return counts, wrong, slowest, most


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    made(folder)
    return folder


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("count", [24, pytest.param(5000, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_refused_by_its_path_or_is_the_same(name, count, folder):
    counts, wrong, _, _ = tried(name, folder, count)
    assert not wrong, f"{len(wrong)}: {collections.Counter(wrong).most_common(5)}"
    assert counts["refused"] > count / 8


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
@pytest.mark.parametrize("what", ["pipe", "folder", "device", "pipe by a link"])
@pytest.mark.parametrize("name", KINDS)
def test_only_a_regular_file_is_read(name, what, tmp_path, folder):
    kind = KINDS[name]
    path = folder / kind.path
    aside = tmp_path / "aside"
    path.rename(aside)
    try:
        if what == "folder":
            path.mkdir()
        elif what == "device":
            path.symlink_to("/dev/zero")
        elif what == "pipe":
            os.mkfifo(path)
        else:
            os.mkfifo(tmp_path / "pipe")
            path.symlink_to(tmp_path / "pipe")
        with pytest.raises((ValueError, OSError)):
            kind.read(folder)
    finally:
        path.rmdir() if what == "folder" else path.unlink()
        aside.rename(path)


def main(count, names=KINDS):
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        made(folder)
        print("kind | inputs | refused | the same | other values | wrong | s | memory")
        for name in names:
            warnings.simplefilter("ignore")
            counts, wrong, slowest, most = tried(name, folder, count)
            figures = (counts[x] for x in ("refused", "the same", "other values"))
            print(
                *(name, count, *figures, len(wrong), f"{slowest:.2f}", f"{most:.1f}"),
                sep=" | ",
                flush=True,
            )
            for problem, times in collections.Counter(wrong).most_common(6):
                print(f"    {times}: {problem}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if sys.argv[1:] else 5000, sys.argv[2:] or KINDS)
