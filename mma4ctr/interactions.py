"""The kept interactions: what step 1 writes and every later step reads."""

from dataclasses import dataclass

import numpy as np

from mma4ctr.artifacts import Artifact, read_artifact
from mma4ctr.parallel import in_order
from mma4ctr.paths import Paths

TRAIN, VALID, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "valid", "test")


class IdCollector:
    """The distinct ids of a stream of parts."""

    _LARGEST_FLAG = 1 << 26

    def __init__(self) -> None:
        self._flags = np.zeros(0, bool)
        self._others = np.empty(0, np.int64)

    def add(self, ids: np.ndarray) -> None:
        """Take in int64 (n,). Small ids are flagged, which is some ten times faster than sorting them."""
        small = (ids >= 0) & (ids < self._LARGEST_FLAG)
        if not small.all():
            self._others = np.union1d(self._others, ids[~small])
            ids = ids[small]
        needed = int(ids.max(initial=-1)) + 1
        if needed > len(self._flags):
            self._flags = np.concatenate([self._flags, np.zeros(needed - len(self._flags), bool)])
        self._flags[ids] = True

    def ids(self) -> np.ndarray:
        """int64, sorted, distinct."""
        return np.union1d(np.flatnonzero(self._flags), self._others).astype(np.int64)


class IdIndex:
    """From raw ids to their positions in a sorted id table.

    A direct table is some five times faster than a binary search for each id, so it is used where the range
    of ids is small enough.
    """

    _LARGEST_TABLE = 1 << 26  # entries of 4 bytes

    def __init__(self, ids: np.ndarray) -> None:
        """`ids`: int64, sorted, distinct."""
        self.ids = ids
        self._table: np.ndarray | None = None
        self._low = int(ids[0]) if len(ids) else 0
        span = int(ids[-1]) - self._low + 1 if len(ids) else 0
        if 0 < span <= min(self._LARGEST_TABLE, 64 * len(ids) + (1 << 16)):
            self._table = np.full(span + 1, -1, np.int32)
            self._table[ids - self._low] = np.arange(len(ids), dtype=np.int32)

    def __len__(self) -> int:
        return len(self.ids)

    def positions(self, values: np.ndarray) -> np.ndarray:
        """int32 position of each value, -1 where it is not in the table."""
        if self._table is not None:
            # Everything outside of the range goes to the last entry, which is -1. What is compared are the ids: the
            # difference of two that are far apart does not fit into 64 bits.
            outside = (values < self.ids[0]) | (values > self.ids[-1])
            return self._table[np.where(outside, len(self._table) - 1, values - self._low)]
        if not len(self.ids):
            return np.full(len(values), -1, np.int32)
        place = np.minimum(np.searchsorted(self.ids, values), len(self.ids) - 1)
        return np.where(self.ids[place] == values, place, -1).astype(np.int32)


def id_names(artifact: Artifact, kind: str) -> np.ndarray:
    """(n,): the ids of step 1's `user`s or `item`s as the raw files write them: text where integers stand for it."""
    if f"{kind}_names" in artifact.array_names:
        return np.char.decode(artifact.array(f"{kind}_names"), "utf-8")
    return artifact.array(f"{kind}_ids")


def sums_of_others(by_fold: np.ndarray) -> np.ndarray:
    """From sums (folds, ...) of each fold to (folds + 1, ...): of all folds but one, for each, and of all.

    A sum over the other folds, not the total less the fold: the fold's labels must not touch even the last digit.
    """
    every = range(len(by_fold))
    others = [[fold for fold in every if fold != left_out] for left_out in every]
    return np.stack([by_fold[rest].sum(axis=0) for rest in others] + [by_fold.sum(axis=0)])


@dataclass(frozen=True)
class Interactions:
    """The kept rows of one data set as aligned arrays, ordered by user and time.

    Attributes:
        artifact: the folder they were read from.
        user, item: int32 (rows,), positions in `user_ids`, `item_ids`.
        device: int64 (rows,), raw device.
        time: (rows,) int64 as in the file, or float64 day + position within the day.
        split: uint8 (rows,), TRAIN, VALID or TEST.
        user_ids, item_ids: int64, sorted raw ids, or the numbers that stand for them: see `user_names`.
    """

    artifact: Artifact
    user: np.ndarray
    item: np.ndarray
    device: np.ndarray
    time: np.ndarray
    split: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray

    def label(self, target: str) -> np.ndarray:
        """uint8 (rows,) of 0 and 1."""
        return self.artifact.array(f"label_{target}")

    @property
    def user_names(self) -> np.ndarray:
        """(users,): ids as the raw files write them, text where the integers stand for it."""
        return id_names(self.artifact, "user")

    @property
    def item_names(self) -> np.ndarray:
        """(items,): see `user_names`."""
        return id_names(self.artifact, "item")

    def __len__(self) -> int:
        return len(self.user)


def interactions_artifact(paths: Paths, dataset: str) -> Artifact:
    """The output of step 1 for a data set; raises `UserError` as `read_artifact` does."""
    return read_artifact(paths.graph / dataset, "preprocess_inter.py", dataset=dataset)


def features_artifact(paths: Paths, dataset: str) -> Artifact:
    """The output of step 2 for a data set; raises `UserError` as `read_artifact` does."""
    return read_artifact(paths.modal / dataset, "preprocess_multimodal.py", dataset=dataset)


def user_embedding_artifact(paths: Paths, task: str) -> Artifact:
    """The output of step 3 for a task; raises `UserError` as `read_artifact` does."""
    return read_artifact(paths.user_embedding / task, "get_user_embedding.py", task=task)


def load_interactions(paths: Paths, dataset: str) -> Interactions:
    """Read the arrays of step 1; raises `UserError` where they are missing or not what step 1 wrote."""
    artifact = interactions_artifact(paths, dataset)
    names = ("user", "item", "device", "time", "split", "user_ids", "item_ids")
    reads = dict(in_order(artifact.array, names))  # all of them done, so that no thread is left where one is refused
    return Interactions(artifact, **{name: read.result() for name, read in reads.items()})
