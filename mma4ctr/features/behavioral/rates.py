"""Smoothed rates of users, items, item categories and pairs with a context category, as log-odds with a count.

    rate = logit((positives + PRIOR * share) / (rows + PRIOR)) - logit(share)

over the training rows of a code, `share` the positives' share of all training rows. Beside the effects of the additive
model (effects.py), which separate causes, a rate says what is observed, and the count how much of it there is. Pairs
are kept sparse: only those that occur in the log have a code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import logit

# Pseudo-count of the prior. On real impressions 3, 10 and 30 gave the same validation AUC within 0.0003.
PRIOR = 10.0


@dataclass(frozen=True)
class RowCodes:
    """A code for each row of the log, by which it looks up its columns.

    Attributes:
        category: Name of the context category.
        side: `user` or `item` for pairs with the category; empty for the category itself.
        codes: Unsigned (rows,).
        size: Number of codes.
        keys: int64 (size - 1,), sorted keys `entity * categories + category` of the codes of a pair from 1 on; code 0
            is for pairs that are not there. Empty for a category.
        categories: Number of codes of the category.
    """

    category: str
    side: str
    codes: np.ndarray
    size: int
    keys: np.ndarray
    categories: int

    @property
    def name(self) -> str:
        """`<side> x <category>` for pairs, else the category."""
        return f"{self.side} x {self.category}" if self.side else self.category


def category_codes(category: str, codes: np.ndarray) -> RowCodes:
    """The codes of a context category itself."""
    size = int(codes.max(initial=0)) + 1
    return RowCodes(category, "", codes, size, np.empty(0, np.int64), size)


def pair_codes(side: str, name: str, entity: np.ndarray, category: np.ndarray) -> RowCodes:
    """Codes of the observed pairs of users or items (rows,) with a category (rows,)."""
    categories = int(category.max(initial=0)) + 1
    keys, codes = np.unique(entity.astype(np.int64) * categories + category, return_inverse=True)
    return RowCodes(name, side, (codes + 1).astype(np.uint32), len(keys) + 1, keys, categories)


def find_pairs(codes: RowCodes, entity: np.ndarray, category: np.ndarray) -> np.ndarray:
    """int64 (n,): the codes of pairs; 0 for those that are not there."""
    if not len(codes.keys):
        return np.zeros(len(entity), np.int64)
    wanted = entity.astype(np.int64) * codes.categories + category
    place = np.minimum(np.searchsorted(codes.keys, wanted), len(codes.keys) - 1)
    return np.where((codes.keys[place] == wanted) & (category < codes.categories), place + 1, 0)


def rates_and_counts(codes: np.ndarray, size: int, labels: Sequence[np.ndarray], scale: float) -> np.ndarray:
    """The columns of one block.

    Args:
        codes: int (n,) codes of the block's rows.
        size: Number of codes.
        labels: For each target, 0/1 (n,).
        scale: Factor that makes the counts of the block comparable with those of all rows.

    Returns:
        float32 (size, targets + 1): the rates, and log(1 + rows).
    """
    rows = np.bincount(codes, minlength=size)
    columns = []
    for label in labels:
        share = (label.sum() + 0.5) / (len(label) + 1)
        columns.append(logit((np.bincount(codes, label, size) + PRIOR * share) / (rows + PRIOR)) - logit(share))
    return np.stack([*columns, np.log1p(scale * rows)], axis=1).astype(np.float32)
