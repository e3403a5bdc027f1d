"""The comparison: rows, labels and what the models may see. Those of RecBole are marked `recbole`: they need its
environment and run by `make test-baseline`."""

import json
import shutil
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import comp
import numpy as np
import own_model
import processes
import pytest
import raw_columns
import readme
import torch
import trainings
import trees
from raw_columns import FOLD_SEED, FOLDS, RivalInputs
from recbole_fields import write_atomic_files
from sklearn.linear_model import LogisticRegression
from trainings import HERE

import cross_matrix
from mma4ctr.data.interactions import TEST, load_interactions
from mma4ctr.data.log_columns import StoredColumn, stored_columns
from mma4ctr.datasets.base import SPLIT_NAMES
from mma4ctr.evaluation.baselines import BASELINES, FUXICTR, RECBOLE
from mma4ctr.evaluation.comparison_tables import CALIBRATION, chosen_cell
from mma4ctr.evaluation.ground_truth import true_test_probabilities
from mma4ctr.evaluation.layouts import Layout
from mma4ctr.evaluation.metrics import auc, logloss, platt_scaled, reliability, score_predictions
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.evaluation.run_records import test_scores as kept_scores
from mma4ctr.evaluation.studies import STUDIES
from mma4ctr.evaluation.study_cells import cells, prepared_inputs
from mma4ctr.evaluation.tables import layouts
from mma4ctr.features.behavioral.inputs import clock_codes
from mma4ctr.features.feature_matrix import load_matrix
from mma4ctr.features.user_embedding import draw_folds
from mma4ctr.features.variants import with_features
from mma4ctr.simulation import __main__ as world
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, prepare, reseal

RECBOLE_MODELS = [model for model in BASELINES.values() if model.framework == RECBOLE]
GENERAL = [name for name, model in BASELINES.items() if model.framework != FUXICTR]
TASK = "tiktok_like"


@pytest.fixture(scope="module")
def compared(tmp_path_factory):
    """A tiny world, steps 1 to 4, with features plus."""
    folder = tmp_path_factory.mktemp("compared")
    assert call(world.main, folder, "--dataset", "tiktok", "--rows", 8000, "--users", 60, "--items", 300) == 0
    prepare(folder / "path.json")
    assert call(cross_matrix.main, "--paths", folder / "path.json", "--task", TASK, "--features", "plus") == 0
    return load_paths(folder / "path.json")


def run_recbole_in(monkeypatch, environment):
    """Use another environment for RecBole's models."""
    place = processes.PLACES[RECBOLE]._replace(environment=environment)
    monkeypatch.setitem(processes.PLACES, RECBOLE, place)


def train(paths, model, folder, checkpoint_epochs=(1,)):
    """Run a model's process and leave what it wrote in `folder`; returns its answers."""
    folder.mkdir()
    training = trainings.ComparedTraining(trainings.prepare(paths, TASK, [model]), model, 0, checkpoint_epochs)
    done = subprocess.run(processes.write_job(training, folder, 1), capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-3000:]
    return training, [json.loads(line) for line in done.stdout.splitlines()]


def with_other_labels(paths, folder):
    """The same data with every validation and test label turned round, in the arrays and the .inter files."""
    shutil.copytree(paths.file.parent, folder)
    graph = folder / "graph/tiktok"
    split, label = np.load(graph / "split.npy"), np.load(graph / "label_like.npy")
    np.save(graph / "label_like.npy", np.where(split > 0, 1 - label, label).astype(np.uint8))
    for part in ("valid", "test"):
        path = graph / f"tiktok.{part}.inter"
        header, *lines = path.read_text().splitlines()
        place = header.split("\t").index("like:float")
        rows = [line.split("\t") for line in lines]
        for row in rows:
            row[place] = str(1 - int(row[place]))
        path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
    reseal(folder)
    return load_paths(folder / "path.json")


def check_model(paths, model, tmp_path):
    """Its rows are the test rows one for one, with our labels; and what it predicts does not depend on the labels of
    validation and test rows."""
    training, answers = train(paths, model, tmp_path / "first")
    assert answers[-1]["checkpoint"] == 1 and answers[-1]["parameters"] > 0
    data = load_interactions(paths, "tiktok")
    rows = np.flatnonzero(data.split == 2)
    first = tmp_path / "first"
    assert np.array_equal(np.load(first / "test_user.npy"), data.user_ids[data.user[rows]])
    assert np.array_equal(np.load(first / "test_item.npy"), data.item_ids[data.item[rows]])
    assert np.array_equal(np.load(first / "test_label.npy"), data.label("like")[rows])
    score = np.load(first / "test_1.npy")
    assert len(score) == len(rows) and len(np.unique(score)) > 10 and np.isfinite(score).all()
    assert np.array_equal(processes.scored_rows(training, first, 2), rows)
    other = with_other_labels(paths, tmp_path / "other")
    train(other, model, tmp_path / "second")
    for part in ("valid", "test"):
        assert np.array_equal(np.load(first / f"{part}_1.npy"), np.load(tmp_path / "second" / f"{part}_1.npy")), (
            f"{model.name} has seen labels that it must not see"
        )
    assert not np.array_equal(np.load(first / "test_label.npy"), np.load(tmp_path / "second/test_label.npy"))


@pytest.mark.recbole
@pytest.mark.parametrize("model", RECBOLE_MODELS, ids=lambda model: model.name)
def test_recbole_scores_our_rows_and_sees_training_labels_only(compared, tmp_path, model):
    check_model(compared, model, tmp_path)


@pytest.mark.parametrize("name", ["LightGBM", "LightGBM plus", "CatBoost", "CatBoost plus", "bias model"])
def test_own_models_score_our_rows_and_see_training_labels_only(compared, tmp_path, name):
    check_model(compared, BASELINES[name], tmp_path)


@pytest.mark.recbole
def test_everything_at_once(compared, capsys):
    """The command line: every model for one epoch, its line, the table; then nothing is left to do."""
    options = ("--paths", compared.file, "--task", TASK, "--epochs", 1)
    assert call(comp.main, *options) == 0
    results = read_results(compared.results)
    for model in GENERAL:
        assert sum(result.model == model for result in results) == 1, model
    for result in results:
        assert result.auc is not None and result.valid_auc is not None and result.logloss < 1
        assert result.parameters > 0 and result.test_seconds > 0
    text = (compared.saved / "tables/comparison.md").read_text()
    assert all(f"| {model} |" in text for model in ("MMa4CTR", *GENERAL))
    capsys.readouterr()
    assert call(comp.main, *options) == 0
    assert "Comparison: 0 runs" in capsys.readouterr().out


CHECK_HISTORIES = """
import sys
import numpy as np, torch
sys.path.insert(0, {folder!r})
from recbole_model import Histories, ShownNegatives
rng = np.random.default_rng(0)
rows = 400
user, item, moment = rng.integers(1, 6, rows), rng.integers(1, 50, rows), rng.integers(0, 60, rows)
acted = rng.random(rows) < 0.4
acted[300:] = False
made = Histories(user, moment.astype(float), acted, item, 12)
begin, end = torch.from_numpy(made.begin), torch.from_numpy(made.end)
padded = made.padded(begin, end, made.width).numpy()
for row in range(rows):
    before = [r for r in np.lexsort((np.arange(rows), moment)) if acted[r] and user[r] == user[row]
              and moment[r] < moment[row]]
    expected = [int(item[r]) for r in before][-made.width:]
    assert padded[row].tolist() == expected + [0] * (made.width - len(expected)), row
passed = ~acted[:300]
sampler = ShownNegatives(user[:300][passed], item[:300][passed], 7, 50, 0)
drawn = sampler.sample_by_user_ids(np.array([1, 3, 6]), np.array([1, 1, 1]), 50).numpy().reshape(50, 3)
for column, who in enumerate((1, 3)):
    shown = set(item[:300][passed & (user[:300] == who)].tolist())
    assert set(drawn[:, column].tolist()) <= shown
assert len(set(drawn[:, 2].tolist())) > 10, "user 6 was shown nothing: any item"
"""


@pytest.mark.recbole
def test_histories_hold_what_came_before_the_row():
    code = CHECK_HISTORIES.format(folder=str(HERE))
    done = subprocess.run(
        [processes.PLACES[RECBOLE].environment / "bin/python", "-c", code], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_rates_are_the_smoothed_shares():
    index, label = np.array([0, 0, 1, 1, 1, 2]), np.array([1, 0, 0, 0, 0, 1.0])
    found = own_model.smoothed_shares(index, label, 4)
    share = 2 / 6
    for who in range(4):
        mine = label[index == who]
        rate = (mine.sum() + own_model.PRIOR * share) / (len(mine) + own_model.PRIOR)
        assert found[who] == pytest.approx(np.log(rate / (1 - rate)) - np.log(share / (1 - share)))
    assert found[3] == pytest.approx(0)


def test_platt_scaling_is_the_logistic_regression_of_the_validation_rows():
    rng = np.random.default_rng(0)
    valid = rng.normal(size=4000) * 30
    label = (rng.random(4000) < 1 / (1 + np.exp(-(0.05 * valid - 1)))).astype(int)
    score = rng.normal(size=100) * 30
    found = platt_scaled(score, valid, label)
    fitted = LogisticRegression(C=np.inf, tol=1e-8).fit(valid[:, None], label)
    assert found == pytest.approx(fitted.predict_proba(score[:, None])[:, 1], abs=1e-3)
    assert logloss(label, platt_scaled(valid, valid, label)) < logloss(label, np.full(4000, label.mean()))
    backwards = score_predictions(label, platt_scaled(-valid, -valid, label), np.zeros(4000, int), -valid)
    assert backwards.auc == pytest.approx(1 - auc(label, valid)), "AUC is that of the score, not of its calibration"


def test_the_table_takes_the_epochs_that_the_validation_rows_chose(compared):
    assert call(comp.main, "--paths", compared.file, "--task", TASK, "--models", "LightGBM", "--epochs", 10, 20) == 0
    assert call(comp.main, "--paths", compared.file, "--task", TASK, "--models", "bias model") == 0
    results = read_results(compared.results)
    table = cells(results, STUDIES["comparison"], TASK, prepared_inputs(compared, TASK))
    of_trees = [cell for cell in table if cell.case.label == "LightGBM"]
    chosen = chosen_cell(of_trees)
    assert chosen.runs[0].valid_auc == max(cell.runs[0].valid_auc for cell in of_trees if cell.runs)
    scores, paired, computation = layouts(compared, STUDIES["comparison"], table)
    row = next(row for row in scores.rows if row[0][0] == "LightGBM")
    assert row[1][0] == f"{chosen.runs[0].auc:.4f}" and row[4][0] == str(chosen.epochs)
    reference = next(row for row in scores.rows if row[0][0] == "bias model")
    assert reference[4][0] == "-" and reference[1][0] == reference[5][0]
    assert {row[0][0] for row in computation.rows} >= {"LightGBM", "bias model"}
    # Without a run of ours the best of the others is what they are held against.
    shown = {row[0][0]: [text for text, _ in row] for row in paired.rows}
    ahead, behind = sorted(("LightGBM", "bias model"), key=lambda name: shown[name][3] != "-")
    assert shown[ahead][3:6] == ["-", "-", "-"] and f"{ahead} is ahead by" in paired.header
    difference = float(shown[ahead][1]) - float(shown[behind][1])
    assert float(shown[behind][3]) == pytest.approx(difference, abs=1.1e-4)
    low, high = map(float, shown[behind][2].split(" to "))
    assert low < float(shown[behind][1]) < high
    # The errors of calibration: on the drawn labels, and on the true probabilities of the simulated world.
    errors = shown["bias model"][paired.header.index(CALIBRATION)]
    rates = kept_scores(compared, next(r for r in results if r.model == "bias model"))
    truth = true_test_probabilities(compared, TASK)
    data = load_interactions(compared, "tiktok")
    label = data.label("like")[data.split == TEST]
    assert errors == f"{reliability(label, rates)[2]:.4f} ({reliability(truth, rates)[2]:.4f})"


def test_the_table_leaves_out_runs_of_other_rows(compared):
    assert call(comp.main, "--paths", compared.file, "--task", TASK, "--models", "bias model") == 0
    base = prepared_inputs(compared, TASK)
    run = next(r for r in read_results(compared.results) if r.model == "bias model")
    other = replace(run, rows=run.rows | {"train": run.rows["train"] + 1})
    shown = cells([other, run, other], STUDIES["comparison"], TASK, base)
    assert shown and all(cell.runs == [run] for cell in shown)
    assert not cells([other], STUDIES["comparison"], TASK, base)


def fake_environment(folder: Path, script: str) -> Path:
    """An environment whose python runs `script` in place of RecBole."""
    python = folder / "bin/python"
    python.parent.mkdir(parents=True)
    (folder / "script.py").write_text(script)
    python.write_text(f'#!/bin/sh\nshift\nexec {sys.executable} {folder}/script.py "$@"\n')
    python.chmod(python.stat().st_mode | stat.S_IXUSR)
    return folder


def test_a_failing_model_is_reported_and_the_others_go_on(compared, tmp_path, monkeypatch, capsys):
    script = "import sys\nsys.exit('the first line\\nCUDA is made of cheese')"
    run_recbole_in(monkeypatch, fake_environment(tmp_path, script))
    options = ("--paths", compared.file, "--task", TASK, "--models", "BPR", "LightGBM", "--epochs", 3)
    assert call(comp.main, *options) == 1
    said = capsys.readouterr()
    assert "BPR seed 0 failed" in said.err and "CUDA is made of cheese" in said.err and "1 failed" in said.out
    assert any(r.model == "LightGBM" and r.epochs == 3 for r in read_results(compared.results))


OTHER_ORDER = """
import json, sys
import numpy as np
from pathlib import Path
job = json.loads(Path(sys.argv[1]).read_text())
out, graph = Path(job["out"]), Path(job["graph"])
split = np.load(graph / "split.npy")
for part, name in enumerate(("train", "valid", "test")):
    rows = np.flatnonzero(split == part)[::-1]
    np.save(out / f"{name}_user.npy", np.load(graph / "user_ids.npy")[np.load(graph / "user.npy")[rows]])
    np.save(out / f"{name}_item.npy", np.load(graph / "item_ids.npy")[np.load(graph / "item.npy")[rows]])
    np.save(out / f"{name}_label.npy", np.load(graph / "label_like.npy")[rows])
    np.save(out / f"{name}_1.npy", np.random.default_rng(0).random(len(rows)))
print(json.dumps({"checkpoint": 1}))
"""


def test_scores_of_other_rows_are_refused(compared, tmp_path, monkeypatch, capsys):
    run_recbole_in(monkeypatch, fake_environment(tmp_path, OTHER_ORDER))
    assert call(comp.main, "--paths", compared.file, "--task", TASK, "--models", "BPR", "--epochs", 1) == 1
    assert "rows are not those of step 1" in capsys.readouterr().err
    assert not any(result.model == "BPR" and result.epochs == 1 for result in read_results(compared.results))


def test_bad_input(compared, tmp_path, monkeypatch, capsys):
    run_recbole_in(monkeypatch, tmp_path / "nowhere")
    options = ("--paths", compared.file, "--task", TASK)
    assert call(comp.main, *options, "--models", "BPR") == 2
    assert "`make baseline` makes it" in capsys.readouterr().err
    assert call(comp.main, *options, "--models", "BRP") == 2
    assert "did you mean 'BPR'" in capsys.readouterr().err
    assert call(comp.main, *options, "--models", "bias model", "--epochs", 0) == 2
    shutil.copytree(compared.file.parent, tmp_path / "copy")
    shutil.rmtree(tmp_path / "copy/matrix")
    assert call(comp.main, "--paths", tmp_path / "copy/path.json", "--task", TASK, "--models", "LightGBM") == 2
    assert "run cross_matrix.py first" in capsys.readouterr().err


def test_the_docs_take_their_tables_from_the_results(compared, tmp_path, monkeypatch, capsys):
    for model in ("LightGBM", "bias model"):
        options = ("--paths", compared.file, "--task", TASK, "--models", model, "--epochs", 10)
        assert call(comp.main, *options) == 0
    monkeypatch.setattr(readme, "ROOT", tmp_path)
    (tmp_path / "docs").mkdir()
    pages = {"README.md": ["summary"], "docs/comparison.md": ["overview", "comparison"]}
    pages["docs/comparison-by-epoch.md"] = ["by-epoch"]
    for file, names in pages.items():
        sections = [f"before\n<!-- {name} -->\nold\n<!-- /{name} -->\nafter\n" for name in names]
        (tmp_path / file).write_text("".join(sections))
    assert call(readme.main, f"tiny world={compared.file}", "--newest", f"films={compared.file}") == 0
    written = {file: (tmp_path / file).read_text() for file in pages}
    for file, names in pages.items():
        assert "old" not in written[file]
        assert written[file].count("before\n") == written[file].count("after\n") == len(names)
        widths = [line.count(" | ") + 1 for line in written[file].splitlines() if line.startswith("| ")]
        assert widths and max(widths) <= readme.MAX_COLUMNS
    results = read_results(compared.results)
    table = cells(results, STUDIES["comparison"], TASK, prepared_inputs(compared, TASK))
    trees = chosen_cell([cell for cell in table if cell.case.label == "LightGBM"]).runs[0]

    def row(text: str, model: str = "LightGBM") -> str:
        return next(line for line in text.splitlines() if line.startswith(f"| {model} |")).replace("*", "")

    assert f"| test AUC | {TASK} (simulated) | films |" in written["README.md"]
    # Other tests of this module have left runs with other numbers of epochs.
    of_model = [result for result in results if (result.model, result.task) == ("LightGBM", TASK)]
    newest = max(reversed(of_model), key=lambda result: result.started)
    assert row(written["README.md"]) == f"| LightGBM | {trees.auc:.4f} | {newest.auc:.4f} |"
    assert row(written["README.md"], "DIN") == "| DIN | - | - |"
    overview, comparison = written["docs/comparison.md"].split("after\n")[:2]
    assert row(overview) == f"| LightGBM | {trees.auc:.4f} | {trees.gauc:.4f} |"
    assert row(comparison).startswith(f"| LightGBM | {trees.auc:.4f} | {trees.gauc:.4f} | {trees.logloss:.4f} | 10 |")
    assert f"### {TASK}, tiny world (oracle AUC 0." in comparison
    assert f"### {TASK}, tiny world\n" in written["docs/comparison-by-epoch.md"]
    (tmp_path / "README.md").write_text("no marks")
    assert call(readme.main, f"tiny world={compared.file}") == 2
    assert "the marks <!-- summary --> and <!-- /summary --> are missing" in capsys.readouterr().err
    assert call(readme.main, str(compared.file)) == 2
    assert "NAME=PATH.JSON" in capsys.readouterr().err


def test_wide_tables_are_split_and_published_figures_stay_beside_their_column():
    header = ["model", "AUC", *(name for n in (10, 20, 30, 40, 50) for name in (f"AUC at {n}", f"published at {n}"))]
    rows = [[(f"{name} {row}", False) for name in header] for row in range(2)]
    parts = readme.split_columns(Layout("", header, rows))
    assert [part.header[0] for part in parts] == ["model"] * len(parts)
    assert [name for part in parts for name in part.header[1:]] == header[1:]
    for part in parts:
        assert len(part.header) <= readme.MAX_COLUMNS
        assert not readme.is_published(part.header[1]), "it belongs to the column before"
        assert [[text for text, _ in row] for row in part.rows] == [[f"{h} {r}" for h in part.header] for r in range(2)]


def rival_inputs(paths):
    """The inputs of the rivals with features plus, and step 1's data."""
    model = BASELINES["LightGBM plus"]
    ready = trainings.prepare(paths, TASK, [model])
    names = [with_features(ready.variant, features) for features in model.matrices]
    matrices = [load_matrix(paths, TASK, name, torch.device("cpu")) for name in names]
    return RivalInputs(ready.data, matrices), ready.data


def slow_row(data, block, row):
    """The columns of one row besides those of matrices, one after the other, as raw_columns.py describes them."""
    user, item = int(data.user[row]), int(data.item[row])
    found = [user, item]
    for side, place in (("user", user), ("item", item), ("context", row)):
        found += [column.values[place] for column in stored_columns(data.artifact, side)]
    assert data.artifact.manifest["hour"]
    seconds = float(data.time[row]) / data.artifact.manifest["ticks_per_second"]
    found.append(int(seconds // 3600) % 24)
    if data.time.max() - data.time.min() >= 21 * 86_400 * data.artifact.manifest["ticks_per_second"]:
        found.append(int(seconds // 86_400) % 7)
    seen = (data.split == 0) & (block != block[row])
    for of_rows, who in ((data.user, user), (data.item, item)):
        mine = seen & (of_rows == who)
        for target in ("finish", "like"):
            label = data.label(target).astype(float)
            share = (label[seen].sum() + 0.5) / (seen.sum() + 1)
            rate = (label[mine].sum() + 10 * share) / (mine.sum() + 10)
            found.append(np.log(rate / (1 - rate)) - np.log(share / (1 - share)))
        found.append(np.log1p(mine.sum() * (1.25 if data.split[row] == 0 else 1)))
    return np.array(found, float)


def test_rivals_see_what_a_slow_loop_finds(compared):
    inputs, data = rival_inputs(compared)
    block = draw_folds(data.split, FOLDS, FOLD_SEED)
    for part, name in enumerate(SPLIT_NAMES):
        rows = np.flatnonzero(data.split == part)
        made = inputs.rows(name, slice(None))
        assert made.shape == (len(rows), len(inputs.names)) and made.dtype == np.float64
        for place in (0, 1, len(rows) // 2, len(rows) - 1):
            expected = slow_row(data, block, rows[place])
            assert made[place, : len(expected)] == pytest.approx(expected, rel=1e-5, abs=1e-6, nan_ok=True)
        matrices = [getattr(matrix, name).features(matrix, slice(None)).numpy() for matrix in inputs.matrices]
        assert np.array_equal(made[:, len(expected) :], np.concatenate(matrices, axis=1))
        assert np.array_equal(made[3:9], inputs.rows(name, slice(3, 9)), equal_nan=True)
    assert {"user user_city", "item author_id", "item duration_time", "context channel", "context hour"} <= {
        inputs.names[place] for place in range(len(inputs.columns))
    }
    numbers = [column.name for column in inputs.columns if not column.is_category]
    assert numbers == ["item duration_time"]


def test_labels_of_scored_rows_change_no_input_of_the_rivals(compared, tmp_path):
    """Nor the inputs of scored rows; early stopping alone reads the labels of validation rows."""
    first, _ = rival_inputs(compared)
    second, _ = rival_inputs(with_other_labels(compared, tmp_path / "other"))
    for name in SPLIT_NAMES:
        assert first.rows(name, slice(None)).tobytes() == second.rows(name, slice(None)).tobytes()


def test_a_rows_own_outcomes_change_none_of_its_inputs(compared, tmp_path):
    inputs, data = rival_inputs(compared)
    before = inputs.rows("train", slice(None))
    width = len(before[0]) - sum(matrix.in_features for matrix in inputs.matrices)
    rows = np.flatnonzero(data.split == 0)
    changed = {}
    for place in (0, len(rows) // 3, len(rows) - 1):
        shutil.copytree(compared.file.parent, tmp_path / str(place))
        graph = tmp_path / str(place) / "graph/tiktok"
        for target in ("finish", "like"):
            label = np.load(graph / f"label_{target}.npy")
            label[rows[place]] = 1 - label[rows[place]]
            np.save(graph / f"label_{target}.npy", label)
        reseal(tmp_path / str(place))
        after = rival_inputs(load_paths(tmp_path / str(place) / "path.json"))[0].rows("train", slice(None))
        assert before[place].tobytes() == after[place].tobytes()
        changed[place] = not np.array_equal(before[:, :width], after[:, :width], equal_nan=True)
    assert all(changed.values()), "the rates of other rows change"


def column(name, values, side, kind):
    return StoredColumn(name, values, int(values.max()) if kind == "category" else 0, np.empty(0, np.int64))


def odd_columns(data, side):
    """Columns with missing numbers, and categories that no training row has."""
    if side != "context":
        return []
    held_out = data.split > 0
    number = np.where(np.arange(len(data)) % 3 == 0, np.nan, data.item % 7).astype(np.float32)
    code = np.where(held_out, 9, data.item % 5).astype(np.uint8)
    return [column("number", number, side, "number"), column("code", code, side, "category")]


@pytest.mark.parametrize("kind", [trees.LightGBMTrees, trees.CatBoostTrees])
def test_missing_numbers_are_nan_and_unknown_categories_are_scored(compared, monkeypatch, kind):
    inputs, data = rival_inputs(compared)
    monkeypatch.setattr(raw_columns, "stored_columns", lambda artifact, side: odd_columns(data, side))
    inputs = RivalInputs(data, inputs.matrices)
    made = inputs.rows("valid", slice(None))
    rows = np.flatnonzero(data.split == 1)
    place = inputs.names.index("context number")
    assert np.array_equal(np.isnan(made[:, place]), rows % 3 == 0) and np.isnan(made[:, place]).any()
    assert (made[:, inputs.names.index("context code")] == 9).all()
    model = kind(inputs, trees.TreeSettings(epochs=2, seed=0, threads=1))
    for epoch in (1, 2):
        model.train_epoch(epoch)
    for part in ("valid", "test"):
        score = model.predict(part)
        assert ((score > 0) & (score < 1)).all() and len(np.unique(score)) > 10
    assert model.best_epoch in (1, 2) and model.parameters > 0


@pytest.mark.parametrize("kind", [trees.LightGBMTrees, trees.CatBoostTrees])
def test_the_validation_rows_stop_the_trees(compared, kind):
    """The best epoch is that of the best validation AUC, and epochs after it change no score."""
    inputs, data = rival_inputs(compared)
    label = data.label("like")[data.split == 1]
    model = kind(inputs, trees.TreeSettings(epochs=8, seed=0, threads=1))
    aucs = []
    for epoch in range(1, 9):
        model.train_epoch(epoch)
        now = auc(label, model.predict("valid"))
        assert now >= max(aucs, default=0) - 1e-9
        aucs.append(now)
    assert aucs[model.best_epoch - 1] == pytest.approx(aucs[-1])
    assert model.best_epoch == 1 or aucs[model.best_epoch - 2] < aucs[-1]


def test_recbole_gets_every_column_of_users_and_items(compared, tmp_path):
    """The atomic files against the stored columns: codes as tokens, missing ones empty, numbers as finite scores."""
    data = load_interactions(compared, "tiktok")
    fields = write_atomic_files(data, compared.graph / "tiktok", tmp_path / "tiktok")
    for side, ids in (("user", data.user_names), ("item", data.item_names)):
        header, *lines = (tmp_path / f"tiktok/tiktok.{side}").read_text().splitlines()
        columns = list(zip(*(line.split("\t") for line in lines), strict=True))
        assert list(columns[0]) == [str(one) for one in ids]
        stored = stored_columns(data.artifact, side)
        kinds = ["token" if column.is_category else "float_seq" for column in stored]
        names = [f"{side}_column_{place}" for place in range(len(stored))]
        assert header.split("\t") == [f"{side}_id:token", *map(":".join, zip(names, kinds, strict=True))]
        assert fields[side] == names
        for column, found in zip(stored, columns[1:], strict=True):
            if column.is_category:
                assert list(found) == [str(code) if code else "" for code in column.values]
            else:
                scores = np.array(found, float)
                assert np.isfinite(scores).all() and (scores[np.isnan(column.values)] == 0).all()
                known = np.isfinite(column.values)
                assert (np.diff(scores[known][np.argsort(column.values[known])]) >= 0).all()
    assert fields["numbers"] == ["item_column_3"]
    order = np.concatenate([np.flatnonzero(data.split == part) for part in range(3)])
    codes = [column.values for column in stored_columns(data.artifact, "context")] + list(clock_codes(data).values())
    assert [size for _, size in fields["context"]] == [int(values.max()) + 1 for values in codes]
    for (name, _), values in zip(fields["context"], codes, strict=True):
        assert np.array_equal(np.load(tmp_path / f"tiktok/{name}.npy"), values[order])
    for part in SPLIT_NAMES:
        name = f"tiktok.{part}.inter"
        assert (tmp_path / "tiktok" / name).read_bytes() == (compared.graph / "tiktok" / name).read_bytes()


def test_an_unknown_model_is_one_line(compared, capsys):
    assert call(comp.main, "--paths", compared.file, "--task", TASK, "--models", "catboost plus") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "unknown model 'catboost plus'" in line and "did you mean 'CatBoost plus'" in line
