"""Lines in messages, and odd but valid cells: blank lines, skipped lines, mixed types and unusual separators."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import TEST, load_interactions
from mma4ctr.datasets.columns import ids_of, tokens_of
from mma4ctr.datasets.times import TimeForm, form_of, shown_time, time_of
from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.json_vectors import parse_lines
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, write_described

ROWS, ITEMS = 60, 12
LOG = """
min_interactions = 1
[interactions]
files = "log.{kind}"
user = "user"
item = "item"
time = "time"
{more}
[targets]
like = "like"
[modalities.visual]
files = "items.{kind}"
item = "id"
vector = ["x", "y"]
{more}
"""


def log_rows():
    rng = np.random.default_rng(0)
    return [[int(rng.integers(5)), int(rng.integers(ITEMS)), 1000 + row, row % 2] for row in range(ROWS)]


def item_rows():
    return [[item, item + 0.5, -item] for item in range(ITEMS)]


def lines_of(kind, names, rows, separator=None):
    if kind == "jsonl":
        return [json.dumps(dict(zip(names, row, strict=True))) for row in rows]
    separator = separator or ("," if kind == "csv" else "\t")
    return [separator.join(map(str, row)) for row in (names, *rows)]


def world(folder, kind, more="", separator=None, items=None):
    (folder / "own.toml").write_text(LOG.format(kind=kind, more=more))
    log = lines_of(kind, ("user", "item", "time", "like"), log_rows(), separator)
    (folder / f"log.{kind}").write_text("\n".join(log) + "\n")
    lines = lines_of(kind, ("id", "x", "y"), items or item_rows(), separator)
    (folder / f"items.{kind}").write_text("\n".join(lines) + "\n")
    return write_described(folder, {"own": "own.toml"})


def error_of(capsys, main, *options):
    capsys.readouterr()
    assert call(main, *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error")]
    return line


@pytest.mark.parametrize("kind", ["csv", "tsv", "jsonl"])
@pytest.mark.parametrize("skipped", [False, True])
def test_a_repeated_item_is_named_with_its_line(tmp_path, capsys, kind, skipped):
    """Blank lines before it, and bad lines that were skipped, are counted."""
    paths = world(tmp_path, kind)
    assert call(preprocess_inter.main, "--paths", paths) == 0
    path = tmp_path / f"items.{kind}"
    lines = path.read_text().splitlines()
    again = lines[5].replace("0.5", "9.5").replace(".5", ".75")
    lines = [*lines[:3], "", "", *lines[3:8], *(["broken"] if skipped else []), "", again, *lines[8:]]
    path.write_text("\n".join(lines) + "\n")
    options = ("--skip-bad-lines", 1) if skipped else ()
    error = error_of(capsys, preprocess_multimodal.main, "--paths", paths, *options)
    assert f"{path.name}:{lines.index(again) + 1}: " in error and "repeated" in error


def test_a_repeated_item_of_parquet_is_named_with_its_row(tmp_path, capsys):
    paths = world(tmp_path, "csv")
    assert call(preprocess_inter.main, "--paths", paths) == 0
    rows = [*item_rows(), [3, 9.0, 9.0]]
    columns = {name: [str(row[place]) for row in rows] for place, name in enumerate(("id", "x", "y"))}
    columns["x"][1] = columns["x"][4] = "much"
    pq.write_table(pa.table(columns), tmp_path / "items.parquet")
    text = (tmp_path / "own.toml").read_text()
    (tmp_path / "own.toml").write_text(text.replace("items.csv", "items.parquet"))
    error = error_of(capsys, preprocess_multimodal.main, "--paths", paths, "--skip-bad-lines", 2)
    assert f"items.parquet:{len(rows)}: " in error and "repeated" in error


@pytest.mark.parametrize(("kind", "separator"), [("csv", " "), ("csv", "\t"), ("csv", ";"), ("tsv", "|")])
def test_any_character_separates_cells(tmp_path, kind, separator):
    paths = world(tmp_path, kind, f"separator = {json.dumps(separator)}", separator)
    assert call(preprocess_inter.main, "--paths", paths) == 0
    data = load_interactions(load_paths(paths), "own")
    rows = sorted(log_rows(), key=lambda row: (row[0], row[2]))
    assert data.item_ids[data.item].tolist() == [row[1] for row in rows]
    assert call(preprocess_multimodal.main, "--paths", paths) == 0


@pytest.mark.parametrize("separator", ["", ",,", "\u00e4", '"', "\n", 3])
def test_a_separator_that_is_none_is_refused(tmp_path, capsys, separator):
    paths = world(tmp_path, "csv", f"separator = {json.dumps(separator)}")
    assert "must be one ASCII character" in error_of(capsys, preprocess_inter.main, "--paths", paths)


SPLIT = '[split]\ncolumn = "part"\ntrain = ["0", "train"]\nvalid = "1"\ntest = "2"\n'


@pytest.mark.parametrize("missing", [None, "", " "])
def test_json_of_two_types_is_split_and_labelled(tmp_path, missing):
    """Parts as numbers and as text, and labels that only test rows lack, in one block."""
    rows = []
    for place, (user, item, time, like) in enumerate(log_rows()):
        part = 2 if place >= 50 else 1 if place >= 40 else "train" if place % 3 else "0"
        rows.append({"user": user, "item": item, "time": time, "like": missing if part == 2 else like, "part": part})
    paths = world(tmp_path, "jsonl")
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    text = (tmp_path / "own.toml").read_text()
    (tmp_path / "own.toml").write_text(text + SPLIT)
    assert call(preprocess_inter.main, "--paths", paths) == 0
    data = load_interactions(load_paths(paths), "own")
    assert (data.split == TEST).sum() == 10 and data.artifact.manifest["test_labels"] is False
    assert data.label("like").sum() == sum(row["like"] for row in rows[:50])


@pytest.mark.parametrize("before", [[], ["", "  "]])
@pytest.mark.parametrize("first", ["{", "[1]", "3", '{"user": 1'])
def test_a_first_line_that_is_no_object(tmp_path, capsys, first, before):
    """It is skipped as any other line, or named with its own number."""
    paths = world(tmp_path, "jsonl")
    path = tmp_path / "log.jsonl"
    path.write_text("\n".join([*before, first]) + "\n" + path.read_text())
    assert f"log.jsonl:{len(before) + 1}: " in error_of(capsys, preprocess_inter.main, "--paths", paths)
    assert call(preprocess_inter.main, "--paths", paths, "--skip-bad-lines", 1) == 0
    assert len(load_interactions(load_paths(paths), "own")) == ROWS
    path.write_text("\n".join([*before, first]) + "\n")
    assert f"log.jsonl:{len(before) + 1}: " in error_of(capsys, preprocess_inter.main, "--paths", paths)


@pytest.mark.parametrize("depth", [100, 1000, 1020])
def test_json_nested_deeply_is_one_line(tmp_path, capsys, depth):
    paths = world(tmp_path, "jsonl")
    path = tmp_path / "log.jsonl"
    lines = path.read_text().splitlines()
    row = json.loads(lines[7])
    lines[7] = json.dumps(row | {"item": "DEEP"}).replace('"DEEP"', "[" * depth + "1" + "]" * depth)
    path.write_text("\n".join(lines) + "\n")
    assert "log.jsonl:8: " in error_of(capsys, preprocess_inter.main, "--paths", paths)


@given(st.lists(st.one_of(st.none(), st.sampled_from(["", " ", "a", " a ", "b c"])), max_size=6))
def test_blank_tokens_are_left_out(cells):
    row, token = tokens_of(pa.array([cells], pa.list_(pa.string())), "tags", words=False)
    kept = [cell.strip() for cell in cells if cell and cell.strip()]
    assert row.tolist() == [0] * len(kept)
    assert token.tolist() == [ids_of(pa.array([one]), "c").values[0] for one in kept]


def test_an_id_that_is_nan_is_empty():
    with pytest.raises(BadLine, match="an id is empty"):
        ids_of(pa.array([1.0, float("nan")]), "item")


@pytest.mark.parametrize("scale", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("as_text", [False, True])
def test_times_as_floats_of_any_unit_are_read(scale, as_text):
    """pandas writes whole numbers with gaps as floats."""
    seconds = np.array([1_700_000_000 + 3601 * place for place in range(8)])
    values = (seconds * scale).astype(np.float64)
    column = pa.array([f"{one:.1f}" for one in values]) if as_text else pa.array(values)
    form = form_of(column, "time")
    found = time_of(column, "time", form)
    assert form.ticks_per_second and (np.diff(found) == 3601 * form.ticks_per_second).all()
    assert float(shown_time(int(found[0]), form)) == values[0]


def test_compact_times_as_floats_are_read():
    values = [20240531180000.0, 20240601000000.0, 20240601000001.0]
    form = form_of(pa.array(values), "time")
    assert time_of(pa.array(values), "time", form).tolist() == [int(one) for one in values]


def test_times_that_begin_late_are_of_their_form(tmp_path):
    """More rows without a time than the form is inferred from."""
    paths = world(tmp_path, "csv")
    rows = [[0, row % ITEMS, "", row % 2] for row in range(1200)]
    rows += [[row % 5, row % ITEMS, f"2024-05-31 18:{row:02d}:00", row % 2] for row in range(ROWS)]
    lines = lines_of("csv", ("user", "item", "time", "like"), rows)
    (tmp_path / "log.csv").write_text("\n".join(lines) + "\n")
    assert call(preprocess_inter.main, "--paths", paths, "--skip-bad-lines", 1200) == 0
    assert len(load_interactions(load_paths(paths), "own")) == ROWS


@given(
    st.one_of(
        st.integers(0, 2**70), st.integers(0, 40).map(lambda one: one << 64), st.integers(0, 9).map(lambda k: 10**k)
    ),
    st.sampled_from(["", "0", "5"]),
)
def test_the_compiled_parser_reads_a_number_of_any_size_or_leaves_it(number, decimals):
    text = f"{number}.{decimals}" if decimals else str(number)
    found = parse_lines(b'{"item_id": 7, "v": [%s, 1.5]}\n' % text.encode(), "item_id", "v", 2)
    assert found is None or found[1][0, 0] == np.float32(float(text))
    found = parse_lines(b'{"item_id": %d, "v": [2.5, 1.5]}\n' % number, "item_id", "v", 2)
    assert found is None or found[0].tolist() == [number]


def test_a_form_knows_how_many_integers_are_a_second():
    for kind, unit, expected in (
        ("number", "", 1e6), ("number", "seconds", 1e6), ("number", "milliseconds", 1e9),
        ("number", "microseconds", 1e6), ("number", "nanoseconds", 1e9), ("whole", "milliseconds", 1e3),
    ):  # fmt: skip
        assert TimeForm(kind, unit).ticks_per_second == expected
