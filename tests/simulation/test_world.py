"""The simulated world: its rates, its irregularities, the truth files, and equal bytes for equal seeds."""

import csv
import hashlib
import json
import os
import shutil

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from mma4ctr.data.interactions import TEST, load_interactions
from mma4ctr.datasets.wechat import CLICK_WEIGHTS, click_label
from mma4ctr.evaluation.ground_truth import oracle_auc, true_probabilities, true_test_probabilities
from mma4ctr.evaluation.metrics import auc
from mma4ctr.runtime.errors import UserError
from mma4ctr.simulation import __main__ as command
from mma4ctr.simulation import tiktok, wechat
from mma4ctr.simulation.law import LATE
from tests.conftest import call


def contents(folder):
    return {
        path.relative_to(folder): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def test_a_seed_gives_the_same_files_and_another_seed_others(tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        assert call(command.main, tmp_path / name, "--rows", 2000, "--users", 20, "--items", 60, "--seed", seed) == 0
    assert contents(tmp_path / "a") == contents(tmp_path / "b") != contents(tmp_path / "c")


@pytest.mark.parametrize("real", [False, True])
def test_rates_are_as_asked(tmp_path, real):
    settings = command.WorldSettings("wechat", 300_000, users=300, items=500, seed=1, real_rates=real, features=False)
    command.write_world(settings, tmp_path / "w")
    truth = pq.read_table(tmp_path / "w/truth/probabilities.parquet")
    ratios = wechat.REAL_NEGATIVES_PER_POSITIVE if real else wechat.NEGATIVES_PER_POSITIVE
    for action, ratio in ratios.items():
        mean = truth[action].to_numpy().mean()
        assert (1 - mean) / mean == pytest.approx(ratio, rel=0.05), action
    with (tmp_path / "w/user_action.csv").open() as file:
        rows = list(csv.DictReader(file))
    labels = {action: np.array([int(row[action]) for row in rows]) for action in CLICK_WEIGHTS}
    for action, values in labels.items():
        expected = truth[action].to_numpy().sum()
        assert abs(values.sum() - expected) < 5 * np.sqrt(expected) + 1
    clicks, expected = click_label(labels).sum(), truth["click"].to_numpy().sum()
    assert abs(clicks - expected) < 5 * np.sqrt(expected) + 1


def test_click_probability_equals_enumeration():
    rng = np.random.default_rng(0)
    probability = {action: rng.random(20) for action in CLICK_WEIGHTS}
    expected = np.zeros(20)
    for pattern in np.ndindex(*[2] * 7):
        if 2 * sum(w * p for w, p in zip(CLICK_WEIGHTS.values(), pattern, strict=True)) >= 13:
            expected += np.prod(
                [probability[a] if p else 1 - probability[a] for a, p in zip(probability, pattern, strict=True)], 0
            )
    assert wechat.click_probability(probability) == pytest.approx(expected, abs=1e-5)


def test_the_files_have_the_quirks_of_the_real_ones(raw_world):
    track = raw_world / "dataset/TikTok2019ICME/track1"
    assert len(list(track.glob("track1_video_features_part*.txt"))) == 11
    assert len(list(track.glob("track1_audio_features_part*.txt"))) == 4
    lines = [json.loads(line) for path in track.glob("track1_video*") for line in path.read_text().splitlines()]
    lengths = [len(line["video_feature_dim_128"]) for line in lines]
    assert {0, 128} < set(lengths)
    assert len({tuple(line) for line in lines}) == 2, "key order varies"
    titles = [json.loads(line) for line in (track / "track1_title.txt").read_text().splitlines()]
    assert {} in [line["title_features"] for line in titles]
    rows = [line.split("\t") for line in (track / "final_track1_train.txt").read_text().splitlines()]
    assert {len(row) for row in rows} == {12}
    times = [int(row[10]) for row in rows]
    assert times != sorted(times) and len(set(map(tuple, rows))) < len(rows)
    shown = {int(row[2]) for row in rows}
    featured = {line["item_id"] for line in lines}
    assert shown - featured and featured - shown
    late = {int(row[2]) for row in rows} - {
        int(r[2]) for r in rows if int(r[10]) < tiktok.FIRST_TIME + 0.9 * tiktok.SPAN
    }
    assert len(late) >= 0.5 * LATE * 400

    folder = raw_world / "dataset/wechat"
    with (folder / "feed_info.csv").open() as file:
        info = list(csv.DictReader(file))
    assert any(row["ocr"] == "" and row["ocr_char"] for row in info)
    assert any(row["bgm_song_id"].endswith(".0") for row in info) and any(row["bgm_song_id"] == "" for row in info)
    assert all(len(pair.split(" ")) == 2 for row in info for pair in row["machine_tag_list"].split(";") if pair)
    with (folder / "feed_embeddings.csv").open() as file:
        cell = next(iter(csv.DictReader(file)))["feed_embedding"]
    assert cell.endswith(" ") and len(cell.split()) == 512
    with (folder / "user_action.csv").open() as file:
        days = [int(row["date_"]) for row in csv.DictReader(file)]
    assert days == sorted(days) and set(days) == set(range(1, 15))


@pytest.mark.parametrize("task", ["wechat_click", "tiktok_like", "tiktok_finish"])
def test_the_oracle_is_better_than_what_is_known_and_belongs_to_the_rows(made, task):
    dataset, target = task.split("_")
    data = load_interactions(made, dataset)
    test = np.flatnonzero(data.split == TEST)
    best = oracle_auc(made, task)
    rate = np.bincount(data.user, data.label(target)) / np.bincount(data.user)
    assert 0.65 < best < 0.97
    assert best > auc(data.label(target)[test], rate[data.user[test]])
    where = (made.wechat if dataset == "wechat" else made.tiktok / "track1") / "truth"
    columns = (data.user_ids[data.user], data.item_ids[data.item], np.floor(data.time).astype(np.int64))
    chance = true_probabilities(where, target, *columns)
    assert chance.mean() == pytest.approx(data.label(target).mean(), rel=0.2)
    assert (true_test_probabilities(made, task) == chance[test]).all()


def test_damaged_truth_gives_one_error_line(tmp_path):
    keys = np.arange(3)
    columns = {"user": keys, "item": keys, "time": keys, "like": np.array([0.1, 0.2, 0.3])}
    file = tmp_path / "probabilities.parquet"
    pq.write_table(pa.table(columns), file)
    assert true_probabilities(tmp_path, "like", keys, keys, keys).tolist() == [0.1, 0.2, 0.3]
    whole = file.read_bytes()
    for target, content in (("finish", whole), ("like", whole[:-20]), ("like", b"")):
        file.write_bytes(content)
        with pytest.raises(UserError, match=r"probabilities\.parquet: not readable"):
            true_probabilities(tmp_path, target, keys, keys, keys)
    file.unlink()
    with pytest.raises(UserError, match=r"probabilities\.parquet: not readable"):
        true_probabilities(tmp_path, "like", keys, keys, keys)


def test_it_does_not_write_over_real_files(tmp_path, capsys):
    real = tmp_path / "dataset/wechat"
    real.mkdir(parents=True)
    (real / "user_action.csv").write_text("precious")
    assert call(command.main, tmp_path, "--dataset", "wechat", "--rows", 1000) == 2
    assert "which is not a file of the simulated world" in capsys.readouterr().err
    assert (real / "user_action.csv").read_text() == "precious"


def test_an_old_world_whose_removal_was_killed_is_removed_later(tmp_path, monkeypatch):
    settings = command.WorldSettings("tiktok", 2000, users=20, items=60, seed=1)
    command.write_world(settings, tmp_path / "whole")
    files, unlink = len(contents(tmp_path / "whole")), os.unlink
    assert files > 3
    for moment in range(files):
        folder = tmp_path / str(moment)
        shutil.copytree(tmp_path / "whole", folder)
        before = iter(range(moment))

        def killed(*place, before=before, **options):
            if next(before, None) is None:
                raise KeyboardInterrupt
            unlink(*place, **options)

        with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
            patched.setattr(os, "unlink", killed)
            command.remove_simulated(folder)
        command.remove_simulated(folder)
        assert not folder.exists(), moment
