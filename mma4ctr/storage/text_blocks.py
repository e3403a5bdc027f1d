"""Raw text files in blocks of whole lines: parsed by several threads, bad lines named by number.

A parser is a function from the bytes of a block to a result; it raises for anything wrong. The fast path never
looks at single lines. Where a block fails, it is halved until the failing lines are found, so the slow path has
no grammar of its own and cannot disagree with the fast one.

In quoted CSV a record may go over several lines. Blocks are still cut at line breaks first, as most files have no line
break in a cell and whoever works on a block can then read it alone. Where a block turns out to end within a cell, the
file is read in order from there on, and blocks end where records do.
"""

import difflib
import gzip
import os
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar, cast

import numpy as np

from mma4ctr.runtime.console import progress
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.runtime.parallel import Workers
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.quoted_text import QuotedText, line_ends

T = TypeVar("T")

# 4 MB: measured on 2 cores, 526 MB/s of TikTok text against 433 MB/s with 16 MB, and a quarter of the memory.
BLOCK_BYTES = 4 << 20
TAIL_BYTES = 1 << 12  # beyond a block, for the rest of its last line
LONGEST_LINE = 64 << 20
# A file of so many bytes is worth the tenths of a second that a compiled parser takes to load.
MANY_BYTES = 64 << 20


@dataclass(frozen=True)
class Block:
    """The lines of one file that start in a range of its bytes; of a gzip file, of its unpacked bytes.

    Whoever works on a plain file's block reads it, in whatever thread, process or machine that is.

    Attributes:
        at_line_start: a line starts at `start` whatever stands before it: the file's first data line.
        data: the lines themselves, where they had to be read in order.
        consumed: bytes of the file on disk up to the end of this block, for the progress bar.
        quoted: the grammar of quoted CSV, in which records may go over several lines; None: each line is a record.
        whole_records: the block surely ends where a record does.
    """

    path: Path
    start: int
    end: int
    consumed: int
    at_line_start: bool = False
    data: bytes | None = None
    quoted: QuotedText | None = None
    whole_records: bool = False

    def read(self) -> bytes:
        """Whole lines; empty where no line starts in the range. Raises `UserError` for a line of over 64 MB."""
        if self.data is not None:
            return self.data
        with self.path.open("rb", buffering=0) as file:
            begin = self.start if self.at_line_start else self.start - 1
            file.seek(begin)
            size = self.end - begin
            data = _read_all(file, size + TAIL_BYTES)
            first = 0 if self.at_line_start else data.find(b"\n", 0, size) + 1
            if not first and not self.at_line_start:
                return b""
            while not (last := data.find(b"\n", size - 1) + 1) and (more := file.read(len(data))):
                data += more
                if len(data) - size > LONGEST_LINE:
                    raise _too_long(self.path, self.first_line)
        return data[first : last or len(data)]

    @property
    def begin(self) -> int:
        """Where the first line starts, in bytes."""
        if self.at_line_start or self.data is not None:
            return self.start
        with self.path.open("rb") as file:
            file.seek(self.start - 1)
            return self.start - 1 + len(file.readline())

    def record_ends(self, data: bytes) -> np.ndarray:
        """int64 (records,): where each record of `data`, which starts at one, ends; see `QuotedText.record_ends`."""
        return line_ends(data) if self.quoted is None else self.quoted.record_ends(data)

    def line_of(self, record: int) -> int:
        """The number of the line, from 1, in which a record of the block starts. For messages only.

        Args:
            record: from 0; of quoted CSV those of blank text do not count.
        """
        if self.quoted is None:
            return self.first_line + record
        data, start = self.read(), 0
        for end in self.record_ends(data).tolist():
            if data[start:end].strip(b"\r\n"):
                if not record:
                    break
                record -= 1
            start = end
        return self.first_line + data.count(b"\n", 0, start)

    @property
    def first_line(self) -> int:
        """The number of the first line, from 1. The file is read up to here: for messages only."""
        count, position = 1, 0
        with opened(self.path) as file:
            while position < self.start and (data := file.read(min(BLOCK_BYTES, self.start - position))):
                count += data.count(b"\n")
                position += len(data)
            if not self.at_line_start and self.data is None and not data.endswith(b"\n"):
                count += 1  # the line that the range starts in belongs to the block before
        return count


def _read_all(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, fewer only at the end of the file."""
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _too_long(path: Path, line: int) -> UserError:
    return UserError(f"{path}:{line}: a line of over 64 MB; this is not such a text file")


def opened(path: Path) -> BinaryIO:
    """A file's bytes, unpacked where it is a gzip file."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb", buffering=0)


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


def head_of(path: Path, skip_lines: int, quoted: QuotedText | None = None) -> tuple[int, bytes]:
    """Where the data of a file start, after a byte order mark and `skip_lines` lines, and the text before it.

    Args:
        quoted: the grammar of quoted CSV, of which records are skipped instead of lines.
    """
    with opened(path) as file:
        text = _unpacked(path, file, 1 << 16)
        start = 3 if text.startswith(b"\xef\xbb\xbf") else 0  # a byte order mark is no part of the first cell
        for _ in range(skip_lines):
            while not (cut := _first_end(text[start:], quoted)) and (more := _unpacked(path, file, 1 << 16)):
                text += more
                if len(text) > LONGEST_LINE:
                    raise _too_long(path, 1)
            # A header with a quote that is never closed ends with its line; who reads it says what is wrong.
            start += cut or text[start:].find(b"\n") + 1 or len(text) - start
    return start, text[:start]


def _first_end(text: bytes, quoted: QuotedText | None) -> int:
    """Where the first record of some text ends; 0 where the text does not tell."""
    line_end = text.find(b"\n") + 1
    if quoted is None or b'"' not in text[:line_end]:
        return line_end
    ends = quoted.record_ends(text, final=False)
    return int(ends[0]) if len(ends) else 0


def _unpacked(path: Path, file: BinaryIO, size: int, line: int = 1) -> bytes:
    try:
        return file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}:{line}: damaged gzip data ({error}); fetch the file again") from None


def read_blocks(
    path: Path, *, skip_lines: int = 0, closed_by_newline: bool, quoted: QuotedText | None = None
) -> Iterator[Block]:
    """A text or gzip file as blocks of about `BLOCK_BYTES`, each line in one of them.

    Args:
        skip_lines: lines at the head of the file that are no data (a CSV header).
        closed_by_newline: refuse a file whose last line has no line end. For formats in which a cut line can look
            like a whole one (a number that lost its last digits) there is no other sign.
        quoted: the grammar of quoted CSV. Blocks of a gzip file then end where a record does; those of a plain file
            may end within one, see `read_records`.
    """
    start, head = head_of(path, skip_lines, quoted)
    if path.suffix == ".gz":
        yield from _blocks_in_order(path, start, 1 + head.count(b"\n"), closed_by_newline, quoted)
        return
    size = path.stat().st_size
    if closed_by_newline and size > start:
        with path.open("rb") as file:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                raise _cut_off(path, Block(path, size, size, size, at_line_start=True).first_line)
    for begin in range(start, size, BLOCK_BYTES):
        end = min(begin + BLOCK_BYTES, size)
        yield Block(path, begin, end, end, at_line_start=begin == start, quoted=quoted)


def read_records(block: Block) -> Iterator[Block]:
    """A plain file of quoted CSV from a block on, as blocks that end where a record does.

    The block must start at a record. To find the ends the file is read in order; the blocks themselves can still be
    parsed by anyone.
    """
    yield from _blocks_in_order(block.path, block.begin, None, False, block.quoted)


def _cut_off(path: Path, line: int) -> UserError:
    return UserError(
        f"{path}:{line}: the file ends in the middle of a line; fetch it again, or, if the line is whole, end it with "
        "a line break"
    )


def _blocks_in_order(
    path: Path, start: int, line: int | None, closed_by_newline: bool, quoted: QuotedText | None
) -> Iterator[Block]:
    """Blocks of whole records: of a gzip file, which can only be read from its beginning, or of a plain one.

    Args:
        start: where the first record starts. line: its number, for messages; None: it is counted where it is needed.
    """
    packed = path.suffix == ".gz"

    def block_of(data: bytes, start: int) -> Block:
        end = start + len(data)
        consumed = raw.tell() if packed else end
        return Block(path, start, end, consumed, True, data if packed else None, quoted, whole_records=True)

    with path.open("rb", buffering=0) as raw:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
        if packed:
            _unpacked(path, stream, start)  # the head
        else:
            raw.seek(start)
        rest = b""
        # A record that is longer than a block is looked at again with twice the text each time.
        while chunk := _unpacked(path, stream, max(BLOCK_BYTES, len(rest)), line or 1):
            data = rest + chunk
            if quoted is None:
                cut = len(rest) + last if (last := chunk.rfind(b"\n") + 1) else 0
            else:
                cut = quoted.last_end(data)
                if not cut and len(data) > LONGEST_LINE:
                    cut = quoted.last_end(data, final=True)  # a quote that is not closed
            if not cut and len(data) > LONGEST_LINE:
                raise _too_long(path, line or block_of(data, start).first_line)
            if cut:
                yield block_of(data[:cut], start)
                line = line and line + data.count(b"\n", 0, cut)
                start += cut
            rest = data[cut:]
        if rest:
            if closed_by_newline and not rest.endswith(b"\n"):
                raise _cut_off(path, (line or 1) + rest.count(b"\n"))
            yield block_of(rest, start)


@dataclass(frozen=True)
class ParseBlock(Generic[T]):
    """Read and parse one block: the unit of work of a thread, a process or another machine."""

    parse: Callable[[bytes, Block], T]

    def __call__(self, block: Block) -> T | None:
        data = block.read()
        return self.parse(data, block) if data else None


def parse_blocks(
    path: Path,
    parse: Callable[[bytes, Block], T],
    bad: BadLines,
    *,
    description: str,
    workers: Workers,
    skip_lines: int = 0,
    closed_by_newline: bool = True,
    quoted: QuotedText | None = None,
) -> Iterator[T]:
    """Parse a file block by block in the file's order, with a progress bar.

    Args:
        parse: from the bytes of whole records, and the block they are of, to a result; raises `BadLine`, in any case
            where a quoted cell goes on behind the bytes. It runs wherever `workers` let it.
        bad: collects the lines that cannot be parsed; raises `UserError` when they are too many.
        skip_lines: lines at the head of the file that are not parsed (a CSV header).
        quoted: the grammar of quoted CSV, in which a record may go over several lines; None: each line is a record.
    """
    blocks = read_blocks(path, skip_lines=skip_lines, closed_by_newline=closed_by_newline, quoted=quoted)
    remaining: Iterator[Block] | None = blocks
    with progress(f"{description} {path.name}", path.stat().st_size) as advance:
        done = 0
        while remaining is not None:
            blocks, remaining = remaining, None
            for block, future in workers.in_order(ParseBlock(parse), blocks):
                try:
                    result = future.result()
                except BadLine:
                    data = block.read()
                    if block.quoted and not block.whole_records and block.quoted.is_open(data):
                        # The blocks after it, parsed ahead, start within a cell: they are dropped and cut anew.
                        remaining = read_records(block)
                        break
                    good = b"".join(_good_records(block, data, parse, bad))
                    result = parse(good, block) if good else None
                if result is not None:
                    yield result
                advance(block.consumed - done)
                done = block.consumed


def _good_records(block: Block, data: bytes, parse: Callable[[bytes, Block], T], bad: BadLines) -> Iterator[bytes]:
    """The parts of a failing block that parse, halving it at ends of records until each bad record stands alone."""
    ends = [0, *block.record_ends(data).tolist()]
    first_line = block.first_line

    def good(first: int, last: int) -> Iterator[bytes]:
        part = data[ends[first] : ends[last]]
        try:
            parse(part, block)
        except BadLine as error:
            if last - first == 1:
                bad.add(block.path, first_line + data.count(b"\n", 0, ends[first]), str(error))
                return
            middle = (first + last) // 2
            yield from good(first, middle)
            yield from good(middle, last)
        else:
            yield part

    yield from good(0, len(ends) - 1)


def demand_columns(where: str, names: list[str], required: Iterable[str]) -> None:
    """Raises `UserError` for a required column that is missing (with the nearest name that is there) or named twice."""
    for column in required:
        if names.count(column) > 1:
            raise UserError(f"{where}: the column {column!r} stands twice; remove one")
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f"; is {near[0]!r} meant to be it?" if near else f"; there are: {', '.join(names)[:300] or 'none'}"
            raise UserError(f"{where}: the column {column!r} is missing{hint}")
