"""Files of one's own, whatever their format, as a stream of tables that hold the columns that are wanted.

CSV and TSV (cells stay text), JSON lines, Parquet; text may be gzipped. Text comes in blocks of whole lines, Parquet
in batches of rows, so memory does not grow with a file; whatever is wrong in a row is told with its file and number,
and can be passed over with --skip-bad-lines.
"""

import json
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import json as arrow_json

from mma4ctr.console import UserError, nearest, progress
from mma4ctr.datasets.files import matching_files, text_holds_rows
from mma4ctr.delimited import DelimitedText, read_header
from mma4ctr.parallel import Workers
from mma4ctr.rawfiles import (
    LONGEST_LINE,
    BadLine,
    BadLines,
    Block,
    demand_columns,
    parse_blocks,
    read_blocks,
)

T = TypeVar("T")
Parse = Callable[[pa.Table, Block], T]

FORMATS = ("csv", "tsv", "jsonl", "parquet", "npy")
SUFFIXES = {f".{name}": name for name in FORMATS} | {".pq": "parquet", ".ndjson": "jsonl"}
# Rows of Parquet at a time; of vectors fewer: 25 MB of 768 numbers each.
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
            found |= dict.fromkeys(sorted(matches, key=lambda match: (len(match.name), str(match))))
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
    for path in source.with_rows(bad):
        kind = source.format_of(path)
        demand_columns(str(path), source.columns(path), wanted)
        if kind == "parquet":
            yield from _read_parquet(path, wanted, parse, bad, description, workers, batch_rows)
        elif kind == "jsonl":
            lines = ParseLines(tuple(wanted), parse)
            yield from parse_blocks(path, lines, bad, description=description, workers=workers, closed_by_newline=False)
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
        """See `mma4ctr.parallel.Workers`."""
        for item in items:
            future: Future[Any] = Future()
            try:
                future.set_result(work(item))
            except (BadLine, UserError) as error:
                future.set_exception(error)
            yield item, future


@dataclass(frozen=True)
class ParseText:
    """From the bytes of CSV or TSV lines to a result."""

    text: DelimitedText
    parse: Parse[Any]

    def __call__(self, data: bytes, block: Block) -> Any:
        return self.parse(self.text.parse(data), block)


@dataclass(frozen=True)
class ParseLines:
    """From the bytes of JSON lines to a result."""

    wanted: tuple[str, ...]
    parse: Parse[Any]

    def __call__(self, data: bytes, block: Block) -> Any:
        table = self._at_once(data)
        return self.parse(self._line_by_line(data) if table is None else table, block)

    def _at_once(self, data: bytes) -> pa.Table | None:
        """The table, where all lines are like the first; None where any is not."""
        first = next((line for line in data.splitlines() if line.strip()), b"")
        try:
            item = _loads(first)
        except orjson.JSONDecodeError:
            return None
        kinds = {name: _kind(item.get(name)) for name in self.wanted} if isinstance(item, dict) else {"": None}
        if None in kinds.values():
            return None
        read = arrow_json.ReadOptions(use_threads=False, block_size=2 * LONGEST_LINE)
        schema = pa.schema(list(kinds.items()))
        parse = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        try:
            table = arrow_json.read_json(pa.BufferReader(data), read, parse)
        except pa.ArrowInvalid:
            return None
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        whole = len(table) == lines and all(table[name].null_count == 0 for name in self.wanted)
        return table.select(self.wanted) if whole else None

    def _line_by_line(self, data: bytes) -> pa.Table:
        cells: dict[str, list[Any]] = {name: [] for name in self.wanted}
        for line in data.splitlines():
            if not line.strip():
                continue
            try:
                item = _loads(line)
            except orjson.JSONDecodeError:
                raise BadLine("broken JSON") from None
            if not isinstance(item, dict):
                raise BadLine("not a JSON object")
            for name, column in cells.items():
                if name not in item:
                    raise BadLine(f"needs the key {name}")
                column.append(item[name])
        return pa.table({name: _array(values, name) for name, values in cells.items()})


_LONG_NUMBER = re.compile(rb"\d{19}")


def _loads(line: bytes) -> Any:
    """The value of a JSON line. Of an object, whole numbers beyond 64 bits are text, as orjson makes rounded floats of
    them, and two ids one; those within lists stay floats, as vectors have them."""
    value = orjson.loads(line)
    if isinstance(value, dict) and _LONG_NUMBER.search(line):
        rounded = [name for name, one in value.items() if isinstance(one, float) and abs(one) >= 2**63]
        if rounded:
            exact = json.loads(line, parse_int=str)
            value |= {name: exact[name] for name in rounded if isinstance(exact[name], str)}
    return value


def _kind(value: Any) -> pa.DataType | None:
    """The type of a column that begins with a value; None where one value does not tell."""
    if isinstance(value, list):
        inner = _kind(value[0]) if value else None
        number = inner is not None and (pa.types.is_integer(inner) or pa.types.is_floating(inner))
        if number and any(isinstance(one, float) for one in value):
            inner = pa.float64()
        return pa.list_(inner) if number or inner == pa.string() else None
    for kind, type_ in ((bool, pa.bool_()), (str, pa.string()), (int, pa.int64()), (float, pa.float64())):
        if isinstance(value, kind):
            return type_
    return None


def _array(values: list[Any], name: str) -> pa.Array:
    """Values of one column; whole numbers among text, and those beyond 64 bits, become text."""
    kinds = {type(value) for value in values} - {type(None)}
    large = kinds == {int} and any(value is not None and not -(2**63) <= value < 2**63 for value in values)
    if large or kinds == {int, str}:
        values = [value if value is None else str(value) for value in values]
    try:
        return pa.array(values)
    except (pa.ArrowInvalid, pa.ArrowTypeError, OverflowError):
        raise BadLine(f"column {name}: values of different kinds") from None


class Rows(Block):
    """Rows of a file that is no text: `start` to `end`."""

    @property
    def first_line(self) -> int:
        """The number of the first row, from 1."""
        return self.start + 1


def _parquet(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path, pre_buffer=False)
    except (pa.ArrowException, OSError) as error:
        raise UserError(f"{path}: cannot be read as Parquet ({str(error).splitlines()[0]}); fetch it again") from None


@dataclass(frozen=True)
class ParseBatch:
    """From rows of Parquet to a result."""

    parse: Parse[Any]

    def __call__(self, item: tuple[Rows, pa.Table]) -> Any:
        return self.parse(item[1], item[0])


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

    def batches() -> Iterator[tuple[Rows, pa.Table]]:
        start = 0
        try:
            for batch in file.iter_batches(batch_rows, columns=list(dict.fromkeys(wanted))):
                yield Rows(path, start, start + len(batch), start + len(batch)), pa.Table.from_batches([batch])
                start += len(batch)
        except (pa.ArrowException, OSError) as error:
            message = str(error).splitlines()[0]
            raise UserError(f"{path}: damaged after row {start:,} ({message}); fetch it again") from None

    with progress(f"{description} {path.name}", file.metadata.num_rows) as advance:
        for (rows, table), future in workers.in_order(ParseBatch(parse), batches()):
            try:
                yield future.result()
            except BadLine:
                good = np.array(list(_good_rows(rows, table, 0, parse, bad)), np.int64)
                if len(good):
                    yield parse(table.take(pa.array(good)), rows)
            advance(len(table))


def _good_rows(rows: Rows, table: pa.Table, start: int, parse: Parse[Any], bad: BadLines) -> Iterator[int]:
    """The rows of a failing batch that parse, halving it until each bad one stands alone."""
    try:
        parse(table, rows)
    except BadLine as error:
        if len(table) == 1:
            bad.add(rows.path, rows.first_line + start, str(error))
            return
        middle = len(table) // 2
        yield from _good_rows(rows, table.slice(0, middle), start, parse, bad)
        yield from _good_rows(rows, table.slice(middle), start + middle, parse, bad)
    else:
        yield from range(start, start + len(table))
