"""`Processes`: tasks side by side in processes of this machine, one thread each."""

import contextlib
import logging
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import sys
import tempfile
import threading
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import keras

from tfticket.common.arguments import check_integer, shown

# One thread each: as many processes as there are cores share them best, and the sums of
# a convolution's gradient depend on the number of threads in their last bits.
_ONE_THREAD = {
    "TF_NUM_INTRAOP_THREADS": "1",
    "TF_NUM_INTEROP_THREADS": "1",
    "OMP_NUM_THREADS": "1",  # PyTorch's
    "NPROC": "1",  # JAX's
}
# Where there is a GPU, they share it.
_SHARED_GPU = {
    "TF_FORCE_GPU_ALLOW_GROWTH": "true",
    "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
}
_READY, _SAID, _DONE, _WARNED, _FAILED = range(5)
_PATIENCE = 5.0  # seconds that a process has to end
_TOLD = 2000  # bytes of its standard error that an error shows

Say = Callable[..., None]
"""Called in a process; the parent receives what it was called with."""


class WorkerDiedError(RuntimeError):
    """A process of a run ended before its task did."""


class _ElsewhereError(Exception):
    """Shows the traceback of an error in another process."""

    def __str__(self):
        return f"\n\n{self.args[0]}"


def cores() -> int:
    """How many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_processes(processes: Any) -> int | None:
    """How many processes an argument `processes` asks for; `None` for none.

    Args:
        processes: `None`, `"auto"` for as many as there are cores, or a number.

    Raises:
        TypeError: If it is anything else.
        ValueError: If it is another text, or more than there are cores.
    """
    if processes is None:
        return None
    if isinstance(processes, str):
        if processes != "auto":
            raise ValueError(
                "processes must be 'auto' or a number. "
                f"Received: processes={shown(processes)}"
            )
        return cores()
    number = check_integer("processes", processes, 1)
    if number > cores():
        raise ValueError(
            f"processes must be at most {cores()}, the cores that there are: each "
            f"process keeps one busy. Received: processes={number}"
        )
    return number


def check_can_be_sent(name: str, value: Any) -> None:
    """Refuses what another process can't have.

    Raises:
        ValueError: If it can't be pickled.
    """
    try:
        pickle.dumps(value)
    except Exception as error:
        raise ValueError(
            f"{name} can't be sent to other processes ({error}). Define it at the top "
            f"of a module, or leave processes=None. Received: {name}={shown(value)}"
        ) from error


class Processes:
    """Runs tasks in processes, which are started as they are needed.

    They are started afresh (`spawn`), so they know of this process only what they are
    given and its settings of Keras. They end with the context, and when this process
    is killed.

    Args:
        most: How many processes.
        start: Called once in each with `args`. Returns a function of (task, say) that
            does a task. Both have to be importable.
        *args: What `start` is called with.

    It is used so:

        with Processes(1, make_work, setting) as processes:
            processes.give("task")
            said = list(processes.wait())
    """

    def __init__(self, most: int, start: Callable[..., Any], *args: Any):
        self._most, self._start, self._args = most, start, args
        self._spawn = multiprocessing.get_context("spawn")
        self._processes: dict[Any, Any] = {}  # by connection
        self._logs: dict[Any, Any] = {}  # what each writes to standard error
        self._busy: dict[Any, Any] = {}  # connection to task
        self._ready: set[Any] = set()

    def __enter__(self) -> "Processes":
        return self

    def __exit__(self, *_: Any) -> None:
        for process in self._processes.values():
            process.terminate()
        for connection, process in self._processes.items():
            process.join(_PATIENCE)
            if process.is_alive():
                process.kill()
                process.join()
            connection.close()
            self._logs[connection].close()

    @property
    def is_free(self) -> bool:
        """Whether a task can be given."""
        return len(self._busy) < self._most

    @property
    def is_busy(self) -> bool:
        """Whether there is a task to wait for."""
        return bool(self._busy)

    def give(self, task: Any) -> None:
        """Has a free process do a task."""
        idle = [c for c in self._processes if c not in self._busy]
        connection = idle[0] if idle else self._begin()
        self._busy[connection] = task
        # One that has died is found when it is waited for.
        with contextlib.suppress(OSError):
            connection.send(task)

    def wait(self) -> Iterator[tuple[Any, ...]]:
        """Waits until something was said, and yields it.

        Raises:
            WorkerDiedError: If a process has died; names its task and its exit code.
            Exception: What a task or `start` has raised.
        """
        heard: list[Any] = multiprocessing.connection.wait(list(self._busy))
        for connection in heard:
            try:
                kind, content = connection.recv()
            except (EOFError, OSError):
                self._raise_died(connection)
            if kind == _FAILED:
                error, text = content
                raise error from _ElsewhereError(text)
            if kind == _READY:
                self._ready.add(connection)
            elif kind == _DONE:
                del self._busy[connection]
            elif kind == _WARNED:
                category, message = content
                warnings.warn(message, category, stacklevel=3)
            else:
                yield content

    def _begin(self):
        ours, theirs = self._spawn.Pipe()
        process = self._spawn.Process(
            target=_serve,
            args=(theirs, _settings(), self._start, self._args),
            daemon=True,
        )
        log = tempfile.TemporaryFile()  # noqa: SIM115
        with _environment(), _without_interrupts(), _standard_error(log):
            process.start()
        theirs.close()
        self._processes[ours], self._logs[ours] = process, log
        return ours

    def _raise_died(self, connection):
        process = self._processes[connection]
        process.join(_PATIENCE)
        code = process.exitcode
        text = (
            f"The process that had to do '{self._busy[connection]}' ended with exit "
            f"code {code}"
        )
        if code is not None and code < 0:
            with contextlib.suppress(ValueError):
                text += f" ({signal.Signals(-code).name})"
        text += ". What is finished is kept; the same call goes on from there."
        if code == -9:
            text += " Systems end processes so when memory is short: try fewer."
        if code == 1 and connection not in self._ready:
            text += (
                " It had not begun: in a script, run experiments under "
                "if __name__ == '__main__':, because each process imports the script."
            )
        if last := _end_of(self._logs[connection]):
            text += f"\nIt wrote:\n{last}"
        raise WorkerDiedError(text)


def done_by(
    pool: Processes, take: Callable[[], Any | None]
) -> Iterator[tuple[Any, ...]]:
    """Has processes do tasks until there are no more, and yields what is said.

    Args:
        pool: The processes.
        take: Returns the next task; `None` if there is none now. More may follow when
            one that is being done has said something.
    """
    while True:
        while pool.is_free and (task := take()) is not None:
            pool.give(task)
        if not pool.is_busy:
            return
        yield from pool.wait()


@contextlib.contextmanager
def _environment():
    """The environment that a process is started with."""
    before = dict(os.environ)
    os.environ.update({**_SHARED_GPU, **before, **_ONE_THREAD})
    os.environ["KERAS_BACKEND"] = keras.backend.backend()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@contextlib.contextmanager
def _standard_error(file):
    """Processes that are started inside write their standard error to a file.

    TensorFlow greets there in each of them.
    """
    sys.stderr.flush()
    before = os.dup(2)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(before, 2)
        os.close(before)


def _end_of(file):
    """The last lines of a file, as text."""
    file.seek(max(0, file.seek(0, os.SEEK_END) - _TOLD))
    return file.read().decode(errors="replace").strip()


@contextlib.contextmanager
def _without_interrupts():
    """Processes that are started inside leave Ctrl-C to this one, which ends them."""
    if not hasattr(signal, "pthread_sigmask"):
        yield
        return
    # A mask, which processes inherit, loses nothing that comes meanwhile.
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _settings():
    """What this process has set that decides results or what is printed."""
    policy = keras.saving.serialize_keras_object(keras.config.dtype_policy())
    return {
        "policy": policy,
        "floatx": keras.config.floatx(),
        "epsilon": keras.config.epsilon(),
        "format": keras.config.image_data_format(),
        "loglevel": logging.getLogger("tensorflow").level,
    }


def _take_over(settings):
    keras.config.set_floatx(settings["floatx"])
    keras.config.set_epsilon(settings["epsilon"])
    keras.config.set_image_data_format(settings["format"])
    policy = keras.saving.deserialize_keras_object(settings["policy"])
    keras.config.set_dtype_policy(policy)
    logging.getLogger("tensorflow").setLevel(settings["loglevel"])


def _serve(connection, settings, start, args):
    """What a process does: tasks, one after another, until its parent is gone."""
    tasks: queue.SimpleQueue = queue.SimpleQueue()
    lock = threading.Lock()

    def send(kind, content=None):
        with lock:
            connection.send((kind, content))

    def show(message, category, *_, **__):
        send(_WARNED, (category, str(message)))

    def receive():
        with contextlib.suppress(EOFError, OSError):
            while True:
                tasks.put(connection.recv())
        # The parent is gone. Files are whole at any time, so nothing is lost.
        os._exit(1)

    threading.Thread(target=receive, daemon=True).start()
    warnings.showwarning = show
    try:
        _take_over(settings)
        work = start(*args)
        send(_READY)
        while True:
            work(tasks.get(), lambda *said: send(_SAID, said))
            send(_DONE)
    except Exception as error:
        send(_FAILED, (_that_can_be_sent(error), traceback.format_exc()))
        threading.Event().wait()  # until the parent has read it, and ends this


def _that_can_be_sent(error):
    try:
        return pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
