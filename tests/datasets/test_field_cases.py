"""Inputs of users that failed once: each is a folder with a description, run through the steps as in the README.

The folders are in shared/data/field-cases beside this repository, or where FIELD_CASES says. Their README states the
right outcome of each. test_field_families.py makes inputs of the same kinds, so a fresh clone tests them without the
folders.
"""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import load_interactions
from mma4ctr.datasets import __main__ as datasets_main
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import ROOT, call

NEAR = [folder / "shared/data/field-cases" for folder in ROOT.parents]
CASES = Path(os.environ["FIELD_CASES"]) if "FIELD_CASES" in os.environ else next(filter(Path.is_dir, NEAR), NEAR[0])
pytestmark = pytest.mark.skipif(not CASES.is_dir(), reason=f"no folder {CASES}; name the field cases in FIELD_CASES")


class Case:
    """A copy of one folder, and its steps."""

    def __init__(self, name, folder, capsys):
        shutil.copytree(CASES / name, folder)
        self.folder, self.capsys = folder, capsys
        self.paths = load_paths(folder / "own.json")

    def run(self, step, *options, code=0):
        """Return the output of a step, which must end with exit code `code`; None allows any."""
        self.capsys.readouterr()
        known = ("check", self.paths.file) if step is datasets_main else ("--paths", self.paths.file)
        self.code = call(step.main, *known, *options)
        found = self.capsys.readouterr()
        assert self.code in ((0, 2) if code is None else (code,)), found.err
        if self.code and step is not datasets_main:
            lines = [line for line in found.err.splitlines() if not line.startswith("warning")]
            assert len(lines) == 1 and lines[0].startswith("error: "), found.err
        assert "Traceback" not in found.err
        return found.out, found.err

    def both(self, **options):
        """Return the steps that read the files."""
        self.run(datasets_main)
        self.run(preprocess_inter)
        return self.run(preprocess_multimodal, **options)

    def features(self, name):
        return read_artifact(self.paths.modal / "mine", "").array(name)


@pytest.fixture
def case(tmp_path, capsys):
    copies = iter(range(9))
    return lambda name: Case(name, tmp_path / f"copy{next(copies)}", capsys)


def same_with(case, name, file, change, modality="words"):
    """Return a case, and the same case with a file in its plain form; both must give equal features."""
    one, other = case(name), case(name)
    path = other.folder / file
    path.write_text("".join(change(line) for line in path.read_text().splitlines(keepends=True)))
    for each in (one, other):
        each.both()
    assert np.array_equal(one.features(modality), other.features(modality))


def test_02_text_in_strings_and_lists(case):
    same_with(case, "02-json-list-or-string", "meta.jsonl", lambda line: re.sub(r'\["(.*)"\]', r'"\1"', line))


def test_03_labels_of_two_kinds(case):
    one = case("03-json-mixed-labels")
    one.both()
    lines = (one.folder / "log.jsonl").read_text().splitlines()
    liked = sum(bool(re.search(r'"liked": (true|1)\b', line)) for line in lines)
    assert load_interactions(one.paths, "mine").label("like").sum() == liked


def test_04_an_empty_part_of_the_log(case):
    one = case("04-empty-part-csv-zero")
    for step in (datasets_main, preprocess_inter):
        assert "part-00000.csv: has no rows" in one.run(step)[0]
    assert len(load_interactions(one.paths, "mine")) == 900


def test_05_an_empty_part_of_vectors(case):
    one = case("05-empty-part-vectors")
    assert "f0.parquet: has no rows" in one.both()[0]
    table = pq.read_table(one.folder / "f1.parquet")
    vectors = dict(zip(table["id"].to_pylist(), table["v"].to_pylist(), strict=True))
    items = load_interactions(one.paths, "mine").item_ids
    assert np.allclose(one.features("vec"), [vectors[item] for item in items.tolist()])


def test_07_times_of_two_kinds(case):
    one = case("07-time-type-drift-dates-then-ints")
    _, error = one.run(preprocess_inter, code=2)
    assert "log-1.parquet" in error and "log-2.parquet" in error
    one.run(datasets_main, code=2)


def test_09_lists_among_other_columns(case):
    one = case("09-also-list-jsonl")
    _, error = one.run(preprocess_inter, code=None)
    code = one.code
    one.run(datasets_main, code=code)
    assert "item_seq" in error if code else len(load_interactions(one.paths, "mine")) == 900


def test_10_no_token_in_a_list(case):
    same_with(case, "10-token-list-with-null", "meta.jsonl", lambda line: line.replace("null, ", ""), "tags")


def test_12_brackets_in_a_name(case):
    one = case("12-glob-brackets")
    one.both()
    assert len(load_interactions(one.paths, "mine")) == 900


@pytest.mark.parametrize("large", [False, True])
def test_13_cells_over_two_lines(case, large):
    one = case("13-csv-embedded-newline")
    path = one.folder / "titles.csv"
    header, rest = path.read_text().split("\n", 1)
    at = rest.index("\n,") + 1
    end = rest.index('"\n', at) + 2
    good = rest[:at] + rest[end:]
    before = good * (5_000_000 // len(good) + 1) if large else ""
    path.write_text(f"{header}\n{before}{rest}{before}")
    line = 2 + before.count("\n") + rest.count("\n", 0, at)
    one.run(preprocess_inter)
    _, error = one.run(preprocess_multimodal, code=2)
    assert f"titles.csv:{line}: column id: an id is empty" in error
    found = one.run(datasets_main, code=2)[1] if not large else error
    assert f"titles.csv:{line}: column id: an id is empty" in found
    one.run(preprocess_multimodal, "--skip-bad-lines", 1)
    present = read_artifact(one.paths.modal / "mine", "").array("words_present")
    items = load_interactions(one.paths, "mine").item_ids
    assert items[~present].tolist() == [20], "the bad row's item, and no other"


@pytest.mark.parametrize("name", ["49-time-parquet-far", "49-time-parquet-ns-tz"])
def test_49_times_out_of_the_common(case, name):
    one = case(name)
    one.both()
    assert len(load_interactions(one.paths, "mine")) == 900


def test_57_bytes_that_are_no_text(case):
    one = case("57-parquet-invalid-utf8")
    one.run(preprocess_inter)
    _, error = one.run(preprocess_multimodal, code=2)
    assert re.search(r"m\.parquet:\d+: .*UTF-?8", error)
    _, error = one.run(datasets_main, code=2)
    assert re.search(r"m\.parquet:\d+: .*UTF-?8", error)


def test_64_quotes_in_what_is_asked(case):
    one = case("64-predict-quoted")
    one.both()
    for step in (get_user_embedding, gen_matrix):
        one.run(step)
    one.run(mlp, "--epochs", 1)
    for name, unknown in (("q1", 0), ("q2", 0), ("q3", 1), ("q5", 0)):
        out = one.folder / f"{name}.out"
        _, error = one.run(mlp, "--run", "last", "--predict", one.folder / f"{name}.tsv", "--output", out)
        assert (f"{unknown} have a user" in error) == bool(unknown), name
        user, item, _ = out.read_text().splitlines()[1].split("\t")
        assert (user, item) == ('u"1' if unknown else "u1", "2")
    out = one.folder / "q4.out"
    _, error = one.run(mlp, "--run", "last", "--predict", one.folder / "q4.tsv", "--top", 3, "--output", out)
    assert "have a user" not in error
    assert [line.split("\t")[0] for line in out.read_text().splitlines()] == ["user", *["u1"] * 3]


def test_66_text_as_lists_of_sentences(case):
    same_with(case, "66-text-list-of-sentences", "meta.jsonl", lambda line: re.sub(r'\["(.*)"\]', r'"\1"', line))


def test_70_folders_of_days_in_their_order(case):
    one = case("70-hive-order-no-time")
    one.both()
    items = []
    for day in range(1, 13):
        lines = (one.folder / f"log/day={day}/part-0.csv").read_text().splitlines()
        items += [int(line.split(",")[lines[0].split(",").index("item")]) for line in lines[1:]]
    data = load_interactions(one.paths, "mine")
    assert data.item_ids[data.item[np.argsort(data.time)]].tolist() == items


def test_72_skipped_lines_are_no_duplicates(case):
    one = case("72-bad-lines-counted-as-duplicates")
    out, _ = one.run(preprocess_inter, "--skip-bad-lines", 3)
    assert " 0 duplicates" in out and re.search(r"\b3\b[^.;]*(bad|skipped)", out)
    rows = read_artifact(one.paths.graph / "mine", "").manifest["rows"]
    assert 3 in rows.values(), rows


def test_73_the_check_names_the_empty_cell(case):
    one = case("73-check-names-right-value")
    _, error = one.run(datasets_main, code=2)
    assert "log.csv:402: column time" in error and ("''" in error or "empty" in error)
    assert "'1500000193'" not in error
    assert "log.csv:402: column time" in one.run(preprocess_inter, code=2)[1]


def test_every_folder_has_a_test():
    here = Path(__file__).read_text()
    assert [folder.name for folder in CASES.iterdir() if folder.is_dir() and folder.name not in here] == []
