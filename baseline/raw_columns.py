"""What the rivals of the comparison see of a row besides content: every stored column as it is, and rates.

A row has, in this order:

- the user and the item as categories;
- every column that step 1 has stored of the user, the item and the row: codes of categories, with 0 for a missing one,
  and numbers with NaN for a missing one;
- the hour and the weekday in UTC, if the data have times of day; the weekday only in a log of at least 21 days, as in
  features plus;
- for the user and for the item, the smoothed rate of every target and the number of rows, as features plus make them
  (mma4ctr/features/behavioral/rates.py);
- the columns of the given feature matrices.

Rates are out of fold: those of a training row are made without the rows of its fold, and those of all other rows from
all training rows. So no row sees its own outcomes, and no label of a validation or test row is seen at all.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from mma4ctr.data.interactions import TRAIN, Interactions, draws_of
from mma4ctr.data.log_columns import StoredColumn, stored_columns
from mma4ctr.features.behavioral.inputs import clock_codes
from mma4ctr.features.behavioral.rates import rates_and_counts
from mma4ctr.features.feature_matrix import FactorMatrix, RowGroup
from mma4ctr.features.user_embedding import draw_folds

FOLDS = 5
FOLD_SEED = 0


@dataclass(frozen=True)
class Column:
    """One column as a rival sees it.

    Attributes:
        name: For messages and tests: `user <name>`, `item <name>` or `context <name>`.
        values: Of the users, the items or all kept rows, as `side` says: codes, or float32 numbers.
        side: `user`, `item` or `context`.
        is_category: Whether the values are codes.
    """

    name: str
    values: np.ndarray
    side: str
    is_category: bool


def raw_columns(data: Interactions) -> list[Column]:
    """The ids, the stored columns and the clock.

    Args:
        data: Output of step 1.

    Returns:
        The columns in the order of a row.
    """

    def as_seen(side: str, column: StoredColumn) -> Column:
        return Column(f"{side} {column.name}", column.values, side, column.is_category)

    found = [
        Column("user id", np.arange(len(data.user_ids)), "user", True),
        Column("item id", np.arange(len(data.item_ids)), "item", True),
    ]
    for side in ("user", "item", "context"):
        found += [as_seen(side, column) for column in stored_columns(data.artifact, side)]
    found += [Column(f"context {name}", codes, "context", True) for name, codes in clock_codes(data).items()]
    return found


@dataclass(frozen=True)
class RateTables:
    """Rates and counts of the users or the items.

    Attributes:
        table: float32 (blocks, size, targets + 1), see `rates_and_counts`; block f is made without the rows of fold f,
            the last from all training rows.
        names: Of the columns.
    """

    table: np.ndarray
    names: list[str]


def rate_tables(data: Interactions, block: np.ndarray, side: str) -> RateTables:
    """Rates and counts of the users or the items, for every target of the data set.

    Args:
        data: Output of step 1.
        block: uint8 (rows,), the fold of each training row and the number of folds for other rows.
        side: `user` or `item`.

    Returns:
        The tables.
    """
    index, size = (data.user, len(data.user_ids)) if side == "user" else (data.item, len(data.item_ids))
    targets = sorted(name.removeprefix("label_") for name in data.artifact.array_names if name.startswith("label_"))
    train = np.flatnonzero(data.split == TRAIN)
    labels = [data.label(target)[train] for target in targets]
    table = rates_and_counts(index[train], size, labels, block[train], FOLDS)
    return RateTables(table, [*(f"{side} rate {target}" for target in targets), f"{side} rows"])


class RivalInputs:
    """The columns of any rows, put together when they are asked for.

    Args:
        data: Output of step 1.
        matrices: Feature matrices whose columns follow; all of the same rows.
        rates: Whether rates and counts are among the columns.
    """

    def __init__(self, data: Interactions, matrices: Sequence[FactorMatrix], *, rates: bool = True) -> None:
        self.data = data
        self.matrices = list(matrices)
        self.columns = raw_columns(data)
        self._block = draw_folds(data.split, FOLDS, FOLD_SEED, draws_of(data.artifact))
        self._rates = {side: rate_tables(data, self._block, side) for side in ("user", "item") if rates}

    @property
    def names(self) -> list[str]:
        """Names of all columns."""
        found = [column.name for column in self.columns]
        found += [name for rates in self._rates.values() for name in rates.names]
        for place, matrix in enumerate(self.matrices):
            found += [f"matrix {place} column {column}" for column in range(matrix.in_features)]
        return found

    @property
    def categories(self) -> list[int]:
        """Positions of the columns that hold codes."""
        return [place for place, column in enumerate(self.columns) if column.is_category]

    def groups(self, part: str) -> list[RowGroup]:
        """The rows of a part of the split, `train`, `valid` or `test`, in each matrix."""
        return [getattr(matrix, part) for matrix in self.matrices]

    def rows(self, part: str, chosen: slice) -> np.ndarray:
        """The columns of some rows.

        Args:
            part: `train`, `valid` or `test`.
            chosen: Positions in the part.

        Returns:
            float64 (n, columns), in which codes are exact.
        """
        groups = self.groups(part)
        rows = groups[0].rows[chosen]
        user, item = self.data.user[rows], self.data.item[rows]
        places = {"user": user, "item": item, "context": rows}
        parts = [np.stack([column.values[places[column.side]].astype(np.float64) for column in self.columns], axis=1)]
        parts += [rates.table[self._block[rows], places[side]] for side, rates in self._rates.items()]
        for matrix, group in zip(self.matrices, groups, strict=True):
            parts.append(group.features(matrix, chosen).numpy())
        return np.concatenate(parts, axis=1, dtype=np.float64)
