"""Artifact folders: arrays and a manifest.json, written whole or not at all.

A folder is built under a temporary name beside its final one, every file is synced, and only then renamed, so
whatever bears the final name is complete. The manifest records the settings, the row counts, and the fingerprint
of each input artifact. A step that reads two artifacts checks that one was made from the other as it is now.
"""

import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import numpy as np
import orjson

from mma4ctr.console import UserError
from mma4ctr.parallel import in_order

MANIFEST = "manifest.json"


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(path: Path) -> dict[str, Any]:
    """Bring a file to disk; its size and hash."""
    _sync(path)
    with path.open("rb") as handle:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(handle, "sha256").hexdigest()}


def fingerprint_of(content: Any) -> str:
    """Sixteen hex digits that stand for a JSON-like value, whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def write_file(path: Path, content: bytes) -> None:
    """Replace one file in one go: temporary name, sync, rename."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.partial")
    try:
        with temporary.open("wb") as handle:
            handle.write(content)
            handle.flush()
            os.fsync(handle.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


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
        self._lock = self.folder.with_name(f".{self.folder.name}.lock").open("w")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._lock.close()
            raise UserError(f"{self.folder}: another process is writing it; wait for it to end") from None
        shutil.rmtree(self.building, ignore_errors=True)  # left by a run that was killed
        self.building.mkdir()
        return self

    def array(self, name: str, values: np.ndarray) -> None:
        """Write one array as `<name>.npy`."""
        stream = ArrayStream(self.building / f"{name}.npy", values.dtype, values.shape[1:])
        stream.append(values)
        stream.close()

    def adopt(self, artifact: "Artifact", names: Iterable[str]) -> None:
        """Take over arrays of another artifact as they are: linked where the file system can, else copied."""
        for name in names:
            source, target = artifact.folder / f"{name}.npy", self.building / f"{name}.npy"
            artifact.array(name, in_memory=False)  # refuses a damaged file
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
            self._lock.close()

    def _finish(self) -> None:
        for stream in self._streams:
            stream.close()
        paths = sorted(self.building.iterdir())
        self.manifest["files"] = {path.name: future.result() for path, future in in_order(_seal, paths)}
        # Sources (paths and dates of raw files) stay out: the same content is the same artifact.
        self.manifest["fingerprint"] = fingerprint_of(
            {key: self.manifest[key] for key in ("step", "settings", "inputs", "files")}
        )
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

    def array(self, name: str, *, in_memory: bool = True) -> np.ndarray:
        """The array `<name>.npy`, read whole or memory-mapped.

        Raises `UserError` where the file is missing or has not the size that the manifest records.
        """
        path = self.folder / f"{name}.npy"
        known = self.manifest["files"].get(path.name)
        if known is None or not path.is_file() or path.stat().st_size != known["bytes"]:
            raise UserError(f"{path}: missing or damaged; run {self.manifest['made_by']} again")
        loaded: np.ndarray = np.load(path, mmap_mode=None if in_memory else "r", allow_pickle=False)
        return loaded


def read_artifact(folder: Path, made_by: str) -> Artifact:
    """Open an artifact folder.

    Raises `UserError`, naming the script `made_by` to run, where the folder or its manifest is missing or damaged.
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
