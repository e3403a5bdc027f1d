"""Biases of users, items and content: the additive part of features plus (see columns.py).

    logit P(action) = b + a_user + q_item + g . x_item

where x is the item's content. The user biases a and item biases q have normal priors with mean 0. Their modes are found
by Newton steps and the prior variances by EM steps, so users and items with few rows shrink towards 0. The content
coefficients g come from a weighted ridge regression. It is a generalized linear mixed model with crossed random
effects, fitted by the Laplace approximation (Breslow and Clayton 1993, penalized quasi-likelihood).
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit

# Alternations between user biases, item biases and content. More of them changed no score.
ROUNDS = 3
# Largest change of a bias in one step, in units of the logit.
LARGEST_STEP = 2.0
# Items whose content is held in float64 at a time.
ITEMS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class TrainingRows:
    """The training rows of a task.

    Attributes:
        user: int64 (n,), in order.
        item: int64 (n,).
        fold: int64 (n,), 0 ... folds - 1.
        users: Number of users.
        items: Number of items.
        folds: Number of folds.
    """

    user: np.ndarray
    item: np.ndarray
    fold: np.ndarray
    users: int
    items: int
    folds: int

    def without(self, block: int) -> np.ndarray:
        """int64 positions of the rows that the tables of a block are made from: all rows outside its fold."""
        return np.flatnonzero(self.fold != block)


def logistic_residuals(label: np.ndarray, logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The gradient and the Hessian weight of the log-likelihood by the logit, for each row.

    Args:
        label: 0/1 (n,).
        logit: float64 (n,).

    Returns:
        float64 (n,) label - p, and float64 (n,) p (1 - p).
    """
    probability = expit(logit)
    return label - probability, probability * (1 - probability)


def weighted_products(content: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The sum of w x x' over items: float64 (k, k) of content float32 (items, k) and weights (items,)."""
    total = np.zeros((content.shape[1],) * 2)
    for start in range(0, len(content), ITEMS_AT_A_TIME):
        part = content[start : start + ITEMS_AT_A_TIME].astype(np.float64)
        total += (part.T * weight[start : start + ITEMS_AT_A_TIME]) @ part
    return total


def weighted_sum(content: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The sum of w x over items: float64 (k,) of content float32 (items, k) and weights (items,)."""
    total = np.zeros(content.shape[1])
    for start in range(0, len(content), ITEMS_AT_A_TIME):
        total += weight[start : start + ITEMS_AT_A_TIME] @ content[start : start + ITEMS_AT_A_TIME]
    return total


def shrunk_effects(
    effect: np.ndarray, gradient: np.ndarray, hessian_weight: np.ndarray, variance: float
) -> tuple[np.ndarray, float]:
    """One Newton step of random effects with a normal prior, and one EM step of the prior's variance.

    Args:
        effect: float64 (n,), the effects so far.
        gradient: float64 (n,), sums of label - p over the rows of each effect.
        hessian_weight: float64 (n,), sums of p (1 - p).
        variance: Of the prior.

    Returns:
        float64 (n,) new effects, and the new prior variance.
    """
    precision = hessian_weight + 1 / variance
    # For a rare action the first steps overshoot. Far out the Hessian weight vanishes and a step would have no bound.
    step = (gradient + hessian_weight * effect) / precision - effect
    moved = effect + np.clip(step, -LARGEST_STEP, LARGEST_STEP)
    known = hessian_weight > 0
    estimated = float(np.mean(moved[known] ** 2 + 1 / precision[known])) if known.any() else variance
    return moved, max(estimated, 1e-4)


@dataclass(frozen=True)
class Biases:
    """The additive parts of the logit, fitted on the rows of one block.

    Attributes:
        base: The intercept.
        user: float64 (users,).
        item: float64 (items,), what an item's bias adds to that of its content.
        content: float64 (items,).
    """

    base: float
    user: np.ndarray
    item: np.ndarray
    content: np.ndarray

    def logit(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float64 (n,) logits of rows, given int64 (n,) users and items."""
        of_item = self.item + self.content
        logit: np.ndarray = self.base + self.user[user] + of_item[item]
        return logit


def fit_biases(user: np.ndarray, item: np.ndarray, label: np.ndarray, content: np.ndarray, users: int) -> Biases:
    """Fit the biases of users, items and content.

    Args:
        user: int64 (n,).
        item: int64 (n,).
        label: 0/1 (n,).
        content: float32 (items, width).
        users: Number of users.

    Returns:
        The biases.
    """
    items, width = content.shape
    share = (label.sum() + 0.5) / (len(label) + 1)
    found = Biases(float(np.log(share / (1 - share))), np.zeros(users), np.zeros(items), np.zeros(items))
    user_variance, item_variance = 1.0, 1.0
    for _ in range(ROUNDS):

        def gradients(index: np.ndarray, size: int, biases: Biases) -> tuple[np.ndarray, np.ndarray]:
            residual, weight = logistic_residuals(label, biases.logit(user, item))
            return np.bincount(index, residual, size), np.bincount(index, weight, size)

        effect, user_variance = shrunk_effects(found.user, *gradients(user, users, found), user_variance)
        found = Biases(found.base, effect, found.item, found.content)
        gradient, weight = gradients(item, items, found)
        # An item's weight in the regression grows with its rows up to a limit, since its own bias varies too.
        trust = weight / (1 + weight * item_variance)
        target = np.where(weight > 0, found.content + found.item + gradient / np.maximum(weight, 1e-12), 0)
        product = weighted_products(content, trust) + np.eye(width)
        coefficients = np.linalg.solve(product, weighted_sum(content, trust * target))
        moved = (content @ coefficients.astype(np.float32)).astype(np.float64)
        found = Biases(found.base, found.user, found.item + found.content - moved, moved)
        effect, item_variance = shrunk_effects(found.item, gradient, weight, item_variance)
        found = Biases(found.base, found.user, effect, moved)
    return found


@dataclass(frozen=True)
class Signals:
    """The rows of a block, ordered by user, with the residuals of their labels.

    Attributes:
        user: int64 (n,).
        item: int64 (n,).
        users: Number of users.
        items: Number of items.
        labels: 0/1 (n,) of each target.
        logits: float64 (n,) of each target, by the biases.
        residual: float64 (n,), label - p summed over the targets, divided by `overdispersion`.
        hessian_weight: float64 (n,), p (1 - p) summed over the targets, divided by `overdispersion`.
        overdispersion: Variance of the summed residuals over that of independent targets: 1 where targets are
            independent given the biases, 2 where one target is given twice.
    """

    user: np.ndarray
    item: np.ndarray
    users: int
    items: int
    labels: list[np.ndarray]
    logits: list[np.ndarray]
    residual: np.ndarray
    hessian_weight: np.ndarray
    overdispersion: float

    def table(self, values: np.ndarray) -> sparse.csr_matrix:
        """Values (n,) of the rows as a sparse matrix (users, items)."""
        return sparse.csr_matrix((values, (self.user, self.item)), shape=(self.users, self.items))


def signals_of(
    rows: TrainingRows, block: int, labels: Mapping[str, np.ndarray], biases: Mapping[str, list[Biases]]
) -> Signals:
    """The rows that a block is made from, with their residuals; for the arguments see `plus_tables`."""
    seen = rows.without(block)
    user, item = rows.user[seen], rows.item[seen]
    logits = [biases[target][block].logit(user, item) for target in labels]
    residual, weight = np.zeros(len(seen)), np.zeros(len(seen))
    for label, logit in zip(labels.values(), logits, strict=True):
        of_target, weight_of_target = logistic_residuals(label[seen], logit)
        residual += of_target
        weight += weight_of_target
    excess = max(float(residual @ residual) / max(float(weight.sum()), 1e-12), 1e-3)
    seen_labels = [label[seen] for label in labels.values()]
    return Signals(user, item, rows.users, rows.items, seen_labels, logits, residual / excess, weight / excess, excess)
