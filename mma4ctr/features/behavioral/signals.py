"""The training rows of a task and the residuals of their labels after the additive model (effects.py)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from mma4ctr.features.behavioral.effects import Effects
from mma4ctr.features.behavioral.row_passes import add_residuals, rows_in_order, sums_by_code
from mma4ctr.runtime.parallel import slices

# Rows whose logits are in memory at a time.
ROWS_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class TrainingRows:
    """The training rows of a task.

    Attributes:
        user: int32 (n,), in order.
        item: int32 (n,).
        fold: uint8 (n,), 0 ... folds - 1.
        users: Number of users.
        items: Number of items.
        folds: Number of folds.
        place: int (n,), positions of the training rows among all kept rows.
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

    def included(self, block: int) -> np.ndarray:
        """Bool (n,), the rows that the tables of a block are made from: all rows outside its fold."""
        return self.fold != block

    @cached_property
    def by_user(self) -> tuple[np.ndarray, np.ndarray]:
        """int64 (users + 1,), where the rows of each user begin, and int32 (n,) positions of the rows."""
        return rows_in_order(self.user, self.users)

    @cached_property
    def by_item(self) -> tuple[np.ndarray, np.ndarray]:
        """The same in order of items: int64 (items + 1,) and int32 (n,)."""
        return rows_in_order(self.item, self.items)

    def parts(self) -> Iterator[slice]:
        """Slices of at most `ROWS_AT_A_TIME` rows that cover all rows."""
        return slices(len(self.user), ROWS_AT_A_TIME)


def target_residuals(
    rows: TrainingRows,
    included: np.ndarray,
    context: Mapping[str, np.ndarray],
    target: tuple[np.ndarray, Effects],
    into: tuple[np.ndarray, np.ndarray],
    scores: np.ndarray | None = None,
) -> None:
    """Add label - p and p (1 - p) of a target to the residuals and Hessian weights of the rows that are included.

    Args:
        rows: The training rows.
        included: bool (n,).
        context: By name, int (n,) codes of context columns.
        target: uint8 (n,) labels, and the additive model of the target.
        into: float32 (n,) residuals and float32 (n,) Hessian weights.
        scores: float (n,), added to the logits of the model.
    """
    label, effects = target
    residual, weight = into
    for part in rows.parts():
        codes = {name: values[part] for name, values in context.items()}
        logit = effects.logit(rows.user[part], rows.item[part], codes)
        if scores is not None:
            logit += scores[part]
        add_residuals(label[part], included[part], logit, residual[part], weight[part])


@dataclass(frozen=True)
class Signals:
    """The rows that a block is made from, with the residuals of their labels; those of other rows are 0.

    Attributes:
        rows: The training rows.
        included: bool (n,), the rows of the block.
        context: By name, int (n,) codes of context columns.
        targets: For each target uint8 (n,) labels and the additive model.
        residuals: float32 (n, targets), label - p of each target.
        user_weight: float64 (targets, users), p (1 - p) summed over the rows of a user.
        residual: float32 (n,), the sum of `residuals` over the targets, divided by `overdispersion`.
        hessian_weight: float32 (n,), p (1 - p) summed over the targets, divided by `overdispersion`.
        overdispersion: Variance of the summed residuals over that of independent targets: 1 where targets are
            independent given the biases, 2 where one target is given twice.
    """

    rows: TrainingRows
    included: np.ndarray
    context: Mapping[str, np.ndarray]
    targets: list[tuple[np.ndarray, Effects]]
    residuals: np.ndarray
    user_weight: np.ndarray
    residual: np.ndarray
    hessian_weight: np.ndarray
    overdispersion: float


def signals_of(
    rows: TrainingRows, block: int, context: Mapping[str, np.ndarray], targets: Sequence[tuple[np.ndarray, Effects]]
) -> Signals:
    """Compute the residuals of a block.

    Args:
        rows: The training rows.
        block: Number of the block.
        context: By name, int (n,) codes of context columns.
        targets: For each target uint8 (n,) labels and the additive model of the block.

    Returns:
        Rows and residuals.
    """
    included = rows.included(block)
    residuals = np.zeros((len(rows.user), len(targets)), np.float32)
    user_weight = np.zeros((len(targets), rows.users))
    hessian_weight = np.zeros(len(rows.user), np.float32)
    for place, target in enumerate(targets):
        residual, weight = np.zeros((2, len(rows.user)), np.float32)
        target_residuals(rows, included, context, target, (residual, weight))
        residuals[:, place] = residual
        user_weight[place] = sums_by_code(rows.user, weight, rows.users)
        hessian_weight += weight
    total = residuals.sum(axis=1)
    squares = sum(float(np.square(total[part], dtype=np.float64).sum()) for part in rows.parts())
    excess = max(squares / max(float(user_weight.sum()), 1e-12), 1e-3)
    total /= np.float32(excess)
    hessian_weight /= np.float32(excess)
    return Signals(rows, included, context, list(targets), residuals, user_weight, total, hessian_weight, excess)
