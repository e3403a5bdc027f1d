"""Raw files with mutations at places that hypothesis draws.

The result equals that of the slow reader in this file, or the step ends with exit code 2 and a line that names the file
and what to do, without a traceback.
"""

import csv
import gzip
import io
import json
import re
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import preprocess_inter
import preprocess_multimodal
from mma4ctr.data.interactions import load_interactions
from mma4ctr.datasets.tiktok import COLUMNS
from mma4ctr.datasets.wechat import ACTIONS, USER_ACTION_COLUMNS
from mma4ctr.simulation.__main__ import PATHS
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call

EXAMPLES = settings(
    max_examples=4,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
FILES = {"tiktok": "TikTok2019ICME/track1/final_track1_train.txt", "wechat": "wechat/user_action.csv"}
VIDEO = "TikTok2019ICME/track1/track1_video_features.txt"
KEY = "video_feature_dim_128"

# What takes the place of one cell.
CELLS = {
    "empty": b"",
    "spaces around": b" 5 ",
    "plus sign": b"+5",
    "minus": b"-7",
    "float": b"1.0",
    "exponent": b"1e3",
    "2^40": b"1099511627776",
    "2^63": b"9223372036854775808",
    "below -2^63": b"-9223372036854775809",
    "forty digits": b"9" * 40,
    "leading zeros": b"0000012",
    "hexadecimal": b"0x10",
    "underscore": b"1_000",
    "NaN": b"nan",
    "infinity": b"inf",
    "a word": b"abc",
    "quoted": b'"5"',
    "half quoted": b'"5',
    "NUL byte": b"1\x002",
    "invalid UTF-8": b"\xff\xfe",
    "digits of another script": "１２".encode(),
    "carriage return": b"1\r2",
    "true": b"true",
    "a script": b"<script>alert(1)</script>",
    "a formula": b"=1+1",
}


def other_cell(value):
    def change(lines, draw, delimiter, first):
        number = draw(st.integers(first, len(lines) - 1))
        cells = lines[number].split(delimiter)
        cells[draw(st.integers(0, len(cells) - 1))] = value
        lines[number] = delimiter.join(cells)
        return b"\n".join(lines) + b"\n"

    return change


def other_line(change_line):
    def change(lines, draw, delimiter, first):
        number = draw(st.integers(first, len(lines) - 1))
        lines[number : number + 1] = change_line(lines[number], delimiter)
        return b"\n".join(lines) + b"\n"

    return change


def whole(change_text):
    return lambda lines, draw, delimiter, first: change_text(b"\n".join(lines) + b"\n", lines)


def cut(lines, draw, delimiter, first):
    text = b"\n".join(lines) + b"\n"
    return text[: draw(st.integers(len(text) // 2, len(text) - 2))]


def swapped(lines, draw, delimiter, first):
    one, other = (draw(st.integers(first, len(lines) - 1)) for _ in range(2))
    lines[one], lines[other] = lines[other], lines[one]
    return b"\n".join(lines) + b"\n"


LINES = {
    "column missing": other_line(lambda line, d: [line.rsplit(d, 1)[0]]),
    "column too many": other_line(lambda line, d: [line + d + b"1"]),
    "line twice": other_line(lambda line, d: [line, line]),
    "blank line": other_line(lambda line, d: [line, b""]),
    "line of spaces": other_line(lambda line, d: [line, b"   "]),
    "comment": other_line(lambda line, d: [b"# a comment", line]),
    "only delimiters": other_line(lambda line, d: [d * line.count(d)]),
    "two lines in one": other_line(lambda line, d: [line + d + line]),
    "other delimiter": other_line(lambda line, d: [line.replace(d, b";")]),
    "swapped lines": swapped,
    "cut": cut,
}
TEXTS = {
    "Windows line ends": whole(lambda text, lines: text.replace(b"\n", b"\r\n")),
    "old Mac line ends": whole(lambda text, lines: text.replace(b"\n", b"\r")),
    "byte order mark": whole(lambda text, lines: b"\xef\xbb\xbf" + text),
    "UTF-16": whole(lambda text, lines: text.decode().encode("utf-16")),
    "no last line end": whole(lambda text, lines: text[:-1]),
    "empty": whole(lambda text, lines: b""),
    "only a line end": whole(lambda text, lines: b"\n"),
    "one row": whole(lambda text, lines: b"\n".join(lines[:2]) + b"\n"),
    "zeros": whole(lambda text, lines: b"\0" * 1000),
    "all in one line": whole(lambda text, lines: text.replace(b"\n", b" ")),
}


def header(change_names):
    """Change WeChat's header line and the columns under it."""

    def change(lines, draw, delimiter, first):
        rows = [line.decode().split(",") for line in lines]
        rows = change_names(rows, draw(st.integers(0, len(USER_ACTION_COLUMNS) - 1)))
        return "\n".join(",".join(row) for row in rows).encode() + b"\n"

    return change


def reordered(rows, place):
    order = [*range(place, len(rows[0])), *range(place)]
    return [[row[i] for i in order] for row in rows]


HEADERS = {
    "header missing": header(lambda rows, place: rows[1:]),
    "column renamed": header(lambda rows, place: [[*rows[0][:place], "other", *rows[0][place + 1 :]], *rows[1:]]),
    "column twice": header(lambda rows, place: [[*rows[0][:-1], rows[0][place]], *rows[1:]]),
    "column dropped": header(lambda rows, place: [row[:place] + row[place + 1 :] for row in rows]),
    "columns reordered": header(reordered),
    "column added": header(lambda rows, place: [[*row, "x" if i == 0 else "1"] for i, row in enumerate(rows)]),
    "header quoted": header(lambda rows, place: [[f'"{name}"' for name in rows[0]], *rows[1:]]),
    "header with spaces": header(lambda rows, place: [[f" {name} " for name in rows[0]], *rows[1:]]),
    "header in capitals": header(lambda rows, place: [[name.upper() for name in rows[0]], *rows[1:]]),
}
MUTATIONS = {name: other_cell(value) for name, value in CELLS.items()} | LINES | TEXTS
# These do not change the content and must be read.
HARMLESS = {"leading zeros", "line twice", "blank line", "Windows line ends", "byte order mark", "swapped lines"}
HARMLESS |= {"columns reordered", "column added", "header quoted", "one row"}


def number(cell):
    """Return an integer of 64 bits, read as leniently as possible; None for anything else."""
    if not re.fullmatch(r"[ \t]*[+-]?[0-9]+[ \t]*", cell) or not -(2**63) <= int(cell) < 2**63:
        return None
    return int(cell)


def read_slowly(dataset, content):
    """Return the rows of a file as (user, item, device, day or time, labels); None if it has no correct reading."""
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode()
    except UnicodeDecodeError:
        return None
    if dataset == "tiktok":
        table = [line.split("\t") for line in re.split("\r\n|\n|\r", text) if line]
        names, wanted = COLUMNS, COLUMNS
    else:
        try:
            table = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
        except csv.Error:
            return None
        names, table = [name.strip() for name in table[0]] if table else [], table[1:]
        wanted = [*USER_ACTION_COLUMNS, *(name for name in ("play", "stay") if name in names)]
        if any(names.count(name) != 1 for name in wanted):
            return None
    rows = []
    for cells in table:
        if len(cells) != len(names):
            return None
        row = {name: number(cells[names.index(name)]) for name in wanted}
        if None in row.values():
            return None
        rows.append(row)
    labels = ("like", "finish") if dataset == "tiktok" else ACTIONS
    if any(row[label] not in (0, 1) for row in rows for label in labels):
        return None
    found = {tuple(row.values()): row for row in rows}.values()
    if dataset == "tiktok":
        kept = [row for row in found if row["uid"] != -1 and row["item_id"] != -1]
        return Counter(tuple(row[n] for n in ("uid", "item_id", "device", "time", *labels)) for row in kept)
    return Counter(tuple(row[n] for n in ("userid", "feedid", "device", "date_", *labels)) for row in found)


def rows_of(paths, dataset):
    data = load_interactions(paths, dataset)
    labels = ("like", "finish") if dataset == "tiktok" else ACTIONS
    time = np.floor(data.time).astype(np.int64) if dataset == "wechat" else data.time
    columns = [data.user_ids[data.user], data.item_ids[data.item], data.device, time, *map(data.label, labels)]
    return Counter(zip(*(column.tolist() for column in columns), strict=True))


def write_small(folder):
    """Write raw files of both data sets with few rows."""
    rng = np.random.default_rng(0)
    for name in FILES.values():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
    rows = []
    for row in range(60):
        cells = [row % 5, 3, rng.integers(20), 4, 5, 1, rng.integers(2), rng.integers(2), 6, 7, 1000 + row, 15]
        rows.append("\t".join(map(str, cells)))
    (folder / FILES["tiktok"]).write_text("\n".join(rows) + "\n")
    names = [*USER_ACTION_COLUMNS, "play", "stay"]
    rows = [",".join(names)]
    for row in range(60):
        cells = [row % 5, rng.integers(20), 1 + row % 14, 2, *rng.integers(0, 2, len(ACTIONS)), 100 + row, 200]
        rows.append(",".join(map(str, cells)))
    (folder / FILES["wechat"]).write_text("\n".join(rows) + "\n")
    vectors = [json.dumps({"item_id": i, KEY: np.round(rng.normal(size=6), 3).tolist()}) for i in range(20)]
    (folder / VIDEO).write_text("\n".join(vectors) + "\n")
    (folder / "path.json").write_text(json.dumps(PATHS | {"dataset_path": "."}))


def run_step_1(folder, dataset):
    options = ("--paths", folder / "path.json", "--dataset", dataset, "--min-interactions", 1, "--split", "random")
    return call(preprocess_inter.main, *options)


def check_one_line(error, path):
    """Check that the error is one line that names the file."""
    lines = [line for line in error.strip().splitlines() if not line.startswith("warning")]
    assert len(lines) == 1 and lines[0].startswith("error: ") and str(path) in lines[0], error
    assert "Traceback" not in error


def check_mutation(dataset, name, mutate, draw, capsys):
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_small(folder)
        path = folder / FILES[dataset]
        lines = path.read_bytes().splitlines()
        delimiter, first = (b"\t", 0) if dataset == "tiktok" else (b",", 1)
        path.write_bytes(mutate(lines, draw, delimiter, first))
        expected = read_slowly(dataset, path.read_bytes())
        capsys.readouterr()
        code = run_step_1(folder, dataset)
        error = capsys.readouterr().err
        if code == 0:
            assert expected is not None, f"{name}: a file that has no right reading was read"
            assert rows_of(load_paths(folder / "path.json"), dataset) == expected
        else:
            assert code == 2, error
            check_one_line(error, path)
            readable = expected is not None and sum(expected.values()) >= 3  # fewer are no split
            assert not (name in HARMLESS and readable), f"{name}: {error}"


@pytest.mark.parametrize("name", MUTATIONS)
@pytest.mark.parametrize("dataset", FILES)
@EXAMPLES
@given(data=st.data())
def test_interactions(dataset, name, data, capsys):
    check_mutation(dataset, name, MUTATIONS[name], data.draw, capsys)


@pytest.mark.parametrize("name", HEADERS)
@EXAMPLES
@given(data=st.data())
def test_wechat_headers(name, data, capsys):
    check_mutation("wechat", name, HEADERS[name], data.draw, capsys)


@pytest.mark.parametrize("dataset", FILES)
def test_gzip_is_read_and_a_cut_one_refused(dataset, tmp_path, capsys):
    write_small(tmp_path)
    path = tmp_path / FILES[dataset]
    packed = path.with_name(path.name + ".gz")
    expected = read_slowly(dataset, path.read_bytes())
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    assert run_step_1(tmp_path, dataset) == 0
    assert rows_of(load_paths(tmp_path / "path.json"), dataset) == expected
    packed.write_bytes(packed.read_bytes()[:-20])
    capsys.readouterr()
    assert run_step_1(tmp_path, dataset) == 2
    check_one_line(capsys.readouterr().err, packed)


@pytest.mark.parametrize("dataset", FILES)
@pytest.mark.parametrize("what", ["a folder", "a dangling link", "a link to itself"])
def test_what_stands_in_the_place_of_a_file(dataset, what, tmp_path, capsys):
    write_small(tmp_path)
    path = tmp_path / FILES[dataset]
    path.unlink()
    if what == "a folder":
        path.mkdir()
    else:
        path.symlink_to(path if what == "a link to itself" else tmp_path / "nowhere")
    assert run_step_1(tmp_path, dataset) == 2
    check_one_line(capsys.readouterr().err, path)


# What takes the place of one line of a feature file; None where the line must be refused, else the vector it holds.
NUMBERS = [0.5, -1.25, 3.0, 4.0, 5.0, 6.0]
FEATURES = {
    "usual": ({"item_id": 3, KEY: NUMBERS}, True),
    "keys the other way round": ({KEY: NUMBERS, "item_id": 3}, True),
    "whole numbers": ({"item_id": 3, KEY: [1, 2, 3, 4, 5, 6]}, True),
    "shorter": ({"item_id": 3, KEY: NUMBERS[:2]}, True),
    "no vector": ({"item_id": 3, KEY: []}, True),
    "an unknown item": ({"item_id": 12345, KEY: NUMBERS}, True),
    "a negative item": ({"item_id": -9, KEY: NUMBERS}, True),
    "spaces": (json.dumps({"item_id": 3, KEY: NUMBERS}, indent=1).replace("\n", " "), True),
    "null": ({"item_id": 3, KEY: None}, False),
    "a number in place of the vector": ({"item_id": 3, KEY: 5}, False),
    "text in the vector": ({"item_id": 3, KEY: [*NUMBERS[:5], "6"]}, False),
    "null in the vector": ({"item_id": 3, KEY: [*NUMBERS[:5], None]}, False),
    "true in the vector": ({"item_id": 3, KEY: [*NUMBERS[:5], True]}, False),
    "a nested vector": ({"item_id": 3, KEY: [NUMBERS]}, False),
    "NaN": ({"item_id": 3, KEY: [*NUMBERS[:5], float("nan")]}, False),
    "infinity": ({"item_id": 3, KEY: [*NUMBERS[:5], float("inf")]}, False),
    "beyond float32": ({"item_id": 3, KEY: [*NUMBERS[:5], 1e200]}, False),
    "too long": ({"item_id": 3, KEY: [0.5] * 129}, False),
    "item as text": ({"item_id": "3", KEY: NUMBERS}, False),
    "item as float": ({"item_id": 3.5, KEY: NUMBERS}, False),
    "item as true": ({"item_id": True, KEY: NUMBERS}, False),
    "item beyond 64 bits": ({"item_id": 2**64, KEY: NUMBERS}, False),
    "no item": ({KEY: NUMBERS}, False),
    "another key": ({"item_id": 3, "vector": NUMBERS}, False),
    "a list": ([3, NUMBERS], False),
    "a key twice": (f'{{"item_id": 3, "item_id": 3, "{KEY}": {NUMBERS}}}', False),
    "cut": (f'{{"item_id": 3, "{KEY}": {NUMBERS}', False),
    "two in a line": (f'{{"item_id": 3, "{KEY}": {NUMBERS}}}{{"item_id": 4, "{KEY}": {NUMBERS}}}', False),
    "a comma after it": (f'{{"item_id": 3, "{KEY}": {NUMBERS}}},', False),
    "single quotes": (f"{{'item_id': 3, '{KEY}': {NUMBERS}}}", False),
    "a NUL byte": (f'{{"item_id": 3, "{KEY}": {NUMBERS}}}\0', False),
    "no JSON": ("item 3", False),
}


def features_of(folder):
    options = ("--paths", folder / "path.json", "--dataset", "tiktok", "--width", "visual=128")
    code = call(preprocess_multimodal.main, *options)
    if code:
        return code, None, None
    artifact = read_artifact(folder / "modal/tiktok", "")
    return code, artifact.array("visual"), artifact.array("visual_present")


@pytest.mark.parametrize("name", FEATURES)
@EXAMPLES
@given(place=st.integers(0, 19))
def test_vectors(name, place, capsys):
    """One mutated line among good ones, at any place of the file."""
    content, right = FEATURES[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_small(folder)
        assert run_step_1(folder, "tiktok") == 0
        path = folder / VIDEO
        lines = path.read_text().splitlines()
        lines = [line for line in lines if json.loads(line)["item_id"] != 3]
        lines.insert(place, content if isinstance(content, str) else json.dumps(content))
        path.write_text("\n".join(lines) + "\n")
        capsys.readouterr()
        code, features, present = features_of(folder)
        error = capsys.readouterr().err
        if not right:
            assert code == 2, f"{name}: a line that has no right reading was read"
            check_one_line(error, f"{path}:{place + 1}:")
            return
        assert code == 0, error
        ids = load_interactions(load_paths(folder / "path.json"), "tiktok").item_ids.tolist()
        expected = {item["item_id"]: item[KEY] for item in map(json.loads, lines) if item[KEY]}
        assert present.tolist() == [item in expected for item in ids]
        for row, item in enumerate(ids):
            if item in expected:
                vector = expected[item] + [0.0] * (128 - len(expected[item]))
                assert features[row] == pytest.approx(vector, abs=1e-6)
