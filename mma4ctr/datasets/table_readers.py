"""The user's own files in any format as a stream of tables with the read columns.

Formats: CSV and TSV (cells stay text), JSON lines, Parquet; text may be gzipped. Text is read in blocks of whole lines,
Parquet in batches of rows, so memory does not grow with the file. Errors name the file and row, and bad rows can be
skipped with --skip-bad-lines.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol, TypeVar

import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mma4ctr.datasets.arrow import LIBRARY_ERRORS, check_text
from mma4ctr.datasets.file_patterns import matching_files, one_form, text_holds_rows
from mma4ctr.datasets.json_lines import JsonLines
from mma4ctr.runtime.console import did_you_mean, progress
from mma4ctr.runtime.errors import BadLine, UserError, first_line
from mma4ctr.runtime.parallel import Workers
from mma4ctr.storage.bad_lines import BadLines, good_ranges
from mma4ctr.storage.delimited import DelimitedText, read_header, require_columns
from mma4ctr.storage.text_blocks import Block, TextLayout, parse_blocks, read_blocks

T = TypeVar("T")
Parse = Callable[[pa.Table, Block], T]

FORMATS = ("csv", "tsv", "jsonl", "parquet", "npy")
SUFFIXES = {f".{name}": name for name in FORMATS} | {".pq": "parquet", ".ndjson": "jsonl"}
# Rows of a Parquet batch; fewer for vectors (4096 vectors of 768 numbers take 25 MB).
BATCH_ROWS, VECTOR_ROWS = 65_536, 4096


@dataclass(frozen=True)
class Source:
    """The files of one table.

    Attributes:
        where: the description and its table, for messages.
        folder: the folder of relative patterns.
        patterns: file names or patterns, see `matching_files`.
        format: one of FORMATS; None: inferred from the file names.
        separator: between cells; None: the default of the format.
        names: column names of text without a header.
        batch_rows: rows of a Parquet batch.
    """

    where: str
    folder: Path
    patterns: tuple[str, ...]
    format: str | None = None
    separator: str | None = None
    names: tuple[str, ...] = ()
    batch_rows: int = BATCH_ROWS

    def files(self) -> list[Path]:
        """Return the files, those of a pattern in natural order; of one that is there plain and as `.gz` the plain one.

        Raises:
            UserError: A pattern matches none.
        """
        found: dict[Path, None] = {}
        for pattern in self.patterns:
            path = self.folder / pattern
            matches = matching_files(self.folder, pattern)
            if not matches:
                raise UserError(f"{self.where}: no file {path.absolute()}{_similar_file(path.absolute())}")
            found |= dict.fromkeys(sorted(matches, key=natural_order))
        return one_form(found)

    @property
    def places(self) -> list[Path]:
        """The named files; for a pattern, the folder that contains all its files."""
        found = []
        for pattern in self.patterns:
            place = self.folder
            for part in Path(pattern).parts:
                if set(part) & set("*?[") and not (place / part).exists():
                    break
                place /= part
            found.append(place)
        return found

    def with_rows(self, bad: BadLines | None = None) -> list[Path]:
        """Return the files that have rows, or all files if none has any.

        Distributed jobs write empty parts: files of zero bytes, or with a header only.

        Args:
            bad: reports the files that are left out.

        Raises:
            UserError: See `files`.
        """
        files = self.files()
        found = [path for path in files if self._has_rows(path)]
        if found and bad is not None:
            for path in files:
                if path not in found:
                    bad.skip_empty(path)
        return found or files

    def _has_rows(self, path: Path) -> bool:
        if not path.stat().st_size:
            return False
        kind = self.format_of(path)
        if kind == "parquet":
            return _parquet(path).metadata.num_rows > 0
        if kind == "npy":
            return True
        delimiter = self.delimiter(kind) if kind == "csv" else None
        return text_holds_rows(path, header=kind != "jsonl" and not self.names, delimiter=delimiter)

    def format_of(self, path: Path) -> str:
        """Return the format of a file, one of FORMATS; raises `UserError` if it cannot be inferred from the name."""
        name = self.format or SUFFIXES.get(Path(path.name.removesuffix(".gz")).suffix.lower())
        if name is None:
            formats = ", ".join(FORMATS)
            raise UserError(f"{self.where}: the name {path.name} has no known suffix; add format = one of {formats}")
        return name

    def columns(self, path: Path) -> list[str]:
        """Return a file's column names; raises `UserError` if it cannot be read."""
        kind = self.format_of(path)
        if kind == "parquet":
            return list(_parquet(path).schema_arrow.names)
        if kind == "jsonl":
            return _first_keys(path)
        if kind == "npy":
            raise UserError(f"{self.where}: {path.name} is an array and has no columns; give it as `vectors`")
        return list(self.names) or read_header(path, (), delimiter=self.delimiter(kind), quoted=kind == "csv")

    def delimiter(self, kind: str) -> str:
        """Return the delimiter between the cells of a text file."""
        return self.separator or ("," if kind == "csv" else "\t")

    def only(self, path: Path, batch_rows: int | None = None) -> "Source":
        """Return the source with only one of its files, and perhaps another batch size."""
        return replace(self, patterns=(str(path),), batch_rows=batch_rows or self.batch_rows)

    def require_columns(self, wanted: Sequence[str]) -> None:
        """Raise `UserError` if a file with rows lacks one of the columns."""
        for path in self.with_rows():
            require_columns(str(path), self.columns(path), wanted)


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """Return a sort key that compares numbers in a path by value: day=9 before day=10."""
    parts: list[list[str | int]] = []
    for part in path.parts:
        # Text and digits alternate, so text is compared with text and a number with a number.
        pieces = re.split("([0-9]+)", part)
        parts.append([int(piece) if position % 2 else piece for position, piece in enumerate(pieces)])
    return parts, str(path)


def _similar_file(path: Path) -> str:
    """Return a hint for a missing file: a similar name, or that its folder is missing."""
    if not path.parent.is_dir():
        return f"; the folder {path.parent} does not exist"
    return did_you_mean(path.name, [other.name for other in path.parent.iterdir()])


def _first_keys(path: Path) -> list[str]:
    """Return the keys of the first JSON object of the first block; raises `UserError` if no line there has one."""
    wrong = 0
    for block in read_blocks(path, closed_by_newline=False):
        for number, line in enumerate(block.read().splitlines(), block.first_line):
            if not line.strip():
                continue
            try:
                found = orjson.loads(line)
            except orjson.JSONDecodeError:
                found = None
            if isinstance(found, dict):
                return list(found)
            wrong = wrong or number
        if wrong:
            raise UserError(f"{path}:{wrong}: not a JSON object; JSON lines need one object per line")
    return []


def read_tables(
    source: Source,
    wanted: Sequence[str],
    parse: Parse[T],
    bad: BadLines,
    *,
    description: str,
    workers: Workers,
) -> Iterator[T]:
    """Parse the rows of all files in order.

    Args:
        source: the files.
        wanted: names of the columns that are read.
        parse: from a table of these columns and the block of its rows to a result; raises `BadLine`. `workers` may
            run it in another thread, process or machine.
        bad: collects the bad rows.
        description: label of the progress bar.
        workers: run `parse` on the blocks.

    Yields:
        The result of each block, in the files' order.

    Raises:
        UserError: A file or column is missing, a file is damaged, or too many rows are bad.
    """
    try:
        for path in source.with_rows(bad):
            kind = source.format_of(path)
            require_columns(str(path), source.columns(path), wanted)
            if kind == "parquet":
                batches = _parquet_batches(path, wanted, source.batch_rows)
                yield from _parse_batches(path, batches, parse, bad, description, workers)
            else:
                text, layout = _text_format(source, path, wanted)
                yield from parse_blocks(
                    path, ParseText(text, parse), bad, layout, description=description, workers=workers
                )
    except BadLine as error:  # good rows that cannot be read together; no reader should cause this
        raise UserError(f"{source.where}: {error}") from None


def _text_format(source: Source, path: Path, wanted: Sequence[str]) -> "tuple[Grammar, TextLayout]":
    """Return the grammar and layout of a CSV, TSV or JSON lines file."""
    kind = source.format_of(path)
    if kind == "jsonl":
        return JsonLines(tuple(wanted)), TextLayout(closed_by_newline=False)  # truncated JSON does not parse
    types = dict.fromkeys(wanted, pa.string())
    text = DelimitedText(source.columns(path), types, delimiter=source.delimiter(kind), quoted=kind == "csv")
    return text, TextLayout(skip_lines=0 if source.names else 1, quoted=text.quoted)


def first_table(source: Source, path: Path, wanted: Sequence[str], rows: int, bad: BadLines | None = None) -> pa.Table:
    """Read about the first `rows` rows of one file, at most its first block, without bad rows."""
    bad = bad or BadLines(allowed=rows)
    only = source.only(path, min(rows, BATCH_ROWS))
    parts = read_tables(only, wanted, lambda table, block: table, bad, description="", workers=SerialWorkers())
    table: pa.Table = next(parts, pa.table({name: pa.array([], pa.string()) for name in wanted}))
    return table.slice(0, rows)


class SerialWorkers:
    """Workers that read nothing ahead, for samples from the start of a file."""

    def in_order(self, work: Callable[[Any], Any], items: Any) -> Iterator[Any]:
        """See `mma4ctr.runtime.parallel.Workers`."""
        for item in items:
            future: Future[Any] = Future()
            try:
                future.set_result(work(item))
            except (BadLine, UserError) as error:
                future.set_exception(error)
            yield item, future


def guarded(work: Callable[[], T]) -> T:
    """Return the result of `work`, with library errors that no reader caught converted to `BadLine`.

    All parsing of rows runs in this function, so any bad value is reported as a bad row.
    """
    try:
        return work()
    except BadLine:
        raise
    except LIBRARY_ERRORS as error:
        reason = first_line(error)
    except RecursionError:
        reason = "nested too deeply"
    raise BadLine(f"values that cannot be read ({reason})")


class Grammar(Protocol):
    """The grammar of a text file."""

    def parse(self, data: bytes) -> pa.Table:
        """Parse lines into a table of the read columns; raises `BadLine`."""


@dataclass(frozen=True)
class ParseText:
    """A picklable function from the bytes of lines to a result."""

    text: Grammar
    parse: Parse[Any]

    def __call__(self, data: bytes, block: Block) -> Any:
        """Parse the lines of a block; raises `BadLine`."""
        return guarded(lambda: self.parse(self.text.parse(data), block))


class RowRange(Block):
    """The rows from `start` to before `end` of a binary file."""

    @property
    def first_line(self) -> int:
        """Number of the first row, from 1."""
        return self.start + 1

    def line_of(self, record: int) -> int:
        """Return the number, from 1, of a row; those that were skipped are not counted in `record`."""
        for skipped in sorted(self.skipped):
            record += skipped <= record
        return self.first_line + record


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (*LIBRARY_ERRORS, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({first_line(error)}); download it again") from None


@dataclass(frozen=True)
class ParseBatch:
    """A picklable function from the rows of a Parquet batch to a result."""

    parse: Parse[Any]

    def __call__(self, item: tuple[RowRange, pa.Table]) -> Any:
        """Parse the rows of a batch; raises `BadLine`."""
        rows, table = item

        def parsed() -> Any:
            check_text(table)
            return self.parse(table, rows)

        return guarded(parsed)


def _parquet_batches(path: Path, wanted: Sequence[str], batch_rows: int) -> Iterator[tuple[RowRange, pa.Table]]:
    """Yield the rows of a Parquet file in batches; raises `UserError` if it is damaged."""
    start = 0
    try:
        for batch in _parquet(path).iter_batches(batch_rows, columns=list(dict.fromkeys(wanted))):
            yield RowRange(path, start, start + len(batch), start + len(batch)), pa.Table.from_batches([batch])
            start += len(batch)
    except (*LIBRARY_ERRORS, OSError) as error:
        raise UserError(f"{path}: damaged after row {start:,} ({first_line(error)}); download it again") from None


def _parse_batches(
    path: Path,
    batches: Iterator[tuple[RowRange, pa.Table]],
    parse: Parse[T],
    bad: BadLines,
    description: str,
    workers: Workers,
) -> Iterator[T]:
    """Parse batches of Parquet rows in order, with a progress bar."""
    work = ParseBatch(parse)
    with progress(f"{description} {path.name}", _parquet(path).metadata.num_rows) as advance:
        for (rows, table), future in workers.in_order(work, batches):
            try:
                yield future.result()
            except BadLine:
                skipped: set[int] = set()
                good = list(_good_parts(rows, table, work, bad, skipped))
                if good:
                    yield work((replace(rows, skipped=frozenset(skipped)), pa.concat_tables(good)))
            advance(len(table))


def _good_parts(
    rows: RowRange, table: pa.Table, work: ParseBatch, bad: BadLines, skipped: set[int]
) -> Iterator[pa.Table]:
    """Yield the parts of a failing batch that parse, record its bad rows, and add their numbers to `skipped`."""

    def parse_range(first: int, last: int) -> Any:
        return work((rows, table.slice(first, last - first)))

    def report(row: int, error: BadLine) -> None:
        bad.add(rows.path, rows.first_line + row, str(error))
        skipped.add(row)

    for first, last in good_ranges(0, len(table), parse_range, report):
        yield table.slice(first, last - first)
