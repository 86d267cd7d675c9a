"""A kill or a full disk, at whatever file-system event: nothing is lost or in the way.

`fixtures/every_event.py` takes commands through it; the slow test takes every event.
"""

import errno
import json
import os
import pathlib
import signal
import subprocess
import sys
import threading

import keras
import pytest
from fixtures import file_events

import tfticket
from tfticket import export
from tfticket.common import files, renames
from tfticket.common.runs import RunFolder
from tfticket.export import saved_model_export
from tfticket.lottery.paper import page

PROGRAM = pathlib.Path(__file__).parent / "fixtures" / "every_event.py"
COMMANDS = ("find", "lottery", "popup", "export", "report")
FORMATS = ("ticket", "checkpoint", "json", "csv", "picture", "saved_model", "litert")
OVERWRITING = ("overwrite", "two_renames")


@pytest.fixture(scope="module")
def environment(tmp_path_factory):
    if not file_events.is_possible():
        pytest.skip("needs Linux and a C compiler")
    return file_events.environment(tmp_path_factory.mktemp("library"))


@pytest.fixture(scope="module")
def every(environment, tmp_path_factory):
    def every(*asked):
        folder = tmp_path_factory.mktemp("every")
        done = subprocess.run(
            [sys.executable, PROGRAM, folder, *asked],
            capture_output=True,
            text=True,
            check=False,
            env=environment,
        )
        assert done.returncode == 0, done.stderr
        found = json.loads(done.stdout.splitlines()[-1])
        for name, one in found.items():
            assert not one["wrong"], name
        return {name: one["came"] for name, one in found.items()}

    return every


@pytest.mark.slow
@pytest.mark.parametrize("command", [*COMMANDS, *FORMATS, *OVERWRITING])
def test_a_kill_at_every_event(command, every):
    assert every(f"kill:{command}:1:1")[f"kill:{command}"]["went on"] > 1


@pytest.mark.slow
@pytest.mark.parametrize("command", [*COMMANDS, *FORMATS, "overwrite"])
def test_a_full_disk_at_every_write(command, every):
    assert every(f"full:{command}:1:1")[f"full:{command}"]["went on"] > 1


def test_a_kill_and_a_full_disk_at_some_events(every):
    came = every(
        *("kill:ticket:2:4", "kill:lottery:60:200", "kill:saved_model:20:40"),
        *("kill:two_renames:60:10", "full:ticket:1:3", "full:saved_model:8:40"),
    )
    assert came.pop("kill:two_renames").keys() <= {"went on", "unhurt"}
    for name, found in came.items():
        assert found.keys() == {"went on"}, name


def model_of(seed=0):
    keras.utils.set_random_seed(seed)
    return keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(3)])


def leave(write):
    """Has a fork begin to write, and kills it once it has said that it has."""
    reading, writing = os.pipe()
    child = os.fork()
    if not child:
        try:
            write(lambda: os.write(writing, b"."))
        finally:
            os._exit(1)
    assert os.read(reading, 1) == b"."
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def begin_file(path):
    def write(said):
        with files.atomic_path(path) as temporary:
            temporary.write_text("half")
            said()
            signal.pause()

    return write


def test_what_a_killed_write_left_is_cleared_by_the_next(tmp_path):
    path = tmp_path / "a.json"
    leave(begin_file(path))
    leave(begin_file(tmp_path / "b.json"))
    assert len(list(tmp_path.iterdir())) == 2
    files.write_json(path, 1)
    (other,) = {*tmp_path.iterdir()} - {path}
    assert other.name.startswith(".b.json.")  # of another file, in any folder


def test_what_is_being_written_is_no_leftover(tmp_path):
    path = tmp_path / "a.json"
    with files.atomic_path(path) as temporary:
        temporary.write_text("mine")
        files.write_json(path, "another's")
        files.remove_leftovers(tmp_path)
        assert temporary.exists()
    assert path.read_text() == "mine"
    with files.temporary_folder(tmp_path) as first, files.temporary_folder(tmp_path):
        assert first.is_dir()


def test_a_temporary_folder_of_a_killed_process_is_cleared(tmp_path):
    def write(said):
        with files.temporary_folder(tmp_path) as made:
            (made / "large").write_text("much")
            said()
            signal.pause()

    leave(write)
    mine = tmp_path / ".tfticket-notes"
    mine.mkdir()
    assert len(list(tmp_path.iterdir())) == 2
    with files.temporary_folder(tmp_path):
        pass
    assert list(tmp_path.iterdir()) == [mine]


def test_a_file_that_appears_meanwhile_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "a"

    def write():
        with files.atomic_path(path, replace=False) as temporary:
            temporary.write_text("mine")
            path.write_text("another's")

    with pytest.raises(FileExistsError, match=r"a exists.*overwrite=True"):
        write()
    assert path.read_text() == "another's"
    assert list(tmp_path.iterdir()) == [path]


def test_a_killed_run_leaves_nothing_behind(tmp_path):
    run = RunFolder(tmp_path, ["seed_*", "tickets/round_*.npz"])
    with run.opened({"seed": 0}):
        run.write("seed_0", 1)
    leave(begin_file(tmp_path / "tickets" / "round_00.npz"))
    leave(begin_file(tmp_path / "seed_0" / "trained.npz"))
    # Between a part's last file and the end of its checkpoint.
    (tmp_path / "seed_0" / "checkpoint.npz").touch()
    with run.opened({"seed": 0}):
        pass
    assert sorted(path.name for path in tmp_path.rglob("*")) == [
        ".lock", "config.json", "result.json", "seed_0", "tickets",
    ]  # fmt: skip


def version_of(path):
    return (path / "variables" / "variables.data-00000-of-00001").read_bytes()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems need not have it")
def test_an_overwritten_version_is_never_missing(tmp_path, quick, monkeypatch):
    """A server that looks at every rename sees the old version or the new one."""
    export.saved_model(model_of(0), tmp_path / "m")
    target, seen = tmp_path / "m" / "1", []
    old = version_of(target)
    for name in ("rename", "replace"):
        real = getattr(os, name)

        def looking(*args, _real=real):
            _real(*args)
            seen.append(version_of(target))

        monkeypatch.setattr(os, name, looking)
    export.saved_model(model_of(1), tmp_path / "m", version=1, overwrite=True)
    assert version_of(target) != old
    assert {*seen} <= {old, version_of(target)}
    assert os.listdir(tmp_path) == ["m"]


def test_the_next_export_puts_back_what_a_kill_took_away(tmp_path, quick, monkeypatch):
    first = export.saved_model(model_of(0), tmp_path / "m").path
    old = version_of(first)

    def write(said):
        with files.temporary_folder(tmp_path) as made:
            written = made / "new"
            written.mkdir()
            (made / "place").write_text(os.path.join("m", "1"))
            os.rename(first, made / "old")
            said()
            signal.pause()

    leave(write)
    assert not first.exists()
    assert export.saved_model(model_of(1), tmp_path / "m").path.name == "2"
    assert version_of(first) == old
    assert os.listdir(tmp_path) == ["m"]


def test_two_renames_replace_a_version_too(tmp_path, quick, monkeypatch):
    monkeypatch.setattr(renames, "exchange", lambda first, second: False)
    path = export.saved_model(model_of(0), tmp_path / "m").path
    old = version_of(path)
    export.saved_model(model_of(1), tmp_path / "m", version=1, overwrite=True)
    assert version_of(path) != old
    assert os.listdir(tmp_path) == ["m"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_exports_at_once_take_different_versions(
    overwrite, tmp_path, quick, monkeypatch
):
    """The second comes to its end before the first."""
    real, others = saved_model_export.put_folder, []

    def late(written, target, replace):
        if not others:
            others.append(None)
            others[0] = export.saved_model(
                model_of(1), tmp_path / "m", overwrite=overwrite
            )
        real(written, target, replace)

    monkeypatch.setattr(saved_model_export, "put_folder", late)
    mine = export.saved_model(model_of(0), tmp_path / "m", overwrite=overwrite)
    assert (others[0].path.name, mine.path.name) == ("1", "2")
    assert version_of(mine.path) != version_of(others[0].path)
    others.clear()
    with pytest.raises(FileExistsError, match=r"m/3 exists"):
        export.saved_model(model_of(0), tmp_path / "m", version=3)
    assert sorted(os.listdir(tmp_path / "m")) == ["1", "2", "3"]


def test_threads_that_export_at_once(tmp_path):
    made = []

    def put(number):
        with files.temporary_folder(tmp_path) as folder:
            written = folder / "new"
            written.mkdir()
            (written / "it").write_text(str(number))
            made.append(
                saved_model_export._put(
                    written, tmp_path / "m", tmp_path / "m" / "1", None, False
                )
            )

    threads = [threading.Thread(target=put, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(int(path.name) for path in made) == [*range(1, 9)]
    assert {(path / "it").read_text() for path in made} == {*map(str, range(8))}


def test_a_library_that_drops_the_number_of_an_error(tmp_path, monkeypatch):
    """LiteRT's converter and TensorFlow's SavedModel say it in words of their own."""
    import tensorflow as tf

    def full(*_, **__):
        raise tf.errors.ResourceExhaustedError(
            None, None, f"{tmp_path}/x; No space left on device"
        )

    monkeypatch.setattr(tf.saved_model, "save", full)
    for write, name in ((export.saved_model, "m/1"), (export.litert, "m.tflite")):
        with pytest.raises(OSError, match="No space left on device") as error:
            write(model_of(), tmp_path / name.removesuffix("/1"))
        assert error.value.errno == errno.ENOSPC
        assert error.value.filename == str(tmp_path / name)
    assert not any(tmp_path.iterdir())


def test_a_page_goes_on_where_it_was_killed(tmp_path, monkeypatch):
    out = tmp_path / "page.md"
    pictures = tmp_path / "page"
    pictures.mkdir()
    (pictures / "accuracy.png").touch()
    with pytest.raises(FileExistsError, match=r"accuracy\.png' exists"):
        page.write_page(tmp_path / "run", out)
    leave(begin_file(out))
    # Past the question whose the picture is: the run is not one.
    with pytest.raises(ValueError, match="not the folder of a run"):
        page.write_page(tmp_path / "run", out)


def test_a_page_that_is_being_written_is_not_one_that_was_killed(tmp_path):
    out = tmp_path / "page.md"
    (tmp_path / "page").mkdir()
    (tmp_path / "page" / "accuracy.png").touch()
    with files.atomic_path(out) as temporary:
        temporary.write_text("another's")
        with pytest.raises(FileExistsError, match=r"accuracy\.png' exists"):
            page.write_page(tmp_path / "run", out)


def test_a_note_stays_where_its_process_was_cut_off(tmp_path):
    path = tmp_path / "note.json"

    def write(said):
        with files.held_note(path, {"version": 2}):
            assert files.dead_note(path) == (None, {})
            said()
            signal.pause()

    assert files.dead_note(path) == (None, {})
    leave(write)
    assert files.dead_note(path) == ({"version": 2}, {})
    with files.held_note(path, {"version": 3}):
        assert files.dead_note(path) == (None, {})
    assert not path.exists()
    with pytest.raises(ValueError, match="x"), files.held_note(path, 1):
        raise ValueError("x")
    assert not path.exists()
    with pytest.raises(KeyboardInterrupt), files.held_note(path, 1):
        raise KeyboardInterrupt
    assert files.dead_note(path) == (1, {})


def test_a_note_knows_what_was_put_from_what_came_after(tmp_path):
    note, mine, other = (tmp_path / x for x in ("note.json", "a.txt", "b.txt"))
    model = tmp_path / "model"

    def write(said):
        with files.held_note(note, 1):
            files.write_json(mine, 1)
            with files.temporary_folder(tmp_path) as folder:
                (folder / "new").mkdir()
                files.put_folder(folder / "new", model, False)
            with open(note, "a") as file:
                file.write('["half of a l')
            said()
            signal.pause()

    leave(write)
    value, own = files.dead_note(note)
    assert value == 1
    (model / "used").touch()  # the folder stays the same one
    other.touch()
    assert [files.is_own(x, own) for x in (mine, model, other)] == [True, True, False]
    with pytest.raises(KeyboardInterrupt), files.held_note(note, 2, own):
        raise KeyboardInterrupt
    assert files.dead_note(note) == (2, own)
    mine.unlink()
    assert not files.is_own(mine, own)
    mine.write_text("a user's")
    assert not files.is_own(mine, own)


def test_a_damaged_ticket_folder_is_named(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match="file"):
        tfticket.Ticket({}, {}).save(tmp_path / "file" / "t.npz")
