"""Arrays with a value for each row of a log: in memory if they are small, else in files mapped into memory.

A compiled pass reads and writes a mapped array like any other. `RowArrays.parts` walks the rows in parts and lets go of
each part's pages when the pass is through with it: they stay in the system's file cache as far as there is room, but no
longer count as memory of the process. So memory does not grow with the rows.
"""

import math
import mmap
import os
import tempfile
import threading
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from mma4ctr.runtime.parallel import slices
from mma4ctr.storage.arrays import read_header

# Arrays with more bytes are mapped.
LARGEST_IN_MEMORY = 1 << 23
# The pages of arrays stay, oldest arrays first, up to so many bytes: mapping pages again takes time in every pass. With
# 256 MB in place of 671 step 4 of WeChat at full size (features plus) takes 1.3 times as long.
MOST_RESIDENT = 5 << 27
# Rows of a part.
ROWS_AT_A_TIME = 1 << 20


class RowArrays:
    """Makes and opens arrays of rows.

    Args:
        folder: For temporary files, which have no name; None keeps all arrays in memory.
    """

    def __init__(self, folder: Path | None = None) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        # Bytes of a row, and of the header of the file, for each mapped array that is in use.
        self._mapped: weakref.WeakKeyDictionary[mmap.mmap, tuple[int, int]] = weakref.WeakKeyDictionary()

    def __reduce__(self) -> tuple[Any, ...]:
        """On another machine there is another folder, and sent arrays are in memory."""
        return RowArrays, ()

    def empty(self, shape: tuple[int, ...], dtype: Any) -> np.ndarray:
        """A new array whose values are undefined, or 0 if it is mapped.

        Raises:
            OSError: The disk is full.
        """
        dtype = np.dtype(dtype)
        size = math.prod(shape) * dtype.itemsize
        if self._folder is None or size <= LARGEST_IN_MEMORY:
            return np.empty(shape, dtype)
        self._folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=self._folder) as file:
            # Without space on the disk a write to a mapped page would kill the process.
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.truncate(size)
            mapped = mmap.mmap(file.fileno(), size)
        return self._array(mapped, 0, shape, dtype)

    def open(self, path: Path) -> np.ndarray:
        """The array in a `.npy` file, which must not change; nor must the array be written to, if it is mapped."""
        with path.open("rb") as file:
            shape, fortran, dtype = read_header(file)
            start, size = file.tell(), math.prod(shape) * dtype.itemsize
            if self._folder is None or size <= LARGEST_IN_MEMORY or fortran:
                return np.fromfile(file, dtype, math.prod(shape)).reshape(shape, order="F" if fortran else "C")
            mapped = mmap.mmap(file.fileno(), start + size, access=mmap.ACCESS_COPY)
        return self._array(mapped, start, shape, dtype)

    def _array(self, mapped: mmap.mmap, start: int, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        with self._lock:
            self._mapped[mapped] = (dtype.itemsize * math.prod(shape[1:]), start)
        return np.frombuffer(mapped, dtype, math.prod(shape), start).reshape(shape)

    def largest(self, values: np.ndarray) -> int:
        """The largest of whole numbers (rows,), none of them negative; 0 if there are none."""
        return max((int(values[part].max()) for part in self.parts(len(values))), default=0)

    def parts(self, rows: int | Iterable[slice]) -> Iterator[slice]:
        """Yield parts of all rows; after each, its pages are let go of.

        Args:
            rows: Number of rows, for parts of `ROWS_AT_A_TIME`; or the parts.
        """
        for part in slices(rows, ROWS_AT_A_TIME) if isinstance(rows, int) else rows:
            yield part
            self.release(part)
        self.release()  # arrays of other rows, which have a part elsewhere

    def release(self, part: slice | None = None) -> None:
        """Let go of the pages of some rows, or of all rows, of the mapped arrays beyond `MOST_RESIDENT` bytes.

        No value changes.
        """
        with self._lock:
            mapped = list(self._mapped.items())
        resident = 0
        for one, (row_bytes, header) in mapped:
            if resident + len(one) <= MOST_RESIDENT:
                resident += len(one)
                continue
            first, last = (0, len(one)) if part is None else (header + row_bytes * at for at in (part.start, part.stop))
            start = first - first % mmap.PAGESIZE
            last = min(last, len(one))
            if start < last and hasattr(one, "madvise"):
                one.madvise(mmap.MADV_DONTNEED, start, last - start)


IN_MEMORY = RowArrays()
