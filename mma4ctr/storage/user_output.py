"""Files that a user names for output, such as `--output` and `--onnx`."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import MANIFEST
from mma4ctr.storage.files import OWN_FILES, own_files, written_to
from mma4ctr.storage.paths import Paths, holds


def check_user_output(
    path: Path, paths: Paths, option: str, *, reads: Sequence[Path] = (), raw_files: Iterable[Path] = ()
) -> None:
    """Refuse an output file that would replace a file of the project or one that the command reads.

    Args:
        path: The file that the user names.
        paths: Its folders belong to the steps; in `saved_path` only the files with fixed names do.
        option: The option that names the file, for the message.
        reads: The files that the command reads.
        raw_files: Those of described data sets.

    Raises:
        UserError: Says what the file is and asks for another name.
    """

    def refuse(what: str) -> None:
        raise UserError(f"{option} {path}: {what}; name another file")

    for file in reads:
        if holds(file, path):
            refuse("is the file that is read")
    for key, folder in paths.outputs.items():
        if holds(folder, path) and key != "saved_path":
            refuse(f"lies in {key}, where only the steps write")
    target = path.resolve()
    fixed = {paths.results.name, OWN_FILES, MANIFEST, *own_files(target.parent)}
    if holds(paths.results, path) or (target.name in fixed and target.exists()):
        refuse("is a file of the project")
    if (target.parent / MANIFEST).is_file():
        refuse("lies in an output folder of a step")
    if not path.exists():
        return
    for key, place in paths.inputs.items():
        if holds(place, path):
            refuse(f"belongs to the data that {key!r} names")
    if any(file.samefile(path) for file in raw_files):
        refuse("is a file of a described data set")


@contextmanager
def user_output(
    path: Path, paths: Paths, option: str, *, reads: Sequence[Path] = (), raw_files: Iterable[Path] = ()
) -> Iterator[BinaryIO]:
    """A file that the user names, to write; raises `UserError` as `check_user_output` does, see `written_to`."""
    check_user_output(path, paths, option, reads=reads, raw_files=raw_files)
    with written_to(path) as file:
        yield file
