"""Using a trained run: pairs, best items of users and ONNX give the predictions of the test rows."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch

import cross_matrix
import get_user_embedding
import mlp
import preprocess_multimodal
from mma4ctr.data.interactions import TEST, TRAIN, load_interactions
from mma4ctr.data.log_columns import stored_columns
from mma4ctr.evaluation.run_records import read_results, read_run, run_folder
from mma4ctr.features.feature_matrix import load_matrix
from mma4ctr.model import inference
from mma4ctr.model.inference import _mean_recency, load_network, load_scorer, positions, predict
from mma4ctr.model.onnx_export import scaling_of
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, cluster_few_rows

TASK = "tiktok_like"


@pytest.fixture(scope="module", params=["paper", "plus", "plus with clusters"])
def trained(request, made, tmp_path_factory):
    """Paths and result of a trained run with either set of features, in a separate folder."""
    features = request.param.split()[0]
    folder = tmp_path_factory.mktemp(features)
    shutil.copytree(made.file.parent, folder, dirs_exist_ok=True)
    options = ("--paths", folder / "path.json", "--task", TASK, "--features", features)
    with pytest.MonkeyPatch.context() as patch:
        if "clusters" in request.param:
            cluster_few_rows(patch)
        assert call(cross_matrix.main, *options) == 0
    assert call(mlp.main, *options, "--epochs", 2) == 0
    paths = load_paths(folder / "path.json")
    return paths, read_results(paths.results)[-1]


def use(trained, *options):
    paths, result = trained
    return call(mlp.main, "--paths", paths.file, "--run", result.run_id, *options)


def written(path):
    """Return the rows of a TSV of scores: user, item, score."""
    lines = path.read_text().splitlines()
    assert lines[0] == "user\titem\tscore"
    rows = [line.split("\t") for line in lines[1:]]
    return [(int(user), int(item), float(score)) for user, item, score in rows]


def test_scores_equal_those_of_the_test_rows(trained, tmp_path, capsys):
    paths, result = trained
    data = load_interactions(paths, "tiktok")
    rows = np.flatnonzero(data.split == TEST)
    ids = [*zip(data.user_ids[data.user[rows]].tolist(), data.item_ids[data.item[rows]].tolist(), strict=True)]
    context = {column.name: column.raw[column.values[rows] - 1] for column in stored_columns(data.artifact, "context")}
    context |= {"hour": data.time[rows] // 3600 % 24, "weekday": (data.time[rows] // 86400 + 3) % 7}
    pairs = tmp_path / "pairs.tsv"
    lines = [f"item\tnote\tuser\t{chr(9).join(context)}"]
    for (user, item), *cells in zip(ids, *context.values(), strict=True):
        lines.append("\t".join(map(str, (item, "x", user, *cells))))
    pairs.write_text("\n".join(lines) + "\n")
    assert use(trained, "--predict", pairs) == 0
    assert "most frequent" not in capsys.readouterr().out
    found = written(paths.saved / "predictions" / f"{result.run_id}-pairs.tsv")
    assert [row[:2] for row in found] == ids
    expected = read_artifact(run_folder(paths, TASK, result.run_id), "").array("predictions")
    if result.variant.endswith(".plus"):  # recency is not known of a pair without a time
        matrix = load_matrix(paths, TASK, result.variant, torch.device("cpu"))
        group = replace(matrix.test, recency=torch.zeros_like(matrix.test.recency))
        assert not np.allclose([row[2] for row in found], expected, atol=1e-6)
        expected = torch.sigmoid(predict(load_network(read_run(paths, result)), matrix, group)[0]).numpy()
    assert np.allclose([row[2] for row in found], expected, atol=1e-6)


def test_unknown_users_and_items_are_scored_with_the_mean(trained, tmp_path, capsys):
    """An unknown user or item is scored with the mean; with features plus, like a known item without training rows."""
    paths, result = trained
    data, scorer = load_interactions(paths, "tiktok"), load_scorer(paths, read_run(paths, result))
    known = data.user_ids[0], data.item_ids[0]
    pairs, out = tmp_path / "pairs.tsv", tmp_path / "out.tsv"
    pairs.write_text(f"user\titem\n{known[0]}\t{known[1]}\n-5\t{known[1]}\n{known[0]}\t987654321\n")
    assert use(trained, "--predict", pairs, "--output", out) == 0
    assert "2 have a user or item without kept rows" in capsys.readouterr().err
    users, items = len(data.user_ids), len(data.item_ids)
    expected = scorer.score(np.array([0, users, 0]), np.array([0, 0, items]))
    assert np.allclose([row[2] for row in written(out)], expected, atol=1e-6)
    matrix = scorer.matrix
    if result.variant.endswith(".plus"):
        unseen = np.setdiff1d(np.arange(items), data.item[data.split == TRAIN])
        own = read_artifact(paths.matrix / TASK / result.variant, "").manifest["item_columns"]
        for place, name in enumerate(own):
            of_unseen, stand_in = matrix.item_part[unseen, place], matrix.item_part[items, place]
            # The others come from its content and its categories.
            of_rows = name.startswith("rates:item:") or name == "counts:item"
            assert len(unseen) and (not of_rows or torch.allclose(of_unseen, stand_in, atol=1e-5)), name
        assert {"rates:item:like", "counts:item"} <= set(own)
        assert all((pairs.user_vectors[users] == 0).all() for pairs in matrix.pairs)
    else:
        for part, kept in ((matrix.user_part, users), (matrix.item_part, items)):
            assert torch.allclose(part[-1], part[:kept].mean(dim=0), atol=1e-6)
    assert positions(pa.array(["b", "x", "a"]), pa.array(["a", "b"])).tolist() == [1, 2, 0]


@pytest.fixture(scope="module")
def with_new_items(trained, tmp_path_factory):
    """A trained run, with new items in its feature files and a TSV that asks for them.

    Item 77000001 has the features of a known item, its twin. Item 77000002 has only a title without known words. The
    third item has no features.
    """
    paths, result = trained
    folder = tmp_path_factory.mktemp("new")
    shutil.copytree(paths.file.parent, folder, dirs_exist_ok=True)
    paths = load_paths(folder / "path.json")
    data = load_interactions(paths, "tiktok")
    modal = read_artifact(paths.modal / "tiktok", "")
    everything = np.logical_and.reduce([modal.array(f"{name}_present") for name in ("visual", "acoustic", "textual")])
    unseen = np.setdiff1d(np.arange(len(data.item_ids)), data.item[data.split == TRAIN])
    candidates = np.intersect1d(unseen, np.flatnonzero(everything))
    # The item without training rows whose features have the most information.
    scorer = load_scorer(trained[0], read_run(*trained))
    scores = scorer.score(np.full(len(candidates) + 1, 5), np.append(candidates, len(data.item_ids)))
    twin = int(candidates[np.argmax(np.abs(scores[:-1] - scores[-1]))])
    own = f'"item_id": {data.item_ids[twin]},', f'"item_id": {data.item_ids[twin]}}}'
    copied = 0
    for path in paths.tiktok.rglob("track1_*.txt"):
        lines = [line for line in path.read_text().splitlines() if own[0] in line or own[1] in line]
        copied += len(lines)
        added = [line.replace(own[1][:-1], '"item_id": 77000001') for line in lines]
        if "title" in path.name:
            added.append('{"item_id": 77000002, "title_features": {"987654": 1}}')
        with path.open("a") as file:
            file.writelines(line + "\n" for line in added)
    assert copied == 3
    asked = folder / "asked.tsv"
    user = data.user_ids[5]
    items = (data.item_ids[twin], 77000001, 77000002, 77000003)
    asked.write_text("user\titem\n" + "".join(f"{user}\t{item}\n" for item in items))
    return paths, result, twin, asked


def test_a_new_item_is_scored_by_its_features(with_new_items, capsys):
    paths, result, twin, asked = with_new_items
    out = paths.saved / "new.tsv"
    options = ("--paths", paths.file, "--run", result.run_id, "--predict", asked, "--output", out)
    assert call(mlp.main, *options) == 0
    known, *before = [row[2] for row in written(out)]
    assert before == [before[0]] * 3, "without features all scores are equal"
    capsys.readouterr()
    step_2 = ("--paths", paths.file, "--dataset", "tiktok", "--new-items", asked)
    assert call(preprocess_multimodal.main, *step_2) == 0
    assert "1 rows" in capsys.readouterr().out
    assert call(mlp.main, *options) == 0
    assert "2 have a user or item without kept rows" in capsys.readouterr().err
    scores = [row[2] for row in written(out)]
    scorer = load_scorer(paths, read_run(paths, result))
    items = len(load_interactions(paths, "tiktok").item_ids)
    new, own = scorer.matrix.item_part[items], scorer.matrix.item_part[twin]
    if result.variant.endswith(".plus"):
        # The author, music and duration of a video stand in its rows, and the file names none: its content is the same.
        names = read_artifact(paths.matrix / TASK / result.variant, "").manifest["item_columns"]
        content = [place for place, name in enumerate(names) if name.startswith("content")]
        assert content and torch.allclose(new[content], own[content], atol=1e-4)
        assert scores == pytest.approx([known, scores[1], before[0], before[0]], abs=1e-5)
    else:  # an item without training rows and its twin: nothing but the content is known of either
        assert scores == pytest.approx([known, known, before[0], before[0]], abs=1e-5)
        assert torch.allclose(new, own, atol=1e-4)
    assert abs(scores[1] - before[0]) > 1e-4
    best = paths.saved / "best.tsv"
    assert call(mlp.main, *options[:4], "--predict", asked, "--top", items + 5, "--output", best) == 0
    assert 77000001 in {row[1] for row in written(best)}, "new items are among all items"


def test_a_new_item_has_the_columns_that_the_file_names(with_new_items, capsys):
    """With the author, music, city and duration of its twin it has the features of the twin, which has no training
    rows."""
    paths, result, twin, asked = with_new_items
    columns = {column.name: column for column in stored_columns(load_interactions(paths, "tiktok").artifact, "item")}
    values = {
        name: column.raw[column.values[twin] - 1] if column.is_category else int(column.values[twin])
        for name, column in columns.items()
    }
    file = asked.parent / "columns.tsv"
    # Nothing else is known of 77000004, and nothing at all of 77000005.
    rows = [(77000001, *values.values()), (77000004, *values.values()), (77000005, *[-1] * 3, "")]
    file.write_text("\n".join("\t".join(map(str, row)) for row in [("item", *values), *rows]) + "\n")
    assert call(preprocess_multimodal.main, "--paths", paths.file, "--dataset", "tiktok", "--new-items", file) == 0
    assert "2 rows" in capsys.readouterr().out
    scorer = load_scorer(paths, read_run(paths, result))
    items = len(load_interactions(paths, "tiktok").item_ids)
    assert scorer.items[items:].to_pylist() == ["77000001", "77000004"]
    assert torch.allclose(scorer.matrix.item_part[items], scorer.matrix.item_part[twin], atol=1e-4)
    scores = scorer.score(np.full(3, 5), np.array([twin, items, items + 1]))
    assert scores[1] == pytest.approx(scores[0], abs=1e-5)
    if result.variant.endswith(".plus"):
        names = read_artifact(paths.matrix / TASK / result.variant, "").manifest["item_columns"]
        own = [place for place, name in enumerate(names) if not name.startswith(("content", "item-bias"))]
        assert torch.allclose(scorer.matrix.item_part[items + 1, own], scorer.matrix.item_part[twin, own], atol=1e-4)
    file.write_text("item\tduration_time\n77000001\tlong\n")
    assert call(preprocess_multimodal.main, "--paths", paths.file, "--dataset", "tiktok", "--new-items", file) == 2
    assert "columns.tsv:2" in capsys.readouterr().err


def test_new_items_are_refused_where_they_do_not_fit(with_new_items, capsys):
    paths, _, _, asked = with_new_items
    base = ("--paths", paths.file)
    assert call(preprocess_multimodal.main, *base, "--new-items", asked) == 2
    assert "--dataset" in capsys.readouterr().err
    own = (*base, "--dataset", "tiktok", "--new-items")
    assert call(preprocess_multimodal.main, *own, asked.parent / "none.tsv") == 2
    asked_known = asked.parent / "known.tsv"
    asked_known.write_text("item\n" + str(load_interactions(paths, "tiktok").item_ids[0]) + "\n")
    assert call(preprocess_multimodal.main, *own, asked_known) == 2
    assert "every item" in capsys.readouterr().err
    wrong = asked.parent / "wrong.tsv"
    wrong.write_text("user\tthing\n1\t2\n")
    assert call(preprocess_multimodal.main, *own, wrong) == 2
    assert "'item'" in capsys.readouterr().err
    assert call(preprocess_multimodal.main, *own, asked) == 0
    (path,) = paths.tiktok.rglob("track1_video_features_part1.txt")
    content = path.read_text()
    path.write_text(content.replace("[0.", "[5.").replace("[-0.", "[-5."))
    assert call(preprocess_multimodal.main, *own, asked) == 2
    assert "without --new-items" in capsys.readouterr().err
    path.write_text(content)
    # Other features: step 2 anew, and what was made of new items no longer fits.
    assert call(preprocess_multimodal.main, *base, "--dataset", "tiktok", "--width", "visual=8") == 0
    for step in (get_user_embedding.main, cross_matrix.main):
        assert call(step, *base, "--task", TASK) == 0
    assert call(mlp.main, *base, "--task", TASK, "--epochs", 1) == 0
    capsys.readouterr()
    assert call(mlp.main, *base, "--run", "last", "--predict", asked) == 0
    assert "passed over" in capsys.readouterr().err


def test_the_best_items_are_those_of_all_pairs(trained, tmp_path):
    paths, result = trained
    data, scorer = load_interactions(paths, "tiktok"), load_scorer(paths, read_run(paths, result))
    users, out = tmp_path / "users.tsv", tmp_path / "best.tsv"
    chosen = [3, 0, 40]
    users.write_text("user\n" + "".join(f"{data.user_ids[user]}\n" for user in chosen))
    assert use(trained, "--predict", users, "--top", 7, "--output", out) == 0
    found = written(out)
    items = np.arange(len(data.item_ids))
    for place, user in enumerate(chosen):
        score = scorer.score(np.full(len(items), user), items)
        mine = found[7 * place : 7 * place + 7]
        assert {row[0] for row in mine} == {data.user_ids[user]}
        assert np.allclose([row[2] for row in mine], np.sort(score)[::-1][:7], atol=1e-6)
        assert [row[1] for row in mine] == data.item_ids[np.argsort(-score, kind="stable")[:7]].tolist()


def test_onnx_gives_the_same_probabilities(trained, tmp_path):
    paths, result = trained
    model = tmp_path / "model.onnx"
    assert use(trained, "--onnx", model) == 0
    matrix = load_matrix(paths, TASK, result.variant, torch.device("cpu"))
    shift, scale = scaling_of(read_artifact(paths.matrix / TASK / result.variant, ""))
    unscaled = matrix.test.features(matrix, slice(None)).numpy() * scale + shift
    session = onnxruntime.InferenceSession(model)
    (found,) = session.run(None, {"features": unscaled.astype(np.float32)})
    expected = read_artifact(run_folder(paths, TASK, result.run_id), "").array("predictions")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("user\titm\n1\t2\n", "item"),
        ("user\titem\n1\t\n", ":2"),
        ("user\titem\n1\n", ":2"),
        ("", "user"),
    ],
)
def test_bad_pairs_give_one_error_line(trained, tmp_path, capsys, text, message):
    pairs, out = tmp_path / "pairs.tsv", tmp_path / "out.tsv"
    pairs.write_text(text)
    assert use(trained, "--predict", pairs, "--output", out) == 2
    error = capsys.readouterr().err.strip()
    assert "pairs.tsv" in error and message in error
    assert "--skip-bad-lines" not in error, "mlp.py has no such option"
    assert not out.exists()


def test_a_run_must_be_one_that_can_be_used(trained, tmp_path, capsys):
    paths, result = trained
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("user\titem\n1\t2\n")
    assert call(mlp.main, "--paths", paths.file, "--predict", pairs) == 2
    assert "--run" in capsys.readouterr().err
    assert call(mlp.main, "--paths", paths.file, "--run", "0" * 12, "--predict", pairs) == 2
    assert result.run_id in capsys.readouterr().err
    assert use(trained) == 2
    assert call(mlp.main, "--paths", paths.file, "--run", "last", "--predict", pairs) == 0
    assert (paths.saved / "predictions" / f"{result.run_id}-pairs.tsv").is_file()
    assert use(trained, "--predict", tmp_path / "none.tsv") == 2
    weights = run_folder(paths, TASK, result.run_id) / "model.safetensors"
    content = weights.read_bytes()
    weights.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    capsys.readouterr()
    assert use(trained, "--predict", pairs) == 2
    assert "model.safetensors" in capsys.readouterr().err
    weights.write_bytes(content)


@pytest.mark.parametrize("rows", [3, 5000])
def test_a_row_of_unknown_recency_has_that_of_the_mean_row(monkeypatch, rows):
    """With min-max scaling 0 is not the mean."""
    monkeypatch.setattr(inference, "ROWS_OF_A_MEAN", 500)
    recency = torch.rand(rows, 2, dtype=torch.float64).half()
    matrix = SimpleNamespace(train=SimpleNamespace(recency=recency), recency=2)
    assert np.allclose(_mean_recency(matrix), recency.double().mean(0).numpy(), atol=0.05)
    assert _mean_recency(SimpleNamespace(train=SimpleNamespace(recency=None), recency=0)).shape == (0,)
