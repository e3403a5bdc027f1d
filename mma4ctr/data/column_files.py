"""Write the kept rows of step 1 as one array file for each column."""

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mma4ctr.data.histories import FirstHistories
from mma4ctr.data.log_columns import ColumnWriter, MostFrequent, side_values
from mma4ctr.data.recbole_export import InterColumn, write_inter
from mma4ctr.data.row_order import RowInTwoParts, day_and_position, record_type, row_chunks, sorted_partitions
from mma4ctr.datasets.base import InteractionChunk, RawDataset
from mma4ctr.datasets.id_index import IdCollector, IdIndex
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.arrays import StoredArray
from mma4ctr.storage.artifacts import ArtifactWriter
from mma4ctr.storage.bad_lines import BadLines


@dataclass(frozen=True)
class UserCounts:
    """The result of counting the rows of each user.

    Attributes:
        kept: Users with enough rows.
        rows: int64 (kept users,), number of raw rows of each.
        raw_rows: Number of raw rows of all users, including bad lines.
        bad_lines: Number of lines that could not be counted.
    """

    kept: IdIndex
    rows: np.ndarray
    raw_rows: int
    bad_lines: int


@dataclass(frozen=True)
class SortedColumns:
    """The kept rows in their files.

    Attributes:
        column: (rows,) by name; `item` has raw ids.
        item_ids: int64 (items,), sorted.
        rows_read: Number of rows of kept users and known items that were read, duplicates included.
        repeated: Columns of users and items that the raw file repeats in each row.
        histories: What users did before their first rows.
    """

    column: dict[str, StoredArray]
    item_ids: np.ndarray
    rows_read: int
    repeated: dict[str, MostFrequent]
    histories: FirstHistories


def write_columns(
    raw: RawDataset, writer: ArtifactWriter, counts: UserCounts, temp: Path, bad: BadLines
) -> SortedColumns:
    """Read the rows of the kept users, sort them, drop duplicates, and write each column.

    Args:
        raw: The data set.
        writer: The artifact under construction.
        counts: The kept users.
        temp: Folder for temporary files.
        bad: Collects bad lines.

    Returns:
        The columns.

    Raises:
        UserError: The input is unusable, or a row stands in two parts of a given split.
    """
    record = record_type(raw)
    kinds: dict[str, Any] = {name: record[name] for name in record.names or () if name != "hash"}
    if raw.time_is_day:
        kinds["time"] = np.float64
    streams = {name: writer.stream(name, kind) for name, kind in kinds.items()}
    items = IdCollector()
    repeated = {side: MostFrequent(raw.columns_of(side)) for side in ("user", "item")}
    histories = FirstHistories()
    rows_read = 0

    def chunks() -> Iterator[InteractionChunk]:
        nonlocal rows_read
        for chunk in raw.read_interactions(counts.kept, bad):
            rows_read += len(chunk.user)
            repeated["user"].add(counts.kept.ids[chunk.user], chunk.user_values)
            repeated["item"].add(chunk.item, chunk.item_values)
            histories.add(chunk)
            yield chunk

    with closing(sorted_partitions(raw, chunks(), counts.rows, temp)) as partitions:
        for partition in _checked(raw, partitions, counts.kept.ids):
            items.add(partition["item"])
            if raw.time_is_day:
                partition["time"] = day_and_position(partition["user"], partition["time"])
            for name, stream in streams.items():
                stream.append(partition[name])
    for stream in streams.values():
        stream.close()
    # From here on the columns are read from their files when they are needed.
    column = {name: StoredArray.of(writer.building / f"{name}.npy") for name in kinds}
    rows = len(column["user"])
    if rows > rows_read:
        raise AssertionError(f"{raw.name}: {rows - rows_read:,} more rows were kept than were read")
    return SortedColumns(column, items.ids(), rows_read, repeated, histories)


def _checked(
    raw: RawDataset, partitions: Iterator[dict[str, np.ndarray]], users: np.ndarray
) -> Iterator[dict[str, np.ndarray]]:
    """Yield the partitions; name the user and the item of a row that stands in two parts of the split."""
    try:
        yield from partitions
    except RowInTwoParts as error:
        names = []
        for kind, id_ in (("user", users[error.user]), ("item", np.int64(error.item))):
            written = raw.id_names(kind, np.array([id_]))
            names.append(str(id_) if written is None else np.char.decode(written, "utf-8")[0])
        raise UserError(
            f"{raw.interaction_files()[0]}: a row of user {names[0]} and item {names[1]} stands in two parts of the "
            f"split{f', and so do {error.rows - 1:,} more' if error.rows > 1 else ''}; remove it from one"
        ) from None


def replace_item_ids(writer: ArtifactWriter, column: dict[str, StoredArray], item_ids: np.ndarray) -> None:
    """Replace raw item ids by their positions in `item_ids`, in the file and in `column`."""
    items = IdIndex(item_ids)
    (writer.building / "item.npy").unlink()  # the open file can still be read
    stream = writer.stream("item", np.int32)
    for raw_items in row_chunks(column["item"]):
        stream.append(items.positions(raw_items))
    stream.close()
    column["item"] = StoredArray.of(writer.building / "item.npy")


def write_ids(
    raw: RawDataset, writer: ArtifactWriter, user_ids: np.ndarray, item_ids: np.ndarray
) -> dict[str, np.ndarray | pa.Array]:
    """Write the id tables, and the text ids if the data set has any.

    Args:
        raw: The data set.
        writer: The artifact under construction.
        user_ids: int64 (users,).
        item_ids: int64 (items,).

    Returns:
        The ids of `user` and `item` as the raw files write them.
    """
    writer.array("user_ids", user_ids)
    writer.array("item_ids", item_ids)
    tables: dict[str, np.ndarray | pa.Array] = {"user": user_ids, "item": item_ids}
    for kind, ids in tables.items():
        texts = raw.id_names(kind, ids)
        if texts is not None:
            writer.array(f"{kind}_names", texts)
            tables[kind] = pa.array(texts, pa.binary()).cast(pa.string())
    return tables


def write_log_columns(
    raw: RawDataset, writer: ArtifactWriter, made: SortedColumns, counts: UserCounts, rows: int, bad: BadLines
) -> None:
    """Write the columns beside content of users, items and rows (see log_columns.py).

    Args:
        raw: The data set.
        writer: The artifact under construction.
        made: The kept rows.
        counts: The kept users.
        rows: Number of rows written.
        bad: Collects bad lines.
    """
    columns = ColumnWriter(writer, raw, rows)
    columns.write_side("user", *side_values(raw, "user", counts.kept, made.repeated["user"], bad))
    columns.write_side("item", *side_values(raw, "item", IdIndex(made.item_ids), made.repeated["item"], bad))
    context = raw.columns_of("context")
    for place, name in enumerate(context.names):
        columns.write_context(writer.building / f"context_{place}.npy", name, category=name in context.categories)
    columns.finish()


def write_histories(writer: ArtifactWriter, made: SortedColumns) -> None:
    """Write the pairs of users and items in histories, if rows have any."""
    found = made.histories.pairs(IdIndex(made.item_ids))
    if found is None:
        return
    user, item, unknown = found
    writer.array("history_user", user)
    writer.array("history_item", item)
    writer.manifest["history"] = {"pairs": len(user), "users": len(np.unique(user)), "unknown": unknown}


def export_inter(
    raw: RawDataset,
    folder: Path,
    column: dict[str, StoredArray],
    tables: dict[str, np.ndarray | pa.Array],
    split: np.ndarray,
) -> None:
    """Write RecBole's .inter files.

    Args:
        raw: The data set.
        folder: Where to write.
        column: (rows,) by name.
        tables: The ids of `user` and `item`, as `write_ids` returns them.
        split: uint8 (rows,).
    """
    columns = {
        "user_id:token": InterColumn(column["user"], tables["user"]),
        "item_id:token": InterColumn(column["item"], tables["item"]),
        "device:token": InterColumn(column["device"]),
        "timestamp:float": InterColumn(column["time"]),
        **{f"{target}:float": InterColumn(column[f"label_{target}"]) for target in raw.targets},
    }
    write_inter(folder, raw.name, columns, split)


def count_positives(column: dict[str, StoredArray], targets: tuple[str, ...]) -> dict[str, int]:
    """Count the rows with label 1 of each target."""
    return {
        target: sum(int(np.count_nonzero(chunk)) for chunk in row_chunks(column[f"label_{target}"]))
        for target in targets
    }
