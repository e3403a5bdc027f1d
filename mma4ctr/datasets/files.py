"""Which files a description means, and which of them hold rows."""

import gzip
import os
import zlib
from fnmatch import fnmatchcase
from pathlib import Path

from mma4ctr.quotedtext import QuotedText
from mma4ctr.rawfiles import find_raw_file, head_of, opened

# A text file that is larger holds more than a header and blank lines.
LARGEST_EMPTY = 1 << 16


def matching_files(folder: Path, pattern: str) -> list[Path]:
    """The files that a name or pattern means, in no order; empty where there is none.

    A name that is there as it is written is meant literally, also if it has the characters of a pattern (`run[12]`), so
    `folder` is never a pattern. Of the rest each part between slashes is one: `*` for any text, `?` for any character,
    `[12]` for one of some, `**` for any folders.

    Args:
        pattern: absolute, or from `folder` on; a file may have `.gz` behind the name.

    Raises `UserError` where something of that name is there but is no readable file.
    """
    path = folder.absolute() / pattern
    exact = find_raw_file(path.parent, path.name)
    if exact:
        return [exact]
    given = Path(pattern)
    folders = [Path(given.anchor) if given.is_absolute() else folder.absolute()]
    *between, name = given.parts[1:] if given.is_absolute() else given.parts
    for part in between:
        there = [one / part for one in folders if (one / part).is_dir()]
        folders = there or [match for one in folders for match in _folders(one, part)]
    literal = [file for one in folders if (file := find_raw_file(one, name))]
    return literal or [match for one in folders for match in _matches(one, name) if match.is_file()]


def _folders(folder: Path, part: str) -> list[Path]:
    """The folders in `folder` that a part of a pattern means."""
    if part == "**":
        return [Path(found) for found, _, _ in os.walk(folder)]
    return [match for match in _matches(folder, part) if match.is_dir()]


def _matches(folder: Path, part: str) -> list[Path]:
    """What is in a folder and has a name as the pattern says."""
    try:
        return [match for match in folder.iterdir() if fnmatchcase(match.name, part)]
    except OSError:
        return []


def text_holds_rows(path: Path, *, header: bool, delimiter: str | None) -> bool:
    """Whether a text file, perhaps packed, has more than blank lines and a header; raises `UserError` for a damaged
    gzip file.

    Args:
        header: the first record is no row. delimiter: between the cells of quoted CSV; None: each line is a record.
    """
    if path.stat().st_size > LARGEST_EMPTY:
        return True
    start, head = head_of(path, int(header), QuotedText(delimiter) if delimiter else None)
    if b"\r" in head.rstrip(b"\r\n"):
        return True  # perhaps lines that end in a carriage return alone: who reads the header says so
    with opened(path) as file:
        try:
            file.read(start)
            while text := file.read(LARGEST_EMPTY):
                if text.strip():
                    return True
        except (EOFError, zlib.error, gzip.BadGzipFile):
            return True  # who reads the rows says what is wrong
    return False
