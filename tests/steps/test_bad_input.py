"""Wrong input ends with exit code 2 and one line that names the file, the line, the error and what to do."""

import gzip
import json
import re
import shutil
from pathlib import Path

import pytest

import cross_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from mma4ctr.simulation import __main__ as world
from mma4ctr.storage.artifacts import read_artifact
from tests.conftest import call

INTER = "dataset/TikTok2019ICME/track1/final_track1_train.txt"
VIDEO = "dataset/TikTok2019ICME/track1/track1_video_features_part2.txt"
TITLE = "dataset/TikTok2019ICME/track1/track1_title.txt"
ACTIONS = "dataset/wechat/user_action.csv"
INFO = "dataset/wechat/feed_info.csv"
FUSED = "dataset/wechat/feed_embeddings.csv"


def edit_line(file: Path, number: int, change) -> None:
    lines = file.read_text().splitlines()
    lines[number - 1] = change(lines[number - 1])
    file.write_text("\n".join(lines) + "\n")


def cell(column: int, value: str, delimiter: str):
    def change(line: str) -> str:
        cells = line.split(delimiter)
        cells[column] = value
        return delimiter.join(cells)

    return change


def vector(**changes):
    """Replace parts of a video line; 1e999 and NaN are written literally."""

    def change(line: str) -> str:
        item = json.loads(line)
        item = {"item_id": item["item_id"], "video_feature_dim_128": [0.5] * 128} | changes
        return json.dumps(item)

    return change


# file, line, how it is changed, what the message must say
CASES = {
    "tiktok word for a number": (INTER, 7, cell(0, "abc", "\t"), "column uid: 'abc' is not a whole number"),
    "tiktok float for an id": (INTER, 9, cell(2, "1.5", "\t"), "column item_id: '1.5'"),
    "tiktok empty cell": (INTER, 9, cell(10, "", "\t"), "column time: '' is not a whole number"),
    "tiktok number beyond 64 bits": (INTER, 9, cell(10, "9" * 30, "\t"), "column time"),
    "tiktok label 2": (INTER, 11, cell(7, "2", "\t"), "column like: 2 where 0 or 1 is expected"),
    "tiktok label -1": (INTER, 11, cell(6, "-1", "\t"), "column finish: -1 where 0 or 1 is expected"),
    "tiktok column missing": (INTER, 5, lambda line: line.rsplit("\t", 1)[0], "11 columns where 12 are expected"),
    "tiktok column too many": (INTER, 5, lambda line: line + "\t1", "13 columns where 12 are expected"),
    "vector too long": (VIDEO, 3, vector(video_feature_dim_128=[1.0] * 129), "129 numbers, at most 128"),
    "vector with NaN": (VIDEO, 3, vector(video_feature_dim_128=[float("nan")] * 128), "broken JSON"),
    "vector with infinity": (VIDEO, 3, lambda _: '{"item_id":1,"video_feature_dim_128":[1e999]}', "broken JSON"),
    "vector with 1e200": (
        VIDEO,
        3,
        lambda _: '{"item_id":1,"video_feature_dim_128":[1e200]}',
        "beyond the range of float32",
    ),
    "vector with text": (VIDEO, 3, vector(video_feature_dim_128=["1"]), "not a number"),
    "vector nested": (VIDEO, 3, vector(video_feature_dim_128=[[1.0]]), "not a number"),
    "vector under another key": (VIDEO, 3, lambda line: line.replace("dim_128", "dim"), "needs the keys item_id and"),
    "vector without item_id": (VIDEO, 3, lambda line: line.replace("item_id", "item"), "needs the keys item_id"),
    "item_id as text": (VIDEO, 3, vector(item_id="17"), "item_id: '17' is not a whole number"),
    "broken JSON": (VIDEO, 3, lambda line: line[:-1], "broken JSON"),
    "not an object": (VIDEO, 3, lambda _: "[1, 2]", "not a JSON object"),
    "a key twice": (VIDEO, 3, lambda line: line[:-1] + ', "item_id": 3}', "duplicate key"),
    "title no object": (TITLE, 4, lambda _: '{"item_id": 1, "title_features": [1]}', "title_features is not an object"),
    "title token no number": (TITLE, 4, lambda _: '{"item_id": 1, "title_features": {"x": 1}}', "token"),
    "title negative count": (TITLE, 4, lambda _: '{"item_id": 1, "title_features": {"1": -1}}', "a count"),
    "wechat word for a number": (ACTIONS, 8, cell(1, "x1", ","), "column feedid: 'x1' is not a whole number"),
    "wechat label 3": (ACTIONS, 8, cell(6, "3", ","), "column like: 3 where 0 or 1"),
    "wechat column missing in a row": (ACTIONS, 8, lambda line: line.rsplit(",", 1)[0], "12 columns where 13"),
    "ocr no token ids": (INFO, 6, cell(5, "hello", ","), "column ocr"),
    "tag without probability": (INFO, 6, cell(14, "17;18", ","), "not 'id probability'"),
    "tag probability no number": (INFO, 6, cell(14, "17 high", ","), "column machine_tag_list"),
    "embedding too long": (FUSED, 3, lambda line: line + "1.0 ", "513 numbers, at most 512"),
    "embedding no number": (FUSED, 3, lambda line: line.rstrip() + "x ", "not a number"),
    "embedding NaN": (FUSED, 3, lambda line: line.split(",")[0] + ",nan 1.0 ", "NaN or infinity"),
}


@pytest.fixture(scope="module")
def small_world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Raw files of both data sets, read-only, with few rows: the tests look at single lines of them."""
    folder = tmp_path_factory.mktemp("small")
    assert call(world.main, folder, "--rows", 2500, "--users", 30, "--items", 100, "--seed", 3) == 0
    return folder


@pytest.fixture
def raw_copy(small_world: Path, tmp_path: Path) -> Path:
    """A copy of the small world that the test may change."""
    shutil.copytree(small_world, tmp_path, dirs_exist_ok=True)
    return tmp_path


def run_steps(folder: Path, *options: object) -> int:
    """Run steps 1 and 2."""
    code = call(preprocess_inter.main, "--paths", folder / "path.json", "--min-interactions", 5, *options)
    return code or call(preprocess_multimodal.main, "--paths", folder / "path.json", *options)


def of(file: str) -> tuple[str, str]:
    """Return the option for the data set of a file."""
    return "--dataset", "wechat" if "wechat" in file else "tiktok"


@pytest.mark.parametrize("name", CASES)
def test_one_bad_line_is_named(raw_copy, capsys, name):
    file, number, change, message = CASES[name]
    edit_line(raw_copy / file, number, change)
    assert run_steps(raw_copy, *of(file)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith(f"error: {raw_copy / file}:{number}: "), error
    assert message in error and "--skip-bad-lines" in error


@pytest.mark.parametrize("name", CASES)
def test_one_bad_line_can_be_passed_over(raw_copy, capsys, name):
    file, number, change, _ = CASES[name]
    edit_line(raw_copy / file, number, change)
    assert run_steps(raw_copy, *of(file), "--skip-bad-lines", 1) == 0
    error = capsys.readouterr().err
    assert "skipped 1 bad line:" in error and f"{raw_copy / file}:{number}: " in error


def test_passing_over_equals_a_file_without_the_lines(raw_copy, capsys):
    """Skipping scattered bad lines of several kinds gives the result of a file without them; the report counts them."""
    file = raw_copy / INTER
    good = file.read_text().splitlines()
    bad = [(100 * i, "broken\tline" if i % 2 else cell(7, "5", "\t")(good[100 * i])) for i in range(1, 15)]
    lines = good.copy()
    for place, text in reversed(bad):
        lines.insert(place, text)
    options = ("--paths", raw_copy / "path.json", "--dataset", "tiktok", "--min-interactions", 5)
    assert call(preprocess_inter.main, *options) == 0
    clean = read_artifact(raw_copy / "graph/tiktok", "").fingerprint
    file.write_text("\n".join(lines) + "\n")
    assert call(preprocess_inter.main, *options, "--skip-bad-lines", 13) == 2
    assert "14 bad lines, 13 allowed" in capsys.readouterr().err
    assert call(preprocess_inter.main, *options, "--skip-bad-lines", 14) == 0
    assert read_artifact(raw_copy / "graph/tiktok", "").fingerprint == clean
    error = capsys.readouterr().err
    assert error.count("skipped 7 bad lines") == 2
    assert len(re.findall(rf"{re.escape(str(file))}:\d+", error)) == 10


@pytest.mark.parametrize("column", ["userid", "feedid", "date_", "device", "like", "read_comment"])
def test_a_missing_wechat_column_is_named_with_the_nearest_there_is(raw_copy, capsys, column):
    edit_line(raw_copy / ACTIONS, 1, lambda line: line.replace(column, column + "x"))
    assert run_steps(raw_copy) == 2
    error = capsys.readouterr().err
    assert f"user_action.csv:1: the column '{column}' is missing; did you mean '{column}x'" in error


@pytest.mark.parametrize("column", ["feedid", "ocr_char", "machine_tag_list"])
def test_a_missing_feed_info_column_is_named(raw_copy, capsys, column):
    edit_line(raw_copy / INFO, 1, lambda line: line.replace(column, "nothing_like_it"))
    assert run_steps(raw_copy) == 2
    assert f"feed_info.csv:1: the column '{column}' is missing" in capsys.readouterr().err


@pytest.mark.parametrize("file", [INTER, ACTIONS, INFO, FUSED, VIDEO, TITLE])
def test_a_file_cut_in_the_middle_of_a_line(raw_copy, capsys, file):
    path = raw_copy / file
    data = path.read_bytes()
    path.write_bytes(data[: data.rfind(b"\n", 0, len(data) // 2) + 15])
    assert run_steps(raw_copy) == 2
    line = data[: len(data) // 2].count(b"\n")
    error = capsys.readouterr().err
    assert re.search(rf"{re.escape(str(path))}:({line}|{line + 1}|{line + 2}): ", error), error
    assert not (raw_copy / "modal/tiktok").exists() or file in (INFO, FUSED)


def test_a_cut_gzip_file(raw_copy, capsys):
    path = raw_copy / INTER
    data = gzip.compress(path.read_bytes())
    path.with_suffix(".txt.gz").write_bytes(data[: len(data) // 2])
    path.unlink()
    assert run_steps(raw_copy) == 2
    assert "damaged gzip data" in capsys.readouterr().err


@pytest.mark.parametrize("file", [INTER, ACTIONS])
def test_a_missing_interaction_file(raw_copy, capsys, file):
    (raw_copy / file).unlink()
    assert run_steps(raw_copy) == 2
    error = capsys.readouterr().err
    assert "is missing" in error and str(raw_copy / file) in error
    (raw_copy / file).mkdir()
    assert run_steps(raw_copy) == 2
    assert "is a folder, and a file is expected" in capsys.readouterr().err


@pytest.mark.parametrize("file", [INTER, ACTIONS])
def test_an_empty_interaction_file(raw_copy, capsys, file):
    (raw_copy / file).write_bytes(b"")
    assert run_steps(raw_copy) == 2
    assert str(raw_copy / file) in capsys.readouterr().err


def test_an_item_with_two_different_vectors(raw_copy, capsys):
    path = raw_copy / VIDEO
    assert run_steps(raw_copy) == 0
    known = set(read_artifact(raw_copy / "graph/tiktok", "").array("item_ids").tolist())
    lines = path.read_text().splitlines()
    again = next(i for i, line in enumerate(lines) if json.loads(line)["item_id"] in known and "[]" not in line)
    path.write_text("\n".join([*lines, lines[again]]) + "\n")
    assert run_steps(raw_copy) == 0, "the same vector twice is harmless"
    item = json.loads(lines[again])
    item["video_feature_dim_128"][0] += 1
    path.write_text("\n".join([*lines, json.dumps(item)]) + "\n")
    assert run_steps(raw_copy) == 2
    error = capsys.readouterr().err
    assert f"{path}:{len(lines) + 1}: item {item['item_id']} is repeated with other features" in error


def test_a_failing_step_leaves_no_folder_that_the_next_takes_for_finished(raw_copy, capsys):
    edit_line(raw_copy / VIDEO, 3, lambda _: "{")
    assert run_steps(raw_copy, "--dataset", "tiktok") == 2
    assert not (raw_copy / "modal/tiktok").exists()
    assert call(get_user_embedding.main, "--paths", raw_copy / "path.json") == 2
    assert "run preprocess_multimodal.py first" in capsys.readouterr().err
    assert not [path for path in raw_copy.rglob("*.partial")]


@pytest.mark.parametrize("damage", ["cut", "deleted", "manifest"])
def test_a_damaged_artifact_is_refused(raw_copy, capsys, damage):
    paths = raw_copy / "path.json"
    assert run_steps(raw_copy, "--dataset", "tiktok") == 0
    file = raw_copy / "graph/tiktok" / ("manifest.json" if damage == "manifest" else "user.npy")
    if damage == "deleted":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-40])
    assert call(get_user_embedding.main, "--paths", paths, "--task", "tiktok_like") == 2
    assert "run preprocess_inter.py again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "not valid JSON"),
        ("[]", "must be one JSON object"),
        ('{"parent_folder": "."}', "the key 'dataset_path' is missing"),
        ('{"parent_folder": ".", "dataset_path": 3}', "is missing"),
    ],
)
def test_an_unreadable_path_json(tmp_path, capsys, text, message):
    (tmp_path / "path.json").write_text(text)
    assert call(preprocess_inter.main, "--paths", tmp_path / "path.json") == 2
    error = capsys.readouterr().err
    assert message in error and "path.json" in error


def test_a_misspelt_key_and_a_value_that_is_no_path(raw_copy, capsys):
    content = json.loads((raw_copy / "path.json").read_text())
    (raw_copy / "path.json").write_text(json.dumps(content | {"graph_path": 5}))
    assert call(preprocess_inter.main, "--paths", raw_copy / "path.json") == 2
    assert "the key 'graph_path' must be a path in quotes, not 5" in capsys.readouterr().err
    content["grap_path"] = content.pop("graph_path")
    (raw_copy / "path.json").write_text(json.dumps(content))
    assert call(preprocess_inter.main, "--paths", raw_copy / "path.json") == 2
    assert "the key 'graph_path' is missing; is 'grap_path' a misspelling" in capsys.readouterr().err
    assert call(preprocess_inter.main, "--paths", raw_copy / "none.json") == 2
    assert "No such file" in capsys.readouterr().err


def test_too_high_a_minimum_and_one_class_only(raw_copy, capsys):
    options = ("--paths", raw_copy / "path.json", "--dataset", "tiktok")
    assert call(preprocess_inter.main, *options, "--min-interactions", 10**6) == 2
    assert "choose a smaller --min-interactions" in capsys.readouterr().err
    file = raw_copy / INTER
    file.write_text("".join(cell(7, "0", "\t")(line) + "\n" for line in file.read_text().splitlines()))
    assert run_steps(raw_copy, "--dataset", "tiktok") == 0
    assert "all labels are 0" in capsys.readouterr().err
    assert call(get_user_embedding.main, "--paths", raw_copy / "path.json", "--task", "tiktok_like") == 2
    assert "nothing to learn" in capsys.readouterr().err


def test_widths_and_variants_that_do_not_exist(made, capsys):
    for main, *options in (
        (preprocess_multimodal.main, "--width", "smell=3"),
        (preprocess_multimodal.main, "--width", "visual"),
        (cross_matrix.main, "--variant", "visual"),
        (mlp.main, "--variant", "tav_concat"),
        (mlp.main, "--task", "wechat_stay"),
        (get_user_embedding.main, "--folds", "1"),
        (get_user_embedding.main, "--length", "-1"),
    ):
        assert call(main, "--paths", made.file, *options) == 2, options
        error = capsys.readouterr().err
        assert "Traceback" not in error and error
