"""Item vectors from columns of lists, numbers, or text such as `0.1 0.2` or `[0.1, 0.2]`."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import Column, column_reader, described_type, is_list, is_text
from mma4ctr.datasets.columns import float32_numbers, numbers_of
from mma4ctr.runtime.errors import BadLine

# Each kind of separator is replaced by one character before the text is checked.
SPACED_COMMA = "\x01"
_SEPARATORS = ((r"\s*;\s*", ";"), (r"\s+,\s*|,\s+", SPACED_COMMA), (r"\s+", " "))
# Text in which a comma may be a decimal comma, or a space a thousands separator. RE2 has no lookahead or lookbehind.
AMBIGUOUS = (
    # two kinds of separators: 0,12 0,34 or 0,12;0,34 or 1 234.5;2 000.1
    rf" .*[;,{SPACED_COMMA}]|[;,{SPACED_COMMA}].* |;.*[,{SPACED_COMMA}]|[,{SPACED_COMMA}].*;",
    # commas with a space, and commas next to a whole number without one: 0,12, 0,34
    rf"{SPACED_COMMA}(.*[{SPACED_COMMA},])?[+-]?[0-9]+,|,[+-]?[0-9]+{SPACED_COMMA}",
    rf"^[+-]?[0-9]+,.*{SPACED_COMMA}|{SPACED_COMMA}.*,[+-]?[0-9]+$|,[+-]?[0-9]+,.*{SPACED_COMMA}",
    # decimals or thousands with leading zeros: 0,05,0,07 or 2,000.1
    r"(^|,)[+-]?0[0-9]+([,.]|$)",
)
# One number with a decimal comma, or two numbers.
PAIR = r"^[+-]?[0-9]+,[0-9]+$"
HINT = "its commas or spaces can be read in two ways; write 0.12 0.34 or [0.12, 0.34]"


def vectors_of(columns: list[tuple[str, Column]], width: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Convert columns to vectors.

    Args:
        columns: (name, column): one column of lists or of text such as `0.1 0.2` or `[0.1, 0.2]`, or several columns
            of numbers.
        width: the required length; None: the length of the first vector.

    Returns:
        float32 (n, width) vectors, and int32 (n,) their lengths: `width`, or 0 for an empty cell.

    Raises:
        BadLine: A vector has another length or a value that is not a finite number, or text is ambiguous.
    """
    name, first = columns[0]
    if len(columns) == 1:
        return _vectors(first, name, width)
    numbers = np.stack([float32_numbers(numbers_of(column, name), name) for name, column in columns], axis=1)
    return _as_vectors(numbers.ravel(), np.full(len(numbers), len(columns)), name, width)


Vectors = tuple[np.ndarray, np.ndarray]


def _joined(rows: int, parts: list[tuple[np.ndarray, Vectors]]) -> Vectors:
    """Merge the vectors of a column of several types."""
    width = max(values.shape[1] for _, (values, _) in parts)
    vectors, length = np.zeros((rows, width), np.float32), np.zeros(rows, np.int32)
    for part_rows, (values, lengths) in parts:
        vectors[part_rows, : values.shape[1]], length[part_rows] = values, lengths
    return vectors, length


@column_reader("lists of numbers", _joined)
def _vectors(array: Column, name: str, width: int | None) -> Vectors:
    if pa.types.is_null(array.type):
        return np.zeros((len(array), width or 0), np.float32), np.zeros(len(array), np.int32)
    if is_text(array.type):
        array = _lists_in_text(array, name)
    if not is_list(array.type):
        return _as_vectors(numbers_of(array, name), np.ones(len(array), np.int64), name, width)
    if is_list(array.type.value_type):
        raise BadLine(f"column {name}: {described_type(array.type)} where lists of numbers are expected")
    length = pc.fill_null(pc.list_value_length(array), 0).to_numpy()
    return _as_vectors(numbers_of(pc.list_flatten(array), name), length, name, width)


def _lists_in_text(array: pa.Array, name: str) -> pa.Array:
    """Split text into lists of texts with one number each; raises `BadLine` for ambiguous text."""
    array = pc.fill_null(array, "")
    # Lists as Python and JSON write them have a space after each comma and nowhere else; they are never ambiguous.
    if pc.any(pc.match_substring_regex(array, r",[^\s]|[^,\s]\s+,|;")).as_py() or (
        pc.any(pc.match_substring(array, ",")).as_py() and pc.any(pc.match_substring_regex(array, r"[^,\s]\s")).as_py()
    ):
        _refuse_ambiguous(array, name)
    text = pc.utf8_trim_whitespace(pc.replace_substring_regex(array, r"[\[\]\s,;]+", " "))
    lists = pc.split_pattern(text, " ")
    # Splitting an empty text gives one empty part instead of none.
    return pc.if_else(pc.equal(text, ""), pa.scalar([], lists.type), lists)


def _refuse_ambiguous(array: pa.Array, name: str) -> None:
    """Raise `BadLine` for text whose commas or spaces can be read in two ways."""
    text = pc.utf8_trim_whitespace(array)
    bare = pc.utf8_trim_whitespace(pc.replace_substring_regex(text, r"[\[\]]+", " "))
    for pattern, character in _SEPARATORS:
        bare = pc.replace_substring_regex(bare, pattern, character)
    wrong = pc.match_substring_regex(bare, "|".join(f"(?:{pattern})" for pattern in AMBIGUOUS))
    pair = pc.and_(pc.match_substring_regex(bare, PAIR), pc.invert(pc.starts_with(text, "[")))
    found = array.filter(pc.or_(wrong, pair))
    if len(found):
        raise BadLine(f"column {name}: {found[0].as_py()[:60]!r}: {HINT}")


def _as_vectors(numbers: np.ndarray, length: np.ndarray, name: str, width: int | None) -> Vectors:
    """Build vectors from the concatenated numbers of all vectors and their lengths."""
    filled = np.flatnonzero(length)
    if width is None:
        width = int(length[filled[0]]) if len(filled) else 0
    other = length[filled][length[filled] != width]
    if len(other):
        raise BadLine(f"column {name}: a list of {other[0]} numbers where {width} are expected")
    vectors = np.zeros((len(length), width), np.float32)
    if width:
        vectors[filled] = float32_numbers(numbers, name).reshape(-1, width)
    return vectors, length.astype(np.int32)
