"""Negatives for logs that hold only what users acted on: items that a user has not met, drawn from a seed."""

from itertools import pairwise

import numpy as np

from mma4ctr.data.row_order import PART_ROWS
from mma4ctr.storage.arrays import StoredArray
from mma4ctr.storage.artifacts import ArtifactWriter

# Rounds of drawing at random before what is left is chosen from a list of all that is free.
ROUNDS = 16


def by_first_split(item: np.ndarray, split: np.ndarray, items: int) -> tuple[np.ndarray, np.ndarray]:
    """int64 (items,), the items in the order of the part of the split in which they first occur, and int64 (3,), how
    many are known by the end of each part.

    Args:
        item: int (rows,) below `items`, each at least once. split: uint8 (rows,).
    """
    first = np.full(items, 255, np.uint8)
    np.minimum.at(first, item, split)
    return np.argsort(first, kind="stable"), np.cumsum(np.bincount(first, minlength=3))


def draw_unseen(
    user: np.ndarray,
    item: np.ndarray,
    split: np.ndarray,
    known: tuple[np.ndarray, np.ndarray],
    count: int,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """For each row `count` items that its user meets in none of the rows, and no item twice for one user; fewer for a
    user who has met too many. An item is drawn for rows of its first part of the split and of later ones only.

    Args:
        user, item, split: (rows,), all rows of their users. known: as `by_first_split` tells.

    Returns: int64 (drawn,), the row that each is drawn for, ascending; int64 (drawn,), the item.
    """
    order, sizes = known
    items = len(order)
    met = np.unique(user.astype(np.int64) * items + item)
    rows = np.repeat(np.arange(len(user)), count)
    found_rows, found_items = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
    for _ in range(ROUNDS):
        if not len(rows):
            break
        drawn = order[rng.integers(0, sizes[split[rows]])]
        key = user[rows].astype(np.int64) * items + drawn
        place = np.minimum(np.searchsorted(met, key), len(met) - 1)
        new = np.zeros(len(key), bool)
        new[np.unique(key, return_index=True)[1]] = True
        new &= met[place] != key
        found_rows.append(rows[new])
        found_items.append(drawn[new])
        met = np.union1d(met, key[new])
        rows = rows[~new]
    for one in rows.tolist():
        base = int(user[one]) * items
        first, last = np.searchsorted(met, (base, base + items))
        free = np.setdiff1d(order[: sizes[split[one]]], met[first:last] - base)
        if len(free):
            chosen = int(rng.choice(free))
            found_rows.append(np.array([one]))
            found_items.append(np.array([chosen]))
            met = np.insert(met, np.searchsorted(met, base + chosen), base + chosen)
    row, drawn = np.concatenate(found_rows), np.concatenate(found_items)
    by_row = np.argsort(row, kind="stable")
    return row[by_row], drawn[by_row]


def add_negatives(
    writer: ArtifactWriter, column: dict[str, StoredArray], parts: np.ndarray, items: int, count: int, seed: int
) -> tuple[dict[str, StoredArray], np.ndarray]:
    """Put after each row `count` rows of unseen items, with its user, device, time and part of the split, and labels
    0; the arrays take the place of those in the folder. One part of the users is in memory at a time.

    Args:
        column: (rows,) arrays of step 1 by name, rows of a user side by side; `item` positions below `items`.
        parts: uint8 (rows,).

    Returns: the new columns and their parts.
    """
    kinds = {name: values.dtype for name, values in column.items()}
    known = by_first_split(column["item"][:], parts, items)
    rng = np.random.default_rng(seed)
    for name in column:
        (writer.building / f"{name}.npy").unlink()  # it can still be read
    streams = {name: writer.stream(name, kind) for name, kind in kinds.items()}
    starts = np.flatnonzero(np.diff(column["user"][:], prepend=-1))
    part = starts * (count + 1) // PART_ROWS
    bounds = [*starts[np.flatnonzero(np.diff(part, prepend=-1))].tolist(), len(parts)]
    new_parts = []
    for start, stop in pairwise(bounds):
        rows = {name: values[start:stop] for name, values in column.items()}
        row, item = draw_unseen(rows["user"], rows["item"], parts[start:stop], known, count, rng)
        # Each row, then what was drawn for it.
        order = np.argsort(np.concatenate([np.arange(stop - start), row]), kind="stable")
        for name, values in rows.items():
            drawn = item if name == "item" else np.zeros(len(row)) if name.startswith("label_") else values[row]
            streams[name].append(np.concatenate([values, drawn])[order])
        new_parts.append(np.concatenate([parts[start:stop], parts[start:stop][row]])[order])
    for stream in streams.values():
        stream.close()
    return {name: StoredArray.of(writer.building / f"{name}.npy") for name in kinds}, np.concatenate(new_parts)
