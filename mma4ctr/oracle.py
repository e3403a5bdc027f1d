"""The best AUC that any model could reach on simulated data: the true probabilities as predictions.

`python -m mma4ctr.world` writes them to `truth/` beside the raw files. No step of the pipeline reads them; only
tables and the report do.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from mma4ctr.console import UserError
from mma4ctr.datasets import split_task
from mma4ctr.interactions import TEST, load_interactions
from mma4ctr.metrics import auc
from mma4ctr.paths import Paths

TRUTH = "truth"


def true_probabilities(folder: Path, target: str, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> np.ndarray:
    """float64 (rows,): the true probability of each row, by raw user and item id and whole-number time.

    Raises `UserError` where a row is not of this simulated world.
    """
    keys = ["user", "item", "time"]
    rows = np.rec.fromarrays([user, item, time], names=keys)
    found = np.full(len(user), np.nan)
    order = np.argsort(rows, order=keys)
    wanted = rows[order]
    for part in pq.ParquetFile(folder / "probabilities.parquet").iter_batches(1 << 20, columns=[*keys, target]):
        columns = [part[name].to_numpy().astype(np.int64) for name in keys]
        mine = np.isin(columns[0], user)
        there = np.rec.fromarrays([column[mine] for column in columns], names=keys)
        chance = part[target].to_numpy()[mine]
        first = np.searchsorted(wanted, there, side="left")
        last = np.searchsorted(wanted, there, side="right")
        hit = last > first
        for start, end, value in zip(first[hit], last[hit], chance[hit], strict=True):
            found[order[start:end]] = value
    if np.isnan(found).any():
        raise UserError(f"{folder}: does not hold every row; it belongs to another simulated world")
    return found


@lru_cache(maxsize=64)
def oracle_auc(paths: Paths, task: str) -> float | None:
    """AUC of the true probabilities on the test rows of a task; None where the data are not simulated."""
    dataset, target = split_task(task)
    data = load_interactions(paths, dataset)
    folder = Path(data.artifact.manifest["sources"]["file"]).parent / TRUTH
    if not folder.is_dir():
        return None
    rows = np.flatnonzero(data.split == TEST)
    user, item = data.user_ids[data.user[rows]], data.item_ids[data.item[rows]]
    chance = true_probabilities(folder, target, user, item, np.floor(data.time[rows]).astype(np.int64))
    return auc(data.label(target)[rows], chance)
