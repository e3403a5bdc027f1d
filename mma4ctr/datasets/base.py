"""The interface of a data set: targets, modalities, and typed streams of its raw files.

A data set's module subclasses `RawDataset`; no other code knows its files and columns. To add a data set, write a
description (toml_spec.py), or a module that is listed in `mma4ctr/datasets/__init__.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.runtime.parallel import Threads, Workers
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.text_blocks import Block


@dataclass(frozen=True)
class Modality:
    """One kind of item features.

    Attributes:
        name: `visual`, `acoustic`, ...
        width: columns after PCA or SVD.
        kind: `dense` for vectors, `bag` for weighted tokens.
        raw_width: length of the longest raw vector; 0 for a bag.
        optional: it is only used alone, and its absence causes no warning.
        at_most: `width` is an upper bound; the data may give fewer columns.
    """

    name: str
    width: int
    kind: str
    raw_width: int = 0
    optional: bool = False
    at_most: bool = False


# The parts of a split, in the order of their codes 0, 1 and 2.
SPLIT_NAMES = ("train", "valid", "test")
# The split that comes with the data; in the second, the test rows are the validation rows too.
GIVEN, GIVEN_VALID_TEST = GIVEN_SPLITS = ("given", "given-valid-test")

# The raw value of a category that is unknown or missing.
MISSING = -1


@dataclass(frozen=True)
class ColumnNames:
    """The columns beside content of the users, of the items or of the rows themselves, by kind.

    Attributes:
        categories: Names of columns whose values are ids.
        numbers: Names of columns whose values are amounts.
    """

    categories: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """All columns, the categories first."""
        return (*self.categories, *self.numbers)


# By column, int64 (n,) raw values of categories, `MISSING` where there is none; float64 (n,) numbers, NaN likewise.
Values = dict[str, np.ndarray]


@dataclass(frozen=True)
class Histories:
    """Items that users chose before a row.

    Attributes:
        user: int32 (n,), positions among the kept users.
        time: int64 (n,), time of the row.
        row: int64 (listed items,), for each item the one of the n rows that lists it.
        item: int64 (listed items,), raw ids.
    """

    user: np.ndarray
    time: np.ndarray
    row: np.ndarray
    item: np.ndarray


@dataclass(frozen=True)
class InteractionChunk:
    """A part of the raw interactions in the file's order; all arrays have one element per row.

    Attributes:
        user: int32 positions among the kept users.
        item: int64 raw ids.
        device: int64 raw ids.
        time: int64.
        labels: uint8 0/1 by target.
        row_hash: uint64 hash of all columns of the raw row; equal rows have equal hashes.
        context: Columns of the rows themselves.
        user_values: Columns of the rows' users, for files that repeat them in each row.
        item_values: Columns of the rows' items, likewise.
        part: uint8 part of the split, 0 to 2, if the data set gives one.
        histories: Of some rows, among them each user's first one of the chunk; None if rows have none.
    """

    user: np.ndarray
    item: np.ndarray
    device: np.ndarray
    time: np.ndarray
    labels: dict[str, np.ndarray]
    row_hash: np.ndarray
    context: Values = field(default_factory=dict)
    user_values: Values = field(default_factory=dict)
    item_values: Values = field(default_factory=dict)
    part: np.ndarray | None = None
    histories: Histories | None = None


@dataclass(frozen=True)
class ColumnChunk:
    """Columns of some users or items, from a table that lists each of them.

    Attributes:
        block: Where they stand.
        ids: int64 (n,).
        line: int64 (n,) number of each row among those read from the block, from 0; see `Block.line_of`.
        values: The columns.
        text: The ids as they are written, if the numbers stand for text.
    """

    block: Block
    ids: np.ndarray
    line: np.ndarray
    values: Values
    text: pa.Array | None = None


@dataclass(frozen=True)
class DenseChunk:
    """Vectors of some items.

    Attributes:
        block: the lines or rows they were read from.
        ids: int64 (n,) item ids.
        values: float32 (n, raw_width), padded with zeros.
        length: int32 (n,) numbers of each vector in the file; 0: the item has no vector.
        line: int64 (n,) number of each item's row among those read from the block, from 0; see `Block.line_of`.
        text: the ids as written, if `ids` are hashes of text; else None.
    """

    block: Block
    ids: np.ndarray
    values: np.ndarray
    length: np.ndarray
    line: np.ndarray
    text: pa.Array | None = None


@dataclass(frozen=True)
class BagChunk:
    """Tokens of some items.

    Attributes:
        block: the lines or rows they were read from.
        ids: int64 (n,) item ids.
        line: int64 (n,) number of each item's row among those read from the block, from 0; see `Block.line_of`.
        row: (tokens,) position of each token's item in `ids`.
        token: int64 (tokens,).
        weight: float32 (tokens,).
        text: the ids as written, as in `DenseChunk`.
    """

    block: Block
    ids: np.ndarray
    line: np.ndarray
    row: np.ndarray
    token: np.ndarray
    weight: np.ndarray
    text: pa.Array | None = None


def shown_id(chunk: DenseChunk | BagChunk | ColumnChunk, row: int) -> str:
    """Return an item's id as written in the file, for messages."""
    return str(chunk.ids[row] if chunk.text is None else chunk.text[row])


class RawDataset(ABC):
    """The raw files of one data set, found through path.json.

    Attributes:
        name: the data set's name in tasks and paths.
        targets: labels that can be predicted.
        default_targets: the targets that the steps use by default.
        modalities: kinds of item features.
        min_interactions: users with fewer rows are left out.
        timed: The rows have times; otherwise `time` is their place in the files.
        time_is_day: `time` is a day number, and the rows of a user are in time order within a day.
        tracks: names of alternative interaction files.
        rules: the rule of each target's label, for messages about targets of one class.
        negatives: unseen items to sample for each positive row.
        columns: columns beside content by side: `user`, `item` and `context`.
        hour: whether the hour and weekday of `time` are context columns.
        ticks_per_second: units of `time` in a second; None if the file does not define them.
        split: the name of the split that the data set gives, one of `GIVEN_SPLITS`; empty if it gives none.
        test_labels: whether the test rows have labels; known after `read_interactions`.
    """

    name: str
    targets: tuple[str, ...]
    default_targets: tuple[str, ...]
    modalities: tuple[Modality, ...]
    min_interactions: int
    time_is_day: bool = False
    timed: bool = True
    tracks: tuple[str, ...] = ()
    rules: Mapping[str, str] = MappingProxyType({})
    negatives: int = 0
    columns: Mapping[str, ColumnNames] = MappingProxyType({})
    hour: bool = False
    ticks_per_second: float | None = None
    split: str = ""
    test_labels: bool = True

    def __init__(self, folder: Path, track: str | None = None) -> None:
        self.folder = folder
        self.track = track
        self.workers: Workers = Threads()

    @abstractmethod
    def interaction_files(self) -> list[Path]:
        """Return the files of raw interactions in order; raises `UserError` if there is none."""

    @abstractmethod
    def read_users(self, bad: BadLines) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (raw user ids, their numbers of rows) for each part of the interactions."""

    @abstractmethod
    def read_interactions(self, kept: IdIndex, bad: BadLines) -> Iterator[InteractionChunk]:
        """Yield the rows of the kept users; TikTok's rows with an unknown user or item (-1) are left out."""

    @abstractmethod
    def feature_files(self, modality: str) -> list[Path]:
        """Return the files of a modality in order; empty if there is none."""

    @abstractmethod
    def read_features(self, modality: str, bad: BadLines) -> Iterator[DenseChunk | BagChunk]:
        """Yield the features of all items of a modality, over all its files."""

    def columns_of(self, side: str) -> ColumnNames:
        """Names of the columns beside content of one side: `user`, `item` or `context`."""
        return self.columns.get(side, ColumnNames())

    def column_files(self, side: str) -> list[Path]:
        """The tables with columns of the users or items; empty if there is none."""
        return []

    def read_columns(self, side: str, bad: BadLines) -> Iterator[ColumnChunk]:
        """Yield the columns of users or items from their tables."""
        yield from ()

    def category_names(self, side: str, name: str, values: np.ndarray) -> np.ndarray | None:
        """UTF-8 bytes (n,): raw values of a category as they are written; None where they are the numbers."""
        return None

    def id_names(self, kind: str, ids: np.ndarray) -> np.ndarray | None:
        """Return the ids of users or items as written, available after `read_interactions`.

        Args:
            kind: `user` or `item`.
            ids: int64 (n,) ids of kept rows.

        Returns:
            UTF-8 bytes (n,), or None if the ids are written as these numbers.
        """
        return None

    def coverage_warning(self, modality: str, present: np.ndarray, items: np.ndarray) -> str | None:
        """Return a warning if few items have a modality.

        Args:
            modality: its name.
            present: bool (items,), whether each item has it.
            items: (items,) ids as written.

        Raises:
            UserError: No item has it because of a mistake in the description.
        """
        return None


def first_rows(user: np.ndarray, time: np.ndarray) -> np.ndarray:
    """int64 (users,), positions of the row with the smallest time of each user, int (n,) each; of equals the first."""
    order = np.lexsort((time, user))
    return order[np.flatnonzero(np.diff(user[order], prepend=-1))]


def hash_rows(columns: list[np.ndarray]) -> np.ndarray:
    """Return uint64 (rows,): a hash of aligned int64 columns, equal for equal rows."""
    total = np.full(len(columns[0]), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:
        total ^= column.view(np.uint64)
        total *= np.uint64(0xFF51AFD7ED558CCD)
        total ^= total >> np.uint64(32)
    return total
