"""Artifact folders: arrays and a manifest.json, written whole or not at all.

A folder is built under a temporary name beside its final one, every file is synced, and only then it takes its final
name, so whatever bears the final name is complete. The manifest records the settings, the row counts, the hash of
every file and the fingerprint of each input artifact. A step that reads two artifacts checks that one was made from
the other as it is now; a file is hashed before it is used, and refused where it is not what was written.

An artifact replaces only an artifact of the same step for the same data set, task and variant, and only where no other
file lies in its folder. Everything else in its place is refused, so a wrong path.json destroys nothing.
"""

import hashlib
import os
import shutil
from collections.abc import Iterable, Mapping
from contextlib import ExitStack, suppress
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import orjson

from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.arrays import ArrayStream
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
# What the fingerprint stands for. Sources (paths and dates of raw files) stay out: same content, same artifact.
FINGERPRINTED = ("step", "settings", "inputs", "files")
# Settings that say what an artifact is of; its folder is named after them.
IDENTITY = ("dataset", "task", "variant")


def _sha256(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def sync_and_hash(path: Path) -> dict[str, Any]:
    """Bring a file to disk; its size and hash."""
    sync(path)
    return {"bytes": path.stat().st_size, "sha256": _sha256(path)}


@lru_cache(maxsize=4096)
def _sha256_once(path: Path, *_as_it_stands: int) -> str:
    """The hash of a file, taken once as long as nobody touches it: a sweep reads the same arrays many times."""
    return _sha256(path)


def fingerprint_of(content: Any) -> str:
    """Sixteen hex digits that stand for a JSON-like value, whatever the order of its keys."""
    return hashlib.sha256(orjson.dumps(content, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


def seal(manifest: dict[str, Any]) -> dict[str, Any]:
    """The manifest with its fingerprint, which stands for the content, and its seal, which covers every key."""
    sealed = {key: value for key, value in manifest.items() if key not in ("fingerprint", "seal")}
    sealed["fingerprint"] = fingerprint_of({key: sealed.get(key) for key in FINGERPRINTED})
    return sealed | {"seal": fingerprint_of(sealed)}


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


def _read_manifest(folder: Path) -> dict[str, Any] | None:
    """The manifest of a folder; None where there is none of this project."""
    try:
        manifest = orjson.loads((folder / MANIFEST).read_bytes())
    except (OSError, orjson.JSONDecodeError):
        return None
    right = isinstance(manifest, dict) and isinstance(manifest.get("files"), dict) and "fingerprint" in manifest
    return manifest if right else None


def listed_files(folder: Path) -> set[str] | None:
    """The names in a folder where all of them are in its manifest; None where one is not, or where there is none."""
    manifest = _read_manifest(folder)
    names = {path.name for path in folder.iterdir()}
    return names if manifest is not None and names <= {*manifest["files"], MANIFEST} else None


def check_replaceable(folder: Path, step: int, settings: Mapping[str, Any]) -> None:
    """Demand that nothing but an artifact of the same step, data set, task and variant is in a folder.

    Raises:
        UserError: Names what else is there.
    """
    if not os.path.lexists(folder):
        return
    advice = "move it, or name another folder in path.json"
    if not folder.is_dir():
        raise UserError(f"{folder}: is no folder, and output goes there; {advice}")
    names = {path.name for path in folder.iterdir()}
    manifest = _read_manifest(folder)
    if manifest is None:
        if names:
            shown = min(names - {MANIFEST}, default=MANIFEST)
            raise UserError(f"{folder}: holds {shown!r} and no manifest.json of this project; {advice}")
        return
    other = names - set(manifest["files"]) - {MANIFEST}
    other |= {name for name in names if (folder / name).is_dir() and not (folder / name).is_symlink()}
    if other:
        raise UserError(f"{folder}: holds {min(other)!r}, which this project did not write there; {advice}")
    if manifest.get("step") != step:
        raise UserError(f"{folder}: holds the output of step {manifest.get('step')}, not of step {step}; {advice}")
    known = manifest.get("settings")
    for key in IDENTITY:
        if isinstance(known, dict) and key in settings and known.get(key, settings[key]) != settings[key]:
            raise UserError(f"{folder}: holds the {key} {known[key]!r}, not {settings[key]!r}; {advice}")


def _remove_artifact(folder: Path) -> None:
    """Remove an artifact that was replaced: its own files, then the folder where nothing else is left in it."""
    manifest = _read_manifest(folder)
    if manifest is None:
        return
    for path in folder.iterdir():
        if path.name == MANIFEST or path.name in manifest["files"]:
            path.unlink()
    with suppress(OSError):  # a file that someone has put there meanwhile stays
        folder.rmdir()


def _restore(folder: Path) -> None:
    """Bring back the artifact of a run that was killed between the two renames of a replacement.

    To be called with the lock of the folder.
    """
    retired = retired_of(folder)
    if not folder.exists() and not retired.is_symlink() and _read_manifest(retired) is not None:
        retired.rename(folder)


class ArtifactWriter:
    """Builds one artifact folder; use as a context manager, the folder appears when the block ends well.

    A folder that is a symbolic link is written where the link points to.

    Raises:
        UserError: Another process is writing the same folder, or something that is not an earlier output of the same
            step is in its place.
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
            raise UserError(f"{folder}: is a link to a folder that is not there; correct or remove the link")
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
        self._held = ExitStack()

    def __enter__(self) -> Self:
        self.folder.parent.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            held.enter_context(locked(self.folder))
            _restore(self.folder)
            self._check_place()
            start_building(self.folder, _remove_artifact)
            self._held = held.pop_all()
        return self

    def _check_place(self) -> None:
        check_replaceable(self.folder, self.manifest["step"], self.manifest["settings"])

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
        with self._held:
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
        self._check_place()  # once more: the building may have taken an hour
        finish_building(self.folder, _remove_artifact)


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

    def check_files(self) -> None:
        """Demand that every file is the one that was written; raises `UserError` as `file` does."""
        for name in self.manifest["files"]:
            self.file(name)

    def array(self, name: str) -> np.ndarray:
        """The array `<name>.npy`; raises `UserError` as `file` does."""
        loaded: np.ndarray = np.load(self.file(f"{name}.npy"), allow_pickle=False)
        return loaded

    def json(self, name: str) -> Any:
        """The content of `<name>.json`; raises `UserError` as `file` does."""
        return orjson.loads(self.file(f"{name}.json").read_bytes())


def read_artifact(folder: Path, made_by: str, **expected: str) -> Artifact:
    """Open an artifact folder.

    Args:
        folder: Where it lies.
        made_by: The script that makes it, for messages.
        expected: Settings that it must have, such as `task`: what the folder is named after.

    Raises:
        UserError: The folder or its manifest is missing, damaged, or another than was written (the manifest has a seal
            over all its keys), or it is the artifact of another data set, task or variant. The message names the
            script to run.
    """
    path = folder / MANIFEST
    if not path.exists() and retired_of(folder).is_dir():
        with locked(folder):
            _restore(folder)
    try:
        manifest = orjson.loads(path.read_bytes())
    except FileNotFoundError:
        raise UserError(f"{folder}: not there yet; run {made_by} first") from None
    except (orjson.JSONDecodeError, OSError) as error:
        raise UserError(f"{path}: cannot be read ({error}); remove {folder} and run {made_by} again") from None
    if not isinstance(manifest, dict) or "fingerprint" not in manifest:
        raise UserError(f"{path}: not a manifest of this project; move {folder} and run {made_by} again")
    if "seal" not in manifest:
        raise UserError(f"{path}: was written by an earlier version of this project; run {made_by} again")
    if seal(manifest) != manifest:
        raise UserError(f"{path}: was changed since it was written, its fingerprint is another; run {made_by} again")
    for key, value in expected.items():
        if manifest["settings"].get(key) != value:
            raise UserError(
                f"{folder}: holds the {key} {manifest['settings'].get(key)!r} where {value!r} belongs; move it to its "
                f"own folder, or remove it and run {made_by} again"
            )
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
