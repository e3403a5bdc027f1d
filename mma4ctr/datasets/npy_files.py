"""NumPy `.npy` files of item vectors, one row per item, and of item ids."""

from collections.abc import Iterator
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.base import DenseChunk
from mma4ctr.datasets.columns import Ids, ids_of
from mma4ctr.datasets.table_readers import RowRange
from mma4ctr.runtime.errors import BadLine, UserError

# Rows of a .npy file in a chunk; about as many as in a text block with the same vectors, so sums are the same.
ARRAY_ROWS = 16_384


def array_file(path: Path, dimensions: int = 2) -> np.ndarray:
    """Memory-map a `.npy` file.

    Args:
        path: the file.
        dimensions: 2 for vectors, 1 for ids.

    Raises:
        UserError: The file is not an array of numbers, or of ids, with these dimensions.
    """
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as an array ({str(error).splitlines()[0]})") from None
    if not isinstance(found, np.ndarray):  # an .npz archive
        names = ", ".join(map(repr, found.files))
        raise UserError(f"{path}: is an archive (.npz) of the arrays {names or '(none)'}; save one array as .npy")
    kinds = "fiu" if dimensions == 2 else "iufUS"
    valid = found.ndim == dimensions and found.dtype.kind in kinds
    if not valid or not all(found.shape[1:]):
        expected = "numbers, one row per item" if dimensions == 2 else "ids, one per item"
        raise UserError(f"{path}: must contain {expected}, not {found.dtype} {found.shape}")
    return found


def checked_ids(path: Path, array: np.ndarray) -> Ids:
    """Convert an array to ids; raises `UserError` for values that are not ids."""
    try:
        return ids_of(pa.array(array.astype(str) if array.dtype.kind == "S" else array), "ids")
    except (BadLine, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None


def array_chunks(path: Path, values: np.ndarray, ids: Ids) -> Iterator[DenseChunk]:
    """Yield the rows of an array (items, width) with their ids in chunks; raises `UserError` for NaN or overflow."""
    text = ids.shown() if len(ids.named) else None
    for start in range(0, len(values), ARRAY_ROWS):
        with np.errstate(over="ignore"):
            part = np.ascontiguousarray(values[start : start + ARRAY_ROWS], np.float32)
        broken = np.flatnonzero(~np.isfinite(part).all(axis=1))
        if len(broken):
            row = start + int(broken[0])
            raise UserError(f"{path}: row {row} (from 0) contains NaN or a number beyond float32; correct the array")
        stop = start + len(part)
        yield DenseChunk(
            RowRange(path, start, stop, stop),
            ids.values[start:stop],
            part,
            np.full(len(part), values.shape[1], np.int32),
            np.arange(len(part)),
            None if text is None else text[start:stop],
        )
