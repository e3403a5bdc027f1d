"""Clusters of items by content, as categories: they show what a user likes that is not linear in the content.

The content factors give a user one direction of preference. A user with several interests has a rate for each cluster
(rates.py). Items are clustered several times, from different starts, so that an item near the border of one cluster is
well inside another. Only content is used, no label.
"""

from dataclasses import dataclass

import numpy as np

from mma4ctr.runtime.parallel import slices

CLUSTERINGS = 4
# Rows of a user in a cluster on average, which sets the number of clusters, and its limits. With fewer rows nothing was
# gained on the demo and kuairand-real (docs/method.md).
ROWS_A_CLUSTER = 16
FEWEST, MOST = 32, 64
# Items, evenly spaced, that the centers are fitted on, if there are more.
FITTED_ITEMS = 1 << 17
ITEMS_AT_A_TIME = 1 << 18


@dataclass(frozen=True)
class Clusters:
    """Clusters of the items.

    Attributes:
        centers: float32 (CLUSTERINGS, clusters, width of the content); at most 255 clusters.
        of_item: uint8 (CLUSTERINGS, items), see `nearest`.
    """

    centers: np.ndarray
    of_item: np.ndarray


def cluster_names(count: int) -> list[str]:
    """Names of so many clusterings, as categories."""
    return [f"cluster {number}" for number in range(1, count + 1)]


def find_clusters(content: np.ndarray, rows: int, users: int) -> Clusters | None:
    """Cluster the items by k-means.

    Args:
        content: float32 (items, width).
        rows: Number of training rows.
        users: Number of users.

    Returns:
        The clusters; None if users have too few training rows on average, or there are fewer items than clusters.
    """
    count = min(rows // (max(users, 1) * ROWS_A_CLUSTER), MOST)
    some = content[:: -(-len(content) // FITTED_ITEMS)]
    if not FEWEST <= count <= len(some):
        return None
    # Importing sklearn takes a second, which processes that only train save.
    from sklearn.cluster import MiniBatchKMeans

    found = [MiniBatchKMeans(count, batch_size=4096, n_init=3, random_state=seed) for seed in range(CLUSTERINGS)]
    centers = np.stack([one.fit(some).cluster_centers_ for one in found]).astype(np.float32)
    return Clusters(centers, nearest(content, centers))


def nearest(content: np.ndarray, centers: np.ndarray) -> np.ndarray:
    """Find the nearest center of each item.

    Args:
        content: float32 (items, width).
        centers: float32 (clusterings, at most 255, width).

    Returns:
        uint8 (clusterings, items): 1 + the number of the center.
    """
    found = np.empty((len(centers), len(content)), np.uint8)
    for number, own in enumerate(centers):
        half_squares = (own**2).sum(axis=1) / 2
        for part in slices(len(content), ITEMS_AT_A_TIME):
            found[number, part] = np.argmax(content[part] @ own.T - half_squares, axis=1) + 1
    return found
