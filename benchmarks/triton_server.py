"""Triton Inference Server from the wheel of `nvidia-pytriton`: no container, no GPU.

    pip install --no-deps nvidia-pytriton
    pip install 'tritonclient[http,grpc]'

Without its dependencies, since it asks for NumPy 1, and only its server is used here.

    with TritonServer(repository) as server:
        client = tritonclient.http.InferenceServerClient(server.http)
"""

import contextlib
import importlib.util
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

INSTALL = (
    "pip install --no-deps nvidia-pytriton && pip install 'tritonclient[http,grpc]'"
)
HOST = "127.0.0.1"
_SAID = 3000  # characters of the end of the log that an error has


class TritonServer:
    """A server of one model repository on 127.0.0.1, from `with` to its end.

    Args:
        repository: The folder of models, as `tfticket.export.triton_repository` makes.
        poll: Whether new versions are looked for, each second. Else a client asks for
            them by `load_model`.
        ports: Of HTTP and of gRPC. `None` takes two that are free.
        patience: Seconds that it may take until every model is ready.

    Raises:
        ImportError: If the wheel is not installed.
        OSError: If a port is in use.
        RuntimeError: If the server ends, or is not ready in time. The message has the
            end of its log.
    """

    def __init__(
        self,
        repository: str | os.PathLike,
        poll: bool = True,
        ports: tuple[int, int] | None = None,
        patience: float = 300.0,
    ):
        self._repository = pathlib.Path(repository)
        self._poll = poll
        self._ports = ports or _free_ports()
        self._patience = patience
        self.http, self.grpc = (f"{HOST}:{port}" for port in self._ports)
        self._open = contextlib.ExitStack()

    def __enter__(self):
        wheel = wheel_folder()
        for port in self._ports:
            _require_free(port)
        with contextlib.ExitStack() as stack:
            work = pathlib.Path(stack.enter_context(tempfile.TemporaryDirectory()))
            self._log = work / "log"
            log = stack.enter_context(open(self._log, "wb"))
            self._process = subprocess.Popen(
                self._command(wheel, _backends(wheel, work)),
                env=_environment(wheel),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
            stack.callback(self._end)
            self._wait()
            self._open = stack.pop_all()
        return self

    def __exit__(self, *_):
        self._open.close()

    @property
    def pid(self) -> int:
        """The number of the server's process."""
        return self._process.pid

    def log(self) -> str:
        """The end of what the server has written, without its tables of settings."""
        lines = self._log.read_text(errors="replace").splitlines()
        said = [line for line in lines if line and line[0] not in "|+"]
        return "\n".join(said)[-_SAID:]

    def _command(self, wheel, backends):
        http, grpc = self._ports
        return [
            str(wheel / "bin" / "tritonserver"),
            f"--model-repository={self._repository}",
            f"--backend-directory={backends}",
            f"--http-address={HOST}",
            f"--http-port={http}",
            f"--grpc-address={HOST}",
            f"--grpc-port={grpc}",
            "--allow-metrics=false",
            # Else each model's code is run once more, to ask what its inputs are.
            "--disable-auto-complete-config",
            f"--model-control-mode={'poll' if self._poll else 'explicit'}",
            *(["--repository-poll-secs=1"] if self._poll else ["--load-model=*"]),
            "--exit-timeout-secs=20",
        ]

    def _wait(self):
        end = time.monotonic() + self._patience
        while True:
            code = self._process.poll()
            if code is not None:
                raise RuntimeError(
                    f"Triton ended with code {code} before it was ready. The end of "
                    f"its log:\n{self.log()}"
                )
            with contextlib.suppress(OSError, urllib.error.URLError):
                url = f"http://{self.http}/v2/health/ready"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    if answer.status == 200:
                        return
            if time.monotonic() > end:
                raise RuntimeError(
                    f"Triton was not ready in {self._patience:g} seconds. The end of "
                    f"its log:\n{self.log()}"
                )
            time.sleep(0.2)

    def _end(self):
        self._process.terminate()
        try:
            self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


def wheel_folder() -> pathlib.Path:
    """Where the wheel has the server; it is not imported, which needs NumPy 1.

    Raises:
        ImportError: If it is not installed.
    """
    found = importlib.util.find_spec("pytriton")
    if found is None or not found.submodule_search_locations:
        raise ImportError(f"Triton's server is not installed. Install it: {INSTALL}")
    return pathlib.Path(found.submodule_search_locations[0], "tritonserver")


def _backends(wheel, work):
    """The Python backend, with the stub of this version of Python."""
    version = f"{sys.version_info.major}.{sys.version_info.minor}"
    name = "triton_python_backend_stub"
    stub = wheel / "python_backend_stubs" / version / name
    if not stub.exists():
        known = sorted(p.name for p in stub.parent.parent.iterdir())
        raise RuntimeError(
            f"nvidia-pytriton has no stub for Python {version}, but for {known}. Run "
            "this with one of them."
        )
    folder = work / "backends" / "python"
    shutil.copytree(wheel / "backends" / "python", folder)
    shutil.copy(stub, folder / name)
    return folder.parent


def _environment(wheel):
    """What the server's processes find: its libraries, and this Python's packages.

    The stub runs the system's Python of this version, which need not have any.
    """
    libraries = wheel.parent.parent / "nvidia_pytriton.libs"
    packages = [path for path in sys.path if path.endswith("-packages")]
    found = {
        "LD_LIBRARY_PATH": [str(libraries)],
        "PYTHONPATH": packages,
    }
    environment = dict(os.environ)
    for name, paths in found.items():
        before = os.environ.get(name, "").split(os.pathsep)
        environment[name] = os.pathsep.join(filter(None, [*paths, *before]))
    return environment


def _free_ports():
    with socket.socket() as one, socket.socket() as two:
        for taken in (one, two):
            taken.bind((HOST, 0))
        return one.getsockname()[1], two.getsockname()[1]


def _require_free(port):
    with socket.socket() as trial:
        trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            trial.bind((HOST, port))
        except OSError as error:
            raise OSError(
                error.errno,
                f"Port {port} of {HOST} is in use. Pass other ports=, or None for "
                "free ones",
            ) from error
