"""Step 3 against its formula as loops."""

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from mma4ctr.data.interactions import TEST, TRAIN, VALID, Interactions
from mma4ctr.features import user_embedding as step
from mma4ctr.features.user_embedding import draw_folds
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact


def slow_pool(vector, length):
    vector = list(vector) + [0.0] * max(0, length - len(vector))
    window = len(vector) - length + 1
    return [sum(vector[start : start + window]) / window for start in range(length)]


@pytest.mark.parametrize(("width", "length"), [(30, 21), (21, 21), (10, 21), (5, 1), (1, 5), (128, 11)])
def test_pooling_equals_a_loop(width, length):
    values = np.random.default_rng(width).standard_normal((7, width))
    expected = [slow_pool(row, length) for row in values]
    assert step.pool_columns(values, length) == pytest.approx(np.array(expected), abs=1e-12)


def slow_embedding(data, labels, evidence_rows, scaled, length, users):
    """Return the formula of design section 5 for one block: (users, length + 1), None for users without evidence."""
    table = []
    for u in range(users):
        rows = [r for r in evidence_rows if data.user[r] == u]
        if not rows:
            table.append(None)
            continue
        total = np.zeros(scaled.shape[1])
        for r in rows:
            total += (1 if labels[r] == 1 else -1) * scaled[data.item[r]]
        table.append(slow_pool(total / len(rows), length))
    return table


def small_case(seed):
    rng = np.random.default_rng(seed)
    rows, users, items = 300, 12, 25
    data = Interactions(
        artifact=Artifact(Path("none"), {}),
        user=np.sort(rng.integers(0, users - 1, rows)).astype(np.int32),  # the last user has no row at all
        item=rng.integers(0, items, rows).astype(np.int32),
        device=rng.integers(1, 4, rows),
        split=rng.choice([TRAIN, VALID, TEST], rows, p=[0.7, 0.15, 0.15]).astype(np.uint8),
        time=np.zeros(rows),
        user_ids=np.arange(users),
        item_ids=np.arange(items),
    )
    data.split[data.user == 0] = TEST  # a user without a training row
    label = rng.integers(0, 2, rows).astype(np.uint8)
    features = rng.standard_normal((items, 30)).astype(np.float32)
    return data, label, features


@pytest.mark.parametrize("evidence", ["train", "all"])
@pytest.mark.parametrize("length", [1, 21, 40])
def test_user_embeddings_equal_loops(evidence, length, monkeypatch):
    monkeypatch.setattr(step, "ROWS_AT_A_TIME", 70)
    monkeypatch.setattr(step, "ITEMS_AT_A_TIME", 10)
    data, label, features = small_case(length)
    folds = 3
    block = step.draw_folds(data.split, folds, 0) if evidence == "train" else np.zeros(300, np.uint8)
    table = step.UserEmbedder(data, label, block, evidence).table(features, length)
    low, high = features.min(axis=0), features.max(axis=0)
    scaled = (features - low) / (high - low)
    train = [r for r in range(300) if data.split[r] == TRAIN]
    views = [[r for r in train if block[r] != fold] for fold in range(folds)] + [train]
    if evidence == "all":
        views = [list(range(300))]
    assert table.shape == (len(views), 12, length + 1)
    for view, rows in zip(table, views, strict=True):
        slow = slow_embedding(data, label, rows, scaled, length, 12)
        seen = views[-1]
        for u, expected in enumerate(slow):
            if expected is not None:
                assert view[u, :-1] == pytest.approx(expected, abs=1e-5)
                times = Counter(data.device[r] for r in seen if data.user[r] == u)
                most = max(times.values())
                assert view[u, -1] == min(d for d, n in times.items() if n == most)
        known = [u for u, expected in enumerate(slow) if expected is not None]
        for u in set(range(12)) - set(known):
            assert view[u] == pytest.approx(view[known].mean(axis=0), abs=1e-5), "the mean user"


def test_folds_divide_the_training_rows_evenly():
    split = np.random.default_rng(0).choice([TRAIN, VALID, TEST], 1000, p=[0.8, 0.1, 0.1])
    block = step.draw_folds(split, 5, 0)
    sizes = np.bincount(block[split == TRAIN])
    assert len(sizes) == 5 and sizes.max() - sizes.min() <= 1
    assert (block[split != TRAIN] == 5).all()


def test_a_rows_own_label_does_not_touch_its_own_block():
    data, label, features = small_case(5)
    block = step.draw_folds(data.split, 4, 0)
    before = step.UserEmbedder(data, label, block, "train").table(features, 21)
    for row in np.flatnonzero(data.split == TRAIN)[:20]:
        changed = label.copy()
        changed[row] = 1 - changed[row]
        after = step.UserEmbedder(data, changed, block, "train").table(features, 21)
        view = block[row], data.user[row]
        assert (after[view] == before[view]).all(), "the row sees its own label"
        assert (after[-1, data.user[row]] != before[-1, data.user[row]]).any(), "the test view must see it"


@pytest.mark.parametrize("far", [1, 2**61])
def test_the_most_frequent_device_equals_a_loop(far):
    rng = np.random.default_rng(0)
    user, device = rng.integers(0, 9, 200).astype(np.int32), rng.integers(-2, 3, 200) * far
    times = [Counter(device[user == u].tolist()) for u in range(10)]
    expected = [min((-n, d) for d, n in one.items())[1] if one else -1 for one in times]
    assert step.frequent_device(user, device, 10).tolist() == expected


def test_more_folds_than_training_rows_are_refused():
    split = np.array([TRAIN, TRAIN, TRAIN, 1, 2], np.uint8)
    assert np.bincount(draw_folds(split, 3, 0)).tolist() == [1, 1, 1, 2]
    with pytest.raises(UserError, match="only 3 training rows"):
        draw_folds(split, 4, 0)
