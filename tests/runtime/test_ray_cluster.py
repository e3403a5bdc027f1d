"""Steps 1, 2 and 4 on a local Ray cluster give the same bytes, even if a worker dies."""

import json
import os
import shutil
import signal
import types

import pytest

import cross_matrix
import preprocess_inter
import preprocess_multimodal
from mma4ctr.runtime.ray_cluster import RayTasks, _check_answers, connect
from mma4ctr.storage import text_blocks as rawfiles
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import ROOT, call

pytest.importorskip("ray")


@pytest.fixture(scope="module")
def cluster():
    """A local Ray cluster, shared by all tests of this file."""
    ray = connect("local", ROOT)
    yield ray
    ray.shutdown()


def test_steps_1_and_2_are_the_same_to_the_byte(made, tmp_path, cluster, monkeypatch):
    content = json.loads(made.file.read_text()) | {"parent_folder": str(tmp_path)}
    (tmp_path / "path.json").write_text(json.dumps(content | {"dataset_path": str(made.file.parent / "dataset")}))
    monkeypatch.setattr(rawfiles, "BLOCK_BYTES", 50_000)  # many tasks
    for step in (preprocess_inter, preprocess_multimodal):
        monkeypatch.setattr(step, "workers_at", lambda address, code: RayTasks(cluster))
    paths = ("--paths", tmp_path / "path.json", "--ray", "local")
    assert call(preprocess_inter.main, *paths, "--min-interactions", 20) == 0
    assert call(preprocess_multimodal.main, *paths) == 0
    own = load_paths(tmp_path / "path.json")
    for dataset in ("wechat", "tiktok"):
        for kind in ("graph", "modal"):
            remote, local = (read_artifact(getattr(where, kind) / dataset, "") for where in (own, made))
            assert remote.fingerprint == local.fingerprint, (kind, dataset)


def test_features_plus_are_the_same_to_the_byte(plus, tmp_path, cluster, monkeypatch):
    """Also with read-only arrays, as workers get them."""
    shutil.copytree(plus.file.parent, tmp_path, dirs_exist_ok=True)
    monkeypatch.setattr("mma4ctr.steps.matrices.workers_at", lambda address, code: RayTasks(cluster))
    options = ("--paths", tmp_path / "path.json", "--task", "tiktok_like", "--ray", "local")
    shutil.rmtree(tmp_path / "matrix/tiktok_like/vat_concat.plus")
    assert call(cross_matrix.main, *options, "--features", "plus") == 0
    remote, local = (
        read_artifact(folder / "matrix/tiktok_like/vat_concat.plus", "") for folder in (tmp_path, plus.file.parent)
    )
    assert remote.fingerprint == local.fingerprint


def test_features_paper_have_nothing_to_send(made, capsys):
    assert call(cross_matrix.main, "--paths", made.file, "--ray", "local") == 2
    assert "--features plus" in capsys.readouterr().err


def test_a_bad_line_is_named_from_a_worker(raw_copy, cluster, monkeypatch, capsys):
    file = raw_copy / "dataset/TikTok2019ICME/track1/final_track1_train.txt"
    lines = file.read_text().splitlines()
    lines[7000] = "abc" + lines[7000]
    file.write_text("\n".join(lines) + "\n")
    monkeypatch.setattr(rawfiles, "BLOCK_BYTES", 50_000)
    monkeypatch.setattr(preprocess_inter, "workers_at", lambda address, code: RayTasks(cluster))
    options = ("--paths", raw_copy / "path.json", "--dataset", "tiktok", "--min-interactions", 20)
    assert call(preprocess_inter.main, *options, "--ray", "local") == 2
    assert f"{file}:7001: column uid" in capsys.readouterr().err


class DieOnce:
    """Work that kills its process when it first sees item 3."""

    def __init__(self, marker):
        self.marker = marker

    def __call__(self, item):
        if item == 3 and not self.marker.exists():
            self.marker.write_text("died")
            os._exit(1)
        return item * item


def test_work_of_a_worker_that_dies_is_done_again(cluster, tmp_path):
    found = list(RayTasks(cluster).in_order(DieOnce(tmp_path / "marker"), range(10)))
    assert [(item, future.result()) for item, future in found] == [(n, n * n) for n in range(10)]
    assert (tmp_path / "marker").exists()
    # Ray reports the death with a print function of its own, which would stay; numba compiles only the built-in one.
    assert isinstance(print, types.BuiltinFunctionType)


def test_a_cluster_that_is_there_is_known(cluster):
    """A signal still ends the script, although Ray installs its own handler."""
    _check_answers(cluster.get_runtime_context().gcs_address)
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


@pytest.mark.parametrize("step", [preprocess_inter, preprocess_multimodal, cross_matrix])
def test_an_address_that_does_not_answer(made, capsys, step):
    more = ("--features", "plus") if step is cross_matrix else ()
    assert call(step.main, "--paths", made.file, "--ray", "127.0.0.1:1", *more) == 2
    assert "no Ray cluster answers" in capsys.readouterr().err
