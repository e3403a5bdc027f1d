"""What a data set is to the steps: targets, modalities, and typed streams of its raw files.

A data set module subclasses `RawDataset` and is the only place that knows its files and columns. One more is a
description (described.py), or one new module, listed in `mma4ctr/datasets/__init__.py`.
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
        raw_width: longest vector of a dense modality; 0 for a bag.
        optional: it is used alone, and its absence is not worth a warning.
        at_most: `width` is a bound that the data need not reach.
    """

    name: str
    width: int
    kind: str
    raw_width: int = 0
    optional: bool = False
    at_most: bool = False


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
class InteractionChunk:
    """Some raw interactions in the file's order.

    Attributes:
        user: int32, positions among the kept users.
        item: int64 raw ids.
        device: int64 raw ids.
        time: int64.
        labels: uint8 0/1 for each target.
        row_hash: uint64 over every column of the raw row; equal rows have equal hashes.
        context: Columns of the rows themselves.
        user_values: Columns of the rows' users, for files that repeat them in each row.
        item_values: Columns of the rows' items, likewise.
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


@dataclass(frozen=True)
class ColumnChunk:
    """Columns of some users or items, from a table that lists each of them.

    Attributes:
        block: Where they stand.
        ids: int64 (n,).
        line: int64 (n,) from 0 within the block.
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
    """Vectors of some items: ids int64 (n,), values float32 (n, raw_width) filled up with zeros, length int32
    (n,) as in the file (0: the item has no vector), line int64 (n,) from 0 within the block; and the ids as they are
    written, where the numbers stand for other text.
    """

    block: Block
    ids: np.ndarray
    values: np.ndarray
    length: np.ndarray
    line: np.ndarray
    text: pa.Array | None = None


@dataclass(frozen=True)
class BagChunk:
    """Tokens of some items: ids int64 (n,), line int64 (n,) from 0 within the block; per token its row (position
    in `ids`), token int64 and weight float32; and the ids as they are written, as in `DenseChunk`.
    """

    block: Block
    ids: np.ndarray
    line: np.ndarray
    row: np.ndarray
    token: np.ndarray
    weight: np.ndarray
    text: pa.Array | None = None


def shown_id(chunk: DenseChunk | BagChunk | ColumnChunk, row: int) -> str:
    """An item's id as it stands in the file, for messages."""
    return str(chunk.ids[row] if chunk.text is None else chunk.text[row])


class RawDataset(ABC):
    """The raw files of one data set, found through path.json.

    Attributes:
        targets: what can be predicted; `default_targets` those that the steps take where none is named.
        min_interactions: users with fewer rows are left out.
        time_is_day: `time` is only a day and a user's rows stand in time order within it.
        rules: by target, what decides its label, where a target of one class is a mistake in it.
        negatives: unseen items to draw for each positive row.
        columns: The columns beside content, by side: `user`, `item` and `context`.
        hour: Whether hour and weekday of `time` are context columns.
        ticks_per_second: Units of `time` in a second; None if the file does not tell them.
    """

    name: str
    targets: tuple[str, ...]
    default_targets: tuple[str, ...]
    modalities: tuple[Modality, ...]
    min_interactions: int
    time_is_day: bool = False
    tracks: tuple[str, ...] = ()
    rules: Mapping[str, str] = MappingProxyType({})
    negatives: int = 0
    columns: Mapping[str, ColumnNames] = MappingProxyType({})
    hour: bool = False
    ticks_per_second: float | None = None

    def __init__(self, folder: Path, track: str | None = None) -> None:
        self.folder = folder
        self.track = track
        self.workers: Workers = Threads()

    @abstractmethod
    def interaction_files(self) -> list[Path]:
        """The files of raw interactions, in order; raises `UserError` where there is none."""

    @abstractmethod
    def read_users(self, bad: BadLines) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield (raw user ids, how many rows each has) for every part of the interaction file."""

    @abstractmethod
    def read_interactions(self, kept: IdIndex, bad: BadLines) -> Iterator[InteractionChunk]:
        """Yield the rows of the kept users. Rows of an unknown (-1) user or item are left out."""

    @abstractmethod
    def feature_files(self, modality: str) -> list[Path]:
        """The files that hold a modality, in order; empty where there is none."""

    @abstractmethod
    def read_features(self, modality: str, bad: BadLines) -> Iterator[DenseChunk | BagChunk]:
        """Yield a modality's features of all items, over all its files."""

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
        """UTF-8 bytes (n,): the `kind` (user, item) ids of the kept rows as they are written; None where they are
        the numbers. Known once `read_interactions` has been read.
        """
        return None

    def few_have_it(self, modality: str, present: np.ndarray, items: np.ndarray) -> str | None:
        """A warning where few items have a modality; raises `UserError` where that is a mistake.

        Args:
            present: bool (items,). items: ids as they are written, aligned.
        """
        return None


def hash_rows(columns: list[np.ndarray]) -> np.ndarray:
    """uint64 (rows,): a hash over aligned int64 columns, equal for equal rows."""
    total = np.full(len(columns[0]), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:
        total ^= column.view(np.uint64)
        total *= np.uint64(0xFF51AFD7ED558CCD)
        total ^= total >> np.uint64(32)
    return total
