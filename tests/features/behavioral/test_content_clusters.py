"""Clusters of items by content: nearest centers, groups that are apart, and who gets any."""

import numpy as np
import pytest

from mma4ctr.features.behavioral import content_clusters
from mma4ctr.features.behavioral.content_clusters import (
    CLUSTERINGS,
    FEWEST,
    MOST,
    ROWS_A_CLUSTER,
    find_clusters,
    nearest,
)


@pytest.mark.parametrize("at_a_time", [7, 1 << 18])
def test_nearest_centers_are_those_of_all_distances(monkeypatch, at_a_time):
    monkeypatch.setattr(content_clusters, "ITEMS_AT_A_TIME", at_a_time)
    rng = np.random.default_rng(0)
    content, centers = rng.standard_normal((50, 5), np.float32), rng.standard_normal((3, 9, 5), np.float32)
    distances = ((content[None, :, None] - centers[:, None]) ** 2).sum(axis=3)
    assert (nearest(content, centers) == distances.argmin(axis=2) + 1).all()


def test_groups_that_are_apart_are_found():
    rng = np.random.default_rng(1)
    group = rng.integers(FEWEST, size=2000)
    content = (20 * rng.standard_normal((FEWEST, 8)))[group] + rng.standard_normal((2000, 8))
    users = 10
    rows = users * ROWS_A_CLUSTER * FEWEST
    found = find_clusters(content.astype(np.float32), rows, users)
    assert found.of_item.shape == (CLUSTERINGS, 2000) and found.centers.shape == (CLUSTERINGS, FEWEST, 8)
    for codes in found.of_item:
        together = np.mean([np.bincount(codes[group == one]).max() / (group == one).sum() for one in range(FEWEST)])
        assert together > 0.95
    assert (find_clusters(content.astype(np.float32), rows, users).of_item == found.of_item).all()


@pytest.mark.parametrize(
    ("rows_of_user", "items", "clusters"),
    [
        (ROWS_A_CLUSTER * FEWEST - 1, 500, None),
        (ROWS_A_CLUSTER * FEWEST, 500, FEWEST),
        (ROWS_A_CLUSTER * MOST * 9, 500, MOST),
        (ROWS_A_CLUSTER * FEWEST, FEWEST - 1, None),
    ],
)
def test_the_number_of_clusters_follows_the_rows_of_a_user(rows_of_user, items, clusters):
    content = np.random.default_rng(2).standard_normal((items, 3), np.float32)
    found = find_clusters(content, 7 * rows_of_user, 7)
    assert (found and found.centers.shape[1]) == clusters
