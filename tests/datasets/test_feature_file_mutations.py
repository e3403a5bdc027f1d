"""Mutated feature files: step 2 gives what a slow reader finds in the file, or exit code 2 and a line with the file
name."""

import csv
import io
import json
import re
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import preprocess_multimodal
from mma4ctr.datasets import tiktok_features
from mma4ctr.datasets.wechat import LISTS, TEXTS
from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.text_blocks import Block
from tests.conftest import call
from tests.datasets.test_raw_file_mutations import (
    CELLS,
    LINES,
    check_one_line,
    number,
    reordered,
    run_step_1,
    write_small,
)
from tests.datasets.test_raw_file_mutations import TEXTS as WHOLE

EXAMPLES = settings(
    max_examples=2,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
INFO, FUSED = "wechat/feed_info.csv", "wechat/feed_embeddings.csv"
TITLES = "TikTok2019ICME/track1/track1_title.txt"
WORDS = [name for pair in TEXTS.values() for name in pair]
NAMES = ["feedid", "authorid", *WORDS, *(name for names in LISTS.values() for name in names)]


def write_features(folder):
    """Write raw files with few items; every item of step 1 has features."""
    write_small(folder)
    rng = np.random.default_rng(2)
    rows = [",".join(NAMES)]
    for item in range(20):
        cells = {name: " ".join(map(str, rng.integers(1, 30, 6))) for name in WORDS}
        cells |= {
            name: f"{rng.integers(1, 9)}.0" if name.startswith("bgm") else "3;4" for name in NAMES if name not in cells
        }
        cells |= {"feedid": item, "authorid": 5, "machine_tag_list": f"{rng.integers(1, 9)} 0.5;7 0.25"}
        rows.append(",".join(str(cells[name]) for name in NAMES))
    (folder / INFO).write_text("\n".join(rows) + "\n")
    rows = ["feedid,feed_embedding"]
    rows += [f"{item},{' '.join(map(str, np.round(rng.normal(size=6), 3)))} " for item in range(20)]
    (folder / FUSED).write_text("\n".join(rows) + "\n")
    titles = [{"item_id": item, "title_features": {str(t): 1 for t in rng.integers(1, 30, 6)}} for item in range(20)]
    (folder / TITLES).write_text("".join(json.dumps(one) + "\n" for one in titles))


def table_of(content):
    """Return the names and rows of a CSV text; None if the rows differ in width."""
    try:
        text = content.removeprefix(b"\xef\xbb\xbf").decode(errors="surrogateescape")
        rows = [row for row in csv.reader(io.StringIO(text, newline="")) if row]
    except csv.Error:
        return None
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        return None
    return [name.strip() for name in rows[0]], rows[1:]


def tokens(name, cell):
    """Return a token cell in clean form; None if it is not a list of tokens."""
    found = []
    for part in cell.split(" ") if name in WORDS else cell.split(";"):
        part = part.strip()
        if not part:
            continue
        words = part.split(" ")
        if name == "machine_tag_list":
            if len(words) != 2 or not decimal(words[1]) or float(words[1]) < 0:
                return None
            words[1] = str(float(words[1]))
        elif len(words) != 1:
            return None
        token = number(re.sub(r"\.0*$", "", words[0]) if name.startswith("bgm_") else words[0])
        if token is None or not 0 <= token < 2**48:
            return None
        found.append(" ".join([str(token), *words[1:]]))
    return (" " if name in WORDS else ";").join(found)


def decimal(text):
    """Return whether a text is a number that float32 can hold."""
    if not re.fullmatch(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?", text, re.ASCII):
        return False
    return abs(float(text)) < 3.4e38


def clean_csv(content, id_name, cells):
    """Return the clean form of a file; `cells` maps each column to a function from a cell to its clean form or None."""
    read = table_of(content)
    wanted = [id_name, *cells]
    if read is None or any(read[0].count(name) != 1 for name in wanted):
        return None
    rows = [",".join(wanted)]
    known = {}
    for row in read[1]:
        own = dict(zip(read[0], row, strict=True))
        for words, chars in TEXTS.values():
            if own.get(words, "").strip():
                own[chars] = ""  # stands in only where there are no words
        item = number(own[id_name])
        clean = [change(own[name]) for name, change in cells.items()]
        if item is None or None in clean or known.setdefault(item, clean) != clean:
            return None
        rows.append(",".join([str(item), *clean]))
    return ("\n".join(rows) + "\n").encode()


def clean_info(content):
    """Return the clean form of feed_info.csv without columns that no modality reads."""
    cells = {name: (lambda cell, name=name: tokens(name, cell)) for name in NAMES if name not in ("feedid", "authorid")}
    return clean_csv(content, "feedid", cells)


def vector(cell):
    numbers = cell.split()
    return " ".join(numbers) if len(numbers) <= 512 and all(map(decimal, numbers)) else None


def clean_fused(content):
    """Return the clean form of feed_embeddings.csv."""
    return clean_csv(content, "feedid", {"feed_embedding": vector})


@lru_cache
def made_of(name, content):
    """Return the arrays that step 2 makes from this content of one file, by name; None if it refuses the file."""
    dataset = name.split("/")[0] if name.startswith("wechat") else "tiktok"
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_features(folder)
        (folder / name).write_bytes(content)
        assert run_step_1(folder, dataset) == 0
        return arrays_of(folder, dataset)


def arrays_of(folder, dataset):
    if call(preprocess_multimodal.main, "--paths", folder / "path.json", "--dataset", dataset):
        return None
    artifact = read_artifact(folder / "modal" / dataset, "")
    return {name: artifact.array(name).tobytes() for name in artifact.array_names}


def read_back(folder, dataset, capsys):
    """Return the arrays of step 2, or None if a step refuses a file, and the message. Step 1 reads the columns beside
    content."""
    if run_step_1(folder, dataset):
        return None, capsys.readouterr().err
    capsys.readouterr()
    return arrays_of(folder, dataset), capsys.readouterr().err


CHANGES = {f"cell: {name}": value for name, value in CELLS.items()} | LINES | WHOLE
HARMLESS = {"line twice", "blank line", "Windows line ends", "byte order mark", "swapped lines", "columns reordered"}
HEADERS = {
    "header missing": lambda rows, place: rows[1:],
    "column renamed": lambda rows, place: [[*rows[0][:place], "other", *rows[0][place + 1 :]], *rows[1:]],
    "column twice": lambda rows, place: [[*rows[0][:-1], rows[0][place]], *rows[1:]],
    "column dropped": lambda rows, place: [row[:place] + row[place + 1 :] for row in rows],
    "columns reordered": reordered,
    "header quoted": lambda rows, place: [[f'"{name}"' for name in rows[0]], *rows[1:]],
    "header in capitals": lambda rows, place: [[name.upper() for name in rows[0]], *rows[1:]],
}


def mutated(name, content, draw):
    """Draw a changed content of a CSV file."""
    lines = content.splitlines()
    if name in HEADERS:
        rows = [line.decode().split(",") for line in lines]
        rows = HEADERS[name](rows, draw(st.integers(0, len(rows[0]) - 1)))
        return "\n".join(map(",".join, rows)).encode() + b"\n"
    if name.startswith("cell: "):
        row = draw(st.integers(1, len(lines) - 1))
        cells = lines[row].split(b",")
        cells[draw(st.integers(0, len(cells) - 1))] = CHANGES[name]
        lines[row] = b",".join(cells)
        return b"\n".join(lines) + b"\n"
    return CHANGES[name](lines, draw, b",", 1)


@pytest.mark.parametrize("name", [*CHANGES, *HEADERS])
@pytest.mark.parametrize(("file", "clean"), [(INFO, clean_info), (FUSED, clean_fused)], ids=["info", "embeddings"])
@EXAMPLES
@given(data=st.data())
def test_csv_of_features(file, clean, name, data, capsys):
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_features(folder)
        path = folder / file
        path.write_bytes(mutated(name, path.read_bytes(), data.draw))
        content = path.read_bytes()
        expected = clean(content)
        found, error = read_back(folder, "wechat", capsys)
    if found is None:
        check_one_line(error, path)
        assert name not in HARMLESS, f"{name}: {error}"
    else:
        assert expected is not None, f"{name}: a file that has no right reading was read"
        assert found == made_of(file, expected)


TOKENS = {"3": 1, "44": 2}
USUAL = {"item_id": 3, "title_features": TOKENS}
# What takes the place of a line of titles, and the line that it means; None where it must be refused.
LINE = {
    "usual": (USUAL, USUAL),
    "keys the other way round": ({"title_features": TOKENS, "item_id": 3}, USUAL),
    "more keys": (USUAL | {"language": "x", "tags": ["y"]}, USUAL),
    "no token": ({"item_id": 3, "title_features": {}}, {"item_id": 3, "title_features": {}}),
    "count as float": ('{"item_id": 3, "title_features": {"3": 1.0, "44": 2}}', USUAL),
    "spaces": (json.dumps(USUAL, indent=1).replace("\n", " "), USUAL),
    "escaped key": ('{"item_id": 3, "title_features": {"\\u0033": 1, "44": 2}}', USUAL),
    "item twice": ('{"item_id": 4, "item_id": 3, "title_features": {"3": 1, "44": 2}}', None),
    "title twice": ('{"item_id": 3, "title_features": {"9": 1}, "title_features": {"3": 1, "44": 2}}', None),
    "token twice": ('{"item_id": 3, "title_features": {"3": 5, "3": 1, "44": 2}}', None),
    "token twice, once escaped": ('{"item_id": 3, "title_features": {"3": 5, "\\u0033": 1, "44": 2}}', None),
    "underscore": ({"item_id": 3, "title_features": {"1_000": 1}}, None),
    "token with space": ({"item_id": 3, "title_features": {" 3": 1}}, None),
    "token with line end": ({"item_id": 3, "title_features": {"3\n": 1}}, None),
    "token with sign": ({"item_id": 3, "title_features": {"+3": 1}}, None),
    "digits of another script": ({"item_id": 3, "title_features": {"１２": 1}}, None),
    "hexadecimal": ({"item_id": 3, "title_features": {"0x10": 1}}, None),
    "float token": ({"item_id": 3, "title_features": {"3.0": 1}}, None),
    "token of 2^63": ({"item_id": 3, "title_features": {str(2**63): 1}}, None),
    "empty token": ({"item_id": 3, "title_features": {"": 1}}, None),
    "script as token": ({"item_id": 3, "title_features": {"<script>": 1}}, None),
    "negative count": ({"item_id": 3, "title_features": {"3": -1}}, None),
    "count as text": ({"item_id": 3, "title_features": {"3": "1"}}, None),
    "count true": ({"item_id": 3, "title_features": {"3": True}}, None),
    "count null": ({"item_id": 3, "title_features": {"3": None}}, None),
    "nested": ({"item_id": 3, "title_features": {"3": {"4": 1}}}, None),
    "NaN": ('{"item_id": 3, "title_features": {"3": NaN}}', None),
    "infinity": ('{"item_id": 3, "title_features": {"3": 1e999}}', None),
    "a list": ({"item_id": 3, "title_features": [3, 44]}, None),
    "item as text": (USUAL | {"item_id": "3"}, None),
    "item as float": (USUAL | {"item_id": 3.5}, None),
    "item beyond 64 bits": (USUAL | {"item_id": 2**64}, None),
    "no item": ({"title_features": TOKENS}, None),
    "cut": (json.dumps(USUAL)[:-2], None),
    "a comma after it": (json.dumps(USUAL) + ",", None),
    "NUL byte": (json.dumps(USUAL) + "\0", None),
}


@pytest.mark.parametrize("name", LINE)
@EXAMPLES
@given(place=st.integers(0, 19))
def test_titles(name, place, capsys):
    content, meant = LINE[name]
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_features(folder)
        path = folder / TITLES
        lines = [line for line in path.read_text().splitlines() if json.loads(line)["item_id"] != 3]
        lines.insert(place, content if isinstance(content, str) else json.dumps(content, ensure_ascii=False))
        path.write_text("\n".join(lines) + "\n")
        found, error = read_back(folder, "tiktok", capsys)
    if meant is None:
        assert found is None, f"{name}: a line that has no right reading was read"
        check_one_line(error, f"{path}:{place + 1}:")
    else:
        lines[place] = json.dumps(meant)
        assert found == made_of(TITLES, ("\n".join(lines) + "\n").encode())
        assert found is not None, error


def whole_files():
    """Draw changes of a whole file of JSON lines."""
    lines = [name for name in ("line twice", "blank line", "line of spaces", "comment", "swapped lines", "cut")]
    return [*lines, *WHOLE]


@pytest.mark.parametrize("name", whole_files())
@EXAMPLES
@given(data=st.data())
def test_titles_as_a_whole(name, data, capsys):
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        write_features(folder)
        path = folder / TITLES
        path.write_bytes(CHANGES[name](path.read_bytes().splitlines(), data.draw, b",", 0))
        content = path.read_bytes()
        found, error = read_back(folder, "tiktok", capsys)
    if found is None:
        check_one_line(error, path)
        assert name not in HARMLESS and name != "no last line end", error
    else:
        text = content.removeprefix(b"\xef\xbb\xbf").decode()
        clean = [json.dumps(json.loads(line)) for line in re.split("[\r\n]+", text) if line.strip()]
        assert found == made_of(TITLES, ("\n".join(clean) + "\n").encode())


def test_json_that_is_nested_too_deep():
    """Without hypothesis, which raises Python's recursion limit."""
    line = '{"item_id": 3, "title_features": {"3": 1}, "x": ' + "[" * 1015 + '"y"' + "]" * 1015 + "}"
    assert orjson.loads(line), "orjson reads it"
    with pytest.raises(BadLine, match="broken JSON"):
        tiktok_features.parse_titles(line.encode(), Block(Path("titles"), 0, 0, 0))
