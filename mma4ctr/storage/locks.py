"""Locks between processes, so only one at a time writes a folder or appends to a file."""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from mma4ctr.runtime.errors import UserError

# Links are not followed and nothing is truncated: a file of the user may have this name.
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_POLL_SECONDS = 0.02


def lock_path(path: Path) -> Path:
    """Return the lock file of a folder or file."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder or file for the duration of the block.

    Args:
        path: the folder or file; its lock file `.<name>.lock` is created beside it and removed afterwards.
        wait: wait for another process that holds the lock.

    Raises:
        UserError: Another process holds the lock and `wait` is false.
        OSError: The lock file cannot be opened, for example because it is a symbolic link.
    """
    file = lock_path(path)
    handle = _acquire(file)
    while handle is None:
        if not wait:
            raise UserError(f"{path}: another process is writing it; wait for it to end")
        time.sleep(_POLL_SECONDS)
        handle = _acquire(file)
    try:
        yield
    finally:
        # The file is removed before the lock is released; later it could be another process's lock file.
        if not os.fstat(handle).st_size:
            with suppress(OSError):
                file.unlink()
        os.close(handle)


def _acquire(file: Path) -> int | None:
    """Open and lock the file and return its handle, or None if another process holds the lock."""
    while True:
        handle = os.open(file, _FLAGS, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f"{file}: is not a regular file, and a lock file of this name is needed; remove it")
            if not lock_descriptor(handle, blocking=False):
                os.close(handle)
                return None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), file.lstat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # the previous owner removed the file after it was opened here
