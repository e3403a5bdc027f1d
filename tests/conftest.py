"""A tiny simulated world of both data sets, and the output of the pipeline for all tests that only read it."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from hypothesis import settings

import cross_matrix
import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import Interactions
from mma4ctr.features.feature_matrix import StepInputs
from mma4ctr.runtime.console import run
from mma4ctr.runtime.parallel import cores
from mma4ctr.simulation import __main__ as world
from mma4ctr.storage.artifacts import MANIFEST, seal, sync_and_hash
from mma4ctr.storage.paths import Paths, load_paths

ROOT = Path(__file__).parent.parent
# What two equal runs differ in.
MEASURED = ("train_seconds", "test_seconds", "rows_per_second", "processor_seconds", "peak_memory_mb", "started")
OUTPUTS = ("graph_path", "modal_path", "user_embedding_path", "matrix_path", "torch_model_path", "saved_path")
STEPS = (preprocess_inter, preprocess_multimodal, get_user_embedding, gen_matrix, cross_matrix)

# How long an example takes depends on what else the machine does and on what is compiled in it.
settings.register_profile("without deadline", deadline=None)
settings.load_profile("without deadline")


def pytest_xdist_auto_num_workers() -> int:
    """One process more than cores, because some tests wait for processes that they have started."""
    return cores() + 1


def reseal(folder: Path) -> None:
    """Update the manifests under a folder after a test has changed files, so that the steps accept them."""
    manifests = {path: orjson.loads(path.read_bytes()) for path in folder.rglob(MANIFEST)}
    now_called: dict[str, str] = {}
    for path, manifest in sorted(manifests.items(), key=lambda item: item[1]["step"]):
        manifest["files"] = {name: sync_and_hash(path.parent / name) for name in manifest["files"]}
        manifest["inputs"] = {name: now_called.get(one, one) for name, one in manifest["inputs"].items()}
        resealed = seal(manifest)
        now_called[manifest["fingerprint"]] = resealed["fingerprint"]
        path.write_bytes(orjson.dumps(resealed))


def write_described(folder: Path, datasets: dict[str, Any], name: str = "path.json") -> Path:
    """Write a path.json that describes data sets and whose outputs go to out/; return its path."""
    content = {"parent_folder": ".", "datasets": datasets} | {key: f"out/{key}" for key in OUTPUTS}
    (folder / name).write_bytes(orjson.dumps(content))
    return folder / name


def call(main: Callable[[], int | None], *arguments: object) -> int:
    """Run a script's `main` as its command line would; returns the exit code."""
    before = sys.argv
    sys.argv = ["script", *map(str, arguments)]
    try:
        run(main)
    except SystemExit as end:
        return int(end.code or 0)
    finally:
        sys.argv = before
    raise AssertionError("run() always exits")


def prepare(paths_file: Path, *, min_interactions: int = 20, options: dict[object, tuple] | None = None) -> None:
    """Run steps 1 to 4 with every variant; `options` are more options by step."""
    for step in STEPS:
        more = list((options or {}).get(step, ()))
        if step is preprocess_inter:
            more += ["--min-interactions", min_interactions]
        if step is cross_matrix:
            more += ["--variant", "all"]
        assert call(step.main, "--paths", paths_file, *more) == 0, step.__name__


def first_columns(values: np.ndarray, seed: int) -> dict[int, np.ndarray]:
    """Return 2 and 3 columns in place of UMAP, which compiles for 20 seconds in each process."""
    padded = np.pad(values, ((0, 0), (0, 3)))
    return {dimensions: padded[:, :dimensions] for dimensions in (2, 3)}


@pytest.fixture
def without_umap(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the report show columns in place of UMAP; tests/evaluation/test_umap.py draws the real one."""
    monkeypatch.setattr("mma4ctr.evaluation.run_figures.embed", first_columns)


@pytest.fixture(scope="session")
def raw_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with raw files of both data sets and a path.json, read-only."""
    folder = tmp_path_factory.mktemp("world")
    sizes = ("--rows", 16_000, "--users", 80, "--items", 400)
    assert call(world.main, folder, *sizes, "--seed", 3) == 0
    return folder


@pytest.fixture
def raw_copy(raw_world: Path, tmp_path: Path) -> Path:
    """A copy of the raw files and path.json that the test may change."""
    shutil.copytree(raw_world / "dataset", tmp_path / "dataset")
    shutil.copy(raw_world / "path.json", tmp_path)
    return tmp_path


@pytest.fixture(scope="session")
def made(raw_world: Path, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """The output of steps 1 to 5 on a copy of the tiny world, read-only."""
    folder = tmp_path_factory.mktemp("made")
    shutil.copytree(raw_world / "dataset", folder / "dataset")
    shutil.copy(raw_world / "path.json", folder)
    prepare(folder / "path.json")
    assert call(mlp.main, "--paths", folder / "path.json", "--epochs", 4) == 0
    return load_paths(folder / "path.json")


@pytest.fixture(scope="module")
def plus(made: Paths, tmp_path_factory: pytest.TempPathFactory) -> Paths:
    """A copy of `made` with the matrices of features plus of its tasks."""
    folder = tmp_path_factory.mktemp("plus")
    shutil.copytree(made.file.parent, folder, dirs_exist_ok=True)
    assert call(cross_matrix.main, "--paths", folder / "path.json", "--features", "plus") == 0
    return load_paths(folder / "path.json")


def cluster_few_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let features plus cluster the items of a tiny world."""
    monkeypatch.setattr("mma4ctr.features.behavioral.content_clusters.ROWS_A_CLUSTER", 1)
    monkeypatch.setattr("mma4ctr.features.behavioral.content_clusters.FEWEST", 2)


@dataclass(frozen=True)
class Relabelled(Interactions):
    """Interactions with the labels of some rows flipped, for every target."""

    rows: np.ndarray | None = None

    def label(self, target: str) -> np.ndarray:
        label = super().label(target).copy()
        label[self.rows] ^= 1
        return label


def vectors_of(tables):
    """Return the vectors of the pair tables of features plus, of all blocks, by name."""
    found = {}
    for one in tables.pairs:
        user, item = zip(*map(one.block, range(one.blocks)), strict=True)
        found |= {f"{one.kind} user": np.stack(user), f"{one.kind} item": np.stack(item)}
    return found


def relabelled(inputs: StepInputs, rows: np.ndarray) -> StepInputs:
    """Flip the labels of some rows of the inputs of step 4."""
    data = {field.name: getattr(inputs.data, field.name) for field in fields(inputs.data)}
    return replace(inputs, data=Relabelled(**data, rows=rows))
