"""RecBole's atomic files of interactions, `<dataset>.<part>.inter`, already split: its `benchmark_filename`."""

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from mma4ctr.data.interactions import SPLIT_NAMES
from mma4ctr.runtime.parallel import in_order
from mma4ctr.storage.arrays import StoredArray

LINE_BYTES = 64  # what a line has at most, about
CHUNK_ROWS = 1_000_000
_LINES = csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none", quoting_header="none")


@dataclass(frozen=True)
class InterColumn:
    """The values of a column, or, where there is a table, their positions in it."""

    values: np.ndarray | StoredArray
    table: np.ndarray | pa.Array | None = None

    def part(self, start: int) -> np.ndarray | pa.Array:
        """`CHUNK_ROWS` values from a row on."""
        values = self.values[start : start + CHUNK_ROWS]
        if isinstance(self.table, pa.Array):
            return self.table.take(pa.array(values))
        return values if self.table is None else self.table[values]


@dataclass(frozen=True)
class FormatRows:
    """From the first of some rows to their lines in the file of each part of the split."""

    columns: Mapping[str, InterColumn]
    split: np.ndarray

    def __call__(self, start: int) -> list[memoryview | pa.Buffer]:
        split = self.split[start : start + CHUNK_ROWS]
        values = [column.part(start) for column in self.columns.values()]
        # The compiled writer takes some tenths of a second to load.
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
    """Write the three files.

    The rows of a file stand in the order of the arrays, so a prediction can be told back to its row.

    Args:
        columns: by RecBole's heads, such as `user_id:token`. split: uint8 (rows,).
    """
    with ExitStack() as opened:
        files = [opened.enter_context((folder / f"{dataset}.{name}.inter").open("wb")) for name in SPLIT_NAMES]
        for file in files:
            file.write("\t".join(columns).encode() + b"\n")
        for _, future in in_order(FormatRows(columns, split), range(0, len(split), CHUNK_ROWS)):
            for file, lines in zip(files, future.result(), strict=True):
                file.write(lines)
