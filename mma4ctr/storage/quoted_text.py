"""Where the records of quoted CSV end: a quoted cell may hold line breaks, so a line break may stand within a record.

The grammar is that of RFC 4180 as pyarrow and Python's csv read it: a quote opens a quoted cell only at the start of a
cell, a doubled quote in it stands for one, and the next quote closes it. A cell that is never closed would swallow all
records after it, so a quote counts as not closed where the file ends before its partner, or where its partner stands in
a later line and text follows it directly: that is the opening quote of another cell. The record then ends with the
line of the quote, and the next line starts anew.
"""

import re
from dataclasses import dataclass, field

import numpy as np

QUOTE, NEWLINE = ord('"'), ord("\n")
# Quotes of a block without a partner that are looked for to the end of the data; each costs a pass over the rest.
MOST_UNCLOSED = 100


@dataclass(frozen=True)
class QuotedCells:
    """The quoted cells in some text that starts at a record.

    Attributes:
        opens, closes: int64 (n,) positions of their quotes, ascending. A cell with doubled quotes may stand as several.
        open_at: the quote of a cell that goes on behind the data, None where all are closed.
        unclosed: the first quote that is taken for not closed, None where there is none.
    """

    opens: np.ndarray
    closes: np.ndarray
    open_at: int | None = None
    unclosed: int | None = None


@dataclass(frozen=True)
class QuotedText:
    """The records of CSV with one-byte `delimiter` between cells."""

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
        """The quoted cells of text that starts at a record; `final`: nothing comes after it."""
        text = np.frombuffer(data, np.uint8)
        quotes = np.flatnonzero(text == QUOTE)
        opens, closes = quotes[0::2], quotes[1::2]
        # In usual text every other quote opens a cell, or is the second of a doubled one, and the others close.
        before = text[opens - 1]
        usual = self._starts_cell[before] | (before == QUOTE) | (opens == 0)
        after = text[np.minimum(closes + 1, len(text) - 1)]
        closing = self._starts_cell[after] | (after == QUOTE) | (closes == len(text) - 1)
        is_open = len(opens) > len(closes)
        if usual.all() and closing.all() and not (is_open and final):
            return QuotedCells(opens[: len(closes)], closes, int(opens[-1]) if is_open else None)
        return self._one_by_one(data, final)

    def _one_by_one(self, data: bytes, final: bool) -> QuotedCells:
        """The same for any text, quote by quote."""
        opens, closes = [], []
        unclosed = open_at = None
        at = without_partner = 0
        while (start := data.find(b'"', at)) >= 0:
            if start and not self._starts_cell[data[start - 1]]:
                at = start + 1  # in the middle of a cell: a character like others
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
            if line_end < 0 or without_partner > MOST_UNCLOSED:
                break
            at = line_end + 1
        return QuotedCells(np.array(opens, np.int64), np.array(closes, np.int64), open_at, unclosed)

    def record_ends(self, data: bytes, *, final: bool = True) -> np.ndarray:
        """int64 (records,): where each record of text that starts at one ends, behind its line break.

        The last one may lack the line break if the text is `final`; else what is not surely a whole record is left out.
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
        """Where the last whole record of text that starts at one ends; 0 where none does."""
        if b'"' not in data:
            return data.rfind(b"\n") + 1
        ends = self.record_ends(data, final=final)
        return int(ends[-1]) if len(ends) else 0

    def is_open(self, data: bytes) -> bool:
        """Whether a quoted cell goes on behind text that starts at a record."""
        return b'"' in data and self.cells(data, final=False).open_at is not None

    def is_whole(self, data: bytes) -> bool:
        """Whether every quote of text that starts at a record is closed."""
        if b'"' not in data:
            return True
        found = self.cells(data, final=False)
        return found.open_at is None and found.unclosed is None


def line_ends(data: bytes) -> np.ndarray:
    """int64 (lines,): where each line ends, behind its line break; the last one may lack it."""
    return _with_rest(np.flatnonzero(np.frombuffer(data, np.uint8) == NEWLINE) + 1, data)


def _with_rest(ends: np.ndarray, data: bytes) -> np.ndarray:
    """The ends and that of text behind the last of them."""
    last = int(ends[-1]) if len(ends) else 0
    return np.append(ends, len(data)) if last < len(data) else ends


def unquoted(cell: str) -> str:
    """A cell of text whose grammar knows no quotes, without those that a writer has put around it, as R does."""
    inner = cell.strip()
    if len(inner) > 1 and inner[0] == inner[-1] == '"':
        return inner[1:-1].replace('""', '"')
    return cell
