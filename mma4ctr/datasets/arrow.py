"""Arrow columns in the few forms that the readers know, and errors of libraries as bad lines of a file.

A column of JSON may hold values of several types. It is a dense union then, one child a type, and a reader reads each
child by itself. So what a value means depends on nothing but the value: not on the lines beside it, and not on where
a block of lines happens to end.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import wraps
from typing import Any, Concatenate, ParamSpec, TypeAlias, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.text_blocks import LONGEST_LINE

P = ParamSpec("P")
T = TypeVar("T")
# An array of pyarrow, or a chunked one; pyarrow has no types for mypy.
Column: TypeAlias = Any
# What pyarrow, numpy and orjson raise for values that they refuse; their decoding errors are ValueErrors. A TypeError
# of Python itself is a fault of this program and not among them.
LIBRARY_ERRORS = (pa.ArrowException, ValueError, OverflowError)
# A value of JSON that no reader looks into (an object, a list of lists): its text, which tells rows apart.
OPAQUE = pa.struct([("json", pa.string())])


def whole(column: Column) -> pa.Array:
    """One array of the column's chunks in its plain layout: dictionaries, extensions and views are taken apart.

    Raises `BadLine` for a layout that pyarrow cannot take apart, and for a cell of over 64 MB.
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
            array = whole(array.dictionary).take(array.indices)  # pyarrow's own way has no views
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
    """Whether a column holds text."""
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def is_list(kind: pa.DataType) -> bool:
    """Whether a column holds lists."""
    return pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind)


def is_bytes(kind: pa.DataType) -> bool:
    """Whether a column holds bytes that need be no text."""
    return pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind)


def described_type(kind: pa.DataType) -> str:
    """What a column of a type holds, in words for messages."""
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
    return next((words for holds, words in known if holds(kind)), str(kind))


def shown_value(array: pa.Array) -> str:
    """The first value of an array for messages, whatever its type; Python cannot hold every timestamp."""
    if not len(array):
        return "nothing"
    try:
        return repr(array[0].as_py() if is_text(array.type) else str(array[0]))
    except LIBRARY_ERRORS:
        return f"a value of the type {array.type}"


def parts_of_union(array: pa.UnionArray) -> Iterator[tuple[np.ndarray, pa.Array]]:
    """The rows (int64) of each type in a dense union, and their values."""
    codes, offsets = np.asarray(array.type_codes), np.asarray(array.offsets)
    for number in range(array.type.num_fields):
        rows = np.flatnonzero(codes == number)
        if len(rows):
            yield rows, array.field(number).take(pa.array(offsets[rows]))


def in_place(length: int, parts: Sequence[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """Arrays of some rows each as one array (length,) or (length, width) of all rows."""
    first = parts[0][1]
    joined = np.zeros((length, *first.shape[1:]), first.dtype)
    for rows, values in parts:
        joined[rows] = values
    return joined


Reader: TypeAlias = Callable[Concatenate[Column, str, P], T]


def column_reader(
    expected: str, join: Callable[[int, list[tuple[np.ndarray, T]]], T]
) -> Callable[[Reader[P, T]], Reader[P, T]]:
    """Make a function of (array, column's name, ...) a reader of any column.

    This is the one place where an error of a library becomes a `BadLine` that names the column.

    Args:
        expected: what the column should hold, for the message.
        join: from the length of a column of several types, and for each type its rows and the result of its values,
            to the result of the column.
    """

    def decorate(function: Reader[P, T]) -> Reader[P, T]:
        @wraps(function)
        def read(column: Column, name: str, /, *args: P.args, **options: P.kwargs) -> T:
            try:
                array = whole(column)
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
    """Raises `BadLine` for a column whose values are damaged, such as text that is not UTF-8.

    Files of Parquet are not checked where they are read, and pyarrow's functions each do what they like with them.
    """
    for name in table.column_names:
        try:
            table[name].validate(full=True)
        except LIBRARY_ERRORS as error:
            what = "bytes that are not UTF-8 text" if "UTF8" in str(error) else f"damaged values ({first_line(error)})"
        else:
            continue
        raise BadLine(f"column {name}: {what}")


def first_line(error: Exception) -> str:
    """The first line of a library's message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
