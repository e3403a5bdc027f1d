"""UMAP keeps apart what lies apart. It compiles for 30 seconds, so `make test` does not run it: see `without_umap`."""

import numpy as np
import pytest

from mma4ctr.evaluation.run_figures import embed
from tests.conftest import first_columns

pytestmark = pytest.mark.long


def test_umap_keeps_groups_apart_and_depends_on_the_seed_alone():
    rng = np.random.default_rng(0)
    group = np.repeat(np.arange(3), 30)
    values = (rng.normal(size=(90, 12)) + 20 * np.eye(12)[group]).astype(np.float32)
    points = embed(values, 5)
    assert set(points) == {2, 3}
    for dimensions, found in points.items():
        other = first_columns(values, 5)[dimensions]
        assert found.shape == other.shape == (90, dimensions) and found.dtype == other.dtype
        distance = np.linalg.norm(found[:, None] - found[None], axis=2)
        np.fill_diagonal(distance, np.inf)
        assert (group[distance.argmin(axis=1)] == group).all()
    again = embed(values, 5)
    assert all(np.array_equal(again[dimensions], points[dimensions]) for dimensions in points)


def test_few_points_have_fewer_neighbours():
    points = embed(np.random.default_rng(0).normal(size=(8, 5)).astype(np.float32), 0)
    assert points[3].shape == (8, 3) and np.isfinite(points[3]).all()
