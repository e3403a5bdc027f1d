"""Folders for what a step needs only while it works, removed also where their process was killed.

A folder belongs to the process that holds the lock in it. The system lets go of the lock when the process ends, however
it ends; a folder whose lock is free is left over, and the next step that makes one beside it removes it.
"""

import glob
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from filelock import FileLock, Timeout

LOCK = ".owner.lock"


@contextmanager
def scratch_folder(parent: Path, prefix: str) -> Iterator[Path]:
    """A new folder `<parent>/<prefix>...` for the time of the block; those of the same prefix that killed processes
    have left are removed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for other in parent.glob(f"{glob.escape(prefix)}*"):
        if other.is_dir() and not other.is_symlink():
            _remove_left(other)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        lock = FileLock(folder / LOCK)
        with suppress(Timeout, FileNotFoundError):  # another process has taken the folder for one that was left
            lock.acquire(blocking=False)
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)  # where an open file cannot be removed


def _remove_left(folder: Path) -> None:
    lock = FileLock(folder / LOCK)
    with suppress(Timeout, OSError):
        if not (folder / LOCK).is_file():
            folder.rmdir()  # its process was killed before it had the lock; if not, it takes another name
            return
        lock.acquire(blocking=False)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
