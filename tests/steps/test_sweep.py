"""Step 6: every study on a tiny world, checkpoint epochs, the tables, a local Ray cluster, and the plan."""

import json
import time
from dataclasses import replace

import pytest

import adjust_hyperparameter as sweep
import mlp
from mma4ctr.evaluation.baselines import BASELINES, RECBOLE
from mma4ctr.evaluation.plans import plan
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.evaluation.studies import EARLY, MODEL, STUDIES, Inputs
from mma4ctr.evaluation.study_cells import cells, prepared_inputs, published_figure
from mma4ctr.evaluation.study_layouts import best_of, layout
from mma4ctr.evaluation.tables import leakage_summary
from mma4ctr.features.feature_matrix import load_matrix
from mma4ctr.model.training_defaults import EPOCHS
from mma4ctr.simulation import __main__ as world
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, prepare

# These have ten cases or more that differ in one number of the training or one group of columns.
SIMILAR_CASES = ("learning-rate", "batch-size", "plus")
# A tenth of the epochs and every third of such cases: every study in seconds, the same code.
SHORT = {
    name: replace(
        study,
        cases=study.cases[:: 3 if name in SIMILAR_CASES else 1],
        epochs=tuple(sorted({max(1, e // 10) for e in study.epochs})),
    )
    for name, study in STUDIES.items()
}
TASKS = ("wechat_click", "tiktok_like")


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """All studies on both tasks with one seed."""
    folder = tmp_path_factory.mktemp("swept")
    assert call(world.main, folder, "--rows", 4000, "--users", 40, "--items", 200, "--seed", 3) == 0
    prepare(folder / "path.json")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "STUDIES", SHORT)
        assert call(sweep.main, "--paths", folder / "path.json", "--task", *TASKS, "--seeds", 1, "--jobs", 2) == 0
    return load_paths(folder / "path.json")


def test_every_table_is_filled(swept):
    results = read_results(swept.results)
    for study in SHORT.values():
        for task in TASKS:
            table = cells(results, study, task, prepared_inputs(swept, task))
            ours = [case for case in study.cases if case.model == MODEL]  # comp.py trains the others
            assert len(table) == len(ours) * len(study.epochs), (study.name, task)
            for cell in table:
                assert len(cell.runs) == 1, (study.name, task, cell.case.label, cell.epochs)
    for name in STUDIES:
        text = (swept.saved / f"tables/{name}.md").read_text()
        assert "## wechat_click" in text and "## tiktok_like" in text and "split" in text
        assert (swept.saved / f"tables/{name}.csv").read_text().count("\n") > 2
    protocol = (swept.saved / "tables/protocol.md").read_text()
    assert "LEAKY" in protocol and "AUC points of leakage" in protocol


def test_runs_are_known_by_their_settings_and_inputs(swept, capsys):
    """No run is repeated; other protocols have other matrices."""
    results = read_results(swept.results)
    assert len({result.run_id for result in results}) == len(results)
    lines = swept.results.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "STUDIES", SHORT)
        options = ("--paths", swept.file, "--task", *TASKS, "--seeds", 1)
        assert call(sweep.main, *options) == 0
        assert ", 0 to do in 0 trainings" in capsys.readouterr().out
        assert call(sweep.main, *options, "--dry-run") == 0
        assert ", 0 to do" in capsys.readouterr().out
    assert swept.results.read_bytes() == lines
    assert (swept.graph / "sweep/random/tiktok/manifest.json").is_file()
    assert read_artifact(swept.graph / "tiktok", "").settings["split"] == "chronological", "the user's own is untouched"


def test_the_epochs_study_is_one_training():
    base = Inputs("chronological", "train", 21, "zscore", 5, 10_000)
    modalities = ("visual", "acoustic", "textual")
    (group,) = plan([STUDIES["epochs"]], "tiktok_like", base, modalities, 1)
    assert group.checkpoint_epochs == tuple(range(5, 101, 5))
    everything = plan(STUDIES.values(), "tiktok_like", base, modalities, 1)
    assert len({replace(one, checkpoint_epochs=()) for one in everything}) == len(everything)
    assert len(everything) < sum(case.model == MODEL for study in STUDIES.values() for case in study.cases), (
        "equal trainings are done once"
    )


def test_a_marked_run_equals_the_run_alone(swept):
    """The result of a sweep at epoch 1 equals that of mlp.py with one epoch."""
    results = read_results(swept.results)
    found = [r for r in results if r.task == "tiktok_like" and r.epochs == 1 and r.variant == "va_cross"]
    (result,) = found
    options = ("--task", "tiktok_like", "--variant", "va_cross", "--epochs", 1, "--patience", 0)
    assert call(mlp.main, "--paths", swept.file, *options) == 0
    again = next(r for r in read_results(swept.results) if r.run_id == result.run_id)
    assert (again.auc, again.gauc, again.logloss) == (result.auc, result.gauc, result.logloss)


def test_a_local_ray_gives_the_same_results(swept, tmp_path, capsys):
    pytest.importorskip("ray")
    content = json.loads(swept.file.read_text())
    content |= {"parent_folder": str(swept.file.parent), "saved_path": str(tmp_path / "saved")}
    content |= {"torch_model_path": str(tmp_path / "models")}
    (tmp_path / "path.json").write_text(json.dumps(content))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "STUDIES", SHORT)
        options = ("--paths", tmp_path / "path.json", "--task", "tiktok_like", "--seeds", 1, "--ray", "local")
        assert call(sweep.main, *options, "--study", "two-modal-cross", "single-modal") == 0
    known = {result.run_id: result.auc for result in read_results(swept.results)}
    found = read_results(tmp_path / "saved/results.jsonl")
    assert len(found) == 12
    for result in found:
        assert result.auc == pytest.approx(known[result.run_id], abs=1e-6)


def test_a_ray_address_that_does_not_answer(swept, capsys):
    pytest.importorskip("ray")
    for address, message in (("127.0.0.1:1", "no Ray cluster answers"), ("nowhere", "not host:port")):
        started = time.monotonic()
        options = ("--paths", swept.file, "--study", "single-modal", "--seeds", 2, "--task", "tiktok_like")
        assert call(sweep.main, *options, "--ray", address) == 2
        assert time.monotonic() - started < 30
        assert message in capsys.readouterr().err


def test_unknown_names_list_those_there_are(swept, capsys):
    assert call(sweep.main, "--paths", swept.file, "--study", "epoch") == 2
    error = capsys.readouterr().err
    assert "did you mean 'epochs'" in error and "embedding-length" in error
    assert call(sweep.main, "--paths", swept.file, "--task", "tiktok_lik") == 2
    assert "'tiktok_like'" in capsys.readouterr().err


def test_a_damaged_line_is_reported_and_the_rest_used(swept, tmp_path, capsys):
    lines = swept.results.read_bytes().splitlines(keepends=True)
    path = tmp_path / "results.jsonl"
    path.write_bytes(lines[0] + b'{"run_id": 3\n' + b"".join(lines[1:]))
    assert len(read_results(path)) == len(read_results(swept.results))
    assert "results.jsonl:2: not a result" in capsys.readouterr().err


def test_published_figures_stand_beside_ours():
    case = STUDIES["learning-rate"].cases[0]
    assert published_figure("wechat_click", case, 10, "auc") == 0.5
    assert published_figure("wechat_click", case, 10, "logloss") is None
    assert published_figure("tiktok_finish", case, 10, "auc") is None
    bpr = next(case for case in STUDIES["comparison"].cases if case.label == "BPR")
    assert published_figure("wechat_click", bpr, 20, "auc") == 0.7713
    assert published_figure("wechat_click", bpr, 20, "logloss") == 17.4122
    assert published_figure("wechat_click", bpr, 20, "parameters") == 7460224
    by_epoch = next(case for case in STUDIES["comparison-by-epoch"].cases if case.label == "BPR")
    assert published_figure("wechat_click", by_epoch, 20, "auc") == 0.5981
    for name in ("comparison", "epochs", "learning-rate", "batch-size", "single-modal", "two-modal-concat"):
        for case in STUDIES[name].cases:
            if case.features != "paper":
                continue  # this project's own
            known = case.model == MODEL or (BASELINES[case.model].framework == RECBOLE and case.model != "DCNV2")
            if known:
                first = min(set(STUDIES[name].epochs) - set(EARLY))
                assert published_figure("wechat_click", case, first, "auc") is not None, (
                    name,
                    case.label,
                )
    for name in ("two-modal-cross", "three-modal-cross", "embedding-length", "interrupt-halving"):
        for case in STUDIES[name].cases:
            assert published_figure("tiktok_like", case, 10, "auc") is not None, (name, case.label)


def test_the_best_is_bold_and_leaky_rows_do_not_compete(swept):
    results = read_results(swept.results)
    table = cells(results, SHORT["protocol"], "tiktok_like", prepared_inputs(swept, "tiktok_like"))
    column = [cell for cell in table if cell.epochs == 3]
    best = best_of(column, "auc")
    assert best is not None and not best.leaky
    clean = [cell.runs[0].auc for cell in column if not cell.leaky]
    assert best.runs[0].auc == max(clean)
    shown = layout(SHORT["protocol"], table)
    assert sum(bold for row in shown.rows for _, bold in row) == 6
    words = leakage_summary(table, "tiktok_like")
    honest, leaky = (
        c.runs[0].auc for c in column if c.case.label in ("chronological, train, bce", "chronological, all, bce")
    )
    assert f"{100 * (leaky - honest):+.2f} AUC points" in words


def test_matrices_of_other_lengths_lie_apart(swept):
    import torch

    base = prepared_inputs(swept, "tiktok_like")
    own = sweep.own_paths(swept, Inputs(length=5).within(base), base)
    assert load_matrix(own, "tiktok_like", "vat_concat", torch.device("cpu")).in_features == 121
    assert load_matrix(swept, "tiktok_like", "vat_concat", torch.device("cpu")).in_features == 169


@pytest.mark.parametrize("split", ["random", "user"])
def test_another_split_made_from_the_arrays_equals_step_1_on_the_raw_file(swept, tmp_path, split):
    """The features under this split equal those of step 2."""

    import preprocess_inter
    import preprocess_multimodal

    content = json.loads(swept.file.read_text()) | {"parent_folder": str(tmp_path)}
    (tmp_path / "path.json").write_text(json.dumps(content | {"dataset_path": str(swept.file.parent / "dataset")}))
    paths = ("--paths", tmp_path / "path.json", "--dataset", "wechat")
    assert call(preprocess_inter.main, *paths, "--split", split, "--min-interactions", 20) == 0
    assert call(preprocess_multimodal.main, *paths) == 0
    for kind in ("graph", "modal"):
        ours = read_artifact(getattr(swept, kind) / "sweep" / split / "wechat", "")
        raw = read_artifact(tmp_path / kind / "wechat", "")
        assert set(ours.array_names) == set(raw.array_names)
        for name in raw.array_names:
            one, other = ours.array(name), raw.array(name)
            assert one.dtype == other.dtype and one.tobytes() == other.tobytes(), (kind, name)
        assert all(ours.manifest.get(key) == raw.manifest.get(key) for key in ("rows", "columns", "hour"))


def test_studies_keep_the_users_folds(swept, tmp_path):
    """With 3 folds prepared, other lengths have 3 folds too, and the table finds their runs."""
    import get_user_embedding

    content = json.loads(swept.file.read_text()) | {"parent_folder": str(swept.file.parent)}
    content |= {key: str(tmp_path / key) for key in ("user_embedding_path", "matrix_path", "saved_path")}
    content |= {"torch_model_path": str(tmp_path / "models")}
    (tmp_path / "path.json").write_text(json.dumps(content))
    task = ("--paths", tmp_path / "path.json", "--task", "tiktok_like")
    assert call(get_user_embedding.main, *task, "--folds", 3) == 0
    study = replace(SHORT["embedding-length"], cases=STUDIES["embedding-length"].cases[:2])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep, "STUDIES", {"embedding-length": study})
        assert call(sweep.main, *task, "--study", "embedding-length", "--seeds", 1, "--jobs", 1) == 0
    paths = load_paths(tmp_path / "path.json")
    results = read_results(paths.results)
    assert {result.protocol["folds"] for result in results} == {3}
    table = cells(results, study, "tiktok_like", prepared_inputs(paths, "tiktok_like"))
    assert len(table) == 4 and all(cell.runs for cell in table)


def test_a_case_on_a_cosine_schedule_trains_for_its_own_epochs_only():
    """Each number of epochs would be a training of its own."""
    base = Inputs(split="chronological", evidence="train", length=21, scaling="zscore", folds=5, train_rows=10_000)
    groups = plan(STUDIES.values(), "tiktok_like", base, ("visual", "acoustic", "textual"), 1)
    cosine = [group for group in groups if group.settings.schedule == "cosine"]
    assert cosine and all(group.checkpoint_epochs == (EPOCHS["plus"],) for group in cosine)
    assert any(len(group.checkpoint_epochs) > 10 for group in groups if group not in cosine)
