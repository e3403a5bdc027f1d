"""Lines of a CSV file in time order, each with what its user did before it, joined by `^`.

A user's history is kept as the text that the next line needs, so a line costs one copy of it, whatever its length.
Compiled with numba and without the GIL.
"""

import numpy as np
from numba import njit

HISTORIES = 2  # columns of a line, at its end
_COMMA, _CARET, _NEWLINE, _ZERO = ord(","), ord("^"), ord("\n"), ord("0")
_MAX_DIGITS = 18


class HistoryLines:
    """Formats rows as lines and remembers each user's two histories, oldest entry first.

    Args:
        users: Number of users.
        longest: Entries that a history keeps.
        largest: Largest number that can be an entry.
    """

    def __init__(self, users: int, longest: int, largest: int) -> None:
        self._longest = longest
        self._entry = len(str(largest)) + 1
        # Twice the size of a full history, so that the text is moved to the front once in `longest` entries.
        self._texts = np.zeros((users, HISTORIES, 2 * longest * self._entry), np.uint8)
        # Of each history, where its text starts and stops, and its number of entries.
        self._states = np.zeros((users, HISTORIES, 3), np.int64)

    def format(self, user: np.ndarray, cells: list[np.ndarray], entries: list[np.ndarray]) -> memoryview:
        """Format the next rows.

        Args:
            user: int (rows,), below the number of users.
            cells: Whole numbers (rows,) from 0 to below 10 ** 18: the columns before the histories.
            entries: Two of whole numbers (rows,): what the row adds to each history for later rows, or -1 for nothing.

        Returns:
            The bytes of the lines.
        """
        columns = np.stack([column.astype(np.int64, copy=False) for column in cells])
        moves = np.stack([column.astype(np.int64, copy=False) for column in (user, *entries)])
        widest = len(cells) * (_MAX_DIGITS + 1) + HISTORIES * (self._longest * self._entry + 1)
        text = np.empty(len(user) * widest, np.uint8)
        sizes = self._longest, self._entry
        return text[: _format(moves, columns, self._texts, self._states, sizes, text)].data


@njit(nogil=True, cache=True)
def _number(text, at, value):  # type: ignore[no-untyped-def]
    """Write a number of at least 0 into `text` from `at`, and return where it ends."""
    size, power = 1, 10
    while size < _MAX_DIGITS and value >= power:
        size += 1
        power *= 10
    for place in range(at + size - 1, at - 1, -1):
        text[place] = _ZERO + value % 10
        value //= 10
    return at + size


@njit(nogil=True, cache=True)
def _append(text, state, value, entry):  # type: ignore[no-untyped-def]
    """Append a number to a history of text, which is moved to the front if it would not fit."""
    start, stop = state[0], state[1]
    if stop + entry > len(text):
        for place in range(stop - start):
            text[place] = text[start + place]
        start, stop = 0, stop - start
    stop = _number(text, stop, value)
    text[stop] = _CARET
    state[0], state[1] = start, stop + 1
    state[2] += 1


@njit(nogil=True, cache=True)
def _format(moves, cells, texts, states, sizes, out):  # type: ignore[no-untyped-def]
    """Write the lines into `out`, update the histories, and return the length of the lines in bytes."""
    at, (longest, entry) = 0, sizes
    for row in range(cells.shape[1]):
        user = moves[0, row]
        for column in range(cells.shape[0]):
            at = _number(out, at, cells[column, row])
            out[at] = _COMMA
            at += 1
        for history in range(HISTORIES):
            start, stop = states[user, history, 0], states[user, history, 1]
            if stop > start:
                length = stop - start - 1  # without the last ^
                out[at : at + length] = texts[user, history, start : stop - 1]
                at += length
            out[at] = _COMMA if history + 1 < HISTORIES else _NEWLINE
            at += 1
        for history in range(HISTORIES):
            value, state = moves[1 + history, row], states[user, history]
            if value < 0:
                continue
            if state[2] == longest:
                while texts[user, history, state[0]] != _CARET:
                    state[0] += 1
                state[0] += 1
                state[2] -= 1
            _append(texts[user, history], state, value, entry)
    return at
