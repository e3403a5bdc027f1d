"""Single files, written atomically, without replacing files of others.

A file is written under a temporary name in its folder, synced, and renamed. The temporary name identifies the process,
so the next run can remove the files of a killed process.

Tables, figures and the report have fixed names below `saved_path`. Each of these folders has a list of the files that
this project wrote there, `.mma4ctr.json`; a file that is not listed is not replaced.
"""

import os
import re
import socket
import stat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from itertools import count
from pathlib import Path
from typing import BinaryIO

import orjson
import psutil

from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.locks import locked

OWN_FILES = ".mma4ctr.json"
_PARTIAL = re.compile(r"\.mma4ctr-([0-9a-f]{8})-(\d+)-(\d+)-\d+\.partial")
_numbers = count()


@cache
def _host() -> str:
    """Return eight hex digits that identify this machine; processes of other machines cannot be looked up."""
    return f"{zlib.crc32(socket.gethostname().encode()):08x}"


def temporary_name() -> str:
    """Return a name for an unfinished file or folder; it contains the machine, the process id and its start time."""
    started = int(psutil.Process().create_time())
    return f".mma4ctr-{_host()}-{os.getpid()}-{started}-{next(_numbers)}.partial"


def is_stale(name: str) -> bool:
    """Return whether a name is a `temporary_name` of a process of this machine that has ended."""
    match = _PARTIAL.fullmatch(name)
    if not match or match[1] != _host():
        return False
    try:
        return abs(psutil.Process(int(match[2])).create_time() - int(match[3])) > 2
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False


def remove_stale_files(folder: Path) -> None:
    """Remove the temporary files of killed processes."""
    with os.scandir(folder) as entries:
        stale = [entry.name for entry in entries if is_stale(entry.name) and entry.is_file(follow_symlinks=False)]
    for name in stale:
        with suppress(OSError):  # it may be another user's, in a shared folder
            (folder / name).unlink()


def sync(path: Path) -> None:
    """Sync a file or folder to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def file_replaced(path: Path) -> Iterator[BinaryIO]:
    """Open a temporary file that atomically replaces `path` when the block ends without an error."""
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_stale_files(path.parent)
    temporary = path.parent / temporary_name()
    try:
        with temporary.open("xb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Atomically replace any file; see `file_replaced`."""
    with file_replaced(path) as handle:
        handle.write(content)


def own_files(folder: Path) -> set[str]:
    """Return the names of the files in a folder that `own_file_replaced` wrote."""
    try:
        names = orjson.loads((folder / OWN_FILES).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return set()
    return {name for name in names if isinstance(name, str)} if isinstance(names, list) else set()


@contextmanager
def own_file_replaced(path: Path) -> Iterator[BinaryIO]:
    """Replace an output file with a fixed name; see `file_replaced`.

    Raises:
        UserError: The file exists and this project did not write it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if os.path.lexists(path) and (path.name not in own_files(path.parent) or path.is_symlink()):
        raise UserError(
            f"{path}: exists and was not written by this project; move it, or name another saved_path in path.json"
        )
    with file_replaced(path) as handle:
        yield handle
        # The file is listed before it is renamed, so a run that is killed in between can be repeated.
        with locked(path.parent / OWN_FILES, wait=True):
            known = own_files(path.parent)
            if path.name not in known:
                write_file(path.parent / OWN_FILES, orjson.dumps(sorted(known | {path.name})))


def write_own_file(path: Path, content: bytes) -> None:
    """Atomically replace one output file; see `own_file_replaced`."""
    with own_file_replaced(path) as handle:
        handle.write(content)


@contextmanager
def written_to(path: Path) -> Iterator[BinaryIO]:
    """Open a file that the user named for writing.

    A new or regular file is replaced atomically. A device or pipe (`/dev/stdout`) is written directly. A symbolic
    link stays, and its target is replaced.

    Raises:
        UserError: The path is a folder.
    """
    try:
        kind = path.stat().st_mode
    except FileNotFoundError:
        kind = stat.S_IFREG
    if stat.S_ISDIR(kind):
        raise UserError(f"{path}: is a folder; name a file")
    target = Path(os.path.realpath(path))
    special = {Path(root) for root in ("/dev", "/proc")}
    if not stat.S_ISREG(kind) or special & {*path.absolute().parents, *target.parents}:
        with path.open("wb") as handle:
            yield handle
    else:
        with file_replaced(target) as handle:
            yield handle
