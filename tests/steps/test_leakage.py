"""Validation and test labels change no input of a training row and nothing that is learned.

Early stopping chooses the epoch by validation labels. So the weights are compared without early stopping and
interrupts, and a separate test shows that early stopping reads no test row.
"""

import csv
import random
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import TRAIN, VALID, load_interactions
from mma4ctr.datasets import BUILT_IN
from mma4ctr.datasets.tiktok import COLUMNS
from mma4ctr.datasets.wechat import ACTIONS
from mma4ctr.evaluation.metrics import auc
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.features.feature_matrix import load_matrix, load_step_inputs, rows_in_blocks
from mma4ctr.features.matrix_writer import user_part
from mma4ctr.features.scaling import fit_scaling
from mma4ctr.features.user_embedding import UserEmbedder
from mma4ctr.model.trainer import train
from mma4ctr.model.training_defaults import TrainSettings
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, prepare, write_described

CPU = torch.device("cpu")
FILES = {
    "tiktok": "dataset/TikTok2019ICME/track1/final_track1_train.txt",
    "wechat": "dataset/wechat/user_action.csv",
}
KEYS = {"tiktok": ("uid", "item_id", "time"), "wechat": ("userid", "feedid", "date_")}
LABELS = {"tiktok": ("finish", "like"), "wechat": ACTIONS}
TASKS = {"tiktok": ("tiktok_like", "tiktok_finish"), "wechat": ("wechat_click",)}


def keys_of(data):
    """Return (user, item, time or day) of every kept row, as in the raw file."""
    time = np.floor(data.time).astype(np.int64)
    return list(zip(data.user_ids[data.user].tolist(), data.item_ids[data.item].tolist(), time.tolist(), strict=True))


def flipped(labels):
    """Flip every label."""
    return [[str(1 - int(cell)) for cell in row] for row in labels]


def permuted(labels):
    """Permute the labels over the rows."""
    return random.Random(0).sample(labels, len(labels))


def with_other_labels(dataset, world, folder, change, keys=None):
    """Copy a data set and change the labels of the rows with these keys (None: all); returns the number of changed
    rows."""
    shutil.copytree(world / "dataset", folder / "dataset")
    shutil.rmtree(folder / "dataset" / ("wechat" if dataset == "tiktok" else "TikTok2019ICME"))
    shutil.copy(world / "path.json", folder)
    delimiter = "\t" if dataset == "tiktok" else ","
    with (folder / FILES[dataset]).open(newline="") as file:
        rows = list(csv.reader(file, delimiter=delimiter))
    names = COLUMNS if dataset == "tiktok" else rows[0]
    key_columns, label_columns = ([names.index(name) for name in which[dataset]] for which in (KEYS, LABELS))
    by_key = {}
    for row in rows if dataset == "tiktok" else rows[1:]:
        key = tuple(int(row[column]) for column in key_columns)
        if keys is None or key in keys:
            by_key.setdefault(key, []).append(row)  # copies of a row stay copies
    labels = [[copies[0][column] for column in label_columns] for copies in by_key.values()]
    for copies, new in zip(by_key.values(), change(labels), strict=True):
        for row in copies:
            for column, cell in zip(label_columns, new, strict=True):
                row[column] = cell
    (folder / FILES[dataset]).write_text("".join(delimiter.join(row) + "\n" for row in rows))
    return len(by_key)


def same_arrays(folders, without=()):
    """Check that the arrays of two artifact folders are equal to the byte, except some."""
    one, two = (read_artifact(folder, "") for folder in folders)
    assert one.array_names == two.array_names
    names = [name for name in one.array_names if name not in without]
    assert names
    for name in names:
        assert one.array(name).tobytes() == two.array(name).tobytes(), (folders[0], name)


def made_folders(paths, kind):
    """Return the artifact folders of a kind, by path."""
    root = getattr(paths, kind)
    return sorted(path.parent.relative_to(root) for path in root.rglob("manifest.json"))


@pytest.mark.parametrize(("dataset", "change"), [("tiktok", flipped), ("wechat", permuted)])
def test_later_labels_change_nothing_a_training_row_sees(made, raw_world, tmp_path, dataset, change):
    """Compares every array of steps 1 to 4 and the weights of step 5, for every task and variant."""
    data = load_interactions(made, dataset)
    keys = np.array(keys_of(data), dtype=object)
    training = set(map(tuple, keys[data.split == TRAIN]))
    later = set(map(tuple, keys)) - training
    assert with_other_labels(dataset, raw_world, tmp_path, change, later) > 1000
    prepare(tmp_path / "path.json")
    both = [made, load_paths(tmp_path / "path.json")]

    labels = [f"label_{target}" for target in BUILT_IN[dataset].targets]
    same_arrays([paths.graph / dataset for paths in both], without=labels)
    one, two = (load_interactions(paths, dataset) for paths in both)
    learned = one.split == TRAIN
    for label in labels:
        before, after = one.artifact.array(label), two.artifact.array(label)
        assert (before[learned] == after[learned]).all()
        assert (before[~learned] != after[~learned]).all() if change is flipped else (before != after).any()
    same_arrays([paths.modal / dataset for paths in both])
    for task in TASKS[dataset]:
        same_arrays([paths.user_embedding / task for paths in both])
        for variant in made_folders(both[1], "matrix"):
            if variant.parent.name == task:
                same_arrays([paths.matrix / variant for paths in both])
        settings = TrainSettings(epochs=2, batch_size=256, patience=0, max_interrupts=0)
        weights = [train(load_matrix(paths, task, "vat_concat", CPU), settings, auc)[0].weights for paths in both]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_pca_tfidf_and_the_scaling_of_items_see_no_label(made, raw_world, tmp_path):
    """Flipping every label, including those of training rows, changes no array of items."""
    with_other_labels("tiktok", raw_world, tmp_path, flipped)
    prepare(tmp_path / "path.json")
    both = [made, load_paths(tmp_path / "path.json")]
    same_arrays([paths.modal / "tiktok" for paths in both])
    for task in TASKS["tiktok"]:
        variants = [folder for folder in made_folders(both[1], "matrix") if folder.parent.name == task]
        assert len(variants) == 11
        for variant in variants:
            same_arrays([paths.matrix / variant for paths in both], ("user_part", "user_shift", "user_scale"))
        embeddings = [read_artifact(paths.user_embedding / task, "") for paths in both]
        assert (embeddings[0].array("visual") != embeddings[1].array("visual")).any(), "they were flipped"


@pytest.mark.parametrize("task", ["tiktok_like", "wechat_click"])
def test_the_scaling_of_users_is_made_from_their_table_and_counts(made, task):
    """The scaling uses only the labels in the embedding, which are training labels."""
    inputs = load_step_inputs(made, task)
    table = user_part(inputs, ("visual", "acoustic", "textual"))
    block = inputs.embedding.array("block")
    rows = rows_in_blocks(inputs.data.user, block, len(inputs.data.user_ids))[inputs.data.split == TRAIN]
    expected = fit_scaling(table, np.bincount(rows, minlength=len(table)), "zscore")
    matrix = read_artifact(made.matrix / task / "vat_concat", "")
    assert (matrix.array("user_shift") == expected.shift).all() and (matrix.array("user_scale") == expected.scale).all()
    assert (matrix.array("user_part") == expected.apply(table)).all()


@pytest.mark.parametrize(("task", "modality"), [("wechat_click", "textual"), ("tiktok_like", "visual")])
def test_one_training_label_leaves_its_own_feature_row(made, task, modality):
    """Flipping the label of a training row leaves its own feature row, before scaling, unchanged.

    Scaling uses a mean and a deviation over all training rows, so a label changes it for all rows equally.
    """
    dataset, target = task.split("_")
    data = load_interactions(made, dataset)
    features = read_artifact(made.modal / dataset, "").array(modality)
    label = data.label(target)
    block = read_artifact(made.user_embedding / task, "").array("block")
    before = UserEmbedder(data, label, block, "train").table(features, 21)
    for row in np.random.default_rng(0).choice(np.flatnonzero(data.split == TRAIN), 10, replace=False):
        changed = label.copy()
        changed[row] ^= 1
        after = UserEmbedder(data, changed, block, "train").table(features, 21)
        assert after[block[row], data.user[row]].tobytes() == before[block[row], data.user[row]].tobytes()
        assert (after != before).any()


class Untouchable:
    """A replacement of the test rows that fails on every access."""

    def __getattribute__(self, name):
        raise AssertionError(f"training asked the test rows for {name}")

    def __len__(self):
        raise AssertionError("training counted the test rows")


def test_training_and_early_stop_see_no_test_row(made):
    matrix = load_matrix(made, "wechat_click", "vat_concat", CPU)
    settings = TrainSettings(epochs=40, batch_size=256, learning_rate=5e-3, patience=2)
    (one,) = train(matrix, settings, auc)
    assert "stopped early" in one.ended
    (two,) = train(replace(matrix, test=Untouchable()), settings, auc)
    assert (one.history, one.best_epoch, one.ended) == (two.history, two.best_epoch, two.ended)
    assert all(torch.equal(one.weights[name], two.weights[name]) for name in one.weights)


def test_evidence_all_sees_the_test_labels(made):
    """Control: with the published evidence `all`, the same change has an effect."""
    data = load_interactions(made, "wechat")
    features = read_artifact(made.modal / "wechat", "").array("textual")
    label = data.label("click")
    changed = np.where(data.split >= VALID, 1 - label, label).astype(np.uint8)
    block = np.zeros(len(data), np.uint8)
    tables = [UserEmbedder(data, kind, block, "all").table(features, 21) for kind in (label, changed)]
    assert (tables[0] != tables[1]).any()


DRAWN = """
min_interactions = 1
negatives = 3
[interactions]
files = "log.csv"
user = "user"
item = "item"
time = "time"
[targets]
seen = true
[columns.context]
hour = true
[modalities.visual]
vectors = "vectors.npy"
ids = 0
"""


def test_nothing_tells_drawn_negatives_from_positives(tmp_path):
    """In a log of random items, features plus find nothing in a row that tells whether it was drawn."""
    rng, users, items, rows = np.random.default_rng(0), 40, 400, 2000
    columns = rng.integers(0, users, rows), rng.integers(0, items, rows), 1_600_000_000 + 900 * np.arange(rows)
    with (tmp_path / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("user", "item", "time"), *zip(*columns, strict=True)])
    np.save(tmp_path / "vectors.npy", rng.normal(size=(items, 4)).astype(np.float32))
    (tmp_path / "own.toml").write_text(DRAWN)
    paths = write_described(tmp_path, {"own": "own.toml"})
    usual = ("--paths", paths)
    for script in (preprocess_inter, preprocess_multimodal, get_user_embedding):
        assert call(script.main, *usual) == 0
    assert call(gen_matrix.main, *usual, "--features", "plus") == 0
    assert call(mlp.main, *usual, "--features", "plus") == 0
    (result,) = read_results(load_paths(paths).results)
    assert result.auc is not None and 0.42 < result.auc < 0.58
    manifest = read_artifact(load_paths(paths).matrix / "own_seen/visual.plus", "").manifest
    assert sum("recency" in str(name) for name in manifest["columns"]) >= 1
