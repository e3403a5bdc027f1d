"""AUC, GAUC and LogLoss: the one place where any model of this project is judged."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from sklearn.linear_model import LogisticRegression

# Probabilities are kept this far from 0 and 1, so that one sure mistake does not make LogLoss infinite.
CLIP = 1e-7
RELIABILITY_BINS = 20


@dataclass(frozen=True)
class Scores:
    """How good predictions are. AUC and GAUC are None where they are not defined (one class only).

    `auc_error` is the standard error of AUC, see `auc_error`.
    """

    auc: float | None
    gauc: float | None
    logloss: float
    auc_error: float | None = None


def _wins(label: np.ndarray, score: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """For each group, the pairs (positive, negative) that are ranked right, ties counted half: float64 (groups,).

    `group`: integers 0 ... G-1, or None for one group.
    """
    if group is None:
        order = np.argsort(score, kind="stable")
        sorted_group = np.zeros(len(score), np.int64)
    else:
        order = np.lexsort((score, group))
        sorted_group = group[order].astype(np.int64)
    sorted_score, positive = score[order], label[order] > 0
    new_group = np.diff(sorted_group, prepend=-1) != 0
    # A tie is a run of equal scores within a group.
    new_tie = new_group | np.append(True, sorted_score[1:] != sorted_score[:-1])
    tie = np.cumsum(new_tie) - 1
    positives_in_tie = np.bincount(tie, weights=positive)
    negatives_in_tie = np.bincount(tie, weights=~positive)
    group_of_tie = sorted_group[new_tie]
    negatives_before = np.cumsum(negatives_in_tie) - negatives_in_tie
    first_tie = np.searchsorted(group_of_tie, group_of_tie)  # the first tie of the same group
    negatives_below = negatives_before - negatives_before[first_tie]
    return np.bincount(group_of_tie, weights=positives_in_tie * (negatives_below + negatives_in_tie / 2))


def auc(label: np.ndarray, score: np.ndarray) -> float | None:
    """Area under the ROC curve: the chance that a positive is ranked above a negative, ties counted half.

    Args:
        label: 0/1 (rows,). score: float (rows,), any scale.

    Returns: None where there is one class only.
    """
    positives = int((label > 0).sum())
    pairs = positives * (len(label) - positives)
    return float(_wins(label, score, None)[0]) / pairs if pairs else None


def placements(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """For each positive the share of negatives ranked below it, for each negative that of positives ranked above it,
    ties counted half, in the rows' order (DeLong, DeLong and Clarke-Pearson 1988). Either's mean is AUC.

    Returns: None where a class has fewer than two rows.
    """
    order = np.argsort(score, kind="stable")
    sorted_score, positive = score[order], label[order] > 0
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if min(positives, negatives) < 2:
        return None
    tie = np.cumsum(np.append(True, sorted_score[1:] != sorted_score[:-1])) - 1

    def share_below(others: np.ndarray) -> np.ndarray:
        """For each row the share of `others` with a lower score, ties counted half."""
        in_tie = np.bincount(tie, weights=others)
        below = np.cumsum(in_tie) - in_tie
        found = np.empty(len(order))
        found[order] = ((below + in_tie / 2) / others.sum())[tie]
        return found

    return share_below(~positive)[label > 0], 1 - share_below(positive)[label <= 0]


def auc_error(label: np.ndarray, score: np.ndarray) -> float | None:
    """Standard error of AUC, were the rows drawn anew: from how much the placements of the positives vary, and those of
    the negatives.

    Rows count as independent. Returns: None where a class has fewer than two rows.
    """
    found = placements(label, score)
    return None if found is None else float(np.sqrt(sum(part.var(ddof=1) / len(part) for part in found)))


@dataclass(frozen=True)
class Difference:
    """One model's AUC less another's on the same rows, and the difference's standard error."""

    auc: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """Where the difference lies in 95 of 100 draws of rows and seeds."""
        return self.auc - 1.96 * self.error, self.auc + 1.96 * self.error

    @property
    def p_value(self) -> float:
        """The chance of so large a difference, to either side, between models of equal AUC."""
        return math.erfc(abs(self.auc) / self.error / math.sqrt(2)) if self.error else float(self.auc == 0)


def auc_difference(label: np.ndarray, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Difference | None:
    """The paired test of DeLong, DeLong and Clarke-Pearson (1988) on the mean AUC over seeds.

    The rows' part of the variance is that of the difference of placements, averaged over the seeds; the seeds' part,
    where a model has several, is the variance of their AUCs over their number. Rows count as independent.

    Args:
        label: 0/1 (rows,). ours, theirs: scores (rows,) of each seed.

    Returns: None where a class has fewer than two rows.
    """
    means, seeds = [], 0.0
    for scores in (ours, theirs):
        placed = [found for score in scores if (found := placements(label, score))]
        if not placed:
            return None
        means.append([np.mean([one[part] for one in placed], axis=0) for part in (0, 1)])
        if len(placed) > 1:
            seeds += float(np.var([one[0].mean() for one in placed], ddof=1)) / len(placed)
    parts = [one - other for one, other in zip(*means, strict=True)]
    rows = sum(float(part.var(ddof=1)) / len(part) for part in parts)
    return Difference(float(parts[0].mean()), math.sqrt(rows + seeds))


def gauc(label: np.ndarray, score: np.ndarray, user: np.ndarray) -> float | None:
    """AUC inside each user, averaged with weight the user's rows, over users with both labels (design section 8).

    Returns: None where no user has both.
    """
    if not len(label):
        return None
    _, group = np.unique(user, return_inverse=True)
    rows = np.bincount(group)
    positives = np.bincount(group, weights=label > 0)
    pairs = positives * (rows - positives)
    both = pairs > 0
    if not both.any():
        return None
    inside = _wins(label, score, group)[both] / pairs[both]
    return float(np.average(inside, weights=rows[both]))


def logloss(label: np.ndarray, probability: np.ndarray) -> float:
    """Mean negative log-likelihood of 0/1 labels, in nats."""
    chance = np.clip(probability.astype(np.float64), CLIP, 1 - CLIP)
    return float(-np.where(label > 0, np.log(chance), np.log1p(-chance)).mean())


def score_predictions(
    label: np.ndarray, probability: np.ndarray, user: np.ndarray, score: np.ndarray | None = None
) -> Scores:
    """All three for aligned arrays (rows,) of 0/1 labels, probabilities and users.

    Args:
        score: what AUC and GAUC rank by, where the probabilities are a calibration of it.

    Raises ValueError for predictions that are not finite or do not match the labels in number.
    """
    if not len(label) == len(probability) == len(user):
        raise ValueError(f"{len(label)} labels, {len(probability)} predictions, {len(user)} users")
    if not np.isfinite(probability).all():
        raise ValueError("a prediction is not finite")
    ranked = probability if score is None else score
    error = auc_error(label, ranked)
    return Scores(auc(label, ranked), gauc(label, ranked, user), logloss(label, probability), error)


def reliability(
    label: np.ndarray, chance: np.ndarray, bins: int = RELIABILITY_BINS
) -> tuple[np.ndarray, np.ndarray, float]:
    """Mean prediction and share of positives in bins of equally many rows, and the expected calibration error, the
    mean of their distances weighted by rows (Naeini, Cooper and Hauskrecht 2015, with equal-mass bins).

    Args:
        label: (rows,), 0 and 1, or true probabilities.
    """
    order = np.argsort(chance, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    said = np.array([chance[part].mean() for part in parts])
    seen = np.array([label[part].mean() for part in parts])
    weight = np.array([len(part) for part in parts]) / len(label)
    return said, seen, float((weight * np.abs(said - seen)).sum())


def platt_scaled(score: np.ndarray, valid_score: np.ndarray, valid_label: np.ndarray) -> np.ndarray:
    """Probabilities (rows,) from scores on any scale: a logistic regression of the validation labels on the
    validation scores, applied to `score` (Platt 1999).

    Raises ValueError where the scores are not finite or the validation labels are of one class.
    """
    shift, scale = valid_score.mean(), valid_score.std() or 1.0
    fitted = LogisticRegression(C=np.inf).fit(((valid_score - shift) / scale)[:, None], valid_label)
    chance: np.ndarray = fitted.predict_proba(((score - shift) / scale)[:, None])[:, 1]
    return chance
