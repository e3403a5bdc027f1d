"""Hashes of text and of column values, which distinguish rows."""

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import Column, column_reader, is_bytes, is_list, scatter_rows
from mma4ctr.datasets.base import hash_rows

HASHED_ROWS = 4096
# By bytes of a float: the magnitude from which it cannot represent every whole number.
EXACT_FLOATS = {2: 2**11, 4: 2**24, 8: 2**53}


@lru_cache(maxsize=32)
def _multipliers(seed: int, count: int) -> np.ndarray:
    """Return odd random uint64 (count,); a longer table starts with the shorter one."""
    return np.random.PCG64(seed).random_raw(count) | np.uint64(1)


def hash_text(text: pa.Array, seed: int = 0) -> np.ndarray:
    """Hash strings or bytes with the multilinear hash of Carter and Wegman, and a final mix.

    Args:
        text: an array of strings or bytes without nulls.
        seed: selects the hash function.

    Returns:
        uint64 (n,), equal for equal values.
    """
    text = pc.cast(text, pa.large_binary() if is_bytes(text.type) else pa.large_string())
    total = np.zeros(len(text), np.uint64)
    if not len(text):
        return total
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    data = np.frombuffer(text.buffers()[2] or b"", np.uint8)
    # In parts, because the temporary arrays take eight times the bytes of the text and should stay in the cache.
    for begin in range(0, len(text), HASHED_ROWS):
        bounds = offsets[begin : begin + HASHED_ROWS + 1]
        length = np.diff(bounds)
        filled = np.flatnonzero(length)
        if not len(filled):
            continue
        start = bounds[:-1] - bounds[0]
        numbers = data[bounds[0] : bounds[-1]].astype(np.uint64)
        position = np.arange(len(numbers)) - np.repeat(start, length)
        # Table sizes are powers of two, so few tables are created.
        weights = _multipliers(seed, 1 << int(length.max() - 1).bit_length())
        total[begin + filled] = np.add.reduceat((numbers + np.uint64(1)) * weights[position], start[filled])
    total ^= total >> np.uint64(32)
    total *= np.uint64(0xFF51AFD7ED558CCD)
    return total ^ (total >> np.uint64(29))


@column_reader("values that distinguish rows", scatter_rows)
def hash_values(array: Column, name: str) -> np.ndarray:
    """Hash a column of any type to int64 (n,): equal for equal values, and for nulls of all types."""
    if pa.types.is_integer(array.type) and not array.null_count:
        return pc.cast(array, pa.int64(), safe=False).to_numpy()
    missing = pc.is_null(array).to_numpy(zero_copy_only=False)
    return np.where(missing, hash_text(pa.array(["\0"])).view(np.int64), _hashes(array, name))


def _hashes(array: pa.Array, name: str) -> np.ndarray:
    """Return int64 (n,); the hashes of nulls are arbitrary."""
    kind = array.type
    if is_list(kind):
        return _hash_lists(array, name)
    if pa.types.is_struct(kind):
        fields = [hash_values(pc.struct_field(array, number), name) for number in range(kind.num_fields)]
        return hash_rows([*fields, np.zeros(len(array), np.int64)]).view(np.int64)
    if is_bytes(kind):
        return hash_text(pc.fill_null(pc.cast(array, pa.large_binary()), b"")).view(np.int64)
    if pa.types.is_integer(kind):
        return pc.cast(pc.fill_null(array, 0), pa.int64(), safe=False).to_numpy()
    hashes = hash_text(pc.fill_null(pc.cast(array, pa.string()), "")).view(np.int64)
    if pa.types.is_floating(kind):
        # 4.0 gets the hash of 4: JSON may write both in one column.
        values = pc.fill_null(pc.cast(array, pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        as_whole = (values == np.floor(values)) & (np.abs(values) < EXACT_FLOATS[8])
        hashes = np.where(as_whole, np.where(as_whole, values, 0).astype(np.int64), hashes)
    return hashes


def _hash_lists(array: pa.Array, name: str) -> np.ndarray:
    """Hash lists to int64 (n,) by their values in order and their length."""
    row = pc.list_parent_indices(array).to_numpy().astype(np.int64)
    length = np.bincount(row, minlength=len(array))
    start = np.cumsum(length) - length
    total = hash_rows([length])
    if len(row):
        position = np.arange(len(row)) - start[row]
        weights = _multipliers(1, 1 << int(length.max() - 1).bit_length())
        values = hash_rows([hash_values(pc.list_flatten(array), name)]) * weights[position]
        filled = np.flatnonzero(length)
        total[filled] ^= np.add.reduceat(values, start[filled])
    return hash_rows([total.view(np.int64)]).view(np.int64)
