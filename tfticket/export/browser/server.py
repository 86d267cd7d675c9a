"""A small HTTP server for the page, LiteRT.js, the files and the posted results.

It never searches the disk: it serves a path only if it equals one of those that were
given when the server started.
"""

import errno
import http.server
import json
import pathlib
import queue
import socket
import sys
import threading
from collections.abc import Mapping
from http import HTTPStatus
from importlib import resources

from tfticket.export.browser.litertjs import LiteRTJS
from tfticket.export.browser.result import (
    HEADER_BYTES,
    BrowserComparison,
    BrowserError,
    read_error,
    read_post,
)
from tfticket.export.browser.trial import Trial

PAGE = ("page.html", "page.css", "page.js")
POST = "results"

_ERRORS = "errors"
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".wasm": "application/wasm",
}
_BINARY = "application/octet-stream"
_HEADERS = {
    # The page loads nothing from elsewhere. LiteRT.js compiles WebAssembly, and its
    # scripts make functions from text.
    "Content-Security-Policy": (
        "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
        "img-src 'self' data:; frame-ancestors 'none'"
    ),
    # These two headers give a browser's clocks a finer resolution.
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
}


class Server:
    """Serves a trial until it is closed, and keeps what browsers post.

    Args:
        trial: Files and samples.
        litertjs: The installed package.
        host: Address to listen at. "127.0.0.1" is for this machine alone, and "0.0.0.0"
            for all its networks.
        port: Port to listen at; 0 takes a free one.

    Attributes:
        found: A queue of `BrowserComparison`, or `BrowserError` if a page failed.

    Raises:
        OSError: If the server can't listen there.
    """

    def __init__(self, trial: Trial, litertjs: LiteRTJS, host: str, port: int):
        self.found: queue.Queue[BrowserComparison | BrowserError] = queue.Queue()
        self._trial, self._version = trial, litertjs.version
        plan = json.dumps(trial.plan(litertjs.version, POST)).encode()
        page = resources.files("tfticket.export.browser")
        contents: dict[str, bytes | pathlib.Path] = {
            **litertjs.files,
            **trial.served(),
            **{name: page.joinpath(name).read_bytes() for name in PAGE},
            "plan.json": plan,
        }
        contents[""] = contents["page.html"]
        limits = {
            POST: HEADER_BYTES + 4 + trial.output_bytes * len(trial.names),
            _ERRORS: 1 << 14,
        }
        handler = type(
            "Handler",
            (_Handler,),
            {"contents": contents, "limits": limits, "take": self._take},
        )
        try:
            self._server = _Quiet((host, port), handler)
        except (OSError, OverflowError) as error:
            raise OSError(
                getattr(error, "errno", None) or errno.EINVAL,
                f"Nothing can listen at host={host!r}, port={port}: {error}. "
                "{}".format(
                    "Another program has the port: port=0 takes a free one"
                    if getattr(error, "errno", None) == errno.EADDRINUSE
                    else "host must be an address of this machine, port 0 to 65535"
                ),
            ) from error
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "Server":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        """The address of the page on this machine."""
        host, port = self._server.server_address[:2]
        shown = "127.0.0.1" if host in ("0.0.0.0", "") else str(host)
        return f"http://{shown}:{port}/"

    @property
    def url_in_network(self) -> str | None:
        """The page's address in the network, for a phone; `None` if it has none."""
        host, port = self._server.server_address[:2]
        if host != "0.0.0.0":
            return None if str(host).startswith("127.") else self.url
        # This sends nothing. It asks for the address that packets to elsewhere would
        # have.
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect(("192.0.2.1", 9))
                return f"http://{probe.getsockname()[0]}:{port}/"
            except OSError:
                return None

    def _take(self, path, body):
        """Stores what was posted.

        Raises:
            ValueError: If it is not what the page posts.
        """
        if path == POST:
            self.found.put(read_post(body, self._trial, self._version))
        else:
            self.found.put(BrowserError(read_error(body)))


class _Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        # It is not an error if a browser is closed while it loads.
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(http.server.BaseHTTPRequestHandler):
    contents: Mapping[str, bytes | pathlib.Path] = {}
    limits: Mapping[str, int] = {}
    timeout = 60  # seconds that a browser may keep silent
    server_version, sys_version = "tfticket", ""

    @staticmethod
    def take(path: str, body: bytes) -> None:
        """`Server._take`."""

    def do_GET(self):
        path = self._path()
        if path not in self.contents:
            self._refuse(HTTPStatus.NOT_FOUND, "not one of the files of this trial")
            return
        content = self.contents[path]
        if isinstance(content, pathlib.Path):
            content = content.read_bytes()
        ending = pathlib.PurePosixPath(path or "page.html").suffix
        self.send_response(HTTPStatus.OK)
        self.send_header("Content-Type", _TYPES.get(ending, _BINARY))
        self._send(content)

    def do_POST(self):
        path = self._path()
        if path not in self.limits:
            self._refuse(HTTPStatus.NOT_FOUND, "nothing is posted there")
            return
        # A page of another site can't send this type without asking first, and this
        # server does not answer.
        if self.headers.get("Content-Type") != _BINARY:
            self._refuse(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, f"must be {_BINARY}")
            return
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit():
            self._refuse(HTTPStatus.LENGTH_REQUIRED, "Content-Length must be a number")
            return
        if int(length) > self.limits[path]:
            about = f"more than {self.limits[path]} bytes"
            self._refuse(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, about)
            return
        try:
            self.take(path, self.rfile.read(int(length)))
        except ValueError as error:
            self._refuse(HTTPStatus.BAD_REQUEST, str(error))
            return
        self.send_response(HTTPStatus.NO_CONTENT)
        self._send(b"")

    def _path(self):
        return self.path.partition("?")[0].removeprefix("/")

    def _refuse(self, status, why):
        self.close_connection = True  # the rest of the body stays unread
        self.send_response(status)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self._send(why.encode())

    def _send(self, content):
        for name, value in _HEADERS.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_):
        """Logs nothing, because the page posts what matters."""
