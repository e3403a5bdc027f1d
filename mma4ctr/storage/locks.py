"""Locks between processes: one process at a time writes a folder or appends to a file."""

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import lock_descriptor

from mma4ctr.runtime.errors import UserError

# A symbolic link is refused and nothing is truncated: the name may belong to a file of the user.
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
_POLL_SECONDS = 0.02


def lock_path(path: Path) -> Path:
    """The lock file of a folder or file."""
    return path.with_name(f".{path.name}.lock")


@contextmanager
def locked(path: Path, *, wait: bool = False) -> Iterator[None]:
    """Hold the lock of a folder or file for the duration of the block.

    Args:
        path: What is locked; the lock file `.<name>.lock` lies beside it and is removed afterwards.
        wait: Wait for another process that holds the lock.

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
        # Removed before the lock is released: afterwards it could be the lock file of another process.
        if not os.fstat(handle).st_size:
            with suppress(OSError):
                file.unlink()
        os.close(handle)


def _acquire(file: Path) -> int | None:
    """The open, locked file; None where another process holds the lock."""
    while True:
        handle = os.open(file, _FLAGS, 0o666)
        try:
            if not stat.S_ISREG(os.fstat(handle).st_mode):
                raise UserError(f"{file}: is no regular file; remove it, a lock file goes there")
            if not lock_descriptor(handle, blocking=False):
                os.close(handle)
                return None
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(handle), file.lstat()):
                    return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)  # its owner removed it after it was opened here
