"""A trained run used: pairs, the best items of users, ONNX; equal to what the test rows were given."""

import shutil

import numpy as np
import onnxruntime
import pyarrow as pa
import pytest
import torch

import cross_matrix
import mlp
from mma4ctr.artifacts import read_artifact
from mma4ctr.export import scaling_of
from mma4ctr.interactions import TEST, load_interactions
from mma4ctr.matrix import load_matrix
from mma4ctr.paths import load_paths
from mma4ctr.results import read_results, run_folder
from mma4ctr.scoring import load_scorer, positions
from tests.conftest import call

TASK = "tiktok_like"


@pytest.fixture(scope="module", params=["paper", "plus"])
def trained(request, made, tmp_path_factory):
    """A trained run of either set of features, in a folder of its own: paths and result."""
    folder = tmp_path_factory.mktemp(request.param)
    shutil.copytree(made.file.parent, folder, dirs_exist_ok=True)
    options = ("--paths", folder / "path.json", "--task", TASK, "--features", request.param)
    assert call(cross_matrix.main, *options) == 0
    assert call(mlp.main, *options, "--epochs", 2) == 0
    paths = load_paths(folder / "path.json")
    return paths, read_results(paths.results)[-1]


def use(trained, *options):
    paths, result = trained
    return call(mlp.main, "--paths", paths.file, "--run", result.run_id, *options)


def written(path):
    """The rows of a TSV of scores: user, item, score."""
    lines = path.read_text().splitlines()
    assert lines[0] == "user\titem\tscore"
    rows = [line.split("\t") for line in lines[1:]]
    return [(int(user), int(item), float(score)) for user, item, score in rows]


def test_scores_equal_those_of_the_test_rows(trained, tmp_path):
    paths, result = trained
    data = load_interactions(paths, "tiktok")
    rows = np.flatnonzero(data.split == TEST)
    ids = [*zip(data.user_ids[data.user[rows]].tolist(), data.item_ids[data.item[rows]].tolist(), strict=True)]
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("item\tnote\tuser\n" + "".join(f"{item}\tx\t{user}\n" for user, item in ids))
    assert use(trained, "--predict", pairs) == 0
    found = written(paths.saved / "predictions" / f"{result.run_id}-pairs.tsv")
    assert [row[:2] for row in found] == ids
    expected = read_artifact(run_folder(paths, TASK, result.run_id), "").array("predictions")
    assert np.allclose([row[2] for row in found], expected, atol=1e-6)


def test_who_is_not_known_is_the_mean_one(trained, tmp_path, capsys):
    paths, result = trained
    data, scorer = load_interactions(paths, "tiktok"), load_scorer(paths, result)
    known = data.user_ids[0], data.item_ids[0]
    pairs, out = tmp_path / "pairs.tsv", tmp_path / "out.tsv"
    pairs.write_text(f"user\titem\n{known[0]}\t{known[1]}\n-5\t{known[1]}\n{known[0]}\t987654321\n")
    assert use(trained, "--predict", pairs, "--output", out) == 0
    assert "2 have a user or an item" in capsys.readouterr().err
    users, items = len(data.user_ids), len(data.item_ids)
    expected = scorer.score(np.array([0, users, 0]), np.array([0, 0, items]))
    assert np.allclose([row[2] for row in written(out)], expected, atol=1e-6)
    last = scorer.matrix.user_part[:-1]
    assert torch.allclose(scorer.matrix.user_part[-1], last.mean(dim=0), atol=1e-6)
    assert positions(pa.array(["b", "x", "a"]), pa.array(["a", "b"])).tolist() == [1, 2, 0]


def test_the_best_items_are_those_of_all_pairs(trained, tmp_path):
    paths, result = trained
    data, scorer = load_interactions(paths, "tiktok"), load_scorer(paths, result)
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
    unscaled = matrix.gather(matrix.test.user_row, matrix.test.item_row).numpy() * scale + shift
    session = onnxruntime.InferenceSession(model)
    (found,) = session.run(None, {"features": unscaled.astype(np.float32)})
    expected = read_artifact(run_folder(paths, TASK, result.run_id), "").array("predictions")
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() < 1e-5


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("user\titm\n1\t2\n", "item"),
        ("user\titem\n1\tx\n", ":2"),
        ("user\titem\n1\n", ":2"),
        ("", "user"),
    ],
)
def test_bad_pairs_are_told_in_one_line(trained, tmp_path, capsys, text, told):
    pairs, out = tmp_path / "pairs.tsv", tmp_path / "out.tsv"
    pairs.write_text(text)
    assert use(trained, "--predict", pairs, "--output", out) == 2
    error = capsys.readouterr().err.strip()
    assert "pairs.tsv" in error and told in error
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
