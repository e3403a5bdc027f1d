"""Files of one's own, whatever their format, as a stream of tables that hold the columns that are wanted.

CSV and TSV (cells stay text), JSON lines, Parquet; text may be gzipped. Text comes in blocks of whole lines, Parquet
in batches of rows, so memory does not grow with a file; whatever is wrong in a row is told with its file and number,
and can be passed over with --skip-bad-lines.
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

from mma4ctr.datasets.arrow import LIBRARY_ERRORS, check_text, first_line
from mma4ctr.datasets.file_patterns import matching_files, text_holds_rows
from mma4ctr.datasets.json_lines import JsonLines
from mma4ctr.runtime.console import nearest, progress
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.runtime.parallel import Workers
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.delimited import DelimitedText, read_header
from mma4ctr.storage.text_blocks import Block, demand_columns, parse_blocks, read_blocks

T = TypeVar("T")
Parse = Callable[[pa.Table, Block], T]

FORMATS = ("csv", "tsv", "jsonl", "parquet", "npy")
SUFFIXES = {f".{name}": name for name in FORMATS} | {".pq": "parquet", ".ndjson": "jsonl"}
# RowRange of Parquet at a time; of vectors fewer: 25 MB of 768 numbers each.
BATCH_ROWS, VECTOR_ROWS = 65_536, 4096


@dataclass(frozen=True)
class Source:
    """Files of one table.

    Attributes:
        where: the description and its part, for messages.
        patterns: paths, absolute or from `folder` on, or patterns of them, see `matching_files`.
        format: of FORMATS; None: as the names end.
        separator: between cells; None: as the format says.
        names: the columns of text without a header.
    """

    where: str
    folder: Path
    patterns: tuple[str, ...]
    format: str | None = None
    separator: str | None = None
    names: tuple[str, ...] = ()

    def files(self) -> list[Path]:
        """The files, those of a pattern with numbers in their order; raises `UserError` where a pattern has none."""
        found: dict[Path, None] = {}
        for pattern in self.patterns:
            path = self.folder / pattern
            matches = matching_files(self.folder, pattern)
            if not matches:
                raise UserError(f"{self.where}: there is no file {path.absolute()}{_nearest_file(path.absolute())}")
            found |= dict.fromkeys(sorted(matches, key=natural_order))
        return list(found)

    @property
    def places(self) -> list[Path]:
        """Each file that is named; of a pattern, the folder that its files lie in or below."""
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
        """The files without those that hold no rows, as jobs leave them (of zero bytes, or a header only); all of them
        where none holds any.

        Args:
            bad: notes the files that are left out. Raises `UserError`, as `files` does.
        """
        files = self.files()
        found = [path for path in files if self._holds_rows(path)]
        if found and bad is not None:
            for path in files:
                if path not in found:
                    bad.pass_over_empty(path)
        return found or files

    def _holds_rows(self, path: Path) -> bool:
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
        """One of FORMATS; raises `UserError` where neither the description nor the name tells it."""
        name = self.format or SUFFIXES.get(Path(path.name.removesuffix(".gz")).suffix.lower())
        if name is None:
            raise UserError(f"{self.where}: {path.name} does not tell its format; add format = one of {FORMATS}")
        return name

    def columns(self, path: Path) -> list[str]:
        """The names of a file's columns; raises `UserError` where it cannot be read."""
        kind = self.format_of(path)
        if kind == "parquet":
            return list(_parquet(path).schema_arrow.names)
        if kind == "jsonl":
            for block in read_blocks(path, closed_by_newline=False):
                for line in block.read().splitlines():
                    if line.strip():
                        return list(_object(line, f"{path}:1"))
            return []
        if kind == "npy":
            raise UserError(f"{self.where}: {path.name} is an array and has no columns; give it as `vectors`")
        return list(self.names) or read_header(path, (), delimiter=self.delimiter(kind), quoted=kind == "csv")

    def delimiter(self, kind: str) -> str:
        """What stands between the cells of a text file."""
        return self.separator or ("," if kind == "csv" else "\t")

    def only(self, path: Path) -> "Source":
        """One of the files."""
        return replace(self, patterns=(str(path),))

    def demand(self, wanted: Sequence[str]) -> None:
        """Raises `UserError` for a column that one of the files with rows has not."""
        for path in self.with_rows():
            demand_columns(str(path), self.columns(path), wanted)


def natural_order(path: Path) -> tuple[list[list[str | int]], str]:
    """A key by which numbers in every part of a path count as numbers: day=9 before day=10."""
    parts: list[list[str | int]] = []
    for part in path.parts:
        # Text and digits take turns, so that text is compared with text and a number with a number.
        pieces = re.split("([0-9]+)", part)
        parts.append([int(piece) if place % 2 else piece for place, piece in enumerate(pieces)])
    return parts, str(path)


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"; there is no folder {path.parent}"
    return nearest(path.name, [other.name for other in path.parent.iterdir()])


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        found = orjson.loads(line)
    except orjson.JSONDecodeError:
        found = None
    if not isinstance(found, dict):
        raise UserError(f"{where}: not a JSON object; JSON lines hold one in each line")
    return found


def read_tables(
    source: Source,
    wanted: Sequence[str],
    parse: Parse[T],
    bad: BadLines,
    *,
    description: str,
    workers: Workers,
    batch_rows: int = BATCH_ROWS,
) -> Iterator[T]:
    """Parse the rows of all files in order.

    Args:
        wanted: the columns of the tables that `parse` gets, with the block that their rows are of. It raises
            `BadLine` and runs wherever `workers` let it.
    """
    try:
        for path in source.with_rows(bad):
            kind = source.format_of(path)
            demand_columns(str(path), source.columns(path), wanted)
            if kind == "parquet":
                yield from _read_parquet(path, wanted, parse, bad, description, workers, batch_rows)
            elif kind == "jsonl":
                lines = ParseText(JsonLines(tuple(wanted)), parse)
                yield from parse_blocks(
                    path, lines, bad, description=description, workers=workers, closed_by_newline=False
                )
            else:
                types = dict.fromkeys(wanted, pa.string())
                delimiter = source.delimiter(kind)
                text = DelimitedText(source.columns(path), types, delimiter=delimiter, quoted=kind == "csv")
                yield from parse_blocks(
                    path,
                    ParseText(text, parse),
                    bad,
                    description=description,
                    workers=workers,
                    skip_lines=0 if source.names else 1,
                    quoted=text.quoted,
                )
    except BadLine as error:  # rows that can be read one by one and not together, which no reader should know
        raise UserError(f"{source.where}: {error}") from None


def first_table(source: Source, path: Path, wanted: Sequence[str], rows: int, bad: BadLines | None = None) -> pa.Table:
    """About the first `rows` rows of one file, those of its first block at most; bad ones are left out."""
    bad = bad or BadLines(allowed=rows)
    parts = read_tables(
        source.only(path),
        wanted,
        lambda table, block: table,
        bad,
        description="",
        workers=Few(),
        batch_rows=min(rows, BATCH_ROWS),
    )
    table: pa.Table = next(parts, pa.table({name: pa.array([], pa.string()) for name in wanted}))
    return table.slice(0, rows)


class Few:
    """Workers for a look at a file's beginning: nothing is read ahead."""

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
    """The result of `work`; raises `BadLine` where a library refuses values that no reader has refused before.

    Whatever a row holds, it ends as a named bad row: every parse of a file's rows runs here.
    """
    try:
        return work()
    except BadLine:
        raise
    except LIBRARY_ERRORS as error:
        reason = first_line(error)
    raise BadLine(f"values that cannot be read ({reason})")


class Grammar(Protocol):
    """How the lines of a text file become a table."""

    def parse(self, data: bytes) -> pa.Table:
        """A table of the wanted columns; raises `BadLine`."""


@dataclass(frozen=True)
class ParseText:
    """From the bytes of lines to a result."""

    text: Grammar
    parse: Parse[Any]

    def __call__(self, data: bytes, block: Block) -> Any:
        return guarded(lambda: self.parse(self.text.parse(data), block))


class RowRange(Block):
    """RowRange of a file that is no text: `start` to `end`."""

    @property
    def first_line(self) -> int:
        """The number of the first row, from 1."""
        return self.start + 1


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (*LIBRARY_ERRORS, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({first_line(error)}); fetch it again") from None


@dataclass(frozen=True)
class ParseBatch:
    """From rows of Parquet to a result."""

    parse: Parse[Any]

    def __call__(self, item: tuple[RowRange, pa.Table]) -> Any:
        rows, table = item

        def parsed() -> Any:
            check_text(table)
            return self.parse(table, rows)

        return guarded(parsed)


def _read_parquet(
    path: Path,
    wanted: Sequence[str],
    parse: Parse[T],
    bad: BadLines,
    description: str,
    workers: Workers,
    batch_rows: int,
) -> Iterator[T]:
    file = _parquet(path)
    work = ParseBatch(parse)

    def batches() -> Iterator[tuple[RowRange, pa.Table]]:
        start = 0
        try:
            for batch in file.iter_batches(batch_rows, columns=list(dict.fromkeys(wanted))):
                yield RowRange(path, start, start + len(batch), start + len(batch)), pa.Table.from_batches([batch])
                start += len(batch)
        except (*LIBRARY_ERRORS, OSError) as error:
            raise UserError(f"{path}: damaged after row {start:,} ({first_line(error)}); fetch it again") from None

    with progress(f"{description} {path.name}", file.metadata.num_rows) as advance:
        for (rows, table), future in workers.in_order(work, batches()):
            try:
                yield future.result()
            except BadLine:
                good = [table.slice(start, stop - start) for start, stop in _good_rows(rows, table, 0, work, bad)]
                if good:
                    yield work((rows, pa.concat_tables(good)))
            advance(len(table))


def _good_rows(
    rows: RowRange, table: pa.Table, start: int, work: ParseBatch, bad: BadLines
) -> Iterator[tuple[int, int]]:
    """The ranges of rows of a failing batch that parse, halving it until each bad one stands alone."""
    try:
        work((rows, table))
    except BadLine as error:
        if len(table) == 1:
            bad.add(rows.path, rows.first_line + start, str(error))
            return
        middle = len(table) // 2
        yield from _good_rows(rows, table.slice(0, middle), start, work, bad)
        yield from _good_rows(rows, table.slice(middle), start + middle, work, bad)
    else:
        yield start, start + len(table)
