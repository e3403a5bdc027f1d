"""Columns beside content from raw files to the arrays of step 1: codes, missing values, names, wrong input."""

import csv
import json
import shutil
from datetime import UTC, datetime
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

import gen_matrix
import get_user_embedding
import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import load_interactions
from mma4ctr.data.log_columns import SIDES, MostFrequent, codes_of, stored_columns
from mma4ctr.datasets import __main__ as datasets_main
from mma4ctr.datasets.base import MISSING, ColumnNames
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.log_columns import amounts_of, categories_of
from mma4ctr.datasets.tiktok import COLUMNS, TikTok
from mma4ctr.datasets.wechat import ACTIONS, WeChat
from mma4ctr.features.behavioral.inputs import clock_code, log_inputs
from mma4ctr.features.feature_matrix import RowGroup, load_step_inputs, read_matrix
from mma4ctr.model.cold_start import load_new_items
from mma4ctr.model.context import ContextLookups, context_lookups
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, write_described

TIKTOK = "dataset/TikTok2019ICME/track1/final_track1_train.txt"
WECHAT = "dataset/wechat"
USERS, ITEMS, ROWS = 12, 15, 240

# Readers and codes


def test_categories_of_text_numbers_and_booleans():
    found = categories_of(pa.array(["7", " ", None, "rock", "-1", "rock", ""]), "genre")
    assert found.values[[0, 1, 2, 4, 6]].tolist() == [7, MISSING, MISSING, -1, MISSING]
    assert found.values[3] == found.values[5] and found.named.tolist() == [3, 5]
    assert found.text.to_pylist() == ["rock", "rock"]
    assert categories_of(pa.array([3.0, float("nan"), None]), "genre").values.tolist() == [3, MISSING, MISSING]
    assert categories_of(pa.nulls(2), "genre").values.tolist() == [MISSING] * 2
    flags = categories_of(pa.array([True, None, False, True]), "flag")
    assert flags.text.to_pylist() == ["true", "false", "true"] and flags.values[1] == MISSING
    assert len(np.unique(flags.values)) == 3
    with pytest.raises(BadLine, match="column genre"):
        categories_of(pa.array([1.5]), "genre")
    with pytest.raises(BadLine, match="column genre"):
        categories_of(pa.array([[1, 2]]), "genre")


def test_numbers_may_be_missing_and_nothing_else():
    found = amounts_of(pa.array(["2.5", "", None, " ", "1e3"]), "length")
    assert np.array_equal(found, [2.5, np.nan, np.nan, np.nan, 1000], equal_nan=True)
    assert np.array_equal(amounts_of(pa.array([2, None]), "length"), [2, np.nan], equal_nan=True)
    assert (
        np.isnan(amounts_of(pa.array([float("nan")]), "length")).all() and np.isnan(amounts_of(pa.nulls(1), "x")).all()
    )
    wrong = [pa.array(["long"]), pa.array(["inf"]), pa.array([-np.inf]), pa.array(["2022-04-10"])]
    for array in (*wrong, pa.array([0], pa.date32()), pa.array([0], pa.timestamp("s")), pa.array([[1.0]])):
        with pytest.raises(BadLine, match="column length"):
            amounts_of(array, "length")


@given(st.lists(st.integers(-1, 5), min_size=1, max_size=30))
def test_codes_are_places_among_the_values(values):
    known = sorted(set(values) - {MISSING})
    found = codes_of(np.array(values, np.int64), np.array(known, np.int64))
    assert found.tolist() == [0 if value == MISSING else 1 + known.index(value) for value in values]
    assert found.dtype == np.uint8


def test_codes_take_the_smallest_type():
    for count, kind in ((255, np.uint8), (256, np.uint16), (65_535, np.uint16), (65_536, np.uint32)):
        found = codes_of(np.arange(count), np.arange(count))
        assert found.dtype == kind and found[-1] == count


cells = st.tuples(st.integers(0, 3), st.integers(-1, 2), st.sampled_from([0.5, 1.0, np.nan]))


@given(st.lists(st.lists(cells, max_size=12), min_size=1, max_size=4))
def test_the_most_frequent_value_is_that_of_a_count(chunks):
    names = ColumnNames(("city",), ("length",))
    gathered = MostFrequent(names)
    for chunk in chunks:
        ids, city, length = (np.array([row[place] for row in chunk], kind) for place, kind in enumerate("iif"))
        gathered.add(ids.astype(np.int64), {"city": city.astype(np.int64), "length": length.astype(np.float64)})
    found = gathered.values(IdIndex(np.arange(4)))
    rows = [row for chunk in chunks for row in chunk]
    for one in range(4):
        for place, name, missing in ((1, "city", MISSING), (2, "length", np.nan)):
            own = [row[place] for row in rows if row[0] == one and row[place] not in (MISSING, None)]
            own = [value for value in own if value == value]
            expected = min(own, key=lambda value, own=own: (-own.count(value), value)) if own else missing
            assert np.array_equal(found[name][one], expected, equal_nan=True)


def test_many_chunks_of_counts_are_one_count(monkeypatch):
    rng = np.random.default_rng(0)
    ids, city = rng.integers(0, 5, 400), rng.integers(-1, 3, 400)
    names = ColumnNames(("city",))
    whole, parts = MostFrequent(names), MostFrequent(names)
    whole.add(ids, {"city": city})
    monkeypatch.setattr("mma4ctr.data.row_counts.LEAST_ADDED", 20)
    for start in range(0, 400, 7):
        parts.add(ids[start : start + 7], {"city": city[start : start + 7]})
    index = IdIndex(np.arange(5))
    assert whole.values(index)["city"].tolist() == parts.values(index)["city"].tolist()


# A described data set

DESCRIPTION = """
min_interactions = 5
[interactions]
files = "log.csv"
user = "user"
item = "item"
time = "time"
outcomes = ["stay*"]
[targets]
like = "liked"
[modalities.title]
files = "items.csv"
item = "id"
text = "title"
[columns.item]
files = "items.csv"
item = "id"
categories = ["author", "flag"]
numbers = ["length"]
[columns.user]
files = "users.csv"
user = "id"
categories = ["city"]
numbers = ["age"]
[columns.context]
categories = ["channel"]
numbers = ["position"]
hour = true
"""
CITIES = ("Oslo", "", "Bergen", "7")
CHANNELS = ("feed", "search", "", "-1")


def write_table(path, names, rows):
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([names, *rows])


def draw_rows():
    rng = np.random.default_rng(1)
    rows = []
    for place in range(ROWS):
        channel, position = CHANNELS[rng.integers(4)], rng.integers(0, 30)
        shown = "" if position == 3 else str(position / 2)
        rows.append([place % USERS, rng.integers(ITEMS), 10**9 + 40 * place, rng.integers(2), channel, shown, 9])
    return rows


@pytest.fixture
def own(tmp_path):
    """The path.json of a described data set with columns of every kind."""
    names = ["user", "item", "time", "liked", "channel", "position", "stay_time"]
    write_table(tmp_path / "log.csv", names, draw_rows())
    items = [[n, f"film {n}", n // 3, ("yes", "no")[n % 2], "" if n == 4 else n / 2] for n in range(ITEMS + 2)]
    write_table(tmp_path / "items.csv", ["id", "title", "author", "flag", "length"], items)
    users = [[n, CITIES[n % 4], 20 + n] for n in range(USERS) if n != 9]
    write_table(tmp_path / "users.csv", ["id", "city", "age"], users)
    (tmp_path / "own.toml").write_text(DESCRIPTION)
    return write_described(tmp_path, {"own": "own.toml"})


def step_1(paths, *options):
    assert call(preprocess_inter.main, "--paths", paths, *options) == 0
    return load_paths(paths)


def columns_in(artifact):
    return {side: {one.name: one for one in stored_columns(artifact, side)} for side in SIDES}


def shown(column):
    """Return a category as text; None if it is missing."""
    texts = [None, *map(str, column.raw.tolist())]
    return [texts[code] for code in column.values.tolist()]


def refused(paths, capsys, *options, check=False):
    """The error line of step 1, or of the check."""
    capsys.readouterr()
    if check:
        assert call(datasets_main.main, "check", paths) == 2
    else:
        assert call(preprocess_inter.main, "--paths", paths, *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if not line.startswith("warning")]
    assert line.startswith("error: ")
    return line


def replaced(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


def arrays_in(artifact):
    return {name: artifact.array(name) for name in artifact.array_names}


def test_described_columns_are_kept_as_they_are_written(own):
    data = load_interactions(step_1(own), "own")
    found = columns_in(data.artifact)
    assert {side: list(columns) for side, columns in found.items()} == {
        "user": ["city", "age"], "item": ["author", "flag", "length"], "context": ["channel", "position"]
    }  # fmt: skip
    expected = [None if user == 9 else CITIES[user % 4] or None for user in data.user_ids.tolist()]
    assert shown(found["user"]["city"]) == expected
    assert np.array_equal(
        found["user"]["age"].values, np.where(data.user_ids == 9, np.nan, 20 + data.user_ids), equal_nan=True
    )
    assert shown(found["item"]["author"]) == [str(item // 3) for item in data.item_ids.tolist()]
    assert found["item"]["author"].raw.dtype == np.int64 and found["item"]["author"].values.dtype == np.uint8
    assert shown(found["item"]["flag"]) == [("yes", "no")[item % 2] for item in data.item_ids.tolist()]
    length = np.where(data.item_ids == 4, np.nan, data.item_ids / 2).astype(np.float32)
    assert np.array_equal(found["item"]["length"].values, length, equal_nan=True)
    rows = sorted(draw_rows(), key=lambda row: (row[0], row[2]))
    assert shown(found["context"]["channel"]) == [{"": None, "-1": None}.get(row[4], row[4]) for row in rows]
    position = np.array([float(row[5] or "nan") for row in rows], np.float32)
    assert np.array_equal(found["context"]["position"].values, position, equal_nan=True)
    assert data.artifact.manifest["hour"] is True and data.artifact.manifest["ticks_per_second"] == 1
    inputs = log_inputs(data)
    assert inputs.context["hour"].tolist() == [row[2] // 3600 % 24 for row in rows]
    assert "weekday" not in inputs.context, "the log has less than three weeks"
    assert inputs.paired == ("channel",) and inputs.item.rated == ("author", "flag")


@pytest.mark.parametrize("kind", ["jsonl", "parquet"])
def test_columns_of_every_format_are_equal(own, kind):
    """Null and NaN equal an empty cell of text."""
    whole = arrays_in(load_interactions(step_1(own), "own").artifact)
    whole_names = {
        name: shown(one)
        for name, one in columns_in(load_interactions(load_paths(own), "own").artifact)["context"].items()
        if one.is_category
    }
    numbers = {"user": int, "item": int, "time": int, "liked": int, "position": float, "stay_time": int, "id": int}
    numbers |= {"length": float, "age": float, "author": int}
    for name in ("log", "items", "users"):
        with (own.parent / f"{name}.csv").open(newline="") as file:
            rows = [
                {key: numbers.get(key, str)(cell) if cell else None for key, cell in row.items()}
                for row in csv.DictReader(file)
            ]
        if kind == "parquet":
            pq.write_table(pa.Table.from_pylist(rows), own.parent / f"{name}.parquet", row_group_size=7)
        else:
            (own.parent / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        text = (own.parent / "own.toml").read_text().replace(f'"{name}.csv"', f'"{name}.{kind}"')
        (own.parent / "own.toml").write_text(text)
    artifact = load_interactions(step_1(own), "own").artifact
    assert {name: shown(one) for name, one in columns_in(artifact)["context"].items() if one.is_category} == whole_names
    found = arrays_in(artifact)
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        assert found[name].tobytes() == values.tobytes(), name


def test_one_block_or_many_give_the_same_bytes(own, monkeypatch):
    whole = arrays_in(load_interactions(step_1(own), "own").artifact)
    monkeypatch.setattr("mma4ctr.storage.text_blocks.BLOCK_BYTES", 300)
    monkeypatch.setattr("mma4ctr.data.row_order.PARTITION_ROWS", 50)
    found = arrays_in(load_interactions(step_1(own), "own").artifact)
    assert found.keys() == whole.keys()
    for name, values in whole.items():
        assert found[name].tobytes() == values.tobytes(), name


def test_negatives_keep_the_context_of_their_row(own):
    replaced(own.parent / "own.toml", "min_interactions = 5", "min_interactions = 5\nnegatives = 1")
    data = load_interactions(step_1(own), "own")
    channel, position = columns_in(data.artifact)["context"].values()
    rows = sorted(draw_rows(), key=lambda row: (row[0], row[2]))
    context = {(row[0], row[2]): (row[4] if row[4] not in ("", "-1") else None, row[5]) for row in rows}
    assert len(data) > ROWS + 30 and len(channel.values) == len(position.values) == len(data)
    names = shown(channel)
    for row in range(len(data)):
        key = int(data.user_ids[data.user[row]]), int(data.time[row])
        name, place = context[key]
        assert names[row] == name
        assert np.array_equal(position.values[row], np.float32(place or "nan"), equal_nan=True)


def listed_twice(folder, table, line):
    path = folder / table
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines, line]) + "\n")
    return len(lines) + 1


@pytest.mark.parametrize("block", [1 << 20, 60])
@pytest.mark.parametrize(
    "case",
    [
        ("items.csv", "5,film 5,1,no,7.5", 7, "length"),
        ("items.csv", "5,film 5,,no,2.5", 7, "author"),
        ("users.csv", "2,Oslo,22", 4, "city"),
    ],
)
def test_two_rows_that_differ_are_refused_with_both_lines(own, capsys, monkeypatch, block, case):
    monkeypatch.setattr("mma4ctr.storage.text_blocks.BLOCK_BYTES", block)
    table, line, first, column = case
    last = listed_twice(own.parent, table, line)
    error = refused(own, capsys)
    assert f"{table}:{last}:" in error and f"{table}:{first};" in error and f" {column} " in error


def test_two_equal_rows_are_one(own):
    whole = arrays_in(load_interactions(step_1(own), "own").artifact)
    listed_twice(own.parent, "items.csv", "5,film 5,1,no,2.5")
    listed_twice(own.parent, "items.csv", "4,film 4,1,yes,")
    found = arrays_in(load_interactions(step_1(own), "own").artifact)
    assert all(found[name].tobytes() == values.tobytes() for name, values in whole.items())


WRONG = {
    "category column missing": ('categories = ["author", "flag"]', 'categories = ["auther"]', "'author'"),
    "context column missing": ('categories = ["channel"]', 'categories = ["chanel"]', "'channel'"),
    "number column missing": ('numbers = ["age"]', 'numbers = ["aeg"]', "'age'"),
    "key missing": ('user = "id"', 'user = "idd"', "'id'"),
    "table missing": ('files = "users.csv"', 'files = "user.csv"', "'users.csv'"),
    "a target as context": ('categories = ["channel"]', 'categories = ["liked"]', "'liked' decides the target like"),
    "an outcome as context": ('categories = ["channel"]', 'categories = ["stay_time"]', "'stay_time' is an outcome"),
    "an outcome as a number": ('numbers = ["position"]', 'numbers = ["stay_time"]', "'stay_time' is an outcome"),
    "the user as context": ('categories = ["channel"]', 'categories = ["user"]', "'user' is the user"),
    "named twice": ('numbers = ["position"]', 'numbers = ["channel"]', "'channel' is named twice"),
    "an unknown side": ("[columns.user]", "[columns.usr]", "usr"),
    "no columns": ('categories = ["city"]\nnumbers = ["age"]', "", "needs categories or numbers"),
    "a second hour": ('categories = ["channel"]', 'categories = ["hour"]', "remove one of the two"),
    "a second weekday": ('numbers = ["position"]', 'numbers = ["weekday"]', "remove one of the two"),
    "the ids of --predict": ('categories = ["channel"]', 'categories = ["item"]', "'item' is"),
    "the bins of a number": ('["author", "flag"]', '["author", "length/8"]', "the bins of 'length'"),
    "hour is no text": ("hour = true", 'hour = "yes"', "true or false"),
    "hour without a time": ('time = "time"\n', "", "hour = true needs time"),
    "no names": ('categories = ["city"]', "categories = [3]", "categories"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_columns_of_a_description(own, capsys, case):
    old, new, message = WRONG[case]
    replaced(own.parent / "own.toml", old, new)
    assert message in refused(own, capsys)
    assert message in refused(own, capsys, check=True)


@pytest.mark.parametrize(
    ("table", "row", "cell", "new"),
    [
        ("items.csv", 6, 4, "long"),
        ("items.csv", 6, 4, "inf"),
        ("items.csv", 6, 4, "2022-04-10"),
        ("users.csv", 3, 2, "1e999"),
        ("users.csv", 3, 0, ""),
        ("log.csv", 3, 5, "many"),
        ("log.csv", 3, 5, "-inf"),
    ],
)
def test_a_cell_that_is_no_number_is_named_with_its_line(own, capsys, table, row, cell, new):
    path = own.parent / table
    lines = [line.split(",") for line in path.read_text().splitlines()]
    lines[row][cell] = new
    write_table(path, lines[0], lines[1:])
    for check in (False, True):
        error = refused(own, capsys, check=check)
        assert f"{table}:{row + 1}: column {lines[0][cell]}" in error
        assert new in error or "finite" in error


def test_the_check_reports_a_bad_line_of_the_rows_that_it_reads(own, capsys, monkeypatch):
    """It reads the start of a large table only."""
    monkeypatch.setattr("mma4ctr.datasets.validate.FEATURE_ROWS", 3)
    monkeypatch.setattr("mma4ctr.storage.text_blocks.BLOCK_BYTES", 60)
    path = own.parent / "items.csv"
    lines = path.read_text().splitlines()
    for row, shown in ((1, True), (ITEMS, False)):
        cells = lines[row].split(",")
        path.write_text("\n".join([*lines[:row], ",".join([*cells[:4], "long"]), *lines[row + 1 :]]) + "\n")
        code = call(datasets_main.main, "check", own)
        assert (
            code == (2 if shown else 0) and (f"items.csv:{row + 1}: column length" in capsys.readouterr().err) is shown
        )


def test_a_category_that_is_like_an_id_is_a_warning(own, capsys):
    replaced(own.parent / "own.toml", 'categories = ["channel"]', 'categories = ["channel", "note"]')
    lines = (own.parent / "log.csv").read_text().splitlines()
    lines = [f"{line},{'note' if place == 0 else f'n{place}'}" for place, line in enumerate(lines)]
    (own.parent / "log.csv").write_text("\n".join(lines) + "\n")
    data = load_interactions(step_1(own), "own")
    (warning,) = [line for line in capsys.readouterr().err.splitlines() if "may be an id" in line]
    assert "context column note" in warning and "240" in warning
    assert columns_in(data.artifact)["context"]["note"].categories == ROWS


def test_context_in_a_file_of_pairs_gets_the_codes_of_the_log(own):
    """For every row's context as the raw file has it, including missing numbers and numbers on the edge of a bin."""
    log = own.parent / "log.csv"
    rows = [line.split(",") for line in log.read_text().splitlines()]
    for row in rows[1:]:
        row[5] = row[5] and str(float(row[5]) / 5)  # few of them are floats of 32 bits
    write_table(log, rows[0], rows[1:])
    data = load_interactions(step_1(own), "own")
    inputs, columns = log_inputs(data), columns_in(data.artifact)["context"]
    lookups = ContextLookups((), columns | {"hour": None}, {}, {})
    written = sorted(rows[1:], key=lambda row: (int(row[0]), int(row[2])))
    table = {"channel": [row[4] for row in written], "position": [row[5] for row in written]}
    table["hour"] = [str(int(row[2]) // 3600 % 24) for row in written]
    found = lookups.read(pa.table(table))
    assert found.keys() == inputs.context.keys() == {"channel", "position/8", "position/32", "hour"}
    for name, codes in inputs.context.items():
        assert found[name].tolist() == codes.tolist(), name
    assert lookups.read(pa.table({"channel": ["new", "feed"]}))["channel"].tolist()[0] == 0
    for name, cell in (
        ("position", "far"),
        ("position", "inf"),
        ("position", "2022-04-10"),
        ("hour", "24"),
        ("hour", ""),
    ):
        with pytest.raises(BadLine, match=f"column {name}"):
            lookups.read(pa.table({name: [cell]}))


# Names of columns are free: they become neither files nor keys that could collide.

ODD_NAMES = [
    *("user", "item", "context", "rates", "label", "hour", "weekday", "0", "a/b", "../up", "a:b", "a,b", "user x b"),
    *("[red]", "*", "ja, \u00e4\u00f6", "item_column_0", "rows", "codes", "length/8", "x" * 300),
]


def renamed_columns(paths, names, *, hour=False):
    """Rename the columns beside content in the description and the tables; hours only on request."""
    text = (paths.parent / "own.toml").read_text()
    if not hour:
        text = text.replace("hour = true\n", "")
    for old, new in names.items():
        text = text.replace(json.dumps(old), json.dumps(new))
    (paths.parent / "own.toml").write_text(text)
    for table in ("log.csv", "items.csv", "users.csv"):
        with (paths.parent / table).open(newline="") as file:
            first, *rows = csv.reader(file)
        write_table(paths.parent / table, [names.get(name, name) for name in first], rows)


@pytest.fixture
def rated_categories(monkeypatch):
    """Small categories get rates too."""
    monkeypatch.setattr("mma4ctr.features.behavioral.columns.RATES_FROM", 2)


def plus_arrays(paths):
    """Return the arrays of the matrix of features plus, made by steps 1 to 4."""
    found = step_1(paths)
    for step in (preprocess_multimodal, get_user_embedding):
        assert call(step.main, "--paths", paths) == 0
    assert call(gen_matrix.main, "--paths", paths, "--features", "plus") == 0
    return arrays_in(read_artifact(found.matrix / "own_like" / "title.plus", ""))


@pytest.fixture
def plain_arrays(own, rated_categories, tmp_path_factory):
    folder = tmp_path_factory.mktemp("plain")
    shutil.copytree(own.parent, folder, dirs_exist_ok=True)
    renamed_columns(folder / "path.json", {})
    return plus_arrays(folder / "path.json")


@pytest.mark.parametrize("seed", range(4))
def test_any_names_of_columns_give_the_same_matrix(own, plain_arrays, seed):
    rng = np.random.default_rng(seed)
    columns = ("author", "flag", "length", "city", "age", "channel", "position")
    # user and item are the keys of the log, so no column of the log can be called so.
    names = dict(zip(columns, rng.permutation(ODD_NAMES)[: len(columns)].tolist(), strict=True))
    names |= {name: f"{names[name]}." for name in ("channel", "position") if names[name] in ("user", "item")}
    renamed_columns(own, names)
    found = plus_arrays(own)
    assert found.keys() == plain_arrays.keys()
    for name, values in plain_arrays.items():
        assert found[name].tobytes() == values.tobytes(), (name, names)


@pytest.mark.parametrize("change", ["a name", "the hour"])
def test_a_description_with_other_columns_makes_later_steps_outdated(own, change):
    found = step_1(own)
    for step in (preprocess_multimodal, get_user_embedding):
        assert call(step.main, "--paths", own) == 0
    load_step_inputs(found, "own_like")
    renamed_columns(own, {"author": "writer"} if change == "a name" else {}, hour=change == "a name")
    step_1(own)
    with pytest.raises(UserError, match=r"preprocess_multimodal.py"):
        load_step_inputs(found, "own_like")


@pytest.mark.usefixtures("rated_categories")
def test_new_items_have_the_columns_of_the_table_of_items(own):
    plus_arrays(own)
    paths = load_paths(own)
    # Items 15 and 16 are in the table and not in the log; 15 gets an author and a flag that are known.
    with (own.parent / "items.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    rows[16][2:] = ["2", "no", "6"]
    write_table(own.parent / "items.csv", rows[0], rows[1:])
    (own.parent / "new.tsv").write_text("item\n15\n16\n")
    options = ("--paths", own, "--dataset", "own", "--new-items", own.parent / "new.tsv")
    assert call(preprocess_multimodal.main, *options) == 0
    matrix, inputs = read_matrix(paths, "own_like", "title.plus"), load_step_inputs(paths, "own_like")
    new = load_new_items(paths, inputs, matrix)
    shift, scale = matrix.array("item_shift"), matrix.array("item_scale")
    names = matrix.manifest["item_columns"]
    found = [dict(zip(names, row * scale + shift, strict=True)) for row in new.item_part]
    known = matrix.array("item_part")[-ITEMS:] * scale + shift
    item = log_inputs(inputs.data).item
    codes = {"author": 3, "flag": 1, "length/8": None, "length/32": None}
    for name in codes:
        if codes[name] is None:  # item 12 has the length 6 as well
            codes[name] = int(item.categories[name][12])
    effects = {
        name: matrix.array(f"item_effects_{place}") for place, name in enumerate(matrix.manifest["item_effects"])
    }
    expected = sum(float(effects[name][code, 0]) for name, code in codes.items())
    assert new.names.tolist() == ["15", "16"]
    assert found[0]["item-bias:like"] == pytest.approx(expected, abs=1e-5)
    assert found[0]["item-numbers:length"] == pytest.approx(item.numbers[12, 0], abs=1e-5)
    for column in ("rates:item author:like", "counts:item author"):
        assert found[0][column] == pytest.approx(known[6, names.index(column)], abs=1e-5)
        assert found[1][column] == pytest.approx(0, abs=1e-5), "no known item has the author 5"
    for row in found:
        assert row["rates:item:like"] == pytest.approx(0, abs=1e-5) == row["counts:item"]


def test_a_category_called_hour_is_read_as_the_log_has_it(own):
    renamed_columns(own, {"channel": "hour"})
    data = load_interactions(step_1(own), "own")
    train = RowGroup(*[None] * 4, codes=(torch.from_numpy(log_inputs(data).context["hour"]),))
    manifest = {"lookups": [{"category": "hour", "side": "", "of": "context", "size": 4, "categories": 4}]}
    found = context_lookups(SimpleNamespace(manifest=manifest), data, train, None).read(
        pa.table({"hour": ["feed", "x"]})
    )
    feed = columns_in(data.artifact)["context"]["hour"].raw.tolist().index("feed") + 1
    assert found["hour"].tolist() == [feed, 0]


def test_item_categories_of_rows_to_predict_are_those_of_the_features(own):
    """Among them bins of a number that an item lacks."""
    data = load_interactions(step_1(own), "own")
    categories = log_inputs(data).item.categories
    assert {"author", "length/8"} <= categories.keys()
    entries = [{"category": name, "side": "user", "of": "item", "size": 2, "categories": 9} for name in categories]
    matrix = SimpleNamespace(manifest={"lookups": entries}, array=lambda _: np.ones(1, np.int64))
    found = context_lookups(matrix, data, RowGroup(*[None] * 4), None).of_item
    assert found.keys() == {("item", name) for name in categories}
    for name, codes in categories.items():
        assert found["item", name].tolist() == [*codes.tolist(), 0]


# The built-in data sets


def most_frequent(rows, key, column):
    found = {}
    for row in rows:
        found.setdefault(row[key], []).append(row[column])
    return {
        one: min(filter(lambda v: v != -1, values), key=lambda v, values=values: (-values.count(v), v), default=None)
        for one, values in found.items()
    }


def test_tiktok_columns_equal_those_of_a_loop(raw_copy):
    """The file has unknown values of every kind."""
    path = raw_copy / TIKTOK
    rows = [line.split("\t") for line in path.read_text().splitlines()]
    place = {name: COLUMNS.index(name) for name in COLUMNS}
    for number, row in enumerate(rows):
        for name, step in (("author_id", 7), ("music_id", 3), ("user_city", 5), ("channel", 11), ("device", 13)):
            if number % step == 0:
                row[place[name]] = "-1"
    path.write_text("".join("\t".join(row) + "\n" for row in rows))
    paths = step_1(raw_copy / "path.json", "--dataset", "tiktok", "--min-interactions", 20)
    data = load_interactions(paths, "tiktok")
    found = columns_in(data.artifact)
    rows = [list(map(int, row)) for row in rows]
    for side, key, ids in (("user", "uid", data.user_ids), ("item", "item_id", data.item_ids)):
        for name, column in found[side].items():
            expected = most_frequent(rows, place[key], place[name])
            values = [expected[one] for one in ids.tolist()]
            if column.is_category:
                assert shown(column) == [None if one is None else str(one) for one in values], name
            else:
                assert column.values.tolist() == values, name
    assert list(found["item"]) == ["author_id", "music_id", "item_city", "duration_time"]
    keys = ("uid", "item_id", "time")
    of_row = {}
    for row in rows:
        of_row.setdefault(tuple(row[place[key]] for key in keys), set()).add(
            (row[place["channel"]], row[place["device"]])
        )
    channel, device = ([int(one or -1) for one in shown(found["context"][name])] for name in ("channel", "device"))
    kept = zip(data.user_ids[data.user].tolist(), data.item_ids[data.item].tolist(), data.time.tolist(), strict=True)
    assert all(pair in of_row[key] for key, pair in zip(kept, zip(channel, device, strict=True), strict=True))
    assert -1 in channel and -1 in device


def test_wechat_columns_are_those_of_feed_info(raw_copy, capsys):
    path = raw_copy / WECHAT / "feed_info.csv"
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for number, row in enumerate(rows):
        row["bgm_song_id"] = "" if number % 4 == 0 else f"{int(float(row['bgm_song_id'] or 3))}.0"
        row["videoplayseconds"] = "" if number % 5 == 0 else row["videoplayseconds"]
    write_table(path, list(rows[0]), [list(row.values()) for row in rows])
    options = ("--dataset", "wechat", "--min-interactions", 20)
    data = load_interactions(step_1(raw_copy / "path.json", *options), "wechat")
    found = columns_in(data.artifact)
    by_feed = {int(row["feedid"]): row for row in rows}
    for name, column in found["item"].items():
        values = [by_feed[item][name] if item in by_feed else "" for item in data.item_ids.tolist()]
        if column.is_category:
            assert shown(column) == [str(int(float(one))) if one else None for one in values], name
        else:
            expected = np.array([float(one or "nan") for one in values], np.float32)
            assert np.array_equal(column.values, expected, equal_nan=True)
    assert list(found["context"]) == ["device"] and not data.artifact.manifest["hour"]
    assert (found["item"]["bgm_song_id"].values == 0).any() and found["item"]["authorid"].categories > 1
    feed = next(number for number, row in enumerate(rows) if int(row["feedid"]) in set(data.item_ids.tolist()))
    twice = rows[feed] | {"authorid": "123456"}
    write_table(path, list(rows[0]), [list(row.values()) for row in (*rows, twice)])
    error = refused(raw_copy / "path.json", capsys, *options)
    assert f"feed_info.csv:{len(rows) + 2}:" in error and f"feed_info.csv:{feed + 2};" in error and "authorid" in error
    for wrong in ("long", "inf", "2021-05-05"):
        bad = [dict(row) for row in rows]
        bad[5]["videoplayseconds"] = wrong
        write_table(path, list(rows[0]), [list(row.values()) for row in bad])
        assert "feed_info.csv:7: column videoplayseconds" in refused(raw_copy / "path.json", capsys, *options)


def test_wechat_without_a_column_of_feed_info_has_it_missing(raw_copy):
    replaced(raw_copy / WECHAT / "feed_info.csv", "authorid", "other")
    data = load_interactions(step_1(raw_copy / "path.json", "--dataset", "wechat", "--min-interactions", 20), "wechat")
    author = columns_in(data.artifact)["item"]["authorid"]
    assert author.categories == 0 and (author.values == 0).all() and author.is_category


@pytest.mark.parametrize("dataset", ["tiktok", "wechat"])
def test_built_in_columns_of_one_block_or_many_are_equal(made, raw_copy, monkeypatch, dataset):
    monkeypatch.setattr("mma4ctr.storage.text_blocks.BLOCK_BYTES", 16_384)
    monkeypatch.setattr("mma4ctr.data.row_order.PARTITION_ROWS", 3000)
    paths = step_1(raw_copy / "path.json", "--dataset", dataset, "--min-interactions", 20)
    one, two = (arrays_in(read_artifact(place.graph / dataset, "")) for place in (made, paths))
    assert one.keys() == two.keys() and any("column" in name for name in one)
    for name, values in one.items():
        assert values.tobytes() == two[name].tobytes(), name


@pytest.mark.parametrize("raw", [TikTok, WeChat])
def test_no_built_in_data_set_has_an_outcome_among_its_columns(raw):
    names = {name for columns in raw.columns.values() for name in columns.names}
    assert names and not names & {*raw.targets, *ACTIONS, "click", "finish", "like", "play", "stay"}


@given(st.lists(st.integers(-(10**9), 4 * 10**9), min_size=1))
def test_hours_and_weekdays_are_those_of_the_calendar(seconds):
    moments = [datetime.fromtimestamp(one, UTC) for one in seconds]
    made = {name: clock_code(name, np.array(seconds, np.float64)).tolist() for name in ("hour", "weekday")}
    assert made == {"hour": [one.hour for one in moments], "weekday": [one.weekday() for one in moments]}
