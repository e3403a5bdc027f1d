"""Negative sampling for logs that contain only positives: draw items that the user has no row with."""

from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from mma4ctr.data.row_order import PARTITION_ROWS
from mma4ctr.storage.arrays import StoredArray
from mma4ctr.storage.artifacts import ArtifactWriter

# Rounds of random draws. Rows that still lack an item afterwards choose from the list of all unseen items.
ROUNDS = 16


def by_first_split(item: np.ndarray, split: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """Order the items by the split (train, valid, test) in which they first occur.

    Args:
        item: int (rows,), below `items`; each item occurs at least once.
        split: uint8 (rows,).
        items: Number of items.

    Returns:
        int64 (items,) items in that order, and int64 (3,) the number of items that occur in train, in train or valid,
        and in all splits.
    """
    first = np.full(items, 255, np.uint8)
    np.minimum.at(first, item, split)
    return np.argsort(first, kind="stable"), np.cumsum(np.bincount(first, minlength=3))


def _by_user(user: np.ndarray, rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yield each user of some rows, int64 (n,) in order of the users, with its rows."""
    if len(rows):
        for of_user in np.split(rows, np.flatnonzero(np.diff(user[rows])) + 1):
            yield int(user[of_user[0]]), of_user


def draw_unseen(
    user: np.ndarray,
    item: np.ndarray,
    split: np.ndarray,
    known: tuple[np.ndarray, np.ndarray],
    count: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `count` unseen items for each row, without repeating an item for one user.

    A user who has rows with nearly all items gets fewer. An item is drawn only for rows of the split in which it first
    occurs and of later splits.

    Args:
        user: int (rows,); all rows of each of these users.
        item: int (rows,).
        split: uint8 (rows,).
        known: The result of `by_first_split`.
        count: Items to draw for each row.
        rng: Random generator.

    Returns:
        int64 (drawn,) the row that each item is drawn for, ascending, and int64 (drawn,) the item.
    """
    order, sizes = known
    items = len(order)
    seen = np.unique(user.astype(np.int64) * items + item)
    rows = np.repeat(np.arange(len(user)), count)
    drawn_rows, drawn_items = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for _ in range(ROUNDS):
        if not len(rows):
            break
        drawn = order[rng.integers(0, sizes[split[rows]])]
        key = user[rows].astype(np.int64) * items + drawn
        place = np.minimum(np.searchsorted(seen, key), len(seen) - 1)
        new = np.zeros(len(key), bool)
        new[np.unique(key, return_index=True)[1]] = True
        new &= seen[place] != key
        drawn_rows.append(rows[new])
        drawn_items.append(drawn[new])
        seen = np.union1d(seen, key[new])
        rows = rows[~new]
    for one, of_user in _by_user(user, rows):
        first, last = np.searchsorted(seen, (one * items, (one + 1) * items))
        taken = seen[first:last] - one * items
        for part in range(len(sizes)):
            wanting = of_user[split[of_user] == part]
            free = np.setdiff1d(order[: sizes[part]], taken) if len(wanting) else wanting
            chosen = rng.choice(free, min(len(free), len(wanting)), replace=False)
            drawn_rows.append(wanting[: len(chosen)])
            drawn_items.append(chosen)
            taken = np.append(taken, chosen)
    row, drawn = np.concatenate(drawn_rows), np.concatenate(drawn_items)
    by_row = np.argsort(row, kind="stable")
    return row[by_row], drawn[by_row]


def add_negatives(
    writer: ArtifactWriter, column: dict[str, StoredArray], split: np.ndarray, items: int, count: int, seed: int
) -> tuple[dict[str, StoredArray], np.ndarray]:
    """Insert `count` rows of unseen items after each row and replace the arrays in the folder.

    A new row has the user, device, time and split of the row before it, and label 0 for every target. One partition of
    the users is in memory at a time.

    Args:
        writer: The artifact of step 1 under construction.
        column: (rows,) arrays of step 1 by name, ordered by user; `item` has positions below `items`.
        split: uint8 (rows,).
        items: Number of items.
        count: Rows to insert after each row.
        seed: Seed of the draws.

    Returns:
        The new columns, and the new split.
    """
    kinds = {name: values.dtype for name, values in column.items()}
    known = by_first_split(column["item"][:], split, items)
    rng = np.random.default_rng(seed)
    for name in column:
        (writer.building / f"{name}.npy").unlink()  # the open file can still be read
    streams = {name: writer.stream(name, kind) for name, kind in kinds.items()}
    starts = np.flatnonzero(np.diff(column["user"][:], prepend=-1))
    partition = starts * (count + 1) // PARTITION_ROWS
    bounds = [*starts[np.flatnonzero(np.diff(partition, prepend=-1))].tolist(), len(split)]
    new_splits = []
    for start, stop in pairwise(bounds):
        rows = {name: values[start:stop] for name, values in column.items()}
        row, item = draw_unseen(rows["user"], rows["item"], split[start:stop], known, count, rng)
        # Each row, then the rows drawn for it.
        order = np.argsort(np.concatenate([np.arange(stop - start), row]), kind="stable")
        for name, values in rows.items():
            drawn = item if name == "item" else np.zeros(len(row)) if name.startswith("label_") else values[row]
            streams[name].append(np.concatenate([values, drawn])[order])
        new_splits.append(np.concatenate([split[start:stop], split[start:stop][row]])[order])
    for stream in streams.values():
        stream.close()
    return {name: StoredArray.of(writer.building / f"{name}.npy") for name in kinds}, np.concatenate(new_splits)
