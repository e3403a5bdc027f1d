"""Splits that come with the data: as files or as a column, without labels of test rows, and selected on test rows."""

import shutil

import comp
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import cross_matrix
import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
import statis_and_draw
import viewer
from mma4ctr.data.interactions import TEST, TRAIN, VALID, load_interactions
from mma4ctr.data.splits import given_rows
from mma4ctr.datasets import __main__ as datasets_main
from mma4ctr.evaluation import __main__ as report_main
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.features.feature_matrix import load_step_inputs
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import ROOT, call, write_described

MOVIELENS = list((ROOT / ".venv-baseline").glob("lib/*/site-packages/recbole/dataset_example/ml-100k"))

USERS, ITEMS, ROWS = 24, 40, 1500
PARTS = ("train", "valid", "test")
SHARED = """
[targets]
like = "liked"
[modalities.vector]
vectors = "vectors.npy"
ids = 0
"""
LOG = """
[interactions]
user = "user"
item = "item"
time = "time"
"""
FILES = '[split]\ntrain = "train.csv"\nvalid = "valid.csv"\ntest = "test.csv"\n'
COLUMN = '[split]\ncolumn = "part"\ntrain = "0"\nvalid = [1]\ntest = ["2", "3"]\n'


def draw_log(seed=0):
    """Rows by column, with labels that vectors explain, and the vectors."""
    rng = np.random.default_rng(seed)
    vectors = rng.normal(size=(ITEMS, 4)).astype(np.float32)
    log = {"user": rng.integers(0, USERS, ROWS), "item": rng.integers(0, ITEMS, ROWS)}
    log["time"] = rng.permutation(ROWS) + 10**9
    log["liked"] = (vectors[log["item"], 0] + rng.normal(size=ROWS) > 0).astype(int)
    return log, vectors


def chronological(time):
    order = np.argsort(np.argsort(time))
    return (order >= 8 * ROWS // 10).astype(int) + (order >= 9 * ROWS // 10)


def write(path, log):
    """A table in the format of its name."""
    if path.suffix == ".parquet":
        pq.write_table(pa.table(log), path)
        return
    rows = zip(*(values if isinstance(values, list) else values.tolist() for values in log.values()), strict=True)
    lines = [",".join(log), *(",".join("" if cell is None else str(cell) for cell in row) for row in rows)]
    path.write_text("\n".join(lines) + "\n")


def rows_of(log, chosen):
    return {name: values[chosen] for name, values in log.items()}


def write_parts(folder, log, split, kind="csv"):
    for number, part in enumerate(PARTS):
        write(folder / f"{part}.{kind}", rows_of(log, split == number))


def write_paths(folder, text):
    (folder / "own.toml").write_text(text)
    return write_described(folder, {"own": "own.toml"})


@pytest.fixture
def folder(tmp_path):
    """Files of training, validation and test rows, and one file with a column of parts."""
    log, vectors = draw_log()
    split = chronological(log["time"])
    np.save(tmp_path / "vectors.npy", vectors)
    write_parts(tmp_path, log, split)
    write(tmp_path / "log.csv", log | {"part": np.where(np.arange(ROWS) % 2, split, split + (split == 2))})
    return tmp_path


def step_1(paths, *options):
    assert call(preprocess_inter.main, "--paths", paths, *options) == 0
    return load_interactions(load_paths(paths), "own")


def trained(paths, *options):
    """The result of steps 2 to 5."""
    for step in (preprocess_multimodal, get_user_embedding, gen_matrix):
        assert call(step.main, "--paths", paths) == 0
    assert call(mlp.main, "--paths", paths, "--epochs", 2, *options) == 0
    return read_results(load_paths(paths).results)[-1]


def refused(capsys, paths, *options, main=preprocess_inter.main):
    capsys.readouterr()
    assert call(main, "--paths", paths, *options) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    return line


def whole_log(text=""):
    return LOG.replace("[interactions]\n", '[interactions]\nfiles = "log.csv"\n') + SHARED + text


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_files_and_a_column_give_the_rows_of_the_own_split(folder, kind):
    own = step_1(write_paths(folder, "min_interactions = 0\n" + whole_log()))
    expected = {name: getattr(own, name).copy() for name in ("user", "item", "time", "split")}
    expected["label"] = own.label("like").copy()
    score = trained(folder / "path.json")
    log, _ = draw_log()
    write_parts(folder, log, chronological(log["time"]), kind)
    for text in (LOG + SHARED + FILES.replace("csv", kind), whole_log(COLUMN)):
        found = step_1(write_paths(folder, text))
        for name, values in expected.items():
            assert (found.label("like") if name == "label" else getattr(found, name)).tolist() == values.tolist(), name
        assert found.artifact.settings["split"] == "given" and found.artifact.settings["min_interactions"] == 0
        again = trained(folder / "path.json")
        assert (again.auc, again.gauc, again.logloss) == (score.auc, score.gauc, score.logloss)
        assert again.protocol["split"] == "given" and not again.marks


@pytest.mark.skipif(not MOVIELENS, reason="RecBole's environment, which holds MovieLens-100k, is made by make baseline")
def test_movielens_with_a_given_split_has_the_score_of_its_own_split(tmp_path):
    """Both feature sets; the given files hold the rows of step 1's own split."""

    def scores(description, folder):
        datasets = {"movielens": {"description": description, "folder": str(folder.absolute())}}
        paths = write_described(tmp_path, datasets)
        for step in (preprocess_inter, preprocess_multimodal, get_user_embedding, cross_matrix):
            assert call(step.main, "--paths", paths) == 0
        assert call(cross_matrix.main, "--paths", paths, "--features", "plus") == 0
        for options in (("--epochs", 2), ("--features", "plus")):
            assert call(mlp.main, "--paths", paths, *options) == 0
        found = read_results(load_paths(paths).results)[-2:]
        return [(one.variant, one.auc, one.gauc, one.logloss) for one in found]

    expected = scores("movielens-100k", MOVIELENS[0])
    data = load_interactions(load_paths(tmp_path / "path.json"), "movielens")
    users, items = data.user_ids[data.user].tolist(), data.item_ids[data.item].tolist()
    part_of = dict(zip(zip(users, items, strict=True), data.split.tolist(), strict=True))
    given = tmp_path / "given"
    given.mkdir()
    header, *rows = (MOVIELENS[0] / "ml-100k.inter").read_text().splitlines(keepends=True)
    for number, name in enumerate(PARTS):
        chosen = [row for row in rows if part_of[tuple(map(int, row.split("\t")[:2]))] == number]
        (given / f"{name}.inter").write_text(header + "".join(chosen))
    shutil.copy(MOVIELENS[0] / "ml-100k.item", given)
    text = (ROOT / "mma4ctr" / "datasets" / "descriptions" / "movielens-100k.toml").read_text()
    text = text.replace('files = "ml-100k.inter"\n', "").replace("min_interactions = 20\n", "")
    (tmp_path / "given.toml").write_text(text + FILES.replace(".csv", ".inter"))
    assert scores("given.toml", given) == expected
    assert expected[1][1] > expected[0][1] > 0.6


def test_validation_rows_default_to_the_last_tenth_of_the_training_rows(folder):
    found = step_1(write_paths(folder, LOG + SHARED + FILES.replace('valid = "valid.csv"\n', "")))
    train, valid, test = (found.time[found.split == part] for part in (TRAIN, VALID, TEST))
    assert len(valid) == len(train) // 9 and train.max() < valid.min() and len(test) == ROWS // 10
    split = np.array([0, 0, 0, 2], np.uint8)
    assert given_rows(split, np.array([1, 3, 3, 1]), folder, valid_is_test=False).tolist() == [0, 1, 1, 2]
    assert given_rows(split, np.array([1, 3, 3, 1]), folder, valid_is_test=True).tolist() == [0, 0, 0, 2]
    with pytest.raises(UserError, match="name validation rows"):
        given_rows(split, np.array([3, 3, 3, 1]), folder, valid_is_test=False)


def test_selection_on_test_rows_is_marked_in_every_output(folder, capsys):
    paths = write_paths(folder, LOG + SHARED + FILES.replace('"valid.csv"', '"test"'))
    assert len(step_1(paths)) == ROWS - ROWS // 10
    result = trained(paths)
    assert result.rows["valid"] == result.rows["test"] == ROWS // 10
    assert result.valid_auc == pytest.approx(result.auc, abs=1e-6)
    assert result.marks == ("SELECTED ON TEST",)
    assert "SELECTED ON TEST" in capsys.readouterr().err
    assert call(report_main.main, "--paths", paths) == 0
    assert "SELECTED ON TEST" in capsys.readouterr().out.replace("\n", " ")
    assert "needs validation rows" in refused(capsys, paths, "--models", "bias model", main=comp.main)
    # The option of step 1 does the same with a description that has validation rows.
    step_1(write_paths(folder, LOG + SHARED + FILES), "--valid", "test")
    assert trained(paths).marks == ("SELECTED ON TEST",)


@pytest.mark.parametrize("absent", [True, False])
@pytest.mark.parametrize("form", ["files", "column"])
def test_test_rows_need_no_labels(folder, capsys, absent, form):
    if form == "column" and absent:
        pytest.skip("a file has a column or not")
    labelled = step_1(write_paths(folder, LOG + SHARED + FILES))
    users = labelled.user.tolist()
    log, _ = draw_log()
    split = chronological(log["time"])
    values = [None if split[row] == 2 else int(value) for row, value in enumerate(log["liked"])]
    if form == "column":
        write(folder / "log.csv", log | {"liked": values, "part": split})
    else:
        test = {name: column for name, column in rows_of(log, split == 2).items() if name != "liked"}
        write(folder / "test.csv", test if absent else test | {"liked": [None] * int((split == 2).sum())})
    text = LOG + SHARED + FILES if form == "files" else whole_log(COLUMN)
    paths = write_paths(folder, text)
    assert call(datasets_main.main, "check", paths) == 0
    found = step_1(paths)
    assert found.user.tolist() == users and not found.label("like")[found.split == TEST].any()
    result = trained(paths)
    assert result.auc is None and result.gauc is None and result.logloss is None and result.valid_auc
    assert "the test rows have no labels" in capsys.readouterr().out.replace("\n", " ")
    run = read_artifact(load_paths(paths).torch_model / "own_like" / result.run_id, "mlp.py")
    assert len(run.array("predictions")) == ROWS // 10
    for script in (report_main, statis_and_draw, viewer):
        assert call(script.main, "--paths", paths) == 0
    known = [value for value in values if value is not None]
    ratio = (len(known) - sum(known)) / sum(known)
    tables = (load_paths(paths).saved / "tables/statistics.csv").read_text().splitlines()
    assert f"negatives per positive: like,{ratio:.2f}" in tables
    assert not (load_paths(paths).saved / "figures/reliability.png").exists()
    assert "mean prediction" not in (load_paths(paths).saved / "report.html").read_text()
    assert "have no labels" in refused(capsys, paths, "--models", "bias model", main=comp.main)
    assert "cannot be the validation rows" in refused(capsys, paths, "--valid", "test")


def test_new_users_and_items_of_test_rows_are_kept(folder):
    log, vectors = draw_log()
    np.save(folder / "vectors.npy", np.concatenate([vectors, vectors]))
    late = rows_of(log, chronological(log["time"]) == 2)
    write(folder / "test.csv", late | {"user": late["user"] + 100, "item": late["item"] + ITEMS})
    paths = write_paths(folder, LOG + SHARED + FILES)
    found = step_1(paths)
    assert (found.split == TEST).sum() == ROWS // 10 and len(found.user_ids) > USERS
    assert trained(paths).auc > 0.6  # by content
    assert call(gen_matrix.main, "--paths", paths, "--features", "plus") == 0
    assert call(mlp.main, "--paths", paths, "--features", "plus", "--epochs", 2) == 0
    assert read_results(load_paths(paths).results)[-1].auc > 0.6
    inputs = load_step_inputs(load_paths(paths), "own_like")
    assert len(inputs.data) == ROWS


def test_mistakes_are_one_line(folder, capsys):
    log, _ = draw_log()
    split = chronological(log["time"])
    paths = write_paths(folder, LOG + SHARED + FILES)
    for split_name in ("random", "chronological"):
        assert "comes with a split" in refused(capsys, paths, "--split", split_name)
    # A row in two parts, with the names of its user and item.
    row = int(np.flatnonzero(split == 2)[5])
    doubled = rows_of(log, (split == 0) | (np.arange(ROWS) == row))
    write(folder / "train.csv", doubled)
    line = refused(capsys, paths)
    assert f"user {log['user'][row]} and item {log['item'][row]} stands in two parts" in line
    write(folder / "train.csv", rows_of(log, split == 0))
    # Half of the test labels.
    test = rows_of(log, split == 2)
    liked = [None if place % 2 else int(value) for place, value in enumerate(test["liked"])]
    write(folder / "test.csv", test | {"liked": liked})
    assert "75 labels are missing, 75 are there (columns liked)" in refused(capsys, paths)
    write(folder / "test.csv", test)
    # Training rows need labels.
    train = rows_of(log, split == 0)
    write(folder / "train.csv", train | {"liked": [None, *train["liked"].tolist()[1:]]})
    assert "train.csv:2: column liked: '' is not a number" in refused(capsys, paths)
    write(folder / "train.csv", train)
    (folder / "valid.csv").rename(folder / "validation.csv")
    assert "no file" in (line := refused(capsys, paths)) and "validation.csv" in line
    write_paths(folder, LOG + SHARED + FILES.replace("valid.csv", "train.csv"))
    assert "is in train and in valid" in refused(capsys, paths)
    write_paths(folder, whole_log(FILES))
    assert "remove one of the two" in refused(capsys, paths)
    write_paths(folder, whole_log(COLUMN.replace('"2", "3"', '"2"')))
    assert "column part: '3' is not one of 0, 1, 2" in refused(capsys, paths)
    write_paths(folder, whole_log(COLUMN.replace('"2"', '"0"')))
    assert "'0' is both train and test" in refused(capsys, paths)
    write_paths(folder, whole_log(COLUMN.replace("column", "colum")))
    assert "colum" in refused(capsys, paths)
    write_paths(folder, whole_log(COLUMN.replace("[1]", '["1", "2", "3"]').replace('["2", "3"]', '"9"')))
    assert "the given split has an empty part (train 1,200, valid 300, test 0)" in refused(capsys, paths)
    write_paths(folder, whole_log())
    assert "only for data that come with a split" in refused(capsys, paths, "--valid", "test")
