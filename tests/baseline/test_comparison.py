"""The comparison: its command line, its tables and those of the docs."""

import shutil
import stat
import sys
from dataclasses import replace
from pathlib import Path

import comp
import numpy as np
import processes
import pytest
import readme
from sklearn.linear_model import LogisticRegression

from mma4ctr.data.interactions import TEST, load_interactions
from mma4ctr.evaluation.baselines import BASELINES, FUXICTR, RECBOLE
from mma4ctr.evaluation.comparison_tables import CALIBRATION, chosen_cell, comparison_layout
from mma4ctr.evaluation.comparison_tables import kept_scores as scores_of
from mma4ctr.evaluation.ground_truth import true_test_probabilities
from mma4ctr.evaluation.layouts import Layout
from mma4ctr.evaluation.leaderboard import leaderboard
from mma4ctr.evaluation.metrics import auc, logloss, platt_scaled, reliability, score_predictions
from mma4ctr.evaluation.run_records import FIELDS, LEAKY, Result, read_results
from mma4ctr.evaluation.run_records import test_scores as kept_scores
from mma4ctr.evaluation.studies import MODEL, STUDIES
from mma4ctr.evaluation.study_cells import cells, prepared_inputs
from mma4ctr.evaluation.tables import layouts
from tests.baseline.conftest import TASK
from tests.conftest import call

GENERAL = [name for name, model in BASELINES.items() if model.framework != FUXICTR]


def run_recbole_in(monkeypatch, environment):
    """Use another environment for RecBole's models."""
    place = processes.PLACES[RECBOLE]._replace(environment=environment)
    monkeypatch.setitem(processes.PLACES, RECBOLE, place)


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


def test_trees_can_be_best_beyond_the_epochs_of_the_other_models(compared):
    assert call(comp.main, "--paths", compared.file, "--task", TASK, "--models", "LightGBM", "--epochs", 10) == 0
    run = next(run for run in read_results(compared.results) if run.model == "LightGBM" and run.epochs == 10)
    study, base = STUDIES["comparison"], prepared_inputs(compared, TASK)
    (most,) = study.more_epochs
    table = cells([run, replace(run, epochs=most, valid_auc=1.0)], study, TASK, base)
    assert chosen_cell(table).epochs == most > max(study.epochs)
    shown = comparison_layout(study, table)
    assert shown.rows[0][4][0] == str(most) and f"AUC at {most}" not in shown.header
    assert f"also out of {most}" in shown.caption and "also out of" not in comparison_layout(study, table[:-1]).caption


def test_scores_of_other_rows_enter_no_paired_test(compared):
    """Step 1 may have made as many rows of another seed since: then the scores do not fit the labels."""
    assert call(comp.main, "--paths", compared.file, "--task", TASK, "--models", "bias model") == 0
    run = next(r for r in read_results(compared.results) if r.model == "bias model")
    data = load_interactions(compared, "tiktok")
    label = data.label("like")[data.split == TEST]
    assert np.array_equal(scores_of(compared, run, label), kept_scores(compared, run))
    other = np.random.default_rng(0).permutation(label)
    assert scores_of(compared, run, other) is None and scores_of(compared, run, label[1:]) is None
    assert scores_of(compared, replace(run, auc=None), label) is None


def test_marked_runs_are_named_or_left_out(compared):
    run = Result(**dict.fromkeys(FIELDS))
    run = replace(run, model=MODEL, variant="vat_concat", task="bars_click", auc=0.7, rows={"test": 1}, started="2")
    runs = [
        replace(run, protocol={"split": "given", "evidence": evidence, "loss": "bce"}, run_id=evidence)
        for evidence in ("train", "all")
    ]
    shown = leaderboard("kuaivideo-x1", "bars_click", runs[1:], simulated=False)
    assert [LEAKY in row[1] for row in shown.texts if row[1].startswith(MODEL)] == [True]
    shown = leaderboard("kuaivideo-x1", "bars_click", runs[:1], simulated=False)
    assert [LEAKY in row[1] for row in shown.texts if row[1].startswith(MODEL)] == [False]
    runs = [replace(run, task=TASK, auc=auc) for run, auc in zip(runs, (0.7, 0.9), strict=True)]
    for order in (runs, runs[::-1]):
        assert readme.newest_auc(compared, TASK, order) == {MODEL: [("0.7000", True)]}


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


def test_an_unknown_model_is_one_line(compared, capsys):
    assert call(comp.main, "--paths", compared.file, "--task", TASK, "--models", "catboost plus") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "unknown model 'catboost plus'" in line and "did you mean 'CatBoost plus'" in line
