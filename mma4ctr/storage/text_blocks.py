"""Raw text files in blocks of whole lines, parsed in parallel, with the line numbers of bad lines.

A parser is a function from the bytes of a block to a result; it raises `BadLine` for any error. The fast path never
looks at single lines. If a block fails, `good_ranges` finds the bad lines by bisection with the same parser.

In quoted CSV a record may span several lines. Blocks are first cut at line breaks, so each worker can read its block
independently; most files have no line break in a cell. If a block ends inside a cell, the rest of the file is read
sequentially, in blocks that end with a record.
"""

import gzip
import os
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO, Generic, TypeVar, cast

import numpy as np

from mma4ctr.runtime.console import progress
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.runtime.parallel import Workers
from mma4ctr.storage.bad_lines import BadLines, good_ranges
from mma4ctr.storage.quoted_text import QuotedText, line_ends

T = TypeVar("T")

# 4 MB: on 2 cores, TikTok text is read at 526 MB/s, against 433 MB/s with 16 MB and four times the memory.
BLOCK_BYTES = 4 << 20
TAIL_BYTES = 1 << 12  # read beyond a block, for the rest of its last line
LONGEST_LINE = 64 << 20
# Above this file size the compiled parsers pay off; they take some tenths of a second to load.
MANY_BYTES = 64 << 20


@dataclass(frozen=True)
class TextLayout:
    """How the records of a text file are laid out.

    Attributes:
        skip_lines: lines at the head of the file that are not data (a CSV header).
        closed_by_newline: refuse a file whose last line has no line break. For formats in which a truncated line can
            look complete (a number without its last digits) this is the only sign.
        quoted: the grammar of quoted CSV, in which a record may span several lines; None: each line is a record.
    """

    skip_lines: int = 0
    closed_by_newline: bool = True
    quoted: QuotedText | None = None


@dataclass(frozen=True)
class Block:
    """The lines of a file that start in a range of its bytes (of its unpacked bytes, for a gzip file).

    A block of a plain file is read by the worker that parses it.

    Attributes:
        path: the file.
        start: first byte of the range.
        end: byte after the range.
        consumed: bytes of the file on disk up to the end of the block, for the progress bar.
        at_line_start: a line starts at `start`, also without a line break before it (the first data line).
        data: the lines themselves, if they had to be read sequentially.
        quoted: the grammar of quoted CSV; None: each line is a record.
        whole_records: the block is known to end with a record.
        skipped: numbers of its bad records, from 0, which are left out; blank ones are counted.
    """

    path: Path
    start: int
    end: int
    consumed: int
    at_line_start: bool = False
    data: bytes | None = None
    quoted: QuotedText | None = None
    whole_records: bool = False
    skipped: frozenset[int] = frozenset()

    def read(self) -> bytes:
        """Return the whole lines, empty if no line starts in the range; raises `UserError` for one of over 64 MB."""
        if self.data is not None:
            return self.data
        if self.path.suffix == ".gz":
            with opened(self.path) as packed:
                packed.seek(self.start)
                return _read_all(packed, self.end - self.start)
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
        """Position of the first line in bytes."""
        if self.at_line_start or self.data is not None:
            return self.start
        with self.path.open("rb") as file:
            file.seek(self.start - 1)
            return self.start - 1 + len(file.readline())

    def record_ends(self, data: bytes) -> np.ndarray:
        """Return int64 (records,): the end of each record in `data`, which starts at a record."""
        return line_ends(data) if self.quoted is None else self.quoted.record_ends(data)

    def line_of(self, record: int) -> int:
        """Return the line number, from 1, of a record; the file is read again, so use it for messages only.

        Args:
            record: number of the record in the block, from 0. Blank and skipped records are not counted.
        """
        data, start = self.read(), 0
        for number, end in enumerate(self.record_ends(data).tolist()):
            if number not in self.skipped and data[start:end].strip():
                if not record:
                    break
                record -= 1
            start = end
        return self.first_line + data.count(b"\n", 0, start)

    @property
    def first_line(self) -> int:
        """Number of the first line, from 1; the file is read up to it, so use it for messages only."""
        count, position = 1, 0
        with opened(self.path) as file:
            while position < self.start and (data := file.read(min(BLOCK_BYTES, self.start - position))):
                count += data.count(b"\n")
                position += len(data)
            if not self.at_line_start and self.data is None and not data.endswith(b"\n"):
                count += 1  # the range starts inside a line, which belongs to the previous block
        return count


def _read_all(file: BinaryIO, size: int) -> bytes:
    """Read `size` bytes, fewer only at the end of the file."""
    parts = []
    while size > 0 and (part := file.read(size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)


def _too_long(path: Path, line: int) -> UserError:
    return UserError(f"{path}:{line}: a line of over 64 MB; name a text file with shorter lines")


def opened(path: Path) -> BinaryIO:
    """Open a file for reading; a gzip file is unpacked."""
    return cast(BinaryIO, gzip.open(path)) if path.suffix == ".gz" else path.open("rb", buffering=0)


def find_raw_file(folder: Path, name: str) -> Path | None:
    """Find `folder/name` or `folder/name.gz`.

    Returns:
        The path of the file, or None if neither exists.

    Raises:
        UserError: The path exists but is not a readable file.
    """
    for path in (folder / name, folder / f"{name}.gz"):
        if path.is_symlink() and not path.exists():
            raise UserError(f"{path}: is a link to a file that does not exist; correct the link")
        if path.exists():
            if not path.is_file():
                raise UserError(f"{path}: is a folder, and a file is expected; put the file there")
            if not os.access(path, os.R_OK):
                raise UserError(f"{path}: no permission to read it; change its permissions")
            return path
    return None


def head_of(path: Path, skip_lines: int, quoted: QuotedText | None = None) -> tuple[int, bytes]:
    """Find the start of a file's data, after a byte order mark and the header.

    Args:
        path: a text or gzip file.
        skip_lines: number of header lines.
        quoted: the grammar of quoted CSV; records are then skipped instead of lines.

    Returns:
        The position of the first data line, and the text before it.
    """
    with opened(path) as file:
        text = _unpacked(path, file, 1 << 16)
        start = 3 if text.startswith(b"\xef\xbb\xbf") else 0  # the byte order mark is not part of the first cell
        for _ in range(skip_lines):
            while (
                not (cut := _first_end(text[start:], quoted))
                and len(text) <= LONGEST_LINE
                and (more := _unpacked(path, file, len(text)))
            ):
                text += more
            # A header with an unclosed quote ends with its line; the function that parses it reports the error.
            cut = cut or text[start:].find(b"\n") + 1
            if not cut and len(text) > LONGEST_LINE:
                raise _too_long(path, 1)
            start += cut or len(text) - start
    return start, text[:start]


def _first_end(text: bytes, quoted: QuotedText | None) -> int:
    """Return the end of the first record, or 0 if the text is too short to contain it."""
    line_end = text.find(b"\n") + 1
    if quoted is None or b'"' not in text[:line_end]:
        return line_end
    ends = quoted.record_ends(text, final=False)
    return int(ends[0]) if len(ends) else 0


def _unpacked(path: Path, file: BinaryIO, size: int, line: int = 1) -> bytes:
    try:
        return file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}:{line}: damaged gzip data ({error}); download the file again") from None


def read_blocks(
    path: Path, *, skip_lines: int = 0, closed_by_newline: bool, quoted: QuotedText | None = None
) -> Iterator[Block]:
    """Split a text or gzip file into blocks of about `BLOCK_BYTES`; each line is in exactly one block.

    With quoted CSV, blocks of a gzip file end with a record; those of a plain file may end inside a record, see
    `read_records`.

    Args:
        path: the file.
        skip_lines: see `TextLayout`.
        closed_by_newline: see `TextLayout`.
        quoted: see `TextLayout`.

    Yields:
        The blocks in the file's order.

    Raises:
        UserError: The last line is truncated, or gzip data is damaged.
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
                raise _truncated(path, Block(path, size, size, size, at_line_start=True).first_line)
    for begin in range(start, size, BLOCK_BYTES):
        end = min(begin + BLOCK_BYTES, size)
        yield Block(path, begin, end, end, at_line_start=begin == start, quoted=quoted)


def read_records(block: Block) -> Iterator[Block]:
    """Split the rest of a plain quoted CSV file into blocks that end with a record.

    The file is read sequentially to find the ends; any worker can still parse the blocks.

    Args:
        block: the first block of the rest; it starts at a record.
    """
    yield from _blocks_in_order(block.path, block.begin, None, False, block.quoted)


def _truncated(path: Path, line: int) -> UserError:
    return UserError(
        f"{path}:{line}: the last line has no line break, so it may be truncated; download the file again, or end the "
        "line with a line break"
    )


def _blocks_in_order(
    path: Path, start: int, line: int | None, closed_by_newline: bool, quoted: QuotedText | None
) -> Iterator[Block]:
    """Read a file sequentially in blocks of whole records.

    Args:
        path: a gzip file, which can only be read from its beginning, or a plain file.
        start: position of the first record.
        line: its line number, for messages; None: it is counted when it is needed.
        closed_by_newline: see `TextLayout`.
        quoted: see `TextLayout`.
    """
    packed = path.suffix == ".gz"

    def block_of(data: bytes, start: int) -> Block:
        end = start + len(data)
        consumed = raw.tell() if packed else end
        return Block(path, start, end, consumed, True, data if packed else None, quoted, whole_records=True)

    with path.open("rb", buffering=0) as raw:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if packed else raw
        if packed:
            _unpacked(path, stream, start)  # skip the header
        else:
            raw.seek(start)
        rest = b""
        # A record that is longer than a block is scanned again with twice the text.
        while chunk := _unpacked(path, stream, max(BLOCK_BYTES, len(rest)), line or 1):
            data = rest + chunk
            if quoted is None:
                cut = len(rest) + last if (last := chunk.rfind(b"\n") + 1) else 0
            else:
                cut = quoted.last_end(data)
                if not cut and len(data) > LONGEST_LINE:
                    # An unclosed quote: its record ends with its line. The last record may not be complete.
                    first = int(quoted.record_ends(data, final=True)[0])
                    cut = first if data[first - 1 : first] == b"\n" else 0
            if not cut and len(data) > LONGEST_LINE:
                raise _too_long(path, line or block_of(data, start).first_line)
            if cut:
                yield block_of(data[:cut], start)
                line = line and line + data.count(b"\n", 0, cut)
                start += cut
            rest = data[cut:]
        if rest:
            if closed_by_newline and not rest.endswith(b"\n"):
                raise _truncated(path, (line or 1) + rest.count(b"\n"))
            yield block_of(rest, start)


@dataclass(frozen=True)
class ParseBlock(Generic[T]):
    """Read and parse one block, as a picklable function for any kind of worker."""

    parse: Callable[[bytes, Block], T]

    def __call__(self, block: Block) -> T | None:
        """Return the result of a block, or None if no line starts in it."""
        data = block.read()
        return self.parse(data, block) if data else None


def parse_blocks(
    path: Path,
    parse: Callable[[bytes, Block], T],
    bad: BadLines,
    layout: TextLayout,
    *,
    description: str,
    workers: Workers,
) -> Iterator[T]:
    """Parse a file block by block, with a progress bar.

    Args:
        path: a text or gzip file.
        parse: from the bytes of whole records and their block to a result; raises `BadLine`, also if a quoted cell
            continues beyond the bytes. `workers` may run it in another thread, process or machine.
        bad: collects the bad lines.
        layout: how the records are laid out.
        description: label of the progress bar.
        workers: run `parse` on the blocks.

    Yields:
        The result of each block, in the file's order.

    Raises:
        UserError: Too many lines are bad, or the file is damaged.
    """
    blocks = read_blocks(
        path, skip_lines=layout.skip_lines, closed_by_newline=layout.closed_by_newline, quoted=layout.quoted
    )
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
                        # The following blocks, parsed ahead, start inside a cell; drop them and split the rest again.
                        remaining = read_records(block)
                        break
                    skipped: set[int] = set()
                    good = b"".join(_good_records(block, data, parse, bad, skipped))
                    result = parse(good, replace(block, skipped=frozenset(skipped))) if good else None
                if result is not None:
                    yield result
                advance(block.consumed - done)
                done = block.consumed


def _good_records(
    block: Block, data: bytes, parse: Callable[[bytes, Block], T], bad: BadLines, skipped: set[int]
) -> Iterator[bytes]:
    """Yield the parts of a failing block that parse, record its bad records, and add their numbers to `skipped`."""
    ends = [0, *block.record_ends(data).tolist()]
    first_line = block.first_line

    def parse_range(first: int, last: int) -> T:
        return parse(data[ends[first] : ends[last]], block)

    def report(record: int, error: BadLine) -> None:
        bad.add(block.path, first_line + data.count(b"\n", 0, ends[record]), str(error))
        skipped.add(record)

    for first, last in good_ranges(0, len(ends) - 1, parse_range, report):
        yield data[ends[first] : ends[last]]
