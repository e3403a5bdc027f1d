"""Smoothed rates of users, items, item categories and pairs with a context category, as log-odds with a count.

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

from mma4ctr.data.interactions import sums_of_others
from mma4ctr.features.behavioral.row_passes import counts_by_fold
from mma4ctr.runtime.parallel import slices

# Pseudo-count of the prior. On real impressions 3, 10 and 30 gave the same validation AUC within 0.0003.
PRIOR = 10.0
# Rows whose keys are in memory at a time.
ROWS_AT_A_TIME = 1 << 20
# A table of all possible pairs (5 bytes each) is made if they are at most so many, and so many a row; else the rows'
# pairs are sorted.
POSSIBLE_PAIRS, POSSIBLE_A_ROW = 1 << 28, 16
# Pairs are found in a table of all possible pairs (4 bytes each) if they are at most so many for each pair that is
# there, else by binary search.
POSSIBLE_A_PAIR = 64


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


def category_codes(category: str, codes: np.ndarray) -> RowCodes:
    """The codes of a context category itself."""
    size = int(codes.max(initial=0)) + 1
    return RowCodes(category, "", "context", codes, size, np.empty(0, np.int64), size)


def pair_codes(side: str, name: str, entity: np.ndarray, category: np.ndarray, of: str = "context") -> RowCodes:
    """Codes of the observed pairs of users or items (rows,) with a category (rows,); see `RowCodes`."""
    categories = int(category.max(initial=0)) + 1
    possible = (int(entity.max(initial=0)) + 1) * categories
    if possible > min(POSSIBLE_PAIRS, POSSIBLE_A_ROW * len(entity)):
        keys, found = np.unique(entity.astype(np.int64) * categories + category, return_inverse=True)
        return RowCodes(name, side, of, (found + 1).astype(np.uint32), len(keys) + 1, keys, categories)
    # Without sorting, which takes several times the memory of the rows.
    present = np.zeros(possible, bool)
    codes = np.empty(len(entity), np.uint32)
    parts = list(slices(len(entity), ROWS_AT_A_TIME))
    for part in parts:
        present[entity[part].astype(np.int64) * categories + category[part]] = True
    code = np.cumsum(present, dtype=np.uint32)
    for part in parts:
        codes[part] = code[entity[part].astype(np.int64) * categories + category[part]]
    keys = np.flatnonzero(present)
    return RowCodes(name, side, of, codes, len(keys) + 1, keys, categories)


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
    codes: np.ndarray, size: int, labels: Sequence[np.ndarray], fold: np.ndarray, folds: int
) -> np.ndarray:
    """The columns of all blocks.

    Args:
        codes: Integers (n,), codes of the training rows.
        size: Number of codes.
        labels: For each target, uint8 (n,) of 0 and 1.
        fold: uint8 (n,), 0 ... folds - 1.
        folds: Number of folds.

    Returns:
        float32 (folds + 1, size, targets + 1): the rates, and log(1 + rows). Block f is made without the rows of fold
        f, the last block from all rows. The counts of the others are scaled to the number of all rows.
    """
    made = np.empty((folds + 1, size, len(labels) + 1), np.float32)
    rows = sums_of_others(counts_by_fold(fold, folds, codes, size, fold)[0])
    for column, label in enumerate(labels):
        positives = sums_of_others(counts_by_fold(fold, folds, codes, size, label)[1])
        for block in range(folds + 1):
            share = (positives[block].sum() + 0.5) / (rows[block].sum() + 1)
            rate = logit((positives[block] + PRIOR * share) / (rows[block] + PRIOR)) - logit(share)
            made[block, :, column] = rate
    scale = np.full(folds + 1, folds / max(folds - 1, 1))
    scale[-1] = 1
    made[:, :, -1] = np.log1p(scale[:, None] * rows)
    return made
