"""Raw text files in blocks of whole lines: parsed by several threads, bad lines named by number.

A parser is a function from the bytes of a block to a result; it raises for anything wrong. The fast path never
looks at single lines. Where a block fails, it is halved until the failing lines are found, so the slow path has
no grammar of its own and cannot disagree with the fast one.
"""

import difflib
import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from csv import Error as CsvError
from csv import reader as csv_reader
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, TypeVar, cast

import pyarrow as pa
from pyarrow import csv

from mma4ctr.console import UserError, progress, warn
from mma4ctr.parallel import in_order

T = TypeVar("T")

# 4 MB: measured on 2 cores, 526 MB/s of TikTok text against 433 MB/s with 16 MB, and a quarter of the memory.
BLOCK_BYTES = 4 << 20
LONGEST_LINE = 64 << 20


class BadLine(ValueError):
    """A line (or a block that holds one) is not what the format says; the message says what is wrong."""


@dataclass
class BadLines:
    """How many bad lines may be passed over, and those met so far, each once however often a file is read."""

    allowed: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    seen: set[tuple[Path, int]] = field(default_factory=set)

    def add(self, path: Path, line: int, reason: str) -> None:
        """Note one bad line; raises `UserError` when there are more than allowed."""
        if (path, line) in self.seen:
            return
        self.seen.add((path, line))
        kind = re.sub(r"'[^']*'|-?\d[\d.eE+-]*", "…", reason)
        self.kinds[kind] += 1
        text = f"{path}:{line}: {reason}"
        if len(self.first) < 10:
            self.first.append(text)
        if len(self.seen) > self.allowed:
            advice = "correct or remove the line, or pass over such lines with --skip-bad-lines N"
            more = f" ({len(self.seen)} bad lines, {self.allowed} allowed)" if self.allowed else ""
            raise UserError(f"{text}; {advice}{more}")

    def report(self) -> None:
        """Warn about what was passed over: counts by kind, the first ten with their line numbers."""
        for kind, count in self.kinds.most_common():
            warn(f"passed over {count:,} bad line{'s' if count > 1 else ''}: {kind}")
        for text in self.first:
            warn(f"  {text}")


@dataclass(frozen=True)
class Block:
    """Whole lines of one file."""

    data: bytes
    first_line: int
    consumed: int  # bytes of the file on disk up to the end of this block, for the progress bar


def find_raw_file(folder: Path, name: str) -> Path | None:
    """`folder/name` or `folder/name.gz`, whichever is there.

    Raises `UserError` where something of that name is there but is no readable file.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path}: a link to a file that is not there; correct the link")
        if path.exists():
            if not path.is_file():
                raise UserError(f"{path}: a folder stands where a file is expected; put the file there")
            if not os.access(path, os.R_OK):
                raise UserError(f"{path}: no permission to read it; change its permissions")
            return path
    return None


def read_blocks(path: Path, *, skip_lines: int = 0, closed_by_newline: bool) -> Iterator[Block]:
    """Yield a text or gzip file as blocks of whole lines of about `BLOCK_BYTES`.

    `closed_by_newline`: refuse a file whose last line has no line end. For formats in which a cut line can look
    like a whole one (a number that lost its last digits) there is no other sign.
    """
    with path.open("rb", buffering=0) as raw:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if path.suffix == ".gz" else raw
        rest, line = b"", 1
        try:
            while chunk := stream.read(BLOCK_BYTES):
                if line == 1 and not rest and chunk.startswith(b"\xef\xbb\xbf"):
                    chunk = chunk[3:]  # a byte order mark is no part of the first cell
                cut = chunk.rfind(b"\n") + 1
                if not cut:
                    rest += chunk
                    if len(rest) > LONGEST_LINE:
                        raise UserError(f"{path}:{line}: a line of over 64 MB; this is not such a text file")
                    continue
                data, rest = rest + chunk[:cut], chunk[cut:]
                yield from _without_head(data, line, skip_lines, raw.tell())
                line += data.count(b"\n")
        except (EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise UserError(f"{path}:{line}: damaged gzip data ({error}); fetch the file again") from None
        if rest:
            if closed_by_newline:
                raise UserError(
                    f"{path}:{line}: the file ends in the middle of a line; fetch it again, or, if the line is "
                    "whole, end it with a line break"
                )
            yield from _without_head(rest, line, skip_lines, raw.tell())


def _without_head(data: bytes, line: int, skip_lines: int, consumed: int) -> Iterator[Block]:
    while line <= skip_lines and data:
        data = data[(data.find(b"\n") + 1) or len(data) :]
        line += 1
    if data:
        yield Block(data, line, consumed)


def parse_blocks(
    path: Path,
    parse: Callable[[bytes, int], T],
    bad: BadLines,
    *,
    description: str,
    skip_lines: int = 0,
    closed_by_newline: bool = True,
) -> Iterator[T]:
    """Parse a file block by block in the file's order, with a progress bar.

    Args:
        parse: from the bytes of whole lines, and the number of the first, to a result; raises
            `BadLine`. Called from several threads.
        bad: collects the lines that cannot be parsed; raises `UserError` when they are too many.
        skip_lines: lines at the head of the file that are not parsed (a CSV header).
    """
    blocks = read_blocks(path, skip_lines=skip_lines, closed_by_newline=closed_by_newline)
    with progress(f"{description} {path.name}", path.stat().st_size) as advance:
        done = 0
        for block, future in in_order(lambda block: parse(block.data, block.first_line), blocks):
            try:
                yield future.result()
            except BadLine:
                good = b"".join(_good_lines(path, block.data, block.first_line, parse, bad))
                if good:
                    yield parse(good, block.first_line)
            advance(block.consumed - done)
            done = block.consumed


def _good_lines(path: Path, data: bytes, line: int, parse: Callable[[bytes, int], T], bad: BadLines) -> Iterator[bytes]:
    """The parts of a failing block that parse, halving it until each bad line stands alone."""
    try:
        parse(data, line)
    except BadLine as error:
        middle = data.find(b"\n", len(data) // 2, len(data) - 1) + 1
        middle = middle or data.rfind(b"\n", 0, len(data) // 2) + 1
        if not middle:
            bad.add(path, line, str(error))
            return
        yield from _good_lines(path, data[:middle], line, parse, bad)
        yield from _good_lines(path, data[middle:], line + data.count(b"\n", 0, middle), parse, bad)
    else:
        yield data


class DelimitedText:
    """The grammar of one CSV or TSV file: names in order, the types of the columns that are wanted."""

    def __init__(self, names: list[str], types: dict[str, pa.DataType], *, delimiter: str, quoted: bool) -> None:
        self.names = names
        self._read = csv.ReadOptions(column_names=names, use_threads=False, block_size=2 * LONGEST_LINE)
        self._parse = csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False)
        self._convert = csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
        )

    def parse(self, data: bytes) -> pa.Table:
        """A table of the wanted columns; raises `BadLine` with what is wrong."""
        try:
            return csv.read_csv(pa.BufferReader(data), self._read, self._parse, self._convert)
        except pa.ArrowInvalid as error:
            raise BadLine(self._reason(str(error).splitlines()[0])) from None

    def _reason(self, text: str) -> str:
        """pyarrow's account of a bad line in a user's words."""
        if match := re.search(r"Expected (\d+) columns, got (\d+)", text):
            return f"{match[2]} columns where {match[1]} are expected"
        if match := re.search(r"In CSV column #(\d+): .*invalid value '(.*)'", text):
            return f"column {self.names[int(match[1])]}: '{match[2]}' is not a whole number"
        if match := re.search(r"In CSV column #(\d+): .*invalid UTF8", text):
            return f"column {self.names[int(match[1])]}: bytes that are not UTF-8 text"
        return text


def read_header(path: Path, required: Iterable[str]) -> list[str]:
    """The column names of a CSV file with a header.

    Raises `UserError` for a required column that is missing (with the nearest name that is there) or named twice.
    """
    first = next(read_blocks(path, closed_by_newline=False), None)
    line = first.data.split(b"\n", 1)[0].rstrip(b"\r") if first else b""
    try:
        names = [cell.strip() for cell in next(csv_reader([line.decode()]), [])]
    except (UnicodeDecodeError, CsvError) as error:
        raise UserError(f"{path}:1: the header cannot be read ({error}); it must name the columns") from None
    for column in required:
        if names.count(column) > 1:
            raise UserError(f"{path}:1: the column {column!r} stands twice; remove one")
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f"; is {near[0]!r} meant to be it?" if near else f"; there are: {', '.join(names)[:300]}"
            raise UserError(f"{path}:1: the column {column!r} is missing{hint}")
    return names
