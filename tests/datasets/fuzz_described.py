"""Targets of fuzz_readers.py for described data sets.

Columns of any Arrow type with any bytes in their buffers go to every reader and to `check`; quoted CSV is read in
blocks.
"""

import contextlib
import io
import json
import shutil
import sys

import atheris
import pyarrow as pa
import pyarrow.parquet as pq

from mma4ctr.datasets import __main__ as datasets_main
from mma4ctr.datasets.table_readers import SerialWorkers, Source, read_tables
from mma4ctr.runtime.console import err, out
from mma4ctr.storage import text_blocks as rawfiles
from mma4ctr.storage.bad_lines import BadLines
from tests.datasets.arrow_readers import READERS, read_column

PLAIN = [pa.null(), pa.bool_(), pa.int8(), pa.int64(), pa.uint64(), pa.float16(), pa.float32(), pa.float64()]
PLAIN += [pa.string(), pa.large_string(), pa.string_view(), pa.binary(), pa.binary(16), pa.binary(2)]
PLAIN += [pa.decimal128(20, 3), pa.date32(), pa.date64(), pa.time32("s"), pa.time64("us"), pa.duration("ms")]
PLAIN += [pa.timestamp(unit, zone) for unit in ("s", "ms", "us", "ns") for zone in (None, "UTC", "Europe/Rome")]
OUTPUTS = ("graph", "modal", "user_embedding", "matrix", "torch_model", "saved")
CHECKED = ("user", "item", "time", "rating", "more")


def drawn_type(source, depth=0):
    """Draw a type: a plain one, or one of lists or structs of other types."""
    form = source.ConsumeIntInRange(0, 9)
    if form < 6 or depth == 2:
        return PLAIN[source.ConsumeIntInRange(0, len(PLAIN) - 1)]
    inner = drawn_type(source, depth + 1)
    return (pa.list_(inner), pa.large_list(inner), pa.list_(inner, 2), pa.struct([("x", inner)]))[form - 6]


def drawn_array(source, kind, size):
    """Draw an array of a type with any bytes in its buffers, including invalid UTF-8 and times outside the calendar."""
    if pa.types.is_null(kind):
        return pa.nulls(size)
    valid = [source.ConsumeBool() for _ in range(size)]
    if pa.types.is_struct(kind):
        return pa.StructArray.from_arrays([drawn_array(source, kind[0].type, size)], ["x"])
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(drawn_array(source, kind.value_type, 2 * size), 2)
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        ends = [0]
        for _ in range(size):
            ends.append(ends[-1] + source.ConsumeIntInRange(0, 3))
        cells = drawn_array(source, kind.value_type, ends[-1])
        starts = [end if ok else None for end, ok in zip(ends, [*valid, True], strict=True)]
        if pa.types.is_large_list(kind):
            return pa.LargeListArray.from_arrays(pa.array(starts, pa.int64()), cells)
        return pa.ListArray.from_arrays(pa.array(starts, pa.int32()), cells)
    if kind in (pa.string(), pa.large_string(), pa.string_view(), pa.binary()):
        cells = [source.ConsumeBytes(source.ConsumeIntInRange(0, 12)) if ok else None for ok in valid]
        if kind == pa.string_view():
            return pa.array([cell if cell is None else cell.decode(errors="replace") for cell in cells], kind)
        return pa.array(cells, pa.large_binary() if kind == pa.large_string() else pa.binary()).view(kind)
    if pa.types.is_boolean(kind):
        return pa.array([source.ConsumeBool() if ok else None for ok in valid], kind)
    length = kind.bit_width // 8 * size
    mask = pa.array(valid, pa.bool_()).buffers()[1] if size else None
    return pa.Array.from_buffers(kind, size, [mask, pa.py_buffer(source.ConsumeBytes(length).ljust(length, b"\0"))])


def columns(data):
    """Pass a column of any type, sliced and perhaps as a dictionary, to every reader."""
    source = atheris.FuzzedDataProvider(data)
    size = source.ConsumeIntInRange(0, 6)
    array = drawn_array(source, drawn_type(source), size).slice(source.ConsumeIntInRange(0, min(2, size)))
    if source.ConsumeBool():
        with contextlib.suppress(pa.ArrowException, NotImplementedError):
            array = array.dictionary_encode()
    for name in READERS:
        read_column(name, array)


def csv_blocks(folder):
    """Quoted CSV gives the same rows and the same bad lines for every block size."""
    path = folder / "blocks.csv"

    def read(data):
        path.write_bytes(b"a,b\n" + data[1:] + b"\n")
        answers = []
        for size in (4 << 20, 1 + data[0]):
            rawfiles.BLOCK_BYTES = size
            bad = BadLines(allowed=10_000)
            source = Source("here", folder, (path.name,))
            tables = read_tables(
                source, ["a", "b"], lambda table, _: table, bad, description="", workers=SerialWorkers()
            )
            rows = [row for table in tables for row in table.to_pylist()]
            answers.append((rows, sorted(line for _, line in bad.seen)))
        assert answers[0] == answers[1], (data, answers)

    return read


def check(folder):
    """`check` ends with exit code 0 or 2 on columns of any type."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    datasets = {
        encoding: {
            "min_interactions": 1,
            "interactions": {"files": "log.parquet", "user": "user", "item": "item", "time": "time", "also": "more"},
            "targets": {"like": "rating"},
            "modalities": {"one": {"files": "log.parquet", "item": "item", encoding: "more"}},
        }
        for encoding in ("vector", "text", "tokens")
    }
    content = {"parent_folder": ".", "datasets": datasets} | {f"{key}_path": f"out/{key}" for key in OUTPUTS}
    (folder / "own.json").write_text(json.dumps(content))
    out.quiet = err.quiet = True

    def read(data):
        source = atheris.FuzzedDataProvider(data)
        size, right = source.ConsumeIntInRange(0, 4), source.ConsumeBool()
        table = {name: drawn_array(source, drawn_type(source), size) for name in CHECKED}
        if right:  # the columns that are looked at first
            ids = pa.array(range(size), pa.int64())
            table |= {"user": ids, "item": ids, "rating": pa.array([0, 1, 0, 1][:size], pa.int64())}
        try:
            pq.write_table(pa.table(table), folder / "log.parquet")
        except (pa.ArrowException, NotImplementedError):
            return  # Parquet has no such type
        before, sys.argv = sys.argv, ["check", "check", str(folder / "own.json")]
        try:
            with contextlib.redirect_stdout(io.StringIO()):
                assert datasets_main.main() in (0, 2)
        finally:
            sys.argv = before

    return read
