"""The test rows of a described log in the order of its files, for a submission: none is dropped or merged."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import Column, is_text, plain_array
from mma4ctr.datasets.base import Values
from mma4ctr.datasets.columns import Ids, ids_of
from mma4ctr.datasets.log_parts import TEST_CODE, LogPart
from mma4ctr.datasets.roles import roles_of
from mma4ctr.datasets.table_readers import read_tables
from mma4ctr.datasets.toml_dataset import DescribedDataset
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.text_blocks import Block

# Roles of the columns that a prediction reads.
READ = ("user", "item", "time", "part", "category", "number")


@dataclass(frozen=True)
class RowsToPredict:
    """Some test rows, in the order of the files; all arrays have one element per row.

    Attributes:
        number: int64, the number of the row in the files that have test rows, from 0.
        name: Text that names the row in a submission; None without such a column.
        user: Ids of the users.
        item: Ids of the items.
        time: int64, as step 1 reads it; None for a log without times.
        context: Raw values of the context columns.
    """

    number: np.ndarray
    name: pa.Array | None
    user: Ids
    item: Ids
    time: np.ndarray | None
    context: Values


def rows_to_predict(raw: DescribedDataset) -> Iterator[RowsToPredict]:
    """Read the test rows.

    Args:
        raw: A data set that comes with a split.

    Yields:
        The rows, block by block.

    Raises:
        UserError: The data set has no split, a file or column is missing, or a row cannot be read.
    """
    split = raw.description.split
    if split is None:
        raise UserError(f"{raw.description.where}: has no [split], so it has no test rows of its own")
    first = 0
    for part in raw.parts:
        if part.code not in (None, TEST_CODE):
            continue
        for rows, count in _rows_of_part(raw, part):
            yield replace(rows, number=rows.number + first)
            first += count


def _rows_of_part(raw: DescribedDataset, part: LogPart) -> Iterator[tuple[RowsToPredict, int]]:
    """Yield the test rows of each block, numbered from 0, and the number of all its rows."""
    id_column = raw.description.split.id if raw.description.split else None
    roles = [role for role in roles_of(raw.description, raw.time_form) if role.kind in READ]
    part_role = next((role for role in roles if role.kind == "part"), None)

    def parse(table: pa.Table, _block: Block) -> tuple[RowsToPredict, int]:
        codes = part.codes(table, part_role)
        number = np.arange(len(table)) if codes is None else np.flatnonzero(codes == TEST_CODE)
        chosen = table.take(pa.array(number))
        read = {(role.kind, role.name): role.read(chosen[role.column]) for role in roles if role is not part_role}
        context: Values = {name: ids.values for (kind, name), ids in read.items() if kind == "category"}
        context |= {name: values for (kind, name), values in read.items() if kind == "number"}
        name = _names_of(chosen[id_column], id_column) if id_column else None
        time = read.get(("time", "time"))
        found = RowsToPredict(number, name, read["user", "user"], read["item", "item"], time, context)
        return found, len(table)

    wanted = [*dict.fromkeys([*(role.column for role in roles), *([id_column] if id_column else [])])]
    # Every test row needs a prediction, so none may be skipped.
    bad, description = BadLines(option=""), f"{raw.name}: scoring"
    yield from read_tables(part.source, wanted, parse, bad, description=description, workers=raw.workers)


def _names_of(column: Column, name: str) -> pa.Array:
    """The names of rows as they are written; raises `BadLine` for an empty one."""
    array = plain_array(column)
    if not is_text(array.type):
        return ids_of(array, name).shown()
    if array.null_count or pc.any(pc.equal(pc.utf8_trim_whitespace(array), "")).as_py():
        raise BadLine(f"column {name}: an id is empty")
    return pc.cast(array, pa.string())
