"""Ids and times of any 64 bits: every table, order and split equals a slow one with Python's integers."""

import json
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

import preprocess_inter
from mma4ctr.data.interactions import load_interactions
from mma4ctr.data.negative_sampling import by_first_split, draw_unseen
from mma4ctr.data.row_order import drop_duplicates, order_by, record_type
from mma4ctr.data.splits import order_statistics, split_rows
from mma4ctr.datasets.base import ColumnNames
from mma4ctr.datasets.columns import ids_of
from mma4ctr.datasets.id_index import IdCollector, IdIndex
from mma4ctr.datasets.tiktok import COLUMNS
from mma4ctr.datasets.times import TimeForm, time_of
from mma4ctr.features.user_embedding import frequent_device
from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call

LOW, HIGH = -(2**63), 2**63 - 1
EDGES = [LOW, LOW + 1, -(2**62), -(2**53), -(2**31), -1, 0, 1, 2**31, 2**53, 2**62, HIGH - 1, HIGH]
numbers = st.one_of(st.sampled_from(EDGES), st.integers(LOW, HIGH), st.integers(-40, 40))
# Close together, so that tables of a small range are tested too.
near = st.builds(
    lambda centre, steps: [min(max(centre + step, LOW), HIGH) for step in steps],
    numbers,
    st.lists(st.integers(-300, 300), min_size=1, max_size=40),
)
lists = st.one_of(st.lists(numbers, min_size=1, max_size=40), near)
quick = settings(max_examples=150, suppress_health_check=[HealthCheck.differing_executors])


@quick
@given(lists, lists)
@example([5, 6, 7], [LOW, HIGH, 6])
@example([LOW, LOW + 1], [HIGH, 0, LOW])
@example([HIGH - 1, HIGH], [LOW, -1, HIGH])
def test_positions_are_those_of_a_dictionary(ids, asked):
    known = np.unique(np.array(ids, np.int64))
    where = {int(value): place for place, value in enumerate(known)}
    found = IdIndex(known).positions(np.array(asked + ids, np.int64))
    assert found.tolist() == [where.get(value, -1) for value in asked + ids]


@quick
@given(st.lists(lists, max_size=5))
def test_distinct_ids_are_those_of_a_set(parts):
    collector = IdCollector()
    for part in parts:
        collector.add(np.array(part, np.int64))
    assert collector.ids().tolist() == sorted({value for part in parts for value in part})


rows = st.lists(st.tuples(st.integers(0, 3), numbers, numbers, st.integers(0, 2**64 - 1)), min_size=1, max_size=40)


@quick
@given(rows)
@example([(0, HIGH, LOW, 0), (0, LOW, HIGH, 1), (0, 0, 0, 2**64 - 1), (0, -1, 0, 0)])
def test_rows_are_ordered_as_tuples_are(table):
    table = [(*row, place) for place, row in enumerate(table)]
    kinds = (np.int32, np.int64, np.int64, np.uint64, np.int64)
    columns = [np.array(column, kind) for column, kind in zip(zip(*table, strict=True), kinds, strict=True)]
    assert order_by(*columns).tolist() == [row[-1] for row in sorted(table)]


@quick
@given(rows, st.booleans())
def test_duplicates_are_those_of_a_set(table, time_is_day):
    raw = SimpleNamespace(targets=["like"], split="", columns_of=lambda side: ColumnNames())
    records = np.zeros(len(table), record_type(raw))
    for row, (user, item, time, _) in enumerate(table):
        # A small hash, so that different rows share one.
        records[row] = user, item, 0, time, user % 2, 0
    found = drop_duplicates(records, time_is_day=time_is_day)
    seen = sorted({(user, time, item) for user, item, time, _ in table})
    kept = list(zip(*(found[name].tolist() for name in ("user", "time", "item")), strict=True))
    assert sorted(kept) == seen and (time_is_day or kept == seen)


@quick
@given(st.lists(numbers, min_size=1, max_size=60), st.data())
@example([LOW, HIGH, 0, -1, 1], None)
def test_order_statistics_are_those_of_a_sort(values, data):
    ranks = range(len(values)) if data is None else [data.draw(st.integers(0, len(values) - 1))]
    ordered = sorted(values)
    found = order_statistics(np.array(values, np.int64), ranks)
    assert [int(value) for value in found] == [ordered[rank] for rank in ranks]


@quick
@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=60))
def test_order_statistics_of_decimals(values):
    ranks = range(len(values))
    # 0.0 and -0.0 are equal, their bits are not.
    found = order_statistics(np.array(values) + 0.0, ranks)
    assert [float(value) for value in found] == sorted(values)


@quick
@given(st.lists(numbers, min_size=10, max_size=60))
def test_the_chronological_split_cuts_at_two_times(times):
    ordered = sorted(times)
    first, second = (ordered[share * len(times) // 10] for share in (8, 9))
    found = split_rows("chronological", np.zeros(len(times), np.int32), np.array(times, np.int64), 0)
    assert found.tolist() == [int(time >= first) + int(time >= second) for time in times]


@quick
@given(st.lists(st.tuples(st.integers(0, 4), numbers), max_size=60))
def test_frequent_devices_are_those_of_counts(pairs):
    pairs = sorted(pairs, key=lambda pair: pair[0])
    user, device = (np.array([pair[i] for pair in pairs], kind) for i, kind in ((0, np.int32), (1, np.int64)))
    found = frequent_device(user, device, 5)
    for one in range(5):
        own = [value for of, value in pairs if of == one]
        assert found[one] == (min(own, key=lambda value: (-own.count(value), value)) if own else -1)


@quick
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 6), st.integers(0, 2)), min_size=1, max_size=30))
def test_drawn_items_are_unseen(seen):
    seen = sorted(seen)
    user, item, split = (np.array(column, np.int64) for column in zip(*seen, strict=True))
    kinds, item = np.unique(item, return_inverse=True)
    known = by_first_split(item, split.astype(np.uint8), len(kinds))
    row, drawn = draw_unseen(user.astype(np.int32), item, split, known, 2, np.random.default_rng(0))
    pairs = list(zip(user[row].tolist(), drawn.tolist(), strict=True))
    assert len(set(pairs)) == len(pairs) and not set(pairs) & set(zip(user.tolist(), item.tolist(), strict=True))


@quick
@given(st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=20))
def test_ids_are_equal_where_their_text_is_equal(values):
    found = ids_of(pa.array(list(map(str, values))), "id").values.tolist()
    assert len(set(found)) == len(set(values))
    inside = [value for value in values if LOW <= value <= HIGH]
    assert set(inside) <= set(found)


@quick
@given(st.integers(LOW, HIGH), st.sampled_from(["s", "ms", "us", "ns"]))
@example(2**60, "s")
def test_a_time_is_right_or_refused(value, unit):
    per_second = {"s": 1, "ms": 1000, "us": 10**6, "ns": 10**9}[unit]
    try:
        (found,) = time_of(pa.array([value], pa.timestamp(unit)), "when", TimeForm("date")).tolist()
    except BadLine:
        assert not LOW <= value * 10**6 // per_second <= HIGH
        return
    assert abs(found * per_second - value * 10**6) < per_second


def test_step_1_on_extreme_ids_and_times(tmp_path):
    """Step 1 with users, items and times at both ends of the range."""
    rng = np.random.default_rng(0)
    users, items = [LOW, LOW + 1, 0, HIGH - 1, HIGH], EDGES
    lines, expected = [], set()
    for n in range(400):
        user, item, time = users[n % 5], items[int(rng.integers(len(items)))], int(rng.integers(LOW, HIGH))
        row = dict.fromkeys(COLUMNS, 0) | {"uid": user, "item_id": item, "time": time, "device": items[n % len(items)]}
        row |= {"like": n % 2, "finish": n % 3 == 0}
        lines.append("\t".join(str(int(row[name])) for name in COLUMNS))
        if item != -1:  # stands for an unknown item
            expected.add((user, item, time, row["device"], n % 2))
    stranger = dict.fromkeys(COLUMNS, 1) | {"uid": 12345}
    lines += ["\t".join(str(stranger[name]) for name in COLUMNS)] * 3
    folder = tmp_path / "raw/tiktok/track1"
    folder.mkdir(parents=True)
    (folder / "final_track1_train.txt").write_text("\n".join(lines) + "\n")
    keys = ("graph_path", "modal_path", "user_embedding_path", "matrix_path", "torch_model_path", "saved_path")
    content = {"parent_folder": ".", "dataset_path": "raw", "wechat_dataset_path": "wechat"}
    content |= {"tiktok_dataset_path": "tiktok", **{key: key for key in keys}}
    (tmp_path / "path.json").write_text(json.dumps(content))
    options = ("--paths", tmp_path / "path.json", "--dataset", "tiktok", "--min-interactions", 50)
    assert call(preprocess_inter.main, *options) == 0
    data = load_interactions(load_paths(tmp_path / "path.json"), "tiktok")
    columns = (data.user_ids[data.user], data.item_ids[data.item], data.time, data.device, data.label("like"))
    found = list(zip(*(column.tolist() for column in columns), strict=True))
    assert set(found) == expected and len(found) == len(expected)
    assert np.diff(np.stack([data.split[np.argsort(data.time)]]).astype(int)).min() >= 0
    rows = read_artifact(data.artifact.folder, "").manifest["rows"]
    assert rows["users"] == 5 and rows["raw"] == 403 and rows["duplicates"] == 400 - len(expected)


@pytest.mark.parametrize("day", [HIGH, LOW, -1, 2**53])
def test_a_day_that_is_none(raw_copy, capsys, day):
    file = raw_copy / "dataset/wechat/user_action.csv"
    lines = file.read_text().splitlines()
    place = lines[0].split(",").index("date_")
    cells = lines[5].split(",")
    lines[5] = ",".join([*cells[:place], str(day), *cells[place + 1 :]])
    file.write_text("\n".join(lines) + "\n")
    options = ("--paths", raw_copy / "path.json", "--dataset", "wechat", "--min-interactions", 20)
    assert call(preprocess_inter.main, *options) == 2
    error = capsys.readouterr().err
    assert f"{file}:6: column date_: {day}" in error and error.count("\n") == 1
