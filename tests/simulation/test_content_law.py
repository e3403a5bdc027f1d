"""`--law content` writes the bytes that the command wrote before it had laws."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from mma4ctr.simulation import __main__ as command
from tests.conftest import call

# Recorded with commit 3f18e90: by seed, sha256 of the files, and sums of the true probabilities with fixed weights.
RECORDED = json.loads((Path(__file__).parent / "content_law.json").read_text())


def hashes(folder):
    """By relative name, sha256 of all files but the true probabilities, whose last bits depend on the processor."""
    files = {path.relative_to(folder).as_posix(): path for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        name: hashlib.sha256(path.read_bytes()).hexdigest() for name, path in files.items() if path.suffix != ".parquet"
    }


def sums(folder):
    """By file and column, the sum of the values with fixed weights."""
    found = {}
    for path in sorted(folder.rglob("*.parquet")):
        for name, values in pq.read_table(path).to_pydict().items():
            weights = np.random.default_rng(0).random(len(values))
            found[f"{path.relative_to(folder).as_posix()} {name}"] = float(weights @ np.array(values, float))
    return found


@pytest.mark.parametrize("seed", RECORDED)
def test_the_content_law_writes_the_recorded_bytes(tmp_path, seed):
    sizes = ("--rows", 3000, "--users", 30, "--items", 200)
    assert call(command.main, tmp_path, *sizes, "--seed", seed, "--law", "content") == 0
    assert hashes(tmp_path) == RECORDED[seed]["files"]
    assert sums(tmp_path) == pytest.approx(RECORDED[seed]["sums"], rel=1e-6)
