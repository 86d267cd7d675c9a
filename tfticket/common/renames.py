"""Renames of one step beyond what `os` has: exchange, and never onto something."""

import contextlib
import ctypes
import errno
import functools
import os
import pathlib
import sys
from collections.abc import Callable

# linux/fs.h; sys/stdio.h of macOS.
_LINUX_EXCHANGE, _MACOS_SWAP = 2, 2
_CURRENT_FOLDER = -100  # AT_FDCWD of Linux
# What systems, and file systems such as NFS, say that have no exchange.
_MISSING = (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EPERM)


def exchange(first: pathlib.Path, second: pathlib.Path) -> bool:
    """Has two files or folders take each other's place in one step.

    Args:
        first: One.
        second: The other, in the same file system.

    Returns:
        Whether the system could; if not, nothing is changed.

    Raises:
        OSError: If one of them is missing or may not be moved.

    Example:

    >>> (folder / "a").write_text("1"), (folder / "b").write_text("2")
    (1, 1)
    >>> exchanged = tfticket.common.renames.exchange(folder / "a", folder / "b")
    >>> (folder / "a").read_text() == ("2" if exchanged else "1")
    True
    """
    function = _function()
    if function is None:
        return False
    number = function(os.fsencode(first), os.fsencode(second))
    if number in _MISSING:
        return False
    if number:
        raise OSError(number, os.strerror(number), str(first), None, str(second))
    return True


@functools.cache
def _function() -> Callable[[bytes, bytes], int] | None:
    """What exchanges two paths and returns the number of the error, 0 without one."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            renamex = library.renamex_np
            return lambda a, b: _number(renamex(a, b, ctypes.c_uint(_MACOS_SWAP)))
        renameat2, here = library.renameat2, ctypes.c_int(_CURRENT_FOLDER)
        flag = ctypes.c_uint(_LINUX_EXCHANGE)
        return lambda a, b: _number(renameat2(here, a, here, b, flag))
    return None


def _number(status):
    return ctypes.get_errno() if status else 0


def rename_new(written: pathlib.Path, target: pathlib.Path) -> None:
    """Renames to a place where nothing is, also if two processes do so at once.

    Args:
        written: The file or folder.
        target: Where it is to be, in the same file system.

    Raises:
        FileExistsError: If something is there.
        OSError: If it can't be renamed.

    Example:

    >>> (folder / "a").write_text("1"), (folder / "b").write_text("2")
    (1, 1)
    >>> tfticket.common.renames.rename_new(folder / "a", folder / "b")
    Traceback (most recent call last):
    FileExistsError: ...
    """
    try:
        if written.is_dir():
            # The system refuses to rename a folder onto one that holds something.
            os.rename(written, target)
            return
        try:
            os.link(written, target)
        except (OSError, AttributeError, NotImplementedError) as error:
            if getattr(error, "errno", None) in (errno.EEXIST, errno.ENOENT):
                raise
            # A file system without a second name for a file.
            if target.exists():
                raise FileExistsError(errno.EEXIST, "") from error
            os.rename(written, target)
            return
        os.unlink(written)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(
                f"{target} exists: it was written meanwhile. Pass overwrite=True to "
                "replace it."
            ) from error
        raise
