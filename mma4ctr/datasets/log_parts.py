"""The files of a described log by part of its split, their parsed rows, and labels that test rows may lack."""

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.arrow import Column, missing_cells, plain_array
from mma4ctr.datasets.base import SPLIT_NAMES
from mma4ctr.datasets.columns import NO_TOKENS, Ids, Tokens
from mma4ctr.datasets.roles import Role, columns_of
from mma4ctr.datasets.table_readers import Source
from mma4ctr.datasets.toml_spec import Description
from mma4ctr.runtime.errors import UserError

TEST_CODE = SPLIT_NAMES.index("test")
# The label of a test row without one.
NO_LABEL = 255


@dataclass(frozen=True)
class LogPart:
    """Files of the interactions that are read in the same way.

    Attributes:
        source: The files.
        code: The part of the split of their rows; None if there is no given split, or a column gives it.
        lacking: Columns of labels that the files do not have.
    """

    source: Source
    code: int | None = None
    lacking: frozenset[str] = frozenset()

    def columns(self, description: Description) -> list[str]:
        """Names of the columns that are read."""
        return [name for name in columns_of(description) if name not in self.lacking]

    def required(self, description: Description) -> list[str]:
        """Names of the columns that the files must have; `columns`, and the ids of test rows for a submission."""
        split = description.split
        named = split.id if split and self.code in (None, TEST_CODE) else None
        return [*dict.fromkeys([*self.columns(description), *([named] if named else [])])]

    def codes(self, table: pa.Table, column: Role | None) -> np.ndarray | None:
        """Return the part of the split of each row, or None if there is no given split.

        Args:
            table: Rows of the files.
            column: The role of the column that gives the parts, if one does.

        Returns:
            uint8 (n,), or None.

        Raises:
            BadLine: The column has an unknown value.
        """
        if self.code is not None:
            return np.full(len(table), self.code, np.uint8)
        codes: np.ndarray | None = column.read(table[column.column]) if column else None
        return codes


def log_parts(description: Description) -> list[LogPart]:
    """Return the files of the interactions by part of the split.

    The files of test rows may lack the columns of all labels.

    Args:
        description: The data set.

    Returns:
        The parts, in the order of training, validation and test rows.

    Raises:
        UserError: A file is missing, belongs to two parts, or lacks a column.
    """
    split = description.split
    if split is None or split.column is not None:
        return [LogPart(description.interactions.source)]
    split.check_files()
    labels = {rule.column for rule in description.rules.values() if rule.column}
    parts = []
    for name, source in split.sources.items():
        lacking: frozenset[str] = frozenset()
        if name == "test":
            present = {column for path in source.with_rows() for column in source.columns(path)}
            lacking = frozenset(labels if not labels & present else ())
        parts.append(LogPart(source, SPLIT_NAMES.index(name), lacking))
    return parts


def read_labels(role: Role, column: Column, part: np.ndarray | None) -> np.ndarray:
    """Read a column of labels; empty cells of test rows are `NO_LABEL`.

    Args:
        role: The role of the column.
        column: The cells.
        part: uint8 (n,), as `LogPart.codes` returns it.

    Returns:
        uint8 (n,).

    Raises:
        BadLine: A value is not a label.
    """
    if part is None or not (is_test := part == TEST_CODE).any():
        labels: np.ndarray = role.read(column)
        return labels
    missing = missing_cells(column, role.column) & is_test
    labels = np.full(len(missing), NO_LABEL, np.uint8)
    if not missing.all():
        labels[~missing] = role.read(plain_array(column).take(pa.array(np.flatnonzero(~missing))))
    return labels


@dataclass
class TestLabels:
    """Counts the test rows with and without labels.

    Attributes:
        description: The data set, for messages.
        labelled: Number of labels of test rows.
        missing: Number of labels that test rows lack.
    """

    description: Description
    labelled: int = 0
    missing: int = 0
    _columns: set[str] = field(default_factory=set)

    def fill(self, labels: dict[str, np.ndarray], part: np.ndarray) -> dict[str, np.ndarray]:
        """Count the labels of test rows, and replace missing ones by 0.

        Args:
            labels: uint8 (n,) by target.
            part: uint8 (n,), the part of each row.

        Returns:
            uint8 (n,) of 0 and 1 by target.
        """
        found = {}
        for target, label in labels.items():
            missing = label == NO_LABEL
            self.missing += int(missing.sum())
            self.labelled += int(np.count_nonzero(part == TEST_CODE)) - int(missing.sum())
            if missing.any():
                self._columns.add(str(self.description.rules[target].column))
            found[target] = np.where(missing, np.uint8(0), label)
        return found

    def check(self) -> None:
        """Raise `UserError` if some test rows have labels and others do not."""
        if self.missing and self.labelled:
            raise UserError(
                f"{self.description.where} [split]: test: {self.missing:,} labels are missing, {self.labelled:,} are "
                f"there (columns {', '.join(sorted(self._columns))}); give all test rows labels, or none"
            )


@dataclass(frozen=True)
class ParsedRows:
    """Interactions of the kept users in one block, before device codes and positions in the log are known.

    Attributes:
        user: int32 positions among the kept users.
        user_ids: ids of the users.
        item: ids of the items.
        device: ids of the devices; None if there is no such column.
        time: int64; None if the position in the log is the time.
        labels: uint8 0/1 by target.
        row_hash: uint64, as in `InteractionChunk`.
        categories: context columns that are categories.
        numbers: context columns that are numbers.
        part: as in `InteractionChunk`.
        listing: int64 (n,), the rows whose history was read; None if rows have none.
        listed: int64 row of `listing` and int64 raw id of each item in the histories.
    """

    user: np.ndarray
    user_ids: Ids
    item: Ids
    device: Ids | None
    time: np.ndarray | None
    labels: dict[str, np.ndarray]
    row_hash: np.ndarray
    categories: dict[str, Ids]
    numbers: dict[str, np.ndarray]
    part: np.ndarray | None = None
    listing: np.ndarray | None = None
    listed: Tokens = NO_TOKENS
