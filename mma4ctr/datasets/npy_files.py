"""Arrays of numpy as files: vectors of items, a row for each, and their ids."""

from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.base import DenseChunk
from mma4ctr.datasets.columns import Ids, ids_of
from mma4ctr.datasets.table_readers import RowRange
from mma4ctr.runtime.errors import BadLine, UserError

# RowRange of a .npy file at a time; as many as the block of a text file that held them, so that sums are the same.
ARRAY_ROWS = 16_384


def array_file(path: Path, dimensions: int = 2) -> np.ndarray:
    """A `.npy` file, memory-mapped; raises `UserError` for what is no array of numbers of that shape."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as an array ({str(error).splitlines()[0]})") from None
    if not isinstance(found, np.ndarray):  # an archive of several
        names = ", ".join(map(repr, found.files))
        raise UserError(f"{path}: is an archive (.npz) of the arrays {names or 'none'}; save one array as .npy")
    kinds = "fiu" if dimensions == 2 else "iufUS"
    right = found.ndim == dimensions and found.dtype.kind in kinds
    if not right or not all(found.shape[1:]):
        what = "numbers, a row for each item" if dimensions == 2 else "ids, one for each item"
        raise UserError(f"{path}: must hold {what}, and is {found.dtype} {found.shape}")
    return found


def checked_ids(path: Path, array: np.ndarray) -> Ids:
    """An array's ids; raises `UserError`."""
    try:
        return ids_of(pa.array(array.astype(str) if array.dtype.kind == "S" else array), "ids")
    except (BadLine, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None


def array_chunks(path: Path, values: np.ndarray, ids: Ids) -> Iterator[DenseChunk]:
    """The rows of an array (items, width) with their ids, some at a time; raises `UserError` for what is no number."""
    text = ids.shown() if len(ids.named) else None
    for start in range(0, len(values), ARRAY_ROWS):
        with np.errstate(over="ignore"):
            part = np.ascontiguousarray(values[start : start + ARRAY_ROWS], np.float32)
        broken = np.flatnonzero(~np.isfinite(part).all(axis=1))
        if len(broken):
            row = start + int(broken[0])
            raise UserError(f"{path}: row {row} (from 0) holds a number that float32 cannot hold, or none")
        stop = start + len(part)
        yield DenseChunk(
            RowRange(path, start, stop, stop),
            ids.values[start:stop],
            part,
            np.full(len(part), values.shape[1], np.int32),
            np.arange(len(part)),
            None if text is None else text[start:stop],
        )
