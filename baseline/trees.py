"""LightGBM (Ke et al. 2017) and CatBoost (Prokhorenkova et al. 2018) on the columns of `RivalInputs`.

Ten trees are an epoch. After some number of epochs rows are scored with as many of its trees as had the best AUC on the
validation rows; that is the early stop, and the only use of validation labels. No more trees are grown after `PATIENCE`
epochs without a better one. Test rows are only scored.

LightGBM splits categories by their gradients. CatBoost replaces each category, ids included, by ordered target
statistics of its own, and gets no rates: beside its statistics of the id, an out-of-fold rate betrays the labels of the
fold. With rates its validation AUC on clicks of KuaiRand was best after 60 trees, at 0.7272 (with combinations of up to
four categories).
"""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import catboost
import lightgbm
import numpy as np
import pandas as pd
from raw_columns import RivalInputs
from scipy.special import expit

from mma4ctr.evaluation.metrics import auc

TREES_AN_EPOCH = 10
LEARNING_RATE = 0.05
PATIENCE = 10
CHUNK_ROWS = 65_536
# Left alone, CatBoost combines at most one category with fewer than 200 trees and four with more. Neither is better
# everywhere: best validation AUC with one and four is 0.7321 and 0.7139 on clicks of KuaiRand, 0.7694 and 0.7736 on the
# demo's tiktok_like.
COMPLEXITIES = (1, 4)
TRIAL_EPOCHS = 5
# Best validation AUC on clicks of KuaiRand: 0.7336 with 0.1, 0.7330 with 0.2 (200 trees), 0.7321 with 0.05 (150 trees).
CATBOOST_LEARNING_RATE = 0.1


@dataclass(frozen=True)
class TreeSettings:
    """How trees are grown.

    Attributes:
        epochs: Largest number of epochs.
        seed: Of the samples of columns and rows.
        threads: Number of threads.
    """

    epochs: int
    seed: int
    threads: int


class Trees(Protocol):
    """Boosted trees that are grown epoch by epoch.

    Attributes:
        learning_rate: Shrinkage of each tree.
        patience: Epochs without a better validation AUC before growing ends.
    """

    learning_rate: float
    patience: int

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Grow the trees of an epoch; `seconds` is returned if they were grown at another time."""

    def predict(self, part: str) -> np.ndarray:
        """float64 (rows,): the probabilities of the rows of a part, by the best epoch so far."""

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation AUC so far."""

    @property
    def parameters(self) -> int:
        """Number of leaf values and thresholds up to the best epoch."""


def row_chunks(inputs: RivalInputs, part: str) -> Iterator[np.ndarray]:
    """The columns of a part, some rows at a time."""
    for start in range(0, len(inputs.groups(part)[0]), CHUNK_ROWS):
        yield inputs.rows(part, slice(start, start + CHUNK_ROWS))


class TrainingRows(lightgbm.Sequence):
    """The training rows for LightGBM, put together a chunk at a time.

    LightGBM draws the rows that decide the bins one by one, in ascending order, so the last chunk is kept for them.
    """

    batch_size = CHUNK_ROWS

    def __init__(self, inputs: RivalInputs) -> None:
        self._inputs = inputs
        self._chunk: tuple[int, np.ndarray] | None = None

    def __getitem__(self, index: Any) -> np.ndarray:
        if isinstance(index, slice):
            return self._inputs.rows("train", index)
        number, place = divmod(int(index), CHUNK_ROWS)
        if self._chunk is None or self._chunk[0] != number:
            rows = slice(number * CHUNK_ROWS, min((number + 1) * CHUNK_ROWS, len(self)))
            self._chunk = number, self._inputs.rows("train", rows)
        row: np.ndarray = self._chunk[1][place]
        return row

    def __len__(self) -> int:
        return len(self._inputs.groups("train")[0])


class LightGBMTrees:
    """LightGBM; see `Trees`."""

    uses_rates = True
    learning_rate = LEARNING_RATE
    patience = PATIENCE

    def __init__(self, inputs: RivalInputs, settings: TreeSettings) -> None:
        options = {
            "objective": "binary",
            "learning_rate": LEARNING_RATE,
            "num_leaves": 31,
            "min_data_in_leaf": 100,
            "feature_fraction": 0.5,
            # On clicks of KuaiRand validation AUC is 0.7341 with both, 0.7311 with the defaults of 10.
            "cat_smooth": 100.0,
            "cat_l2": 100.0,
            "seed": settings.seed,
            "num_threads": settings.threads,
            "deterministic": True,
            "verbosity": -1,
        }
        rows = TrainingRows(inputs)
        label = inputs.groups("train")[0].label.numpy()
        data = lightgbm.Dataset(rows, label, params=options, categorical_feature=inputs.categories)
        self._inputs = inputs
        self._booster = lightgbm.Booster(options, data)
        self._valid_label = inputs.groups("valid")[0].label.numpy().astype(np.uint8)
        self._valid_logit = np.zeros(len(self._valid_label))
        self._best_auc = -1.0
        self._grown = self.best_epoch = 0

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Grow ten trees, unless growing has ended."""
        if self._grown - self.best_epoch >= PATIENCE:
            return {}
        for _ in range(TREES_AN_EPOCH):
            self._booster.update()
        self._valid_logit += self._predict("valid", self._grown * TREES_AN_EPOCH, TREES_AN_EPOCH)
        self._grown += 1
        now = auc(self._valid_label, self._valid_logit) or 0.0
        if now > self._best_auc:
            self._best_auc, self.best_epoch = now, self._grown
        return {}

    def _predict(self, part: str, first: int, count: int) -> np.ndarray:
        """float64 (rows,): the sum of `count` trees from the tree `first` on."""
        chunks = [
            self._booster.predict(rows, start_iteration=first, num_iteration=count, raw_score=True)
            for rows in row_chunks(self._inputs, part)
        ]
        return np.concatenate(chunks)

    def predict(self, part: str) -> np.ndarray:
        """float64 (rows,): the probabilities by the best epoch so far."""
        probability: np.ndarray = expit(self._predict(part, 0, self.best_epoch * TREES_AN_EPOCH))
        return probability

    @property
    def parameters(self) -> int:
        """Number of leaf values and thresholds up to the best epoch."""
        trees = self._booster.dump_model(num_iteration=self.best_epoch * TREES_AN_EPOCH)["tree_info"]
        return sum(2 * tree["num_leaves"] - 1 for tree in trees)


class _Clock:
    """Notes when each tree of CatBoost was grown."""

    def __init__(self) -> None:
        self.times = [time.perf_counter()]

    def after_iteration(self, info: Any) -> bool:
        self.times.append(time.perf_counter())
        return True


class CatBoostTrees:
    """CatBoost; see `Trees`. All trees are grown at once, in the first epoch, because it cannot grow more later."""

    uses_rates = False
    learning_rate = CATBOOST_LEARNING_RATE
    patience = PATIENCE

    def __init__(self, inputs: RivalInputs, settings: TreeSettings) -> None:
        self._inputs = inputs
        self._settings = settings
        self._pools = {part: self._pool(part) for part in ("train", "valid", "test")}
        self._model: catboost.CatBoostClassifier  # from the first epoch on, as its clock
        self._clock: _Clock
        self._epoch = 0
        self._aucs: list[float] = []

    def _untrained(self, epochs: int, complexity: int) -> catboost.CatBoostClassifier:
        """CatBoost before training, with combinations of at most `complexity` categories."""
        return catboost.CatBoostClassifier(
            iterations=epochs * TREES_AN_EPOCH,
            learning_rate=CATBOOST_LEARNING_RATE,
            depth=6,
            max_ctr_complexity=complexity,
            eval_metric="AUC",
            use_best_model=False,
            od_type="Iter",
            od_wait=(PATIENCE + 1) * TREES_AN_EPOCH,
            random_seed=self._settings.seed,
            thread_count=self._settings.threads,
            allow_writing_files=False,
            logging_level="Silent",
        )

    def _valid_aucs(self) -> list[float]:
        """The validation AUC after each tree."""
        found: list[float] = self._model.get_evals_result()["validation"]["AUC"]
        return found

    def _fit(self) -> None:
        """Grow all trees, with the complexity that has the better validation AUC in a short trial."""
        best = {COMPLEXITIES[0]: 0.0}
        for complexity in COMPLEXITIES:
            self._model = self._untrained(TRIAL_EPOCHS, complexity)
            self._model.fit(self._pools["train"], eval_set=self._pools["valid"])
            best[complexity] = max(self._valid_aucs())
        self._model = self._untrained(self._settings.epochs, max(best, key=best.__getitem__))
        self._clock = _Clock()
        self._model.fit(self._pools["train"], eval_set=self._pools["valid"], callbacks=[self._clock])

    def _pool(self, part: str) -> catboost.Pool:
        """The rows of a part as CatBoost reads them: codes as integers, numbers as float32."""
        names, categories = self._inputs.names, set(self._inputs.categories)
        chunks = list(row_chunks(self._inputs, part))
        columns = {
            name: np.concatenate(
                [rows[:, place].astype(np.int32 if place in categories else np.float32) for rows in chunks]
            )
            for place, name in enumerate(names)
        }
        label = self._inputs.groups(part)[0].label.numpy() if part != "test" else None
        return catboost.Pool(pd.DataFrame(columns), label, cat_features=sorted(categories))

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """Grow all trees in the first epoch; every epoch then counts the seconds that its trees took."""
        if epoch == 1:
            self._fit()
            self._aucs = self._valid_aucs()[TREES_AN_EPOCH - 1 :: TREES_AN_EPOCH]
        self._epoch = min(epoch, len(self._aucs))
        times = self._clock.times
        first, last = ((number * TREES_AN_EPOCH) for number in (epoch - 1, epoch))
        return {"seconds": times[min(last, len(times) - 1)] - times[min(first, len(times) - 1)]}

    @property
    def best_epoch(self) -> int:
        """The epoch with the best validation AUC so far."""
        return int(np.argmax(self._aucs[: self._epoch])) + 1

    def predict(self, part: str) -> np.ndarray:
        """float64 (rows,): the probabilities by the best epoch so far."""
        trees = self.best_epoch * TREES_AN_EPOCH
        probability: np.ndarray = self._model.predict_proba(self._pools[part], ntree_end=trees)[:, 1]
        return probability

    @property
    def parameters(self) -> int:
        """Number of leaf values and thresholds up to the best epoch."""
        leaves = self._model.get_tree_leaf_counts()[: self.best_epoch * TREES_AN_EPOCH]
        return int(sum(leaves) + np.log2(leaves).sum())


MAKERS: dict[str, type[LightGBMTrees] | type[CatBoostTrees]] = {
    "LightGBM": LightGBMTrees,
    "LightGBM plus": LightGBMTrees,
    "CatBoost": CatBoostTrees,
    "CatBoost plus": CatBoostTrees,
}
