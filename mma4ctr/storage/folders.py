"""Folders that are built under a temporary name and renamed to their final one.

The old folder is exchanged with the new one in one system call, if the system has one. Elsewhere the old one is renamed
first, so a run that is killed in between loses nothing. The caller of every function must have locked the folder.
"""

import ctypes
import errno
import os
import shutil
import sys
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.files import sync

# Marks a folder that is being built, so the next run can recognize and remove it.
UNDER_CONSTRUCTION = ".mma4ctr-under-construction"


def building_of(folder: Path) -> Path:
    """Return the path where the new folder is built."""
    return folder.with_name(f".{folder.name}.partial")


def retired_of(folder: Path) -> Path:
    """Return the path of the old folder during a replacement, on systems that cannot exchange folders."""
    return folder.with_name(f".{folder.name}.retired")


def start_building(folder: Path, remove: Callable[[Path], None]) -> Path:
    """Create the temporary folder, and remove the one of a killed run.

    Args:
        folder: the final path.
        remove: removes an earlier output from a folder; the folder itself may stay.

    Returns:
        The temporary folder.

    Raises:
        UserError: A file or folder that this project did not write has the temporary name.
    """
    building = building_of(folder)
    for stale in (building, retired_of(folder)):
        if not os.path.lexists(stale):
            continue
        if stale.is_dir() and not stale.is_symlink():
            if (stale / UNDER_CONSTRUCTION).is_file():
                _remove_marked(stale)
            else:
                _remove_earlier(stale, remove)
        if os.path.lexists(stale):
            raise UserError(f"{stale}: was not written by this project, and its name is needed; move it")
    building.mkdir(parents=True)
    (building / UNDER_CONSTRUCTION).touch()
    return building


def abandon_building(folder: Path) -> None:
    """Remove the unfinished folder."""
    building = building_of(folder)
    if (building / UNDER_CONSTRUCTION).is_file():
        with suppress(OSError):
            _remove_marked(building)


def _remove_marked(building: Path) -> None:
    """Remove an unfinished folder; the marker goes last, so that the next run can go on if this one is killed."""
    for path in building.iterdir():
        if path.name != UNDER_CONSTRUCTION:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    (building / UNDER_CONSTRUCTION).unlink()
    building.rmdir()


def finish_building(folder: Path, remove: Callable[[Path], None]) -> None:
    """Rename the new folder to its final name and remove the old one; see `start_building` for `remove`."""
    building = building_of(folder)
    try:
        (building / UNDER_CONSTRUCTION).unlink()
        sync(building)
    except BaseException:
        (building / UNDER_CONSTRUCTION).touch()  # `abandon_building` needs it
        raise
    if not folder.exists():
        building.rename(folder)
    elif exchange_folders(building, folder):
        _remove_replaced(building, remove)
    else:
        folder.rename(retired_of(folder))
        building.rename(folder)
        _remove_replaced(retired_of(folder), remove)
    sync(folder.parent)


def _remove_replaced(folder: Path, remove: Callable[[Path], None]) -> None:
    """Remove the old output, also if a signal comes meanwhile: the new one is complete, so nothing else would do it."""
    try:
        _remove_earlier(folder, remove)
    except BaseException:
        _remove_earlier(folder, remove)
        raise


def _remove_earlier(folder: Path, remove: Callable[[Path], None]) -> None:
    """Remove an earlier output and its folder; the folder stays if another file was added meanwhile."""
    remove(folder)
    with suppress(OSError):
        folder.rmdir()


@cache
def _exchange_call() -> Any:
    """Return the system call that exchanges two paths (bytes) as a function, or None if there is none."""
    if os.name != "posix":
        return None
    library = ctypes.CDLL(None, use_errno=True)
    at_working_directory, exchange = -100, 2
    if sys.platform == "linux" and hasattr(library, "renameat2"):
        return lambda one, other: library.renameat2(at_working_directory, one, at_working_directory, other, exchange)
    if sys.platform == "darwin" and hasattr(library, "renamex_np"):
        return lambda one, other: library.renamex_np(one, other, exchange)
    return None


def exchange_folders(one: Path, other: Path) -> bool:
    """Exchange two folders atomically; return False if the system or file system cannot."""
    call = _exchange_call()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))
