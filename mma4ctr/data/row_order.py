"""The kept rows in order and without duplicates, in parts of consecutive users that fit in memory."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.base import ColumnNames, InteractionChunk, RawDataset
from mma4ctr.runtime.console import (
    progress,
)
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.arrays import StoredArray, write_values
from mma4ctr.storage.scratch import scratch_folder

RowArray = np.ndarray | StoredArray


# RowArray that are sorted in memory at a time: about 150 MB with all that sorting needs.
PART_ROWS = 1_000_000


PARTS_WAITING = 64  # counts of so many parts of a file are added up at a time


def count_rows(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Add up (users, rows of each) over the parts of a file: int64 sorted user ids, int64 rows of each."""
    waiting = [pa.table({"user": np.empty(0, np.int64), "rows": np.empty(0, np.int64)})]
    for users, rows in parts:
        waiting.append(pa.table({"user": users, "rows": rows}))
        if len(waiting) > PARTS_WAITING:
            waiting = [_added_up(waiting)]
    total = _added_up(waiting).sort_by("user")
    return total["user"].to_numpy(), total["rows"].to_numpy()


def _added_up(tables: list[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(tables).group_by("user").aggregate([("rows", "sum")])
    return summed.rename_columns({"rows_sum": "rows"})


def part_starts(rows_of_user: np.ndarray, part_rows: int) -> np.ndarray:
    """int64 first user of each part of consecutive users, a part having about `part_rows` rows."""
    part = (np.cumsum(rows_of_user) - 1) // part_rows
    return np.flatnonzero(np.diff(part, prepend=-1)).astype(np.int64)


def record_type(targets: Iterable[str], context: ColumnNames) -> np.dtype:
    """The packed record in which rows wait on disk for their part to be sorted, in the order of the raw file."""
    columns = [("user", "<i4"), ("item", "<i8"), ("device", "<i8"), ("time", "<i8"), ("hash", "<u8")]
    columns += [(f"context_{name}", "<i8" if name in context.categories else "<f4") for name in context.names]
    return np.dtype([*columns, *((f"label_{target}", "u1") for target in targets)])


@dataclass(frozen=True)
class PackChunk:
    """From a chunk of rows to the records of each part that it has rows of: the unit of work between reading and
    writing.
    """

    starts: np.ndarray
    kind: np.dtype

    def __call__(self, chunk: InteractionChunk) -> list[tuple[int, np.ndarray]]:
        part = np.searchsorted(self.starts, chunk.user, side="right") - 1
        # Few parts: as small numbers they are sorted by counting.
        part = part.astype(np.uint16 if len(self.starts) <= 1 << 16 else np.int64)
        by_part = np.argsort(part, kind="stable")
        records = np.empty(len(chunk.user), self.kind)
        columns = {"user": chunk.user, "item": chunk.item, "device": chunk.device, "time": chunk.time}
        columns |= {"hash": chunk.row_hash, **{f"label_{target}": label for target, label in chunk.labels.items()}}
        columns |= {f"context_{name}": values for name, values in chunk.context.items()}
        for name, values in columns.items():
            records[name] = values[by_part]
        filled, begin = np.unique(part[by_part], return_index=True)
        return list(zip(filled.tolist(), np.split(records, begin[1:]), strict=True))


def spill(chunks: Iterable[InteractionChunk], starts: np.ndarray, kind: np.dtype, folder: Path) -> list[Path]:
    """Write chunks of rows to one file per part."""
    paths = [folder / f"part{number}" for number in range(len(starts))]
    with ExitStack() as opened:
        files = [opened.enter_context(path.open("wb")) for path in paths]
        for _, future in in_order(PackChunk(starts, kind), chunks):
            for part, records in future.result():
                write_values(files[part], records)
    return paths


def order_by(*columns: np.ndarray) -> np.ndarray:
    """int64 (rows,): the order of rows by integer columns, the first counting most; no two rows are equal.

    As many columns as fit are packed into one number, which is sorted many times faster than `np.lexsort` sorts
    columns one by one; the few rows that tie are then ordered by the rest.
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
    """From records in the order of the raw file to their columns without exact duplicates, in the order user, time,
    item; or user, day, place in the file.
    """
    # Column by column: numpy moves whole records ten times slower.
    column = {name: np.ascontiguousarray(records[name]) for name in records.dtype.names or ()}
    user, time, item, row_hash = column["user"], column["time"], column["item"], column.pop("hash")
    place = np.arange(len(records))
    order = order_by(user, time, item, row_hash, place)
    hashes = row_hash[order]
    second = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    for values in (user, time, item):  # whatever the hash, the few that are left are compared
        second = second[values[order[second]] == values[order[second - 1]]]
    order = np.delete(order, second)
    if time_is_day:
        order = order[order_by(user[order], time[order], order)]
    return {name: values[order] for name, values in column.items()}


def day_and_position(user: np.ndarray, day: np.ndarray) -> np.ndarray:
    """float64 time of rows ordered by user and day: the day plus the row's position among its user's rows of that
    day, as a fraction from 0 to below 1 (design section 6), so that users interleave.
    """
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
    starts = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    size = np.diff(starts, append=len(user))
    fraction: np.ndarray = (np.arange(len(user)) - starts[group]) / size[group]
    return day + fraction


def parts_of(values: RowArray) -> Iterator[np.ndarray]:
    """The rows of an array, so many at a time."""
    return (values[start : start + PART_ROWS] for start in range(0, len(values), PART_ROWS))


def kept_parts(
    raw: RawDataset, chunks: Iterable[InteractionChunk], rows_of_user: np.ndarray, temp: Path
) -> Generator[dict[str, np.ndarray], None, None]:
    """The columns of the kept rows without duplicates, in order, one part of users at a time."""
    starts = part_starts(rows_of_user, PART_ROWS)
    kind = record_type(raw.targets, raw.columns.get("context", ColumnNames()))
    with scratch_folder(temp, f"{raw.name}-inter-") as folder:
        paths = spill(chunks, starts, kind, folder)

        def sort(path: Path) -> dict[str, np.ndarray]:
            records = np.fromfile(path, kind)
            path.unlink()
            return drop_duplicates(records, time_is_day=raw.time_is_day)

        with progress(f"{raw.name}: sorting", len(paths)) as advance:
            for _, future in in_order(sort, paths):
                yield future.result()
                advance(1)
