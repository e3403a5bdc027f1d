"""The user embedding: the signed mean of the features of a user's videos, out of fold for training rows.

    e_u = (sum over r in R_u of s_r * x_item(r)) / |R_u|,   s_r = +1 for label 1, -1 for label 0

with x min-max scaled per column and R_u the user's evidence, the rows that the embedding may use (Huo, Jin and Liao
2024, section 2). Average pooling reduces the mean to `length` numbers, and the user's most frequent device is appended.

The table has one block for each fold, made without the rows of the fold, and a last block made from all evidence.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from scipy import sparse

from mma4ctr.data.interactions import TRAIN, Interactions, sums_of_others
from mma4ctr.features.scaling import Scaling
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order, slices

R = TypeVar("R")

# Rows and items that are processed at a time: about 60 MB of memory.
ROWS_AT_A_TIME, ITEMS_AT_A_TIME = 500_000, 16_384


def draw_folds(split: np.ndarray, folds: int, seed: int, draw: np.ndarray | None = None) -> np.ndarray:
    """Draw the block that each row uses.

    Args:
        split: uint8 (rows,).
        folds: Number of folds.
        seed: Seed of the draw.
        draw: int64 (rows,), the draw of each row as `draws_of` returns it; None if no negatives were drawn.

    Returns:
        uint8 (rows,): for training rows their fold, 0 ... folds - 1, of equal sizes; for other rows `folds`, the last
        block. Rows of one draw have the same fold, and folds have equal numbers of draws.

    Raises:
        UserError: There are more folds than training rows.
    """
    block = np.full(len(split), folds, np.uint8)
    training = np.count_nonzero(split == TRAIN) if draw is None else len(np.unique(draw[split == TRAIN]))
    if folds > training:
        without = "" if draw is None else ", not counting sampled negatives"
        raise UserError(
            f"--folds {folds}: there are only {training:,} training rows{without}; use at most as many folds"
        )
    drawn, first, last = np.random.default_rng(seed).permutation(training), 0, -1
    for part in slices(len(split), ROWS_AT_A_TIME):
        train = np.flatnonzero(split[part] == TRAIN)
        place = np.arange(first, first + len(train))
        if draw is not None and len(train):
            of_row = draw[part][train]
            place = first - 1 + np.cumsum(np.diff(of_row, prepend=last) != 0)
            last = int(of_row[-1])
        block[part][train] = drawn[place] % folds
        first = int(place[-1]) + 1 if len(place) else first
    return block


def pool_columns(values: np.ndarray, length: int) -> np.ndarray:
    """Reduce the columns by average pooling with window d - length + 1 and stride 1.

    If there are fewer columns than `length`, zeros are appended first.

    Args:
        values: float (n, d).
        length: Number of columns of the result.

    Returns:
        float64 (n, length).
    """
    if values.shape[1] < length:
        values = np.pad(values, ((0, 0), (0, length - values.shape[1])))
    window = values.shape[1] - length + 1
    sums = np.cumsum(np.pad(values, ((0, 0), (1, 0))), axis=1, dtype=np.float64)
    pooled: np.ndarray = (sums[:, window:] - sums[:, :-window]) / window
    return pooled


def scaled_and_pooled(features: np.ndarray, length: int) -> np.ndarray:
    """Scale every column of the features to 0 ... 1, then pool: float64 (items, length)."""
    scaling = Scaling.min_max(features)

    def pool(start: int) -> np.ndarray:
        return pool_columns((features[start : start + ITEMS_AT_A_TIME] - scaling.shift) / scaling.scale, length)

    pooled = [future.result() for _, future in in_order(pool, range(0, len(features), ITEMS_AT_A_TIME))]
    return np.concatenate(pooled)


@dataclass(frozen=True)
class EvidenceRows:
    """Labelled rows of some users.

    Attributes:
        user: int32 (rows,), 0 ... users - 1.
        item: int32 (rows,).
        label: uint8 (rows,).
        fold: uint8 (rows,), 0 ... folds - 1.
        users: Number of users.
        folds: Number of folds.
    """

    user: np.ndarray
    item: np.ndarray
    label: np.ndarray
    fold: np.ndarray
    users: int
    folds: int


def signed_means(rows: EvidenceRows, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Compute the mean of the signed item features over each user's rows, for every block.

    Args:
        rows: The evidence.
        features: float64 (items, k).

    Returns:
        float64 (folds + 1, users, k), block f without the rows of fold f and the last block with all rows, and
        int64 (folds + 1, users), the number of rows behind each mean.
    """
    users, folds = rows.users, rows.folds
    sign = np.where(rows.label > 0, 1.0, -1.0)
    cell = rows.fold.astype(np.int32) * np.int32(users) + rows.user
    signs = sparse.csr_matrix((sign, (cell, rows.item)), shape=(folds * users, len(features)))
    sums = (signs @ features).reshape(folds, users, -1)
    counts = np.bincount(cell, minlength=folds * users).reshape(folds, users)
    counts_of_blocks = sums_of_others(counts)
    means: np.ndarray = sums_of_others(sums) / np.maximum(counts_of_blocks, 1)[:, :, None]
    return means, counts_of_blocks


def frequent_device(user: np.ndarray, device: np.ndarray, users: int) -> np.ndarray:
    """Find each user's most frequent device.

    Args:
        user: int (rows,), 0 ... users - 1.
        device: int64 (rows,).
        users: Number of users.

    Returns:
        int64 (users,): of equally frequent devices the smallest; -1 for a user without rows.
    """
    result = np.full(users, -1, np.int64)
    if not len(device):
        return result
    low, span = int(device.min()), int(device.max()) - int(device.min()) + 1
    kinds = None
    if span * users >= 2**63:  # user and device do not fit into one int64: number the devices first
        kinds, device = np.unique(device, return_inverse=True)
        low, span = 0, len(kinds)
    pairs = np.sort(user * np.int64(span) + (device - low))
    starts = np.flatnonzero(np.diff(pairs, prepend=-1))
    times = np.diff(starts, append=len(pairs))
    pair_user, kind = np.divmod(pairs[starts], span)
    first = np.flatnonzero(np.diff(pair_user, prepend=-1))
    most = np.maximum.reduceat(times, first)
    best = np.flatnonzero(times == np.repeat(most, np.diff(first, append=len(times))))[::-1]
    result[pair_user[best]] = (
        kind[best] + low if kinds is None else kinds[kind[best]]
    )  # of equals the first remains, because it is written last
    return result


class UserPartitions:
    """The evidence in partitions of consecutive users, which are processed in threads.

    Attributes:
        users: int64 (partitions + 1,), first user of each partition, and the number of users.
    """

    def __init__(self, data: Interactions, evidence: str) -> None:
        self._data, self._evidence = data, evidence
        first = np.unique(np.append(0, data.user[::ROWS_AT_A_TIME]))
        self.users = np.append(first, len(data.user_ids))
        self._rows = np.searchsorted(data.user, self.users.astype(data.user.dtype))

    def rows(self, partition: int) -> np.ndarray:
        """Return the positions of the evidence in a partition: int64 (rows,)."""
        begin, end = self._rows[partition : partition + 2]
        if self._evidence == "all":
            return np.arange(begin, end)
        rows: np.ndarray = begin + np.flatnonzero(self._data.split[begin:end] == TRAIN)
        return rows

    def map(self, work: Callable[[np.ndarray, np.ndarray, int], R]) -> list[R]:
        """Call a function for each partition.

        Args:
            work: Called with the positions of the rows, their users counted from the partition's first one, and the
                number of users.

        Returns:
            The results, in order.
        """

        def on_partition(partition: int) -> R:
            first, end = self.users[partition : partition + 2]
            rows = self.rows(partition)
            return work(rows, self._data.user[rows] - first.astype(np.int32), int(end - first))

        return [future.result() for _, future in in_order(on_partition, range(len(self.users) - 1))]


def user_devices(data: Interactions, evidence: str) -> np.ndarray:
    """Find each user's most frequent device in the evidence: int64 (users,)."""

    def devices(rows: np.ndarray, user: np.ndarray, users: int) -> np.ndarray:
        return frequent_device(user, data.device[rows], users)

    return np.concatenate(UserPartitions(data, evidence).map(devices))


def with_mean_user(table: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Give users without evidence the mean of the other users, block by block.

    Args:
        table: (blocks, users, k).
        counts: int64 (blocks, users), rows behind each vector.

    Returns:
        The filled table.
    """
    filled = table.copy()
    for block, count in enumerate(counts):
        known = count > 0
        if known.any():
            filled[block, ~known] = table[block, known].mean(axis=0)
    return filled


class UserEmbedder:
    """Makes the user embeddings of one task, modality by modality.

    Args:
        data: The interactions.
        label: uint8 (rows,).
        block: uint8 (rows,), as `draw_folds` returns it; all 0 if `evidence` is `all`.
        evidence: `train` or `all`.
    """

    def __init__(self, data: Interactions, label: np.ndarray, block: np.ndarray, evidence: str) -> None:
        self._data, self._label, self._block, self._evidence = data, label, block, evidence
        self._device = user_devices(data, evidence)
        self._folds = 1 if evidence == "all" else int(block.max(where=data.split == TRAIN, initial=0)) + 1

    def table(self, features: np.ndarray, length: int) -> np.ndarray:
        """Make the user embedding of one modality.

        Args:
            features: float32 (items, width).
            length: Numbers that the embedding is pooled to.

        Returns:
            float32 (blocks, users, length + 1).
        """
        # Pooling is linear, so the items are pooled once instead of every user in every block.
        pooled = scaled_and_pooled(features, length)

        def means_of(rows: np.ndarray, user: np.ndarray, users: int) -> tuple[np.ndarray, np.ndarray]:
            item, label, fold = self._data.item[rows], self._label[rows], self._block[rows]
            return signed_means(EvidenceRows(user, item, label, fold, users, self._folds), pooled)

        found = UserPartitions(self._data, self._evidence).map(means_of)
        means, counts = (np.concatenate(arrays, axis=1) for arrays in zip(*found, strict=True))
        if self._evidence == "all":
            means, counts = means[-1:], counts[-1:]
        column = np.broadcast_to(self._device[:, None], (*means.shape[:2], 1))
        return with_mean_user(np.concatenate([means, column], axis=2), counts).astype(np.float32)
