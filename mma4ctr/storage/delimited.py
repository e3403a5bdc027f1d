"""CSV and TSV files: grammar, header, and parsing of lines into tables."""

import io
import re
from collections.abc import Callable, Iterable, Iterator
from csv import QUOTE_MINIMAL, QUOTE_NONE
from csv import Error as CsvError
from csv import reader as csv_reader
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

from mma4ctr.runtime.console import did_you_mean
from mma4ctr.runtime.errors import BadLine, UserError, first_line
from mma4ctr.runtime.parallel import Threads
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.quoted_text import QuotedText, unquoted
from mma4ctr.storage.text_blocks import (
    LONGEST_LINE,
    MANY_BYTES,
    Block,
    TextLayout,
    head_of,
    parse_blocks,
)


class DelimitedText:
    """The grammar of one CSV or TSV file.

    Args:
        names: all column names in the file's order.
        types: Arrow types of the columns that are read.
        delimiter: one byte between cells.
        quoted: cells may be quoted as in RFC 4180.
        compiled: try the compiled parser of `integer_csv` first; all read columns must then be int64.
    """

    def __init__(
        self, names: list[str], types: dict[str, pa.DataType], *, delimiter: str, quoted: bool, compiled: bool = False
    ) -> None:
        self.names = names
        self._delimiter = delimiter
        self.quoted = QuotedText(delimiter) if quoted else None
        self._compiled = compiled
        self._read = csv.ReadOptions(column_names=names, use_threads=False, block_size=2 * LONGEST_LINE)
        self._parse = csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False)
        self._convert = csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
        )

    def parse(self, data: bytes) -> pa.Table:
        """Parse lines into a table of the read columns; raises `BadLine` with the reason."""
        if self._compiled:
            from mma4ctr.storage.integer_csv import parse_columns

            types = self._convert.column_types
            found = parse_columns(data, [name in types for name in self.names], self._delimiter)
            if found is not None:
                in_file = dict(zip([name for name in self.names if name in types], found, strict=True))
                return pa.table({name: in_file[name] for name in types})
        if self.quoted and not self.quoted.is_whole(data):  # pyarrow would read the following lines into the cell
            raise BadLine("a quote that is not closed")
        if self.quoted and not data.endswith(b"\n"):
            data += b"\n"  # otherwise pyarrow cuts at the last line break, which may be inside a cell
        try:
            table = csv.read_csv(pa.BufferReader(data), self._read, self._parse, self._convert)
        except pa.ArrowInvalid as error:
            raise BadLine(self._reason(first_line(error))) from None
        if b"0x" in data or b"0X" in data:
            self._refuse_hexadecimal(data)
        return table if self.quoted or b'"' not in data else self._without_quotes(table)

    @staticmethod
    def _without_quotes(table: pa.Table) -> pa.Table:
        """Remove the quotes around whole cells, which R and other programs write into TSV."""
        for position, name in enumerate(table.column_names):
            column = table[name]
            if pa.types.is_string(column.type) and pc.any(pc.match_substring(column, '"')).as_py():
                trimmed = pc.utf8_trim_whitespace(column)
                inner = pc.replace_substring(pc.replace_substring_regex(trimmed, r'(?s)^"(.*)"$', r"\1"), '""', '"')
                quoted = pc.match_substring_regex(trimmed, r'(?s)^".*"$')
                table = table.set_column(position, name, pc.if_else(quoted, inner, column))
        return table

    def _refuse_hexadecimal(self, data: bytes) -> None:
        """Raise `BadLine` for hexadecimal numbers: pyarrow reads 0x10 as 16, which is never intended here."""
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
        """Translate pyarrow's message about a bad line."""
        if match := re.search(r"Expected (\d+) columns, got (\d+)", text):
            return f"{match[2]} columns where {match[1]} are expected"
        if match := re.search(r"In CSV column #(\d+): .*invalid value '(.*)'", text):
            return f"column {self.names[int(match[1])]}: '{match[2]}' is not a whole number"
        if match := re.search(r"In CSV column #(\d+): .*invalid UTF8", text):
            return f"column {self.names[int(match[1])]}: bytes that are not UTF-8 text"
        return text


def integer_text(path: Path, names: list[str], wanted: Iterable[str], *, delimiter: str, quoted: bool) -> DelimitedText:
    """Return the grammar of a file of whole numbers, with the compiled parser if the file is large.

    Args:
        path: the file.
        names: all column names in the file's order.
        wanted: names of the columns that are read.
        delimiter: one byte between cells.
        quoted: cells may be quoted.
    """
    types, large = dict.fromkeys(wanted, pa.int64()), path.stat().st_size > MANY_BYTES
    return DelimitedText(names, types, delimiter=delimiter, quoted=quoted, compiled=large)


def require_columns(where: str, names: list[str], required: Iterable[str]) -> None:
    """Check that each required column exists exactly once.

    Args:
        where: the file, and perhaps its line, for the message.
        names: the column names of the file.
        required: names that must be among them.

    Raises:
        UserError: A column is missing or duplicated.
    """
    for column in required:
        if names.count(column) > 1:
            raise UserError(f"{where}: duplicate column {column!r}; remove one")
        if column not in names:
            hint = did_you_mean(column, names) or f"; columns: {', '.join(names)[:300] or 'none'}"
            raise UserError(f"{where}: the column {column!r} is missing{hint}")


def read_header(path: Path, required: Iterable[str], *, delimiter: str = ",", quoted: bool = True) -> list[str]:
    """Return the column names of a CSV or TSV file with a header.

    Args:
        path: the file.
        required: names that must be among them.
        delimiter: one byte between cells.
        quoted: cells may be quoted.

    Raises:
        UserError: The header cannot be read, or a required column is missing or duplicated.
    """
    records = QuotedText(delimiter) if quoted else None
    text = head_of(path, 1, records)[1].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    grammar: dict[str, Any] = {"delimiter": delimiter, "quoting": QUOTE_MINIMAL if quoted else QUOTE_NONE}
    try:
        if records and not records.is_whole(text):
            raise CsvError("a quote is not closed")
        rows = csv_reader(io.StringIO(text.decode(), newline=""), **grammar)
        cells = next(rows, [])
        if next(rows, None) is not None:  # with lone carriage returns the whole file would be the header
            raise CsvError("lines end in a carriage return without a line feed")
    except (UnicodeDecodeError, CsvError) as error:
        raise UserError(f"{path}:1: the header cannot be read ({error}); correct the first line") from None
    names = [(cell if quoted else unquoted(cell)).strip() for cell in cells]
    require_columns(f"{path}:1", names, required)
    return names


def read_tsv(
    path: Path, columns: Iterable[str], convert: Callable[[pa.Table], Any], *, description: str
) -> Iterator[Any]:
    """Read text columns of a TSV file with a header, block by block.

    Args:
        path: the file.
        columns: names of the columns.
        convert: from a table of these columns to a result; raises `BadLine` for wrong values.
        description: label of the progress bar.

    Returns:
        An iterator of each block's result, in the file's order. The header is read at once.

    Raises:
        UserError: A column is missing, or a line is bad.
    """
    types = dict.fromkeys(columns, pa.string())
    text = DelimitedText(read_header(path, types, delimiter="\t", quoted=False), types, delimiter="\t", quoted=False)

    def parse(data: bytes, _block: Block) -> Any:
        return convert(text.parse(data))

    bad, layout = BadLines(option=""), TextLayout(skip_lines=1)
    return parse_blocks(path, parse, bad, layout, description=description, workers=Threads())
