"""Columns beside content as step 1 stores them: codes of categories and numbers of users, items and rows.

Categories become codes: 0 for a missing one, then the raw values in ascending order. Numbers are float32, NaN if
missing. A value that a file repeats in each row of a user or item is taken once: the most frequent one.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mma4ctr.data.row_counts import ROWS, RowCounts, summed
from mma4ctr.data.row_order import row_chunks
from mma4ctr.datasets.base import MISSING, ColumnChunk, ColumnNames, RawDataset, Values, shown_id
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.runtime.console import warn
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.arrays import StoredArray
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.row_arrays import IN_MEMORY, RowArrays
from mma4ctr.storage.text_blocks import Block

SIDES = ("user", "item", "context")


class MostFrequent:
    """The most frequent value of each column for each user or item, gathered from a stream of rows."""

    def __init__(self, columns: ColumnNames) -> None:
        self._columns = columns
        kinds = [pa.from_numpy_dtype(kind_of(columns, name)) for name in columns.names]
        self._counts = RowCounts(
            pa.schema({"id": pa.int64(), **{f"_{place}": kind for place, kind in enumerate(kinds)}})
        )

    def add(self, ids: np.ndarray, values: Values) -> None:
        """Count the values of some rows, given int64 (n,) users or items and their columns."""
        if not values or not len(ids):
            return
        # A file may have a number as integers.
        numbered: Values = {
            f"_{place}": values[name].astype(kind_of(self._columns, name), copy=False)
            for place, name in enumerate(self._columns.names)
        }
        table = pa.table({"id": ids, **numbered})
        keys = table.column_names
        counted = table.group_by(keys).aggregate([([], "count_all")])
        self._counts.add(counted.rename_columns([*keys, ROWS]))

    def values(self, ids: IdIndex) -> Values:
        """The columns aligned with `ids`; of equally frequent values the smallest, missing ones only if all are."""
        found = missing_values(self._columns, len(ids))
        table = self._counts.total()
        for place, of_ids in enumerate(found.values()):
            one = summed([table.select(["id", f"_{place}", ROWS])])
            position = ids.positions(one["id"].to_numpy())
            value, count = one[f"_{place}"].to_numpy(), one[ROWS].to_numpy()
            known = (position >= 0) & (np.isfinite(value) if value.dtype.kind == "f" else value != MISSING)
            position, value, count = position[known], value[known], count[known]
            order = np.lexsort((value, -count, position))
            first, where = np.unique(position[order], return_index=True)
            of_ids[first] = value[order][where]
        return found


def kind_of(columns: ColumnNames, name: str) -> type:
    """The type of a column's raw values."""
    return np.int64 if name in columns.categories else np.float64


def missing_values(columns: ColumnNames, size: int) -> Values:
    """Columns (size,) in which each value is missing."""
    return {
        name: np.full(size, MISSING if name in columns.categories else np.nan, kind_of(columns, name))
        for name in columns.names
    }


def listed_values(chunks: Iterable[ColumnChunk], ids: IdIndex, columns: ColumnNames) -> Values:
    """The columns of a table that lists users or items, aligned with `ids`; missing for those not listed.

    Raises:
        UserError: If one of them is listed twice with different values; names both lines.
    """
    found = missing_values(columns, len(ids))
    where: list[Block] = []
    source, line = np.full(len(ids), -1, np.int32), np.zeros(len(ids), np.int64)
    for chunk in chunks:
        where.append(replace(chunk.block, data=None))  # it is read again for a message
        position = ids.positions(chunk.ids)
        rows = np.flatnonzero(position >= 0)
        first = rows[np.unique(position[rows], return_index=True)[1]]
        new = first[source[position[first]] < 0]
        source[position[new]], line[position[new]] = len(where) - 1, chunk.line[new]
        for name, values in chunk.values.items():
            found[name][position[new]] = values[new]
            kept, given = found[name][position[rows]], values[rows]
            differs = np.flatnonzero((kept != given) & ~((kept != kept) & (given != given)))
            if len(differs):
                row = int(rows[differs[0]])
                earlier = where[source[position[row]]]
                first_line = earlier.line_of(int(line[position[row]]))
                raise UserError(
                    f"{chunk.block.path}:{chunk.block.line_of(int(chunk.line[row]))}: {shown_id(chunk, row)} has "
                    f"another {name} than in {earlier.path}:{first_line}; remove one of the two lines"
                )
    return found


def codes_of(values: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Codes of raw categories int64 (n,): 1 + the place in `known`, 0 for all others; in the smallest type."""
    if not len(known):
        return np.zeros(len(values), np.uint8)
    place = np.minimum(np.searchsorted(known, values), len(known) - 1)
    codes: np.ndarray = np.where(known[place] == values, place + 1, 0).astype(np.min_scalar_type(len(known)))
    return codes


def coded_like(artifact: Artifact, side: str, values: Values) -> list[np.ndarray]:
    """Code the columns of other users or items as step 1 coded its own; a category that none of them has is missing.

    Args:
        artifact: The output of step 1.
        side: `user` or `item`.
        values: Raw values (n,) by column; columns that are not there are missing.

    Returns:
        The columns (n,) in the order of step 1, as `StoredColumn.values` has them.
    """
    coded = []
    for place, entry in enumerate(artifact.manifest.get("columns", {}).get(side, ())):
        of_column = values[entry["name"]]
        if entry["kind"] == "category":
            coded.append(codes_of(of_column, artifact.array(f"{side}_values_{place}")))
        else:
            coded.append(of_column.astype(np.float32))
    return coded


class ColumnWriter:
    """Writes the columns of step 1 beside its other arrays, and their names to the manifest."""

    def __init__(self, writer: ArtifactWriter, raw: RawDataset, rows: int) -> None:
        self._writer, self._raw, self._rows = writer, raw, rows
        self.entries: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}

    def write(self, side: str, name: str, values: np.ndarray, *, category: bool) -> None:
        """Write one column: int64 (n,) raw categories or float64 (n,) numbers."""
        place = len(self.entries[side])
        entry: dict[str, Any] = {"name": name, "kind": "category" if category else "number"}
        if category:
            known = np.unique(values[values != MISSING])
            values = codes_of(values, known)
            entry |= self._categories(side, name, known)
        else:
            values = values.astype(np.float32)
        self._writer.array(f"{side}_column_{place}", values)
        self.entries[side].append(entry)

    def write_context(self, path: Path, name: str, *, category: bool) -> None:
        """Write one column of the rows from the file in which its raw values wait, and remove that file."""
        waiting = StoredArray.of(path)
        path.unlink()  # it can still be read
        place = len(self.entries["context"])
        entry: dict[str, Any] = {"name": name, "kind": "category" if category else "number"}
        known = np.empty(0, np.int64)
        if category:
            for values in row_chunks(waiting):
                known = np.union1d(known, values[values != MISSING])
            entry |= self._categories("context", name, known)
        stream = self._writer.stream(
            f"context_column_{place}", np.min_scalar_type(len(known)) if category else np.float32
        )
        for values in row_chunks(waiting):
            stream.append(codes_of(values, known) if category else values)
        stream.close()
        self.entries["context"].append(entry)

    def finish(self) -> None:
        """Write the names and the unit of the times to the manifest."""
        if self.entries["user"] or self.entries["item"] or self.entries["context"] or self._raw.hour:
            self._writer.manifest["columns"] = self.entries
            self._writer.manifest["hour"] = self._raw.hour
        if self._raw.hour and not self._raw.ticks_per_second:
            warn(f"{self._raw.name}: hour = true has no effect, because the numbers of the time do not show their unit")
        if self._raw.ticks_per_second:
            self._writer.manifest["ticks_per_second"] = self._raw.ticks_per_second

    def _categories(self, side: str, name: str, known: np.ndarray) -> dict[str, int]:
        """Write the raw values of a column's codes; returns their number for the manifest."""
        place = len(self.entries[side])
        self._writer.array(f"{side}_values_{place}", known)
        texts = self._raw.category_names(side, name, known)
        if texts is not None:
            self._writer.array(f"{side}_texts_{place}", texts)
        if 2 * len(known) > self._rows:
            warn(
                f"{self._raw.name}: the {side} column {name} has {len(known):,} categories in {self._rows:,} rows; "
                "it may be an id, or a number"
            )
        return {"categories": len(known)}

    def write_side(self, side: str, values: Values, columns: ColumnNames) -> None:
        """Write all columns of the users or items."""
        for name in columns.names:
            self.write(side, name, values[name], category=name in columns.categories)


def side_values(
    raw: RawDataset, side: str, ids: IdIndex, gathered: MostFrequent, bad: BadLines
) -> tuple[Values, ColumnNames]:
    """The columns of the users or items: from their table if there is one, else from the rows."""
    columns = raw.columns_of(side)
    if raw.column_files(side):
        return listed_values(raw.read_columns(side, bad), ids, columns), columns
    return gathered.values(ids), columns


@dataclass(frozen=True)
class StoredColumn:
    """One column of the users, the items or the rows.

    Attributes:
        name: As the raw file or the description names it.
        values: Codes (n,) of an unsigned type, or float32 (n,).
        categories: Number of categories besides the missing one; 0 for numbers.
        raw: int64 raw values of the codes from 1 on, or text; empty for numbers.
    """

    name: str
    values: np.ndarray
    categories: int
    raw: np.ndarray

    @property
    def is_category(self) -> bool:
        """Whether the values are codes."""
        return self.values.dtype.kind == "u"


def stored_columns(artifact: Artifact, side: str, arrays: RowArrays = IN_MEMORY) -> list[StoredColumn]:
    """The columns of one side that step 1 has written; `arrays` opens those of rows."""
    found = []
    for place, entry in enumerate(artifact.manifest.get("columns", {}).get(side, ())):
        raw: np.ndarray = np.empty(0, np.int64)
        if entry["kind"] == "category":
            raw = artifact.array(f"{side}_values_{place}")
            if f"{side}_texts_{place}" in artifact.array_names:
                raw = np.char.decode(artifact.array(f"{side}_texts_{place}"), "utf-8")
        values = arrays.open(artifact.file(f"{side}_column_{place}.npy"))
        found.append(StoredColumn(entry["name"], values, int(entry.get("categories", 0)), raw))
    return found
