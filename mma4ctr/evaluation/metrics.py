"""AUC, GAUC and LogLoss: the functions that score every model of this project."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

# Probabilities are clipped this far from 0 and 1, so that one wrong certain prediction does not make LogLoss infinite.
CLIP = 1e-7
RELIABILITY_BINS = 20


@dataclass(frozen=True)
class Scores:
    """The scores of predictions.

    Attributes:
        auc: Area under the ROC curve; None if the labels have one class only.
        gauc: AUC within users, see `gauc`; None if no user has both labels.
        logloss: Mean negative log-likelihood, in nats.
        auc_error: Standard error of `auc`, see `auc_error`.
    """

    auc: float | None
    gauc: float | None
    logloss: float
    auc_error: float | None = None


def _wins(label: np.ndarray, score: np.ndarray, group: np.ndarray | None) -> np.ndarray:
    """The number of correctly ranked pairs (positive, negative) of each group; ties count half.

    Args:
        label: 0/1 (rows,).
        score: float (rows,).
        group: int (rows,) from 0 to groups - 1, or None for one group.

    Returns:
        float64 (groups,).
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
    """Area under the ROC curve: the probability that a positive ranks above a negative; ties count half.

    Args:
        label: 0/1 (rows,).
        score: float (rows,) on any scale.

    Returns:
        None if the labels have one class only.
    """
    positives = int((label > 0).sum())
    pairs = positives * (len(label) - positives)
    return float(_wins(label, score, None)[0]) / pairs if pairs else None


def placements(label: np.ndarray, score: np.ndarray) -> tuple[np.ndarray, np.ndarray] | None:
    """The placements of DeLong, DeLong and Clarke-Pearson (1988); the mean of each array is AUC.

    Args:
        label: 0/1 (rows,).
        score: float (rows,) on any scale.

    Returns:
        For each positive the share of negatives below it, and for each negative the share of positives above it, in
        the order of the rows; ties count half. None if a class has fewer than two rows.
    """
    order = np.argsort(score, kind="stable")
    sorted_score, positive = score[order], label[order] > 0
    positives, negatives = int(positive.sum()), int((~positive).sum())
    if min(positives, negatives) < 2:
        return None
    tie = np.cumsum(np.append(True, sorted_score[1:] != sorted_score[:-1])) - 1

    def share_below(others: np.ndarray) -> np.ndarray:
        """For each row the share of `others` with a lower score; ties count half."""
        in_tie = np.bincount(tie, weights=others)
        below = np.cumsum(in_tie) - in_tie
        found = np.empty(len(order))
        found[order] = ((below + in_tie / 2) / others.sum())[tie]
        return found

    return share_below(~positive)[label > 0], 1 - share_below(positive)[label <= 0]


def auc_error(label: np.ndarray, score: np.ndarray) -> float | None:
    """Standard error of AUC over draws of rows, from the variance of the placements; rows count as independent.

    Args:
        label: 0/1 (rows,).
        score: float (rows,) on any scale.

    Returns:
        None if a class has fewer than two rows.
    """
    found = placements(label, score)
    return None if found is None else float(np.sqrt(sum(part.var(ddof=1) / len(part) for part in found)))


@dataclass(frozen=True)
class Difference:
    """The difference of two models' AUC on the same rows.

    Attributes:
        auc: AUC of the first model minus AUC of the second.
        error: Standard error of the difference.
    """

    auc: float
    error: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % confidence interval of the difference."""
        return self.auc - 1.96 * self.error, self.auc + 1.96 * self.error

    @property
    def p_value(self) -> float:
        """Two-sided p-value under the hypothesis that both models have the same AUC."""
        return math.erfc(abs(self.auc) / self.error / math.sqrt(2)) if self.error else float(self.auc == 0)


def auc_difference(label: np.ndarray, ours: Sequence[np.ndarray], theirs: Sequence[np.ndarray]) -> Difference | None:
    """The paired test of DeLong, DeLong and Clarke-Pearson (1988) on the mean AUC over seeds.

    The variance has two parts. The part of the rows is the variance of the difference of placements, averaged over
    the seeds. The part of the seeds, for a model with several, is the variance of their AUCs divided by their number.
    Rows count as independent.

    Args:
        label: 0/1 (rows,).
        ours: Scores (rows,) of each seed of the first model.
        theirs: Scores (rows,) of each seed of the second model.

    Returns:
        None if a class has fewer than two rows.
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
    """Mean AUC within users, weighted by the number of rows of a user, over users with both labels.

    Args:
        label: 0/1 (rows,).
        score: float (rows,) on any scale.
        user: (rows,) user of each row.

    Returns:
        None if no user has both labels.
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
    clipped = np.clip(probability.astype(np.float64), CLIP, 1 - CLIP)
    return float(-np.where(label > 0, np.log(clipped), np.log1p(-clipped)).mean())


def score_predictions(
    label: np.ndarray, probability: np.ndarray, user: np.ndarray, score: np.ndarray | None = None
) -> Scores:
    """AUC, GAUC and LogLoss of predictions.

    Args:
        label: 0/1 (rows,).
        probability: float (rows,).
        user: (rows,) user of each row.
        score: float (rows,) that AUC and GAUC rank by, if the probabilities are a calibration of it.

    Raises:
        ValueError: The arrays differ in length, or a prediction is not finite.
    """
    if not len(label) == len(probability) == len(user):
        raise ValueError(f"{len(label)} labels, {len(probability)} predictions, {len(user)} users")
    if not np.isfinite(probability).all():
        raise ValueError("a prediction is not finite")
    ranked = probability if score is None else score
    error = auc_error(label, ranked)
    return Scores(auc(label, ranked), gauc(label, ranked, user), logloss(label, probability), error)


def reliability(
    label: np.ndarray, probability: np.ndarray, bins: int = RELIABILITY_BINS
) -> tuple[np.ndarray, np.ndarray, float]:
    """The calibration curve and the expected calibration error.

    The error is the mean distance of prediction and share over the bins, weighted by rows (Naeini, Cooper and
    Hauskrecht 2015, with equal-mass bins).

    Args:
        label: (rows,) of 0 and 1, or true probabilities.
        probability: float (rows,) predictions.
        bins: Number of bins; they have the same number of rows.

    Returns:
        Mean prediction (bins,), share of positives (bins,) and the error.
    """
    order = np.argsort(probability, kind="stable")
    parts = [part for part in np.array_split(order, bins) if len(part)]
    predicted = np.array([probability[part].mean() for part in parts])
    observed = np.array([label[part].mean() for part in parts])
    weight = np.array([len(part) for part in parts]) / len(label)
    return predicted, observed, float((weight * np.abs(predicted - observed)).sum())


def platt_scaled(score: np.ndarray, valid_score: np.ndarray, valid_label: np.ndarray) -> np.ndarray:
    """Probabilities from scores on any scale, by Platt scaling (Platt 1999).

    A logistic regression of the validation labels on the validation scores is applied to `score`.

    Args:
        score: float (rows,) to convert.
        valid_score: float (validation rows,).
        valid_label: 0/1 (validation rows,).

    Returns:
        float64 (rows,).

    Raises:
        ValueError: A score is not finite, or the validation labels have one class only.
    """
    # Importing sklearn takes a second, which processes that only train save.
    from sklearn.linear_model import LogisticRegression

    shift, scale = valid_score.mean(), valid_score.std() or 1.0
    fitted = LogisticRegression(C=np.inf).fit(((valid_score - shift) / scale)[:, None], valid_label)
    probability: np.ndarray = fitted.predict_proba(((score - shift) / scale)[:, None])[:, 1]
    return probability
