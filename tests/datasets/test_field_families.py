"""Inputs of the kinds of the field cases, generated here.

Empty parts, file names with pattern characters, ids as R and other programs write them, columns of mixed types, times
of every kind. Each gives the result of its plain form, or one error line.
"""

import csv
import gzip
import itertools
import json
import re

import numpy as np
import pyarrow as pa
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
from tests.conftest import call, write_described

USERS, ITEMS, ROWS, WIDTH = 10, 12, 300, 3
HEAD = """min_interactions = 5
[interactions]
files = {files}
user = "user"
item = "item"
{more}
[targets]
like = "{rule}"
"""
VECTORS = '[modalities.vec]\nfiles = {files}\nitem = "id"\nvector = "v"\n'


def log(word="", seed=0):
    """Return the columns of a small log."""
    rng = np.random.default_rng(seed)
    names = [f"{word}{user}" for user in rng.integers(0, USERS, ROWS)]
    items = rng.integers(0, ITEMS, ROWS).tolist()
    return {
        "user": names if word else [int(name) for name in names],
        "item": items,
        "rating": rng.integers(1, 6, ROWS).tolist(),
        "time": (rng.permutation(ROWS) + 1_500_000_000).tolist(),
    }


def features():
    rng = np.random.default_rng(1)
    return {"id": list(range(ITEMS)), "v": np.round(rng.normal(size=(ITEMS, WIDTH)), 3).tolist()}


def shown(cell):
    return " ".join(map(str, cell)) if isinstance(cell, list) else str(cell)


def write(path, table):
    """Write a table in the format of the file name."""
    kind = path.name.removesuffix(".gz").rsplit(".")[-1]
    rows = [dict(zip(table, values, strict=True)) for values in zip(*table.values(), strict=True)]
    if kind == "parquet":
        pq.write_table(pa.table(table), path)
        return
    if kind == "jsonl":
        text = "".join(json.dumps(row) + "\n" for row in rows)
    else:
        mark = "," if kind == "csv" else "\t"
        cells = [
            [" ".join(map(str, cell)) if isinstance(cell, list) else str(cell) for cell in r.values()] for r in rows
        ]
        text = "\n".join(map(mark.join, [list(table), *cells])) + "\n"
    path.write_bytes(gzip.compress(text.encode()) if path.suffix == ".gz" else text.encode())


def part_of(table, start, stop):
    return {name: values[start:stop] for name, values in table.items()}


def described(folder, text, where="."):
    """Write own.json in a folder with the description `text`."""
    (folder / where).mkdir(parents=True, exist_ok=True)
    (folder / where / "mine.toml").write_text(text)
    return write_described(folder, {"mine": f"{where}/mine.toml"}, "own.json")


def output_of(capsys, paths, main, *options, code=0):
    """The output of a step, which must end with exit code `code`; code 2 comes with one error line."""
    capsys.readouterr()
    known = ("check", paths) if main is datasets_main else ("--paths", paths)
    assert call(main.main, *known, *options) == code, capsys.readouterr().err
    found = capsys.readouterr()
    assert "Traceback" not in found.err
    assert code == 0 or main is datasets_main or found.err.count("error: ") == 1, found.err
    return found.out + found.err


def rows_of(paths):
    """Return the kept rows as a sorted list of user, item, time and label."""
    data = load_interactions(load_paths(paths), "mine")
    columns = [data.user_names[data.user], data.item_ids[data.item], data.time, data.label("like")]
    return sorted(zip(*(column.tolist() for column in columns), strict=True))


def plain_rows(table):
    return sorted((u, i, t, int(r >= 4)) for u, i, r, t in zip(*table.values(), strict=True))


# Parts without rows

EMPTY = {
    "zero.csv": b"",
    "head.csv": b"user,item,rating,time\n",
    "cut.csv": b"user,item,rating,time",
    "blank.csv": b"\xef\xbb\xbfuser,item,rating,time\r\n\r\n",
    "quoted.csv": b'"user","item","rating","a\nb"\n',
    "zero.tsv": b"",
    "head.tsv": b"user\titem\trating\ttime\n",
    "zero.csv.gz": b"",
    "nothing.csv.gz": gzip.compress(b""),
    "head.csv.gz": gzip.compress(b"user,item,rating,time\n"),
    "zero.jsonl": b"",
    "blank.jsonl": b"\n\n",
    "zero.parquet": b"",
    "rows.parquet": None,
    "columns.parquet": None,
}


def write_empty(path, columns):
    content = EMPTY[path.name.split("-", 1)[1]]
    if path.name.endswith("rows.parquet"):
        pq.write_table(pa.table({name: pa.array([], pa.int64()) for name in columns}), path)
    elif content is None:
        pq.write_table(pa.table({}), path)
    else:
        path.write_bytes(content)


@pytest.mark.parametrize("name", EMPTY)
def test_parts_without_rows(tmp_path, capsys, name):
    """An empty part at the beginning, in the middle or at the end, of the log or of vectors, also among compressed
    parts."""
    kind = name.split(".", 1)[1]
    for place in (0, 2, 4):
        folder = tmp_path / str(place)
        folder.mkdir()
        for prefix, table in (("log", log()), ("vec", features())):
            size = len(next(iter(table.values()))) // 2
            write(folder / f"{prefix}1-part.{kind}", part_of(table, 0, size))
            write(folder / f"{prefix}3-part.{kind}", part_of(table, size, None))
            write_empty(folder / f"{prefix}{place}-{name}", table)
        text = HEAD.format(files=f'"log*.{kind}"', more='time = "time"', rule="rating >= 4")
        paths = described(folder, text + VECTORS.format(files=f'"vec*.{kind}"'))
        for step, prefix in ((datasets_main, "log"), (preprocess_inter, "log"), (preprocess_multimodal, "vec")):
            assert f"{prefix}{place}-{name}: has no rows" in output_of(capsys, paths, step)
        assert rows_of(paths) == plain_rows(log())
        found = read_artifact(load_paths(paths).modal / "mine", "").array("vec")
        assert np.allclose(found, features()["v"])


def test_a_part_with_other_line_ends_is_not_taken_for_a_header(tmp_path, capsys):
    """Lines that end with a carriage return only are refused, not treated as a part without rows."""
    for part in (1, 2):
        write(tmp_path / f"log{part}.csv", part_of(log(), 150 * (part - 1), 150 * part))
    (tmp_path / "log2.csv").write_bytes((tmp_path / "log2.csv").read_bytes().replace(b"\n", b"\r"))
    write(tmp_path / "vec.jsonl", features())
    text = HEAD.format(files='"log*.csv"', more="", rule="rating >= 4") + VECTORS.format(files='"vec.jsonl"')
    paths = described(tmp_path, text)
    for step in (datasets_main, preprocess_inter):
        assert "log2.csv:1: the header cannot be read" in output_of(capsys, paths, step, code=2)


@pytest.mark.parametrize("name", EMPTY)
def test_a_log_without_any_row_is_refused(tmp_path, capsys, name):
    for number in (1, 2):
        write_empty(tmp_path / f"log{number}-{name}", log())
    write(tmp_path / "vec.jsonl", features())
    text = HEAD.format(files='"log*"', more="", rule="rating >= 4") + VECTORS.format(files='"vec.jsonl"')
    paths = described(tmp_path, text)
    for step in (datasets_main, preprocess_inter):
        assert re.search(rf"log[12]-{name}", output_of(capsys, paths, step, code=2))


# Names with the characters of patterns

NAMES = ("[kaggle] data", "run[12]", "run*", "run?", "[!x]", "a{1,2}", "**", "x [copy]", "[", "]")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("where", ["folder", "files", "description", "file", "absolute"])
def test_names_that_look_like_patterns(tmp_path, capsys, name, where):
    """An existing file with this exact name is read, and no file that the pattern would match."""
    decoys = {"run1", "run2", "runs", "k", "x", "y", "a1", "some", "other"}
    folders = [tmp_path / other for other in decoys] if where != "file" else []
    folder = tmp_path if where in ("file",) else tmp_path / name
    for one in (folder, *folders):
        one.mkdir(exist_ok=True)
    for number, one in enumerate(folders):
        write(one / "log-1.csv", log(seed=number + 5))
    if where == "file":
        for number, other in enumerate(sorted(decoys)):
            write(folder / f"{other}.csv", log(seed=number + 5))
        write(folder / f"{name}.csv", log())
    else:
        write(folder / "log-1.csv", part_of(log(), 0, 100))
        write(folder / "log-2.csv", part_of(log(), 100, None))
    write(tmp_path / "vec.jsonl", features())
    files = {
        "folder": '"log-*.csv"',
        "files": f'"{name}/log-*.csv"',
        "description": '"log-?.csv"',
        "file": f'"{name}.csv"',
        "absolute": f'"{tmp_path}/{name}/log-[12].csv"',
    }[where]
    text = HEAD.format(files=files, more='time = "time"', rule="rating >= 4")
    text += VECTORS.format(files=f'"{tmp_path}/vec.jsonl"')
    if where == "folder":
        text = f'folder = "{name}"\n' + text
    paths = described(tmp_path, text, name if where == "description" else ".")
    output_of(capsys, paths, preprocess_inter)
    assert rows_of(paths) == plain_rows(log())


@pytest.mark.parametrize("files", ["run[12]/log.csv", "run[12]/*.csv", "*/log[1].csv"])
def test_another_folder_is_never_taken(tmp_path, capsys, files):
    """A folder or file with this exact name is used, even if nothing in it fits."""
    for name in ("run[12]", "run1"):
        (tmp_path / name).mkdir()
    write(tmp_path / "run1/log.csv", log())
    write(tmp_path / "run1/log1.csv", log())
    write(tmp_path / "vec.jsonl", features())
    text = HEAD.format(files=f'"{files}"', more="", rule="rating >= 4") + VECTORS.format(files='"vec.jsonl"')
    paths = described(tmp_path, text)
    if files.startswith("*"):
        write(tmp_path / "run[12]/log[1].csv", log(seed=3))
        output_of(capsys, paths, preprocess_inter)
        data = load_interactions(load_paths(paths), "mine")
        assert sorted(data.item_ids[data.item].tolist()) == sorted(log(seed=3)["item"])
    else:
        assert ": no file " in output_of(capsys, paths, preprocess_inter, code=2)


# Ids asked for


@pytest.fixture(scope="module", params=["numbers", "words"])
def model(request, tmp_path_factory):
    """A model trained on users whose ids are numbers, or words."""
    folder = tmp_path_factory.mktemp(request.param)
    write(folder / "log.tsv", log("" if request.param == "numbers" else "u"))
    lines = (folder / "log.tsv").read_text().splitlines()
    quoted = ["\t".join(f'"{cell}"' for cell in line.split("\t")) for line in lines]
    (folder / "log.tsv").write_text("\n".join(quoted[: ROWS // 2] + lines[ROWS // 2 :]) + "\n")
    write(folder / "vec.jsonl", features())
    text = HEAD.format(files='"log.tsv"', more='time = "time"', rule="rating >= 4")
    paths = described(folder, text + VECTORS.format(files='"vec.jsonl"'))
    for main in (preprocess_inter, preprocess_multimodal, get_user_embedding, gen_matrix):
        assert call(main.main, "--paths", paths) == 0
    assert call(mlp.main, "--paths", paths, "--epochs", 1) == 0
    return paths, "" if request.param == "numbers" else "u"


def test_quotes_in_a_tsv_are_no_part_of_an_id(model):
    paths, word = model
    table = log(word)
    assert rows_of(paths) == plain_rows(table)


AROUND = ("{}", '"{}"', " {}", "{} ", '" {}"', '"{} "', ' "{}" ', "\u00a0{}", "{}\u00a0")
STRANGE: tuple[str, ...] = (
    "u77",
    "77",
    str(10**20),
    str(2**70),
    "-5",
    "001",
    "03",
    "1e3",
    "1.0",
    "+1",
    "x",
    'u"1',
    '"',
    '""a',
    "a b",
    "ü",
)
STRANGE += ('a"', "'1'", "1,2", "\\N", "NA", "null", "true", "0x1", "１", "=1+1", str(-(2**63)), str(2**63))


def predicted(capsys, paths, file, *options):
    out = file.with_suffix(".out")
    error = output_of(capsys, paths, mlp, "--run", "last", "--predict", file, "--output", out, *options)
    rows = list(csv.reader(out.read_text().splitlines(), delimiter="\t"))
    assert rows[0] == ["user", "item", "score"]
    return [(user, item, float(score)) for user, item, score in rows[1:]], error


def test_known_ids_however_they_are_written(model, tmp_path, capsys):
    paths, word = model
    file = tmp_path / "pairs.tsv"
    asked = [f"{one.format(f'{word}3')}\t{other.format(5)}" for one, other in itertools.product(AROUND, AROUND)]
    for head in ("user\titem", '"user"\t"item"'):
        file.write_text("\n".join([head, *asked]) + "\n")
        rows, error = predicted(capsys, paths, file)
        assert "have a user" not in error
        assert {row[:2] for row in rows} == {(f"{word}3", "5")} and len({row[2] for row in rows}) == 1
        assert len(rows) == len(asked)
    file.write_text("user\n" + "".join(f"{one.format(f'{word}3')}\n" for one in AROUND))
    rows, error = predicted(capsys, paths, file, "--top", 2)
    assert "have a user" not in error and {row[0] for row in rows} == {f"{word}3"} and len(rows) == 2 * len(AROUND)


def test_unknown_ids_are_written_as_they_were(model, tmp_path, capsys):
    """Unknown users and items appear in the output as they were written."""
    paths, word = model
    file = tmp_path / "pairs.tsv"
    file.write_text(f"user\titem\n{word}3\t5\n" + "".join(f"{one}\t5\n{word}3\t{one}\n" for one in STRANGE))
    rows, error = predicted(capsys, paths, file)
    assert f"{2 * len(STRANGE)} have a user" in error
    assert [row[:2] for row in rows[1::2]] == [(one, "5") for one in STRANGE]
    assert [row[:2] for row in rows[2::2]] == [(f"{word}3", one) for one in STRANGE]
    assert len({row[2] for row in rows[1::2]}) == len({row[2] for row in rows[2::2]}) == 1
    file.write_text("user\n" + "".join(f"{one}\n" for one in STRANGE))
    rows, error = predicted(capsys, paths, file, "--top", 1)
    assert f"{len(STRANGE)} have a user" in error and [row[0] for row in rows] == list(STRANGE)
    file.write_text("item\n" + "".join(f"{one}\n" for one in STRANGE))
    output_of(capsys, paths, preprocess_multimodal, "--dataset", "mine", "--new-items", file)


@pytest.mark.parametrize("line", [b"\t5", b'""\t5', b"  \t5", b"x" * 300 + b"\t5", b"\xff\t5", b"1", b"1\t2\t3"])
def test_what_can_be_no_id_is_one_line(model, tmp_path, capsys, line):
    paths, _ = model
    file = tmp_path / "pairs.tsv"
    file.write_bytes(b"user\titem\n1\t2\n" + line + b"\n")
    assert "pairs.tsv:3: " in output_of(capsys, paths, mlp, "--run", "last", "--predict", file, code=2)


@pytest.mark.parametrize("large", [2**63, 2**64, 2**70, -(2**70), 10**40])
@pytest.mark.parametrize("place", [0, 5])
def test_large_numbers_in_json_are_ids(tmp_path, capsys, large, place):
    """At any position of the first large number; ids that differ by one are different."""
    table = log()
    table["user"] = [large if user == place else large + 1 if user == 1 else user for user in table["user"]]
    write(tmp_path / "log.jsonl", table)
    write(tmp_path / "vec.jsonl", features())
    text = HEAD.format(files='"log.jsonl"', more='time = "time"', rule="rating >= 4")
    paths = described(tmp_path, text + VECTORS.format(files='"vec.jsonl"'))
    output_of(capsys, paths, preprocess_inter)
    users, counts = np.unique(np.array([row[0] for row in rows_of(paths)]), return_counts=True)
    expected = {str(user): table["user"].count(user) for user in table["user"]}
    assert dict(zip(map(str, users), counts.tolist(), strict=True)) == expected


# Words of messages


@pytest.mark.parametrize(("labels", "advised"), [((-1, 1), "rating > 0"), ((1, 2), "rating >= 2"), ((0, 5), ">= 5")])
def test_the_advised_rule_separates(tmp_path, capsys, labels, advised):
    table = log() | {"rating": np.random.default_rng(0).choice(labels, ROWS).tolist()}
    write(tmp_path / "log.csv", table)
    write(tmp_path / "vec.jsonl", features())
    vectors = VECTORS.format(files='"vec.jsonl"')
    paths = described(tmp_path, HEAD.format(files='"log.csv"', more="", rule="rating") + vectors)
    assert advised in output_of(capsys, paths, preprocess_inter, code=2)
    rule = "rating " + advised.removeprefix("rating ")
    described(tmp_path, HEAD.format(files='"log.csv"', more="", rule=rule) + vectors)
    output_of(capsys, paths, preprocess_inter)
    label = load_interactions(load_paths(paths), "mine").label("like")
    assert label.sum() == table["rating"].count(max(labels))


@pytest.mark.parametrize("share", [0, 0.25])
def test_an_empty_column_is_not_blamed_on_spelling(tmp_path, capsys, share):
    write(tmp_path / "log.csv", log())
    titles = ["cat dog" if item < share * ITEMS else "" for item in range(ITEMS)]
    write(tmp_path / "titles.csv", {"id": list(range(ITEMS)), "title": titles})
    text = HEAD.format(files='"log.csv"', more="", rule="rating >= 4")
    paths = described(tmp_path, text + '[modalities.words]\nfiles = "titles.csv"\nitem = "id"\ntext = "title"\n')
    output_of(capsys, paths, preprocess_inter)
    for step in (datasets_main, preprocess_multimodal):
        found = output_of(capsys, paths, step, code=0 if share else 2)
        assert "title is empty for the others" in found and "written the same" not in found and "ids there" not in found


@pytest.mark.parametrize("arrays", [{}, {"a": np.zeros((ITEMS, 2))}, {"a": np.zeros(1), "b": np.zeros(2)}, None])
@pytest.mark.parametrize("key", ["vectors", "ids"])
def test_an_archive_of_arrays(tmp_path, capsys, arrays, key):
    write(tmp_path / "log.csv", log())
    np.save(tmp_path / "x.npy", np.zeros((ITEMS, 2)) if key == "ids" else np.arange(ITEMS))
    np.savez(tmp_path / "x.npz", **(arrays or {}))
    if arrays is None:
        (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 damaged")
    other = "ids" if key == "vectors" else "vectors"
    text = HEAD.format(files='"log.csv"', more="", rule="rating >= 4")
    paths = described(tmp_path, text + f'[modalities.vec]\n{key} = "x.npz"\n{other} = "x.npy"\n')
    output_of(capsys, paths, preprocess_inter)
    alone = arrays is not None and len(arrays) == 1
    if alone and key == "vectors":  # the only array has the vectors
        output_of(capsys, paths, preprocess_multimodal)
        return
    found = output_of(capsys, paths, preprocess_multimodal, code=2)
    assert "x.npz: " in found and not found.strip().endswith("is")
    advice = "write the ids as key" if key == "ids" else "write the vectors as value"
    assert ("must contain ids, one per item" if alone else advice) in found or arrays is None
