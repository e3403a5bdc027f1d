"""Artifact folders: arrays and a manifest.json, written whole or not at all.

A folder is built under a temporary name beside its final one, every file is synced, and only then renamed, so
whatever bears the final name is complete. The manifest records the settings, the row counts, the hash of every file
and the fingerprint of each input artifact. A step that reads two artifacts checks that one was made from the other as
it is now; a file is hashed before it is used, and refused where it is not what was written.
"""

import fcntl
import hashlib
import math
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self, TextIO, cast

import numpy as np
import orjson

from mma4ctr.console import UserError
from mma4ctr.parallel import in_order

MANIFEST = "manifest.json"
# What the fingerprint stands for. Sources (paths and dates of raw files) stay out: same content, same artifact.
SEALED = ("step", "settings", "inputs", "files")


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _seal(path: Path) -> dict[str, Any]:
    """Bring a file to disk; its size and hash."""
    _sync(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


@lru_cache(maxsize=4096)
def _sha256_once(path: Path, *_as_it_stands: int) -> str:
    """The hash of a file, taken once as long as nobody touches it: a sweep reads the same arrays many times."""
    return _sha256(path)


def fingerprint_of(content: Any) -> str:
    """Sixteen hex digits that stand for a JSON-like value, whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


@contextmanager
def file_replaced(path: Path) -> Iterator[BinaryIO]:
    """A file to be written that takes the place of `path` in one go when the block ends well: temporary name, sync,
    rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as handle:
            yield handle
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def write_file(path: Path, content: bytes) -> None:
    """Replace one file in one go, see `file_replaced`."""
    with file_replaced(path) as handle:
        handle.write(content)


def demand_space(folder: Path, needed: int, what: str) -> None:
    """Raises `UserError` where the disk that `folder` lies on, or will lie on, has less than `needed` bytes free.

    `what`: the output that needs them.
    """
    there = folder
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise UserError(
            f"{folder}: {what} needs {needed:,} bytes, and {free:,} are free there; make room, or name another folder "
            "in path.json"
        )


def write_values(file: Any, values: np.ndarray) -> None:
    """Write the bytes of an array. Unlike `ndarray.tofile` it says why it fails (no space left, file too large)."""
    file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


class ArrayStream:
    """A `.npy` file that grows by rows; its shape is filled in when it is closed."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...] = ()) -> None:
        self.rows = 0
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self._file: BinaryIO = path.open("wb")
        self._header_bytes = self._write_header()

    def _write_header(self) -> int:
        # numpy leaves room for the first dimension to grow, so the length does not depend on `rows`.
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.rows, *self._row_shape),
        }
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def append(self, values: np.ndarray) -> None:
        """Add rows; `values` is cast to the stream's dtype."""
        write_values(self._file, np.asarray(values, dtype=self._dtype))
        self.rows += len(values)

    def close(self) -> None:
        """Write the final shape; nothing more can be appended. Closing twice is harmless."""
        if self._file.closed:
            return
        if self._write_header() != self._header_bytes:
            raise AssertionError("the .npy header grew")
        self._file.close()


class StoredArray:
    """An array in a file, of which slices of rows are read (and, of a `scratch` one, written) as they are asked for, by
    any thread.

    Unlike those of a memory map they do not stay in the process's memory. The file may lose its name meanwhile.
    """

    def __init__(self, file: BinaryIO, start: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._file, self._start = file, start
        self.shape, self.dtype = shape, dtype
        self._row_bytes = dtype.itemsize * math.prod(shape[1:])

    @classmethod
    def of(cls, path: Path) -> Self:
        """That of a `.npy` file."""
        file = path.open("rb")
        np.lib.format.read_magic(file)
        shape, _, dtype = np.lib.format.read_array_header_1_0(file)
        return cls(file, file.tell(), shape, dtype)

    @classmethod
    def scratch(cls, folder: Path, shape: tuple[int, ...], dtype: Any) -> Self:
        """One in a file without a name that goes with it; rows must be written before they are read."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(cast(BinaryIO, tempfile.TemporaryFile(dir=folder, buffering=0)), 0, shape, np.dtype(dtype))

    def __len__(self) -> int:
        return self.shape[0]

    def _bytes_of(self, rows: slice) -> tuple[int, int]:
        """How many rows, and where they begin in the file."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("rows are read one after the other")
        return max(0, stop - start), self._start + start * self._row_bytes

    def __getitem__(self, rows: slice) -> np.ndarray:
        count, offset = self._bytes_of(rows)
        values = np.empty((count, *self.shape[1:]), self.dtype)
        left = memoryview(values.reshape(-1).view(np.uint8).data)
        while left:
            done = os.preadv(self._file.fileno(), [left], offset)
            if not done:
                raise OSError(f"{self._file.name}: ends before its last row")
            left, offset = left[done:], offset + done
        return values

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        count, offset = self._bytes_of(rows)
        if values.shape != (count, *self.shape[1:]) or values.dtype != self.dtype:
            raise ValueError(f"{values.dtype} {values.shape} for {count} rows of {self.dtype} {self.shape}")
        left = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        while left:
            done = os.pwrite(self._file.fileno(), left, offset)
            left, offset = left[done:], offset + done


def _lock(folder: Path) -> TextIO:
    """Take the right to write a folder, for as long as the lock file `.<name>.lock` is open; raises `UserError` where
    another process has it."""
    path = folder.with_name(f".{folder.name}.lock")
    while True:
        lock = path.open("w")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.close()
            raise UserError(f"{folder}: another process is writing it; wait for it to end") from None
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(lock.fileno()), path.stat()):
                return lock
        lock.close()  # its owner has removed it since it was opened


class ArtifactWriter:
    """Builds one artifact folder; use as a context manager, the folder appears when the block ends well.

    Raises `UserError` where another process is writing the same folder.
    """

    def __init__(
        self,
        folder: Path,
        *,
        step: int,
        made_by: str,
        settings: Mapping[str, Any],
        inputs: Mapping[str, str],
        sources: Mapping[str, Any] | None = None,
    ) -> None:
        self.folder = folder
        self.building = folder.with_name(f".{folder.name}.partial")
        self.manifest: dict[str, Any] = {
            "step": step,
            "made_by": made_by,
            "settings": dict(settings),
            "inputs": dict(inputs),
            "sources": dict(sources or {}),
            "rows": {},
        }
        self._streams: list[ArrayStream] = []

    def __enter__(self) -> Self:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        self._lock = _lock(self.folder)
        try:
            shutil.rmtree(self.building, ignore_errors=True)  # left by a run that was killed
            self.building.mkdir()
        except OSError:
            self._unlock()
            raise
        return self

    def _unlock(self) -> None:
        Path(self._lock.name).unlink(missing_ok=True)  # before it is let go, so that nobody's new lock is removed
        self._lock.close()

    def array(self, name: str, values: np.ndarray) -> None:
        """Write one array as `<name>.npy`."""
        stream = ArrayStream(self.building / f"{name}.npy", values.dtype, values.shape[1:])
        stream.append(values)
        stream.close()

    def adopt(self, artifact: "Artifact", names: Iterable[str]) -> None:
        """Take over arrays of another artifact as they are: linked where the file system can, else copied."""
        for name in names:
            source, target = artifact.file(f"{name}.npy"), self.building / f"{name}.npy"
            try:
                os.link(source, target)
            except OSError:
                shutil.copyfile(source, target)

    def json(self, name: str, content: Any) -> None:
        """Write `<name>.json`."""
        (self.building / f"{name}.json").write_bytes(orjson.dumps(content, option=orjson.OPT_SERIALIZE_NUMPY))

    def stream(self, name: str, dtype: Any, row_shape: tuple[int, ...] = ()) -> ArrayStream:
        """An array `<name>.npy` that is appended to; closed with the folder."""
        made = ArrayStream(self.building / f"{name}.npy", dtype, row_shape)
        self._streams.append(made)
        return made

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
            else:
                shutil.rmtree(self.building, ignore_errors=True)
        finally:
            self._unlock()

    def _finish(self) -> None:
        for stream in self._streams:
            stream.close()
        paths = sorted(self.building.iterdir())
        self.manifest["files"] = {path.name: future.result() for path, future in in_order(_seal, paths)}
        self.manifest["fingerprint"] = fingerprint_of({key: self.manifest[key] for key in SEALED})
        manifest = self.building / MANIFEST
        manifest.write_bytes(orjson.dumps(self.manifest, option=orjson.OPT_INDENT_2))
        _sync(manifest)
        _sync(self.building)
        if self.folder.exists():
            retired = self.folder.with_name(f".{self.folder.name}.retired")
            shutil.rmtree(retired, ignore_errors=True)
            self.folder.rename(retired)
            self.building.rename(self.folder)
            shutil.rmtree(retired, ignore_errors=True)
        else:
            self.building.rename(self.folder)
        _sync(self.folder.parent)


class Artifact:
    """A finished artifact folder, read."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def fingerprint(self) -> str:
        return str(self.manifest["fingerprint"])

    @property
    def settings(self) -> dict[str, Any]:
        return dict(self.manifest["settings"])

    @property
    def array_names(self) -> list[str]:
        """The arrays it holds."""
        return [name.removesuffix(".npy") for name in self.manifest["files"] if name.endswith(".npy")]

    def file(self, name: str) -> Path:
        """A file of the artifact, for whoever reads it: it has the size and the hash that the manifest records.

        Raises `UserError` where it is missing, damaged, or another than was written.
        """
        path = self.folder / name
        known = self.manifest["files"].get(name)
        advice = f"run {self.manifest['made_by']} again"
        if known is None or not path.is_file() or (status := path.stat()).st_size != known["bytes"]:
            raise UserError(f"{path}: missing or damaged; {advice}")
        stand = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if _sha256_once(path, *stand) != known["sha256"]:
            raise UserError(f"{path}: is not what was written there, its fingerprint is another; {advice}")
        return path

    def array(self, name: str) -> np.ndarray:
        """The array `<name>.npy`; raises `UserError` as `file` does."""
        loaded: np.ndarray = np.load(self.file(f"{name}.npy"), allow_pickle=False)
        return loaded

    def json(self, name: str) -> Any:
        """The content of `<name>.json`; raises `UserError` as `file` does."""
        return orjson.loads(self.file(f"{name}.json").read_bytes())


def read_artifact(folder: Path, made_by: str) -> Artifact:
    """Open an artifact folder.

    Raises `UserError`, naming the script `made_by` to run, where the folder or its manifest is missing, damaged, or
    another than was written: the settings, inputs and hashes of files must have the fingerprint that it records.
    """
    path = folder / MANIFEST
    try:
        manifest = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: not there yet; run {made_by} first") from None
    except (orjson.JSONDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); run {made_by} again") from None
    if not isinstance(manifest, dict) or "fingerprint" not in manifest:
        raise UserError(f"{path}: not a manifest of this project; run {made_by} again")
    if manifest["fingerprint"] != fingerprint_of({key: manifest.get(key) for key in SEALED}):
        raise UserError(f"{path}: was changed since it was written, its fingerprint is another; run {made_by} again")
    return Artifact(folder, manifest)


def check_made_from(artifact: Artifact, **inputs: Artifact) -> None:
    """Demand that `artifact` was made from these inputs as they are now.

    Raises `UserError` that names the input that has changed since and the script to run again.
    """
    for name, current in inputs.items():
        if artifact.manifest["inputs"].get(name) != current.fingerprint:
            raise UserError(
                f"{artifact.folder}: was made from another {current.folder.name!r} ({name}) than the one now in "
                f"{current.folder}; run {artifact.manifest['made_by']} again"
            )
