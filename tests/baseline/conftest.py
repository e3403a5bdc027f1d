"""A tiny world that the tests of the comparison share."""

import pytest

import cross_matrix
from mma4ctr.simulation import __main__ as world
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, prepare

TASK = "tiktok_like"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A tiny world, steps 1 to 4, with features plus."""
    folder = tmp_path_factory.mktemp("compared")
    assert call(world.main, folder, "--dataset", "tiktok", "--rows", 8000, "--users", 60, "--items", 300) == 0
    prepare(folder / "path.json")
    assert call(cross_matrix.main, "--paths", folder / "path.json", "--task", TASK, "--features", "plus") == 0
    return load_paths(folder / "path.json")
