"""LightGBM and the bias model, the models of the comparison that need no RecBole. Started by comp.py with a job file,
as recbole_model.py is, and answers in the same way.

LightGBM (Ke et al. 2017) sees the columns of MMa4CTR's feature matrix, and user and item as categories. Ten trees
are its epoch.

The bias model is the reference: the share of positives among the training rows of the user and among those of the
item, each drawn to the share of all by `PRIOR` rows, added on the logit scale:

    logit p(user, item) = logit p(user) + logit p(item) - logit p
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mma4ctr.runtime.environment

import lightgbm
import numpy as np
import torch
from scipy.special import expit
from worker import answering, train_and_score, write_rows

from mma4ctr.data.interactions import load_interactions
from mma4ctr.features.feature_matrix import FactorMatrix, RowGroup, load_matrix
from mma4ctr.storage.paths import load_paths

TREES_AN_EPOCH = 10
LEARNING_RATE = 0.05
PRIOR = 20.0
CHUNK_ROWS = 65_536


def smoothed_shares(index: np.ndarray, label: np.ndarray, size: int) -> np.ndarray:
    """float64 (size,): the log-odds of a positive for each user or item, less those of all rows.

    Args:
        index: int (rows,) below `size`. label: 0/1 (rows,).
    """
    share = label.mean()
    rate = (np.bincount(index, label, size) + PRIOR * share) / (np.bincount(index, minlength=size) + PRIOR)
    difference: np.ndarray = np.log(rate / (1 - rate)) - np.log(share / (1 - share))
    return difference


def feature_rows(matrix: FactorMatrix, rows: RowGroup, user: np.ndarray, chosen: slice) -> np.ndarray:
    """float64 (n, in_features + 2): some rows of the matrix, then user and item."""
    features = rows.features(matrix, chosen).double().numpy()
    ids = np.stack([user[rows.rows[chosen]], rows.item[chosen].numpy()], axis=1)
    return np.concatenate([features, ids], axis=1)


class TrainingRows(lightgbm.Sequence):
    """The training rows for LightGBM, put together a batch at a time."""

    batch_size = CHUNK_ROWS

    def __init__(self, matrix: FactorMatrix, user: np.ndarray) -> None:
        self._matrix, self._user = matrix, user

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return feature_rows(self._matrix, self._matrix.train, self._user, index)
        chosen = np.atleast_1d(index)
        found = [feature_rows(self._matrix, self._matrix.train, self._user, slice(row, row + 1)) for row in chosen]
        rows = np.concatenate(found)
        return rows[0] if np.isscalar(index) else rows

    def __len__(self) -> int:
        return len(self._matrix.train)


class Trees:
    """LightGBM, grown epoch by epoch."""

    learning_rate = LEARNING_RATE

    def __init__(self, matrix: FactorMatrix, user: np.ndarray, seed: int, threads: int) -> None:
        width = matrix.in_features
        settings = {
            "objective": "binary",
            "learning_rate": LEARNING_RATE,
            "num_leaves": 31,
            "min_data_in_leaf": 100,
            "feature_fraction": 0.5,
            "categorical_feature": [width, width + 1],
            "seed": seed,
            "num_threads": threads,
            "deterministic": True,
            "verbosity": -1,
        }
        rows = TrainingRows(matrix, user)
        data = lightgbm.Dataset(rows, matrix.train.label.numpy(), params=settings)
        self._matrix, self._user = matrix, user
        self._booster = lightgbm.Booster(settings, data)

    def train_epoch(self) -> None:
        for _ in range(TREES_AN_EPOCH):
            self._booster.update()

    def predict(self, rows: RowGroup) -> np.ndarray:
        def chunks() -> Iterator[np.ndarray]:
            for start in range(0, len(rows), CHUNK_ROWS):
                chunk = feature_rows(self._matrix, rows, self._user, slice(start, start + CHUNK_ROWS))
                yield np.asarray(self._booster.predict(chunk))

        return np.concatenate(list(chunks()))

    @property
    def parameters(self) -> int:
        """Leaf values and thresholds."""
        leaves = [tree["num_leaves"] for tree in self._booster.dump_model()["tree_info"]]
        return sum(2 * count - 1 for count in leaves)


class Rates:
    """The reference."""

    learning_rate = 0.0

    def __init__(self, matrix: FactorMatrix, user: np.ndarray) -> None:
        self._matrix, self._user = matrix, user
        self._sizes = int(user.max()) + 1, len(matrix.item_part)

    def train_epoch(self) -> None:
        train = self._matrix.train
        label = train.label.double().numpy()
        self._by_user = smoothed_shares(self._user[train.rows], label, self._sizes[0])
        self._by_item = smoothed_shares(train.item.numpy(), label, self._sizes[1])
        self._base = float(np.log(label.mean() / (1 - label.mean())))

    def predict(self, rows: RowGroup) -> np.ndarray:
        return expit(self._base + self._by_user[self._user[rows.rows]] + self._by_item[rows.item.numpy()])

    @property
    def parameters(self) -> int:
        """One number for each user and each item, and the share of all."""
        return sum(self._sizes) + 1


def main() -> None:
    answer = answering()
    job = json.loads(Path(sys.argv[1]).read_text())
    paths = load_paths(job["paths"])
    data = load_interactions(paths, job["dataset"])
    matrix = load_matrix(paths, job["task"], job["variant"], torch.device("cpu"))
    scored = {"valid": matrix.valid, "test": matrix.test}
    for name, rows in scored.items():
        ids = data.user_names[data.user[rows.rows]], data.item_names[data.item[rows.rows]]
        write_rows(Path(job["out"]), name, *ids, rows.label.numpy())
    started = time.perf_counter()
    model: Trees | Rates
    if job["model"] != "bias model":
        model = Trees(matrix, data.user, job["seed"], job["threads"])
    else:
        model = Rates(matrix, data.user)
    seconds = time.perf_counter() - started

    def train_epoch(epoch: int) -> dict[str, float]:
        model.train_epoch()
        return {}

    def told() -> dict[str, Any]:
        return {
            "parameters": model.parameters,
            "rows_learned": len(matrix.train),
            "batch_size": len(matrix.train),
            "learning_rate": model.learning_rate,
            "device": "cpu",
        }

    train_and_score(job, answer, train_epoch, lambda part: model.predict(scored[part]), told, seconds)


if __name__ == "__main__":
    main()
