"""What users did before their first row of a log, from a column that lists earlier items.

Later entries of such a column are rows of the log again. The list of a user's first row is not: the rows behind it are
absent. It is older than every row of the user, so no feature made from it sees a label.
"""

import numpy as np

from mma4ctr.datasets.base import Histories, InteractionChunk, first_rows
from mma4ctr.datasets.id_index import IdIndex

# Listed items and rows that are gathered before those of later rows are dropped, unless more are kept.
LEAST_MERGED = 1 << 22


def joined(parts: list[Histories]) -> Histories:
    """Several histories as one."""
    firsts = np.cumsum([0, *(len(part.user) for part in parts)])
    return Histories(
        np.concatenate([part.user for part in parts]),
        np.concatenate([part.time for part in parts]),
        np.concatenate([part.row + first for part, first in zip(parts, firsts, strict=False)]),
        np.concatenate([part.item for part in parts]),
    )


def of_first_rows(given: Histories) -> Histories:
    """The histories of each user's first row."""
    rows = first_rows(given.user, given.time)
    place = np.full(len(given.user), -1)
    place[rows] = np.arange(len(rows))
    kept = place[given.row] >= 0
    return Histories(given.user[rows], given.time[rows], place[given.row[kept]], given.item[kept])


def _size(histories: Histories) -> int:
    """Number of listed items and of rows, which may list none."""
    return len(histories.item) + len(histories.user)


class FirstHistories:
    """Gathers the histories of the users' first rows from chunks of a log."""

    def __init__(self) -> None:
        self._found: list[Histories] = []
        self._waiting = 0

    def add(self, chunk: InteractionChunk) -> None:
        """Add those of a chunk."""
        if chunk.histories is None:
            return
        self._found.append(of_first_rows(chunk.histories))
        self._waiting += _size(self._found[-1])
        if self._waiting > max(LEAST_MERGED, 2 * _size(self._found[0])):
            self._found = [of_first_rows(joined(self._found))]
            self._waiting = 0

    def pairs(self, items: IdIndex) -> tuple[np.ndarray, np.ndarray, int] | None:
        """The distinct pairs of a user and an item of its history.

        Args:
            items: The items of the log.

        Returns:
            int32 (pairs,) users in order, int32 (pairs,) positions of items, and the number of pairs whose item has no
            row; None without histories.
        """
        if not self._found:
            return None
        whole = of_first_rows(joined(self._found))
        item = items.positions(whole.item)
        unknown = int(np.count_nonzero(item < 0))
        user, item = whole.user[whole.row][item >= 0], item[item >= 0]
        pairs = np.unique(user.astype(np.int64) * max(len(items), 1) + item)
        users, places = np.divmod(pairs, max(len(items), 1))
        return users.astype(np.int32), places.astype(np.int32), unknown
