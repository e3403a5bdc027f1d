"""Record boundaries in quoted CSV, where quoted cells may contain line breaks.

The grammar is RFC 4180 as read by pyarrow and Python's csv: a quote opens a quoted cell only at the start of a cell, a
doubled quote inside is an escaped quote, and the next single quote closes the cell. A cell that is never closed would
swallow all following records. A quote is therefore unclosed in two cases: the file ends before its partner, or its
partner is in a later line and text follows directly, because then the partner opens another cell. The record of an
unclosed quote ends with its line.
"""

import re
from dataclasses import dataclass, field

import numpy as np

QUOTE, NEWLINE = ord('"'), ord("\n")
# At most this many quotes without a partner are searched for in a block; each search scans the rest of the data.
MAX_UNCLOSED = 100


@dataclass(frozen=True)
class QuotedCells:
    """The quoted cells in text that starts at a record.

    Attributes:
        opens: int64 (n,) positions of the opening quotes, ascending. A cell with doubled quotes may count as several.
        closes: int64 (n,) positions of the closing quotes.
        open_at: the opening quote of a cell that continues beyond the data, or None.
        unclosed: the first unclosed quote, or None.
    """

    opens: np.ndarray
    closes: np.ndarray
    open_at: int | None = None
    unclosed: int | None = None


@dataclass(frozen=True)
class QuotedText:
    """The record grammar of quoted CSV with a one-byte delimiter."""

    delimiter: str
    _starts_cell: np.ndarray = field(init=False, repr=False, compare=False)
    _ends_cell: re.Pattern[bytes] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        separators = np.zeros(256, bool)
        separators[[ord(self.delimiter), NEWLINE, ord("\r")]] = True
        object.__setattr__(self, "_starts_cell", separators)
        blanks = b"[ \t]*" if self.delimiter != "\t" else b" *"
        ending = blanks + b"(?:[\r\n]|\\Z|" + re.escape(self.delimiter.encode()) + b")"
        object.__setattr__(self, "_ends_cell", re.compile(ending))

    def cells(self, data: bytes, *, final: bool) -> QuotedCells:
        """Find the quoted cells of text that starts at a record; `final` means that the file ends with the data."""
        text = np.frombuffer(data, np.uint8)
        quotes = np.flatnonzero(text == QUOTE)
        opens, closes = quotes[0::2], quotes[1::2]
        # Usually quotes alternate: one opens a cell or is the second of a doubled quote, the next one closes.
        before = text[opens - 1]
        usual = self._starts_cell[before] | (before == QUOTE) | (opens == 0)
        after = text[np.minimum(closes + 1, len(text) - 1)]
        closing = self._starts_cell[after] | (after == QUOTE) | (closes == len(text) - 1)
        is_open = len(opens) > len(closes)
        if usual.all() and closing.all() and not (is_open and final):
            return QuotedCells(opens[: len(closes)], closes, int(opens[-1]) if is_open else None)
        return self._one_by_one(data, final)

    def _one_by_one(self, data: bytes, final: bool) -> QuotedCells:
        """Find the quoted cells of any text, quote by quote."""
        opens, closes = [], []
        unclosed = open_at = None
        at = without_partner = 0
        while (start := data.find(b'"', at)) >= 0:
            if start and not self._starts_cell[data[start - 1]]:
                at = start + 1  # in the middle of a cell a quote is an ordinary character
                continue
            end = data.find(b'"', start + 1)
            while end >= 0 and data[end + 1 : end + 2] == b'"':
                end = data.find(b'"', end + 2)
            if end < 0 and not final:
                open_at = start
                break
            line_end = data.find(b"\n", start, end if end >= 0 else len(data))
            if end >= 0 and (line_end < 0 or self._ends_cell.match(data, end + 1)):
                opens.append(start)
                closes.append(end)
                at = end + 1
                continue
            unclosed = start if unclosed is None else unclosed
            without_partner += end < 0
            if line_end < 0 or without_partner > MAX_UNCLOSED:
                break
            at = line_end + 1
        return QuotedCells(np.array(opens, np.int64), np.array(closes, np.int64), open_at, unclosed)

    def record_ends(self, data: bytes, *, final: bool = True) -> np.ndarray:
        """Find the end of each record in text that starts at a record.

        Args:
            data: the text.
            final: the file ends with the data, so the last record may lack its line break. Otherwise a last record
                that may be incomplete is left out.

        Returns:
            int64 (records,): positions after each record's line break.
        """
        ends = np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE)
        if b'"' in data:
            found = self.cells(data, final=final)
            cell = np.searchsorted(found.opens, ends) - 1
            inside = np.zeros(len(ends), bool)
            if len(found.opens):
                inside = (cell >= 0) & (ends < found.closes[cell])
            if found.open_at is not None:
                inside |= ends > found.open_at
            ends = ends[~inside]
        return _with_rest(ends + 1, data) if final else ends + 1

    def last_end(self, data: bytes, *, final: bool = False) -> int:
        """Return the end of the last whole record in text that starts at a record, or 0."""
        if b'"' not in data:
            return data.rfind(b"\n") + 1
        ends = self.record_ends(data, final=final)
        return int(ends[-1]) if len(ends) else 0

    def is_open(self, data: bytes) -> bool:
        """Return whether a quoted cell continues beyond text that starts at a record."""
        return b'"' in data and self.cells(data, final=False).open_at is not None

    def is_whole(self, data: bytes) -> bool:
        """Return whether every quote is closed in text that starts at a record."""
        if b'"' not in data:
            return True
        found = self.cells(data, final=False)
        return found.open_at is None and found.unclosed is None


def line_ends(data: bytes) -> np.ndarray:
    """Return int64 (lines,): positions after each line break, and the end of a last line without one."""
    return _with_rest(np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE) + 1, data)


def _with_rest(ends: np.ndarray, data: bytes) -> np.ndarray:
    """Append the end of the data if text follows the last end."""
    last = int(ends[-1]) if len(ends) else 0
    return np.append(ends, len(data)) if last < len(data) else ends


def unquoted(cell: str) -> str:
    """Remove the quotes around a cell of a format without quoting, which R and other programs write."""
    inner = cell.strip()
    if len(inner) > 1 and inner[0] == inner[-1] == '"':
        return inner[1:-1].replace('""', '"')
    return cell
