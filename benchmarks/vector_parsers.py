"""Speed of parsers of JSON vectors: ours, DuckDB, simdjson, polars and orjson, with the sums that PCA needs.

Every parser reads the same lines of 128 numbers and ends with the same sums, on one core. Processor seconds. DuckDB
and polars are no dependencies of the project: `python3 -m pip --python .venv/bin/python install duckdb polars`.

    python -m benchmarks.vector_parsers
"""

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "POLARS_MAX_THREADS": "1"}

import numpy as np
import orjson
import pyarrow as pa
import simdjson

from mma4ctr.runtime.console import parser, print_table, run, whole_number
from mma4ctr.storage.json_vectors import parse_lines

KEY, WIDTH = "video_feature_dim_128", 128
BLOCK_BYTES = 8 << 20
TIMES = 7


def write_lines(path: Path, items: int, digits: str) -> None:
    """Write JSON lines of normal numbers; `digits` formats one number."""
    rng = np.random.default_rng(0)
    with path.open("w") as file:
        for item in range(items):
            numbers = ", ".join(format(x, digits) for x in rng.standard_normal(WIDTH).astype(np.float32).tolist())
            file.write(f'{{"item_id": {item}, "{KEY}": [{numbers}]}}\n')


def blocks(path: Path) -> Iterator[bytes]:
    """Blocks of whole lines, as step 2 reads them."""
    with path.open("rb") as file:
        while block := file.read(BLOCK_BYTES):
            yield block + file.readline()


def with_ours(path: Path) -> Iterator[np.ndarray]:
    """`mma4ctr.storage.json_vectors`, block by block."""
    for block in blocks(path):
        found = parse_lines(block, "item_id", KEY, WIDTH)
        assert found
        yield found[1]


def with_duckdb_file(path: Path) -> Iterator[np.ndarray]:
    """DuckDB reads the file itself."""
    import duckdb

    columns = f"{{item_id: 'BIGINT', {KEY}: 'FLOAT[]'}}"
    query = f"select item_id, {KEY} from read_json('{path}', format='newline_delimited', columns={columns})"
    with duckdb.connect(config={"threads": 1}) as connection:
        for batch in connection.sql(query).to_arrow_reader(8192):
            yield batch.column(1).flatten().to_numpy().reshape(-1, WIDTH)


def with_duckdb(path: Path) -> Iterator[np.ndarray]:
    """DuckDB parses blocks of lines, as a step that shares its blocks over threads and machines needs it."""
    import duckdb

    with duckdb.connect(config={"threads": 1}) as connection:
        for block in blocks(path):
            ends = np.flatnonzero(np.frombuffer(block, np.uint8) == ord("\n")) + 1
            offsets = pa.py_buffer(np.concatenate([[0], ends]).astype(np.int32))
            connection.register(
                "lines", pa.table({"line": pa.StringArray.from_buffers(len(ends), offsets, pa.py_buffer(block))})
            )
            schema = f'{{"item_id": "BIGINT", "{KEY}": "FLOAT[]"}}'
            found = connection.sql(f"select from_json(line, '{schema}') as line from lines").to_arrow_table()
            yield found["line"].combine_chunks().field(1).flatten().to_numpy().reshape(-1, WIDTH)


def with_simdjson(path: Path) -> Iterator[np.ndarray]:
    """Simdjson line by line, the array taken as a buffer of doubles."""
    document = simdjson.Parser()
    for block in blocks(path):
        rows = []
        for line in block.splitlines():
            parsed: Any = document.parse(line)
            array = parsed[KEY]
            rows.append(np.frombuffer(array.as_buffer(of_type="d"), np.float64).copy())
            del array, parsed
        yield np.stack(rows).astype(np.float32)


def with_polars(path: Path) -> Iterator[np.ndarray]:
    """Polars reads the file itself."""
    import polars

    yield polars.read_ndjson(path, schema={"item_id": polars.Int64, KEY: polars.Array(polars.Float32, WIDTH)})[
        KEY
    ].to_numpy()


def with_orjson(path: Path) -> Iterator[np.ndarray]:
    """Orjson line by line."""
    for block in blocks(path):
        yield np.array([orjson.loads(line)[KEY] for line in block.splitlines()], np.float32)


PARSERS: dict[str, Callable[[Path], Iterator[np.ndarray]]] = {
    "ours": with_ours,
    "DuckDB, whole file": with_duckdb_file,
    "DuckDB, blocks": with_duckdb,
    "simdjson": with_simdjson,
    "polars, whole file": with_polars,
    "orjson": with_orjson,
}


def processor_seconds(parse: Callable[[Path], Iterator[np.ndarray]], path: Path) -> tuple[float, np.ndarray]:
    """Processor seconds of parsing and of the sums, and the sum of the vectors."""
    start = time.process_time()
    total, products = np.zeros(WIDTH), np.zeros((WIDTH, WIDTH))
    for values in parse(path):
        exact = values.astype(np.float64)
        total += exact.sum(axis=0)
        products += exact.T @ exact
    return time.process_time() - start, total


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure every parser that is installed on numbers of 4 and 9 significant digits and print a table."""
    options = parser(__doc__, paths=False)
    options.add_argument("--items", type=whole_number(1000), default=30_000, help="lines of the file")
    items = options.parse_args(arguments).items
    rows = []
    for digits in (4, 9):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "vectors.txt"
            write_lines(path, items, f".{digits}g")
            size = path.stat().st_size / 1e6
            ours, expected = processor_seconds(with_ours, path)
            for name, parse in PARSERS.items():
                try:
                    found = [processor_seconds(parse, path) for _ in range(TIMES)]
                except ImportError:
                    continue
                assert np.allclose(found[0][1], expected, rtol=1e-5, atol=1e-3)
                seconds = statistics.median(taken for taken, _ in found[1:])
                ours = seconds if name == "ours" else ours
                rows.append([name, f"{digits}", f"{size / seconds:,.0f}", f"{ours / seconds:.2f}"])
    print_table("Vectors of 128 numbers, one core", ["parser", "digits", "MB/s", "speed / ours"], rows)


if __name__ == "__main__":
    run(main)
