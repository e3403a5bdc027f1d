"""Rows that were drawn together: a row and its sampled negatives are in one fold and one part of the split; and logs
without times, whose order in the file may tell the labels."""

import json
import shutil

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gen_matrix
import get_user_embedding
import mlp
import preprocess_inter
import preprocess_multimodal
from benchmarks import shares
from mma4ctr.data.interactions import TEST, TRAIN, VALID, draws_of, load_interactions
from mma4ctr.data.splits import split_rows, write_other_split
from mma4ctr.evaluation.metrics import auc
from mma4ctr.evaluation.run_records import read_results
from mma4ctr.features.feature_matrix import load_step_inputs
from mma4ctr.features.user_embedding import draw_folds
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.paths import load_paths
from tests.conftest import call, reseal, write_described

USERS, ITEMS = 60, 80
DESCRIPTION = """
min_interactions = 1
{negatives}
[interactions]
files = "log.csv"
user = "user"
item = "item"
{time}
[targets]
like = {like}
[modalities.visual]
vectors = "vectors.npy"
ids = "ids.txt"
"""


def write_log(folder, rows, *, negatives=0, timed=True):
    """A described log of (user, item, time, like) with random vectors."""
    rng = np.random.default_rng(1)
    np.save(folder / "vectors.npy", rng.normal(size=(ITEMS, 6)).astype(np.float32))
    (folder / "ids.txt").write_text("".join(f"{item}\n" for item in range(ITEMS)))
    lines = ["user,item,time,like", *(",".join(map(str, row)) for row in rows)]
    (folder / "log.csv").write_text("\n".join(lines) + "\n")
    values = {
        "negatives": f"negatives = {negatives}" if negatives else "",
        "time": 'time = "time"' if timed else "",
        "like": "true" if negatives else '"like"',
    }
    (folder / "own.toml").write_text(DESCRIPTION.format(**values))
    return load_paths(write_described(folder, {"own": "own.toml"}))


def steps_1_to_3(paths):
    for step in (preprocess_inter, preprocess_multimodal, get_user_embedding):
        assert call(step.main, "--paths", paths.file) == 0


@pytest.fixture(scope="module")
def drawn(tmp_path_factory):
    """Positives of users with few rows each, with three drawn negatives for each."""
    folder = tmp_path_factory.mktemp("drawn")
    rng = np.random.default_rng(0)
    rows = [
        (int(rng.integers(USERS)), int(rng.integers(ITEMS)), 1_600_000_000 + 60 * row, 1) for row in range(6 * USERS)
    ]
    paths = write_log(folder, rows, negatives=3)
    steps_1_to_3(paths)
    return paths


def test_a_row_and_its_negatives_share_a_fold(drawn):
    """A user's share of positives is the same in every draw, so the rest of a draw would tell each row's label."""
    inputs = load_step_inputs(drawn, "own_like")
    data, block = inputs.data, inputs.embedding.array("block")
    draw, label = draws_of(data.artifact), data.label("like")
    assert np.bincount(draw, label).min() == 1 and np.bincount(draw).max() == 4
    for values in (block, data.split):
        assert all(len(np.unique(values[draw == one])) == 1 for one in range(draw.max() + 1))
    train = np.flatnonzero(data.split == TRAIN)
    sizes = np.bincount(block[train])
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 4
    # The share of positives among the user's rows of the other folds says nothing about a training row.
    shares = []
    for row in train:
        others = train[(data.user[train] == data.user[row]) & (block[train] != block[row])]
        shares.append((label[others].sum() + 1) / (len(others) + 4))
    assert abs(auc(label[train], np.array(shares)) - 0.5) < 0.01


def test_folds_of_an_earlier_version_are_refused(drawn, tmp_path, capsys):
    shutil.copytree(drawn.file.parent, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "out/user_embedding_path/own_like/manifest.json"
    manifest = json.loads(path.read_text())
    assert manifest["settings"].pop("draws") == 1
    path.write_text(json.dumps(manifest))
    reseal(tmp_path)
    assert call(gen_matrix.main, "--paths", tmp_path / "path.json") == 2
    assert "run get_user_embedding.py again" in " ".join(capsys.readouterr().err.split())


def test_a_random_split_keeps_a_row_and_its_negatives_together(drawn, tmp_path):
    base = load_interactions(drawn, "own").artifact
    other = write_other_split(base, tmp_path / "random", split="random", seed=0)
    split, draw = other.array("split"), draws_of(base)
    assert set(np.unique(split)) == {TRAIN, VALID, TEST}
    assert all(len(np.unique(split[draw == one])) == 1 for one in range(draw.max() + 1))
    assert abs((split == TRAIN).mean() - 0.8) < 0.02 and (split != base.array("split")).any()


@pytest.mark.parametrize("fixed", [True, False])
def test_shares_show_a_fixed_number_of_negatives(tmp_path, fixed):
    """One positive in three of each user, in a random order; or as many as the user's own rate gives."""
    rng = np.random.default_rng(0)
    rows = []
    for user in range(USERS):
        rate = 1 / 3 if fixed else rng.uniform(0.05, 0.6)
        labels = np.arange(18) % 3 == 0 if fixed else rng.random(18) < rate
        rows += [(user, int(rng.integers(ITEMS)), 0, int(label)) for label in labels]
    order = rng.permutation(len(rows))
    paths = write_log(
        tmp_path, [(*rows[place][:2], 1_600_000_000 + at, rows[place][3]) for at, place in enumerate(order)]
    )
    assert call(preprocess_inter.main, "--paths", paths.file) == 0
    data = load_interactions(paths, "own")
    user, negated, *_ = shares.test_aucs(data, data.label("like"))
    assert (user < 0.45) == fixed and abs(user + negated - 1) < 1e-9


@given(st.lists(st.integers(1, 6), min_size=12, max_size=60), st.integers(2, 6), st.integers(0, 9))
def test_folds_of_draws_are_of_equal_sizes(sizes, folds, seed):
    draw = np.repeat(np.arange(len(sizes)), sizes)
    split = np.repeat(np.random.default_rng(seed).choice([TRAIN, TRAIN, TRAIN, VALID, TEST], len(sizes)), sizes)
    split[: sum(sizes[:6])] = TRAIN
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mma4ctr.features.user_embedding.ROWS_AT_A_TIME", 7)  # a draw can reach from one part to the next
        block = draw_folds(split.astype(np.uint8), folds, seed, draw)
    assert (block == draw_folds(split.astype(np.uint8), folds, seed, draw)).all()
    first = np.append(0, np.cumsum(sizes)[:-1])
    assert (block == block[first][draw]).all() and (block[split != TRAIN] == folds).all()
    of_draws = np.bincount(block[first][split[first] == TRAIN], minlength=folds)
    assert of_draws.max() - of_draws.min() <= 1
    alone = np.arange(len(split))
    assert (draw_folds(split, folds, seed, alone) == draw_folds(split, folds, seed)).all()
    assert set(np.unique(split_rows("random", draw, draw, seed, draw))) <= {TRAIN, VALID, TEST}


def test_the_order_of_a_file_without_times_is_no_feature(tmp_path):
    """Each positive, then its negatives, the users in turns: the place in the file tells the labels."""
    rng = np.random.default_rng(0)
    rows = []
    for turn in range(30):
        for user in range(USERS):
            likes = [1, 0, 0, 0] if (turn + user) % 2 else [1, 0]
            rows += [(user, int(rng.integers(ITEMS)), 0, like) for like in likes]
    paths = write_log(tmp_path, rows, timed=False)
    steps_1_to_3(paths)
    options = ("--paths", paths.file, "--features", "plus")
    assert call(gen_matrix.main, *options) == 0
    assert "recency" not in read_artifact(paths.matrix / "own_like/visual.plus", "").array_names
    assert call(mlp.main, *options, "--variant", "visual", "--epochs", 3) == 0
    assert abs(read_results(paths.results)[-1].auc - 0.5) < 0.1
