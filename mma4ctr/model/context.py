"""The codes of the lookups of a matrix for rows that a trained run scores: from context columns and item categories."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.data.interactions import Interactions
from mma4ctr.data.log_columns import StoredColumn, stored_columns
from mma4ctr.datasets.columns import numbers_of
from mma4ctr.datasets.log_columns import amounts_of
from mma4ctr.datasets.spec_columns import OF_TIME
from mma4ctr.features.behavioral.content_clusters import cluster_names
from mma4ctr.features.behavioral.inputs import BINS, binned, clock_code, quantile_edges
from mma4ctr.features.behavioral.rates import RowCodes, find_pairs
from mma4ctr.features.behavioral.row_passes import count_codes
from mma4ctr.features.feature_matrix import RowGroup
from mma4ctr.model.cold_start import NewItems
from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.artifacts import Artifact

# From texts (n,) of a context column to its codes int64 (n,) by category.
Reader = Callable[[pa.Array], dict[str, np.ndarray]]


@dataclass(frozen=True)
class ContextLookups:
    """The lookups of a matrix, and how the context columns of new rows are coded for them.

    Attributes:
        lookups: Sides, categories and keys of the lookups, in the order of the matrix; without codes of rows.
        columns: The context columns by name: those of step 1, and `hour` and `weekday`.
        usual: By category of the lookups, the most frequent code of the training rows.
        of_item: By what the category belongs to, `item` or `content`, and its name: unsigned or int64 (known and new
            items, and one for unknown ones) codes.
    """

    lookups: tuple[RowCodes, ...]
    columns: Mapping[str, StoredColumn | None]
    usual: Mapping[str, int]
    of_item: Mapping[tuple[str, str], np.ndarray]

    def codes(self, user: np.ndarray, item: np.ndarray, given: Mapping[str, np.ndarray]) -> list[np.ndarray]:
        """Codes of rows for each lookup.

        Args:
            user: int64 (n,) positions.
            item: int64 (n,) positions.
            given: By category, int64 (n,) codes, as `read` returns them; others get the most frequent code.

        Returns:
            int32 or int64 (n,) for each lookup.
        """
        found = []
        for lookup in self.lookups:
            if lookup.of == "context":
                codes = given.get(lookup.category)
                if codes is None:
                    # The category itself has no columns if no target could be learned from.
                    codes = np.full(len(user), self.usual.get(lookup.category, 0))
            else:
                codes = self.of_item[lookup.of, lookup.category][item]
            if lookup.side:
                codes = find_pairs(lookup, user if lookup.side == "user" else item, codes)
            found.append(np.where(codes < lookup.size, codes, 0))
        return found

    def read(self, table: pa.Table) -> dict[str, np.ndarray]:
        """Codes by category, int64 (n,), of the context columns that a table of texts has.

        Raises:
            BadLine: A number, hour or weekday is not one.
        """
        found: dict[str, np.ndarray] = {}
        for name, read in self._readers.items():
            if name in table.column_names:
                found |= read(pc.utf8_trim_whitespace(table[name].combine_chunks()))
        return found

    def of_rows(self, values: Mapping[str, np.ndarray], seconds: np.ndarray | None) -> dict[str, np.ndarray]:
        """Codes by category, int64 (n,), of rows that step 1 could have read.

        Args:
            values: Context columns (n,) by name, coded as step 1 codes its own.
            seconds: float64 (n,) times; None if they are not in seconds.
        """
        found: dict[str, np.ndarray] = {}
        for name, column in self.columns.items():
            if column is None:
                found |= {} if seconds is None else {name: clock_code(name, seconds).astype(np.int64)}
            elif column.is_category:
                found[name] = values[name].astype(np.int64)
            else:
                found |= binned(name, values[name], self._edges[name])
        return found

    @cached_property
    def _edges(self) -> dict[str, np.ndarray]:
        """By column of numbers, its quantiles."""
        numbers = {name: one for name, one in self.columns.items() if one and not one.is_category}
        return {name: quantile_edges(column.values) for name, column in numbers.items()}

    @cached_property
    def _readers(self) -> dict[str, Reader]:
        """By column, the function that codes its texts."""
        return {name: _reader(name, column, self._edges.get(name)) for name, column in self.columns.items()}


def _reader(name: str, column: StoredColumn | None, edges: np.ndarray | None) -> Reader:
    """The function that codes the texts of a context column; `column` is None for hour and weekday."""
    if column is None:
        return partial(_read_time, name)
    if column.is_category:
        known = pc.cast(pa.array(column.raw), pa.string())

        def read_category(text: pa.Array) -> dict[str, np.ndarray]:
            place = pc.fill_null(pc.index_in(text, value_set=known), -1).to_numpy(zero_copy_only=False)
            return {name: place.astype(np.int64) + 1}  # 0, missing, for a category that no row has

        return read_category
    assert edges is not None

    def read_number(text: pa.Array) -> dict[str, np.ndarray]:
        # As step 1 stores them: a missing number is NaN, and a value on the edge of a bin stays in its bin.
        return binned(name, amounts_of(text, name).astype(np.float32), edges)

    return read_number


def _read_time(name: str, text: pa.Array) -> dict[str, np.ndarray]:
    """The codes of hours or weekdays."""
    values = numbers_of(text, name)
    if ((values < 0) | (values >= OF_TIME[name])).any():
        raise BadLine(f"column {name}: must be a number from 0 to {OF_TIME[name] - 1}")
    return {name: values.astype(np.int64)}


def context_lookups(matrix: Artifact, data: Interactions, train: RowGroup, new: NewItems | None) -> ContextLookups:
    """What is needed to code the context of new rows.

    Args:
        matrix: The feature matrix.
        data: Step 1's rows, from which it was made.
        train: The training rows of the matrix.
        new: The new items; None if there are none.
    """
    lookups, usual = [], {}
    for place, entry in enumerate(matrix.manifest.get("lookups", ())):
        keys = matrix.array(f"lookup_keys_{place}") if entry["side"] else np.empty(0, np.int64)
        none = np.empty(0, np.int64)
        kind = entry["category"], entry["side"], entry["of"]
        lookups.append(RowCodes(*kind, none, entry["size"], keys, entry["categories"]))
        if not entry["side"]:
            codes, rows_of_code = train.codes[place].numpy(), np.zeros(entry["size"], np.int64)
            for part in data.arrays.parts(len(codes)):
                count_codes(codes[part], rows_of_code)
            usual[entry["category"]] = int(rows_of_code.argmax())
    columns: dict[str, StoredColumn | None] = {
        column.name: column
        for column in (stored_columns(data.artifact, "context", data.arrays) if lookups else ())
        if column.name in usual or f"{column.name}/{BINS[0]}" in usual
    }
    columns |= {name: None for name in OF_TIME if name in usual and name not in columns}
    wanted = {lookup.category for lookup in lookups if lookup.of == "item"}
    unknown = np.zeros(1, np.int64)
    of_item = {}
    for one in stored_columns(data.artifact, "item") if wanted else ():
        if one.is_category:
            known = {one.name: one.values.astype(np.int64)}
        else:
            known = binned(one.name, one.values, quantile_edges(one.values))
        for name in wanted & known.keys():
            of_item["item", name] = np.concatenate([known[name], new.categories[name] if new else unknown[:0], unknown])
    if any(lookup.of == "content" for lookup in lookups):
        clusters = matrix.array("cluster_of_item")
        for place, name in enumerate(cluster_names(len(clusters))):
            of_new = new.clusters[place] if new and new.clusters is not None else unknown[:0]
            of_item["content", name] = np.concatenate([clusters[place], of_new, unknown])
    return ContextLookups(tuple(lookups), columns, usual, of_item)
