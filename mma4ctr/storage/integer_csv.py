"""Lines of whole numbers between delimiters, read and written: raw interaction files, and .inter files.

Compiled (numba), without the interpreter's lock, so that threads share the work. It knows plain lines only: at most 18
digits, perhaps after a minus, in every column that is wanted, the same number of columns in each line. Whoever calls it
has a general parser for all other text, which also says what is wrong with it.
"""

import numpy as np
from numba import njit

_DIGITS = np.uint64(18)  # any number of so many fits into int64
_ONE, _TEN = np.uint64(1), np.uint64(10)  # places are unsigned: numba looks for negative ones otherwise
_LONGEST = 20  # characters of the smallest int64
_MOST = np.uint64(19)  # its digits


def parse_columns(data: bytes, wanted: list[bool], delimiter: str) -> np.ndarray | None:
    """Parse lines of `len(wanted)` columns.

    Returns: int64 (wanted columns, lines); or None where a line is not plain.
    """
    text = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", np.uint8)
    lines = int(np.count_nonzero(text == ord("\n")))
    values = np.empty((sum(wanted), lines), np.int64)
    return values if _parse(text, np.array(wanted), np.uint8(ord(delimiter)), values) else None


@njit(nogil=True, cache=True)
def _parse(text, wanted, delimiter, values):  # type: ignore[no-untyped-def]
    """Fill in the columns; False where a line is not plain."""
    at, last = np.uint64(0), len(wanted) - 1
    for line in range(values.shape[1]):
        row = 0
        for column in range(len(wanted)):
            if wanted[column]:
                negative = text[at] == 45
                if negative:
                    at += _ONE
                start, number = at, np.int64(0)
                digit = np.uint8(text[at] - np.uint8(48))
                while digit < 10:
                    number = number * 10 + digit
                    at += _ONE
                    digit = np.uint8(text[at] - np.uint8(48))
                if at == start or at - start > _DIGITS:
                    return False
                values[row, line] = -number if negative else number
                row += 1
            else:
                start = at
                # What is special to one grammar or another is left to the parser that knows it.
                while text[at] != delimiter and text[at] > 13 and text[at] != 34:
                    at += _ONE
                if at == start:
                    return False
            if text[at] != (delimiter if column < last else 10):
                return False
            at += _ONE
    return True


def format_columns(columns: list[np.ndarray], delimiter: str) -> memoryview:
    """Lines with one whole number of each column: the opposite of `parse_columns`.

    Args:
        columns: integers (lines,), as int64 can hold them.
    """
    values = np.stack([column.astype(np.int64, copy=False) for column in columns])
    text = np.empty(values.size * (_LONGEST + 1), np.uint8)
    return text[: _format(values, np.uint8(ord(delimiter)), text)].data


@njit(nogil=True, cache=True)
def _format(values, delimiter, text):  # type: ignore[no-untyped-def]
    """Write the lines; returns how many bytes they have."""
    at, last = np.uint64(0), values.shape[0] - 1
    for line in range(values.shape[1]):
        for column in range(values.shape[0]):
            value = values[column, line]
            rest = np.uint64(value)
            if value < 0:
                text[at] = 45
                at += _ONE
                rest = ~rest + _ONE
            size, power = _ONE, _TEN
            while size < _MOST and rest >= power:
                size += _ONE
                power *= _TEN
            end = at + size
            place = end
            while place > at:
                place -= _ONE
                text[place] = 48 + rest % _TEN
                rest //= _TEN
            text[end] = delimiter if column < last else 10
            at = end + _ONE
    return at
