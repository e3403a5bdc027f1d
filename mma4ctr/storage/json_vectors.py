"""JSON lines of one whole number and one array of numbers, `{"item_id": 17, "video_feature_dim_128": [0.5, ...]}`.

Compiled (numba), without the interpreter's lock, so that threads share the work: several times faster than a general
JSON parser whose result Python has to take apart. It knows lines of exactly this shape only; whoever calls it has a
general parser for all others, which also says what is wrong with them.

A number's digits are read as one whole number w of at most 19 digits. Powers of ten up to 22 are exact doubles, so w
times or over one of them is rounded correctly where w < 2^53 (Clinger 1990), and else, or over two of them, is at most
4 units of the last place off. float32 cuts off 29 bits; unless those lie within 8 units of one half, where the error
could decide, the float32 is that of the exact value.
"""

import numpy as np
from numba import njit

_POWERS = 10.0 ** np.arange(23)
_EXACT = np.uint64(2**53)
_LARGEST, _SMALLEST = float(np.finfo(np.float32).max), float(np.finfo(np.float32).tiny)
_CUT_OFF, _HALF, _MARGIN = np.int64(2**29 - 1), np.int64(2**28), np.int64(8)


def parse_lines(data: bytes, name: str, key: str, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Parse lines `{"name": whole number, "key": [numbers]}`, the two in either order.

    Returns: ids int64 (n,), values float32 (n, width) filled up with zeros, length int32 (n,); or None where a line is
        of another shape, has more than `width` numbers, or one that is not surely read to the last bit.
    """
    text = np.frombuffer(data if data.endswith(b"\n") else data + b"\n", np.uint8)
    lines = int(np.count_nonzero(text == ord("\n")))
    ids, length = np.empty(lines, np.int64), np.empty(lines, np.int32)
    values = np.zeros((lines, width), np.float32)
    words = [np.frombuffer(f'"{word}"'.encode(), np.uint8) for word in (name, key)]
    cut = np.empty(1)
    done = _parse(text, words[0], words[1], ids, values, length, cut, cut.view(np.int64))
    return (ids, values, length) if done else None


@njit(nogil=True, cache=True)
def _char(text, at):  # type: ignore[no-untyped-def]
    return text[np.uint64(at)]  # numba looks for places from the end otherwise, in a quarter more time


@njit(nogil=True, cache=True)
def _skip(text, at):  # type: ignore[no-untyped-def]
    while _char(text, at) == 32 or _char(text, at) == 9 or _char(text, at) == 13:
        at += 1
    return at


@njit(nogil=True, cache=True)
def _starts_with(text, at, word):  # type: ignore[no-untyped-def]
    for place in range(len(word)):  # noqa: SIM110, numba compiles no all()
        if _char(text, at + place) != word[place]:  # at the latest where the line ends
            return False
    return True


@njit(nogil=True, cache=True)
def _number(text, at):  # type: ignore[no-untyped-def]
    """(position after a number, is it negative, its digits as a whole number, their power of ten, is it written as a
    whole number); position -1 where there is none, or one with more than 19 digits."""
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
    if digits == 0:
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
def _parse(text, name, key, ids, values, length, cut, cut_bits):  # type: ignore[no-untyped-def]
    """Fill in the lines; False where one is not as it should be. `cut` and `cut_bits` are the same eight bytes."""
    at = 0
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
