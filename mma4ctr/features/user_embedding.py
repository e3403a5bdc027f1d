"""The user embedding: the signed mean of the features of the videos that a user saw, out of fold for training rows.

    e_u = (sum over r in R_u of s_r * x_item(r)) / |R_u|,   s_r = +1 for label 1, -1 for label 0

with x min-max scaled per column and R_u the rows that the user embedding may see (Huo, Jin and Liao 2024, section 2).
Average pooling reduces it to `length` numbers, and the user's most frequent device is appended.
"""

from collections.abc import Callable
from typing import TypeVar

import numpy as np
from scipy import sparse

from mma4ctr.data.interactions import TRAIN, Interactions, sums_of_others
from mma4ctr.features.reduction import column_range
from mma4ctr.runtime.parallel import in_order

R = TypeVar("R")


EVIDENCE = ("train", "all")
# Rows, and items, that are worked on at a time: about 60 MB with all that they need.
PART_ROWS, PART_ITEMS = 500_000, 16_384


def draw_folds(split: np.ndarray, folds: int, seed: int) -> np.ndarray:
    """uint8 (rows,): a fold 0 ... folds-1 for each training row, equally many rows each; `folds` for other rows."""
    block = np.full(len(split), folds, np.uint8)
    train = np.flatnonzero(split == TRAIN)
    block[train] = np.random.default_rng(seed).permutation(len(train)) % folds
    return block


def pool_columns(values: np.ndarray, length: int) -> np.ndarray:
    """Average pooling along the columns to `length` numbers: window d - length + 1, stride 1.

    Where there are fewer columns than `length`, zeros are appended first.

    Args:
        values: float (n, d).

    Returns: float64 (n, length).
    """
    if values.shape[1] < length:
        values = np.pad(values, ((0, 0), (0, length - values.shape[1])))
    window = values.shape[1] - length + 1
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    pooled: np.ndarray = (sums[:, window:] - sums[:, :-window]) / window
    return pooled


def scaled_and_pooled(features: np.ndarray, length: int) -> np.ndarray:
    """float64 (items, length): features with every column scaled to 0 ... 1, then pooled; a part at a time."""
    low, span = column_range(features)

    def pool(start: int) -> np.ndarray:
        return pool_columns((features[start : start + PART_ITEMS] - low) / span, length)

    parts = [future.result() for _, future in in_order(pool, range(0, len(features), PART_ITEMS))]
    return np.concatenate(parts)


def signed_means(
    user: np.ndarray,
    item: np.ndarray,
    label: np.ndarray,
    block: np.ndarray,
    features: np.ndarray,
    users: int,
    folds: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean of the signed item features over each user's evidence, for every block.

    Args:
        user, item, label, block: aligned (rows,), the evidence rows with their folds 0 ... F-1; int32 user and item.
        features: float64 (items, k).
        users, folds: how many there are.

    Returns:
        float64 (F + 1, users, k), block f without the rows of fold f, the last block with all rows; and
        int64 (F + 1, users), how many rows each mean is over.
    """
    sign = np.where(label > 0, 1.0, -1.0)
    cell = block.astype(np.int32) * np.int32(users) + user
    signs = sparse.csr_matrix((sign, (cell, item)), shape=(folds * users, len(features)))
    sums = (signs @ features).reshape(folds, users, -1)
    counts = np.bincount(cell, minlength=folds * users).reshape(folds, users)
    rows = sums_of_others(counts)
    means: np.ndarray = sums_of_others(sums) / np.maximum(rows, 1)[:, :, None]
    return means, rows


def frequent_device(user: np.ndarray, device: np.ndarray, users: int) -> np.ndarray:
    """int64 (users,): each user's most frequent device, the smallest of equals; -1 for a user with no row."""
    result = np.full(users, -1, np.int64)
    if not len(device):
        return result
    low, span = int(device.min()), int(device.max()) - int(device.min()) + 1
    kinds = None
    if span * users >= 2**63:  # too far apart for a number that stands for user and device
        kinds, device = np.unique(device, return_inverse=True)
        low, span = 0, len(kinds)
    pairs = np.sort(user * np.int64(span) + (device - low))
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    times = np.diff(starts, append=len(pairs))
    pair_user, kind = np.divmod(pairs[starts], span)
    first = np.flatnonzero(np.diff(pair_user, prepend=-1))
    most = np.maximum.reduceat(times, first)
    best = np.flatnonzero(times == np.repeat(most, np.diff(first, append=len(times))))[::-1]
    result[pair_user[best]] = kind[best] + low if kinds is None else kinds[kind[best]]  # the last written stays
    return result


class Evidence:
    """The evidence rows in parts of consecutive users."""

    def __init__(self, data: Interactions, evidence: str) -> None:
        self._data, self._evidence = data, evidence
        first = np.unique(np.append(0, data.user[::PART_ROWS]))
        self.users = np.append(first, len(data.user_ids))
        self._rows = np.searchsorted(data.user, self.users.astype(data.user.dtype))

    def rows(self, part: int) -> np.ndarray:
        """int64 (rows,): positions of a part's rows."""
        begin, end = self._rows[part : part + 2]
        if self._evidence == "all":
            return np.arange(begin, end)
        rows: np.ndarray = begin + np.flatnonzero(self._data.split[begin:end] == TRAIN)
        return rows

    def over_parts(self, work: Callable[[np.ndarray, np.ndarray, int], R]) -> list[R]:
        """`work(rows, user, users)` of each part, in threads: its rows, their users counted from the part's first,
        and how many users it has.
        """

        def on_part(part: int) -> R:
            first, end = self.users[part : part + 2]
            rows = self.rows(part)
            return work(rows, self._data.user[rows] - first.astype(np.int32), int(end - first))

        return [future.result() for _, future in in_order(on_part, range(len(self.users) - 1))]


def user_devices(data: Interactions, evidence: str) -> np.ndarray:
    """int64 (users,): each user's most frequent device in the evidence rows."""

    def devices(rows: np.ndarray, user: np.ndarray, users: int) -> np.ndarray:
        return frequent_device(user, data.device[rows], users)

    return np.concatenate(Evidence(data, evidence).over_parts(devices))


def with_mean_user(table: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Give users without evidence the mean of those with it, block by block: table (blocks, users, k)."""
    filled = table.copy()
    for block, count in enumerate(rows):
        known = count > 0
        if known.any():
            filled[block, ~known] = table[block, known].mean(axis=0)
    return filled


def user_tables(
    data: Interactions,
    label: np.ndarray,
    block: np.ndarray,
    features: np.ndarray,
    length: int,
    evidence: str,
    device: np.ndarray,
) -> np.ndarray:
    """The user embedding of one modality: float32 (blocks, users, length + 1).

    Args:
        block: uint8 (rows,), each row's fold; all 0 with `evidence` all.
        device: (users,), see `user_devices`.
    """
    # Pooling is linear, so the items are pooled once instead of every user in every block.
    pooled = scaled_and_pooled(features, length)
    folds = 1 if evidence == "all" else int(block.max(where=data.split == TRAIN, initial=0)) + 1

    def means_of(rows: np.ndarray, user: np.ndarray, users: int) -> tuple[np.ndarray, np.ndarray]:
        return signed_means(user, data.item[rows], label[rows], block[rows], pooled, users, folds)

    parts = Evidence(data, evidence).over_parts(means_of)
    means, rows = (np.concatenate(arrays, axis=1) for arrays in zip(*parts, strict=True))
    if evidence == "all":
        means, rows = means[-1:], rows[-1:]
    column = np.broadcast_to(device[:, None], (*means.shape[:2], 1))
    table = np.concatenate([means, column], axis=2)
    return with_mean_user(table, rows).astype(np.float32)
