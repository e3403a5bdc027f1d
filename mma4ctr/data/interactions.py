"""The kept interactions: what step 1 writes and every later step reads."""

from dataclasses import dataclass

import numpy as np

from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.artifacts import Artifact, read_artifact
from mma4ctr.storage.paths import Paths

TRAIN, VALID, TEST = 0, 1, 2
SPLIT_NAMES = ("train", "valid", "test")


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
