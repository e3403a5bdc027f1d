"""The training rows of a task and the residuals of their labels after the additive model (effects.py)."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mma4ctr.features.behavioral.effects import Effects
from mma4ctr.features.behavioral.row_passes import add_by_code, add_residuals, put_in_order
from mma4ctr.storage import row_arrays
from mma4ctr.storage.row_arrays import IN_MEMORY, RowArrays


def starts_of(codes: np.ndarray, size: int, arrays: RowArrays = IN_MEMORY) -> np.ndarray:
    """int64 (size + 1,), where the rows of each code begin if rows are in order of their codes, int (n,)."""
    starts = np.zeros(size + 1, np.int64)
    for part in arrays.parts(len(codes)):
        starts[1:] += np.bincount(codes[part], minlength=size)
    return np.cumsum(starts)


# Users, their rows, and int64 (users + 1,) where the rows of each of them begin, counted from the first of these rows.
UserPart = tuple[slice, slice, np.ndarray]


def parts_of_users(starts: np.ndarray) -> list[UserPart]:
    """Cut users into parts of about `ROWS_AT_A_TIME` rows; a user with more is a part.

    Args:
        starts: int64 (users + 1,), where the rows of each user begin.

    Returns:
        The parts. Users without rows are in one of them too.
    """
    parts, first, size = [], 0, len(starts) - 1
    while first < size:
        last = int(np.searchsorted(starts, starts[first] + row_arrays.ROWS_AT_A_TIME, side="right")) - 1
        last = min(max(last, first + 1), size)
        parts.append(
            (slice(first, last), slice(int(starts[first]), int(starts[last])), starts[first : last + 1] - starts[first])
        )
        first = last
    return parts


@dataclass(frozen=True)
class OrderedRows:
    """The training rows in order of their users (or items).

    Attributes:
        starts: int64 (size + 1,), where the rows of each user (or item) begin.
        other: int32 (n,), the item (or user) of each row.
        fold: uint8 (n,).
    """

    starts: np.ndarray
    other: np.ndarray
    fold: np.ndarray


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
        arrays: Makes further arrays of rows.
    """

    user: np.ndarray
    item: np.ndarray
    fold: np.ndarray
    users: int
    items: int
    folds: int
    arrays: RowArrays = field(default_factory=RowArrays)

    def __len__(self) -> int:
        return len(self.user)

    def parts(self) -> Iterator[slice]:
        """Parts that cover all rows; see `RowArrays.parts`."""
        return self.arrays.parts(len(self))

    def included(self, block: int) -> np.ndarray:
        """Bool (n,), the rows that the tables of a block are made from: all rows outside its fold."""
        made = self.arrays.empty((len(self),), bool)
        for part in self.parts():
            np.not_equal(self.fold[part], block, out=made[part])
        return made

    @cached_property
    def starts(self) -> np.ndarray:
        """int64 (users + 1,), where the rows of each user begin."""
        return starts_of(self.user, self.users, self.arrays)

    def parts_of_users(self) -> Iterator[UserPart]:
        """Parts that cover all users; see `parts_of_users` and `RowArrays.parts`."""
        cut = parts_of_users(self.starts)
        return (part for part, _ in zip(cut, self.arrays.parts([rows for _, rows, _ in cut]), strict=True))

    @property
    def by_user(self) -> OrderedRows:
        """The rows as they are, in order of the users."""
        return OrderedRows(self.starts, self.item, self.fold)

    @cached_property
    def by_item(self) -> OrderedRows:
        """The rows in order of the items."""
        starts = starts_of(self.item, self.items, self.arrays)
        return OrderedRows(starts, self.in_order_of_items(starts, self.user), self.in_order_of_items(starts, self.fold))

    def in_order_of_items(self, starts: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Values (n, ...) of the rows in order of their items; rows of an item stay in their order."""
        made, place = self.arrays.empty(values.shape, values.dtype), starts[:-1].copy()
        for part in self.parts():
            put_in_order(self.item[part], values[part], place, made)
        return made


@dataclass(frozen=True)
class BlockRows:
    """The rows that a block is made from.

    Attributes:
        rows: The training rows.
        block: Number of the block.
        context: By name, int (n,) codes of context columns.
        included: bool (n,), the rows of the block.
    """

    rows: TrainingRows
    block: int
    context: Mapping[str, np.ndarray]
    included: np.ndarray


def target_residuals(
    given: BlockRows,
    part: slice,
    target: tuple[np.ndarray, Effects],
    into: tuple[np.ndarray, np.ndarray],
    scores: np.ndarray | None = None,
) -> None:
    """Add label - p and p (1 - p) of a target to residuals and Hessian weights of some rows that are included.

    Args:
        given: The rows of a block.
        part: Those of the training rows that are asked for.
        target: uint8 (n,) labels, and the additive model of the target.
        into: float32 (part,) residuals and float32 (part,) Hessian weights.
        scores: float (part,), added to the logits of the model.
    """
    label, effects = target
    context = {name: values[part] for name, values in given.context.items()}
    logit = effects.logit(given.rows.user[part], given.rows.item[part], context)
    if scores is not None:
        logit += scores
    add_residuals(label[part], given.included[part], logit, *into)


@dataclass(frozen=True)
class Signals(BlockRows):
    """The rows that a block is made from, with the residuals of their labels; those of other rows are 0.

    Attributes:
        targets: For each target uint8 (n,) labels and the additive model.
        residuals: float32 (n, targets), label - p of each target.
        user_weight: float64 (targets, users), p (1 - p) summed over the rows of a user.
        residual: float32 (n,), the sum of `residuals` over the targets, divided by `overdispersion`.
        hessian_weight: float32 (n,), p (1 - p) summed over the targets, divided by `overdispersion`.
        overdispersion: Variance of the summed residuals over that of independent targets: 1 where targets are
            independent given the biases, 2 where one target is given twice.
    """

    targets: list[tuple[np.ndarray, Effects]]
    residuals: np.ndarray
    user_weight: np.ndarray
    residual: np.ndarray
    hessian_weight: np.ndarray
    overdispersion: float

    @cached_property
    def once(self) -> np.ndarray:
        """float32 (n, 1): 1 for rows of the block."""
        made = self.rows.arrays.empty((len(self.rows), 1), np.float32)
        for part in self.rows.parts():
            made[part, 0] = self.included[part]
        return made

    def by_user(self, values: np.ndarray) -> np.ndarray:
        """The sum of float32 values (n,) of each user: float64 (users,)."""
        return self._sums(self.rows.user, values, self.rows.users)

    def by_item(self, values: np.ndarray) -> np.ndarray:
        """The sum of float32 values (n,) of each item: float64 (items,)."""
        return self._sums(self.rows.item, values, self.rows.items)

    def _sums(self, codes: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
        sums = np.zeros(size)
        for part in self.rows.parts():
            add_by_code(codes[part], values[part], sums)
        return sums


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
    given = BlockRows(rows, block, context, rows.included(block))
    residuals = rows.arrays.empty((len(rows), len(targets)), np.float32)
    user_weight = np.zeros((len(targets), rows.users))
    residual, hessian_weight = (rows.arrays.empty((len(rows),), np.float32) for _ in range(2))
    squares = 0.0
    for part in rows.parts():
        hessian_weight[part] = 0
        for place, target in enumerate(targets):
            of_target, weight = np.zeros((2, part.stop - part.start), np.float32)
            target_residuals(given, part, target, (of_target, weight))
            residuals[part, place] = of_target
            add_by_code(rows.user[part], weight, user_weight[place])
            hessian_weight[part] += weight
        residual[part] = residuals[part].sum(axis=1)
        squares += float(np.square(residual[part], dtype=np.float64).sum())
    excess = max(squares / max(float(user_weight.sum()), 1e-12), 1e-3)
    for part in rows.parts():
        residual[part] /= np.float32(excess)
        hessian_weight[part] /= np.float32(excess)
    of_targets = list(targets), residuals, user_weight, residual, hessian_weight, excess
    return Signals(rows, block, context, given.included, *of_targets)
