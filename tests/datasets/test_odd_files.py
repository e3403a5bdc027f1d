"""Files that are unusual but valid, or wrong in a way that a reader could miss: long tokens, hexadecimal ids, two forms
of one file, times without a unit, unclosed quotes, marks of byte order, and columns that are known only afterwards."""

import gzip
import json
import shutil
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

import preprocess_inter
from mma4ctr.data.interactions import load_interactions
from mma4ctr.data.log_columns import listed_values
from mma4ctr.datasets import __main__ as check
from mma4ctr.datasets.array_files import checked_ids
from mma4ctr.datasets.base import ColumnNames
from mma4ctr.datasets.columns import ids_of, tokens_of
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.json_lines import JsonLines
from mma4ctr.datasets.table_readers import Source
from mma4ctr.datasets.times import TimeForm, common_form, form_of, time_of
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.simulation import __main__ as world
from mma4ctr.storage import text_blocks
from mma4ctr.storage.delimited import read_header
from mma4ctr.storage.paths import load_paths
from mma4ctr.storage.quoted_text import QuotedText
from tests.conftest import call, write_described
from tests.datasets.test_messages import error_of

ROWS = 60
LOG = """
min_interactions = 1
[interactions]
files = "log*.csv*"
user = "user"
item = "item"
time = "time"
{more}
[targets]
like = "like"
[modalities.visual]
vectors = "vectors.npy"
ids = "ids.npy"
{tables}
"""


def own_log(folder, more="", tables="", *, times=None, items=None):
    """A path.json with one described log, whose rows are (user, item, time, like)."""
    times = times or [1_700_000_000 + 3600 * row for row in range(ROWS)]
    items = items or [str(row % 12) for row in range(ROWS)]
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(12, 3)))
    np.save(folder / "ids.npy", np.arange(12))
    lines = [f"{row % 5},{items[row]},{times[row]},{row % 2},{row % 3}" for row in range(ROWS)]
    (folder / "log.csv").write_text("\n".join(["user,item,time,like,place", *lines]) + "\n")
    (folder / "own.toml").write_text(LOG.format(more=more, tables=tables))
    return write_described(folder, {"own": "own.toml"})


@given(st.lists(st.text("abc", min_size=1, max_size=250), min_size=1, max_size=6, unique=True))
def test_a_token_is_its_id_if_it_can_be_one(texts):
    """Histories are looked up among the items: a token of up to 200 bytes is the id of the same text."""
    _, tokens = tokens_of(pa.array([texts]), "seen", words=False)
    short = [place for place, text in enumerate(texts) if len(text) <= 200]
    ids = ids_of(pa.array([texts[place] for place in short], pa.string()), "item").values
    assert tokens[short].tolist() == ids.tolist()


@given(st.lists(st.integers(0, 2**62), min_size=1, max_size=5), st.lists(st.sampled_from(["a", "b7"]), max_size=2))
def test_hexadecimal_text_is_text_whatever_stands_beside_it(numbers, words):
    """Arrow reads 0x10 as a number; an id must not depend on the other ids of its block."""
    texts = [f"0x{number:x}" for number in numbers]
    ids = ids_of(pa.array([*texts, *words]), "item")
    assert ids.shown().to_pylist() == [*texts, *words] and len(ids.named) == len(texts) + len(words)
    alone = [ids_of(pa.array([text]), "item") for text in texts]
    assert [int(one.values[0]) for one in alone] == ids.values[: len(texts)].tolist()
    with pytest.raises(BadLine, match="0x"):
        time_of(pa.array(texts), "time", TimeForm("whole"))


@pytest.mark.parametrize("cells", [[3.0, None, 5.0], [3.0, float("nan"), 5.0], [3, None, 5], ["3", "", "5"]])
def test_tokens_can_be_numbers_of_any_type(cells):
    row, token = tokens_of(pa.array(cells), "author", words=False)
    assert (row.tolist(), token.tolist()) == ([0, 2], [3, 5])


@pytest.mark.parametrize("order", [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)])
def test_two_units_are_refused_wherever_a_file_without_unit_stands(tmp_path, order):
    columns = [[1_700_000_000, 1_700_000_060], [0, 5], [1_700_000_000_000, 1_700_000_060_000]]
    forms = [(tmp_path / f"{place}.csv", form_of(pa.array(columns[place]), "time")) for place in order]
    with pytest.raises(UserError, match="seconds"):
        common_form(forms, "time")
    dates = (tmp_path / "dates.csv", TimeForm("date"))
    for one in ([dates, *forms[:1]], [*forms[:1], dates]):
        with pytest.raises(UserError, match=f"{one[1][0].name}: .* but {one[0][0]} has"):
            common_form(one, "time")
    decimals = (tmp_path / "decimals.csv", TimeForm("number"))
    with pytest.raises(UserError, match=f"dates.csv: .* but {forms[0][0]} has"):
        common_form([forms[0], decimals, dates], "time")
    fewer = [one for one, place in zip(forms, order, strict=True) if place != 2]
    assert common_form(fewer, "time") == TimeForm("whole")


def test_a_file_and_its_packed_form_count_once(tmp_path):
    for name in ("log_1.csv", "log_2.csv.gz", "log_3.csv", "log_3.csv.gz", "._log_1.csv", ".log.csv"):
        (tmp_path / name).write_bytes(b"x")
    for patterns in (("*log*.csv*",), ("log*.csv", "log*.csv.gz"), ("log*.gz", "log_1*", "log_3.csv")):
        found = sorted(path.name for path in Source("own.toml", tmp_path, patterns).files())
        assert found == ["log_1.csv", "log_2.csv.gz", "log_3.csv"]
    assert [path.name for path in Source("own.toml", tmp_path, (".log*",)).files()] == [".log.csv"]


def test_a_log_beside_its_packed_form_has_each_row_once(tmp_path):
    paths = own_log(tmp_path)
    (tmp_path / "log.csv.gz").write_bytes(gzip.compress((tmp_path / "log.csv").read_bytes()))
    assert call(preprocess_inter.main, "--paths", paths) == 0
    rows = load_interactions(load_paths(paths), "own").artifact.manifest["rows"]
    assert (rows["raw"], rows["kept"], rows["duplicates"]) == (ROWS, ROWS, 0)


@pytest.mark.parametrize("record", range(6))
def test_after_an_unclosed_quote_no_record_is_cut(tmp_path, monkeypatch, record):
    """The cut of a block falls at the end of a record, not in its last cell."""
    monkeypatch.setattr(text_blocks, "BLOCK_BYTES", 64)
    monkeypatch.setattr(text_blocks, "LONGEST_LINE", 256)
    lines = [f"{number},{10_000_000 + number}\n" for number in range(60)]
    lines[record] = f'"{lines[record]}'
    path = tmp_path / "log.csv"
    path.write_text("".join(lines))
    first = text_blocks.Block(path, 0, 64, 64, at_line_start=True, quoted=QuotedText(","))
    data = [block.read() for block in text_blocks.read_records(first)]
    assert b"".join(data) == path.read_bytes() and all(part.endswith(b"\n") for part in data)


@pytest.mark.parametrize("rows", [2, 20_000])
def test_an_unclosed_quote_in_a_header_is_named(tmp_path, rows):
    path = tmp_path / "log.csv"
    path.write_text('user,"item,like\n' + "1,2,0\n" * rows)
    with pytest.raises(UserError, match=r"log\.csv:1: the header cannot be read \(a quote is not closed\)"):
        read_header(path, ["item"])


@pytest.mark.parametrize("ids", [["ü1", "b"], ["a", "b"], ["1", "2"]])
def test_ids_in_bytes_are_text(tmp_path, ids):
    array = np.array([one.encode() for one in ids])
    assert checked_ids(tmp_path, array).shown().to_pylist() == ids
    with pytest.raises(UserError, match="decode"):
        checked_ids(tmp_path, np.array([b"\xff\xfe"]))


@pytest.mark.parametrize("first", ['{"id": 1, "x": 2.5}', '{"id": "a", "x": [1, 2]}'])
def test_a_json_key_can_be_named_twice(first):
    table = JsonLines(("id", "id", "x")).parse((first + "\n").encode())
    assert table.column_names == ["id", "x"]


class Chunk:
    """The chunk of a table in a gzip file, with the unpacked bytes of its block."""

    def __init__(self, block, ids, values):
        self.block, self.ids, self.values, self.line, self.text = block, ids, values, np.arange(len(ids)), None


def test_a_packed_table_is_not_kept_in_memory_and_its_lines_are_named(tmp_path):
    path = tmp_path / "items.csv.gz"
    path.write_bytes(gzip.compress(b"item,x\n1,5\n2,6\n1,7\n"))
    (block,) = text_blocks.read_blocks(path, skip_lines=1, closed_by_newline=True)
    assert block.data
    chunk = Chunk(block, np.array([1, 2, 1]), {"x": np.array([5.0, 6.0, 7.0])})
    with pytest.raises(UserError, match=rf"{path}:4: .* than in {path}:2"):
        listed_values([chunk], IdIndex(np.array([1, 2])), ColumnNames((), ("x",)))


@pytest.mark.parametrize("more", ['device = "like"', 'device = "place"\noutcomes = ["pl*"]', 'history = "like"'])
def test_what_is_known_afterwards_is_no_input(tmp_path, capsys, more):
    error = error_of(capsys, preprocess_inter.main, "--paths", own_log(tmp_path, more))
    assert "[interactions]" in error and ("decides a target" in error or "is an outcome" in error)


def test_an_outcome_that_no_column_has_is_reported(tmp_path, capsys):
    paths = own_log(tmp_path, 'outcomes = ["pl*", "playtime"]')
    assert call(check.main, "check", paths) == 0
    said = " ".join("".join(capsys.readouterr()).split())
    assert "no column is called 'playtime'" in said and "'pl*'" not in said


@pytest.mark.parametrize("times", [None, [20240531180000 + row for row in range(ROWS)], list(range(1, ROWS + 1))])
def test_an_hour_without_a_unit_of_time_is_reported(tmp_path, capsys, times):
    paths = own_log(tmp_path, tables="[columns.context]\nhour = true", times=times)
    form = form_of(pa.array(times or [1_700_000_000]), "time")
    known = bool(form.ticks_per_second)
    assert call(preprocess_inter.main, "--paths", paths) == 0
    assert ("hour = true has no effect" in capsys.readouterr().err) != known
    assert call(check.main, "check", paths) == 0
    assert ("hour = true has no effect" in " ".join("".join(capsys.readouterr()).split())) != known


def test_a_byte_order_mark_is_no_part_of_a_description(tmp_path):
    paths = own_log(tmp_path)
    for path in (paths, tmp_path / "own.toml", tmp_path / "log.csv"):
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert call(preprocess_inter.main, "--paths", paths) == 0


def test_an_id_with_a_zero_byte_is_refused(tmp_path, capsys):
    paths = own_log(tmp_path, items=["a", "a\0", *(str(row % 12) for row in range(2, ROWS))])
    assert "zero byte" in error_of(capsys, preprocess_inter.main, "--paths", paths)


def test_a_table_of_columns_that_changes_is_noticed(tmp_path, capsys, monkeypatch):
    tables = '[columns.item]\nfiles = "items.csv"\nitem = "id"\nnumbers = ["x"]'
    paths = own_log(tmp_path, tables=tables)
    items = tmp_path / "items.csv"
    items.write_text("id,x\n" + "".join(f"{item},{item}\n" for item in range(12)))
    real = preprocess_inter.write_log_columns

    def changed(*arguments):
        real(*arguments)
        items.write_text(items.read_text() + "12,5\n")

    monkeypatch.setattr(preprocess_inter, "write_log_columns", changed)
    assert "items.csv" in error_of(capsys, preprocess_inter.main, "--paths", paths)


@pytest.mark.parametrize("order", [("kuaivideo-x1", "tiktok"), ("tiktok", "kuaivideo-x1"), ("tiktok", "wechat")])
def test_path_json_points_at_every_simulated_data_set(tmp_path, order):
    for dataset in order:
        world.write_paths(tmp_path / "path.json", [dataset])
    content = json.loads((tmp_path / "path.json").read_text())
    for dataset in order:
        assert dataset in content.get("datasets", {}) or f"{dataset}_dataset_path" in content
    before = (tmp_path / "path.json").read_bytes()
    world.write_paths(tmp_path / "path.json", list(order))
    assert (tmp_path / "path.json").read_bytes() == before


def test_options_of_one_data_set_are_checked_before_another_is_written(raw_world, tmp_path, capsys):
    """The log comes split, so --split is wrong for it; TikTok, which is read first, is not written either."""
    own_log(tmp_path, tables='[split]\ncolumn = "place"\ntrain = [0, 1]\ntest = 2')
    shutil.copytree(raw_world / "dataset", tmp_path / "dataset")
    content = json.loads((raw_world / "path.json").read_text()) | {"datasets": {"own": "own.toml"}}
    (tmp_path / "both.json").write_text(json.dumps(content))
    error_of(capsys, preprocess_inter.main, "--paths", tmp_path / "both.json", "--split", "random")
    assert not (load_paths(tmp_path / "both.json").graph).exists()


def test_a_given_split_of_one_day_says_what_is_missing(tmp_path, capsys):
    paths = own_log(tmp_path, tables='[split]\ncolumn = "place"\ntrain = [0, 1]\ntest = 2', times=["2024-05-31"] * ROWS)
    assert "name validation rows with valid" in error_of(capsys, preprocess_inter.main, "--paths", paths)


def test_a_packed_block_can_be_read_again(tmp_path):
    path = tmp_path / "log.csv.gz"
    content = b"".join(b"%d,%d\n" % (row, row * row) for row in range(3000))
    path.write_bytes(gzip.compress(b"a,b\n" + content))
    again = []
    for block in text_blocks.read_blocks(path, skip_lines=1, closed_by_newline=True):
        again.append(replace(block, data=None).read())
        assert again[-1] == block.data
    assert b"".join(again) == content
