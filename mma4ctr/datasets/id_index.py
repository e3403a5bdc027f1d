"""Raw ids: the distinct ones of a stream, and from an id to its position."""

import numpy as np


class IdCollector:
    """The distinct ids of a stream of parts."""

    _LARGEST_FLAG = 1 << 26

    def __init__(self) -> None:
        self._flags = np.zeros(0, bool)
        self._others = np.empty(0, np.int64)

    def add(self, ids: np.ndarray) -> None:
        """Take in int64 (n,). Small ids are flagged, which is some ten times faster than sorting them."""
        small = (ids >= 0) & (ids < self._LARGEST_FLAG)
        if not small.all():
            self._others = np.union1d(self._others, ids[~small])
            ids = ids[small]
        needed = int(ids.max(initial=-1)) + 1
        if needed > len(self._flags):
            self._flags = np.concatenate([self._flags, np.zeros(needed - len(self._flags), bool)])
        self._flags[ids] = True

    def ids(self) -> np.ndarray:
        """int64, sorted, distinct."""
        return np.union1d(np.flatnonzero(self._flags), self._others).astype(np.int64)


class IdIndex:
    """From raw ids to their positions in a sorted id table.

    A direct table is some five times faster than a binary search for each id, so it is used where the range
    of ids is small enough.
    """

    _LARGEST_TABLE = 1 << 26  # entries of 4 bytes

    def __init__(self, ids: np.ndarray) -> None:
        """`ids`: int64, sorted, distinct."""
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
        """int32 position of each value, -1 where it is not in the table."""
        if self._table is not None:
            # Everything outside of the range goes to the last entry, which is -1. What is compared are the ids: the
            # difference of two that are far apart does not fit into 64 bits.
            outside = (values < self.ids[0]) | (values > self.ids[-1])
            return self._table[np.where(outside, len(self._table) - 1, values - self._low)]
        if not len(self.ids):
            return np.full(len(values), -1, np.int32)
        place = np.minimum(np.searchsorted(self.ids, values), len(self.ids) - 1)
        return np.where(self.ids[place] == values, place, -1).astype(np.int32)
