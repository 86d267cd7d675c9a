"""Files and folders that are whole or not there, and what kills leave of them."""

import contextlib
import csv
import errno
import json
import os
import pathlib
import re
import shutil
import stat
import struct
import tempfile
import time
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, BinaryIO

from tfticket.common import renames

try:
    import fcntl
except ImportError:  # Windows has none
    fcntl = None  # type: ignore[assignment]

# What NumPy, zipfile, zlib and JSON's data raise for bytes that are not what was
# written.
DAMAGE = (
    OSError,
    ValueError,
    LookupError,
    TypeError,
    OverflowError,
    EOFError,
    NotImplementedError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)

_FOLDER = ".tfticket-"
_DAY = 24 * 60 * 60  # seconds
# Errors of a disk, looked for in the words of libraries that drop the number.
_OF_DISKS = ("ENOSPC", "EDQUOT", "EFBIG", "EROFS", "EACCES", "ENOTDIR", "EIO")


@contextlib.contextmanager
def atomic_path(
    path: str | os.PathLike, replace: bool = True
) -> Iterator[pathlib.Path]:
    """Yields a temporary path beside `path`, renamed to it if the block succeeds.

    On an error nothing is left behind and an older file at `path` stays. What a killed
    process left of the same file is removed.

    Args:
        path: Where the file is to be. Missing folders are made.
        replace: Whether a file that is there by the end is replaced.

    Raises:
        FileExistsError: If there is a file by the end and `replace` is off.
        OSError: If the disk can't be written: `errno` says why and `filename` is
            `path`.
    """
    path = pathlib.Path(path)
    with _temporary(path) as temporary, disk_errors(path, temporary):
        yield temporary
        temporary.chmod(0o644)
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        _note_put(temporary, path)
        if replace:
            os.replace(temporary, path)
        else:
            renames.rename_new(temporary, path)


@contextlib.contextmanager
def _temporary(path):
    """A file beside `path`, locked while it is needed, so that it is no leftover."""

    def make():
        handle, name = tempfile.mkstemp(
            dir=path.parent, prefix=f".{path.name}.", suffix=f".tmp{path.suffix}"
        )
        return handle, pathlib.Path(name)

    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = _locked(make)
    try:
        # With its own there already: after any number of kills, one is to be seen.
        remove_leftovers(path.parent, path.name)
        yield temporary
    finally:
        try:
            temporary.unlink(missing_ok=True)
        finally:
            _close(handle)


def _locked(make: Callable[[], tuple[int, pathlib.Path]]) -> tuple[int, pathlib.Path]:
    """Makes a file or folder, and locks it until its handle is closed."""
    while True:
        handle, path = make()
        if fcntl is None:
            os.close(handle)  # an open file can't be renamed there
            return -1, path
        with contextlib.suppress(OSError):  # not every file system has locks
            fcntl.flock(handle, fcntl.LOCK_EX)
        # Another process may have taken it for a leftover before it was locked.
        if path.exists():
            return handle, path
        os.close(handle)


def _close(handle):
    if handle >= 0:
        os.close(handle)


@contextlib.contextmanager
def _seized(path: pathlib.Path) -> Iterator[bool]:
    """Whether the process that made a temporary file or folder is dead.

    The system gives up a dead process's locks. Where there are none, age decides.
    """
    handle = -1
    try:
        found = path.lstat()
        mine = not hasattr(os, "getuid") or found.st_uid == os.getuid()
        dead = mine and not path.is_symlink() and time.time() - found.st_mtime > _DAY
        if fcntl is not None and mine and not path.is_symlink():
            # A pipe of such a name would wait for somebody to write.
            handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                dead = True
            except BlockingIOError:
                dead = False
    except OSError:  # somebody else removed it, or it can't be locked
        dead = False
    try:
        yield dead
    finally:
        _close(handle)


def open_regular(path: str | os.PathLike) -> BinaryIO:
    """Opens a regular file to read its bytes; a pipe would wait for somebody to write.

    Args:
        path: The file, or a link to one.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If it is something else: a folder, a pipe, a device.

    Example:

    >>> (folder / "a.txt").write_text("hello")
    5
    >>> with tfticket.common.files.open_regular(folder / "a.txt") as file:
    ...     file.read()
    b'hello'
    """
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise ValueError(f"'{path}' is not a regular file.")
    return open(path, "rb")


def is_leftover(path: pathlib.Path, of: str | None = None) -> bool:
    """Whether a name is one that `atomic_path` writes under; a killed write leaves it.

    Args:
        path: What may be one.
        of: The name of the file that was written; `None` is any.

    Example:

    >>> is_leftover(pathlib.Path("run/.config.json.a1b2c3_4.tmp.json"))
    True
    """
    name = r".+" if of is None else re.escape(of)
    pattern = rf"\.{name}\.[a-z0-9_]{{8}}\.tmp(\..*)?"
    return re.fullmatch(pattern, path.name) is not None


def leftovers(folder: pathlib.Path, of: str | None = None) -> Iterator[pathlib.Path]:
    """Yields the files that killed writes left in a folder, not what is being written.

    Args:
        folder: Where to look.
        of: The name of the file that was written; `None` is any.
    """
    for path in folder.iterdir() if folder.is_dir() else ():
        if is_leftover(path, of):
            with _seized(path) as dead:
                if dead:
                    yield path


def remove_leftovers(folder: pathlib.Path, of: str | None = None) -> None:
    """Removes what killed writes left in a folder; what is being written stays.

    Args:
        folder: Where to look.
        of: The name of the file that was written; `None` is any.

    Example:

    >>> left = folder / ".a.txt.a1b2c3_4.tmp.txt"
    >>> left.touch()
    >>> tfticket.common.files.remove_leftovers(folder)
    >>> left.exists()
    False
    """
    for path in leftovers(folder, of):
        with contextlib.suppress(OSError):
            path.unlink()


@contextlib.contextmanager
def temporary_folder(parent: pathlib.Path | None = None) -> Iterator[pathlib.Path]:
    """A folder that is removed at the end; after a kill, by the next one.

    Args:
        parent: Where to make it; from there a rename to a place beside it is one step.
            `None` is the system's folder for temporary files.

    Example:

    >>> with tfticket.common.files.temporary_folder() as made:
    ...     made.is_dir()
    True
    """
    beside = pathlib.Path(tempfile.gettempdir() if parent is None else parent)
    beside.mkdir(parents=True, exist_ok=True)
    recover_folders(beside)

    def make():
        made = pathlib.Path(tempfile.mkdtemp(dir=beside, prefix=_FOLDER))
        with contextlib.suppress(FileNotFoundError):
            return (-1 if fcntl is None else os.open(made, os.O_RDONLY)), made
        return make()  # taken for a leftover at once

    handle, made = _locked(make)
    try:
        yield made
    finally:
        shutil.rmtree(made, ignore_errors=True)
        _close(handle)


def recover_folders(parent: pathlib.Path) -> None:
    """Puts back what killed calls of `put_folder` had moved away, and clears the rest.

    Args:
        parent: The folder that their temporary folders are in.
    """
    if not parent.is_dir():
        return
    for path in parent.glob(f"{_FOLDER}*"):
        if not re.fullmatch(r"[a-z0-9_]{8}", path.name.removeprefix(_FOLDER)):
            continue
        with _seized(path) as dead:
            if dead:
                _put_back(path)
                shutil.rmtree(path, ignore_errors=True)


_OLD, _PLACE = "old", "place"


def _put_back(temporary):
    with contextlib.suppress(FileNotFoundError):
        target = temporary.parent / (temporary / _PLACE).read_text()
        if not target.exists():
            os.rename(temporary / _OLD, target)


def put_folder(written: pathlib.Path, target: pathlib.Path, overwrite: bool) -> None:
    """Moves a written folder to its place, in one step where the system can.

    Where it can't exchange two folders, an older one is moved away first; if a kill
    comes between the two renames, `recover_folders` puts it back.

    Args:
        written: The folder, in a `temporary_folder` beside the target or above it.
        target: Where it is to be.
        overwrite: Whether one that is there is replaced.

    Raises:
        FileExistsError: If there is one and `overwrite` is off.
        OSError: If it can't be moved. An older one is in its place.
    """
    made = not target.parent.exists()
    target.parent.mkdir(exist_ok=True)
    try:
        _note_put(written, target)
        if overwrite and target.exists():
            if not renames.exchange(written, target):
                _by_two_renames(written, target)
        else:
            renames.rename_new(written, target)
    except OSError:
        if made:
            with contextlib.suppress(OSError):
                target.parent.rmdir()
        raise


def _by_two_renames(written, target):
    # A server sees the old version, none, or the new one.
    temporary = written.parent
    place = os.path.relpath(target, temporary.parent)
    (temporary / _PLACE).write_text(place)
    os.rename(target, temporary / _OLD)
    try:
        os.rename(written, target)
    except OSError:
        os.rename(temporary / _OLD, target)
        raise
    # It is not put back from here on, however much of it is removed already.
    (temporary / _PLACE).unlink()


@contextlib.contextmanager
def disk_errors(target: str | os.PathLike, *own: str | os.PathLike) -> Iterator[None]:
    """A context in which errors of the disk are OSErrors that name the target.

    Args:
        target: What is being written.
        *own: Temporary files and folders that it is written to. With some, errors of
            other files pass as they are.

    Raises:
        OSError: With the number and the class that the error had, or that its words
            say: libraries have classes of their own for a full disk.

    Example:

    >>> with tfticket.common.files.disk_errors("model.tflite"):
    ...     raise OSError(28, "No space left on device")
    Traceback (most recent call last):
    OSError: [Errno 28] No space left on device; nothing of it was kept: 'model.tflite'
    """
    try:
        yield
    except Exception as error:
        found = disk_error(error)
        named = getattr(error, "filename", None) == str(target)
        if found is None or named or (own and not _is_of(error, (target, *own))):
            raise
        number, words = found
        # The number chooses the class: a PermissionError stays one.
        text = f"{words.rstrip('.')}; nothing of it was kept"
        raise OSError(number, text, str(target)) from error


def disk_error(error: BaseException) -> tuple[int, str] | None:
    """Number and words of an error of the disk; `None` if it is another.

    Args:
        error: Of any class.

    Example:

    >>> tfticket.common.files.disk_error(ValueError("write: No space left on device"))
    (28, 'No space left on device')
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno, error.strerror or os.strerror(error.errno)
    words = getattr(error, "message", None) or str(error)
    for name in _OF_DISKS:
        number = getattr(errno, name)
        if os.strerror(number) in words:
            return number, os.strerror(number)
    return None


def _is_of(error, own):
    name = getattr(error, "filename", None)
    if name is None or isinstance(name, int):
        return True
    names = [os.path.abspath(os.fspath(path)) for path in own]
    return os.path.abspath(os.fsdecode(name)) in names


def write_json(path: str | os.PathLike, value: Any) -> None:
    """Writes a JSON file, whole or not at all.

    Args:
        path: Where the file is to be. Missing folders are made.
        value: What `json.dumps` takes.
    """
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(value, indent=2) + "\n")


def write_csv(rows: Sequence[Mapping[str, Any]], path: str | os.PathLike) -> None:
    """Writes rows to a CSV file, whole or not at all; numbers keep all their digits.

    Args:
        rows: Rows, which need not have the same keys. `None` is an empty field.
        path: The file to write.
    """
    columns = list(dict.fromkeys(key for row in rows for key in row))
    with (
        atomic_path(path) as temporary,
        open(temporary, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


@contextlib.contextmanager
def held_note(
    path: pathlib.Path, value: Any, own: Mapping[str, Sequence[int]] | None = None
) -> Iterator[None]:
    """A file that says what a process is doing, and stays where it is cut off.

    Kills, interruptions and errors of the disk leave it, other errors remove it. Every
    file or folder that this process puts in its place meanwhile is noted, just before.

    Args:
        path: The file: a line of JSON for the value, and one for each that was put.
        value: What it says.
        own: What an earlier note of the same work had noted, as from `dead_note`.
    """
    with _temporary(path) as temporary:
        with disk_errors(path, temporary):
            lines = [value, *([*one] for one in (own or {}).items())]
            temporary.write_text("".join(f"{json.dumps(line)}\n" for line in lines))
            os.replace(temporary, path)
        # It is locked still: the lock is the file's, not the name's.
        number, stays = path.stat().st_ino, True
        _HELD.append(path)
        try:
            yield
            stays = False
        except Exception as error:
            stays = isinstance(error, OSError)
            raise
        finally:
            _HELD.remove(path)
            # Another process may have put a note of its own there meanwhile.
            if not stays and path.exists() and path.stat().st_ino == number:
                path.unlink()


_HELD: list[pathlib.Path] = []


def _note_put(written, target):
    """Notes what is about to be renamed, which keeps what `_identity` is made of."""
    for note in _HELD:
        with disk_errors(target), open(note, "a", encoding="utf-8") as file:
            file.write(f"{json.dumps([os.path.abspath(target), _identity(written)])}\n")


def _identity(path):
    found = os.stat(path)
    # A folder's time is that of the last rename in it.
    return [found.st_ino, 0 if stat.S_ISDIR(found.st_mode) else found.st_mtime_ns]


def dead_note(path: pathlib.Path) -> tuple[Any, dict[str, list[int]]]:
    """What a killed process's `held_note` says, and what it was putting in place.

    Args:
        path: The file.

    Returns:
        The value, `None` if there is none; for `is_own`.
    """
    with _seized(path) as dead:
        if not dead:
            return None, {}
        try:
            with open_regular(path) as file:
                # A kill may have come in the last line.
                value, *own = file.read().decode().split("\n")[:-1]
            return json.loads(value), dict(json.loads(line) for line in own)
        except DAMAGE:
            return None, {}


def is_own(path: pathlib.Path, own: Mapping[str, Sequence[int]]) -> bool:
    """Whether a file or folder is there that a killed process had put there.

    Args:
        path: Where.
        own: As from `dead_note`.
    """
    known = own.get(os.path.abspath(path))
    return known is not None and path.exists() and _identity(path) == [*known]
