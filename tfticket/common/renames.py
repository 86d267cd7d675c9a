"""Renames of one step beyond what `os` has: exchange, and never onto something."""

import contextlib
import ctypes
import errno
import functools
import os
import pathlib
import sys
from collections.abc import Callable

# Flags of renameat2 (linux/fs.h) and of renamex_np (sys/stdio.h of macOS).
_EXCHANGE = 2
_ONLY_NEW = 4 if sys.platform == "darwin" else 1
_CURRENT_FOLDER = -100  # AT_FDCWD of Linux
# What systems, and file systems such as NFS, say that don't know a flag.
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
    return _renamed(first, second, _EXCHANGE)


def _renamed(first, second, flag):
    """Whether the system knows such a rename, and has done it."""
    function = _function()
    if function is None:
        return False
    status = function(os.fsencode(first), os.fsencode(second), flag)
    number = ctypes.get_errno() if status else 0
    if number in _MISSING:
        return False
    if number:
        raise OSError(number, os.strerror(number), str(first), None, str(second))
    return True


@functools.cache
def _function() -> Callable[[bytes, bytes, int], int] | None:
    """What renames by a flag; 0 if it could."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        library = ctypes.CDLL(None, use_errno=True)
        if sys.platform == "darwin":
            renamex = library.renamex_np
            return lambda a, b, flag: renamex(a, b, ctypes.c_uint(flag))
        renameat2, here = library.renameat2, ctypes.c_int(_CURRENT_FOLDER)
        return lambda a, b, flag: renameat2(here, a, here, b, ctypes.c_uint(flag))
    return None


def rename_new(written: pathlib.Path, target: pathlib.Path) -> None:
    """Renames to a place where nothing is, also if two processes do so at once.

    Args:
        written: The file or folder.
        target: Where it is to be, in the same file system.

    Raises:
        FileExistsError: If something is there.
        OSError: If it can't be renamed.

    Example:

    >>> (folder / "new").write_text("1")
    1
    >>> tfticket.common.renames.rename_new(folder / "new", folder / "place")
    >>> (folder / "place").read_text()
    '1'
    """
    try:
        if not _renamed(written, target, _ONLY_NEW):
            if target.exists():
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
            os.rename(written, target)
    except OSError as error:
        if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
            raise FileExistsError(
                f"{target} exists: it was written meanwhile. Pass overwrite=True to "
                "replace it."
            ) from error
        raise
