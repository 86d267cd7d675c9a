"""`RunFolder`: a run on disk, its parts whole or not there; and what made them."""

import contextlib
import datetime
import importlib
import json
import os
import pathlib
import shutil
import socket
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

import keras
from filelock import FileLock, Timeout

from tfticket._version import __version__
from tfticket.common.checksums import (
    digest,
    is_sound,
    read_checked,
    read_json,
    sha256,
    write_checked,
)
from tfticket.common.files import (
    DAMAGE,
    is_leftover,
    remove_leftovers,
    write_json,
)

CONFIG, RESULT, CHECKPOINT = "config.json", "result.json", "checkpoint.npz"
_LOCK, _HOLDER = ".lock", ".holder.json"
_T = TypeVar("_T")


class RunInUseError(RuntimeError):
    """Another process works on the folder."""


class RunFolder:
    """The folder of one run: `config.json`, and a folder for each part.

    A part is the smallest piece that is run or kept. It is finished once its
    `result.json` is there, which is written last and holds a SHA-256 of every other
    file of the part, of the files of other parts that it was made from, and of itself.
    The result says which part of which run it is, and `config.json` has a checksum too.
    What does not agree is named in a warning and counts as missing, so that it is made
    again and never used.

    Args:
        path: The folder, which need not exist.
        results: Names or patterns of what a run writes there beside `config.json`.

    Example:

    >>> run = RunFolder(folder / "run", results=["seed_*"])
    >>> with run.opened({"rate": 0.2}):
    ...     run.write("seed_0", {"accuracy": 0.9})
    >>> run.read("seed_0")
    {'accuracy': 0.9}
    """

    def __init__(self, path: str | os.PathLike, results: Iterable[str] = ()):
        self.path = pathlib.Path(path)
        self._results = tuple(results)

    @contextlib.contextmanager
    def opened(
        self,
        identity: Mapping[str, Any],
        about: Mapping[str, Any] | None = None,
        overwrite: bool = False,
        named: bool = False,
        older: Mapping[str, Any] | None = None,
    ) -> Iterator[None]:
        """Makes the folder that of a run, and keeps other processes out.

        The system lets go of the lock when a process dies. What its writes left behind
        is removed by the next one.

        Args:
            identity: What defines the run, JSON-ready.
            about: What else `config.json` is to tell.
            overwrite: Whether the results of another run may be removed. Other files
                stay.
            named: Whether the folder's name says which run it is: a `config.json` that
                is damaged or missing is then written again.
            older: What of the identity a `config.json` of an older version does not
                tell, and what it was then.

        Raises:
            FileExistsError: If the folder holds another run and `overwrite` is off, or
                files that are no run's. Nothing is changed.
            RunInUseError: If another process is in; names it.
        """
        identity, older = json.loads(json.dumps([identity, dict(older or {})]))
        self._check(identity, overwrite, named, older)
        self.path.mkdir(parents=True, exist_ok=True)
        with self.locked():
            # Again: another process may have been in since.
            known, other = self._check(identity, overwrite, named, older)
            # Its configuration last: a kill in between leaves it the other run's.
            for path in self._own_files() if other else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._remove_leftovers()
            if not known:
                config = {**identity, **(about or {}), "versions": versions()}
                config["run"] = digest(identity)
                write_checked(self.path / CONFIG, config)
            yield

    def _check(self, identity, overwrite, named, older):
        """Whether it is known as this run's folder, and whether as another's."""
        config = self.path / CONFIG
        if not config.exists():
            own = {path.name for path in self._own_files() if named}
            if self.path.exists() and not self._is_empty(own):
                self._refuse_foreign()
            return False, False
        try:
            held, sound = _read_config(config)
            of_a_run = "tfticket" in held["versions"] or (named and not sound)
        except DAMAGE:
            if not named:
                self._refuse_foreign()
            held, of_a_run, sound = identity, True, False
        if not of_a_run:
            self._refuse_foreign()
        held = {**older, **held}
        changed = sorted(k for k in identity if held.get(k, ...) != identity[k])
        if not sound and (named or not changed):
            warnings.warn(
                f"'{config}' is damaged and is written again: "
                + ("the folder's name" if named else "what is left of it")
                + " says which run it is.",
                stacklevel=4,
            )
            return False, False
        if changed and not overwrite:
            raise FileExistsError(
                f"'{self.path}' holds another run: {changed} differ. Choose another "
                "folder, or pass overwrite (--overwrite) to replace that run."
                + ("" if sound else f" Or {CONFIG} is damaged: its checksum is wrong.")
            )
        return not changed, bool(changed)

    def _is_empty(self, own):
        if not self.path.is_dir():
            return False
        return all(
            path.name in {_LOCK, _HOLDER, *own} or is_leftover(path)
            for path in self.path.iterdir()
        )

    def _refuse_foreign(self):
        raise FileExistsError(
            f"'{self.path}' holds files that are no run's and won't be touched. "
            "Choose another folder."
        )

    def _own_files(self):
        return [path for pattern in self._results for path in self.path.glob(pattern)]

    def _remove_leftovers(self):
        folders = {self.path / pathlib.PurePath(name).parent for name in self._results}
        for path in self._own_files():
            folders |= {path, *path.rglob("*")}
        for folder in folders:
            remove_leftovers(folder)
            # A kill came after the part's last file and before this was taken away.
            if (folder / RESULT).exists():
                (folder / CHECKPOINT).unlink(missing_ok=True)

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Keeps other processes out of the folder, which is there.

        Raises:
            RunInUseError: If another process is in; names it.
        """
        lock, holder = FileLock(self.path / _LOCK, timeout=0), self.path / _HOLDER
        try:
            lock.acquire()
        except Timeout:
            raise RunInUseError(
                f"'{self.path}' is in use by {self._holder()}. Wait until it is done, "
                "or stop it."
            ) from None
        try:
            write_json(
                holder,
                {
                    "process": os.getpid(),
                    "host": socket.gethostname(),
                    "since": datetime.datetime.now().isoformat(timespec="seconds"),
                },
            )
            yield
        finally:
            try:
                holder.unlink(missing_ok=True)
            finally:
                lock.release()

    def _holder(self):
        try:
            holder = read_json(self.path / _HOLDER)
            return "process {process} on {host}, since {since}".format(**holder)
        except (OSError, ValueError, LookupError):
            return "another process"

    def name_of(self, part: str | os.PathLike) -> dict[str, str | None]:
        """Which part of which run it is: its path, and a digest of the run's identity.

        The digest is `None` in a run of before whose `config.json` does not tell it.

        Args:
            part: Its path inside the folder.
        """
        return {"part": pathlib.PurePath(part).as_posix(), "run": self._run()[0]}

    def _run(self):
        """The digest of what defines the run, and whether parts must have it."""
        try:
            config = read_json(self.path / CONFIG)
            if "run" in config:
                return config["run"], True
            return digest(config["identity"]), False
        except DAMAGE:
            return None, False

    def _require_own(self, part, held):
        run, always = self._run()
        name = held.get("of")
        if name is None:
            if always:
                raise ValueError(f"'{RESULT}' does not say of which run it is")
            return
        if name["part"] != pathlib.PurePath(part).as_posix():
            raise ValueError(f"it is the part '{name['part']}', copied here")
        if run is not None and name["run"] != run:
            raise ValueError("it is of a run with other settings")

    def read(
        self, part: str | os.PathLike, parse: Callable[[Any], _T] = lambda value: value
    ) -> _T | None:
        """The result of a finished part; `None` if it has to be made (again).

        Args:
            part: Its path inside the folder.
            parse: Makes the result of what `write` was given, as JSON has it.
        """
        path = self.path / part / RESULT
        if not path.exists():
            return None
        try:
            held = read_checked(path)
            self._require_own(part, held)
            for name, expected in held["files"].items():
                _require(path.parent / name, expected)
            for name, expected in held["inputs"].items():
                other = self.path / name
                made = read_checked(other.parent / RESULT)["files"].get(other.name)
                if made != expected:
                    raise ValueError(f"it was made from another '{name}'")
            return parse(held["result"])
        except DAMAGE as error:
            warnings.warn(
                f"'{path.parent}' is damaged and will be made again: {error}",
                stacklevel=2,
            )
            return None

    def file(self, part: str | os.PathLike, name: str) -> pathlib.Path:
        """A file of a finished part, its checksum found right.

        Args:
            part: Its path inside the folder.
            name: Name of the file.

        Raises:
            FileNotFoundError: If the part is not finished.
            ValueError: If the file is another than was written.
        """
        folder = self.path / part
        try:
            _require(folder / name, read_checked(folder / RESULT)["files"][name])
        except FileNotFoundError:
            raise
        except DAMAGE as error:
            raise ValueError(f"'{folder / name}' is damaged: {error}") from error
        return folder / name

    def write(
        self,
        part: str | os.PathLike,
        result: Any,
        files: Mapping[str, Callable[[pathlib.Path], None]] | None = None,
        inputs: Sequence[str] = (),
    ) -> None:
        """Writes all of a part, its result last.

        Args:
            part: Its path inside the folder.
            result: JSON-ready.
            files: Name to what writes that file, whole, given its path.
            inputs: Files of other parts that it was made from, as paths inside the
                run's folder.
        """
        folder = self.path / part
        # An older result must not speak for files that are being replaced.
        (folder / RESULT).unlink(missing_ok=True)
        for name, save in (files or {}).items():
            save(folder / name)
        sums = {name: sha256(folder / name) for name in files or {}}
        used = {name: sha256(self.path / name) for name in inputs}
        values = {"of": self.name_of(part), "result": result}
        write_checked(folder / RESULT, {**values, "files": sums, "inputs": used})

    def amend(self, part: str | os.PathLike, result: Any) -> None:
        """Replaces the result of a finished part; its other files stay."""
        path = self.path / part / RESULT
        write_checked(path, {**read_checked(path), "result": result})


def read_config(path: str | os.PathLike) -> dict[str, Any]:
    """What a run's `config.json` tells, without what it holds for its own check.

    Args:
        path: Path of the run's folder.

    Raises:
        OSError: If there is none.
        ValueError: If it is damaged.
    """
    held, sound = _read_config(pathlib.Path(path) / CONFIG)
    if not sound:
        raise ValueError(f"'{CONFIG}' has another checksum than when it was written")
    return {name: held[name] for name in held if name not in ("run", "sha256")}


def _read_config(path):
    """What it holds, and whether its checksum is right; those of before have none."""
    held = read_json(path)
    return held, is_sound(held) or not {"run", "sha256"} & set(held)


def _require(path, expected):
    if not path.exists():
        raise ValueError(f"'{path.name}' is missing")
    if sha256(path) != expected:
        raise ValueError(f"'{path.name}' has another checksum than when it was written")


def versions() -> dict[str, str]:
    """Versions of tfticket, Keras and its backend, by name."""
    backend = keras.backend.backend()
    return {
        "tfticket": __version__,
        "keras": keras.__version__,
        backend: importlib.import_module(backend).__version__,
    }
