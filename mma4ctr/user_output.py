"""Files that a user names for output, such as `--output` and `--onnx`."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from mma4ctr.artifacts import MANIFEST
from mma4ctr.console import UserError
from mma4ctr.datasets.description import described
from mma4ctr.files import OWN_FILES, own_files, written_to
from mma4ctr.paths import Paths, holds


def check_user_output(path: Path, paths: Paths, option: str, reads: Sequence[Path] = ()) -> None:
    """Refuse an output file that would replace a file of the project or one that the command reads.

    Args:
        path: The file that the user names.
        paths: Its folders belong to the steps; in `saved_path` only the files with fixed names do.
        option: The option that names the file, for the message.
        reads: The files that the command reads.

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
    for name, description in described(paths).items():
        for table in description.tables:
            files: list[Path] = []
            with suppress(UserError):  # they are not there
                files = table.files()
            if any(file.samefile(path) for file in files):
                refuse(f"belongs to the data that datasets.{name} describes")


@contextmanager
def user_output(path: Path, paths: Paths, option: str, reads: Sequence[Path] = ()) -> Iterator[BinaryIO]:
    """A file that the user names, to write; raises `UserError` as `check_user_output` does, see `written_to`."""
    check_user_output(path, paths, option, reads)
    with written_to(path) as file:
        yield file
