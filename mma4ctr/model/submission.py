"""The submission to a challenge: what a trained run predicts for the test rows of a log that comes with a split.

The test rows are read again from the raw files, so each gets its line, in the order of the files: duplicates, which
step 1 drops, rows of users with too few rows, and rows of new users and items too. A row that step 1 has kept gets the
prediction that step 5 made of it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
import pyarrow as pa

from mma4ctr.data.interactions import TEST, TRAIN, Interactions
from mma4ctr.data.log_columns import coded_like
from mma4ctr.datasets import known_datasets, open_dataset, split_task
from mma4ctr.datasets.base import hash_rows
from mma4ctr.datasets.columns import ids_of
from mma4ctr.datasets.hashing import hash_text
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.rows_to_predict import RowsToPredict, rows_to_predict
from mma4ctr.datasets.toml_dataset import DescribedDataset
from mma4ctr.model.inference import Scorer
from mma4ctr.model.score_files import csv_lines
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.unchanged import unchanged


@dataclass(frozen=True)
class SubmissionCounts:
    """What a submission contains.

    Attributes:
        rows: Number of test rows.
        new_users: Number of rows of users without training rows.
        new_items: Number of rows of items without training rows.
        repeated: Number of rows whose id stood in an earlier one.
    """

    rows: int
    new_users: int
    new_items: int
    repeated: int


def described_split(paths: Paths, task: str) -> DescribedDataset:
    """Open the data set of a task; raises `UserError` if it does not come with a split."""
    name, _ = split_task(task)
    kind = known_datasets(paths).get(name)
    raw = open_dataset(kind, paths, None) if kind else None
    if not isinstance(raw, DescribedDataset) or raw.description.split is None:
        raise UserError(
            f"--predict test: {name} does not come with a split ([split] in its description), so it has no test rows "
            "of its own; name a file with the columns user and item"
        )
    return raw


def write_submission(scorer: Scorer, data: Interactions, raw: DescribedDataset, file: BinaryIO) -> SubmissionCounts:
    """Predict the test rows into a CSV with the id and the probability of each, in the order of the raw files.

    Args:
        scorer: The trained run.
        data: The output of step 1.
        raw: The data set.
        file: Where to write.

    Returns:
        The numbers of rows.

    Raises:
        UserError: A row cannot be read, or a file changes meanwhile.
    """
    assert raw.description.split
    lookup = _RowLookup(scorer, data)
    names: list[np.ndarray] = []
    rows = new_users = new_items = 0

    def scored() -> Iterator[tuple[pa.Array, np.ndarray]]:
        nonlocal rows, new_users, new_items
        for chunk in rows_to_predict(raw):
            user, item = lookup.user.places(chunk.user.values), lookup.item.places(chunk.item.values)
            new_users += int(lookup.user.is_new(user).sum())
            new_items += int(lookup.item.is_new(item).sum())
            rows += len(user)
            score = scorer.score(user, item, lookup.context(chunk), lookup.recency(chunk, user, item))
            if chunk.name is None:
                yield pa.array(chunk.number), score
            else:
                names.append(hash_text(chunk.name))
                yield chunk.name, score

    with unchanged(raw.interaction_files) as check:
        file.write(csv_lines(*map(pa.array, np.array(raw.description.split.submission)[:, None])))
        # A chunk is formatted while the next one is scored.
        for _, text in in_order(lambda chunk: csv_lines(chunk[0], pa.array(chunk[1])), scored()):
            file.write(text.result())
        check()
    repeated = sum(map(len, names)) - len(np.unique(np.concatenate(names))) if names else 0
    return SubmissionCounts(rows, new_users, new_items, repeated)


class _Side:
    """Positions of the users or items of a scorer by their raw ids."""

    def __init__(self, known: pa.Array, data: Interactions, codes: np.ndarray) -> None:
        ids = ids_of(known, "id").values
        self._order = np.append(np.argsort(ids), len(ids))  # the last place is that of unknown ids
        self._index = IdIndex(ids[self._order[:-1]])
        self._trained = np.zeros(len(ids) + 1, bool)
        for part in data.parts():
            self._trained[codes[part][data.split[part] == TRAIN]] = True

    def places(self, ids: np.ndarray) -> np.ndarray:
        """int64 (n,) positions of raw ids; the number of known ids for others."""
        found: np.ndarray = self._order[self._index.positions(ids)]
        return found

    def is_new(self, places: np.ndarray) -> np.ndarray:
        """Bool (n,): whether there is no training row."""
        return ~self._trained[places]


class _RowLookup:
    """Finds raw test rows among the rows of step 1: what a row's recency is depends on the rows before it."""

    def __init__(self, scorer: Scorer, data: Interactions) -> None:
        self._artifact, self._scorer = data.artifact, scorer
        self.user = _Side(scorer.users, data, data.user)
        self.item = _Side(scorer.items, data, data.item)
        self._names = [entry["name"] for entry in data.artifact.manifest.get("columns", {}).get("context", ())]
        self._ticks = data.artifact.manifest.get("ticks_per_second")
        test = data.split == TEST
        kept = np.stack([data.user[test], data.item[test], data.time[test]]).astype(np.int64)
        keys, self._place = np.unique(hash_rows(list(kept)).view(np.int64), return_index=True)
        self._kept, self._index = kept[:, self._place], IdIndex(keys)

    def context(self, rows: RowsToPredict) -> dict[str, np.ndarray]:
        """Codes of the context of rows, as `Scorer.score` takes them."""
        values = dict(zip(self._names, coded_like(self._artifact, "context", rows.context), strict=True))
        seconds = None if rows.time is None or not self._ticks else rows.time / self._ticks
        return self._scorer.context.of_rows(values, seconds)

    def recency(self, rows: RowsToPredict, user: np.ndarray, item: np.ndarray) -> np.ndarray | None:
        """The recency of rows, float16 (n, r); the usual one for those that step 1 has not kept."""
        of_kept = self._scorer.matrix.test.recency
        if of_kept is None or rows.time is None:
            return None
        wanted = np.stack([user, item, rows.time])
        position = self._index.positions(hash_rows(list(wanted)).view(np.int64))
        found = (position >= 0) & (self._kept[:, position] == wanted).all(axis=0)
        recency = np.tile(self._scorer.usual_recency, (len(user), 1))
        recency[found] = of_kept.numpy()[self._place[position[found]]]
        return recency
