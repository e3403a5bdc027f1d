"""Two Ray nodes on this machine, one of which is killed during the work: same bytes as without a cluster."""

import json
import shutil
import threading
import time
from collections.abc import Callable
from typing import ClassVar

import pytest

import adjust_hyperparameter as sweep
import cross_matrix
import preprocess_inter
import preprocess_multimodal
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.runtime.ray_cluster import RayTasks, connect
from mma4ctr.storage import text_blocks as rawfiles
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import ROOT, call

pytest.importorskip("ray")
pytestmark = pytest.mark.long


class Slow:
    """Work that takes long enough to be interrupted."""

    def __init__(self, work):
        self.work = work

    def __call__(self, item):
        time.sleep(0.3)
        return self.work(item)


class KilledOnTheWay(RayTasks):
    """Tasks that end a node when a few of them are done. The workers get a copy, so the rest stands in the class."""

    end_node: ClassVar[list[Callable[[], object]]] = []

    def in_order(self, work, items):
        for number, done in enumerate(super().in_order(Slow(work), items)):
            yield done
            if number == 3 and self.end_node:
                self.end_node.pop()()


@pytest.fixture
def two_nodes():
    """A head node without processors, so that all work is on the two others."""
    import ray
    from ray.cluster_utils import Cluster

    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(2)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


@pytest.mark.parametrize("step", [preprocess_inter, preprocess_multimodal])
def test_a_node_that_dies_during_step_1_or_2(made, tmp_path, two_nodes, monkeypatch, step):
    cluster, (doomed, _) = two_nodes
    ray = connect(cluster.address, ROOT)
    KilledOnTheWay.end_node[:] = [lambda: cluster.remove_node(doomed, allow_graceful=False)]

    content = json.loads(made.file.read_text()) | {"parent_folder": str(tmp_path)}
    (tmp_path / "path.json").write_text(json.dumps(content | {"dataset_path": str(made.file.parent / "dataset")}))
    monkeypatch.setattr(rawfiles, "BLOCK_BYTES", 50_000)  # many tasks
    options = ("--paths", tmp_path / "path.json")
    if step is preprocess_multimodal:
        assert call(preprocess_inter.main, *options, "--min-interactions", 20) == 0
    monkeypatch.setattr(step, "workers_at", lambda address, code: KilledOnTheWay(ray))
    more = ("--min-interactions", 20) if step is preprocess_inter else ()
    assert call(step.main, *options, "--ray", cluster.address, *more) == 0
    assert not KilledOnTheWay.end_node
    own = load_paths(tmp_path / "path.json")
    kind = "graph" if step is preprocess_inter else "modal"
    for dataset in ("wechat", "tiktok"):
        remote, local = (read_artifact(getattr(where, kind) / dataset, "") for where in (own, made))
        assert remote.fingerprint == local.fingerprint


def test_a_node_that_dies_during_step_4(plus, tmp_path, two_nodes, monkeypatch):
    cluster, (doomed, _) = two_nodes
    ray = connect(cluster.address, ROOT)
    KilledOnTheWay.end_node[:] = [lambda: cluster.remove_node(doomed, allow_graceful=False)]
    shutil.copytree(plus.file.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("mma4ctr.steps.matrices.workers_at", lambda address, code: KilledOnTheWay(ray))
    folder = "matrix/tiktok_like/vat_concat.plus"
    shutil.rmtree(tmp_path / folder)
    options = ("--paths", tmp_path / "path.json", "--task", "tiktok_like", "--features", "plus")
    assert call(cross_matrix.main, *options, "--ray", cluster.address) == 0
    assert not KilledOnTheWay.end_node
    remote, local = (read_artifact(parent / folder, "") for parent in (tmp_path, plus.file.parent))
    assert remote.fingerprint == local.fingerprint


def test_a_node_that_dies_during_a_sweep(made, tmp_path, two_nodes):
    cluster, (doomed, _) = two_nodes
    found = {}
    for name, more in (("alone", ()), ("cluster", ("--ray", cluster.address))):
        folder = tmp_path / name
        content = json.loads(made.file.read_text()) | {"parent_folder": str(made.file.parent)}
        content |= {key: str(folder / key) for key in ("saved_path", "torch_model_path")}
        folder.mkdir()
        (folder / "path.json").write_text(json.dumps(content))
        results = folder / "saved_path/results.jsonl"
        removed = []

        def remove_after_the_first_result(results=results, removed=removed):
            while not (results.exists() and results.stat().st_size):
                time.sleep(0.1)
            removed.append(cluster.remove_node(doomed, allow_graceful=False))

        if more:
            threading.Thread(target=remove_after_the_first_result, daemon=True).start()
        options = ("--paths", folder / "path.json", "--task", "tiktok_like", "--seeds", 1, "--study", "single-modal")
        assert call(sweep.main, *options, *more) == 0
        assert bool(removed) == bool(more)
        found[name] = {result.run_id: (result.auc, result.logloss) for result in read_results(results)}
    assert found["alone"].keys() == found["cluster"].keys()
    for run, scores in found["alone"].items():
        assert found["cluster"][run] == pytest.approx(scores, abs=1e-6)
