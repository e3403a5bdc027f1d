"""Sort the kept rows and drop duplicates, in partitions of consecutive users that fit in memory."""

from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mma4ctr.data.row_counts import ROWS, RowCounts
from mma4ctr.datasets.base import InteractionChunk, RawDataset
from mma4ctr.runtime.console import progress
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.arrays import StoredArray, write_values
from mma4ctr.storage.scratch import scratch_folder

RowArray = np.ndarray | StoredArray

# Rows of a partition: about 150 MB while they are sorted.
PARTITION_ROWS = 1_000_000


def count_rows(chunks: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Count the rows of each user.

    Args:
        chunks: Distinct user ids and the number of rows of each, for each chunk of a file.

    Returns:
        int64 (users,) sorted user ids, and int64 (users,) the number of rows of each.
    """
    counts = RowCounts(pa.schema({"user": pa.int64()}))
    for users, rows in chunks:
        counts.add(pa.table({"user": users, ROWS: rows}))
    total = counts.total().sort_by("user")
    return total["user"].to_numpy(), total[ROWS].to_numpy()


def partition_starts(rows_of_user: np.ndarray, partition_rows: int) -> np.ndarray:
    """Return the first user of each partition, int64, for partitions of about `partition_rows` rows."""
    partition = (np.cumsum(rows_of_user) - 1) // partition_rows
    return np.flatnonzero(np.diff(partition, prepend=-1)).astype(np.int64)


class RowInTwoParts(Exception):
    """A row stands in two parts of the given split.

    Attributes:
        user: Position of its user among the kept users.
        item: Raw id of its item.
        rows: Number of such rows in the partition.
    """

    def __init__(self, user: int, item: int, rows: int) -> None:
        super().__init__(user, item, rows)
        self.user, self.item, self.rows = user, item, rows


def record_type(raw: RawDataset) -> np.dtype:
    """Return the packed record in which rows are stored on disk until their partition is sorted.

    Context columns are numbered, because their names may contain anything and fields become file names.
    """
    context = raw.columns_of("context")
    columns = [("user", "<i4"), ("item", "<i8"), ("device", "<i8"), ("time", "<i8"), ("hash", "<u8")]
    columns += [("split", "u1")] if raw.split else []
    columns += [
        (f"context_{place}", "<i8" if name in context.categories else "<f4") for place, name in enumerate(context.names)
    ]
    return np.dtype([*columns, *((f"label_{target}", "u1") for target in raw.targets)])


@dataclass(frozen=True)
class PackChunk:
    """Distributes a chunk of rows over the partitions.

    Attributes:
        starts: int64 (partitions,), first user of each partition.
        kind: The record, as `record_type` returns it.
        context: Names of the context columns, in the order of the record.
    """

    starts: np.ndarray
    kind: np.dtype
    context: tuple[str, ...] = ()

    def __call__(self, chunk: InteractionChunk) -> list[tuple[int, np.ndarray]]:
        """Return the records of each partition that the chunk has rows of."""
        partition = np.searchsorted(self.starts, chunk.user, side="right") - 1
        # numpy sorts 16-bit integers by counting.
        partition = partition.astype(np.uint16 if len(self.starts) <= 1 << 16 else np.int64)
        order = np.argsort(partition, kind="stable")
        records = np.empty(len(chunk.user), self.kind)
        columns = {"user": chunk.user, "item": chunk.item, "device": chunk.device, "time": chunk.time}
        columns |= {"hash": chunk.row_hash, **{f"label_{target}": label for target, label in chunk.labels.items()}}
        columns |= {} if chunk.part is None else {"split": chunk.part}
        columns |= {f"context_{place}": chunk.context[name] for place, name in enumerate(self.context)}
        for name, values in columns.items():
            records[name] = values[order]
        filled, begin = np.unique(partition[order], return_index=True)
        return list(zip(filled.tolist(), np.split(records, begin[1:]), strict=True))


def spill(chunks: Iterable[InteractionChunk], pack: PackChunk, folder: Path) -> list[Path]:
    """Write chunks of rows to one file for each partition and return the files."""
    paths = [folder / f"partition{number}" for number in range(len(pack.starts))]
    with ExitStack() as opened:
        files = [opened.enter_context(path.open("wb")) for path in paths]
        for _, future in in_order(pack, chunks):
            for partition, records in future.result():
                write_values(files[partition], records)
    return paths


def order_by(*columns: np.ndarray) -> np.ndarray:
    """Sort rows by integer columns, the first column being the primary key.

    As many columns as fit are packed into one integer, which sorts many times faster than `np.lexsort`. The few rows
    with equal packed keys are then sorted by the remaining columns.

    Args:
        columns: int (rows,) each; no two rows are equal in all of them.

    Returns:
        int64 (rows,), the order.
    """
    packed, room, used = np.zeros(len(columns[0]), np.int64), 2**63 - 1, 0
    for column in columns:
        low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        if high - low + 1 > room:
            break
        packed = packed * (high - low + 1) + (column - column.dtype.type(low)).astype(np.int64)
        room //= high - low + 1
        used += 1
    order = np.argsort(packed)
    if used < len(columns):
        same = packed[order[1:]] == packed[order[:-1]]
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        rows = order[tied]
        rest = [column[rows] for column in columns[used:]]
        order[tied] = rows[np.lexsort((*rest[::-1], packed[rows]))]
    return order


def drop_duplicates(records: np.ndarray, *, time_is_day: bool) -> dict[str, np.ndarray]:
    """Drop exact duplicates and sort.

    Args:
        records: (rows,) of `record_type`, in the order of the raw file.
        time_is_day: Sort by user, day and position in the file; otherwise by user, time and item.

    Returns:
        The columns by name, without the hash.

    Raises:
        RowInTwoParts: Two equal rows belong to different parts of a given split.
    """
    # Column by column: numpy moves whole records ten times slower.
    column = {name: np.ascontiguousarray(records[name]) for name in records.dtype.names or ()}
    user, time, item, row_hash = column["user"], column["time"], column["item"], column.pop("hash")
    place = np.arange(len(records))
    order = order_by(user, time, item, row_hash, place)
    hashes = row_hash[order]
    second = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    for values in (user, time, item):  # rows with equal hashes are compared, in case of a collision
        second = second[values[order[second]] == values[order[second - 1]]]
    if "split" in column:
        part = column["split"][order]
        apart = second[part[second] != part[second - 1]]
        if len(apart):
            row = order[apart[0]]
            raise RowInTwoParts(int(user[row]), int(item[row]), len(apart))
    order = np.delete(order, second)
    if time_is_day:
        order = order[order_by(user[order], time[order], order)]
    return {name: values[order] for name, values in column.items()}


def first_of_equals(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Whether a row differs from the one before it: bool (rows,), given sorted columns (rows,)."""
    new = np.zeros(len(columns[0]), bool)
    new[:1] = True
    for column in columns:
        new[1:] |= column[1:] != column[:-1]
    return new


def groups_of(user: np.ndarray, time: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Group neighbouring rows of equal user and time.

    Args:
        user: int (n,), sorted.
        time: (n,), sorted within each user.

    Returns:
        int64 (groups,), the first row of each group, and int64 (n,), the group of each row.
    """
    new = first_of_equals((user, time))
    return np.flatnonzero(new), np.cumsum(new) - 1


def day_and_position(user: np.ndarray, day: np.ndarray) -> np.ndarray:
    """Turn days into times, so that the rows of different users interleave (docs/method.md, Protocols).

    Args:
        user: int (rows,), sorted.
        day: int (rows,), sorted within each user.

    Returns:
        float64 (rows,): the day, plus the row's position among the rows of its user and day as a fraction in [0, 1).
    """
    starts, group = groups_of(user, day)
    size = np.diff(starts, append=len(user))
    fraction: np.ndarray = (np.arange(len(user)) - starts[group]) / size[group]
    return day + fraction


def row_chunks(values: RowArray) -> Iterator[np.ndarray]:
    """Yield the rows of an array, `PARTITION_ROWS` at a time."""
    return (values[start : start + PARTITION_ROWS] for start in range(0, len(values), PARTITION_ROWS))


def sorted_partitions(
    raw: RawDataset, chunks: Iterable[InteractionChunk], rows_of_user: np.ndarray, temp: Path
) -> Generator[dict[str, np.ndarray], None, None]:
    """Sort the kept rows and drop duplicates.

    Args:
        raw: The data set.
        chunks: The rows of the kept users, in the order of the raw file.
        rows_of_user: int64 (users,), the number of raw rows of each kept user.
        temp: Folder for temporary files.

    Yields:
        The columns by name, one partition of users at a time.
    """
    starts = partition_starts(rows_of_user, PARTITION_ROWS)
    context = raw.columns_of("context")
    kind = record_type(raw)
    with scratch_folder(temp, f"{raw.name}-inter-") as folder:
        paths = spill(chunks, PackChunk(starts, kind, context.names), folder)

        def sort(path: Path) -> dict[str, np.ndarray]:
            records = np.fromfile(path, kind)
            path.unlink()
            return drop_duplicates(records, time_is_day=raw.time_is_day)

        with progress(f"{raw.name}: sorting", len(paths)) as advance:
            for _, future in in_order(sort, paths):
                yield future.result()
                advance(1)
