"""The models of the comparison that need no RecBole: LightGBM, CatBoost and the bias model.

Started by comp.py with a job file, as recbole_model.py is, and answers in the same way. The trees see every column that
step 1 has stored and the feature matrices, LightGBM also rates; see raw_columns.py and trees.py.

The bias model is the reference: the share of positives among the training rows of the user and among those of the
item, each smoothed by `PRIOR` rows with the share of all, added on the logit scale:

    logit p(user, item) = logit p(user) + logit p(item) - logit p

    python baseline/own_model.py job.json
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

import mma4ctr.runtime.environment

import numpy as np
import torch
from raw_columns import RivalInputs
from scipy.special import expit
from trees import MAKERS, TreeSettings
from worker import Steps, answer_on_stdout, train_and_score, write_rows

from mma4ctr.data.interactions import Interactions, load_interactions
from mma4ctr.evaluation.baselines import BASELINES
from mma4ctr.features.feature_matrix import FactorMatrix, RowGroup, load_matrix
from mma4ctr.features.variants import with_features
from mma4ctr.storage.paths import load_paths

PRIOR = 20.0


def smoothed_shares(index: np.ndarray, label: np.ndarray, size: int) -> np.ndarray:
    """The log-odds of a positive for each user or item, less those of all rows.

    Args:
        index: int (rows,) below `size`.
        label: 0/1 (rows,).
        size: Number of users or items.

    Returns:
        float64 (size,).
    """
    share = label.mean()
    rate = (np.bincount(index, label, size) + PRIOR * share) / (np.bincount(index, minlength=size) + PRIOR)
    difference: np.ndarray = np.log(rate / (1 - rate)) - np.log(share / (1 - share))
    return difference


class BiasModel:
    """The reference, fitted on the training rows.

    Args:
        matrix: A feature matrix of the rows; its features are not used.
        user: int (rows,), the users of all kept rows.
        item: int (rows,), their items.
    """

    def __init__(self, matrix: FactorMatrix, user: np.ndarray, item: np.ndarray) -> None:
        train = matrix.train
        label = train.label.double().numpy()
        self._user, self._item = user, item
        self._sizes = int(user.max()) + 1, int(item.max()) + 1
        self._by_user = smoothed_shares(user[train.rows], label, self._sizes[0])
        self._by_item = smoothed_shares(item[train.rows], label, self._sizes[1])
        self._base = float(np.log(label.mean() / (1 - label.mean())))

    def predict(self, rows: RowGroup) -> np.ndarray:
        """float64 (n,): the probabilities of some rows."""
        probability: np.ndarray = expit(
            self._base + self._by_user[self._user[rows.rows]] + self._by_item[self._item[rows.rows]]
        )
        return probability

    @property
    def parameters(self) -> int:
        """One number for each user and each item, and the share of all."""
        return sum(self._sizes) + 1


def bias_steps(matrix: FactorMatrix, data: Interactions) -> Steps:
    """The bias model as steps of a training."""
    fitted: list[BiasModel] = []

    def train_epoch(epoch: int) -> dict[str, float]:
        fitted.append(BiasModel(matrix, data.user, data.item))
        return {}

    return Steps(
        train_epoch,
        lambda part: fitted[-1].predict(getattr(matrix, part)),
        lambda: {"parameters": fitted[-1].parameters, "learning_rate": 0.0},
    )


def tree_steps(job: dict[str, Any], inputs: RivalInputs) -> Steps:
    """A model of trees as steps of a training."""
    settings = TreeSettings(max(job["checkpoint_epochs"]), job["seed"], job["threads"])
    trees = MAKERS[job["model"]](inputs, settings)

    def facts() -> dict[str, Any]:
        return {
            "parameters": trees.parameters,
            "learning_rate": trees.learning_rate,
            "best_epoch": trees.best_epoch,
            "patience": trees.patience,
            "in_features": len(inputs.names),
        }

    return Steps(trees.train_epoch, trees.predict, facts)


def main() -> None:
    """Train the model of the job file and answer."""
    answer = answer_on_stdout()
    job = json.loads(Path(sys.argv[1]).read_text())
    paths, model = load_paths(job["paths"]), BASELINES[job["model"]]
    data = load_interactions(paths, job["dataset"])
    matrices = [
        load_matrix(paths, job["task"], with_features(job["variant"], features), torch.device("cpu"))
        for features in model.matrices or ("paper",)
    ]
    matrix = matrices[0]
    for name, rows in {"valid": matrix.valid, "test": matrix.test}.items():
        ids = data.user_names[data.user[rows.rows]], data.item_names[data.item[rows.rows]]
        write_rows(Path(job["out"]), name, *ids, rows.label.numpy())
    started, before = time.perf_counter(), time.process_time()
    if model.columns:
        steps = tree_steps(job, RivalInputs(data, matrices, rates=MAKERS[model.name].uses_rates))
    else:
        steps = bias_steps(matrix, data)
    spent = time.perf_counter() - started, time.process_time() - before
    count = len(matrix.train)
    shared = {"rows_learned": count, "batch_size": count, "device": "cpu"}
    train_and_score(job, answer, steps.with_facts(shared), *spent)


if __name__ == "__main__":
    main()
