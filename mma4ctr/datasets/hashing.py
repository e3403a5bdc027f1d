"""Hashes of texts, and of the values of any column: what tells two rows apart."""

from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import Column, column_reader, in_place, is_bytes, is_list
from mma4ctr.datasets.base import hash_rows

HASHED_ROWS = 4096
# From this power of two on, a float of so many bytes stands for several whole numbers.
EXACT_FLOATS = {2: 2**11, 4: 2**24, 8: 2**53}


@lru_cache(maxsize=32)
def _multipliers(seed: int, count: int) -> np.ndarray:
    """uint64 (count,), odd; a longer table begins with the shorter one."""
    return np.random.PCG64(seed).random_raw(count) | np.uint64(1)


def hash_text(text: pa.Array, seed: int = 0) -> np.ndarray:
    """uint64 (n,): a hash of each string, or each bytes (Carter and Wegman's multilinear one, mixed); equal for equal
    ones.
    """
    text = pc.cast(text, pa.large_binary() if is_bytes(text.type) else pa.large_string())
    total = np.zeros(len(text), np.uint64)
    if not len(text):
        return total
    offsets = np.frombuffer(text.buffers()[1], np.int64)[text.offset : text.offset + len(text) + 1]
    data = np.frombuffer(text.buffers()[2] or b"", np.uint8)
    # Some strings at a time: eight numbers for each of their bytes stay in the processor's cache.
    for begin in range(0, len(text), HASHED_ROWS):
        bounds = offsets[begin : begin + HASHED_ROWS + 1]
        length = np.diff(bounds)
        filled = np.flatnonzero(length)
        if not len(filled):
            continue
        start = bounds[:-1] - bounds[0]
        numbers = data[bounds[0] : bounds[-1]].astype(np.uint64)
        place = np.arange(len(numbers)) - np.repeat(start, length)
        # Tables of a power of two, so that few are made.
        weights = _multipliers(seed, 1 << int(length.max() - 1).bit_length())
        total[begin + filled] = np.add.reduceat((numbers + np.uint64(1)) * weights[place], start[filled])
    total ^= total >> np.uint64(32)
    total *= np.uint64(0xFF51AFD7ED558CCD)
    return total ^ (total >> np.uint64(29))


@column_reader("values that tell rows apart", in_place)
def hashable(array: Column, name: str) -> np.ndarray:
    """int64 (n,): equal for equal values of a column, whatever its type; nulls of all types are equal."""
    if pa.types.is_integer(array.type) and not array.null_count:
        return pc.cast(array, pa.int64(), safe=False).to_numpy()
    missing = pc.is_null(array).to_numpy(zero_copy_only=False)
    return np.where(missing, hash_text(pa.array(["\0"])).view(np.int64), _hashes(array, name))


def _hashes(array: pa.Array, name: str) -> np.ndarray:
    """int64 (n,) of values that may be null, whose hashes do not count."""
    kind = array.type
    if is_list(kind):
        return _hash_lists(array, name)
    if pa.types.is_struct(kind):
        fields = [hashable(pc.struct_field(array, number), name) for number in range(kind.num_fields)]
        return hash_rows([*fields, np.zeros(len(array), np.int64)]).view(np.int64)
    if is_bytes(kind):
        return hash_text(pc.fill_null(pc.cast(array, pa.large_binary()), b"")).view(np.int64)
    if pa.types.is_integer(kind):
        return pc.cast(pc.fill_null(array, 0), pa.int64(), safe=False).to_numpy()
    hashes = hash_text(pc.fill_null(pc.cast(array, pa.string()), "")).view(np.int64)
    if pa.types.is_floating(kind):
        # 4.0 is 4 as it is among whole numbers: JSON writes one column in both ways.
        values = pc.fill_null(pc.cast(array, pa.float64()), np.nan).to_numpy(zero_copy_only=False)
        as_whole = (values == np.floor(values)) & (np.abs(values) < EXACT_FLOATS[8])
        hashes = np.where(as_whole, np.where(as_whole, values, 0).astype(np.int64), hashes)
    return hashes


def _hash_lists(array: pa.Array, name: str) -> np.ndarray:
    """int64 (n,) of lists: the values in their order, and how many they are."""
    row = pc.list_parent_indices(array).to_numpy().astype(np.int64)
    length = np.bincount(row, minlength=len(array))
    start = np.cumsum(length) - length
    total = hash_rows([length])
    if len(row):
        place = np.arange(len(row)) - start[row]
        weights = _multipliers(1, 1 << int(length.max() - 1).bit_length())
        values = hash_rows([hashable(pc.list_flatten(array), name)]) * weights[place]
        filled = np.flatnonzero(length)
        total[filled] ^= np.add.reduceat(values, start[filled])
    return hash_rows([total.view(np.int64)]).view(np.int64)
