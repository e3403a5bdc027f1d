"""Columns of any file as the arrays that the steps work on: ids, numbers, times, labels, vectors and tokens.

An id is a 64-bit integer to the steps. A whole number that fits stands for itself; any other id (a word, a UUID, a
number beyond 64 bits) for a hash of its text, the same in every file, and its text is kept for whoever is to read
it. So ids match across files of different formats, and no table of all ids is needed to read a row.
"""

import re
import uuid
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import (
    Column,
    column_reader,
    described_type,
    in_place,
    is_list,
    is_text,
    whole,
)
from mma4ctr.datasets.hashing import EXACT_FLOATS, hash_text
from mma4ctr.runtime.errors import BadLine, UserError

# Longer ones are no ids but something else in the column.
LONGEST_ID = 200
POWERS_OF_TEN = np.array([10**k for k in range(1, 20)], np.uint64)


@dataclass(frozen=True)
class Ids:
    """Ids of some rows.

    Attributes:
        values: int64 (n,).
        named: int64 rows whose value stands for a text. text: their texts, aligned with `named`.
    """

    values: np.ndarray
    named: np.ndarray
    text: pa.Array

    def shown(self) -> pa.Array:
        """All ids as they are written."""
        if not len(self.named):
            return pc.cast(pa.array(self.values), pa.string())
        shown = np.empty(len(self.values), object)
        shown[:] = self.values.astype(str)
        shown[self.named] = self.text.to_pylist()
        return pa.array(shown, pa.string())


def concatenated(parts: list[Ids]) -> Ids:
    """The ids of several parts, one after the other."""
    if not parts:
        return _numbers_as_ids(np.empty(0, np.int64))
    starts = np.cumsum([0, *(len(part.values) for part in parts)])
    named = [part.named + start for part, start in zip(parts, starts, strict=False)]
    texts = pa.chunked_array([pc.cast(part.text, pa.large_string()) for part in parts])
    return Ids(np.concatenate([part.values for part in parts]), np.concatenate(named), whole(texts))


def joined_ids(length: int, parts: list[tuple[np.ndarray, Ids]]) -> Ids:
    """The ids of a column of several types."""
    ids = concatenated([part for _, part in parts])
    rows = np.concatenate([rows for rows, _ in parts])
    named = rows[ids.named]
    order = np.argsort(named)
    return Ids(in_place(length, [(rows, ids.values)]), named[order], ids.text.take(pa.array(order)))


@column_reader("ids", joined_ids)
def ids_of(array: Column, name: str) -> Ids:
    """A column of ids of any type; raises `BadLine` for one that is empty, too long or no id."""
    if pa.types.is_null(array.type) or array.null_count:
        raise BadLine(f"column {name}: an id is empty")
    if pa.types.is_integer(array.type):
        try:
            return _numbers_as_ids(pc.cast(array, pa.int64()).to_numpy())
        except pa.ArrowInvalid:  # beyond 64 bits with a sign
            return _text_as_ids(pc.cast(array, pa.string()), name)
    if pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False)
        if not np.all(values == np.floor(values)):
            raise BadLine(f"column {name}: an id that is a number with decimals")
        large = values[~(np.abs(values.astype(np.float64)) < EXACT_FLOATS[values.itemsize])]
        if len(large):
            raise BadLine(
                f"column {name}: the id {float(large[0]):.0f} is a float of {8 * values.itemsize} bits, which cannot "
                "tell such large numbers apart; write ids as whole numbers or as text"
            )
        return _numbers_as_ids(values.astype(np.int64))
    if pa.types.is_fixed_size_binary(array.type) and array.type.byte_width == 16:
        return _text_as_ids(pa.array([str(uuid.UUID(bytes=value)) for value in array.to_pylist()], pa.string()), name)
    return _text_as_ids(pc.utf8_trim_whitespace(pc.cast(array, pa.string())), name)


@column_reader("devices", joined_ids)
def devices_of(array: Column, name: str) -> Ids:
    """As `ids_of`; what is missing (null, NaN, an empty text) is a device like any other, with an empty text."""
    missing = pc.is_null(array, nan_is_null=True)
    if is_text(array.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(array), ""), True))
    missing = missing.to_numpy(zero_copy_only=False)
    rows, filled = np.flatnonzero(missing), np.flatnonzero(~missing)
    if not len(rows):
        return ids_of(array, name)
    # No text of a device hashes to this one, and no number is it.
    values = np.repeat(hash_text(pa.array(["\0"])).view(np.int64), len(rows))
    none = Ids(values, np.arange(len(rows)), pa.array([""] * len(rows), pa.string()))
    given = ids_of(array.take(pa.array(filled)), name) if len(filled) else concatenated([])
    return joined_ids(len(array), [(filled, given), (rows, none)])


def _numbers_as_ids(values: np.ndarray) -> Ids:
    return Ids(values, np.empty(0, np.int64), pa.array([], pa.string()))


def _decimal_length(values: np.ndarray) -> np.ndarray:
    """int64 (n,): characters of whole numbers as they are usually written."""
    size = np.abs(values).view(np.uint64)  # the absolute value of the smallest one wraps to what is right here
    return np.searchsorted(POWERS_OF_TEN, size, side="right") + 1 + (values < 0)


def _text_as_ids(text: pa.Array, name: str) -> Ids:
    length = pc.binary_length(text).to_numpy()
    if len(length) and (length.min() == 0 or length.max() > LONGEST_ID):
        what = "is empty" if length.min() == 0 else f"has over {LONGEST_ID} bytes"
        raise BadLine(f"column {name}: an id {what}")
    try:
        values = pc.cast(text, pa.int64()).to_numpy()
        if np.array_equal(_decimal_length(values), length):
            return _numbers_as_ids(values)
    except pa.ArrowInvalid:
        pass  # some are not whole numbers: each is looked at
    number = pc.match_substring_regex(text, r"^(0|-?[1-9][0-9]{0,18})$")
    size = pc.utf8_ltrim(text, "-")
    fits = pc.or_(pc.less(pc.binary_length(size), 19), pc.less_equal(size, str(2**63 - 1)))
    fits = pc.or_(fits, pc.equal(text, str(-(2**63))))  # as the cast of a column of numbers alone takes it
    number = pc.and_(number, fits).to_numpy(zero_copy_only=False)
    named = np.flatnonzero(~number)
    words = text.take(pa.array(named))
    values = np.empty(len(text), np.int64)
    values[number] = pc.cast(text.filter(pa.array(number)), pa.int64()).to_numpy()
    values[named] = hash_text(words).view(np.int64)
    return Ids(values, named, words)


class NameTable:
    """The texts that ids stand for, gathered from a stream of parts."""

    def __init__(self) -> None:
        self._ids, self._check = np.empty(0, np.int64), np.empty(0, np.uint64)
        self._text = pa.array([], pa.large_string())
        self._waiting: list[tuple[np.ndarray, np.ndarray, pa.Array]] = []

    def add(self, ids: np.ndarray, text: pa.Array) -> None:
        """Take in int64 (n,) and the strings they stand for; raises `UserError` where two strings have one number."""
        ids, first = np.unique(ids, return_index=True)
        if not len(ids):
            return
        text = text.take(pa.array(first))
        # A second hash tells whether equal numbers stand for equal strings.
        check = hash_text(text, seed=1)
        place = np.searchsorted(self._ids, ids)
        known = self._ids.take(place, mode="clip") == ids if len(self._ids) else np.zeros(len(ids), bool)
        self._compare(check[known], text.filter(pa.array(known)), place[known])
        new = np.flatnonzero(~known)
        self._waiting.append((ids[new], check[new], pc.cast(text.take(pa.array(new)), pa.large_string())))
        # As many wait as are known, so that each is sorted a few times only.
        if sum(len(part[0]) for part in self._waiting) > max(1 << 16, len(self._ids)):
            self._merge()

    def _compare(self, check: np.ndarray, text: pa.Array, place: np.ndarray) -> None:
        differs = np.flatnonzero(check != self._check[place])
        if len(differs):
            one, other = text[int(differs[0])], self._text[int(place[differs[0]])]
            raise UserError(f"the ids {str(one)!r} and {str(other)!r} cannot be told apart; rename one of them")

    def _merge(self) -> None:
        parts = [(self._ids, self._check, self._text), *self._waiting]
        self._waiting = []
        ids, check = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        text = pa.chunked_array([part[2] for part in parts]).combine_chunks()
        self._ids, first, where = np.unique(ids, return_index=True, return_inverse=True)
        self._check, self._text = check[first], text.take(pa.array(first))
        self._compare(check, text, where)

    def names(self, ids: np.ndarray) -> np.ndarray | None:
        """UTF-8 bytes (n,) of each id, as text where it stands for one; None where none does."""
        self._merge()
        if not len(self._ids):
            return None
        place = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        known = self._ids[place] == ids
        if not known.any():
            return None
        text = pc.if_else(pa.array(known), self._text.take(pa.array(place)), pc.cast(pa.array(ids), pa.large_string()))
        width = int(pc.max(pc.binary_length(text)).as_py())
        return np.array([name.encode() for name in text.to_pylist()], f"S{width}")


@column_reader("numbers", in_place)
def numbers_of(array: Column, name: str) -> np.ndarray:
    """float64 (n,); raises `BadLine` for what is no finite number."""
    if array.null_count or pa.types.is_null(array.type):
        raise BadLine(f"column {name}: '' is not a number")
    try:
        if is_text(array.type):
            array = pc.utf8_trim_whitespace(array)
        values: np.ndarray = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        found = re.search("'(.*)'", str(error).splitlines()[0])
        what = f"'{found[1]}' is not a number" if found else f"{described_type(array.type)} where numbers are expected"
        raise BadLine(f"column {name}: {what}") from None
    if not np.isfinite(values).all():
        raise BadLine(f"column {name}: '{values[~np.isfinite(values)][0]}' is not a finite number")
    return values


@dataclass(frozen=True)
class Rule:
    """What makes a label 1: a column of 0 and 1, or a comparison with a number, or `true`, every row."""

    column: str | None
    compare: str = ""
    number: float = 0.0

    def __str__(self) -> str:
        return f"{self.column} {self.compare} {self.number:g}" if self.compare else str(self.column or "true")

    def label(self, column: Column | None) -> np.ndarray:
        """uint8 (n,); raises `BadLine` for values that the rule does not know."""
        assert self.column is not None and column is not None
        values = numbers_of(column, self.column)
        if self.compare:
            return np.asarray(COMPARISONS[self.compare](values, self.number), np.uint8)
        other = values[(values != 0) & (values != 1)]
        if len(other):
            # A negative value stands for no: with >= it the rule would hold for every row.
            compare = f">= {other[0]:g}" if other[0] > 0 else "> 0"
            raise BadLine(
                f"column {self.column}: {other[0]:g} where 0 or 1 is expected (a rule such as "
                f'"{self.column} {compare}" makes a label of it)'
            )
        return values.astype(np.uint8)


COMPARISONS = {
    ">=": np.greater_equal,
    "<=": np.less_equal,
    "==": np.equal,
    "!=": np.not_equal,
    ">": np.greater,
    "<": np.less,
}
_COMPARISON = re.compile(r"([^<>=!]+?)\s*(>=|<=|==|!=|>|<)\s*(-?(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)")


def parse_rule(text: str) -> Rule:
    """`rating >= 4`, or a column's name; raises ValueError for what looks like a rule and is none."""
    found = _COMPARISON.fullmatch(text.strip())
    if found:
        return Rule(found[1], found[2], float(found[3]))
    if re.search("[<>=]", text):
        raise ValueError(f"{text!r} is no rule; one is: column, one of {' '.join(COMPARISONS)}, number")
    return Rule(text.strip())


# Scripts without spaces between words: each character is a word.
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])"
_NO_WORD = r"[^\p{L}\p{N}]+"


Tokens = tuple[np.ndarray, np.ndarray]
NO_TOKENS: Tokens = (np.empty(0, np.int64), np.empty(0, np.int64))


def _joined_tokens(length: int, parts: list[tuple[np.ndarray, Tokens]]) -> Tokens:
    """The tokens of a column of several types."""
    row = np.concatenate([rows[found[0]] for rows, found in parts])
    order = np.argsort(row, kind="stable")
    return row[order], np.concatenate([found[1] for _, found in parts])[order]


@column_reader("text or lists of tokens", _joined_tokens)
def tokens_of(array: Column, name: str, *, words: bool) -> Tokens:
    """int64 row and int64 token of each token of a column of texts or lists; empty cells and nulls have none.

    Args:
        words: of plain text, or of each text in a list, its words in lower case; else what stands between spaces, or
            each value of a list, as it is.

    Raises `BadLine` for a column of another type.
    """
    if pa.types.is_null(array.type):
        return NO_TOKENS
    if is_list(array.type):
        row = pc.list_parent_indices(array).to_numpy().astype(np.int64)
        place, token = _tokens_of_cells(pc.list_flatten(array), name, words=words)
        return row[place], token
    if pa.types.is_integer(array.type):
        array = pc.cast(array, pa.string())
    if not is_text(array.type):
        raise BadLine(f"column {name}: {described_type(array.type)} where text or lists of tokens are expected")
    if words:
        array = pc.replace_substring_regex(pc.utf8_lower(array), _UNSPACED, r" \1 ")
        array = pc.replace_substring_regex(array, _NO_WORD, " ")
    array = pc.utf8_split_whitespace(array)
    row = pc.list_parent_indices(array).to_numpy().astype(np.int64)
    place, token = _tokens_of_cells(pc.list_flatten(array), name, words=False)
    return row[place], token


@column_reader("tokens", _joined_tokens)
def _tokens_of_cells(cells: Column, name: str, *, words: bool) -> Tokens:
    """int64 cell and int64 token of the values of lists."""
    if is_text(cells.type) and words:
        return tokens_of(cells, name, words=True)
    filled = pc.is_valid(cells)
    if is_text(cells.type):
        filled = pc.and_(filled, pc.fill_null(pc.not_equal(cells, ""), False))
    elif pa.types.is_floating(cells.type):  # pandas writes NaN for what is missing
        filled = pc.and_(filled, pc.invert(pc.fill_null(pc.is_nan(cells), True)))
    filled = filled.to_numpy(zero_copy_only=False)
    cells = cells.filter(pa.array(filled))
    if not len(cells):
        return NO_TOKENS
    kinds = cells.dictionary_encode()
    place = kinds.indices.to_numpy()
    texts = kinds.dictionary
    if is_text(texts.type):
        texts = pc.utf8_slice_codeunits(texts, 0, LONGEST_ID // 4)  # a token is told by its beginning
    return np.flatnonzero(filled), ids_of(texts, name).values[place]
