"""`RunFolder`: a run on disk, its parts whole or not there; and what made them."""

import contextlib
import datetime
import hashlib
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
from tfticket.common.files import is_leftover, write_json

CONFIG, RESULT = "config.json", "result.json"
_LOCK, _HOLDER = ".lock", ".holder.json"
_T = TypeVar("_T")


class RunInUseError(RuntimeError):
    """Another process works on the folder."""


class RunFolder:
    """The folder of one run: `config.json`, and a folder for each part.

    A part is the smallest piece that is run or kept. It is finished once its
    `result.json` is there, which is written last and holds a SHA-256 of every other
    file of the part, of the files of other parts that it was made from, and of itself.
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

        Raises:
            FileExistsError: If the folder holds another run and `overwrite` is off, or
                files that are no run's. Nothing is changed.
            RunInUseError: If another process is in; names it.
        """
        identity = json.loads(json.dumps(identity))
        self._check(identity, overwrite, named)
        self.path.mkdir(parents=True, exist_ok=True)
        with self._locked():
            # Again: another process may have been in since.
            known, other = self._check(identity, overwrite, named)
            # Its configuration last: a kill in between leaves it the other run's.
            for path in self._own_files() if other else ():
                shutil.rmtree(path) if path.is_dir() else path.unlink()
            self._remove_leftovers()
            if not known:
                config = {**identity, **(about or {}), "versions": versions()}
                write_json(self.path / CONFIG, config)
            yield

    def _check(self, identity, overwrite, named):
        """Whether it is known as this run's folder, and whether as another's."""
        config = self.path / CONFIG
        if not config.exists():
            own = {path.name for path in self._own_files() if named}
            if self.path.exists() and not self._is_empty(own):
                self._refuse_foreign()
            return False, False
        try:
            held = json.loads(config.read_text())
            of_a_run = "tfticket" in held["versions"]
        except (OSError, ValueError, LookupError, TypeError):
            if not named:
                self._refuse_foreign()
            warnings.warn(
                f"'{config}' is damaged and is written again; the folder's name says "
                "which run it is.",
                stacklevel=4,
            )
            return False, False
        if not of_a_run:
            self._refuse_foreign()
        changed = sorted(k for k in identity if held.get(k, ...) != identity[k])
        if changed and not overwrite:
            raise FileExistsError(
                f"'{self.path}' holds another run: {changed} differ. Choose another "
                "folder, or pass overwrite (--overwrite) to replace that run."
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
        # Not those of pictures in a folder of their own: that is drawn without a lock.
        parts = [path for path in self._own_files() if path.is_dir()]
        inside = [path for part in parts for path in part.rglob("*")]
        for path in [*self.path.iterdir(), *inside]:
            if is_leftover(path):
                path.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _locked(self):
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
            holder.unlink(missing_ok=True)
            lock.release()

    def _holder(self):
        try:
            holder = json.loads((self.path / _HOLDER).read_text())
            return "process {process} on {host}, since {since}".format(**holder)
        except (OSError, ValueError, LookupError):
            return "another process"

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
            held = _read_result(path)
            for name, expected in held["files"].items():
                _require(path.parent / name, expected)
            for name, expected in held["inputs"].items():
                other = self.path / name
                made = _read_result(other.parent / RESULT)["files"].get(other.name)
                if made != expected:
                    raise ValueError(f"it was made from another '{name}'")
            return parse(held["result"])
        except (OSError, ValueError, LookupError, TypeError) as error:
            warnings.warn(
                f"'{path.parent}' is damaged and will be made again: {error}",
                stacklevel=2,
            )
            return None

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
        _write_result(folder, result, sums, used)

    def amend(self, part: str | os.PathLike, result: Any) -> None:
        """Replaces the result of a finished part; its other files stay."""
        held = _read_result(self.path / part / RESULT)
        _write_result(self.path / part, result, held["files"], held["inputs"])


def _write_result(folder, result, files, inputs):
    values = {"result": result, "files": files, "inputs": inputs}
    write_json(folder / RESULT, {**values, "sha256": digest(values)})


def _read_result(path):
    held = json.loads(path.read_text())
    values = {name: held[name] for name in ("result", "files", "inputs")}
    if digest(values) != held["sha256"]:
        raise ValueError(f"'{path.name}' has another checksum than when it was written")
    return values


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


def sha256(path: str | os.PathLike) -> str:
    """SHA-256 of a file's bytes, as hexadecimal digits."""
    return hashlib.sha256(pathlib.Path(path).read_bytes()).hexdigest()


def digest(values: Any) -> str:
    """SHA-256 of JSON-ready data, as hexadecimal digits."""
    text = json.dumps(values, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def derived_seed(*words: Any) -> int:
    """A seed that depends on all of these, below 2**32."""
    return int(digest([str(word) for word in words])[:8], 16)
