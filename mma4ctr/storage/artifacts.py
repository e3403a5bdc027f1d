"""Artifact folders: arrays and a manifest.json, written atomically.

A folder is built under a temporary name beside the final one. It is renamed after all files are synced, so a folder
with a final name is complete. The manifest records the settings, the row counts, the hash of every file and the
fingerprint of each input artifact. A step that reads two artifacts checks that one was made from the current version
of the other. A file is hashed before it is used, and refused if it has changed.

An artifact replaces only an artifact of the same step for the same data set, task and variant, and only if the folder
contains no other file. Anything else is refused, so a wrong path.json destroys nothing.
"""

import hashlib
import math
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson

from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.arrays import ArrayStream, read_header
from mma4ctr.storage.files import sync
from mma4ctr.storage.folders import (
    UNDER_CONSTRUCTION,
    abandon_building,
    building_of,
    finish_building,
    retired_of,
    start_building,
)
from mma4ctr.storage.locks import locked

MANIFEST = "manifest.json"
# Keys covered by the fingerprint. `sources` (paths and dates of raw files) is left out: same content, same artifact.
FINGERPRINTED = ("step", "settings", "inputs", "files", "columns", "hour", "ticks_per_second", "timed", "test_labels")
# Settings that identify an artifact; its folder is named after them.
IDENTITY = ("dataset", "task", "variant")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sync_and_hash(path: Path) -> dict[str, Any]:
    """Sync a file to disk and return its size in bytes and its SHA-256."""
    sync(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


@lru_cache(maxsize=4096)
def _cached_sha256(path: Path, *_file_state: int) -> str:
    """Hash a file once per state (size, times, inode): a sweep reads the same arrays many times."""
    return _sha256(path)


def fingerprint_of(content: Any) -> str:
    """Return 16 hex digits that identify a JSON-like value, independent of the order of its keys."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """Return the manifest with its fingerprint, which covers the content, and its seal, which covers all keys."""
    sealed = {key: value for key, value in manifest.items() if key not in ("fingerprint", "seal")}
    sealed["fingerprint"] = fingerprint_of({key: sealed[key] for key in FINGERPRINTED if key in sealed})
    return sealed | {"seal": fingerprint_of(sealed)}


def demand_space(folder: Path, needed: int, what: str) -> None:
    """Check that the disk of a folder, which need not exist yet, has enough free space.

    Args:
        folder: the folder that will be written.
        needed: bytes.
        what: the output that needs the space, for the message.

    Raises:
        UserError: Fewer than `needed` bytes are free.
    """
    existing = folder
    while not existing.exists():
        existing = existing.parent
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise UserError(
            f"{folder}: {what} would take {needed:,} bytes, and {free:,} are free there; make room, or name another "
            "folder in path.json"
        )


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """Return the manifest of a folder, or None if there is no manifest of this project."""
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    valid = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) and "fingerprint" in manifest
    return manifest if valid else None


def listed_files(folder: Path) -> set[str] | None:
    """Return the file names in a folder, or None if one is not in its manifest or there is no manifest."""
    manifest = _read_manifest(folder)
    names = {path.name for path in folder.iterdir()}
    return names if manifest is not None and names <= {*manifest["files"], MANIFEST} else None


def _names_if_replaceable(folder: Path, advice: str) -> set[str]:
    """Return the names in a folder that can be replaced; raises `UserError` if it is none."""
    if not folder.is_dir():
        raise UserError(f"{folder}: is not a folder, and output goes there; {advice}")
    if os.path.ismount(folder):
        raise UserError(f"{folder}: is a mount point, which cannot be replaced; mount the folder above it")
    names = {path.name for path in folder.iterdir()}
    if names and not os.access(folder, os.W_OK | os.X_OK):
        raise UserError(f"{folder}: its files cannot be replaced (no permission); {advice}")
    return names


def check_replaceable(folder: Path, step: int, settings: Mapping[str, Any]) -> None:
    """Check that a folder is missing, empty, or an artifact of the same step, data set, task and variant.

    Args:
        folder: the folder that will be replaced.
        step: number of the step that writes it.
        settings: settings of the new artifact.

    Raises:
        UserError: The folder contains something else, which the message names.
    """
    if not os.path.lexists(folder):
        return
    advice = "move it, or name another folder in path.json"
    names = _names_if_replaceable(folder, advice)
    manifest = _read_manifest(folder)
    if manifest is None:
        if names:
            example = min(names - {MANIFEST}, default=MANIFEST)
            raise UserError(f"{folder}: contains {example!r} and no manifest.json of this project; {advice}")
        return
    other = names - set(manifest["files"]) - {MANIFEST}
    other |= {name for name in names if (folder / name).is_dir() and not (folder / name).is_symlink()}
    if other:
        raise UserError(f"{folder}: contains {min(other)!r}, which this project did not write there; {advice}")
    if manifest.get("step") != step:
        raise UserError(f"{folder}: contains the output of step {manifest.get('step')}, not of step {step}; {advice}")
    known = manifest.get("settings")
    for key in IDENTITY:
        if isinstance(known, dict) and key in settings and known.get(key, settings[key]) != settings[key]:
            raise UserError(f"{folder}: contains the {key} {known[key]!r}, not {settings[key]!r}; {advice}")


def _remove_artifact(folder: Path) -> None:
    """Remove the files of a replaced artifact."""
    manifest = _read_manifest(folder)
    if manifest is None:
        return
    for path in folder.iterdir():
        if path.name in manifest["files"]:
            path.unlink()
    (folder / MANIFEST).unlink()  # last: without it a removal that was killed could not be finished later


def _restore(folder: Path) -> None:
    """Restore the artifact of a run that was killed between the two renames of a replacement.

    The caller must have locked the folder.
    """
    retired = retired_of(folder)
    if not folder.exists() and not retired.is_symlink() and _read_manifest(retired) is not None:
        retired.rename(folder)


class ArtifactWriter:
    """Builds one artifact folder as a context manager; the folder appears when the block ends without an error.

    If the folder is a symbolic link, its target is written.

    Args:
        folder: the final folder.
        step: number of the step, 1 to 8.
        made_by: the script, for messages such as "run mlp.py again".
        settings: settings of the step, in the manifest.
        inputs: fingerprints of the input artifacts by name.
        sources: paths and dates of raw files, which the fingerprint does not cover.

    Raises:
        UserError: Another process is writing the folder, or it contains anything but an earlier output of the step.
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
        if folder.is_symlink() and not folder.exists():
            raise UserError(f"{folder}: is a link to a folder that does not exist; correct or remove the link")
        self.folder = folder.resolve() if folder.is_symlink() else folder
        self.building = building_of(self.folder)
        self.manifest: dict[str, Any] = {
            "step": step,
            "made_by": made_by,
            "settings": dict(settings),
            "inputs": dict(inputs),
            "sources": dict(sources or {}),
            "rows": {},
        }
        self._streams: list[ArrayStream] = []
        self._lock = ExitStack()

    def __enter__(self) -> Self:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as lock:
            lock.enter_context(locked(self.folder))
            _restore(self.folder)
            self._check_replaceable()
            start_building(self.folder, _remove_artifact)
            self._lock = lock.pop_all()
        return self

    def _check_replaceable(self) -> None:
        check_replaceable(self.folder, self.manifest["step"], self.manifest["settings"])

    def array(self, name: str, values: np.ndarray) -> None:
        """Write one array as `<name>.npy`."""
        stream = ArrayStream(self.building / f"{name}.npy", values.dtype, values.shape[1:])
        stream.append(values)
        stream.close()

    def adopt(self, artifact: "Artifact", names: Iterable[str]) -> None:
        """Reuse arrays of another artifact: hard links if the file system supports them, else copies."""
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
        """Open an array `<name>.npy` for appending rows; it is closed when the block ends."""
        opened = ArrayStream(self.building / f"{name}.npy", dtype, row_shape)
        self._streams.append(opened)
        return opened

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            finished = False
            try:
                if kind is None:
                    self._finish()
                    finished = True
            finally:
                if not finished:
                    abandon_building(self.folder)

    def _finish(self) -> None:
        for stream in self._streams:
            stream.close()
        paths = sorted(path for path in self.building.iterdir() if path.name != UNDER_CONSTRUCTION)
        self.manifest["files"] = {path.name: future.result() for path, future in in_order(sync_and_hash, paths)}
        self.manifest = seal(self.manifest)
        manifest = self.building / MANIFEST
        manifest.write_bytes(orjson.dumps(self.manifest, option=orjson.OPT_INDENT_2))
        sync(manifest)
        self._check_replaceable()  # again: building may have taken an hour
        finish_building(self.folder, _remove_artifact)


class Artifact:
    """A finished artifact folder, open for reading."""

    def __init__(self, folder: Path, manifest: dict[str, Any]) -> None:
        self.folder = folder
        self.manifest = manifest

    @property
    def fingerprint(self) -> str:
        """The 16 hex digits that identify the content."""
        return str(self.manifest["fingerprint"])

    @property
    def settings(self) -> dict[str, Any]:
        """A copy of the settings in the manifest."""
        return dict(self.manifest["settings"])

    @property
    def array_names(self) -> list[str]:
        """The names of the arrays, without `.npy`."""
        return [name.removesuffix(".npy") for name in self.manifest["files"] if name.endswith(".npy")]

    def hash_of(self, name: str) -> str:
        """Return the SHA-256 of the array `<name>.npy`, as the manifest has it."""
        found: str = self.manifest["files"][f"{name}.npy"]["sha256"]
        return found

    def file(self, name: str) -> Path:
        """Return the path of a file after checking its size and hash against the manifest.

        Raises:
            UserError: The file is missing, damaged or changed.
        """
        path = self.folder / name
        known = self.manifest["files"].get(name)
        advice = f"run {self.manifest['made_by']} again"
        if known is None or not path.is_file() or (status := path.stat()).st_size != known["bytes"]:
            raise UserError(f"{path}: missing or damaged; {advice}")
        state = status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns
        if _cached_sha256(path, *state) != known["sha256"]:
            raise UserError(f"{path}: was changed after it was written, its hash differs; {advice}")
        return path

    def check_files(self) -> None:
        """Check the size and hash of every file; raises `UserError` as `file` does."""
        for name in self.manifest["files"]:
            self.file(name)

    def array(self, name: str) -> np.ndarray:
        """Load the array `<name>.npy`; raises `UserError` as `file` does."""
        with self.file(f"{name}.npy").open("rb") as file:
            shape, fortran, dtype = read_header(file)
            loaded = np.fromfile(file, dtype, math.prod(shape))
        return loaded.reshape(shape, order="F" if fortran else "C")

    def json(self, name: str) -> Any:
        """Load `<name>.json`; raises `UserError` as `file` does."""
        return orjson.loads(self.file(f"{name}.json").read_bytes())


def read_artifact(folder: Path, made_by: str, **expected: str) -> Artifact:
    """Open an artifact folder.

    Args:
        folder: the artifact folder.
        made_by: the script that makes it, for messages.
        **expected: settings that it must have, such as `task`; the folder is named after them.

    Returns:
        The artifact, whose manifest has been checked.

    Raises:
        UserError: The folder or its manifest is missing, damaged or changed, or the artifact belongs to another data
            set, task or variant. The message names the script to run.
    """
    path = folder / MANIFEST
    if not path.exists() and retired_of(folder).is_dir():
        with locked(folder):
            _restore(folder)
    try:
        manifest = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: does not exist yet; run {made_by} first") from None
    except (orjson.JSONDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove {folder} and run {made_by} again") from None
    if not isinstance(manifest, dict) or "fingerprint" not in manifest:
        raise UserError(f"{path}: not a manifest of this project; move {folder} and run {made_by} again")
    if "seal" not in manifest:
        raise UserError(f"{path}: was written by an earlier version of this project; run {made_by} again")
    if seal(manifest) != manifest:
        raise UserError(f"{path}: was changed after it was written, its fingerprint differs; run {made_by} again")
    for key, value in expected.items():
        if manifest["settings"].get(key) != value:
            raise UserError(
                f"{folder}: contains the {key} {manifest['settings'].get(key)!r} instead of {value!r}; move it to its "
                f"own folder, or remove it and run {made_by} again"
            )
    return Artifact(folder, manifest)


def check_made_from(artifact: Artifact, **inputs: Artifact) -> None:
    """Check that `artifact` was made from the current version of its inputs.

    Raises:
        UserError: Names the input that has changed and the script to run again.
    """
    for name, current in inputs.items():
        if artifact.manifest["inputs"].get(name) != current.fingerprint:
            raise UserError(
                f"{artifact.folder}: was made from another version of {name} ({current.folder}); run "
                f"{artifact.manifest['made_by']} again"
            )
