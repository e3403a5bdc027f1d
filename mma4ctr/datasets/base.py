"""What a data set is to the steps: targets, modalities, and typed streams of its raw files.

A data set module subclasses `RawDataset` and is the only place that knows its files and columns. A third data
set is one new module, listed in `mma4ctr/datasets/__init__.py`.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Self

import numpy as np

from mma4ctr.interactions import IdIndex
from mma4ctr.parallel import Threads, Workers
from mma4ctr.paths import Paths
from mma4ctr.rawfiles import BadLines, Block


@dataclass(frozen=True)
class Modality:
    """One kind of item features.

    Attributes:
        name: `visual`, `acoustic`, ...
        width: columns after PCA or SVD.
        kind: `dense` for vectors, `bag` for weighted tokens.
        raw_width: longest vector of a dense modality; 0 for a bag.
        optional: its absence is not worth a warning.
    """

    name: str
    width: int
    kind: str
    raw_width: int = 0
    optional: bool = False


@dataclass(frozen=True)
class InteractionChunk:
    """Some raw interactions in the file's order.

    Attributes:
        user: int32, positions among the kept users.
        item, device: int64 raw ids. time: int64.
        labels: uint8 0/1 for each target.
        row_hash: uint64 over every column of the raw row; equal rows have equal hashes.
    """

    user: np.ndarray
    item: np.ndarray
    device: np.ndarray
    time: np.ndarray
    labels: dict[str, np.ndarray]
    row_hash: np.ndarray


@dataclass(frozen=True)
class DenseChunk:
    """Vectors of some items: ids int64 (n,), values float32 (n, raw_width) filled up with zeros, length int32
    (n,) as in the file (0: the item has no vector), line int64 (n,) from 0 within the block."""

    block: Block
    ids: np.ndarray
    values: np.ndarray
    length: np.ndarray
    line: np.ndarray


@dataclass(frozen=True)
class BagChunk:
    """Tokens of some items: ids int64 (n,), line int64 (n,) from 0 within the block; and per token its row (position
    in `ids`), token int64 and weight float32."""

    block: Block
    ids: np.ndarray
    line: np.ndarray
    row: np.ndarray
    token: np.ndarray
    weight: np.ndarray


class RawDataset(ABC):
    """The raw files of one data set, found through path.json."""

    name: ClassVar[str]
    targets: ClassVar[tuple[str, ...]]
    modalities: ClassVar[tuple[Modality, ...]]
    min_interactions: ClassVar[int]
    # True where `time` is only a day and a user's rows stand in time order within it.
    time_is_day: ClassVar[bool]
    tracks: ClassVar[tuple[str, ...]] = ()

    def __init__(self, folder: Path, track: str | None = None) -> None:
        self.folder = folder
        self.track = track
        self.workers: Workers = Threads()

    @classmethod
    @abstractmethod
    def find(cls, paths: Paths, track: str | None) -> Self | None:
        """The data set that path.json names, None where its folder is not there."""

    @abstractmethod
    def interaction_file(self) -> Path:
        """The file of raw interactions; raises `UserError` where it is missing."""

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


def hash_rows(columns: list[np.ndarray]) -> np.ndarray:
    """uint64 (rows,): a hash over aligned int64 columns, equal for equal rows."""
    total = np.full(len(columns[0]), 0x9E3779B97F4A7C15, np.uint64)
    for column in columns:
        total ^= column.view(np.uint64)
        total *= np.uint64(0xFF51AFD7ED558CCD)
        total ^= total >> np.uint64(32)
    return total
