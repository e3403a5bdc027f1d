"""Raw ids: the distinct ids of a stream, and the position of an id in a table."""

import numpy as np


class IdCollector:
    """Collects the distinct ids of a stream."""

    _LARGEST_FLAG = 1 << 26

    def __init__(self) -> None:
        self._flags = np.zeros(0, bool)
        self._others = np.empty(0, np.int64)

    def add(self, ids: np.ndarray) -> None:
        """Add ids int64 (n,); small ones are flagged in a table, about ten times faster than sorting."""
        small = (ids >= 0) & (ids < self._LARGEST_FLAG)
        if not small.all():
            self._others = np.union1d(self._others, ids[~small])
            ids = ids[small]
        needed = int(ids.max(initial=-1)) + 1
        if needed > len(self._flags):
            self._flags = np.concatenate([self._flags, np.zeros(needed - len(self._flags), bool)])
        self._flags[ids] = True

    def ids(self) -> np.ndarray:
        """Return the distinct ids, int64, sorted."""
        return np.union1d(np.flatnonzero(self._flags), self._others).astype(np.int64)


class IdIndex:
    """Maps raw ids to their positions in a sorted array of ids.

    A lookup table is about five times faster than binary search; it is used if the range of ids is small enough.

    Args:
        ids: int64, sorted, distinct.
    """

    _LARGEST_TABLE = 1 << 26  # entries of 4 bytes

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids
        self._table: np.ndarray | None = None
        self._low = int(ids[0]) if len(ids) else 0
        span = int(ids[-1]) - self._low + 1 if len(ids) else 0
        if 0 < span <= min(self._LARGEST_TABLE, 64 * len(ids) + (1 << 16)):
            self._table = np.full(span + 1, -1, np.int32)
            self._table[ids - self._low] = np.arange(len(ids), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, values: np.ndarray) -> np.ndarray:
        """Return int32 (n,): the position of each value, or -1."""
        if self._table is not None:
            # Values outside the range use the last entry, which is -1. The ids themselves are compared, because the
            # difference of two distant ids overflows 64 bits.
            outside = (values < self.ids[0]) | (values > self.ids[-1])
            return self._table[np.where(outside, len(self._table) - 1, values - self._low)]
        if not len(self.ids):
            return np.full(len(values), -1, np.int32)
        place = np.minimum(np.searchsorted(self.ids, values), len(self.ids) - 1)
        return np.where(self.ids[place] == values, place, -1).astype(np.int32)
