"""What users who acted alike, and who were shown alike, say of an item: columns of features plus (see plus.py).

What the rates leave of who acted on what is a table of users and items. Its leading singular vectors, each as far as
it stands out of the noise, say how well an item suits a user. Who was shown what is a second such table.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from mma4ctr.features.behavioral.biases import Signals, beyond_rates

# Singular vectors of what users have in common, and the weight of rows that draws the entries of whoever has few to
# zero. Of widths 8 to 64 and weights 1 to 30 these were near the best validation AUC on all tasks measured.
FACTORS = 16
FACTORS_PRIOR = 10.0


def principal_items(table: sparse.csr_matrix, skipped: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The leading right singular vectors of a table (rows, items): float64 (items, k), at most `FACTORS` after the
    first `skipped`; and the share of each that stands out of the noise, float64 (k,): 1 - (s' / s)^2 with s its
    singular value and s' the first that is left out."""
    width = min(skipped + FACTORS + 1, min(table.shape) - 1)
    if width <= skipped + 1 or not table.data.any():
        return np.zeros((table.shape[1], 1)), np.zeros(1)
    start = np.random.default_rng(0).normal(size=min(table.shape))
    _, values, vectors = svds(table, width, v0=start)
    order = np.argsort(-values)
    chosen, noise = order[skipped:-1], values[order[-1]]
    shares = 1 - np.square(np.divide(noise, values[chosen], out=np.ones(len(chosen)), where=values[chosen] > noise))
    return np.nan_to_num(vectors[chosen].T), shares


# Makes float64 values (n,) of rows, and their weights: what a row counts for among those of its user and its item.
# Called as often as they are needed and held one at a time: of many targets they are the largest arrays here.
Part = Callable[[], tuple[np.ndarray, np.ndarray]]


def _factors(
    parts: Sequence[Part], user: np.ndarray, item: np.ndarray, size: tuple[int, int], skipped: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """float32 vectors of users (users, parts, k) and items (items, k) that explain values of rows (n,)."""
    users, items = size
    of_item: np.ndarray = FACTORS_PRIOR + np.mean([np.bincount(item, part()[1], items) for part in parts], axis=0)
    tables, of_users = [], []
    for part in parts:
        value, weight = part()
        of_user = FACTORS_PRIOR + np.bincount(user, weight, users)
        tables.append(sparse.csr_matrix((value / np.sqrt(of_user[user] * of_item[item]), (user, item)), shape=size))
        of_users.append(of_user)
    stacked = sparse.vstack(tables, format="csr")
    del tables, value, weight
    vectors, shares = principal_items(stacked, skipped)
    of_pairs = [
        stacked[place * users : (place + 1) * users] @ (vectors * shares) / np.sqrt(of_user)[:, None]
        for place, of_user in enumerate(of_users)
    ]
    return np.stack(of_pairs, axis=1).astype(np.float32), (vectors / np.sqrt(of_item)[:, None]).astype(np.float32)


def acted_alike(signals: Signals) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of users, float32 (users, targets, k), and of items, (items, k), which the targets share: what those who
    acted alike say. At least one target."""
    parts = [partial(beyond_rates, label, logit) for label, logit in zip(signals.labels, signals.logits, strict=True)]
    return _factors(parts, signals.user, signals.item, (signals.users, signals.items))


def shown_alike(signals: Signals) -> tuple[np.ndarray, np.ndarray]:
    """The same, with one column, of exposures: what those who were shown alike say. The first singular vector is left
    out: it says how often each item is shown."""
    once = np.ones(len(signals.user))
    size = signals.users, signals.items
    return _factors([lambda: (once, once)], signals.user, signals.item, size, skipped=1)
