"""Columns beside content: categories and numbers that may be missing, of any file."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import Column, column_reader, is_text, scatter_rows
from mma4ctr.datasets.base import MISSING
from mma4ctr.datasets.columns import Ids, concatenate_ids, float32_numbers, ids_of, joined_ids, numbers_of


def _missing(array: pa.Array) -> np.ndarray:
    """Bool (n,): null, NaN, or text without characters."""
    missing = pc.is_null(array, nan_is_null=True)
    if is_text(array.type):
        missing = pc.or_(missing, pc.fill_null(pc.equal(pc.utf8_trim_whitespace(array), ""), True))
    found: np.ndarray = missing.to_numpy(zero_copy_only=False)
    return found


@column_reader("categories", joined_ids)
def categories_of(array: Column, name: str) -> Ids:
    """Categories as ids; one that is null, NaN or empty is `MISSING`.

    Args:
        array: A column of integers, text, booleans, dates, or floats without decimals.
        name: Its name, for messages.

    Raises:
        BadLine: For a value that cannot be an id.
    """
    missing = _missing(array)
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.string())
    rows, filled = np.flatnonzero(missing), np.flatnonzero(~missing)
    if not len(rows):
        return ids_of(array, name)
    none = Ids(np.full(len(rows), MISSING, np.int64), np.empty(0, np.int64), pa.array([], pa.string()))
    given = ids_of(array.take(pa.array(filled)), name) if len(filled) else concatenate_ids([])
    return joined_ids(len(array), [(filled, given), (rows, none)])


@column_reader("numbers", scatter_rows)
def amounts_of(array: Column, name: str) -> np.ndarray:
    """Numbers as float64 (n,), each within the range of float32, as step 1 stores them; null, NaN or empty is NaN.

    Args:
        array: A column of numbers or of text.
        name: Its name, for messages.

    Raises:
        BadLine: For text that is no number, for infinity, for a number beyond float32 and for dates.
    """
    missing = _missing(array)
    values = np.full(len(array), np.nan)
    filled = np.flatnonzero(~missing)
    if len(filled):
        values[filled] = numbers_of(array.take(pa.array(filled)), name)
        float32_numbers(values[filled], name)
    return values
