"""What validation and test labels may touch: nothing that a training row is made of."""

import csv
import shutil

import numpy as np
import torch

import mlp
from mma4ctr.artifacts import read_artifact
from mma4ctr.interactions import TRAIN, load_interactions
from mma4ctr.matrix import load_matrix
from mma4ctr.paths import load_paths
from tests.conftest import prepare

CPU = torch.device("cpu")


def flip_later_labels(source, target, data):
    """Copy the TikTok interactions with finish and like flipped in every row that is no training row."""
    later = {
        (int(user), int(item), int(time))
        for user, item, time in zip(data.user_ids[data.user], data.item_ids[data.item], data.time, strict=True)
    }
    train = data.split == TRAIN
    kept = set(
        zip(
            data.user_ids[data.user[train]].tolist(),
            data.item_ids[data.item[train]].tolist(),
            data.time[train].tolist(),
            strict=True,
        )
    )
    flipped = 0
    with source.open() as old, target.open("w") as new:
        for row in csv.reader(old, delimiter="\t"):
            key = (int(row[0]), int(row[2]), int(row[10]))
            if key in later and key not in kept:
                row[6], row[7] = (str(1 - int(row[6])), str(1 - int(row[7])))
                flipped += 1
            new.write("\t".join(row) + "\n")
    return flipped


def test_changing_every_later_label_changes_nothing_a_training_row_sees(raw_world, tmp_path):
    folders = [tmp_path / "plain", tmp_path / "flipped"]
    for folder in folders:
        shutil.copytree(raw_world / "dataset", folder / "dataset")
        shutil.rmtree(folder / "dataset/wechat")
        shutil.copy(raw_world / "path.json", folder)
    prepare(folders[0] / "path.json")
    paths = [load_paths(folder / "path.json") for folder in folders]
    data = load_interactions(paths[0], "tiktok")
    file = "dataset/TikTok2019ICME/track1/final_track1_train.txt"
    flipped = flip_later_labels(folders[0] / file, folders[1] / file, data)
    assert flipped >= (data.split != TRAIN).sum() > 1000
    prepare(folders[1] / "path.json")

    for task in ("tiktok_like", "tiktok_finish"):
        one, two = (load_interactions(where, "tiktok") for where in paths)
        target = task.split("_")[1]
        later = one.split != TRAIN
        assert (one.label(target)[later] != two.label(target)[later]).all()
        for name in ("user", "item", "device", "time", "split", "user_ids", "item_ids"):
            assert (getattr(one, name) == getattr(two, name)).all(), name
        assert (one.label(target)[~later] == two.label(target)[~later]).all()
        tables = [read_artifact(where.user_embedding / task, "") for where in paths]
        for name in ("block", *tables[0].manifest["modalities"]):
            assert (tables[0].array(name) == tables[1].array(name)).all(), name
        for variant in ("vat_concat", "va_cross", "textual"):
            parts = [read_artifact(where.matrix / task / variant, "") for where in paths]
            for name in ("user_part", "item_part", "user_shift", "user_scale", "item_shift", "item_scale"):
                assert (parts[0].array(name) == parts[1].array(name)).all(), (variant, name)
        # And so does what is learned from them, when nothing is chosen by validation.
        settings = mlp.TrainSettings(epochs=2, batch_size=256, patience=0, max_interrupts=0)
        weights = [mlp.train(load_matrix(where, task, "vat_concat", CPU), settings)[0].weights for where in paths]
        assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_one_training_label_leaves_its_own_feature_row(made, tmp_path):
    """A training row's label is flipped in the arrays of step 1: its own row of features stays as it was."""
    import get_user_embedding as step

    data = load_interactions(made, "wechat")
    modal = read_artifact(made.modal / "wechat", "")
    label = data.label("click")
    block = read_artifact(made.user_embedding / "wechat_click", "").array("block")
    device = step.user_devices(data, "train")
    before = step.user_tables(data, label, block, modal.array("textual"), 21, "train", device)
    for row in np.random.default_rng(0).choice(np.flatnonzero(data.split == TRAIN), 10, replace=False):
        changed = label.copy()
        changed[row] ^= 1
        after = step.user_tables(data, changed, block, modal.array("textual"), 21, "train", device)
        assert (after[block[row], data.user[row]] == before[block[row], data.user[row]]).all()
        assert (after != before).any()


def test_evidence_all_sees_the_test_labels_and_is_marked(made):
    """The counter-proof: with the published evidence the same change is seen."""
    import get_user_embedding as step

    data = load_interactions(made, "wechat")
    features = read_artifact(made.modal / "wechat", "").array("textual")
    label = data.label("click")
    changed = np.where(data.split == TRAIN, label, 1 - label).astype(np.uint8)
    block = np.zeros(len(data), np.uint8)
    device = step.user_devices(data, "all")
    tables = [step.user_tables(data, kind, block, features, 21, "all", device) for kind in (label, changed)]
    assert (tables[0] != tables[1]).any()
