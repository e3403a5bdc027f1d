"""The files that match a pattern of a description, and which of them have rows."""

import gzip
import os
import zlib
from collections.abc import Iterable
from fnmatch import fnmatchcase
from pathlib import Path

from mma4ctr.storage.quoted_text import QuotedText
from mma4ctr.storage.text_blocks import find_raw_file, head_of, opened

# A larger text file is assumed to contain more than a header and blank lines.
LARGEST_EMPTY = 1 << 16


def matching_files(folder: Path, pattern: str) -> list[Path]:
    """Find the files that a name or pattern matches.

    A name that exists is taken literally, even if it contains characters of a pattern (`run[12]`). Otherwise each part
    between slashes is a pattern: `*` matches any text, `?` any character, `[12]` one of several, `**` any folders.

    Args:
        folder: the folder of relative patterns; it is never a pattern itself.
        pattern: absolute, or relative to `folder`; a file may have the suffix `.gz`.

    Returns:
        The files, unordered.

    Raises:
        UserError: A path with this name exists but is not a readable file.
    """
    path = folder.absolute() / pattern
    exact = find_raw_file(path.parent, path.name)
    if exact:
        return [exact]
    given = Path(pattern)
    folders = [Path(given.anchor) if given.is_absolute() else folder.absolute()]
    *between, name = given.parts[1:] if given.is_absolute() else given.parts
    for part in between:
        literal_folders = [one / part for one in folders if (one / part).is_dir()]
        folders = literal_folders or [match for one in folders for match in _folders(one, part)]
    literal = [file for one in folders if (file := find_raw_file(one, name))]
    return literal or [match for one in folders for match in _matches(one, name) if match.is_file()]


def one_form(files: Iterable[Path]) -> list[Path]:
    """Leave out the packed form of files that are there plain too."""
    there = {str(file): file for file in files}
    return [file for name, file in there.items() if file.suffix != ".gz" or name.removesuffix(".gz") not in there]


def _folders(folder: Path, part: str) -> list[Path]:
    """Return the folders in `folder` that a part of a pattern matches."""
    if part == "**":
        found = []
        for path, names, _ in os.walk(folder):
            names[:] = [name for name in names if not name.startswith(".")]
            found.append(Path(path))
        return found
    return [match for match in _matches(folder, part) if match.is_dir()]


def _matches(folder: Path, part: str) -> list[Path]:
    """Return the entries of a folder whose names match the pattern; hidden ones only if it starts with a dot too."""
    hidden = part.startswith(".")
    try:
        return [
            match
            for match in folder.iterdir()
            if fnmatchcase(match.name, part) and match.name.startswith(".") == hidden
        ]
    except OSError:
        return []


def text_holds_rows(path: Path, *, header: bool, delimiter: str | None) -> bool:
    """Return whether a text or gzip file has more than a header and blank lines.

    Args:
        path: the file.
        header: the first record is a header.
        delimiter: the delimiter of quoted CSV; None: each line is a record.

    Raises:
        UserError: The head of a gzip file is damaged.
    """
    if path.stat().st_size > LARGEST_EMPTY:
        return True
    start, head = head_of(path, int(header), QuotedText(delimiter) if delimiter else None)
    if b"\r" in head.rstrip(b"\r\n"):
        return True  # lines may end in lone carriage returns; reading the header will report it
    with opened(path) as file:
        try:
            file.read(start)
            while text := file.read(LARGEST_EMPTY):
                if text.strip():
                    return True
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return True  # reading the rows will report it
    return False
