"""Arrays of item vectors, one row per item, and of item ids: NumPy, HDF5 and safetensors files.

An archive (`.npz`, `.h5`, `.hdf5`, `.safetensors`) has the vectors in `value` and the ids in `key`, as in the
embeddings of the BARS benchmarks. If the ids stand in another file, the vectors are `value`, or its only array.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.arrow import LIBRARY_ERRORS
from mma4ctr.datasets.base import DenseChunk
from mma4ctr.datasets.columns import Ids, as_float32, ids_of
from mma4ctr.datasets.table_readers import RowRange
from mma4ctr.runtime.errors import BadLine, UserError, first_line

# Rows of a .npy file in a chunk; about as many as in a text block with the same vectors, so sums are the same.
ARRAY_ROWS = 16_384


# The arrays of an archive.
KEY, VALUE = "key", "value"
# Types of safetensors that numpy lacks; text encoders often write bfloat16.
_NOT_OF_NUMPY = ("BF16", "F8_E4M3", "F8_E5M2")


class Rows(Protocol):
    """An array of rows that is read in slices: of NumPy, HDF5 or safetensors."""

    def __getitem__(self, rows: slice) -> np.ndarray:
        """Return some rows."""


@dataclass(frozen=True)
class VectorFile:
    """The vectors of a file, and their ids if the file has them.

    Attributes:
        path: The file.
        values: The vectors, read in slices.
        shape: Number of vectors and of numbers in each.
        key: The ids (n,); None if they stand elsewhere.
    """

    path: Path
    values: Rows
    shape: tuple[int, int]
    key: np.ndarray | None = None


def is_archive(name: str) -> bool:
    """Return whether a file name is that of an archive, which has the ids beside the vectors."""
    return Path(name).suffix.lower() in _ARCHIVES


def vector_file(path: Path, *, with_ids: bool = True) -> VectorFile:
    """Open a file of vectors.

    Args:
        path: The file; its suffix tells the format.
        with_ids: An archive must have the ids too; otherwise the ids stand elsewhere, and those in it are not read.

    Returns:
        The vectors, of which nothing is read yet, except from `.npz`, and the ids.

    Raises:
        UserError: The file is damaged or of another format, lacks an array, or an array is not what it must be.
    """
    if not is_archive(path.name):
        values = array_file(path)
        return VectorFile(path, values, (values.shape[0], values.shape[1]))
    with _errors_of(path):
        arrays = _ARCHIVES[path.suffix.lower()](path)
        ids = None
        if with_ids:
            advice = "write the ids as key, the vectors as value, or name a file of ids with ids = ..."
            key, value = (_chosen(path, arrays, name, advice) for name in (KEY, VALUE))
            _check_array(path, f"{KEY}: ", 1, key.dtype, key.shape)
            ids = np.asarray(key[:])
        else:
            value = _chosen(path, arrays, VALUE, "write the vectors as value", or_only=True)
        _check_array(path, f"{VALUE}: ", 2, value.dtype, value.shape)
    if ids is not None and len(ids) != value.shape[0]:
        raise UserError(f"{path}: key has {len(ids):,} ids and value {value.shape[0]:,} rows; each id needs one row")
    return VectorFile(path, value, (value.shape[0], value.shape[1]), ids)


def id_array(path: Path) -> np.ndarray:
    """Return the ids (n,) of a `.npy` file, or of an archive: its `key`, or its only array; raises `UserError`."""
    if not is_archive(path.name):
        return array_file(path, dimensions=1)
    with _errors_of(path):
        key = _chosen(path, _ARCHIVES[path.suffix.lower()](path), KEY, "write the ids as key", or_only=True)
        _check_array(path, "", 1, key.dtype, key.shape)
        return np.asarray(key[:])


@contextmanager
def _errors_of(path: Path) -> Iterator[None]:
    """Raise `UserError` for what the libraries raise for a file that is damaged or of another format.

    They raise many types: numpy alone `ValueError`, `EOFError`, `BadZipFile`, `zlib.error` and `TokenError`.
    """
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:
        kind = path.suffix[1:] if is_archive(path.name) else "an array"
        raise UserError(f"{path}: cannot be read as {kind} ({first_line(error)})") from None


def _chosen(path: Path, arrays: dict[str, Any], name: str, advice: str, *, or_only: bool = False) -> Any:
    """Return the array of a name, or the only array if that is enough; raises `UserError` if there is none."""
    if name in arrays:
        return arrays[name]
    if or_only and len(arrays) == 1:
        return next(iter(arrays.values()))
    raise UserError(f"{path}: has no array {name!r} (its arrays: {', '.join(arrays) or 'none'}); {advice}")


@dataclass(frozen=True)
class _Lazy:
    """An array of an archive.

    Attributes:
        dtype: Its type; `U` for text.
        shape: Its shape.
        read: Reads some rows.
    """

    dtype: np.dtype
    shape: tuple[int, ...]
    read: Callable[[slice], np.ndarray]

    def __getitem__(self, rows: slice) -> np.ndarray:
        return self.read(rows)


def _npz(path: Path) -> dict[str, Any]:
    found = np.load(path, allow_pickle=False)
    if isinstance(found, np.ndarray):
        raise ValueError("it is a single array, a .npy file")
    with found:
        return {name: found[name] for name in found.files}


def _hdf5(path: Path) -> dict[str, _Lazy]:
    import h5py

    arrays = {}
    for name, dataset in h5py.File(path, "r").items():
        if not isinstance(dataset, h5py.Dataset):
            continue
        if h5py.check_string_dtype(dataset.dtype):
            arrays[name] = _Lazy(np.dtype("U"), dataset.shape, partial(_text_of, dataset))
        else:
            arrays[name] = _Lazy(dataset.dtype, dataset.shape, dataset.__getitem__)
    return arrays


def _text_of(dataset: Any, rows: slice) -> np.ndarray:
    found: np.ndarray = dataset.asstr()[rows].astype(str)
    return found


def _safetensors(path: Path) -> dict[str, _Lazy]:
    from safetensors import safe_open

    file = safe_open(path, "np")
    arrays = {}
    for name in file.keys():  # noqa: SIM118 (it is not a dictionary)
        tensor = file.get_slice(name)
        shape = tuple(tensor.get_shape())
        if tensor.get_dtype() in _NOT_OF_NUMPY:
            arrays[name] = _Lazy(np.dtype(np.float32), shape, partial(_through_torch, path, name))
        else:
            arrays[name] = _Lazy(tensor[:0].dtype, shape, tensor.__getitem__)
    return arrays


def _through_torch(path: Path, name: str, rows: slice) -> np.ndarray:
    """Read some rows of numbers of a type that numpy lacks, as float32."""
    from safetensors import safe_open

    found: np.ndarray = safe_open(path, "pt").get_slice(name)[rows].float().numpy()
    return found


_ARCHIVES: dict[str, Callable[[Path], dict[str, Any]]] = {
    ".npz": _npz,
    ".h5": _hdf5,
    ".hdf5": _hdf5,
    ".safetensors": _safetensors,
}


def array_file(path: Path, dimensions: int = 2) -> np.ndarray:
    """Memory-map a `.npy` file.

    Args:
        path: the file.
        dimensions: 2 for vectors, 1 for ids.

    Returns:
        The array.

    Raises:
        UserError: The file is not an array of numbers, or of ids, with these dimensions.
    """
    with _errors_of(path):
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    if not isinstance(found, np.ndarray):
        raise UserError(f"{path}: is an archive (.npz), not an array; save one array as .npy")
    _check_array(path, "", dimensions, found.dtype, found.shape)
    return found


def _check_array(path: Path, where: str, dimensions: int, kind: np.dtype, shape: tuple[int, ...]) -> None:
    """Raise `UserError` if an array is not one of vectors (2 dimensions) or of ids (1 dimension)."""
    kinds = "fiu" if dimensions == 2 else "iufUS"
    if len(shape) != dimensions or kind.kind not in kinds or not all(shape[1:]):
        expected = "numbers, one row per item" if dimensions == 2 else "ids, one per item"
        raise UserError(f"{path}: {where}must contain {expected}, not {kind} {tuple(shape)}")


def checked_ids(path: Path, array: np.ndarray) -> Ids:
    """Convert an array to ids; raises `UserError` for values that are not ids."""
    try:
        if array.dtype.kind == "S":
            native = np.char.decode(array, "utf-8")
        else:  # pyarrow reads no bytes in the other order, which HDF5 and NumPy can hold
            native = array.astype(array.dtype.newbyteorder("="), copy=False)
        return ids_of(pa.array(native), "ids")
    except (BadLine, *LIBRARY_ERRORS) as error:
        raise UserError(f"{path}: {first_line(error)}") from None


def array_chunks(file: VectorFile, ids: Ids) -> Iterator[DenseChunk]:
    """Yield the vectors of a file with their ids in chunks; raises `UserError` for NaN or overflow."""
    path, values, width = file.path, file.values, file.shape[1]
    text = ids.shown() if len(ids.named) else None
    for start in range(0, file.shape[0], ARRAY_ROWS):
        with _errors_of(path):
            part = np.ascontiguousarray(as_float32(values[start : min(start + ARRAY_ROWS, file.shape[0])]))
        broken = np.flatnonzero(~np.isfinite(part).all(axis=1))
        if len(broken):
            row = start + int(broken[0])
            raise UserError(f"{path}: row {row} (from 0) contains NaN or a number beyond float32; correct the array")
        stop = start + len(part)
        yield DenseChunk(
            RowRange(path, start, stop, stop),
            ids.values[start:stop],
            part,
            np.full(len(part), width, np.int32),
            np.arange(len(part)),
            None if text is None else text[start:stop],
        )
