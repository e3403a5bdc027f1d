"""AUC, GAUC and LogLoss against scikit-learn and against counted pairs."""

import numpy as np
import pytest
from sklearn.metrics import log_loss, roc_auc_score

from mma4ctr.evaluation.metrics import auc, auc_difference, auc_error, gauc, logloss, score_predictions


@pytest.mark.parametrize("levels", [3, 50, 10**6])
def test_auc_equals_sklearn_also_with_ties(levels):
    rng = np.random.default_rng(levels)
    label = rng.integers(0, 2, 500)
    score = rng.integers(0, levels, 500) / levels
    assert auc(label, score) == pytest.approx(roc_auc_score(label, score), abs=1e-12)


def test_auc_is_undefined_for_one_class():
    assert auc(np.zeros(5), np.arange(5.0)) is None
    assert auc(np.ones(5), np.arange(5.0)) is None
    assert auc(np.array([]), np.array([])) is None


def slow_gauc(label, score, user):
    total, weight = 0.0, 0
    for one in set(user):
        rows = [i for i in range(len(user)) if user[i] == one]
        ups = [score[i] for i in rows if label[i] == 1]
        downs = [score[i] for i in rows if label[i] == 0]
        if ups and downs:
            wins = sum((u > d) + 0.5 * (u == d) for u in ups for d in downs)
            total += len(rows) * wins / (len(ups) * len(downs))
            weight += len(rows)
    return total / weight if weight else None


def test_gauc_equals_pair_counting():
    rng = np.random.default_rng(0)
    label, user = rng.integers(0, 2, 300), rng.integers(0, 40, 300) * 7
    score = rng.integers(0, 6, 300) / 6
    assert gauc(label, score, user) == pytest.approx(slow_gauc(label, score, user), abs=1e-12)
    assert gauc(np.array([0, 1]), np.array([0.1, 0.9]), np.array([1, 2])) is None


def test_logloss_equals_sklearn_and_clips():
    rng = np.random.default_rng(1)
    label, chance = rng.integers(0, 2, 200), rng.random(200)
    assert logloss(label, chance) == pytest.approx(log_loss(label, chance), rel=1e-9)
    assert np.isfinite(logloss(np.array([1, 0]), np.array([0.0, 1.0])))


def test_bad_predictions_are_refused():
    with pytest.raises(ValueError, match="not finite"):
        score_predictions(np.array([0, 1]), np.array([0.5, np.nan]), np.array([0, 0]))
    with pytest.raises(ValueError, match="2 labels, 1 predictions"):
        score_predictions(np.array([0, 1]), np.array([0.5]), np.array([0, 0]))


@pytest.mark.parametrize("levels", [5, 10**6])
def test_the_error_of_auc_is_delongs(levels):
    """Against the definition over all pairs, and against the spread over new draws."""
    rng = np.random.default_rng(levels)

    def draw(rows):
        label = (rng.random(rows) < 0.3).astype(int)
        return label, np.round((rng.normal(size=rows) + label) * levels) / levels

    label, score = draw(300)
    up, down = score[label == 1], score[label == 0]
    wins = (up[:, None] > down) + 0.5 * (up[:, None] == down)
    expected = np.sqrt(wins.mean(axis=1).var(ddof=1) / len(up) + wins.mean(axis=0).var(ddof=1) / len(down))
    assert auc_error(label, score) == pytest.approx(expected, rel=1e-12)
    drawn = [auc(*draw(300)) for _ in range(400)]
    assert auc_error(label, score) == pytest.approx(np.std(drawn), rel=0.25)


def test_the_error_of_auc_is_undefined_without_two_of_each():
    assert auc_error(np.array([1, 0, 0]), np.array([0.5, 0.2, 0.1])) is None
    assert score_predictions(np.array([1, 0, 0]), np.array([0.5, 0.2, 0.1]), np.zeros(3)).auc == 1


def test_the_paired_test_finds_what_drawing_the_rows_again_finds():
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 600)
    good = label + rng.normal(0, 1.5, 600)
    scores = [good, good + rng.normal(0, 1, 600)]
    found = auc_difference(label, scores[:1], scores[1:])
    assert found.auc == pytest.approx(auc(label, scores[0]) - auc(label, scores[1]), abs=1e-12)
    drawn = []
    for _ in range(2000):
        rows = rng.integers(0, 600, 600)
        drawn.append(auc(label[rows], scores[0][rows]) - auc(label[rows], scores[1][rows]))
    assert found.error == pytest.approx(np.std(drawn), rel=0.1)
    assert found.interval[0] < found.auc < found.interval[1]
    same = auc_difference(label, scores[:1], scores[:1])
    assert (same.auc, same.error, same.p_value) == (0, 0, 1)
    assert auc_difference(np.ones(600), scores[:1], scores[1:]) is None


def test_the_paired_test_counts_seeds_as_draws():
    rng = np.random.default_rng(4)
    label = rng.integers(0, 2, 400)
    seeds = [label + rng.normal(0, 1, 400) for _ in range(4)]
    other = label + rng.normal(0, 2, 400)
    found = auc_difference(label, seeds, [other])
    aucs = [auc(label, seed) for seed in seeds]
    assert found.auc == pytest.approx(np.mean(aucs) - auc(label, other), abs=1e-12)
    assert found.error > np.std(aucs, ddof=1) / 2
    assert 0 < found.p_value < 0.05
