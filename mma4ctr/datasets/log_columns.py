"""Columns beside content: categories and numbers that may be missing, of any file."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import Column, column_reader, missing_cells, scatter_rows
from mma4ctr.datasets.base import MISSING
from mma4ctr.datasets.columns import Ids, float32_numbers, ids_or_missing, joined_ids, numbers_of


@column_reader("categories", joined_ids)
def categories_of(array: Column, name: str) -> Ids:
    """Categories as ids; one that is null, NaN or empty is `MISSING`.

    Args:
        array: A column of integers, text, booleans, dates, or floats without decimals.
        name: Its name, for messages.

    Raises:
        BadLine: For a value that cannot be an id.
    """
    if pa.types.is_boolean(array.type):
        array = pc.cast(array, pa.string())
    return ids_or_missing(
        array, name, lambda count: Ids(np.full(count, MISSING), np.empty(0, np.int64), pa.array([], pa.string()))
    )


@column_reader("numbers", scatter_rows)
def amounts_of(array: Column, name: str) -> np.ndarray:
    """Numbers as float64 (n,), each within the range of float32, as step 1 stores them; null, NaN or empty is NaN.

    Args:
        array: A column of numbers or of text.
        name: Its name, for messages.

    Raises:
        BadLine: For text that is no number, for infinity, for a number beyond float32 and for dates.
    """
    missing = missing_cells(array, name)
    values = np.full(len(array), np.nan)
    filled = np.flatnonzero(~missing)
    if len(filled):
        values[filled] = numbers_of(array.take(pa.array(filled)), name)
        float32_numbers(values[filled], name)
    return values
