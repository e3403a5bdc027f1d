"""What FuxiCTR's models get of a data set of BARS: arrays of ids, histories and categories, and the file of vectors.

A row has its user, its item, and the last `LONGEST_HISTORY` items that its user clicked before. The histories are those
of the column that the rows' files have (`pos_items`, `clicked_items`):

- of a training row, as it is;
- of any other row, that of the user's last training moment and the clicks of that moment. Else the column would show
  labels of validation and test rows: of a KuaiVideo row it has the clicks on earlier test rows.

With `--valid test` all histories are as they are in the files, as BARS has them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from fuxictr_settings import described, settings_of
from trainings import Prepared

from mma4ctr.data.interactions import TRAIN
from mma4ctr.data.log_columns import stored_columns
from mma4ctr.data.row_order import first_of_equals, order_by
from mma4ctr.datasets.arrow import Column
from mma4ctr.datasets.base import GIVEN_VALID_TEST, SPLIT_NAMES
from mma4ctr.datasets.columns import ids_of
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.roles import Role, roles_of
from mma4ctr.datasets.table_readers import read_tables
from mma4ctr.datasets.toml_dataset import DescribedDataset
from mma4ctr.datasets.toml_spec import Description
from mma4ctr.evaluation.baselines import Baseline
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.runtime.parallel import Threads
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.text_blocks import Block

LONGEST_HISTORY = 100
SEPARATOR = "^"


@dataclass(frozen=True)
class Histories:
    """Lists of items.

    Attributes:
        items: int32, the items of all lists.
        start: int64 (lists,), where each list starts in `items`.
        end: int64 (lists,), where it ends.
    """

    items: np.ndarray
    start: np.ndarray
    end: np.ndarray

    def of(self, number: int) -> np.ndarray:
        """The items of one list."""
        return self.items[self.start[number] : self.end[number]]

    def joined(self, lists: list[np.ndarray]) -> "Histories":
        """These lists and more, which get the next numbers."""
        ends = np.cumsum([len(one) for one in lists], dtype=np.int64) + len(self.items)
        starts = np.concatenate([[len(self.items)], ends[:-1]]).astype(np.int64) if lists else ends
        return Histories(
            np.concatenate([self.items, *lists]).astype(np.int32),
            np.concatenate([self.start, starts]),
            np.concatenate([self.end, ends]),
        )


@dataclass(frozen=True)
class FileRows:
    """The rows of the files, in their order.

    Attributes:
        user: int64 (rows,), positions of users in step 1.
        item: int64 (rows,), likewise.
        time: int64 (rows,).
        histories: One list a row.
    """

    user: np.ndarray
    item: np.ndarray
    time: np.ndarray
    histories: Histories


def histories_of(column: Column, items: IdIndex) -> tuple[np.ndarray, np.ndarray]:
    """Read a column of joined ids.

    Args:
        column: Text; an empty cell has no ids.
        items: The known items; others are left out.

    Returns:
        int32 positions of the items of all cells, the last `LONGEST_HISTORY` of each cell, and int64 (rows,) their
        number.

    Raises:
        BadLine: An id is empty.
    """
    text = pc.fill_null(pc.cast(column, pa.string()), "")
    text = text.combine_chunks() if isinstance(text, pa.ChunkedArray) else text
    parts = pc.split_pattern(text, SEPARATOR)
    count = pc.list_value_length(parts).to_numpy(zero_copy_only=False).astype(np.int64)
    count[pc.equal(text, "").to_numpy(zero_copy_only=False)] = 0
    tokens = parts.flatten()
    tokens = tokens.filter(pc.not_equal(tokens, ""))
    row = np.repeat(np.arange(len(count)), count)
    if len(row) != len(tokens):
        raise BadLine(f"a history has an empty id beside a {SEPARATOR}")
    place = items.positions(ids_of(tokens, "history").values) if len(tokens) else np.empty(0, np.int64)
    known = place >= 0
    place, row = place[known], row[known]
    count = np.bincount(row, minlength=len(count))
    from_end = np.cumsum(count)[row] - np.arange(len(row))
    kept = from_end <= LONGEST_HISTORY
    return place[kept].astype(np.int32), np.minimum(count, LONGEST_HISTORY).astype(np.int64)


def read_rows(prepared: Prepared, description: Description, history: str) -> FileRows:
    """Read the rows of the files again, with their histories.

    Args:
        prepared: The task.
        description: Of its data set.
        history: Name of the column of histories.

    Returns:
        The rows of the users and items that step 1 has kept.

    Raises:
        UserError: A file cannot be read.
    """
    data, raw = prepared.data, DescribedDataset(description)
    users, items = IdIndex(data.user_ids), IdIndex(data.item_ids)
    roles: Mapping[str, Role] = {role.kind: role for role in roles_of(description, raw.time_form)}
    if "time" not in roles:
        raise UserError(f"{description.where}: the rows have no time, by which their histories are found")

    def parse(table: pa.Table, _block: Block) -> tuple[np.ndarray, ...]:
        user = users.positions(roles["user"].read(table[roles["user"].column]).values)
        item = items.positions(roles["item"].read(table[roles["item"].column]).values)
        time = roles["time"].read(table[roles["time"].column])
        rows = np.flatnonzero((user >= 0) & (item >= 0))
        clicked, count = histories_of(table[history].take(pa.array(rows)), items)
        return user[rows], item[rows], time[rows], clicked, count

    wanted = [*(roles[kind].column for kind in ("user", "item", "time")), history]
    source = description.interactions.source
    doing = f"{prepared.dataset}: histories"
    parts = list(read_tables(source, wanted, parse, BadLines(), description=doing, workers=Threads()))
    user, item, time, clicked, count = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    end = np.cumsum(count)
    return FileRows(user, item, time, Histories(clicked, end - count, end))


def rows_in_files(prepared: Prepared, found: FileRows) -> np.ndarray:
    """Find the rows of step 1 in the files.

    Args:
        prepared: The task; its rows are in the order of user, time and item.
        found: The rows of the files.

    Returns:
        int64 (kept rows,): the number of each row in the files; of equal rows, the first.

    Raises:
        UserError: The files are not those that step 1 has read.
    """
    data = prepared.data
    order = order_by(found.user, found.time, found.item, np.arange(len(found.user)))
    theirs = [values[order] for values in (found.user, found.time, found.item)]
    ours = [data.user, data.time, data.item]
    first, own_first = first_of_equals(theirs), first_of_equals(ours)
    if not all(np.array_equal(one[first], own[own_first]) for one, own in zip(theirs, ours, strict=True)):
        raise UserError(
            f"{prepared.paths.graph / prepared.dataset}: its rows are not those of the files any more; run "
            "preprocess_inter.py and the later steps again"
        )
    place: np.ndarray = order[first][np.cumsum(own_first) - 1]
    return place


def without_later_labels(
    prepared: Prepared, label: np.ndarray, of_row: np.ndarray, lists: Histories
) -> tuple[np.ndarray, Histories]:
    """Give validation and test rows what their user has clicked in the training rows.

    Args:
        prepared: The task.
        label: 0/1 (kept rows,), the clicks.
        of_row: int64 (kept rows,), the list of each row.
        lists: The lists of the files.

    Returns:
        The list of each row anew, and the lists with one more for each user.
    """
    data = prepared.data
    user, time, split = data.user, data.time, data.split
    train = np.flatnonzero(split == TRAIN)
    users = len(data.user_ids)
    last = np.full(users, -1, np.int64)
    last[user[train]] = train  # the last one counts: rows of a user are in the order of time
    more = []
    by_user = np.searchsorted(user[train], np.arange(users + 1))
    for number in range(users):
        if last[number] < 0:
            more.append(np.empty(0, np.int32))
            continue
        own = train[by_user[number] : by_user[number + 1]]
        moment = own[time[own] == time[last[number]]]
        clicks = data.item[moment[label[moment] > 0]]
        more.append(np.concatenate([lists.of(of_row[moment[0]]), clicks])[-LONGEST_HISTORY:].astype(np.int32))
    numbers = len(lists.start) + np.arange(users)
    return np.where(split == TRAIN, of_row, numbers[user]), lists.joined(more)


def item_vectors(description: Description) -> Path:
    """The file of item vectors, which FuxiCTR reads by itself; raises `UserError` if it is no single HDF5 file."""
    files = description.sources[0].source.files()
    if len(files) != 1 or files[0].suffix != ".h5":
        raise UserError(f"{description.sources[0].source.where}: FuxiCTR's models need one HDF5 file of item vectors")
    return files[0]


def write_inputs(prepared: Prepared, model: Baseline, folder: Path) -> dict[str, Any]:
    """Write the rows, in the order train, valid, test, and what they refer to.

    Args:
        prepared: The task.
        model: One of FuxiCTR's.
        folder: Where to write.

    Returns:
        What the job file says of them.

    Raises:
        UserError: The files of the data set are unusable.
    """
    data = prepared.data
    _, description = described(prepared.paths, prepared.dataset)
    settings = settings_of(prepared.paths, prepared.dataset, model)
    found = read_rows(prepared, description, settings["history"])
    of_row, lists = rows_in_files(prepared, found), found.histories
    label = data.label(prepared.target)
    if data.artifact.settings["split"] != GIVEN_VALID_TEST:
        of_row, lists = without_later_labels(prepared, label, of_row, lists)
    np.save(folder / "history_items.npy", lists.items)
    for name, values in (("user", data.user_names), ("item", data.item_names)):
        np.save(folder / f"{name}_ids.npy", values)
    categories = [column for column in stored_columns(data.artifact, "item") if column.is_category]
    for number, column in enumerate(categories):
        np.save(folder / f"category_{number}.npy", column.values.astype(np.int64))
    for part, name in enumerate(SPLIT_NAMES):
        rows = prepared.rows_of(part)
        arrays = {
            "user_row": data.user[rows],
            "item_row": data.item[rows],
            "label_row": label[rows],
            "history_start": lists.start[of_row[rows]],
            "history_end": lists.end[of_row[rows]],
        }
        for kind, values in arrays.items():
            np.save(folder / f"{name}_{kind}.npy", values)
    return {"settings": settings, "vectors": str(item_vectors(description)), "categories": len(categories)}
