"""Step 1 against plain loops: kept rows, order, duplicates, the click label, the split."""

import csv
import shutil
from collections import Counter

import numpy as np
import pytest

import preprocess_inter
from mma4ctr.data import negative_sampling, row_order
from mma4ctr.data.interactions import TEST, TRAIN, VALID, load_interactions
from mma4ctr.data.row_order import day_and_position, order_by
from mma4ctr.data.splits import order_statistics, split_rows
from mma4ctr.datasets.id_index import IdCollector, IdIndex
from mma4ctr.datasets.wechat import ACTIONS, CLICK_WEIGHTS, click_label
from mma4ctr.storage import text_blocks as rawfiles
from tests.conftest import call


def read_rows(path, delimiter, names=None):
    with path.open() as file:
        return list(csv.DictReader(file, fieldnames=names, delimiter=delimiter))


def kept_by_loop(rows, user_key, minimum):
    """Return the rows of users with `minimum` raw rows, without exact duplicates, in the order of the file."""
    often = Counter(row[user_key] for row in rows)
    seen, kept = set(), []
    for row in rows:
        whole = tuple(row.values())
        if often[row[user_key]] >= minimum and whole not in seen:
            seen.add(whole)
            kept.append(row)
    return kept


def test_tiktok_rows_equal_a_loop(made):
    rows = read_rows(made.tiktok / "track1/final_track1_train.txt", "\t", preprocess_tiktok_columns())
    kept = kept_by_loop(rows, "uid", 20)
    kept.sort(key=lambda r: (int(r["uid"]), int(r["time"]), int(r["item_id"])))
    data = load_interactions(made, "tiktok")
    assert len(data) == len(kept) < len(rows)
    expected = [tuple(int(r[name]) for name in ("uid", "item_id", "device", "time", "like", "finish")) for r in kept]
    columns = (data.user_ids[data.user], data.item_ids[data.item], data.device, data.time)
    actual = zip(*(c.tolist() for c in (*columns, data.label("like"), data.label("finish"))), strict=True)
    assert sorted(actual) == sorted(expected)
    key = np.stack([data.user, data.time, data.item])
    assert (np.lexsort(key[::-1]) == np.arange(len(data))).all()


def preprocess_tiktok_columns():
    names = "uid user_city item_id author_id item_city channel finish like music_id device time duration_time"
    return names.split()


def test_wechat_rows_equal_a_loop(made):
    kept = kept_by_loop(read_rows(made.wechat / "user_action.csv", ","), "userid", 20)
    by_user_day = {}
    for row in kept:
        by_user_day.setdefault((int(row["userid"]), int(row["date_"])), []).append(row)
    expected = []
    for (user, day), rows in sorted(by_user_day.items()):
        for place, row in enumerate(rows):
            points = sum(weight * int(row[action]) for action, weight in CLICK_WEIGHTS.items())
            expected.append((user, int(row["feedid"]), day + place / len(rows), int(points / 13 >= 0.5)))
    data = load_interactions(made, "wechat")
    actual = zip(
        data.user_ids[data.user].tolist(),
        data.item_ids[data.item].tolist(),
        data.time.tolist(),
        data.label("click").tolist(),
        strict=True,
    )
    assert list(actual) == expected


def test_click_label_is_the_weighted_mean_of_the_actions():
    patterns = np.array(np.meshgrid(*[[0, 1]] * 7)).reshape(7, -1)
    labels = click_label(dict(zip(ACTIONS, patterns.astype(np.uint8), strict=True)))
    for pattern, label in zip(patterns.T, labels, strict=True):
        of = dict(zip(ACTIONS, pattern, strict=True))
        mean = 4 * of["read_comment"] + 3 * of["like"] + 2 * of["click_avatar"]
        mean = (mean + of["forward"] + of["favorite"] + of["comment"] + of["follow"]) / 13
        assert label == (mean >= 0.5)


def test_chronological_split_cuts_time_in_two_places():
    rng = np.random.default_rng(0)
    time = rng.integers(0, 5000, 4000)
    split = split_rows("chronological", np.zeros(4000, np.int32), time, 0)
    first, second = np.sort(time)[3200], np.sort(time)[3600]
    for moment, part in zip(time, split, strict=True):
        assert part == (TRAIN if moment < first else VALID if moment < second else TEST)
    assert abs((split == TRAIN).mean() - 0.8) < 0.01


@pytest.mark.parametrize("split", ["random", "user"])
def test_drawn_splits_have_the_right_sizes_and_follow_the_seed(split):
    user = np.sort(np.random.default_rng(0).integers(0, 400, 20_000))
    parts = [split_rows(split, user, np.zeros(20_000), seed) for seed in (1, 1, 2)]
    assert (parts[0] == parts[1]).all()
    assert (parts[0] != parts[2]).any()
    assert np.bincount(parts[0]) / 20_000 == pytest.approx([0.8, 0.1, 0.1], abs=0.01)
    if split == "user":
        for one in range(400):
            assert len(set(parts[0][user == one])) <= 1


def test_users_interleave_within_a_day():
    user = np.array([0, 0, 0, 0, 1, 1])
    day = np.array([1, 1, 1, 2, 1, 1])
    time = day_and_position(user, day)
    assert time == pytest.approx([1, 1 + 1 / 3, 1 + 2 / 3, 2, 1, 1.5])


def test_rows_are_the_same_in_small_parts(raw_copy, monkeypatch):
    """Many spill files give the rows of one."""
    paths = raw_copy / "path.json"
    from mma4ctr.storage.artifacts import read_artifact

    prints = []
    for rows in (10**6, 1000):
        monkeypatch.setattr(row_order, "PARTITION_ROWS", rows)
        assert call(preprocess_inter.main, "--paths", paths, "--min-interactions", 20) == 0
        prints.append([read_artifact(raw_copy / "graph" / name, "").fingerprint for name in ("wechat", "tiktok")])
    assert prints[0] == prints[1]


def test_inter_files_hold_our_rows_in_order(made):
    data = load_interactions(made, "wechat")
    rows = read_rows(made.graph / "wechat/wechat.test.inter", "\t")
    test = np.flatnonzero(data.split == TEST)
    assert [int(row["user_id:token"]) for row in rows] == data.user_ids[data.user[test]].tolist()
    assert [int(row["item_id:token"]) for row in rows] == data.item_ids[data.item[test]].tolist()
    assert [int(row["click:float"]) for row in rows] == data.label("click")[test].tolist()
    assert [float(row["timestamp:float"]) for row in rows] == data.time[test].tolist()


@pytest.mark.parametrize("spread", [1, 10**9])
def test_id_index_equals_a_dict(spread):
    rng = np.random.default_rng(0)
    ids = np.unique(rng.integers(-50, 500, 100) * spread)
    where = {int(value): place for place, value in enumerate(ids)}
    asked = np.concatenate([ids, rng.integers(-1000, 1000, 300) * spread, [2**62, -(2**62)]])
    assert IdIndex(ids).positions(asked).tolist() == [where.get(int(value), -1) for value in asked]


def test_rows_are_ordered_as_by_lexsort():
    rng = np.random.default_rng(0)
    rows = 5000
    wide = rng.integers(0, 2**64, rows, dtype=np.uint64)
    for columns in (
        [rng.integers(0, 20, rows), rng.integers(-5, 5, rows), rng.permutation(rows)],
        [rng.integers(0, 3, rows), rng.integers(0, 2, rows), wide, rng.permutation(rows)],
        [rng.integers(0, 2**62, rows), rng.integers(0, 2**62, rows), rng.permutation(rows)],
        [np.zeros(rows, np.int64), wide % np.uint64(7), rng.permutation(rows)],
    ):
        assert np.array_equal(order_by(*columns), np.lexsort(columns[::-1]))
    assert len(order_by(np.empty(0, np.int64), np.empty(0, np.uint64))) == 0


@pytest.mark.parametrize("kind", ["equal", "few", "wide", "negative", "days"])
def test_order_statistics_are_those_of_a_sort(kind, monkeypatch):
    monkeypatch.setattr(row_order, "PARTITION_ROWS", 700)
    rng = np.random.default_rng(1)
    values = {
        "equal": np.full(3000, 7),
        "few": rng.integers(0, 5, 3000),
        "wide": rng.integers(0, 2**55, 3000),
        "negative": rng.integers(-(2**40), 2**40, 3000),
        "days": rng.integers(1, 15, 3000) + rng.random(3000),
    }[kind]
    ranks = [0, 1, 1500, 2400, 2700, 2999]
    assert order_statistics(values, ranks) == np.sort(values)[ranks].tolist()


def test_distinct_ids_of_parts():
    rng = np.random.default_rng(0)
    parts = [
        rng.integers(0, 1000, 500),
        rng.integers(-5, 5, 100),
        rng.integers(2**40, 2**40 + 50, 100),
        np.empty(0, int),
    ]
    collector = IdCollector()
    for part in parts:
        collector.add(part)
    assert np.array_equal(collector.ids(), np.unique(np.concatenate(parts)))
    assert IdCollector().ids().tolist() == []


def test_a_raw_file_is_the_same_in_blocks_of_any_size(raw_copy, monkeypatch):
    """No line is cut, wherever a block ends; also with a byte order mark and a header."""
    path = raw_copy / "dataset/wechat/user_action.csv"
    text = path.read_bytes()[:3000]
    text = text[: text.rfind(b"\n") + 1]
    for content in (text, b"\xef\xbb\xbf" + text):
        path.write_bytes(content)
        for size in (1, 7, 40, 1000, 10_000):
            monkeypatch.setattr(rawfiles, "BLOCK_BYTES", size)
            blocks = list(rawfiles.read_blocks(path, skip_lines=1, closed_by_newline=True))
            pieces = [(block, block.read()) for block in blocks]
            assert b"".join(data for _, data in pieces) == text.split(b"\n", 1)[1]
            line = 2
            for block, data in pieces:
                if data:
                    assert block.first_line == line
                line += data.count(b"\n")


def test_too_little_disk_is_reported_before_the_work(raw_copy, monkeypatch, capsys):
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**9, 10**9 - 1000, 1000))
    assert call(preprocess_inter.main, "--paths", raw_copy / "path.json", "--min-interactions", 20) == 2
    error = capsys.readouterr().err
    assert "bytes, and 1,000 are free" in error and "make room" in error
    assert not (raw_copy / "graph/tiktok").exists()


def test_leftover_negatives_are_drawn_at_once(monkeypatch):
    """Users who lack items after the random rounds get what is free, without one search for each row."""
    monkeypatch.setattr(negative_sampling, "ROUNDS", 1)
    users, items, each, count = 30, 2000, 60, 40
    rng = np.random.default_rng(0)
    user = np.repeat(np.arange(users), each)
    item = np.concatenate([rng.permutation(items)[:each] for _ in range(users)])
    split = np.tile(np.repeat([0, 1, 2], each // 3), users).astype(np.uint8)
    kinds, item = np.unique(item, return_inverse=True)
    searches, setdiff = [], np.setdiff1d
    monkeypatch.setattr(negative_sampling.np, "setdiff1d", lambda *sets: searches.append(1) or setdiff(*sets))
    known = negative_sampling.by_first_split(item, split, len(kinds))
    row, drawn = negative_sampling.draw_unseen(user, item, split, known, count, np.random.default_rng(0))
    assert len(searches) <= 3 * users
    pairs = user[row] * len(kinds) + drawn
    assert len(np.unique(pairs)) == len(pairs) and not set(pairs) & set(user * len(kinds) + item)
    first = np.array([split[item == one].min() for one in range(len(kinds))])
    assert (first[drawn] <= split[row]).all()
    wanted = count * each
    free = [int((first == 0).sum()), len(kinds)]
    of_user = np.bincount(user[row], minlength=users)
    assert (of_user <= min(wanted, free[1] - each)).all() and (of_user >= min(wanted // 3, free[0] - each)).all()
