"""Arrays in `.npy` files: written row by row, and read in slices without a memory map."""

import math
import os
import tempfile
import threading
from pathlib import Path
from typing import Any, BinaryIO, Self, cast

import numpy as np


def write_values(file: Any, values: np.ndarray) -> None:
    """Write the bytes of an array; unlike `ndarray.tofile`, errors keep their cause (no space left, file too large)."""
    file.write(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)


# Held while the header of an array is read: numpy evaluates it with `ast`, which fails now and then when threads do so
# at the same time (SystemError: AST constructor recursion depth mismatch, CPython 3.11.7).
_HEADERS = threading.Lock()


def read_header(file: BinaryIO) -> tuple[tuple[int, ...], bool, np.dtype]:
    """Read the header of a `.npy` file; returns shape, whether the order is Fortran's, and dtype."""
    with _HEADERS:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        header: tuple[tuple[int, ...], bool, np.dtype] = read(file)
    return header


class ArrayStream:
    """A `.npy` file that grows by rows; the header gets the final shape when the file is closed."""

    def __init__(self, path: Path, dtype: np.dtype, row_shape: tuple[int, ...] = ()) -> None:
        self.rows = 0
        self._dtype = np.dtype(dtype)
        self._row_shape = row_shape
        self._file: BinaryIO = path.open("wb")
        self._header_bytes = self._write_header()

    def _write_header(self) -> int:
        # numpy pads the header for a growing first dimension, so its length does not depend on `rows`.
        header = {
            "descr": np.lib.format.dtype_to_descr(self._dtype),
            "fortran_order": False,
            "shape": (self.rows, *self._row_shape),
        }
        self._file.seek(0)
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def append(self, values: np.ndarray) -> None:
        """Add rows; `values` is cast to the stream's dtype."""
        write_values(self._file, np.asarray(values, dtype=self._dtype))
        self.rows += len(values)

    def close(self) -> None:
        """Write the final shape; nothing more can be appended. Closing twice is harmless."""
        if self._file.closed:
            return
        if self._write_header() != self._header_bytes:
            raise AssertionError("the .npy header grew")
        self._file.close()


class StoredArray:
    """An array in a file whose slices of rows are read, and in a `scratch` array written, on demand by any thread.

    Unlike the pages of a memory map, slices do not stay in the process's memory. The file may be renamed or unlinked
    while the array is open.
    """

    def __init__(self, file: BinaryIO, start: int, shape: tuple[int, ...], dtype: np.dtype) -> None:
        self._file, self._start = file, start
        self.shape, self.dtype = shape, dtype
        self._row_bytes = dtype.itemsize * math.prod(shape[1:])
        self._position = threading.Lock()

    @classmethod
    def of(cls, path: Path) -> Self:
        """Open the array in a `.npy` file."""
        file = path.open("rb")
        shape, _, dtype = read_header(file)
        return cls(file, file.tell(), shape, dtype)

    @classmethod
    def scratch(cls, folder: Path, shape: tuple[int, ...], dtype: Any) -> Self:
        """Create an array in an unnamed temporary file; rows must be written before they are read."""
        folder.mkdir(parents=True, exist_ok=True)
        return cls(cast(BinaryIO, tempfile.TemporaryFile(dir=folder, buffering=0)), 0, shape, np.dtype(dtype))

    def __len__(self) -> int:
        return self.shape[0]

    def _bytes_of(self, rows: slice) -> tuple[int, int]:
        """Return the number of rows of a slice and their byte offset in the file."""
        start, stop, step = rows.indices(len(self))
        if step != 1:
            raise IndexError("only slices with step 1 are supported")
        return max(0, stop - start), self._start + start * self._row_bytes

    def __getitem__(self, rows: slice) -> np.ndarray:
        count, offset = self._bytes_of(rows)
        values = np.empty((count, *self.shape[1:]), self.dtype)
        rest = memoryview(values.reshape(-1).view(np.uint8).data)
        while rest:
            done = self._read_at(rest, offset)
            if not done:
                raise OSError(f"{self._file.name}: the file ends before its last row")
            rest, offset = rest[done:], offset + done
        return values

    def __setitem__(self, rows: slice, values: np.ndarray) -> None:
        count, offset = self._bytes_of(rows)
        if values.shape != (count, *self.shape[1:]) or values.dtype != self.dtype:
            raise ValueError(f"{values.dtype} {values.shape} for {count} rows of {self.dtype} {self.shape}")
        rest = memoryview(np.ascontiguousarray(values).reshape(-1).view(np.uint8).data)
        while rest:
            done = self._write_at(rest, offset)
            rest, offset = rest[done:], offset + done

    # preadv and pwrite need no lock; Windows lacks them and has one position per file.
    def _read_at(self, into: memoryview, offset: int) -> int:
        if hasattr(os, "preadv"):
            return os.preadv(self._file.fileno(), [into], offset)
        with self._position:
            self._file.seek(offset)
            return int(self._file.readinto(into))  # type: ignore[attr-defined]

    def _write_at(self, values: memoryview, offset: int) -> int:
        if hasattr(os, "pwrite"):
            return os.pwrite(self._file.fileno(), values, offset)
        with self._position:
            self._file.seek(offset)
            return self._file.write(values)
