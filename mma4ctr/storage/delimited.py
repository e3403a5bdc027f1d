"""CSV and TSV: the grammar of a file, its header, and its lines as tables."""

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

from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.runtime.parallel import Threads
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.quoted_text import QuotedText, unquoted
from mma4ctr.storage.text_blocks import LONGEST_LINE, MANY_BYTES, Block, demand_columns, head_of, parse_blocks


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
        self.quoted = QuotedText(delimiter) if quoted else None
        self._compiled = compiled
        self._read = csv.ReadOptions(column_names=names, use_threads=False, block_size=2 * LONGEST_LINE)
        self._parse = csv.ParseOptions(delimiter=delimiter, quote_char='"' if quoted else False)
        self._convert = csv.ConvertOptions(
            column_types=types, include_columns=list(types), null_values=[], strings_can_be_null=False
        )

    def parse(self, data: bytes) -> pa.Table:
        """A table of the wanted columns; raises `BadLine` with what is wrong."""
        if self._compiled:
            from mma4ctr.storage.integer_csv import parse_columns

            types = self._convert.column_types
            found = parse_columns(data, [name in types for name in self.names], self._delimiter)
            if found is not None:
                in_file = dict(zip([name for name in self.names if name in types], found, strict=True))
                return pa.table({name: in_file[name] for name in types})
        if self.quoted and not self.quoted.is_whole(data):  # pyarrow would take the lines after it into the cell
            raise BadLine("a quote that is not closed")
        if self.quoted and not data.endswith(b"\n"):
            data += b"\n"  # else pyarrow looks for the last line break, which may be one within a cell
        try:
            table = csv.read_csv(pa.BufferReader(data), self._read, self._parse, self._convert)
        except pa.ArrowInvalid as error:
            raise BadLine(self._reason(str(error).splitlines()[0])) from None
        if b"0x" in data or b"0X" in data:
            self._refuse_hexadecimal(data)
        return table if self.quoted or b'"' not in data else self._without_quotes(table)

    @staticmethod
    def _without_quotes(table: pa.Table) -> pa.Table:
        """Text without the quotes that stand around whole cells: R and others write them into TSV."""
        for place, name in enumerate(table.column_names):
            column = table[name]
            if pa.types.is_string(column.type) and pc.any(pc.match_substring(column, '"')).as_py():
                trimmed = pc.utf8_trim_whitespace(column)
                inner = pc.replace_substring(pc.replace_substring_regex(trimmed, r'(?s)^"(.*)"$', r"\1"), '""', '"')
                quoted = pc.match_substring_regex(trimmed, r'(?s)^".*"$')
                table = table.set_column(place, name, pc.if_else(quoted, inner, column))
        return table

    def _refuse_hexadecimal(self, data: bytes) -> None:
        """Pyarrow takes 0x10 for 16, which no such file means."""
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
        """Pyarrow's account of a bad line in a user's words."""
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
    text = head_of(path, 1, QuotedText(delimiter) if quoted else None)[1].removeprefix(b"\xef\xbb\xbf").rstrip(b"\r\n")
    grammar: dict[str, Any] = {"delimiter": delimiter, "quoting": QUOTE_MINIMAL if quoted else QUOTE_NONE}
    try:
        rows = csv_reader(io.StringIO(text.decode(), newline=""), **grammar)
        cells = next(rows, [])
        if next(rows, None) is not None:  # the whole file would be its header
            raise CsvError("lines end in a carriage return alone, and must end in a line feed")
    except (UnicodeDecodeError, CsvError) as error:
        raise UserError(f"{path}:1: the header cannot be read ({error}); it must name the columns") from None
    names = [(cell if quoted else unquoted(cell)).strip() for cell in cells]
    demand_columns(f"{path}:1", names, required)
    return names


def read_tsv(
    path: Path, columns: Iterable[str], made_of: Callable[[pa.Table], Any], *, description: str
) -> Iterator[Any]:
    """What is `made_of` some columns of a TSV with a header, as text, block by block; raises `UserError`.

    Args:
        made_of: raises `BadLine` for what is no right value.
    """
    kinds = dict.fromkeys(columns, pa.string())
    text = DelimitedText(read_header(path, kinds, delimiter="\t", quoted=False), kinds, delimiter="\t", quoted=False)

    def parse(data: bytes, _block: Block) -> Any:
        return made_of(text.parse(data))

    bad = BadLines(option="")
    return parse_blocks(path, parse, bad, description=description, workers=Threads(), skip_lines=1)
