"""Folders that are built under a temporary name and take their final one in one step.

The folder that is replaced is exchanged with the new one where the system can; elsewhere it is renamed first, so that
a run that is killed in between loses nothing. All functions are to be called with the lock of the folder.
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

# Lies in a folder that is being built, so that the next run knows it as this project's.
UNDER_CONSTRUCTION = ".mma4ctr-under-construction"


def building_of(folder: Path) -> Path:
    """Where the new folder is built."""
    return folder.with_name(f".{folder.name}.partial")


def retired_of(folder: Path) -> Path:
    """Where the old folder waits while the new one takes its place, on systems that cannot exchange folders."""
    return folder.with_name(f".{folder.name}.retired")


def start_building(folder: Path, remove: Callable[[Path], None]) -> Path:
    """Make the folder in which `folder` is built, and clear away what a killed run has left.

    Args:
        folder: The final place.
        remove: Removes an earlier output from the folder that it is given, and the folder where nothing else is in it.

    Raises:
        UserError: Something that this project did not write has the temporary name.
    """
    building = building_of(folder)
    for stale in (building, retired_of(folder)):
        if not os.path.lexists(stale):
            continue
        if stale.is_dir() and not stale.is_symlink():
            if (stale / UNDER_CONSTRUCTION).is_file():
                shutil.rmtree(stale)
            else:
                remove(stale)
                with suppress(OSError):
                    stale.rmdir()  # it is empty where the run was killed right after it was made
        if os.path.lexists(stale):
            raise UserError(f"{stale}: is in the way and was not written by this project; move it")
    building.mkdir(parents=True)
    (building / UNDER_CONSTRUCTION).touch()
    return building


def abandon_building(folder: Path) -> None:
    """Remove the half-built folder."""
    building = building_of(folder)
    if (building / UNDER_CONSTRUCTION).is_file():
        shutil.rmtree(building, ignore_errors=True)


def finish_building(folder: Path, remove: Callable[[Path], None]) -> None:
    """Give the new folder its name and remove the one that had it; see `start_building` for `remove`."""
    building = building_of(folder)
    (building / UNDER_CONSTRUCTION).unlink()
    sync(building)
    if not folder.exists():
        building.rename(folder)
    elif exchange_folders(building, folder):
        remove(building)
    else:
        folder.rename(retired_of(folder))
        building.rename(folder)
        remove(retired_of(folder))
    sync(folder.parent)


@cache
def _exchange_call() -> Any:
    """The system's call that exchanges two names, as a function of two paths in bytes; None where it has none."""
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
    """Let two folders exchange their names in one step; false where the system or file system cannot."""
    call = _exchange_call()
    if call is None:
        return False
    if call(os.fsencode(one), os.fsencode(other)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP):
        return False
    raise OSError(number, os.strerror(number), str(other))
