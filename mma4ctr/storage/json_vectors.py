"""Parser of JSON lines with one integer and one array of numbers: `{"item_id": 17, "video_feature_dim_128": [0.5]}`.

Compiled with numba; it releases the interpreter's lock, so threads share the work. It accepts lines of exactly this
shape only. Callers fall back to a general JSON parser, which also reports what is wrong with a line. On the numbers of
the TikTok files it takes three quarters of the time of DuckDB and three fifths of that of simdjson
(`python -m benchmarks.vector_parsers`).

A number's digits are read as one integer w of at most 19 digits. Powers of ten up to 10^22 are exact doubles, so w
times or divided by one of them is correctly rounded if w < 2^53 (Clinger 1990). Otherwise, or with two divisions, the
error is at most 4 units in the last place. Rounding to float32 drops 29 bits; unless those are within 8 units of one
half, where the error could decide, the result is the float32 nearest to the exact value.
"""

import numpy as np
from numba import njit

_POWERS = 10.0 ** np.arange(23)
_EXACT = np.uint64(2**53)
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
_CUT_OFF, _HALF, _MARGIN = np.int64(2**29 - 1), np.int64(2**28), np.int64(8)


def parse_lines(data: bytes, name: str, key: str, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Parse lines `{"<name>": integer, "<key>": [numbers]}`, the two in either order.

    Args:
        data: Whole lines; the last may lack its line feed.
        name: Key of the integer.
        key: Key of the array.
        width: Largest length of an array.

    Returns:
        ids int64 (n,), values float32 (n, width) padded with zeros, and lengths int32 (n,). None if a line has another
        shape or more than `width` numbers, or if a number cannot be rounded with certainty.
    """
    text = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", np.uint8)
    lines = int(np.count_nonzero(text == ord("\n")))
    ids, length = np.empty(lines, np.int64), np.empty(lines, np.int32)
    values = np.zeros((lines, width), np.float32)
    words = [np.frombuffer(f'"{word}"'.encode(), np.uint8) for word in (name, key)]
    return (ids, values, length) if _parse(text, words[0], words[1], ids, values, length) else None


@njit(nogil=True, cache=True)
def _char(text, at):  # type: ignore[no-untyped-def]
    return text[np.uint64(at)]  # a signed index may be negative, and that check costs a quarter of the time


@njit(nogil=True, cache=True)
def _skip(text, at):  # type: ignore[no-untyped-def]
    while _char(text, at) == 32 or _char(text, at) == 9 or _char(text, at) == 13:
        at += 1
    return at


@njit(nogil=True, cache=True)
def _starts_with(text, at, word):  # type: ignore[no-untyped-def]
    for place in range(len(word)):
        if _char(text, at + place) != word[place]:  # stops at the end of the line at the latest
            return False
    return True


@njit(nogil=True, cache=True)
def _number(text, at):  # type: ignore[no-untyped-def]
    """The parts of a number: position after it, sign, digits, power of ten, and whether it is written as an integer.

    The position is -1 if there is no number or it has more than 19 significant digits.
    """
    negative = _char(text, at) == 45
    if negative:
        at += 1
    digits, start, power, whole = np.uint64(0), at, 0, True
    while 48 <= _char(text, at) <= 57:
        digits = digits * np.uint64(10) + np.uint64(_char(text, at) - 48)
        at += 1
    count = at - start
    if count == 0 or (count > 1 and _char(text, start) == 48):
        return -1, negative, digits, power, whole
    if count == 1 and digits == 0:  # a zero before the decimal point is no significant digit
        count = 0
    if _char(text, at) == 46:
        whole = False
        at += 1
        start = at
        while 48 <= _char(text, at) <= 57:
            digits = digits * np.uint64(10) + np.uint64(_char(text, at) - 48)
            if count or digits:
                count += 1
            at += 1
        power = start - at
        if power == 0:
            return -1, negative, digits, power, whole
    if _char(text, at) == 101 or _char(text, at) == 69:
        whole = False
        at += 1
        down = _char(text, at) == 45
        if down or _char(text, at) == 43:
            at += 1
        start, exponent = at, 0
        while 48 <= _char(text, at) <= 57 and at - start < 4:
            exponent = exponent * 10 + (_char(text, at) - 48)
            at += 1
        if at == start:
            return -1, negative, digits, power, whole
        power += -exponent if down else exponent
    return (at if count <= 19 else -1), negative, digits, power, whole


@njit(nogil=True, cache=True)
def _parse(text, name, key, ids, values, length):  # type: ignore[no-untyped-def]
    """Fill `ids`, `values` and `length`; False if a line has another shape."""
    at = 0
    cut = np.empty(1)
    cut_bits = cut.view(np.int64)  # the same eight bytes
    for line in range(len(ids)):
        at = _skip(text, at)
        if _char(text, at) != 123:
            return False
        at = _skip(text, at + 1)
        id_first = _starts_with(text, at, name)
        for turn in range(2):
            word = name if id_first == (turn == 0) else key
            if not _starts_with(text, at, word):
                return False
            at = _skip(text, at + len(word))
            if _char(text, at) != 58:
                return False
            at = _skip(text, at + 1)
            if id_first == (turn == 0):
                at, negative, digits, power, whole = _number(text, at)
                if at < 0 or not whole or digits >= np.uint64(2**63):
                    return False
                ids[line] = -np.int64(digits) if negative else np.int64(digits)
            else:
                if _char(text, at) != 91:
                    return False
                at = _skip(text, at + 1)
                count = 0
                while _char(text, at) != 93:
                    if count:
                        if _char(text, at) != 44:
                            return False
                        at = _skip(text, at + 1)
                    if count == values.shape[1]:
                        return False
                    at, negative, digits, power, whole = _number(text, at)
                    if at < 0:
                        return False
                    if digits:
                        if power < -44 or power > 22:
                            return False
                        value = np.float64(digits)
                        if power < -22:
                            value /= _POWERS[22]
                        shift = power + 22 if power < -22 else power
                        value = value / _POWERS[-shift] if shift < 0 else value * _POWERS[shift]
                        if value < _SMALLEST or value > _LARGEST:
                            return False
                        if digits >= _EXACT or power < -22:
                            cut[0] = value
                            if abs((cut_bits[0] & _CUT_OFF) - _HALF) <= _MARGIN:
                                return False
                        values[line, count] = -value if negative else value
                    elif negative and not whole:
                        values[line, count] = -0.0
                    at = _skip(text, at)
                    count += 1
                length[line] = count
                at += 1
            at = _skip(text, at)
            if turn == 0:
                if _char(text, at) != 44:
                    return False
                at = _skip(text, at + 1)
        if _char(text, at) != 125:
            return False
        at = _skip(text, at + 1)
        if _char(text, at) != 10:
            return False
        at += 1
    return True
