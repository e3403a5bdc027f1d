"""Conversion of a file's columns to the arrays of the steps: ids, numbers, labels and tokens.

Inside the steps an id is a 64-bit integer. A whole number that fits is its own id. Any other id (a word, a UUID, a
number beyond 64 bits) becomes a hash of its text, and the text is kept for output. So ids match across files of
different formats, and rows can be read without a table of all ids.
"""

import re
import uuid
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import (
    Column,
    column_reader,
    described_type,
    is_list,
    is_text,
    missing_cells,
    plain_array,
    scatter_rows,
)
from mma4ctr.datasets.hashing import EXACT_FLOATS, hash_text
from mma4ctr.runtime.errors import BadLine, UserError, first_line

# In bytes; longer text is not an id but another kind of content.
LONGEST_ID = 200
POWERS_OF_TEN = np.array([10**k for k in range(1, 20)], np.uint64)


@dataclass(frozen=True)
class Ids:
    """Ids of some rows.

    Attributes:
        values: int64 (n,).
        named: int64 rows whose value is a hash of text.
        text: the texts of these rows.
    """

    values: np.ndarray
    named: np.ndarray
    text: pa.Array

    def shown(self) -> pa.Array:
        """Return all ids as written in the file."""
        if not len(self.named):
            return pc.cast(pa.array(self.values), pa.string())
        shown = np.empty(len(self.values), object)
        shown[:] = self.values.astype(str)
        shown[self.named] = self.text.to_pylist()
        return pa.array(shown, pa.string())

    def take(self, rows: np.ndarray) -> "Ids":
        """Return the ids of some rows, given in ascending order."""
        if not len(self.named):
            return Ids(self.values[rows], self.named, self.text)
        kept = np.zeros(len(self.values), bool)
        kept[rows] = True
        position = np.cumsum(kept) - 1
        wanted = kept[self.named]
        return Ids(self.values[rows], position[self.named[wanted]], self.text.filter(pa.array(wanted)))


def concatenate_ids(parts: list[Ids]) -> Ids:
    """Concatenate the ids of several parts."""
    if not parts:
        return _numbers_as_ids(np.empty(0, np.int64))
    starts = np.cumsum([0, *(len(part.values) for part in parts)])
    named = [part.named + start for part, start in zip(parts, starts, strict=False)]
    texts = pa.chunked_array([pc.cast(part.text, pa.large_string()) for part in parts])
    return Ids(np.concatenate([part.values for part in parts]), np.concatenate(named), plain_array(texts))


def joined_ids(length: int, parts: list[tuple[np.ndarray, Ids]]) -> Ids:
    """Merge the ids of a column of several types."""
    ids = concatenate_ids([part for _, part in parts])
    rows = np.concatenate([rows for rows, _ in parts])
    named = rows[ids.named]
    order = np.argsort(named)
    return Ids(scatter_rows(length, [(rows, ids.values)]), named[order], ids.text.take(pa.array(order)))


@column_reader("ids", joined_ids)
def ids_of(array: Column, name: str) -> Ids:
    """Convert a column of any type to ids; raises `BadLine` for an empty or too long id, or another kind of value."""
    if array.null_count:
        raise BadLine(f"column {name}: an id is empty")
    if pa.types.is_integer(array.type):
        try:
            return _numbers_as_ids(pc.cast(array, pa.int64()).to_numpy())
        except pa.ArrowInvalid:  # beyond signed 64 bits
            return _text_as_ids(pc.cast(array, pa.string()), name)
    if pa.types.is_floating(array.type):
        values = array.to_numpy(zero_copy_only=False)
        if np.isnan(values).any():
            raise BadLine(f"column {name}: an id is empty")
        if not np.all(values == np.floor(values)):
            raise BadLine(f"column {name}: an id is a number with decimals")
        large = values[~(np.abs(values.astype(np.float64)) < EXACT_FLOATS[values.itemsize])]
        if len(large):
            raise BadLine(
                f"column {name}: the id {float(large[0]):.0f} is a {8 * values.itemsize}-bit float, which cannot "
                "represent all numbers of this size; write ids as whole numbers or as text"
            )
        return _numbers_as_ids(values.astype(np.int64))
    if pa.types.is_fixed_size_binary(array.type) and array.type.byte_width == 16:
        return _text_as_ids(pa.array([str(uuid.UUID(bytes=value)) for value in array.to_pylist()], pa.string()), name)
    return _text_as_ids(pc.utf8_trim_whitespace(pc.cast(array, pa.string())), name)


@column_reader("devices", joined_ids)
def devices_of(array: Column, name: str) -> Ids:
    """Convert a column to ids as `ids_of` does; missing values (null, NaN, empty text) are one device, without text."""

    def unknown(count: int) -> Ids:
        # A value that no text and no number of a device has.
        values = np.repeat(hash_text(pa.array(["\0"])).view(np.int64), count)
        return Ids(values, np.arange(count), pa.array([""] * count, pa.string()))

    return ids_or_missing(array, name, unknown)


def ids_or_missing(array: pa.Array, name: str, missing: Callable[[int], Ids]) -> Ids:
    """Convert a column to ids as `ids_of` does, with the ids that `missing` makes of the number of missing cells."""
    is_missing = missing_cells(array, name)
    rows, filled = np.flatnonzero(is_missing), np.flatnonzero(~is_missing)
    if not len(rows):
        return ids_of(array, name)
    given = ids_of(array.take(pa.array(filled)), name) if len(filled) else concatenate_ids([])
    return joined_ids(len(array), [(filled, given), (rows, missing(len(rows)))])


def _numbers_as_ids(values: np.ndarray) -> Ids:
    return Ids(values, np.empty(0, np.int64), pa.array([], pa.string()))


def _decimal_length(values: np.ndarray) -> np.ndarray:
    """Return int64 (n,): the number of characters of whole numbers in canonical form."""
    size = np.abs(values).view(np.uint64)  # abs of the smallest int64 overflows, but is right as uint64
    return np.searchsorted(POWERS_OF_TEN, size, side="right") + 1 + (values < 0)


def _text_as_ids(text: pa.Array, name: str) -> Ids:
    length = pc.binary_length(text).to_numpy()
    if len(length) and (length.min() == 0 or length.max() > LONGEST_ID):
        what = "is empty" if length.min() == 0 else f"has over {LONGEST_ID} bytes"
        raise BadLine(f"column {name}: an id {what}")
    try:
        values = whole_numbers(text)
        if np.array_equal(_decimal_length(values), length):
            return _numbers_as_ids(values)
    except pa.ArrowInvalid:
        pass  # some are not whole numbers; decide for each
    number = pc.match_substring_regex(text, r"^(0|-?[1-9][0-9]{0,18})$")
    size = pc.utf8_ltrim(text, "-")
    fits = pc.or_(pc.less(pc.binary_length(size), 19), pc.less_equal(size, str(2**63 - 1)))
    fits = pc.or_(fits, pc.equal(text, str(-(2**63))))  # the cast above accepts it too
    number = pc.and_(number, fits).to_numpy(zero_copy_only=False)
    named = np.flatnonzero(~number)
    words = text.take(pa.array(named))
    values = np.empty(len(text), np.int64)
    values[number] = pc.cast(text.filter(pa.array(number)), pa.int64()).to_numpy()
    values[named] = hash_text(words).view(np.int64)
    return Ids(values, named, words)


def whole_numbers(text: pa.Array) -> np.ndarray:
    """Convert text to int64 (n,); raises `pa.ArrowInvalid` for other text and for `0x10`, which Arrow's cast reads."""
    hexadecimal = pc.or_(pc.match_substring(text, "0x"), pc.match_substring(text, "0X"))
    if pc.any(hexadecimal).as_py():
        raise pa.ArrowInvalid(f"not a whole number: '{text.filter(hexadecimal)[0].as_py()}'")
    values: np.ndarray = pc.cast(text, pa.int64()).to_numpy(zero_copy_only=False)
    return values


class NameTable:
    """The texts of hashed ids, collected from a stream of parts."""

    def __init__(self) -> None:
        self._ids, self._check = np.empty(0, np.int64), np.empty(0, np.uint64)
        self._text = pa.array([], pa.large_string())
        self._waiting: list[tuple[np.ndarray, np.ndarray, pa.Array]] = []

    def add(self, ids: np.ndarray, text: pa.Array) -> None:
        """Add ids int64 (n,) and their texts; raises `UserError` if two texts have the same hash."""
        ids, first = np.unique(ids, return_index=True)
        if not len(ids):
            return
        text = text.take(pa.array(first))
        # A second hash detects different texts with equal ids.
        check = hash_text(text, seed=1)
        position = np.searchsorted(self._ids, ids)
        known = self._ids.take(position, mode="clip") == ids if len(self._ids) else np.zeros(len(ids), bool)
        self._compare(check[known], text.filter(pa.array(known)), position[known])
        new = np.flatnonzero(~known)
        self._waiting.append((ids[new], check[new], pc.cast(text.take(pa.array(new)), pa.large_string())))
        # Merge when as many are waiting as are known, so each id is sorted only a few times.
        if sum(len(part[0]) for part in self._waiting) > max(1 << 16, len(self._ids)):
            self._merge()

    def _compare(self, check: np.ndarray, text: pa.Array, position: np.ndarray) -> None:
        differs = np.flatnonzero(check != self._check[position])
        if len(differs):
            one, other = text[int(differs[0])], self._text[int(position[differs[0]])]
            raise UserError(f"the ids {str(one)!r} and {str(other)!r} have the same hash; rename one of them")

    def _merge(self) -> None:
        parts = [(self._ids, self._check, self._text), *self._waiting]
        self._waiting = []
        ids, check = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        text = pa.chunked_array([part[2] for part in parts]).combine_chunks()
        self._ids, first, where = np.unique(ids, return_index=True, return_inverse=True)
        self._check, self._text = check[first], text.take(pa.array(first))
        self._compare(check, text, where)

    def names(self, ids: np.ndarray) -> np.ndarray | None:
        """Return the ids as written, UTF-8 bytes (n,), or None if none of them is a hash of text."""
        self._merge()
        if not len(self._ids):
            return None
        position = np.minimum(np.searchsorted(self._ids, ids), len(self._ids) - 1)
        known = self._ids[position] == ids
        if not known.any():
            return None
        texts = self._text.take(pa.array(position))
        text = pc.if_else(pa.array(known), texts, pc.cast(pa.array(ids), pa.large_string()))
        width = int(pc.max(pc.binary_length(text)).as_py())
        return np.array([name.encode() for name in text.to_pylist()], f"S{width}")


@column_reader("numbers", scatter_rows)
def numbers_of(array: Column, name: str) -> np.ndarray:
    """Convert a column to float64 (n,); raises `BadLine` for a value that is not a finite number."""
    if array.null_count:
        raise BadLine(f"column {name}: '' is not a number")
    try:
        if is_text(array.type):
            array = pc.utf8_trim_whitespace(array)
        values: np.ndarray = pc.cast(array, pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        found = re.search("'(.*)'", first_line(error))
        what = f"'{found[1]}' is not a number" if found else f"{described_type(array.type)} where numbers are expected"
        raise BadLine(f"column {name}: {what}") from None
    if not np.isfinite(values).all():
        raise BadLine(f"column {name}: '{values[~np.isfinite(values)][0]}' is not a finite number")
    return values


def as_float32(values: np.ndarray) -> np.ndarray:
    """Convert numbers to float32; those beyond its range become infinite, without a warning."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32, copy=False)


def float32_numbers(values: np.ndarray, name: str) -> np.ndarray:
    """Convert the finite numbers of a column to float32; raises `BadLine` for one beyond its range."""
    narrow = as_float32(values)
    if not np.isfinite(narrow).all():
        raise BadLine(f"column {name}: {values[~np.isfinite(narrow)][0]} is beyond the range of float32")
    return narrow


def binary_labels(values: np.ndarray, column: str, *, suggest_rule: bool = False) -> np.ndarray:
    """Convert numbers to uint8 labels (n,).

    Args:
        values: (n,) numbers.
        column: the column's name, for the message.
        suggest_rule: add a rule that would make labels of other numbers to the message.

    Raises:
        BadLine: A value is neither 0 nor 1.
    """
    other = values[(values != 0) & (values != 1)]
    if len(other):
        # The rule >= -1 would hold for 0 as well.
        comparison = f">= {other[0]:g}" if other[0] > 0 else "> 0"
        hint = f'; use a rule such as "{column} {comparison}"' if suggest_rule else ""
        raise BadLine(f"column {column}: {other[0]:.15g} where 0 or 1 is expected{hint}")
    return values.astype(np.uint8)


@dataclass(frozen=True)
class Rule:
    """The condition for label 1.

    Attributes:
        column: name of a 0/1 column, or of the compared column; None: every row has label 1.
        compare: a key of `COMPARISONS`; empty for a 0/1 column.
        number: the number that the column is compared with.
    """

    column: str | None
    compare: str = ""
    number: float = 0.0

    def __str__(self) -> str:
        return f"{self.column} {self.compare} {self.number:g}" if self.compare else str(self.column or "true")

    def label(self, column: Column | None) -> np.ndarray:
        """Compute the labels, uint8 (n,); raises `BadLine` for values that are not numbers, or not 0 and 1."""
        assert self.column is not None and column is not None
        values = numbers_of(column, self.column)
        if self.compare:
            return np.asarray(COMPARISONS[self.compare](values, self.number), np.uint8)
        return binary_labels(values, self.column, suggest_rule=True)


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
    """Parse `rating >= 4` or a column's name; raises `ValueError` for a malformed comparison."""
    found = _COMPARISON.fullmatch(text.strip())
    if found:
        return Rule(found[1], found[2], float(found[3]))
    if re.search("[<>=]", text):
        raise ValueError(f"{text!r} is not a rule; write: column, one of {' '.join(COMPARISONS)}, number")
    return Rule(text.strip())


# In scripts without spaces between words, each character is a word.
_UNSPACED = r"([\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}])"
_SEPARATORS = r"[^\p{L}\p{N}]+"


Tokens = tuple[np.ndarray, np.ndarray]
NO_TOKENS: Tokens = (np.empty(0, np.int64), np.empty(0, np.int64))


def _joined_tokens(length: int, parts: list[tuple[np.ndarray, Tokens]]) -> Tokens:
    """Merge the tokens of a column of several types."""
    row = np.concatenate([rows[found[0]] for rows, found in parts])
    order = np.argsort(row, kind="stable")
    return row[order], np.concatenate([found[1] for _, found in parts])[order]


@column_reader("text or lists of tokens", _joined_tokens)
def tokens_of(array: Column, name: str, *, words: bool, separator: str | None = None) -> Tokens:
    """Extract the tokens of a column of text or lists; empty cells and nulls have none.

    Args:
        array: the column.
        name: its name, for messages.
        words: split text, also in lists, into lower-case words. Otherwise split text at spaces and keep each value of
            a list as one token.
        separator: split text at this instead of at spaces.

    Returns:
        int64 row and int64 token of each token.

    Raises:
        BadLine: The column has another type.
    """
    if pa.types.is_null(array.type):
        return NO_TOKENS
    if is_list(array.type):
        row = pc.list_parent_indices(array).to_numpy().astype(np.int64)
        cell, token = _tokens_of_cells(pc.list_flatten(array), name, words=words)
        return row[cell], token
    if pa.types.is_integer(array.type) or (pa.types.is_floating(array.type) and not words):
        return _tokens_of_cells(array, name, words=False)
    if not is_text(array.type):
        raise BadLine(f"column {name}: {described_type(array.type)} where text or lists of tokens are expected")
    if words:
        array = pc.replace_substring_regex(pc.utf8_lower(array), _UNSPACED, r" \1 ")
        array = pc.replace_substring_regex(array, _SEPARATORS, " ")
    array = pc.split_pattern(array, separator) if separator else pc.utf8_split_whitespace(array)
    row = pc.list_parent_indices(array).to_numpy().astype(np.int64)
    cells = pc.utf8_trim_whitespace(pc.list_flatten(array))
    cell, token = _tokens_of_cells(cells, name, words=False)
    return row[cell], token


@column_reader("tokens", _joined_tokens)
def _tokens_of_cells(cells: Column, name: str, *, words: bool) -> Tokens:
    """Return int64 cell and int64 token of the values of lists."""
    if is_text(cells.type) and words:
        return tokens_of(cells, name, words=True)
    filled = pc.is_valid(cells)
    if is_text(cells.type):
        cells = pc.utf8_trim_whitespace(cells)
        filled = pc.and_(filled, pc.fill_null(pc.not_equal(cells, ""), False))
    elif pa.types.is_floating(cells.type):  # pandas writes NaN for missing values
        filled = pc.and_(filled, pc.invert(pc.fill_null(pc.is_nan(cells), True)))
    filled = filled.to_numpy(zero_copy_only=False)
    cells = cells.filter(pa.array(filled))
    if not len(cells):
        return NO_TOKENS
    encoded = cells.dictionary_encode()
    texts = encoded.dictionary
    if is_text(texts.type):
        # A token that is too long for an id is cut; a character has at most 4 bytes.
        long = pc.greater(pc.binary_length(texts), LONGEST_ID)
        texts = pc.if_else(long, pc.utf8_slice_codeunits(texts, 0, LONGEST_ID // 4), texts)
    return np.flatnonzero(filled), ids_of(texts, name).values[encoded.indices.to_numpy()]
