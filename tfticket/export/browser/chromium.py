"""Headless Chromium, which opens one page and is then stopped."""

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator

from tfticket.common.files import temporary_folder

INSTALL = "apt-get install chromium"

_NAMES = (
    *("chromium", "chromium-browser", "google-chrome", "google-chrome-stable"),
    *("chrome", "msedge"),
)
# The page is only measured: no GPU, and none of a browser's background work.
_FLAGS = (
    *("--headless=new", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update"),
    *("--disable-sync", "--disable-extensions", "--disable-default-apps"),
    "--no-default-browser-check",
    # /dev/shm is small in containers.
    "--disable-dev-shm-usage",
)


def find(program: str | os.PathLike | None = None) -> str:
    """Finds the path of Chromium or of a browser that takes its flags.

    Args:
        program: Its name or path; `None` looks for the usual names.

    Raises:
        FileNotFoundError: If there is none.
    """
    for name in _NAMES if program is None else [os.fspath(program)]:
        found = shutil.which(name)
        if found:
            return found
    what = "Chromium is not" if program is None else f"chromium={program!s} is not"
    raise FileNotFoundError(
        f"{what} there. Install it ({INSTALL!r} on Debian), pass its path as chromium= "
        "(--chromium), or open the page in a browser yourself: headless=False."
    )


@contextlib.contextmanager
def opened(program: str, url: str) -> Iterator[subprocess.Popen]:
    """Opens a page in a headless browser, and ends all its processes afterwards.

    Args:
        program: From `find`.
        url: Address of the page.

    Yields:
        The process, whose `poll` says whether it has ended.
    """
    # Chromium may still write to its profile while it ends.
    with temporary_folder() as folder:
        profile = folder / "profile"
        flags = [*_FLAGS, f"--user-data-dir={profile}"]
        if hasattr(os, "geteuid") and os.geteuid() == 0:
            flags.append("--no-sandbox")  # which Chromium does not have for root
        with open(folder / "said", "w+b") as said:
            process = subprocess.Popen(
                [program, *flags, url],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=said,
                start_new_session=True,
            )
            try:
                yield process
            finally:
                _end(process)


def _end(process):
    """Ends the browser and its processes, which form their own group."""
    kill = getattr(os, "killpg", None)
    for number in (signal.SIGTERM, getattr(signal, "SIGKILL", signal.SIGTERM)):
        with contextlib.suppress(ProcessLookupError):
            if kill:
                kill(process.pid, number)
            else:
                process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)
