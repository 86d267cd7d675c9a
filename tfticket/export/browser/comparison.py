"""`compare_in_browser` runs files of one network side by side in LiteRT.js."""

import contextlib
import math
import os
import queue
import subprocess
import time
from collections.abc import Mapping, Sequence
from typing import Any

from tfticket.common.arguments import (
    check_bool,
    check_instance,
    check_integer,
    check_number,
    check_path,
    optional,
)
from tfticket.export.browser import chromium as browsers
from tfticket.export.browser import litertjs as packages
from tfticket.export.browser.result import BrowserComparison, BrowserError
from tfticket.export.browser.server import Server
from tfticket.export.browser.trial import prepare

_POLL = 0.2  # seconds between looks at whether the browser still runs


def compare_in_browser(
    files: Sequence[str | os.PathLike] | Mapping[str, str | os.PathLike],
    inputs: Any = None,
    *,
    repeats: int = 20,
    headless: bool = True,
    host: str = "127.0.0.1",
    port: int = 0,
    chromium: str | os.PathLike | None = None,
    litertjs: str | os.PathLike | None = None,
    timeout: float = 300.0,
) -> BrowserComparison:
    """Runs `.tflite` files side by side in a browser, and compares times and answers.

    LiteRT's sparse convolutions run on ARM and in browsers and not on x86, so a browser
    shows their speed and correctness on any machine. A small server on this machine
    sends the page, LiteRT.js and the files to the browser, and the page posts the
    results. Nothing is loaded from elsewhere.

    It needs LiteRT.js (`npm install @litertjs/core`) and, with `headless`, Chromium.

    Args:
        files: Paths of `.tflite` files with a fixed batch, of which the first is the
            reference; or a mapping of names to paths. All files have the same inputs
            and outputs.
        inputs: Samples along the first axis: an array, or a dict of arrays by the name
            of the input. `None` draws eight random ones with a fixed seed.
        repeats: How often each file is timed; in a round each file is called in turn.
        headless: Whether to run Chromium without a window. If not, the address is
            printed, and the first browser that opens it runs the files.
        host: Address to serve at: "127.0.0.1" is for this machine alone, and "0.0.0.0"
            for all its networks, so that a phone can run the files.
        port: Port to serve at; 0 takes a free one.
        chromium: Name or path of Chromium; `None` searches for it.
        litertjs: Folder of the npm package; `None` reads `TFTICKET_LITERTJS`, then
            searches `node_modules` here and above.
        timeout: Seconds to wait for an answer.

    Returns:
        `BrowserComparison`: times, differences and raw outputs of each file, and the
        browser. Files that differ are not an error: see `same` and `warnings`.

    Raises:
        BrowserError: If the page reports an error, the browser ends, or no answer
            comes in time.
        FileNotFoundError: If a file, LiteRT.js or Chromium is not there.
        OSError: If the port is taken.
        TypeError: If an argument has the wrong type.
        ValueError: If a file leaves its batch open, if inputs or outputs of files
            differ, or if an argument does not fit.

    Example:

    >>> model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
    >>> path = tfticket.export.litert(model, folder / "model.tflite").path
    >>> tfticket.export.compare_in_browser([path])  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    ValueError: .../model.tflite leaves an axis of its input 'x' open...
    """
    check_bool("headless", headless)
    check_path("host", check_instance("host", host, str, "a text"))
    optional(check_path, "chromium", chromium)
    optional(check_path, "litertjs", litertjs)
    check_number("timeout", timeout, above=0)
    check_integer("port", port, 0, 65535)
    trial = prepare(files, inputs, repeats)
    program = browsers.find(chromium) if headless else None
    with Server(trial, packages.find(litertjs), host, port) as server:
        if program is None:
            print(f"Open {server.url_in_network or server.url}", flush=True)
            return answer(server, timeout)
        with browsers.opened(program, server.url) as process:
            return answer(server, timeout, process)


def serving(
    files: Sequence[str | os.PathLike] | Mapping[str, str | os.PathLike],
    inputs: Any,
    repeats: int,
    host: str,
    port: int,
    litertjs: str | os.PathLike | None,
) -> Server:
    """Makes a server without starting it; the arguments are `compare_in_browser`'s."""
    check_integer("port", port, 0, 65535)
    trial = prepare(files, inputs, repeats)
    return Server(trial, packages.find(litertjs), host, port)


def answer(
    server: Server,
    timeout: float | None = None,
    process: subprocess.Popen | None = None,
) -> BrowserComparison:
    """Waits for the results that the next browser posts.

    Args:
        server: The server, started.
        timeout: Seconds to wait; `None` for no limit.
        process: The browser, if we started it: no answer comes after it has ended.

    Raises:
        BrowserError: If the page failed, if the browser ended, or if no answer came in
            time.
    """
    end = math.inf if timeout is None else time.monotonic() + timeout
    while True:
        ended = None if process is None else process.poll()
        with contextlib.suppress(queue.Empty):
            found = server.found.get(timeout=_POLL)
            if isinstance(found, BrowserError):
                raise found
            return found
        if ended is not None:
            raise BrowserError(
                f"The browser ended with exit code {ended} before it answered. Open "
                "the page in a browser yourself (headless=False) to see more."
            )
        if time.monotonic() > end:
            raise BrowserError(
                f"No browser has answered in {timeout:g} seconds. Pass a longer "
                "timeout, or open the page yourself (headless=False) to see more."
            )
