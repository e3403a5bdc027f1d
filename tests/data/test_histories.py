"""Histories: what users did before their first row, from the description to the columns of features plus."""

import json
from itertools import pairwise
from types import SimpleNamespace
from unittest import mock

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.histories import FirstHistories
from mma4ctr.data.interactions import TRAIN, load_interactions
from mma4ctr.datasets import __main__ as datasets_main
from mma4ctr.datasets.base import Histories, InteractionChunk, first_rows
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.features.behavioral.histories import PRIOR, History
from mma4ctr.features.feature_matrix import load_step_inputs
from mma4ctr.features.matrix_writer import plus_factors
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, write_described

ITEMS = 40
LOG = """
min_interactions = 0
[interactions]
files = "log.{suffix}"
user = "user"
item = "item"
{time}
history = "seen"
{separator}
[targets]
like = "liked"
[modalities.vector]
vectors = "vectors.npy"
ids = 0
"""
NOTHING = np.empty(0, np.int64)

rows_of_log = st.lists(
    st.tuples(st.integers(0, 5), st.integers(-3, 3), st.lists(st.integers(0, 9), max_size=4)), min_size=1, max_size=40
)


@given(rows=rows_of_log, cuts=st.lists(st.integers(0, 40), max_size=3), merged=st.sampled_from([0, 1 << 22]))
def test_first_histories_equal_a_loop_over_the_rows(rows, cuts, merged):
    expected = {}
    for user, time, listed in rows:
        if user not in expected or time < expected[user][0]:
            expected[user] = time, listed
    known = IdIndex(np.arange(0, 10, 2))
    found = FirstHistories()
    bounds = sorted({0, len(rows), *(cut for cut in cuts if cut < len(rows))})
    with mock.patch("mma4ctr.data.histories.LEAST_MERGED", merged):
        for start, stop in pairwise(bounds):
            part = rows[start:stop]
            user, time = (np.array([row[place] for row in part]) for place in (0, 1))
            first = first_rows(user, time)
            listed = [part[row][2] for row in first]
            place = np.repeat(np.arange(len(first)), [len(one) for one in listed])
            histories = Histories(
                user[first], time[first], place, np.array([item for one in listed for item in one], np.int64)
            )
            found.add(InteractionChunk(user, *[NOTHING] * 3, {}, NOTHING, histories=histories))
        users, items, unknown = found.pairs(known)
    pairs = {(user, item // 2) for user, (_, listed) in expected.items() for item in listed if item % 2 == 0}
    assert list(zip(users.tolist(), items.tolist(), strict=True)) == sorted(pairs)
    assert unknown == sum(item % 2 for _, listed in expected.values() for item in listed)


def test_a_log_without_histories_has_none():
    found = FirstHistories()
    found.add(InteractionChunk(*[NOTHING] * 4, {}, NOTHING))
    assert found.pairs(IdIndex(np.arange(3))) is None


def draw_log(rows=1200, seed=0):
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(ITEMS, 4)).astype(np.float32)
    log = {"user": rng.integers(0, 30, rows), "item": rng.integers(0, ITEMS, rows), "time": rng.permutation(rows)}
    log["liked"] = (vectors[log["item"], 0] + rng.normal(size=rows) > 0).astype(int)
    log["seen"] = [rng.integers(0, ITEMS + 5, rng.integers(0, 6)).tolist() for _ in range(rows)]
    return log, vectors


def write_log(folder, log, vectors, suffix):
    np.save(folder / "vectors.npy", vectors)
    if suffix == "parquet":
        pq.write_table(pa.table(log), folder / "log.parquet")
    elif suffix == "jsonl":
        rows = zip(*(list(map(int, column)) if name != "seen" else column for name, column in log.items()), strict=True)
        lines = [json.dumps(dict(zip(log, row, strict=True))) for row in rows]
        (folder / "log.jsonl").write_text("\n".join(lines) + "\n")
    else:
        columns = log | {"seen": ["^".join(map(str, listed)) for listed in log["seen"]]}
        lines = [",".join(columns), *(",".join(map(str, row)) for row in zip(*columns.values(), strict=True))]
        (folder / "log.csv").write_text("\n".join(lines) + "\n")


def described(folder, suffix="parquet", time='time = "time"'):
    separator = 'history_separator = "^"' if suffix == "csv" else ""
    (folder / "own.toml").write_text(LOG.format(suffix=suffix, time=time, separator=separator))
    return write_described(folder, {"own": "own.toml"})


@pytest.mark.parametrize("suffix", ["parquet", "jsonl", "csv"])
@pytest.mark.parametrize("time", ['time = "time"', ""])
def test_step_1_keeps_the_history_of_each_users_first_row(tmp_path, capsys, suffix, time):
    log, vectors = draw_log()
    write_log(tmp_path, log, vectors, suffix)
    paths = described(tmp_path, suffix, time)
    assert call(preprocess_inter.main, "--paths", paths) == 0
    order = log["time"] if time else np.arange(len(log["user"]))
    expected = set()
    for user in range(30):
        own = np.flatnonzero(log["user"] == user)
        listed = log["seen"][own[np.argmin(order[own])]]
        expected |= {(user, item) for item in listed if item < ITEMS}
    data = load_interactions(load_paths(paths), "own")
    user, item = (data.artifact.array(f"history_{of}") for of in ("user", "item"))
    assert set(zip(data.user_ids[user].tolist(), data.item_ids[item].tolist(), strict=True)) == expected
    counts = data.artifact.manifest["history"]
    assert counts["pairs"] == len(expected) == len(user)
    output = capsys.readouterr().out
    assert f"histories of the first rows of {counts['users']} users, {counts['pairs']} items" in output
    assert call(datasets_main.main, "check", paths) == 0
    assert "histories" in capsys.readouterr().out


def made(paths):
    for step in (preprocess_inter, preprocess_multimodal, get_user_embedding):
        assert call(step.main, "--paths", paths) == 0
    return load_step_inputs(load_paths(paths), "own_like")


def test_columns_of_histories_equal_the_formula(tmp_path):
    log, vectors = draw_log()
    write_log(tmp_path, log, vectors, "parquet")
    paths = described(tmp_path)
    inputs = made(paths)
    factors = plus_factors(inputs, ("vector",), load_paths(paths).temp)
    (table,) = [one for one in factors.plus.pairs if one.kind == "history"]
    data, (user_vectors, item_vectors) = inputs.data, table.block(5)
    user, item = (data.artifact.array(f"history_{of}") for of in ("user", "item"))
    trained = {int(one) for one in data.user[data.split == TRAIN]}
    names, users = factors.plus.user_names, len(data.user_ids)
    for one in range(users):
        listed = item[user == one]
        mean = item_vectors[listed].sum(axis=0) / (len(listed) + PRIOR)
        assert np.allclose(user_vectors[one, 0], mean, atol=1e-5)
        assert np.isclose(factors.user_part[one, names.index("history:user")], np.log1p(len(listed)))
    place = factors.plus.item_names.index("history:item")
    for one in range(len(data.item_ids)):
        count = sum(int(who) in trained for who in user[item == one])
        assert np.isclose(factors.item_part[one, place], np.log1p(count))
    left = plus_factors(inputs, ("vector",), load_paths(paths).temp, "history")
    assert not [name for name in left.plus.names if name.startswith("history")]


def test_items_are_counted_in_histories_of_users_with_training_rows():
    history = History(np.array([0, 0, 1], np.int32), np.array([0, 1, 1], np.int32))
    of_user, of_item = history.counts(np.array([True, False]), 3)
    assert np.allclose(np.expm1(of_user[:, 0]), [2, 1]) and np.allclose(np.expm1(of_item[:, 0]), [1, 1, 0])


def test_histories_of_later_rows_change_nothing(tmp_path):
    log, vectors = draw_log()
    arrays = []
    for seed in (None, 1):
        if seed:
            rng, first = np.random.default_rng(seed), set(first_rows(log["user"], log["time"]).tolist())
            log["seen"] = [
                listed if row in first else rng.integers(0, ITEMS, 5).tolist() for row, listed in enumerate(log["seen"])
            ]
        write_log(tmp_path, log, vectors, "parquet")
        paths = described(tmp_path)
        made(paths)
        assert call(gen_matrix.main, "--paths", paths, "--features", "plus") == 0
        (matrix,) = (load_paths(paths).matrix / "own_like").glob("*.plus")
        arrays.append({path.name: path.read_bytes() for path in matrix.glob("*.npy")})
    assert arrays[0] == arrays[1] and "history_user_vectors.npy" in arrays[0]


def test_histories_serve_prediction_of_known_and_new_items(tmp_path):
    log, vectors = draw_log()
    keep = log["item"] < ITEMS - 3
    log = {name: [one for one, stays in zip(column, keep, strict=True) if stays] for name, column in log.items()}
    write_log(tmp_path, {name: np.array(c) if name != "seen" else c for name, c in log.items()}, vectors, "parquet")
    paths = described(tmp_path)
    made(paths)
    assert call(gen_matrix.main, "--paths", paths, "--features", "plus") == 0
    assert call(mlp.main, "--paths", paths, "--features", "plus") == 0
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("user\titem\n" + "".join(f"3\t{item}\n" for item in range(ITEMS)))
    assert call(preprocess_multimodal.main, "--paths", paths, "--new-items", pairs) == 0
    assert call(mlp.main, "--paths", paths, "--run", "last", "--predict", pairs, "--output", tmp_path / "out.tsv") == 0
    scores = [float(line.split("\t")[2]) for line in (tmp_path / "out.tsv").read_text().splitlines()[1:]]
    assert len(scores) == ITEMS and len({round(score, 6) for score in scores[-3:]}) == 3, "new items differ by content"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (('history = "seen"', 'history = "sen"'), "'sen'"),
        (('history = "seen"', 'history = "liked"'), "decides a target"),
        (('history = "seen"', 'history = "seen"\noutcomes = "se*"'), "is an outcome of the row"),
        (('history = "seen"', 'history_separator = "^"'), "history_separator needs history"),
        (("[modalities", '[columns.context]\ncategories = ["seen"]\n[modalities'), "is the history of the row"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, changed, message):
    log, vectors = draw_log()
    write_log(tmp_path, log, vectors, "parquet")
    paths = described(tmp_path)
    own = tmp_path / "own.toml"
    own.write_text(own.read_text().replace(*changed, 1))
    assert call(preprocess_inter.main, "--paths", paths) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("error:") == 1 and "Traceback" not in error


def test_a_history_of_decimals_is_refused(tmp_path, capsys):
    log, vectors = draw_log()
    write_log(tmp_path, log | {"seen": np.linspace(0, 1, len(log["user"]))}, vectors, "parquet")
    assert call(preprocess_inter.main, "--paths", described(tmp_path)) == 2
    error = capsys.readouterr().err
    assert "column seen" in error and error.count("error:") == 1


def test_a_wrong_separator_causes_a_warning(tmp_path, capsys):
    log, vectors = draw_log()
    write_log(tmp_path, log, vectors, "csv")
    paths = described(tmp_path, "csv")
    own = tmp_path / "own.toml"
    own.write_text(own.read_text().replace('history_separator = "^"', 'history_separator = ";"'))
    log["seen"] = [[1, 2]] * len(log["user"])
    write_log(tmp_path, log, vectors, "csv")
    assert call(preprocess_inter.main, "--paths", paths) == 0
    assert "no item of a history has a row" in capsys.readouterr().err
    own.write_text(own.read_text().replace('history_separator = ";"', 'history_separator = "^"'))
    assert call(preprocess_inter.main, "--paths", paths) == 0
    assert "no item of a history" not in capsys.readouterr().err


def test_rows_without_histories_are_merged_too(monkeypatch):
    monkeypatch.setattr("mma4ctr.data.histories.LEAST_MERGED", 10)
    found = FirstHistories()
    for time in range(40):
        user = np.arange(4)
        none = Histories(user, np.full(4, time), np.empty(0, np.int64), np.empty(0, np.int64))
        found.add(SimpleNamespace(histories=none))
    assert sum(len(part.user) for part in found._found) <= 20
