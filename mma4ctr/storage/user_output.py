"""Files that a user names for output, such as `--output` and `--onnx`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import MANIFEST
from mma4ctr.storage.files import OWN_FILES, own_files, written_to
from mma4ctr.storage.paths import Paths, contains


def check_user_output(
    path: Path, paths: Paths, option: str, *, reads: Sequence[Path] = (), raw_files: Iterable[Path] = ()
) -> None:
    """Refuse an output file that would replace a file of the project or one that the command reads.

    Args:
        path: the file that the user names.
        paths: the folders of path.json.
        option: the option that names the file, for the message.
        reads: the files that the command reads.
        raw_files: the files of described data sets.

    Raises:
        UserError: The file may not be replaced; the message says why.
    """
    reason = (
        _protected_output(path, paths, reads)
        or _protected_input(path, paths)
        or ("is a file of a described data set" if path.exists() and _is_one_of(path, raw_files) else None)
    )
    if reason:
        raise UserError(f"{option} {path}: {reason}; name another file")


def _protected_output(path: Path, paths: Paths, reads: Iterable[Path]) -> str | None:
    """Return why a path is reserved for outputs of the project or read by the command, or None."""
    if any(contains(file, path) for file in reads):
        return "is an input of this command"
    # In saved_path only the files with fixed names are protected.
    for key, folder in paths.outputs.items():
        if contains(folder, path) and key != "saved_path":
            return f"is in {key}, where only the steps write"
    target = path.resolve()
    fixed = {paths.results.name, OWN_FILES, MANIFEST, *own_files(target.parent)}
    if contains(paths.results, path) or (target.name in fixed and target.exists()):
        return "is a file of the project"
    if (target.parent / MANIFEST).is_file():
        return "is in an output folder of a step"
    return None


def _protected_input(path: Path, paths: Paths) -> str | None:
    """Return why an existing path belongs to the raw data of path.json, or None."""
    if path.exists():
        for key, place in paths.inputs.items():
            if contains(place, path):
                return f"belongs to the data of {key!r}"
    return None


def _is_one_of(path: Path, files: Iterable[Path]) -> bool:
    return any(file.samefile(path) for file in files)


@contextmanager
def user_output(
    path: Path, paths: Paths, option: str, *, reads: Sequence[Path] = (), raw_files: Iterable[Path] = ()
) -> Iterator[BinaryIO]:
    """Check and open a file that the user names for writing; see `check_user_output` and `written_to`."""
    check_user_output(path, paths, option, reads=reads, raw_files=raw_files)
    with written_to(path) as file:
        yield file
