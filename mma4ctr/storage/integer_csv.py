"""A fast parser and writer of CSV lines of whole numbers, for raw interaction files and .inter files.

Compiled with numba and without the GIL, so threads run in parallel. It accepts plain lines only: the same number of
columns in each, and in every read column an optional minus and at most 18 digits. The caller parses all other text
with the general parser (`delimited`), which also reports errors.
"""

import numpy as np
from numba import njit

_MAX_PARSED_DIGITS = np.uint64(18)  # every number of 18 digits fits into int64
_ONE, _TEN = np.uint64(1), np.uint64(10)  # unsigned positions: numba adds a check for negative indices otherwise
_MAX_CHARACTERS = 20  # of an int64, with its sign
_MAX_DIGITS = np.uint64(19)  # of an int64


def parse_columns(data: bytes, wanted: list[bool], delimiter: str) -> np.ndarray | None:
    """Parse lines of `len(wanted)` columns.

    Args:
        data: whole lines; the last line break may be missing.
        wanted: whether each column is read.
        delimiter: one byte between cells.

    Returns:
        int64 (read columns, lines), or None if a line is not plain.
    """
    text = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", np.uint8)
    lines = int(np.count_nonzero(text == ord("\n")))
    values = np.empty((sum(wanted), lines), np.int64)
    return values if _parse(text, np.array(wanted), np.uint8(ord(delimiter)), values) else None


@njit(nogil=True, cache=True)
def _parse(text, wanted, delimiter, values):  # type: ignore[no-untyped-def]
    """Fill `values`; return False if a line is not plain."""
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
                if at == start or at - start > _MAX_PARSED_DIGITS:
                    return False
                values[row, line] = -number if negative else number
                row += 1
            else:
                start = at
                # Quotes and control characters are left to the general parser.
                while text[at] != delimiter and text[at] > 13 and text[at] != 34:
                    at += _ONE
                if at == start:
                    return False
            if text[at] != (delimiter if column < last else 10):
                return False
            at += _ONE
    return True


def format_columns(columns: list[np.ndarray], delimiter: str) -> memoryview:
    """Format columns of whole numbers as lines, the inverse of `parse_columns`.

    Args:
        columns: integers (lines,) in the range of int64.
        delimiter: one byte between cells.

    Returns:
        The bytes of the lines.
    """
    values = np.stack([column.astype(np.int64, copy=False) for column in columns])
    text = np.empty(values.size * (_MAX_CHARACTERS + 1), np.uint8)
    return text[: _format(values, np.uint8(ord(delimiter)), text)].data


@njit(nogil=True, cache=True)
def _format(values, delimiter, text):  # type: ignore[no-untyped-def]
    """Write the lines into `text` and return their length in bytes."""
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
            while size < _MAX_DIGITS and rest >= power:
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
