"""Ids joined by a separator: tokens of an item, as a list would give them, and histories in a log that nobody reads."""

import csv
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import load_interactions
from mma4ctr.datasets.columns import tokens_of
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, write_described

USERS, ITEMS, ROWS = 20, 30, 600
DESCRIPTION = """
min_interactions = 1
[interactions]
files = "log.csv"
user = "user"
item = "item"
time = "time"
[targets]
like = "like"
[modalities.tags]
item = "id"
tokens = "tags"
"""


def bags(column, **how):
    row, token = tokens_of(column, "c", words=False, **how)
    return [sorted(token[row == one].tolist()) for one in range(len(column))]


@given(
    st.sampled_from(["^", "|", ";", "::", "."]),
    st.lists(
        st.none() | st.lists(st.integers(-3, 10**12) | st.text("ab é9\u732b", min_size=1, max_size=5), max_size=5),
        min_size=1,
        max_size=8,
    ),
    st.sampled_from(["", " "]),
)
def test_joined_tokens_are_those_of_the_list(separator, lists, around):
    written = [None if one is None else [str(cell).strip() for cell in one] for one in lists]
    joined = [None if one is None else f"{around}{separator}{around}".join(one) for one in written]
    for kind in (pa.string(), pa.large_string()):
        found = bags(pa.array(joined, kind), separator=separator)
        assert found == bags(pa.array(written, pa.list_(pa.string())))
    assert bags(pa.array(joined, pa.string()).dictionary_encode(), separator=separator) == found


@given(st.lists(st.integers(0, 99), min_size=1, max_size=5))
def test_a_cell_of_one_number_is_one_token(numbers):
    assert bags(pa.array(numbers), separator="^") == bags(pa.array([[one] for one in numbers]))


def write_log(folder, more=()):
    """The log; `more` are further columns, by name with their cells."""
    rng = np.random.default_rng(1)
    columns = {"user": rng.integers(0, USERS, ROWS), "item": rng.integers(0, ITEMS, ROWS), "time": np.arange(ROWS)}
    columns |= {"like": rng.integers(0, 2, ROWS), **dict(more)}
    rows = zip(*(list(one) for one in columns.values()), strict=True)
    with (folder / "log.csv").open("w", newline="") as file:
        csv.writer(file).writerows([columns, *rows])


def steps(folder, text):
    """Exit code of steps 1 and 2."""
    (folder / "own.toml").write_text(text)
    paths = write_described(folder, {"own": "own.toml"})
    assert call(preprocess_inter.main, "--paths", paths) == 0
    return call(preprocess_multimodal.main, "--paths", paths)


def table_of(tags):
    return {"id": list(range(ITEMS)), "tags": tags}


def write_table(path, table):
    rows = list(zip(*table.values(), strict=True))
    if path.suffix == ".parquet":
        pq.write_table(pa.table(table), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(table, row, strict=True))) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file, delimiter="\t" if path.suffix == ".tsv" else ",").writerows([table, *rows])


def test_step_2_gives_the_same_from_every_format(tmp_path):
    write_log(tmp_path)
    rng = np.random.default_rng(2)
    lists = [[str(one) for one in rng.integers(0, 12, place % 5)] for place in range(ITEMS)]
    write_table(tmp_path / "lists.parquet", table_of(lists))
    assert steps(tmp_path, DESCRIPTION + 'files = "lists.parquet"\n') == 0
    made = load_paths(tmp_path / "path.json").modal / "own"
    expected = {name: read_artifact(made, "").array(name).tobytes() for name in ("tags", "tags_present")}
    present = read_artifact(made, "").array("tags_present")
    ids = load_interactions(load_paths(tmp_path / "path.json"), "own").item_ids
    assert present.tolist() == [bool(lists[item]) for item in ids.tolist()] and not present.all()
    for kind in ("csv", "tsv", "jsonl", "parquet"):
        write_table(tmp_path / f"joined.{kind}", table_of(["^".join(one) for one in lists]))
        assert steps(tmp_path, DESCRIPTION + f'files = "joined.{kind}"\ntoken_separator = "^"\n') == 0
        found = read_artifact(made, "")
        assert {name: found.array(name).tobytes() for name in expected} == expected, kind
    # Without it, a cell is one token.
    assert steps(tmp_path, DESCRIPTION + 'files = "joined.csv"\n') == 0
    assert read_artifact(made, "").array("tags").tobytes() != expected["tags"]


def test_histories_that_no_key_names_are_ignored(tmp_path):
    """Empty ones, long ones, quoted ones with commas and line breaks, names that look like others."""
    text = DESCRIPTION + 'files = "tags.csv"\n'
    write_table(tmp_path / "tags.csv", table_of(["a b"] * (ITEMS - 1) + ["c"]))
    write_log(tmp_path)
    assert steps(tmp_path, text) == 0
    graph = load_paths(tmp_path / "path.json").graph / "own"
    names = ("user", "item", "time", "label_like", "split", "device")
    expected = {name: read_artifact(graph, "").array(name).tobytes() for name in names}
    histories = [
        ["", "3", "5^3^1", "^".join(map(str, range(5000))), "1^2,3", 'a "b"\nc'][row % 6] for row in range(ROWS)
    ]
    write_log(tmp_path, {"clicked_items": histories, "item^": histories, "clicked_categories": histories[::-1]}.items())
    assert steps(tmp_path, text) == 0
    assert {name: read_artifact(graph, "").array(name).tobytes() for name in names} == expected


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ('token_separator = ""', "must be text in quotes"),
        ("token_separator = 3", "must be text in quotes"),
        ('token_seperator = "^"', "did you mean 'token_separator'?"),
    ],
)
def test_mistakes_are_one_line(tmp_path, capsys, change, message):
    write_log(tmp_path)
    write_table(tmp_path / "tags.csv", table_of(["a^b"] * ITEMS))
    (tmp_path / "own.toml").write_text(DESCRIPTION + f'files = "tags.csv"\n{change}\n')
    assert call(preprocess_inter.main, "--paths", write_described(tmp_path, {"own": "own.toml"})) == 2
    assert message in " ".join(capsys.readouterr().err.split())


def test_a_separator_of_words_is_a_mistake(tmp_path, capsys):
    write_log(tmp_path)
    text = DESCRIPTION.replace("tokens", "text") + 'files = "tags.csv"\ntoken_separator = "^"\n'
    (tmp_path / "own.toml").write_text(text)
    assert call(preprocess_inter.main, "--paths", write_described(tmp_path, {"own": "own.toml"})) == 2
    (line,) = [one for one in capsys.readouterr().err.split("error:")[1:]]
    assert "[modalities.tags]: token_separator: only for tokens" in line
