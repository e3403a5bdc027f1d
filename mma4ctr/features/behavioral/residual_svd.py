"""Residual SVD of labels and of exposures: columns of features plus (see columns.py).

The residuals of the labels after the biases form a sparse matrix of users and items. Its leading singular vectors, each
shrunk by how far its singular value exceeds the noise, give the inner product of a user and an item. The matrix of
exposures, which user was shown which item, is decomposed in the same way.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from mma4ctr.features.behavioral.signals import Signals, logistic_residuals

# Number of singular vectors, and the pseudo-count that shrinks users and items with few rows. Of widths 8 to 64 and
# pseudo-counts 1 to 30 these were near the best validation AUC on all tasks measured.
FACTORS = 16
FACTORS_PRIOR = 10.0


def principal_items(table: sparse.csr_matrix, skipped: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The leading right singular vectors of a sparse matrix, with their shrinkage.

    Args:
        table: (rows, items).
        skipped: Leave out the first so many vectors.

    Returns:
        float64 (items, k) with at most `FACTORS` vectors, and float64 (k,) shrinkage 1 - (s' / s)^2 where s is the
        vector's singular value and s' the largest one that is left out.
    """
    width = min(skipped + FACTORS + 1, min(table.shape) - 1)
    if width <= skipped + 1 or not table.data.any():
        return np.zeros((table.shape[1], 1)), np.zeros(1)
    start = np.random.default_rng(0).normal(size=min(table.shape))
    _, values, vectors = svds(table, width, v0=start)
    order = np.argsort(-values)
    chosen, noise = order[skipped:-1], values[order[-1]]
    shares = 1 - np.square(np.divide(noise, values[chosen], out=np.ones(len(chosen)), where=values[chosen] > noise))
    return np.nan_to_num(vectors[chosen].T), shares


# Computes float64 values (n,) of rows and their weights. It is called again whenever they are needed, so that only the
# arrays of one target are in memory: with many targets they are the largest here.
ValuesAndWeights = Callable[[], tuple[np.ndarray, np.ndarray]]


def _factors(
    targets: Sequence[ValuesAndWeights], user: np.ndarray, item: np.ndarray, size: tuple[int, int], skipped: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Compute user and item vectors whose inner products approximate the values of rows.

    Args:
        targets: Values and weights of the rows for each target.
        user: int64 (n,).
        item: int64 (n,).
        size: Numbers of users and items.
        skipped: Number of leading singular vectors to leave out.

    Returns:
        float32 (users, targets, k), and float32 (items, k).
    """
    users, items = size
    of_item: np.ndarray = FACTORS_PRIOR + np.mean([np.bincount(item, target()[1], items) for target in targets], axis=0)
    tables, of_users = [], []
    for target in targets:
        value, weight = target()
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


def label_factors(signals: Signals) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the residual SVD of the labels, for at least one target.

    Returns:
        float32 (users, targets, k), and float32 (items, k), which the targets share.
    """
    targets = [
        partial(logistic_residuals, label, logit) for label, logit in zip(signals.labels, signals.logits, strict=True)
    ]
    return _factors(targets, signals.user, signals.item, (signals.users, signals.items))


def exposure_factors(signals: Signals) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the SVD of the exposures. The first singular vector is the items' popularity and is left out.

    Returns:
        float32 (users, 1, k), and float32 (items, k).
    """
    once = np.ones(len(signals.user))
    size = signals.users, signals.items
    return _factors([lambda: (once, once)], signals.user, signals.item, size, skipped=1)
