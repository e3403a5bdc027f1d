"""FuxiCTR's models on files of the shapes of BARS: rows, histories and metrics. Tests that train are marked `fuxictr`:
they need its environment and run by `make test-baseline`."""

import json
import shutil
import subprocess

import benchmark_tables
import fuxictr_inputs
import fuxictr_settings
import h5py
import numpy as np
import processes
import pyarrow as pa
import pytest
import trainings
from comp import chosen_models, main
from processes import SAME, TrainingFailed, refuse_other_metrics

import preprocess_inter
from mma4ctr.data.interactions import load_interactions
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.evaluation.baselines import BASELINES, FUXICTR
from mma4ctr.evaluation.metrics import Scores
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, write_described

MODELS = [model for model in BASELINES.values() if model.framework == FUXICTR]
TRAIN_ROWS, TEST_ROWS, USERS, ITEMS = 900, 250, 12, 80
HISTORY = 100
# The tests that train take each model with one shape, and between them all pairs.
SHAPES = list(fuxictr_settings.all_settings())


def str_of(value):
    """The name of a test's parameter."""
    return getattr(value, "name_in_framework", None) or " ".join([value] if isinstance(value, str) else value)


def write_files(folder, shape, seed=0):
    """Small files of a shape: as published, KuaiVideo's test rows have histories up to the row, MicroVideo's those at
    the end of train.csv, and only new items. Moments repeat, so some rows of a user have equal times."""
    rng = np.random.default_rng(seed)
    rows = TRAIN_ROWS + TEST_ROWS
    new_items, kuai = shape != "kuaivideo-x1", shape == "kuaivideo-x1"
    user = rng.integers(0, USERS, rows)
    item = rng.integers(0, ITEMS, rows)
    item[TRAIN_ROWS:] += ITEMS * new_items
    click = rng.random(rows) < 0.1 + 0.5 * (item % 4 == user % 4)
    moment = np.sort(rng.integers(0, rows // 2, rows))
    moment[TRAIN_ROWS:] += rows
    like, follow = (click & (rng.random(rows) < share) for share in (0.5, 0.3))
    folder.mkdir()
    clicked = {one: [] for one in range(USERS)}
    lines = []
    pending = []  # rows of one moment do not see each other
    for row in range(rows):
        if row and moment[row] != moment[row - 1]:
            for one, what in pending:
                clicked[one].append(what)
            pending = []
        history = "^".join(str(100 + what) for what in clicked[user[row]][-HISTORY:])
        who, what, acts, when = user[row], 100 + item[row], int(click[row]), 1000 + moment[row]
        if kuai:
            lines.append(f"{when},{who},{what},{acts},{like[row]:d},{follow[row]:d},{history},")
        else:
            lines.append(f"{who},{what},{item[row] % 5},{acts},{when},{history},")
        if acts and (kuai or row < TRAIN_ROWS):
            pending.append((who, item[row]))
    header = (
        "timestamp,user_id,item_id,is_click,is_like,is_follow,pos_items,neg_items"
        if kuai
        else "user_id,item_id,cate_id,is_click,timestamp,clicked_items,clicked_categories"
    )
    for name, part in (("train", lines[:TRAIN_ROWS]), ("test", lines[TRAIN_ROWS:])):
        (folder / f"{name}.csv").write_text("\n".join([header, *part]) + "\n")
    keys = 100 + np.arange(2 * ITEMS - 5)  # the last items have no vector
    with h5py.File(folder / f"item_{'visual' if kuai else 'image'}_emb_dim64.h5", "w") as file:
        file["key"] = keys
        file["value"] = rng.normal(size=(len(keys), 64)).astype(np.float32)


def prepared_files(folder, shape, *options):
    """Step 1 on small files; returns the task, ready to be learned."""
    if not (folder / "data").exists():
        write_files(folder / "data", shape)
    file = write_described(folder, {"bars": {"description": shape, "folder": "data"}})
    assert call(preprocess_inter.main, "--paths", file, *options) == 0
    return trainings.prepare(load_paths(file), "bars_click", MODELS)


def slow_histories(prepared, *, later):
    """The clicks of each row's user before the row's moment, one row at a time; with `later` those in validation and
    test rows too."""
    data, label = prepared.data, prepared.data.label("click")
    found = []
    for row in range(len(data)):
        before = (data.user == data.user[row]) & (data.time < data.time[row]) & (label > 0)
        before &= (data.split == 0) | later
        rows = np.flatnonzero(before)
        found.append(data.item[rows[np.argsort(data.time[rows], kind="stable")]][-HISTORY:].tolist())
    return found


def written_histories(folder, part):
    items = np.load(folder / "history_items.npy")
    start, end = (np.load(folder / f"{part}_history_{kind}.npy") for kind in ("start", "end"))
    return [items[first:last].tolist() for first, last in zip(start, end, strict=True)]


@pytest.mark.parametrize("shape", fuxictr_settings.all_settings())
@pytest.mark.parametrize("valid_is_test", [False, True])
def test_histories_are_those_of_the_files_without_labels_of_later_parts(tmp_path, shape, valid_is_test):
    """Training rows have the clicks of the column; other rows those in training rows, or as the files have them."""
    prepared = prepared_files(tmp_path, shape, *(("--valid", "test") if valid_is_test else ()))
    (tmp_path / "made").mkdir()
    fuxictr_inputs.write_inputs(prepared, MODELS[0], tmp_path / "made")
    as_in_files = valid_is_test and shape == "kuaivideo-x1"
    expected = slow_histories(prepared, later=as_in_files)
    for part, name in enumerate(("train", "valid", "test")):
        rows = prepared.rows_of(part)
        made = written_histories(tmp_path / "made", name)
        assert len(made) == len(rows) > 50
        # Clicks of one moment are in the order of the file there, and of items here.
        assert [sorted(one) for one in made] == [sorted(expected[row]) for row in rows], name
        assert np.array_equal(np.load(tmp_path / f"made/{name}_label_row.npy"), prepared.data.label("click")[rows])


def test_files_that_step_1_has_not_read_are_refused(tmp_path, capsys):
    prepared = prepared_files(tmp_path, "kuaivideo-x1")
    shutil.rmtree(tmp_path / "data")
    write_files(tmp_path / "data", "kuaivideo-x1", seed=1)
    with pytest.raises(Exception, match=r"run preprocess_inter\.py"):
        fuxictr_inputs.write_inputs(prepared, MODELS[0], tmp_path)


def test_fuxictr_takes_data_sets_of_bars_only_and_is_not_among_all(tmp_path, capsys, made):
    assert not [name for name in chosen_models(["all"]) if name in BASELINES and BASELINES[name].framework == FUXICTR]
    assert chosen_models(["FuxiCTR DIN"]) == ["FuxiCTR DIN"]
    with pytest.raises(Exception, match=r"no settings for tiktok; they take .* kuaivideo-x1 or microvideo"):
        trainings.prepare(made, "tiktok_like", MODELS)


def test_a_missing_environment_names_the_command(tmp_path, capsys, monkeypatch):
    prepared = prepared_files(tmp_path, "kuaivideo-x1")
    place = processes.PLACES[FUXICTR]._replace(environment=tmp_path / "nowhere")
    monkeypatch.setitem(processes.PLACES, FUXICTR, place)
    assert call(main, "--paths", prepared.paths.file, "--task", "bars_click", "--models", "FuxiCTR DIN") == 2
    assert "make baseline-fuxictr" in capsys.readouterr().err


@pytest.mark.parametrize("name", ["auc", "gauc", "logloss"])
def test_other_metrics_of_the_same_scores_are_refused(name):
    scores = Scores(auc=0.7, gauc=0.6, logloss=0.5)
    same = {"auc": 0.7, "gauc": 0.6, "logloss": 0.5}
    refuse_other_metrics(scores, same | {name: same[name] + SAME / 2})
    for other in (same[name] + 2 * SAME, same[name] - 2 * SAME, float("nan")):
        with pytest.raises(TrainingFailed, match=f"its own {name} of the test rows"):
            refuse_other_metrics(scores, same | {name: other})


def with_other_labels(folder, copy):
    """The same files with every label after the training rows turned round, and the histories that follow from them.

    Rows after the training rows are those of test.csv and the last tenth of train.csv.
    """
    shutil.copytree(folder / "data", copy / "data")
    for name in ("train", "test"):
        path = copy / f"data/{name}.csv"
        header, *lines = path.read_text().splitlines()
        names = header.split(",")
        label, when = names.index("is_click"), names.index("timestamp")
        history = next(names.index(one) for one in ("pos_items", "clicked_items") if one in names)
        rows = [line.split(",") for line in lines]
        times = sorted(int(row[when]) for row in rows)
        first = times[9 * len(times) // 10] if name == "train" else 0
        for row in rows:
            if int(row[when]) >= first:
                row[label] = str(1 - int(row[label]))
                row[history] = "100^101^102"
        path.write_text("\n".join([header, *map(",".join, rows)]) + "\n")


def trained(prepared, model, folder):
    """Run a model's process for one epoch; returns its last answer."""
    folder.mkdir()
    training = trainings.ComparedTraining(prepared, model, 0, (1,))
    done = subprocess.run(processes.write_job(training, folder, 1), capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.fuxictr
@pytest.mark.parametrize(("model", "shape"), list(zip(MODELS, SHAPES * 2, strict=True)), ids=str_of)
def test_fuxictr_sees_no_label_of_validation_and_test_rows(tmp_path, model, shape):
    (tmp_path / "one").mkdir()
    (tmp_path / "other").mkdir()
    first = prepared_files(tmp_path / "one", shape)
    answer = trained(first, model, tmp_path / "first")
    with_other_labels(tmp_path / "one", tmp_path / "other")
    trained(prepared_files(tmp_path / "other", shape), model, tmp_path / "second")
    for part in ("valid", "test"):
        one, other = (np.load(tmp_path / folder / f"{part}_1.npy") for folder in ("first", "second"))
        assert len(np.unique(one)) > 10
        assert np.array_equal(one, other), f"{model.name} has seen labels that it must not see"
    labels = [np.load(tmp_path / folder / "test_label.npy") for folder in ("first", "second")]
    assert np.array_equal(labels[0], 1 - labels[1])
    assert answer["parameters"] > 0 and answer["peak_memory_mb"] > 100 and answer["processor_seconds"] > 0


@pytest.mark.fuxictr
@pytest.mark.parametrize(
    ("model", "shape", "options"),
    list(zip(MODELS, SHAPES[::-1] * 2, [(), (), ("--valid", "test"), ("--valid", "test")], strict=True)),
    ids=str_of,
)
def test_results_and_the_table(tmp_path, model, shape, options, monkeypatch, capsys):
    """The command line: a record with costs, metrics that agree with FuxiCTR's; then nothing is left to do."""
    prepared = prepared_files(tmp_path, shape, *options)
    arguments = ("--paths", prepared.paths.file, "--task", "bars_click", "--models", model.name, "--epochs", 1, 2)
    assert call(main, *arguments) == 0
    (result,) = read_results(prepared.paths.results)
    assert (result.model, result.epochs, result.best_epoch in (1, 2)) == (model.name, 2, True)
    assert result.rows == {part: len(prepared.rows_of(place)) for place, part in enumerate(("train", "valid", "test"))}
    assert result.selected_on_test == bool(options)
    assert result.processor_seconds > 0 and result.peak_memory_mb > 100
    capsys.readouterr()
    assert call(main, *arguments) == 0
    assert "Comparison: 0 runs" in capsys.readouterr().out
    (tmp_path / "docs").mkdir()
    page = tmp_path / "docs/comparison.md"
    page.write_text("<!-- benchmarks -->\n<!-- /benchmarks -->\n")
    monkeypatch.setattr(benchmark_tables, "ROOT", tmp_path)
    assert call(benchmark_tables.main, prepared.paths.file) == 0
    row = next(line for line in page.read_text().splitlines() if line.startswith(f"| {model.name}"))
    assert f"{result.auc:.4f}" in row and f"{result.parameters:,}" in row
    assert ("SELECTED ON TEST" in row) == bool(options)


def test_rows_of_one_moment_and_duplicates_keep_their_history(tmp_path):
    """Step 1 drops exact duplicates; the rest still finds its own row of the files."""
    write_files(tmp_path / "data", "kuaivideo-x1")
    path = tmp_path / "data/train.csv"
    header, *lines = path.read_text().splitlines()
    path.write_text("\n".join([header, *lines, *lines[5:25]]) + "\n")
    prepared = prepared_files(tmp_path, "kuaivideo-x1")
    assert len(load_interactions(prepared.paths, "bars")) <= TRAIN_ROWS + TEST_ROWS
    fuxictr_inputs.write_inputs(prepared, MODELS[0], tmp_path)
    expected = slow_histories(prepared, later=False)
    made = written_histories(tmp_path, "train")
    assert [sorted(one) for one in made] == [sorted(expected[row]) for row in prepared.rows_of(0)]


@pytest.mark.parametrize("seed", range(20))
def test_a_cell_gives_its_last_known_items(seed):
    """Cells of 0 to 250 ids, known and unknown, against a list at a time."""
    rng = np.random.default_rng(seed)
    known = np.unique(rng.integers(-50, 400, 200))
    lengths = rng.choice([0, 1, 5, 99, 100, 101, 250], rng.integers(1, 30))
    cells = [rng.integers(-50, 400, length).tolist() for length in lengths]
    column = pa.array(["^".join(map(str, cell)) or rng.choice(["", None]) for cell in cells], pa.string())
    items, count = fuxictr_inputs.histories_of(column, IdIndex(known))
    place = {one: number for number, one in enumerate(known.tolist())}
    expected = [[place[one] for one in cell if one in place][-HISTORY:] for cell in cells]
    assert count.tolist() == [len(one) for one in expected]
    assert items.tolist() == [one for cell in expected for one in cell]


@pytest.mark.parametrize("cell", ["1^^2", "^1", "1^", "^"])
def test_an_empty_id_in_a_history_is_a_bad_row(cell):
    with pytest.raises(BadLine, match="empty id"):
        fuxictr_inputs.histories_of(pa.array([cell]), IdIndex(np.arange(5)))
