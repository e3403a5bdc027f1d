"""The true probabilities of simulated data. As predictions they reach the best AUC that any model can expect.

`python -m mma4ctr.simulation` writes them to `truth/` beside the raw files. No step of the pipeline reads them; only
tables and the report do.
"""

from functools import lru_cache
from pathlib import Path

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.parquet as pq

from mma4ctr.data.interactions import TEST, has_test_labels, interactions_artifact, load_interactions
from mma4ctr.datasets import BUILT_IN, split_task
from mma4ctr.datasets.base import hash_rows
from mma4ctr.evaluation.metrics import auc
from mma4ctr.runtime.errors import UserError, first_line
from mma4ctr.simulation.bars import SHAPES
from mma4ctr.simulation.rows import FILE_NAME, MARK, TRUTH
from mma4ctr.storage.paths import Paths


def true_probabilities(folder: Path, target: str, user: np.ndarray, item: np.ndarray, time: np.ndarray) -> np.ndarray:
    """The true probability of each row.

    Args:
        folder: The `truth/` folder of the simulated data set.
        target: Name of the target.
        user: (rows,) raw user ids.
        item: (rows,) raw item ids.
        time: int64 (rows,) whole-number times.

    Returns:
        float64 (rows,).

    Raises:
        UserError: The file cannot be read, or a row is not in it.
    """
    file = folder / FILE_NAME
    wanted = dict(zip(("user", "item", "time"), (user, item, time), strict=True))
    hashes = hash_rows([np.asarray(values, np.int64) for values in wanted.values()])
    order = np.argsort(hashes)
    hashes = hashes[order]
    found = np.full(len(order), np.nan)
    try:
        for part in pq.ParquetFile(file).iter_batches(1 << 20, columns=[*wanted, target]):
            keys = {name: part[name].to_numpy().astype(np.int64) for name in wanted}
            given = hash_rows(list(keys.values()))
            rows = np.argsort(given)  # a search for sorted values is many times faster
            place = np.searchsorted(hashes, given[rows])
            hit = place < len(order)
            hit[hit] = hashes[place[hit]] == given[rows[hit]]
            rows, place = rows[hit], place[hit]
            same = [wanted[name][order[place]] == values[rows] for name, values in keys.items()]
            hit = np.logical_and.reduce(same)
            # Duplicate rows have the same probability, so any of their matches will do.
            found[place[hit]] = part[target].to_numpy()[rows[hit]]
    except (pa.ArrowInvalid, OSError, KeyError) as error:
        reason = first_line(error)
        raise UserError(
            f"{file}: not readable ({reason}); write the simulated files again with python -m mma4ctr.simulation"
        ) from None
    found[order] = found[np.searchsorted(hashes, hashes)]
    if np.isnan(found).any():
        raise UserError(
            f"{folder}: rows are missing, it belongs to other simulated data; write the simulated files again with "
            "python -m mma4ctr.simulation, or remove this folder"
        )
    return found


def truth_folder(paths: Paths, task: str) -> Path | None:
    """The `truth/` folder of a task, or None if its data are not simulated."""
    dataset, target = split_task(task)
    data = interactions_artifact(paths, dataset)
    folder = Path(data.manifest["sources"]["file"]).parent / TRUTH
    if dataset in BUILT_IN:
        return folder if folder.is_dir() else None
    # A described data set can have a folder of this name, or read simulated files in another way than they were made.
    try:
        world = orjson.loads((folder / MARK).read_bytes())
        simulated = world["dataset"] in SHAPES and target in world["ratios"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        return None
    return folder if simulated and has_test_labels(data) else None


@lru_cache(maxsize=8)
def true_test_probabilities(paths: Paths, task: str) -> np.ndarray | None:
    """The true probabilities of a task's test rows in their order, float64 (test rows,).

    Returns:
        None if the data are not simulated, or the test rows have no labels.
    """
    folder = truth_folder(paths, task)
    if folder is None:
        return None
    dataset, target = split_task(task)
    data = load_interactions(paths, dataset)
    rows = np.flatnonzero(data.split == TEST)
    user, item = data.user_ids[data.user[rows]], data.item_ids[data.item[rows]]
    return true_probabilities(folder, target, user, item, np.floor(data.time[rows]).astype(np.int64))


@lru_cache(maxsize=64)
def oracle_auc(paths: Paths, task: str) -> float | None:
    """AUC of the true probabilities on a task's test rows, or None if the data are not simulated."""
    probability = true_test_probabilities(paths, task)
    if probability is None:
        return None
    dataset, target = split_task(task)
    data = load_interactions(paths, dataset)
    return auc(data.label(target)[data.split == TEST], probability)
