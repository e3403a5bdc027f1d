"""Columns from what users did before their first row (data/histories.py).

    history[user, item] = sum of x_j / (n + PRIOR) over the n items j of the user's history, times x_item

where x is the leading columns of the content. It says how near an item is to what the user chose before. Beside it
stand log(1 + n), and log(1 + m) with m the users with training rows in whose histories an item is.
"""

from dataclasses import dataclass

import numpy as np

from mma4ctr.features.behavioral.content_factors import FACTORS_WIDTH
from mma4ctr.features.behavioral.row_passes import sums_of_item_vectors
from mma4ctr.features.behavioral.signals import starts_of
from mma4ctr.features.behavioral.tables import Vectors

# Pseudo-count that shrinks short histories towards nothing.
PRIOR = 3.0
USER_NAMES, ITEM_NAMES, PAIR_NAMES = ("history:user",), ("history:item",), ("history",)


@dataclass(frozen=True)
class History:
    """Pairs of a user and an item that it chose before its first row.

    Attributes:
        user: int32 (pairs,), in order.
        item: int32 (pairs,).
    """

    user: np.ndarray
    item: np.ndarray

    def counts(self, trained: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
        """float32 (users, 1) and float32 (items, 1): log(1 + pairs).

        Args:
            trained: bool (users,), whether a user has training rows. Items are counted in their histories only: those
                of other users may be of the time of the test rows.
            items: Number of items.
        """
        of_user = np.bincount(self.user, minlength=len(trained))
        of_item = np.bincount(self.item[trained[self.user]], minlength=items)
        return np.log1p(of_user).astype(np.float32)[:, None], np.log1p(of_item).astype(np.float32)[:, None]

    def vectors(self, users: int, content: np.ndarray) -> Vectors:
        """float32 (users, 1, k) and (items, k), given the content float32 (items, width)."""
        leading = np.ascontiguousarray(content[:, :FACTORS_WIDTH])
        starts = starts_of(self.user, users)
        sums = sums_of_item_vectors(starts, self.item, np.ones((len(self.item), 1), np.float32), leading)
        return sums / (np.diff(starts)[:, None, None] + np.float32(PRIOR)).astype(np.float32), leading

    def of_content(self, width: int) -> np.ndarray:
        """float32 (width + 1, k): the vector of a new item is its content and a 1 times this matrix."""
        return np.eye(width + 1, min(width, FACTORS_WIDTH), dtype=np.float32)
