"""The training rows of a task and the residuals of their labels after the additive model (effects.py)."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit


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
        place: int64 (n,), positions of the training rows among all kept rows.
        all_users: int (rows,), of all kept rows.
        all_items: int (rows,), of all kept rows.
    """

    user: np.ndarray
    item: np.ndarray
    fold: np.ndarray
    users: int
    items: int
    folds: int
    place: np.ndarray
    all_users: np.ndarray
    all_items: np.ndarray

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
    rows: TrainingRows, block: int, labels: Mapping[str, np.ndarray], logits: Mapping[str, np.ndarray]
) -> Signals:
    """The rows that a block is made from, with their residuals.

    Args:
        rows: The training rows.
        block: Number of the block.
        labels: 0/1 (n,) of all training rows for each target.
        logits: float64 logits of the block's rows by the additive model, for each target.

    Returns:
        The rows and residuals.
    """
    seen = rows.without(block)
    residual, weight = np.zeros(len(seen)), np.zeros(len(seen))
    for target, label in labels.items():
        of_target, weight_of_target = logistic_residuals(label[seen], logits[target])
        residual += of_target
        weight += weight_of_target
    excess = max(float(residual @ residual) / max(float(weight.sum()), 1e-12), 1e-3)
    seen_labels = [label[seen] for label in labels.values()]
    seen_logits = [logits[target] for target in labels]
    user, item = rows.user[seen], rows.item[seen]
    return Signals(
        user, item, rows.users, rows.items, seen_labels, seen_logits, residual / excess, weight / excess, excess
    )
