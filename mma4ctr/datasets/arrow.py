"""Arrow columns in the few layouts that the readers know, and library errors converted to bad lines.

A JSON column may contain values of several types. It becomes a dense union with one child per type, and each child is
read separately. So the meaning of a value depends on the value alone, not on neighbouring lines or block boundaries.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.runtime.errors import BadLine, first_line
from mma4ctr.storage.text_blocks import LONGEST_LINE

P = ParamSpec("P")
T = TypeVar("T")
# A pyarrow array or chunked array; pyarrow has no type stubs.
Column: TypeAlias = Any
# Exceptions of pyarrow, numpy and orjson for values that they refuse; decoding errors are ValueErrors. A TypeError is a
# bug in this program and not included.
LIBRARY_ERRORS = (pa.ArrowException, ValueError, OverflowError)
# A JSON value that is not parsed further (an object, a list of lists): its text, which distinguishes rows.
OPAQUE = pa.struct([("json", pa.string())])


def plain_array(column: Column) -> pa.Array:
    """Combine a column's chunks into one array, with dictionaries, extensions and views decoded.

    Raises:
        BadLine: pyarrow cannot decode the layout, or a cell has over 64 MB.
    """
    try:
        return _plain(column)
    except BadLine:
        raise
    except LIBRARY_ERRORS as error:
        reason = first_line(error)
    raise BadLine(f"values of the type {column.type} cannot be read ({reason})")


def _plain(column: Column) -> pa.Array:
    array = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(array, pa.ChunkedArray):  # strings of over 2 GB
        raise BadLine("a block of over 2 GB of text")
    while True:
        kind = array.type
        if isinstance(array, pa.ExtensionArray):
            array = array.storage
        elif pa.types.is_dictionary(kind):
            array = plain_array(array.dictionary).take(array.indices)  # pyarrow cannot decode a dictionary of views
        elif pa.types.is_run_end_encoded(kind):
            array = pc.run_end_decode(array)
        elif pa.types.is_string_view(kind):
            array = pc.cast(array, pa.large_string())
        elif pa.types.is_binary_view(kind):
            array = pc.cast(array, pa.large_binary())
        elif pa.types.is_list_view(kind) or pa.types.is_large_list_view(kind):
            array = pa.array(array.to_pylist(), pa.list_(kind.value_type))
        else:
            break
    large = (is_text(kind) or is_bytes(kind)) and array.nbytes > LONGEST_LINE
    if large and pc.max(pc.binary_length(array)).as_py() > LONGEST_LINE:
        raise BadLine(f"a cell of over {LONGEST_LINE >> 20} MB")
    return array


def is_text(kind: pa.DataType) -> bool:
    """Return whether a column contains text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_list(kind: pa.DataType) -> bool:
    """Return whether a column contains lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Return whether a column contains bytes, which need not be text."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def described_type(kind: pa.DataType) -> str:
    """Describe the content of a column, for messages."""
    known: list[tuple[Callable[[pa.DataType], bool], str]] = [
        (pa.types.is_null, "nothing"),
        (pa.types.is_boolean, "true and false"),
        (pa.types.is_integer, "whole numbers"),
        (pa.types.is_floating, "numbers"),
        (pa.types.is_decimal, "numbers"),
        (pa.types.is_struct, "objects or nested lists" if kind == OPAQUE else "structs"),
        (is_text, "text"),
        (is_bytes, "bytes"),
    ]
    if is_list(kind):
        return "nested lists" if is_list(kind.value_type) else f"lists of {described_type(kind.value_type)}"
    return next((text for matches, text in known if matches(kind)), str(kind))


def shown_value(array: pa.Array) -> str:
    """Format the first value of an array of any type for messages; not every timestamp fits Python's types."""
    if not len(array):
        return "nothing"
    try:
        return repr(array[0].as_py() if is_text(array.type) else str(array[0]))
    except LIBRARY_ERRORS:
        return f"a value of the type {array.type}"


def parts_of_union(array: pa.UnionArray) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """Yield the rows (int64) of each type in a dense union, and their values."""
    codes, offsets = np.asarray(array.type_codes), np.asarray(array.offsets)
    for number in range(array.type.num_fields):
        rows = np.flatnonzero(codes == number)
        if len(rows):
            yield rows, array.field(number).take(pa.array(offsets[rows]))


def scatter_rows(length: int, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Merge parts, each with row numbers and their values, into one array (length,) or (length, width)."""
    first = parts[0][1]
    joined = np.zeros((length, *first.shape[1:]), first.dtype)
    for rows, values in parts:
        joined[rows] = values
    return joined


Reader: TypeAlias = Callable[Concatenate[Column, str, P], T]


def column_reader(
    expected: str, join: Callable[[int, list[tuple[np.ndarray, T]]], T]
) -> Callable[[Reader[P, T]], Reader[P, T]]:
    """Extend a function of (array, column name, ...) to columns of any layout.

    This decorator alone converts library errors to a `BadLine` with the column's name.

    Args:
        expected: the expected content, for the message.
        join: merges the results of a column of several types, from its length and the (rows, result) of each type.

    Returns:
        The decorator.
    """

    def decorate(function: Reader[P, T]) -> Reader[P, T]:
        @wraps(function)
        def read(column: Column, name: str, /, *args: P.args, **options: P.kwargs) -> T:
            try:
                array = plain_array(column)
                if pa.types.is_union(array.type):
                    parts = [(rows, read(part, name, *args, **options)) for rows, part in parts_of_union(array)]
                    if parts:
                        return join(len(array), parts)
                    array = pa.nulls(0)
                return function(array, name, *args, **options)
            except BadLine:
                raise
            except LIBRARY_ERRORS:
                kind = column.type
            raise BadLine(f"column {name}: {described_type(kind)} where {expected} are expected")

        return read

    return decorate


def check_text(table: pa.Table) -> None:
    """Raise `BadLine` for damaged values, such as text that is not UTF-8.

    pyarrow does not validate the values of a Parquet file, and its functions treat invalid ones inconsistently.
    """
    for name in table.column_names:
        try:
            table[name].validate(full=True)
        except LIBRARY_ERRORS as error:
            what = "bytes that are not UTF-8 text" if "UTF8" in str(error) else f"damaged values ({first_line(error)})"
        else:
            continue
        raise BadLine(f"column {name}: {what}")


@column_reader("values", scatter_rows)
def missing_cells(array: Column, name: str) -> np.ndarray:
    """Return bool (n,): whether a cell is null, NaN or text of blanks."""
    missing = pc.is_null(array, nan_is_null=True)
    if is_text(array.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(array), ""), True))
    found: np.ndarray = missing.to_numpy(zero_copy_only=False)
    return found
