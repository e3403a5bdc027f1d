"""Numbers of rows by value, added up over the chunks of a file."""

import pyarrow as pa

ROWS = "rows"
# Counts that wait before they are added up, unless there are more already.
LEAST_ADDED = 1 << 20


class RowCounts:
    """The number of rows of each combination of values.

    Args:
        schema: The columns by which rows are counted.
    """

    def __init__(self, schema: pa.Schema) -> None:
        self._waiting = [schema.append(pa.field(ROWS, pa.int64())).empty_table()]
        self._added = 0

    def add(self, counted: pa.Table) -> None:
        """Add the counts of a chunk: the columns of the schema, and `rows`."""
        self._waiting.append(counted)
        self._added += len(counted)
        if self._added > max(LEAST_ADDED, len(self._waiting[0])):
            self._waiting, self._added = [summed(self._waiting)], 0

    def total(self) -> pa.Table:
        """Return the counts of all chunks, each combination once."""
        return summed(self._waiting)


def summed(tables: list[pa.Table]) -> pa.Table:
    """Add up the column `rows` for each combination of values of the other columns."""
    table = pa.concat_tables(tables)
    keys = [name for name in table.column_names if name != ROWS]
    return table.group_by(keys).aggregate([(ROWS, "sum")]).rename_columns([*keys, ROWS])
