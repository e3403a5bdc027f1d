"""Negatives for logs that hold only what users acted on: items that a user has not met, drawn from a seed."""

import numpy as np

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
