"""Export to RecBole: atomic files `<dataset>.<split>.inter`, already split (its `benchmark_filename`)."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from mma4ctr.datasets.base import SPLIT_NAMES
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.arrays import StoredArray

LINE_BYTES = 64  # approximate upper limit of the length of a line
CHUNK_ROWS = 1_000_000
_LINES = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none", quoting_header="none")


@dataclass(frozen=True)
class InterColumn:
    """A column of an .inter file.

    Attributes:
        values: (rows,), the values, or positions in `table`.
        table: (n,), the distinct values; None if `values` are the values themselves.
    """

    values: np.ndarray | StoredArray
    table: np.ndarray | pa.Array | None = None

    def chunk(self, start: int) -> np.ndarray | pa.Array:
        """Return up to `CHUNK_ROWS` values from row `start` on."""
        values = self.values[start : start + CHUNK_ROWS]
        if isinstance(self.table, pa.Array):
            return self.table.take(pa.array(values))
        return values if self.table is None else self.table[values]


@dataclass(frozen=True)
class FormatRows:
    """Formats a chunk of rows, given its first row, as the lines of each split's file.

    Attributes:
        columns: The columns by name.
        split: uint8 (rows,).
    """

    columns: Mapping[str, InterColumn]
    split: np.ndarray

    def __call__(self, start: int) -> list[memoryview | pa.Buffer]:
        """Return the lines of each split from row `start` on."""
        split = self.split[start : start + CHUNK_ROWS]
        values = [column.chunk(start) for column in self.columns.values()]
        # Importing the compiled writer takes some tenths of a second, so small files do without it.
        if len(self.split) > CHUNK_ROWS and all(isinstance(v, np.ndarray) and v.dtype.kind in "iu" for v in values):
            from mma4ctr.storage.integer_csv import format_columns

            chosen = [split == number for number in range(len(SPLIT_NAMES))]
            return [format_columns([column[rows] for column in values], "\t") for rows in chosen]
        lines = []
        for number in range(len(SPLIT_NAMES)):
            rows = pa.array(np.flatnonzero(split == number))
            sink = pa.BufferOutputStream()
            table = {head: pa.array(column).take(rows) for head, column in zip(self.columns, values, strict=True)}
            csv.write_csv(pa.table(table), sink, _LINES)
            lines.append(sink.getvalue())
        return lines


def write_inter(folder: Path, dataset: str, columns: Mapping[str, InterColumn], split: np.ndarray) -> None:
    """Write the three .inter files.

    Rows keep the order of the arrays, so predictions can be matched with their rows.

    Args:
        folder: Where to write.
        dataset: Name of the data set.
        columns: The columns by RecBole's header, such as `user_id:token`.
        split: uint8 (rows,).
    """
    with ExitStack() as opened:
        files = [opened.enter_context((folder / f"{dataset}.{name}.inter").open("wb")) for name in SPLIT_NAMES]
        for file in files:
            file.write("\t".join(columns).encode() + b"\n")
        for _, future in in_order(FormatRows(columns, split), range(0, len(split), CHUNK_ROWS)):
            for file, lines in zip(files, future.result(), strict=True):
                file.write(lines)
