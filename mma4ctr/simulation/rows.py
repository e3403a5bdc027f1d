"""Write interaction files and the true probabilities, in chunks that several threads draw."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import csv

from mma4ctr.runtime.console import progress
from mma4ctr.runtime.parallel import in_order

CHUNK_ROWS = 1 << 17
COPIED = 0.001  # share of rows that are exact copies of the row before

# Folder of the true probabilities, beside the raw files. No step reads it.
TRUTH = "truth"
FILE_NAME = "probabilities.parquet"
MARK = "world.json"  # what was simulated; written last


@dataclass(frozen=True)
class Chunk:
    """Some rows of the interaction file.

    Attributes:
        columns: The raw columns by name.
        keys: The columns that identify a row: user, item and time.
        probability: The true probability of each target.
    """

    columns: dict[str, np.ndarray]
    keys: dict[str, np.ndarray]
    probability: dict[str, np.ndarray]


class SimulatedLog(Protocol):
    """The interface that `write_rows` needs of a simulated data set."""

    header: list[str] | None

    def rows(self, number: int, start: int, stop: int, total: int) -> Chunk:
        """Draw rows `start` to `stop` of `total`, which are chunk `number`."""

    def file_name(self) -> str:
        """Return the name of the interaction file."""


def copy_some_rows(
    columns: dict[str, np.ndarray], probability: dict[str, np.ndarray], rng: np.random.Generator
) -> None:
    """Make a few rows exact copies of the rows before them, as in real logs; in place."""
    rows = len(next(iter(columns.values())))
    copies = np.flatnonzero(rng.random(rows) < COPIED)
    copies = copies[copies > 0]
    for table in (columns, probability):
        for values in table.values():
            values[copies] = values[copies - 1]


@contextmanager
def truth_file(folder: Path) -> Iterator[Callable[[Chunk], None]]:
    """Open `truth/probabilities.parquet` in a new folder, and give a function that appends the rows of a chunk."""
    (folder / TRUTH).mkdir()
    writer: pq.ParquetWriter | None = None

    def write(chunk: Chunk) -> None:
        nonlocal writer
        ids = {name: pa.array(chunk.keys[name]).cast(pa.int32()) for name in ("user", "item")}
        table = pa.table({**chunk.keys, **ids, **chunk.probability})
        if writer is None:
            # Random numbers do not compress, and dictionaries of ids cost more time than they save space.
            path = folder / TRUTH / FILE_NAME
            writer = pq.ParquetWriter(path, table.schema, compression="none", use_dictionary=False)
        writer.write_table(table)

    try:
        yield write
    finally:
        if writer:
            writer.close()


def write_rows(simulated: SimulatedLog, folder: Path, rows: int, delimiter: str) -> None:
    """Write the interaction file and `truth/probabilities.parquet`."""
    bounds = range(0, rows, CHUNK_ROWS)

    def draw(start: int) -> tuple[Chunk, bytes]:
        chunk = simulated.rows(start // CHUNK_ROWS, start, min(start + CHUNK_ROWS, rows), rows)
        text = BytesIO()
        options = csv.WriteOptions(include_header=False, delimiter=delimiter, quoting_style="none")
        csv.write_csv(pa.table(chunk.columns), text, options)
        return chunk, text.getvalue()

    def chunks() -> Iterator[tuple[Chunk, bytes]]:
        for _, future in in_order(draw, bounds):
            yield future.result()

    with (
        truth_file(folder) as write_truth,
        (folder / simulated.file_name()).open("wb") as file,
        progress("interactions", rows) as advance,
    ):
        if simulated.header:
            file.write(delimiter.join(simulated.header).encode() + b"\n")
        for chunk, text in chunks():
            file.write(text)
            write_truth(chunk)
            advance(len(chunk.keys["user"]))
