"""Equal inputs give equal bytes for any order of the raw rows, any ids and any number of threads."""

import random
import re
import shutil

import numpy as np
import pytest
import torch
from threadpoolctl import threadpool_limits

import mlp
from mma4ctr.data.interactions import load_interactions
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.runtime import parallel
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, prepare

TIKTOK = "dataset/TikTok2019ICME/track1"
FOLDERS = ("graph/tiktok", "modal/tiktok", "user_embedding/tiktok_like", "matrix/tiktok_like/vat_concat")


def copied(raw_world, folder):
    """Copy the raw TikTok files and path.json."""
    shutil.copytree(raw_world / TIKTOK, folder / TIKTOK)
    shutil.copy(raw_world / "path.json", folder)
    return folder


def all_steps(folder, epochs=2):
    """Run steps 1 to 5; returns the fingerprints of their output and the result."""
    prepare(folder / "path.json")
    assert call(mlp.main, "--paths", folder / "path.json", "--task", "tiktok_like", "--epochs", epochs) == 0
    paths = load_paths(folder / "path.json")
    result = read_results(paths.results)[-1]
    made = {name: read_artifact(folder / name, "").fingerprint for name in FOLDERS}
    model = read_artifact(paths.torch_model / "tiktok_like" / result.run_id, "").manifest["files"]["model.safetensors"]
    return made, model, (result.auc, result.gauc, result.logloss)


@pytest.fixture(scope="module")
def answer(raw_world, tmp_path_factory):
    """The output for the unchanged files."""
    return all_steps(copied(raw_world, tmp_path_factory.mktemp("answer")))


def test_the_same_again(raw_world, tmp_path, answer):
    assert all_steps(copied(raw_world, tmp_path)) == answer


@pytest.mark.parametrize("files", ["final_*.txt", "track1_*.txt"])
def test_the_order_of_the_raw_rows_does_not_matter(raw_world, tmp_path, answer, files):
    """TikTok's rows have a time. (WeChat's have a day; within it, only their order in the file orders them.)"""
    folder = copied(raw_world, tmp_path)
    for path in (folder / TIKTOK).glob(files):
        lines = path.read_text().splitlines()
        random.Random(0).shuffle(lines)
        path.write_text("\n".join(lines) + "\n")
    found = all_steps(folder)
    if files.startswith("final"):
        assert found == answer
    else:  # sums over the items in another order differ in their last digits
        assert found[0]["graph/tiktok"] == answer[0]["graph/tiktok"]
        assert found[2] == pytest.approx(answer[2], abs=2e-3)


def renamed(old):
    return str(7 * int(old) + 10**12)


def test_other_ids_in_the_same_order_do_not_matter(raw_world, tmp_path, answer):
    folder = copied(raw_world, tmp_path)
    path = folder / TIKTOK / "final_track1_train.txt"
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    for row in rows:
        for column in (0, 2):  # user and item
            if row[column] != "-1":
                row[column] = renamed(row[column])
    path.write_text("\n".join("\t".join(row) for row in rows) + "\n")
    for path in (folder / TIKTOK).glob("track1_*.txt"):
        path.write_text(re.sub('("item_id": )([0-9]+)', lambda found: found[1] + renamed(found[2]), path.read_text()))
    made, model, scores = all_steps(folder)
    assert model == answer[1] and scores == answer[2]
    assert made["graph/tiktok"] != answer[0]["graph/tiktok"], "the id table is another"
    data = load_interactions(load_paths(folder / "path.json"), "tiktok")
    assert (data.user_ids >= 10**12).all() and (data.item_ids >= 10**12).all()
    assert np.array_equal(np.unique(data.user), np.arange(len(data.user_ids)))


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_does_not_matter(raw_world, tmp_path, answer, monkeypatch, threads):
    monkeypatch.setattr(parallel, "cores", lambda: threads)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with threadpool_limits(threads):
            made, _, scores = all_steps(copied(raw_world, tmp_path))
    finally:
        torch.set_num_threads(before)
    assert made["graph/tiktok"] == answer[0]["graph/tiktok"]
    # Products are summed in another order by another number of threads.
    assert scores == pytest.approx(answer[2], abs=2e-3)
