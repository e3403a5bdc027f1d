"""The kept interactions: what step 1 writes and every later step reads."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from mma4ctr.data.row_order import groups_of
from mma4ctr.datasets.base import SPLIT_NAMES
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.artifacts import Artifact, read_artifact
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.row_arrays import RowArrays

TRAIN, VALID, TEST = range(len(SPLIT_NAMES))
# The labelled rows that the user embedding may use: the training rows, or those of every split.
EVIDENCE = ("train", "all")


def id_names(artifact: Artifact, kind: str) -> np.ndarray:
    """Return the ids of users or items as the raw files write them.

    Args:
        artifact: The output of step 1.
        kind: `user` or `item`.

    Returns:
        (n,): text where step 1 replaced text ids by integers, else int64.
    """
    if f"{kind}_names" in artifact.array_names:
        return np.char.decode(artifact.array(f"{kind}_names"), "utf-8")
    return artifact.array(f"{kind}_ids")


def has_test_labels(artifact: Artifact) -> bool:
    """Return whether the labels of the test rows are known, given the output of step 1."""
    return bool(artifact.manifest.get("test_labels", True))


def each_sum_of_others(by_fold: np.ndarray) -> Iterator[np.ndarray]:
    """Sum over all folds but one, for each fold in turn, and over all folds.

    Each sum is added up from the other folds, not computed as the total less the fold, so a fold's labels cannot change
    even the last digit of its own sum.

    Args:
        by_fold: (folds, ...), sums of each fold.

    Yields:
        (...) for each fold without it, then that of all folds.
    """
    for left_out in range(len(by_fold)):
        total = by_fold[:0].sum(axis=0)  # zeros; an index of the others would copy them
        for fold, own in enumerate(by_fold):
            if fold != left_out:
                total += own
        yield total
    yield by_fold.sum(axis=0)


def sums_of_others(by_fold: np.ndarray) -> np.ndarray:
    """The sums of `each_sum_of_others` as one array, (folds + 1, ...)."""
    return np.stack(list(each_sum_of_others(by_fold)))


@dataclass(frozen=True, kw_only=True)
class LogRows:
    """The kept rows of a log, ordered by user and time.

    Attributes:
        user: int32 (rows,), positions of users.
        item: int32 (rows,), positions of items.
        split: uint8 (rows,), TRAIN, VALID or TEST.
        arrays: Makes further arrays of rows.
    """

    user: np.ndarray
    item: np.ndarray
    split: np.ndarray
    arrays: RowArrays = field(default_factory=RowArrays)

    def __len__(self) -> int:
        return len(self.user)

    def parts(self) -> Iterator[slice]:
        """Parts that cover all rows; see `RowArrays.parts`."""
        return self.arrays.parts(len(self))

    def rows_of(self, split: int) -> int:
        """Number of the training, validation or test rows, given TRAIN, VALID or TEST."""
        return sum(int(np.count_nonzero(self.split[part] == split)) for part in self.parts())

    @cached_property
    def training(self) -> int:
        """Number of training rows."""
        return self.rows_of(TRAIN)

    def of_training(self, values: np.ndarray) -> np.ndarray:
        """The values (rows, ...) of the training rows."""
        made, first = self.arrays.empty((self.training, *values.shape[1:]), values.dtype), 0
        for part in self.parts():
            found = values[part][self.split[part] == TRAIN]
            made[first : first + len(found)] = found
            first += len(found)
        return made


def draws_of(artifact: Artifact) -> np.ndarray | None:
    """The draw of each row of step 1's output: a row and the negatives that were drawn for it.

    A user's share of positives is the same in every draw. So a part of a draw tells the labels of its other rows, and
    all of them belong in one fold and in one part of the split.

    Returns:
        int64 (rows,), ascending; None if no negatives were drawn.
    """
    if not artifact.settings.get("negatives"):
        return None
    # The drawn rows follow their row and have its time.
    return groups_of(artifact.array("user"), artifact.array("time"))[1]


def draws_setting(artifact: Artifact) -> dict[str, int]:
    """The setting of folds and splits of rows with sampled negatives; those of earlier versions parted the draws."""
    return {"draws": 1} if artifact.settings.get("negatives") else {}


@dataclass(frozen=True, kw_only=True)
class Interactions(LogRows):
    """The kept rows of one data set as aligned arrays.

    Attributes:
        artifact: The output of step 1.
        device: int64 (rows,), raw device ids.
        time: (rows,), int64 as in the file, or float64 day plus position within the day.
        user_ids: int64 (users,), sorted raw ids, or the integers that replace text ids; see `user_names`.
        item_ids: int64 (items,), likewise.
    """

    artifact: Artifact
    device: np.ndarray
    time: np.ndarray
    user_ids: np.ndarray
    item_ids: np.ndarray

    def label(self, target: str) -> np.ndarray:
        """Return the labels of a target: uint8 (rows,) of 0 and 1."""
        return self.arrays.open(self.artifact.file(f"label_{target}.npy"))

    @property
    def user_names(self) -> np.ndarray:
        """(users,): ids as the raw files write them; see `id_names`."""
        return id_names(self.artifact, "user")

    @property
    def item_names(self) -> np.ndarray:
        """(items,): ids as the raw files write them; see `id_names`."""
        return id_names(self.artifact, "item")


def interactions_artifact(paths: Paths, dataset: str) -> Artifact:
    """Open the output of step 1 for a data set; raises `UserError` as `read_artifact` does."""
    return read_artifact(paths.graph / dataset, "preprocess_inter.py", dataset=dataset)


def features_artifact(paths: Paths, dataset: str) -> Artifact:
    """Open the output of step 2 for a data set; raises `UserError` as `read_artifact` does."""
    return read_artifact(paths.modal / dataset, "preprocess_multimodal.py", dataset=dataset)


def user_embedding_artifact(paths: Paths, task: str) -> Artifact:
    """Open the output of step 3 for a task; raises `UserError` as `read_artifact` does."""
    return read_artifact(paths.user_embedding / task, "get_user_embedding.py", task=task)


def load_interactions(paths: Paths, dataset: str) -> Interactions:
    """Open the arrays of step 1; raises `UserError` if they are missing or damaged."""
    artifact = interactions_artifact(paths, dataset)
    names = ("user", "item", "device", "time", "split", "user_ids", "item_ids")
    arrays = RowArrays(paths.temp)

    def opened(name: str) -> np.ndarray:
        return arrays.open(artifact.file(f"{name}.npy"))

    reads = dict(in_order(opened, names))  # wait for all, so that no thread is left running after an error
    return Interactions(artifact=artifact, **{name: read.result() for name, read in reads.items()}, arrays=arrays)
