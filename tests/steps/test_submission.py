"""`--predict test`: one line for each raw test row, in the order of the files, with what step 5 predicted for it."""

import csv
import json
import tomllib

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
from mma4ctr.datasets.spec_split import given_split
from mma4ctr.datasets.spec_table import SpecTable
from mma4ctr.evaluation.run_records import find_run, read_results, read_run
from mma4ctr.model.inference import load_scorer
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, write_described

USERS, ITEMS, ROWS, TEST_ROWS = 30, 50, 1200, 240
NAMES = ("user", "item", "time", "shown", "place", "liked")
SHARED = """
[targets]
like = "liked"
[columns.context]
categories = ["shown"]
numbers = ["place"]
[modalities.vector]
vectors = "vectors.npy"
ids = "ids.txt"
"""


def user_id(user, *, text):
    return f"user {user}" if text else user


def draw_log(seed, *, text):
    """Rows as tuples of `NAMES`: of training and validation, and of tests, among them duplicates and unknown ids."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(2 * ITEMS, 4)).astype(np.float32)
    rows = []
    for row in range(ROWS + TEST_ROWS):
        test = row >= ROWS
        user, item = rng.integers(0, USERS + 8 * test), rng.integers(0, ITEMS + 15 * test)
        shown = [None, "feed", "a,b", "search"][rng.integers(0, 4)]
        place = None if rng.random() < 0.1 else float(rng.integers(0, 90)) / 4
        liked = int(vectors[item, 0] + rng.normal() > 0)
        time = 1_600_000_000 + 3600 * row + int(rng.integers(0, 3600))
        rows.append((user_id(int(user), text=text), int(item), time, shown, place, liked))
    train, test = rows[:ROWS], rows[ROWS:]
    rng.shuffle(train)
    test += [test[place] for place in rng.integers(0, TEST_ROWS, 30)]  # some of them twice or more
    rng.shuffle(test)
    return train, test, vectors


def write_rows(path, names, rows):
    if path.suffix == ".parquet":
        pq.write_table(
            pa.table({name: list(one) for name, one in zip(names, zip(*rows, strict=True), strict=True)}), path
        )
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([names, *rows])


def description(*, form, kind, timed, more=""):
    text = '[interactions]\nuser = "user"\nitem = "item"\n' + 'time = "time"\n' * timed
    if form == "column":
        text += f'files = "log.{kind}"\n[split]\ncolumn = "part"\nvalid = "dev"\n'
    else:
        text += f'[split]\ntrain = "train.{kind}"\nvalid = "valid.{kind}"\ntest = "test*.{kind}"\n'
    return text + more + SHARED.replace('numbers = ["place"]', 'numbers = ["place"]\n' + "hour = true" * timed)


def write_log(folder, rows, test, form, kind, ids=None):
    """The files; test rows have no labels and stand in three files, or between the others."""
    names = [*NAMES, *(["ID"] if ids else [])]
    test = [row if not ids else (*row, one) for row, one in zip(test, ids or test, strict=True)]
    if form == "column":
        rows = [(*row, *([None] if ids else [])) for row in rows]
        parts = ["train" if place % 5 else "dev" for place in range(len(rows))]
        whole = [(*row, part) for row, part in zip(rows, parts, strict=True)]
        for place, row in enumerate(test):  # in their order, but between the others
            without = tuple(None if name == "liked" else cell for name, cell in zip(names, row, strict=True))
            whole.insert(5 * place + place % 3, (*without, "test"))
        write_rows(folder / f"log.{kind}", [*names, "part"], whole)
        return [number for number, row in enumerate(whole) if row[-1] == "test"]
    write_rows(folder / f"train.{kind}", NAMES, rows[: ROWS - 150])
    write_rows(folder / f"valid.{kind}", NAMES, rows[ROWS - 150 :])
    unlabelled = [tuple(cell for name, cell in zip(names, row, strict=True) if name != "liked") for row in test]
    for number, part in enumerate((unlabelled[:7], unlabelled[7:100], unlabelled[100:])):
        write_rows(folder / f"test{(2, 9, 10)[number]}.{kind}", [name for name in names if name != "liked"], part)
    return list(range(len(test)))


def write_world(folder, *, more="", ids=None, **shape):
    """`shape`: the form of the split, the kind of the files, and whether users are text and rows have times."""
    form, kind = shape.get("form", "files"), shape.get("kind", "csv")
    rows, test, vectors = draw_log(0, text=shape.get("text", False))
    np.save(folder / "vectors.npy", vectors)
    (folder / "ids.txt").write_text("".join(f"{one}\n" for one in range(len(vectors))))
    numbers = write_log(folder, rows, test, form, kind, ids)
    (folder / "own.toml").write_text(description(form=form, kind=kind, timed=shape.get("timed", True), more=more))
    return write_described(folder, {"own": "own.toml"}), test, numbers


def trained(paths, *options, features="plus"):
    for script in (preprocess_inter, preprocess_multimodal, get_user_embedding):
        assert call(script.main, "--paths", paths, *(options if script is preprocess_inter else ())) == 0
    for script in (gen_matrix, mlp):
        more = ("--epochs", 1, "--networks", 1) if script is mlp else ()
        assert call(script.main, "--paths", paths, "--features", features, *more) == 0
    return read_results(load_paths(paths).results)[-1]


def submitted(paths, *options):
    """The header and the rows of the submission."""
    assert call(mlp.main, "--paths", paths, "--run", "last", "--predict", "test", *options) == 0
    found = sorted((load_paths(paths).saved / "predictions").glob("*-test.csv"))
    with found[-1].open(newline="") as file:
        header, *rows = csv.reader(file)
    assert all(len(row) == 2 for row in rows)
    return header, [row[0] for row in rows], np.array([float(row[1]) for row in rows])


def predictions_by_row(paths, result):
    """What step 5 predicted, by the user, the item and the time of a row."""
    data = load_interactions(load_paths(paths), "own")
    run = read_artifact(load_paths(paths).torch_model / result.task / result.run_id, "")
    keys = zip(data.user_names[data.user], data.item_names[data.item], data.time, strict=True)
    found = [(str(user), int(item), int(time)) for user, item, time in keys]
    return {found[row]: one for row, one in zip(run.array("rows"), run.array("predictions"), strict=True)}


@pytest.mark.parametrize(
    ("form", "kind", "text", "features"),
    [
        ("files", "csv", False, "plus"),
        ("files", "parquet", True, "plus"),
        ("column", "csv", True, "plus"),
        ("column", "jsonl", False, "plus"),
        ("files", "jsonl", True, "paper"),
    ],
)
def test_every_raw_test_row_has_the_prediction_of_step_5(tmp_path, form, kind, text, features):
    paths, test, numbers = write_world(tmp_path, form=form, kind=kind, text=text)
    expected = predictions_by_row(paths, trained(paths, features=features))
    header, names, score = submitted(paths)
    assert header == ["id", "probability"] and names == [str(number) for number in numbers]
    assert len(expected) < len(test) == len(score)  # step 1 has dropped duplicates
    assert score == pytest.approx([expected[str(row[0]), row[1], row[2]] for row in test], abs=1e-6)
    assert len({round(one, 5) for one in score.tolist()}) > TEST_ROWS / 2


@pytest.mark.parametrize("form", ["files", "column"])
def test_a_log_without_times_has_every_row(tmp_path, form):
    paths, test, _ = write_world(tmp_path, form=form, timed=False)
    result = trained(paths)
    _, _, score = submitted(paths)
    run = read_artifact(load_paths(paths).torch_model / result.task / result.run_id, "")
    data = load_interactions(load_paths(paths), "own")
    in_turn = np.argsort(data.time[run.array("rows")])
    assert len(in_turn) == len(test) and score == pytest.approx(run.array("predictions")[in_turn], abs=1e-6)


def test_rows_of_users_with_few_rows_are_predicted_as_those_of_new_users(tmp_path, capsys):
    paths, test, _ = write_world(tmp_path)
    expected = predictions_by_row(paths, result := trained(paths, "--min-interactions", 25))
    _, names, score = submitted(paths)
    assert "test rows have a user without training rows" in capsys.readouterr().out.replace("\n", " ")
    assert len(names) == len(test)
    kept = [(str(row[0]), row[1], row[2]) in expected for row in test]
    assert 0 < sum(kept) < len(test)
    of_kept = [expected[str(row[0]), row[1], row[2]] for row, there in zip(test, kept, strict=True) if there]
    assert score[kept] == pytest.approx(of_kept, abs=1e-6)
    # The others as pairs of a file with the same context; recency and hour are those of the row or unknown.
    loaded = load_paths(paths)
    scorer = load_scorer(loaded, read_run(loaded, find_run(loaded, result.run_id)))
    known = scorer.items.to_pylist()
    for row, one, there in zip(test, score, kept, strict=True):
        if there:
            continue
        item = np.array([known.index(row[1]) if row[1] in known else len(known)])
        table = {"shown": [row[3] or ""], "place": ["" if row[4] is None else str(row[4])]}
        table |= {"hour": [str(row[2] // 3600 % 24)], "weekday": [str((row[2] // 86_400 + 3) % 7)]}
        context = scorer.context.read(pa.table(table))
        assert one == pytest.approx(scorer.score(np.array([len(scorer.users)]), item, context)[0], abs=1e-6)


@pytest.mark.parametrize("form", ["files", "column"])
@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_ids_are_written_as_the_file_has_them(tmp_path, capsys, form, kind):
    ids = [('row "{}"', "{}, of 9", " 00{}", "{}é")[place % 4].format(place) for place in range(TEST_ROWS + 30)]
    more = 'id = "ID"\nsubmission = ["ID", "Task 2"]\n'
    paths, _, _ = write_world(tmp_path, form=form, kind=kind, ids=ids, more=more)
    assert call(datasets_main.main, "check", paths) == 0
    trained(paths)
    out = tmp_path / "mine.csv"
    header, names, _ = submitted(paths)
    assert header == ["ID", "Task 2"] and names == ids
    assert call(mlp.main, "--paths", paths, "--run", "last", "--predict", "test", "--output", out) == 0
    (made,) = (load_paths(paths).saved / "predictions").glob("*-test.csv")
    assert out.read_bytes() == made.read_bytes()
    assert "have the id of an earlier row" not in capsys.readouterr().err


def refused(capsys, paths, *options, main=mlp.main):
    capsys.readouterr()
    assert call(main, "--paths", paths, *options) == 2
    (line,) = [line for line in capsys.readouterr().err.replace("\n", " ").split("error:")[1:] if line]
    return " ".join(line.split())


def test_mistakes_are_one_line(tmp_path, capsys):
    ids = [*range(TEST_ROWS + 29), 7]
    paths, _, _ = write_world(tmp_path, ids=ids, more='id = "ID"\n')
    result = trained(paths)
    header, names, _ = submitted(paths)
    assert header == ["ID", "probability"] and names == [str(one) for one in ids]
    assert "1 rows have the id of an earlier row" in capsys.readouterr().err.replace("\n", " ")
    predict = ("--run", "last", "--predict", "test")
    assert "needs a file of users" in refused(capsys, paths, *predict, "--top", 3)
    assert "is a file of a described data set" in refused(capsys, paths, *predict, "--output", tmp_path / "test9.csv")
    # A file of that name is another one.
    assert "--predict ./test: file not found" in refused(capsys, paths, "--run", "last", "--predict", "./test")
    whole = (tmp_path / "test10.csv").read_text()
    (tmp_path / "test10.csv").write_text(whole + "user 1,x,soon,,,3\n")
    line = refused(capsys, paths, *predict)
    assert f"test10.csv:{whole.count(chr(10)) + 1}:" in line and "'soon'" in line
    (tmp_path / "test10.csv").write_text(whole.rsplit(",", 1)[0] + ",\n")
    assert "column ID: an id is empty" in refused(capsys, paths, *predict)
    (tmp_path / "test10.csv").write_text(whole.replace("ID", "Id", 1))
    for main, options in ((mlp.main, predict), (preprocess_inter.main, ()), (datasets_main.main, ("check",))):
        capsys.readouterr()
        assert call(main, *([*options, paths] if options == ("check",) else ["--paths", paths, *options])) == 2
        assert "the column 'ID' is missing" in " ".join(capsys.readouterr().err.split())
    (tmp_path / "test10.csv").write_text(whole)
    (tmp_path / "test9.csv").unlink()
    (tmp_path / "test2.csv").unlink()
    (tmp_path / "test10.csv").unlink()
    assert "no file" in refused(capsys, paths, *predict)
    # A data set without a given split has no test rows of its own.
    write_rows(tmp_path / "log.csv", NAMES, draw_log(0, text=False)[0])
    text = '[interactions]\nfiles = "log.csv"\nuser = "user"\nitem = "item"\ntime = "time"\n' + SHARED
    (tmp_path / "own.toml").write_text("min_interactions = 1\n" + text)
    assert "own does not come with a split" in refused(capsys, paths, "--run", result.run_id, "--predict", "test")


@pytest.mark.parametrize("submission", ['["ID"]', '"ID"', '["ID", "ID"]', '["a", "b", "c"]', "[]", "3"])
def test_the_header_names_two_columns(tmp_path, submission):
    mistakes = []
    content = tomllib.loads(f'train = "a"\ntest = "b"\nsubmission = {submission}')
    given_split(SpecTable(content, "x", mistakes), SpecTable({}, "y", []), tmp_path)
    assert len(mistakes) == 1 and "submission" in mistakes[0]
