"""Smoothed rates of users, items, item categories and pairs of categories, as log-odds with a count.

    rate = logit((positives + PRIOR * share) / (rows + PRIOR)) - logit(share)

over the training rows of a code, `share` the positives' share of all training rows. Beside the effects of the additive
model (effects.py), which separate causes, a rate says what is observed, and the count how much of it there is. Pairs
are kept sparse: only those that occur in the log have a code.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.special import logit

from mma4ctr.data.interactions import LogRows, each_sum_of_others
from mma4ctr.features.behavioral.row_passes import add_counts
from mma4ctr.runtime.parallel import slices
from mma4ctr.storage.row_arrays import IN_MEMORY, RowArrays

# Pseudo-count of the prior. On real impressions 3, 10 and 30 gave the same validation AUC within 0.0003.
PRIOR = 10.0
# Pairs have rates if the log has so many rows for each of them, since with fewer most rows have no other row of their
# pair; and if they are at most so many, which bounds the memory for their rates: 24 bytes a pair and column.
ROWS_A_PAIR, MOST_PAIRS = 2.0, 1 << 24
# A table of all possible pairs (5 bytes each) is made if they are at most so many, and so many a row; else the rows'
# pairs are sorted, part by part.
POSSIBLE_PAIRS, POSSIBLE_A_ROW = 1 << 28, 16
# Pairs of parts that are merged at once, unless more have been found before.
LEAST_MERGED = 1 << 22
# Pairs are found in a table of all possible pairs (4 bytes each) if they are at most so many for each pair that is
# there, else by binary search.
POSSIBLE_A_PAIR = 64
# Codes whose rates are made at a time.
CODES_AT_A_TIME = 1 << 18


@dataclass(frozen=True)
class RowCodes:
    """A code for each row of the log, by which it looks up its columns.

    Attributes:
        category: Name of the category.
        side: `user` or `item` for pairs with the category; empty for the category itself.
        of: Whose category it is: `context`, the row's own, `item`, or `content`, the cluster of the item's content.
        codes: Unsigned (rows,).
        size: Number of codes.
        keys: int64 (size - 1,), sorted keys `entity * categories + category` of the codes of a pair from 1 on; code 0
            is for pairs that are not there. Empty for a category.
        categories: Number of codes of the category.
    """

    category: str
    side: str
    of: str
    codes: np.ndarray
    size: int
    keys: np.ndarray
    categories: int

    @property
    def name(self) -> str:
        """The category, with `<side> x` before it for pairs, and what it belongs to if that is not the row."""
        category = self.category if self.of == "context" else f"{self.of} {self.category}"
        return f"{self.side} x {category}" if self.side else category

    @cached_property
    def code_of_key(self) -> np.ndarray | None:
        """int32 (largest key + 1,), the code of each key, 0 for pairs that are not there; None if it would be large."""
        possible = int(self.keys[-1]) + 1
        if possible > POSSIBLE_A_PAIR * len(self.keys):
            return None
        table = np.zeros(possible, np.int32)
        table[self.keys] = np.arange(1, len(self.keys) + 1)
        return table


def category_codes(category: str, codes: np.ndarray, arrays: RowArrays = IN_MEMORY) -> RowCodes:
    """The codes of a context category itself."""
    size = arrays.largest(codes) + 1
    return RowCodes(category, "", "context", codes, size, np.empty(0, np.int64), size)


class _Keys:
    """Keys `entity * categories + category` of rows, made part by part.

    Args:
        entity: int (rows,), users or items.
        category: Integers (rows,), or (items,) codes that the rows look up by `item`.
        item: int (rows,); None for codes of the rows.
        arrays: Makes arrays of rows.
    """

    def __init__(self, entity: np.ndarray, category: np.ndarray, item: np.ndarray | None, arrays: RowArrays) -> None:
        self._entity, self._category, self._item, self.arrays = entity, category, item, arrays
        self.categories = (arrays.largest(category) if item is None else int(category.max(initial=0))) + 1
        self._possible = (arrays.largest(entity) + 1) * self.categories
        # Without sorting, which takes several times the memory of the rows.
        self._tabled = self._possible <= min(POSSIBLE_PAIRS, POSSIBLE_A_ROW * len(entity))

    def __len__(self) -> int:
        return len(self._entity)

    def of(self, part: slice) -> np.ndarray:
        """int64 (part,)."""
        category = self._category[part] if self._item is None else self._category[self._item[part]]
        return self._entity[part].astype(np.int64) * self.categories + category

    def found(self, most: int) -> np.ndarray | None:
        """int64 (pairs,), the keys that rows have, sorted; None if they are more than `most`."""
        if self._tabled:
            present = np.zeros(self._possible, bool)
            for part in self.arrays.parts(len(self)):
                present[self.of(part)] = True
            return np.flatnonzero(present) if np.count_nonzero(present) <= most else None
        found, waiting = np.empty(0, np.int64), [np.empty(0, np.int64)]
        for part in self.arrays.parts(len(self)):
            waiting.append(np.unique(self.of(part)))
            if sum(map(len, waiting)) > max(len(found), LEAST_MERGED):
                found, waiting = np.unique(np.concatenate([found, *waiting])), []
                if len(found) > most:
                    return None
        found = np.unique(np.concatenate([found, *waiting]))
        return found if len(found) <= most else None

    def codes(self, keys: np.ndarray) -> np.ndarray:
        """uint32 (rows,): 1 + the place of each row's key."""
        made = self.arrays.empty((len(self),), np.uint32)
        table = np.zeros(self._possible if self._tabled else 0, np.uint32)
        if self._tabled:
            table[keys] = np.arange(1, len(keys) + 1, dtype=np.uint32)
        for part in self.arrays.parts(len(self)):
            wanted = self.of(part)
            made[part] = table[wanted] if self._tabled else np.searchsorted(keys, wanted) + 1
        return made


def pair_codes(
    log: LogRows, side: str, name: str, category: np.ndarray, of: str = "context", rows_a_pair: float = ROWS_A_PAIR
) -> RowCodes | None:
    """Codes of the observed pairs of users or items with a category; see `RowCodes`.

    Args:
        log: All kept rows.
        side: `user` or `item`.
        name: Of the category.
        category: Integers (rows,), or, of a category of the item, (items,).
        of: Whose category it is.
        rows_a_pair: Rows for each pair that the log must have.

    Returns:
        The codes; None if there are fewer rows for each pair, or more than `MOST_PAIRS` pairs.
    """
    entity = log.user if side == "user" else log.item
    keys = _Keys(entity, category, None if of == "context" else log.item, log.arrays)
    found = keys.found(min(MOST_PAIRS, int(len(log) / rows_a_pair)))
    if found is None:
        return None
    return RowCodes(name, side, of, keys.codes(found), len(found) + 1, found, keys.categories)


def find_pairs(codes: RowCodes, entity: np.ndarray, category: np.ndarray) -> np.ndarray:
    """int32 or int64 (n,): the codes of pairs; 0 for those that are not there."""
    if not len(codes.keys):
        return np.zeros(len(entity), np.int64)
    wanted = entity.astype(np.int64) * codes.categories + category
    if codes.code_of_key is not None:
        there = (category < codes.categories) & (wanted < len(codes.code_of_key))
        return np.where(there, codes.code_of_key[np.where(there, wanted, 0)], 0)
    place = np.minimum(np.searchsorted(codes.keys, wanted), len(codes.keys) - 1)
    return np.where((codes.keys[place] == wanted) & (category < codes.categories), place + 1, 0)


def rates_and_counts(
    codes: np.ndarray,
    size: int,
    labels: Sequence[np.ndarray],
    fold: np.ndarray,
    folds: int,
    arrays: RowArrays = IN_MEMORY,
) -> np.ndarray:
    """The columns of all blocks.

    Args:
        codes: Integers (n,), codes of the training rows.
        size: Number of codes.
        labels: For each target, uint8 (n,) of 0 and 1.
        fold: uint8 (n,), 0 ... folds - 1.
        folds: Number of folds.
        arrays: Lets go of rows that have been read.

    Returns:
        float32 (folds + 1, size, targets + 1): the rates, and log(1 + rows). Block f is made without the rows of fold
        f, the last block from all rows. The counts of the others are scaled to the number of all rows.
    """
    made = np.empty((folds + 1, size, len(labels) + 1), np.float32)

    def counted(label: np.ndarray) -> np.ndarray:
        """int32 (2, folds, size), rows and positives of each fold."""
        counts = np.zeros((2, folds, size), np.int32)
        for part in arrays.parts(len(codes)):
            add_counts(fold[part], codes[part], label[part], counts)
        return counts

    rows_by_fold = counted(fold)[0].copy()
    scale = [folds / max(folds - 1, 1)] * folds + [1]
    for block, rows in enumerate(each_sum_of_others(rows_by_fold)):
        made[block, :, -1] = np.log1p(scale[block] * rows)
    for column, label in enumerate(labels):
        both = each_sum_of_others(rows_by_fold), each_sum_of_others(counted(label)[1])
        for block, (rows, positives) in enumerate(zip(*both, strict=True)):
            share = (positives.sum() + 0.5) / (rows.sum() + 1)
            for some in slices(size, CODES_AT_A_TIME):
                rate = (positives[some] + PRIOR * share) / (rows[some] + PRIOR)
                made[block, some, column] = logit(rate) - logit(share)
    return made
