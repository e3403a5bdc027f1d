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
from csv import QUOTE_MINIMAL, QUOTE_NONE
from csv import Error as CsvError
from csv import reader as csv_reader
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Generic, TypeVar, cast

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mma4ctr.console import UserError, progress, warn
from mma4ctr.parallel import Threads, Workers

T = TypeVar("T")

# 4 MB: measured on 2 cores, 526 MB/s of TikTok text against 433 MB/s with 16 MB, and a quarter of the memory.
BLOCK_BYTES = 4 << 20
TAIL_BYTES = 1 << 12  # beyond a block, for the rest of its last line
LONGEST_LINE = 64 << 20
# A file of so many bytes is worth the tenths of a second that a compiled parser takes to load.
MANY_BYTES = 64 << 20


class BadLine(ValueError):
    """A line (or a block that holds one) is not what the format says; the message says what is wrong."""


@dataclass
class BadLines:
    """How many bad lines may be passed over, and those met so far, each once however often a file is read.

    `option` is what lets more pass, where the command has such an option.
    """

    allowed: int = 0
    option: str = "--skip-bad-lines N"
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
            advice = "correct or remove the line"
            advice += f", or pass over such lines with {self.option}" if self.option else ""
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
    """The lines of one file that start in a range of its bytes; of a gzip file, of its unpacked bytes.

    Whoever works on a plain file's block reads it, in whatever thread, process or machine that is.

    Attributes:
        at_line_start: a line starts at `start` whatever stands before it: the file's first data line.
        data: the lines themselves, where they had to be read in order.
        consumed: bytes of the file on disk up to the end of this block, for the progress bar.
    """

    path: Path
    start: int
    end: int
    consumed: int
    at_line_start: bool = False
    data: bytes | None = None

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
    def first_line(self) -> int:
        """The number of the first line, from 1. The file is read up to here: for messages only."""
        count, position = 1, 0
        with _opened(self.path) as file:
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


def _opened(path: Path) -> BinaryIO:
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


def head_of(path: Path, skip_lines: int) -> tuple[int, bytes]:
    """Where the data of a file start, after a byte order mark and `skip_lines` lines, and the text before it."""
    with _opened(path) as file:
        text = _unpacked(path, file, 1 << 16)
        start = 3 if text.startswith(b"\xef\xbb\xbf") else 0  # a byte order mark is no part of the first cell
        for _ in range(skip_lines):
            while (cut := text.find(b"\n", start) + 1) == 0 and (more := _unpacked(path, file, 1 << 16)):
                text += more
                if len(text) > LONGEST_LINE:
                    raise _too_long(path, 1)
            start = cut or len(text)
    return start, text[:start]


def _unpacked(path: Path, file: BinaryIO, size: int, line: int = 1) -> bytes:
    try:
        return file.read(size)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{path}:{line}: damaged gzip data ({error}); fetch the file again") from None


def read_blocks(path: Path, *, skip_lines: int = 0, closed_by_newline: bool) -> Iterator[Block]:
    """A text or gzip file as blocks of about `BLOCK_BYTES`, each line in one of them.

    `closed_by_newline`: refuse a file whose last line has no line end. For formats in which a cut line can look
    like a whole one (a number that lost its last digits) there is no other sign.
    """
    start, _ = head_of(path, skip_lines)
    if path.suffix == ".gz":
        yield from _unpacked_blocks(path, start, 1 + skip_lines, closed_by_newline)
        return
    size = path.stat().st_size
    if closed_by_newline and size > start:
        with path.open("rb") as file:
            file.seek(size - 1)
            if file.read(1) != b"\n":
                raise _cut_off(path, Block(path, size, size, size, at_line_start=True).first_line)
    for begin in range(start, size, BLOCK_BYTES):
        end = min(begin + BLOCK_BYTES, size)
        yield Block(path, begin, end, end, at_line_start=begin == start)


def _cut_off(path: Path, line: int) -> UserError:
    return UserError(
        f"{path}:{line}: the file ends in the middle of a line; fetch it again, or, if the line is whole, end it with "
        "a line break"
    )


def _unpacked_blocks(path: Path, start: int, line: int, closed_by_newline: bool) -> Iterator[Block]:
    """A gzip file can only be read from its beginning."""
    with path.open("rb", buffering=0) as raw:
        stream = cast(BinaryIO, gzip.GzipFile(fileobj=raw))
        _unpacked(path, stream, start)  # the head
        rest = b""
        while chunk := _unpacked(path, stream, BLOCK_BYTES, line):
            cut = chunk.rfind(b"\n") + 1
            if not cut:
                rest += chunk
                if len(rest) > LONGEST_LINE:
                    raise _too_long(path, line)
                continue
            data, rest = rest + chunk[:cut], chunk[cut:]
            yield Block(path, start, start + len(data), raw.tell(), data=data)
            line += data.count(b"\n")
            start += len(data)
        if rest:
            if closed_by_newline:
                raise _cut_off(path, line)
            yield Block(path, start, start + len(rest), raw.tell(), data=rest)


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
) -> Iterator[T]:
    """Parse a file block by block in the file's order, with a progress bar.

    Args:
        parse: from the bytes of whole lines, and the block they are of, to a result; raises `BadLine`. It runs
            wherever `workers` let it.
        bad: collects the lines that cannot be parsed; raises `UserError` when they are too many.
        skip_lines: lines at the head of the file that are not parsed (a CSV header).
    """
    blocks = read_blocks(path, skip_lines=skip_lines, closed_by_newline=closed_by_newline)
    with progress(f"{description} {path.name}", path.stat().st_size) as advance:
        done = 0
        for block, future in workers.in_order(ParseBlock(parse), blocks):
            try:
                result = future.result()
            except BadLine:
                good = b"".join(_good_lines(block, block.read(), block.first_line, parse, bad))
                result = parse(good, block) if good else None
            if result is not None:
                yield result
            advance(block.consumed - done)
            done = block.consumed


def _good_lines(
    block: Block, data: bytes, line: int, parse: Callable[[bytes, Block], T], bad: BadLines
) -> Iterator[bytes]:
    """The parts of a failing block that parse, halving it until each bad line stands alone."""
    try:
        parse(data, block)
    except BadLine as error:
        middle = data.find(b"\n", len(data) // 2, len(data) - 1) + 1
        middle = middle or data.rfind(b"\n", 0, len(data) // 2) + 1
        if not middle:
            bad.add(block.path, line, str(error))
            return
        yield from _good_lines(block, data[:middle], line, parse, bad)
        yield from _good_lines(block, data[middle:], line + data.count(b"\n", 0, middle), parse, bad)
    else:
        yield data


class DelimitedText:
    """The grammar of one CSV or TSV file: names in order, the types of the columns that are wanted.

    Args:
        compiled: try lines of whole numbers with the compiled parser first, see `integerlines`. All wanted columns
            must be int64 then.
    """

    def __init__(
        self, names: list[str], types: dict[str, pa.DataType], *, delimiter: str, quoted: bool, compiled: bool = False
    ) -> None:
        self.names = names
        self._delimiter = delimiter
        self._compiled = compiled
        self._read = csv.ReadOptions(column_names=names, use_threads=False, block_size=2 * LONGEST_LINE)
        self._parse = csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False)
        self._convert = csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
        )

    def parse(self, data: bytes) -> pa.Table:
        """A table of the wanted columns; raises `BadLine` with what is wrong."""
        if self._compiled:
            from mma4ctr.integerlines import parse_columns

            types = self._convert.column_types
            found = parse_columns(data, [name in types for name in self.names], self._delimiter)
            if found is not None:
                in_file = dict(zip([name for name in self.names if name in types], found, strict=True))
                return pa.table({name: in_file[name] for name in types})
        if self._parse.quote_char and data.count(b'"') % 2:  # pyarrow would take the lines after it into the cell
            raise BadLine("a quote that is not closed")
        try:
            table = csv.read_csv(pa.BufferReader(data), self._read, self._parse, self._convert)
        except pa.ArrowInvalid as error:
            raise BadLine(self._reason(str(error).splitlines()[0])) from None
        if b"0x" in data or b"0X" in data:
            self._refuse_hexadecimal(data)
        return table

    def _refuse_hexadecimal(self, data: bytes) -> None:
        """pyarrow takes 0x10 for 16, which no such file means."""
        names = [name for name, kind in self._convert.column_types.items() if pa.types.is_integer(kind)]
        if not names:
            return
        as_text = csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string()), include_columns=names)
        table = csv.read_csv(pa.BufferReader(data), self._read, self._parse, as_text)
        for name in names:
            found = table[name].filter(pc.match_substring_regex(table[name], "0[xX]"))
            if len(found):
                raise BadLine(f"column {name}: '{found[0]}' is not a whole number")

    def _reason(self, text: str) -> str:
        """pyarrow's account of a bad line in a user's words."""
        if match := re.search(r"Expected (\d+) columns, got (\d+)", text):
            return f"{match[2]} columns where {match[1]} are expected"
        if match := re.search(r"In CSV column #(\d+): .*invalid value '(.*)'", text):
            return f"column {self.names[int(match[1])]}: '{match[2]}' is not a whole number"
        if match := re.search(r"In CSV column #(\d+): .*invalid UTF8", text):
            return f"column {self.names[int(match[1])]}: bytes that are not UTF-8 text"
        return text


def integer_text(path: Path, names: list[str], wanted: Iterable[str], *, delimiter: str, quoted: bool) -> DelimitedText:
    """The grammar of a file of whole numbers; of a large one, with the compiled parser before the general one."""
    types, large = dict.fromkeys(wanted, pa.int64()), path.stat().st_size > MANY_BYTES
    return DelimitedText(names, types, delimiter=delimiter, quoted=quoted, compiled=large)


def read_header(path: Path, required: Iterable[str], *, delimiter: str = ",", quoted: bool = True) -> list[str]:
    """The column names of a CSV or TSV file with a header.

    Raises `UserError` for a required column that is missing (with the nearest name that is there) or named twice.
    """
    line = head_of(path, 1)[1].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    grammar: dict[str, Any] = {"delimiter": delimiter, "quoting": QUOTE_MINIMAL if quoted else QUOTE_NONE}
    try:
        names = [cell.strip() for cell in next(csv_reader([line.decode()], **grammar), [])]
    except (UnicodeDecodeError, CsvError) as error:
        raise UserError(f"{path}:1: the header cannot be read ({error}); it must name the columns") from None
    demand_columns(f"{path}:1", names, required)
    return names


def read_tsv(
    path: Path, kinds: dict[str, pa.DataType], made_of: Callable[[pa.Table], Any], *, description: str
) -> Iterator[Any]:
    """What is `made_of` the wanted columns of a TSV with a header, block by block; raises `UserError`."""
    text = DelimitedText(read_header(path, kinds, delimiter="\t", quoted=False), kinds, delimiter="\t", quoted=False)

    def parse(data: bytes, _block: Block) -> Any:
        return made_of(text.parse(data))

    bad = BadLines(option="")
    return parse_blocks(path, parse, bad, description=description, workers=Threads(), skip_lines=1)


def demand_columns(where: str, names: list[str], required: Iterable[str]) -> None:
    """Raises `UserError` for a required column that is missing (with the nearest name that is there) or named twice."""
    for column in required:
        if names.count(column) > 1:
            raise UserError(f"{where}: the column {column!r} stands twice; remove one")
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            hint = f"; is {near[0]!r} meant to be it?" if near else f"; there are: {', '.join(names)[:300]}"
            raise UserError(f"{where}: the column {column!r} is missing{hint}")
