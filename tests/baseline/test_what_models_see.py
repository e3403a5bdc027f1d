"""What the compared models may see: rows, labels and inputs. Those of RecBole are marked `recbole`: they need its
environment and run by `make test-baseline`."""

import io
import json
import shutil
import subprocess
import sys
from contextlib import chdir, redirect_stdout
from datetime import UTC, datetime

import numpy as np
import own_model
import processes
import pytest
import raw_columns
import torch
import trainings
import trees
from raw_columns import FOLD_SEED, FOLDS, RivalInputs
from recbole_fields import write_atomic_files
from trainings import HERE

from mma4ctr.data.interactions import load_interactions
from mma4ctr.data.log_columns import StoredColumn, stored_columns
from mma4ctr.datasets.base import SPLIT_NAMES
from mma4ctr.evaluation.baselines import BASELINES, OWN, RECBOLE
from mma4ctr.evaluation.metrics import auc
from mma4ctr.features.behavioral.inputs import clock_codes
from mma4ctr.features.feature_matrix import load_matrix
from mma4ctr.features.user_embedding import draw_folds
from mma4ctr.features.variants import with_features
from mma4ctr.storage.paths import load_paths
from tests.baseline.conftest import TASK
from tests.conftest import reseal

RECBOLE_MODELS = [model for model in BASELINES.values() if model.framework == RECBOLE]


def train(paths, model, folder):
    """Run what a model's process runs and leave what it wrote in `folder`; returns the training and the answers.

    Our own models run in this process: starting one takes as long as three trainings.
    """
    folder.mkdir()
    training = trainings.ComparedTraining(trainings.prepare(paths, TASK, [model]), model, 0, (1,))
    command = processes.write_job(training, folder, 1)
    if model.framework == OWN:
        said = io.StringIO()
        with chdir(folder), redirect_stdout(said), pytest.MonkeyPatch.context() as patch:
            patch.setattr(sys, "argv", command[1:])
            own_model.main()
        lines = said.getvalue()
    else:
        done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
        assert done.returncode == 0, done.stderr[-3000:]
        lines = done.stdout
    return training, [json.loads(line) for line in lines.splitlines()]


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
def test_own_models_score_our_rows_and_see_training_labels_only(compared, tmp_path, monkeypatch, name):
    monkeypatch.setattr(trees, "COMPLEXITIES", (1,))  # validation labels choose between them
    check_model(compared, BASELINES[name], tmp_path)


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
made = Histories(user, moment, acted, item, 12)
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


def with_times_beyond_float32(paths, folder):
    """The same data with times as whole milliseconds since 1970, 1 ms apart: equal in float32 over two minutes."""
    shutil.copytree(paths.file.parent, folder)
    graph = folder / "graph/tiktok"
    time = np.load(graph / "time.npy")
    ranks = np.unique(time, return_inverse=True)[1]
    moved = (1_650_000_000_000 + ranks).astype(time.dtype)
    np.save(graph / "time.npy", moved)
    split = np.load(graph / "split.npy")
    for number, part in enumerate(SPLIT_NAMES):
        path = graph / f"tiktok.{part}.inter"
        header, *lines = path.read_text().splitlines()
        place = header.split("\t").index("timestamp:float")
        rows = [line.split("\t") for line in lines]
        for row, moment in zip(rows, moved[split == number].tolist(), strict=True):
            row[place] = str(moment)
        path.write_text("\n".join([header, *("\t".join(row) for row in rows)]) + "\n")
    reseal(folder)
    return load_paths(folder / "path.json")


@pytest.mark.recbole
@pytest.mark.parametrize("model", [model for model in RECBOLE_MODELS if model.histories], ids=lambda model: model.name)
def test_the_unit_of_time_does_not_matter(compared, tmp_path, model):
    other = with_times_beyond_float32(compared, tmp_path / "other")
    train(compared, model, tmp_path / "first")
    train(other, model, tmp_path / "second")
    first, second = (np.load(tmp_path / name / "test_1.npy") for name in ("first", "second"))
    assert np.array_equal(first, second)


def test_rates_are_the_smoothed_shares():
    index, label = np.array([0, 0, 1, 1, 1, 2]), np.array([1, 0, 0, 0, 0, 1.0])
    found = own_model.smoothed_shares(index, label, 4)
    share = 2 / 6
    for who in range(4):
        mine = label[index == who]
        rate = (mine.sum() + own_model.PRIOR * share) / (len(mine) + own_model.PRIOR)
        assert found[who] == pytest.approx(np.log(rate / (1 - rate)) - np.log(share / (1 - share)))
    assert found[3] == pytest.approx(0)


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
        found.append(datetime.fromtimestamp(seconds, UTC).weekday())
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
