"""Temporary folders of a step, which are removed even if the process was killed.

A folder belongs to the process that holds the lock file in it. The system releases the lock whenever that process
ends. The next step that creates a folder beside it removes all folders whose lock is free.
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
    """Create a folder `<parent>/<prefix>...` for the duration of the block.

    Folders with the same prefix that killed processes left behind are removed.
    """
    parent.mkdir(parents=True, exist_ok=True)
    for other in parent.glob(f"{glob.escape(prefix)}*"):
        if other.is_dir() and not other.is_symlink():
            _remove_if_abandoned(other)
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        lock = FileLock(folder / LOCK)
        with suppress(Timeout, FileNotFoundError):  # another process took the new folder for an abandoned one
            lock.acquire(blocking=False)
            break
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)  # again, for systems that cannot remove an open file


def _remove_if_abandoned(folder: Path) -> None:
    lock = FileLock(folder / LOCK)
    with suppress(Timeout, OSError):
        if not (folder / LOCK).is_file():
            folder.rmdir()  # the process was killed before it had the lock; if it still runs, it takes another name
            return
        lock.acquire(blocking=False)
        shutil.rmtree(folder, ignore_errors=True)
        lock.release()
        shutil.rmtree(folder, ignore_errors=True)
