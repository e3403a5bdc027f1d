"""results.jsonl: results are read as they were written; lines that are no result are skipped with a warning."""

import json
from dataclasses import asdict

import pytest

from mma4ctr.evaluation import __main__ as results
from mma4ctr.evaluation.run_records import append_result, read_results
from mma4ctr.runtime.errors import UserError
from tests.conftest import call


def line_with(made, **changes):
    """Return the line of a real run with changes."""
    line = json.loads(made.results.read_text().splitlines()[0])
    for name, value in changes.items():
        line[name] = value
    return line


def test_a_result_is_read_as_it_was_written(made, tmp_path):
    for result in read_results(made.results):
        append_result(tmp_path / "results.jsonl", result)
    assert read_results(tmp_path / "results.jsonl") == read_results(made.results)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("protocol", 7),
        ("protocol", {"split": "random"}),
        ("rows", {"train": 3}),
        ("auc", "0.7"),
        ("seed", 1.5),
        ("seed", True),
        ("epochs", None),
        ("task", 3),
        ("unheard_of", 1),
    ],
)
def test_a_line_of_the_wrong_kind_is_passed_over(made, tmp_path, capsys, field, value):
    good = line_with(made)
    path = tmp_path / "results.jsonl"
    path.write_text("\n".join(json.dumps(line) for line in (line_with(made, **{field: value}), good)) + "\n")
    (result,) = read_results(path)
    assert asdict(result) == good
    assert "results.jsonl:1: not a result" in capsys.readouterr().err


@pytest.mark.parametrize("text", [b"7", b"[]", b"null", b"\xff\xfe\x00", b"{}"])
def test_lines_that_are_no_object_of_a_run(tmp_path, capsys, text):
    path = tmp_path / "results.jsonl"
    path.write_bytes(text + b"\n")
    assert read_results(path) == []
    assert "results.jsonl:1: not a result" in capsys.readouterr().err


def test_undefined_scores_and_whole_numbers_are_results(made, tmp_path):
    path = tmp_path / "results.jsonl"
    path.write_text(json.dumps(line_with(made, auc=None, gauc=None, logloss=None, train_seconds=3)) + "\n")
    assert len(read_results(path)) == 1


def test_a_folder_in_its_place_and_nothing_to_show(raw_copy, capsys):
    path = raw_copy / "saved/results.jsonl"
    path.mkdir(parents=True)
    with pytest.raises(UserError, match="Is a directory"):
        read_results(path)
    assert call(results.main, "--paths", raw_copy / "path.json") == 2
    path.rmdir()
    path.write_text("nothing\n")
    assert call(results.main, "--paths", raw_copy / "path.json") == 2
    assert "run mlp.py first" in capsys.readouterr().err


def test_names_of_earlier_versions_are_read(made, tmp_path):
    line = json.loads(made.results.read_text().splitlines()[0])
    path = tmp_path / "results.jsonl"
    for old, new in (("taste", "content-factors"), ("shown-alike", "exposure-svd"), ("counts", "counts")):
        path.write_text(json.dumps(line | {"variant": f"vat_concat.plus-{old}"}) + "\n")
        assert [result.variant for result in read_results(path)] == [f"vat_concat.plus-{new}"]
    path.write_text(json.dumps(line | {"model": "rates"}) + "\n")
    assert [result.model for result in read_results(path)] == ["bias model"]
