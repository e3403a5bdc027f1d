"""Columns of any Arrow type and JSON lines of any values, drawn by hypothesis.

Every reader of described data gives a result, `BadLine` or `UserError`; `check` and `--predict` give one error line.
`make fuzz` does the same for longer.
"""

import datetime
import decimal
import json
import tempfile
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mma4ctr.datasets import __main__ as datasets_main
from mma4ctr.datasets.json_lines import JsonLines
from mma4ctr.datasets.table_readers import ParseText, SerialWorkers, Source, read_tables
from mma4ctr.storage.bad_lines import BadLines
from tests.conftest import call
from tests.datasets.arrow_readers import BLOCK, READERS, REFUSED, read_asked, read_column, read_lines, read_text

EXAMPLES = settings(
    max_examples=60,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
NUMBERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-3, 3)
FLOATS = st.floats() | st.integers(-5, 5).map(float)
TEXT = st.text(st.characters(codec="utf-8"), max_size=8) | st.sampled_from(
    ["1", "001", "0.5 1", "[1, 2]", "2024-05-31", ""]
)
# By type: what its values are drawn from.
TYPES = {
    pa.null(): st.none(),
    pa.bool_(): st.booleans(),
    pa.int8(): st.integers(-128, 127),
    pa.int64(): NUMBERS,
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.float16(): st.floats(width=16),
    pa.float32(): st.floats(width=32) | st.integers(0, 2**30).map(float),
    pa.float64(): FLOATS,
    pa.string(): TEXT,
    pa.large_string(): TEXT,
    pa.string_view(): TEXT,
    pa.binary(): st.binary(max_size=5),
    pa.large_binary(): st.binary(max_size=5),
    pa.binary(16): st.binary(min_size=16, max_size=16),
    pa.binary(3): st.binary(min_size=3, max_size=3),
    pa.decimal128(20, 3): st.integers(-(10**9), 10**9).map(lambda n: decimal.Decimal(n) / 1000),
    pa.date32(): st.dates(),
    pa.date64(): st.dates(),
    pa.time32("s"): st.times().map(lambda t: t.replace(microsecond=0)),
    pa.time64("us"): st.times(),
    pa.timestamp("s"): NUMBERS,
    pa.timestamp("ms"): NUMBERS,
    pa.timestamp("us", "UTC"): NUMBERS,
    pa.timestamp("ns", "Europe/Rome"): NUMBERS,
    pa.timestamp("ns"): NUMBERS,
    pa.duration("ms"): st.timedeltas(datetime.timedelta(-1000), datetime.timedelta(1000)),
}


def of_type(kind, values):
    """A type with a strategy for its arrays."""
    return st.lists(st.none() | values, max_size=5).map(lambda drawn: pa.array(drawn, kind))


def nested(kind, values):
    some = st.lists(st.none() | values, max_size=3)
    yield of_type(pa.list_(kind), some)
    yield of_type(pa.large_list(kind), some)
    yield of_type(pa.list_(kind, 2), st.lists(st.none() | values, min_size=2, max_size=2))
    yield of_type(pa.list_(pa.list_(kind)), st.lists(some, max_size=2))
    yield of_type(pa.struct([("x", kind)]), st.fixed_dictionaries({"x": st.none() | values}))
    yield of_type(pa.map_(pa.string(), kind), st.lists(st.tuples(st.just("k"), st.none() | values), max_size=2))


PLAIN = [of_type(kind, values) for kind, values in TYPES.items()]
NESTED = [one for kind, values in TYPES.items() for one in nested(kind, values)]
ENCODED = [
    of_type(pa.string(), TEXT).map(lambda array: array.dictionary_encode()),
    of_type(pa.int64(), NUMBERS).map(lambda array: array.dictionary_encode()),
    of_type(pa.binary(), st.binary(max_size=4)).map(lambda array: array.view(pa.string())),  # perhaps no UTF-8
    of_type(pa.list_(pa.binary()), st.lists(st.binary(max_size=4), max_size=3)).map(
        lambda array: pa.ListArray.from_arrays(array.offsets, array.values.view(pa.string()))
    ),
]
COLUMNS = st.one_of(st.one_of(PLAIN), st.one_of(ENCODED), st.one_of(NESTED))


@pytest.mark.parametrize("name", READERS)
@EXAMPLES
@given(column=COLUMNS, sliced=st.integers(0, 2), chunked=st.booleans())
def test_columns_of_any_type(name, column, sliced, chunked):
    column = column.slice(sliced)
    read_column(name, pa.chunked_array([column[:1], column[1:]]) if chunked else column)


LEAF = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats(allow_nan=False, allow_infinity=False) | TEXT
)
JSON = st.recursive(LEAF, lambda one: st.lists(one, max_size=3) | st.dictionaries(TEXT, one, max_size=2), max_leaves=4)


@settings(EXAMPLES, max_examples=300)
@given(lines=st.lists(st.fixed_dictionaries({"a": JSON, "b": LEAF}, optional={"c": JSON}), min_size=1, max_size=5))
def test_json_of_any_values(lines):
    read_lines("".join(json.dumps(line) + "\n" for line in lines).encode())


@settings(EXAMPLES, max_examples=100)
@given(data=st.binary(max_size=40) | st.text(st.sampled_from('ab,\t"\n\r 01'), max_size=40).map(str.encode))
def test_bytes_of_any_kind(data):
    read_lines(data)
    read_text(data)
    read_text(data, "\t", quoted=False)
    read_asked(data)


@settings(EXAMPLES, max_examples=200)
@given(values=st.lists(st.integers(-(2**70), 2**70), min_size=1, max_size=6))
def test_numbers_of_any_size_in_json_stay_as_they_are(values):
    data = "".join(json.dumps({"a": value}) + "\n" for value in values).encode()
    try:
        table = ParseText(JsonLines(("a",)), lambda table, block: table)(data, BLOCK)
    except REFUSED:
        pytest.fail("whole numbers were refused")
    assert [int(str(value)) for value in table["a"].to_pylist()] == values


DESCRIPTION = """min_interactions = 1
[interactions]
files = "log.{kind}"
user = "user"
item = "item"
time = "time"
also = ["more"]
[targets]
like = "rating"
[modalities.one]
files = "log.{kind}"
item = "item"
{encoding} = "more"
"""


@pytest.mark.parametrize("encoding", ["vector", "text", "tokens"])
@settings(EXAMPLES, max_examples=15)
@given(drawn=st.data())
def test_the_check_takes_columns_of_any_type(encoding, drawn, capsys):
    """For any columns, `check` ends with exit code 0 or 2, and its lines name the files of the data set."""
    columns = {name: drawn.draw(COLUMNS) for name in ("user", "item", "time", "rating", "more")}
    if drawn.draw(st.booleans()):  # most are right
        columns |= {"user": pa.array(["u"] * 4), "item": pa.array(range(4)), "rating": pa.array([0, 1, 0, 1])}
    size = min(map(len, columns.values()))
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        (folder / "mine.toml").write_text(DESCRIPTION.format(kind="parquet", encoding=encoding))
        out = {
            f"{key}_path": f"out/{key}"
            for key in ("graph", "modal", "user_embedding", "matrix", "torch_model", "saved")
        }
        (folder / "own.json").write_bytes(orjson.dumps({"parent_folder": ".", "datasets": {"mine": "mine.toml"}} | out))
        try:
            pq.write_table(pa.table({name: column[:size] for name, column in columns.items()}), folder / "log.parquet")
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return  # Parquet has no such type
        code = call(datasets_main.main, "check", folder / "own.json")
        error = capsys.readouterr().err
        assert code in (0, 2) and bool(error.count("error: ")) == (code == 2)


@EXAMPLES
@given(column=COLUMNS)
def test_bad_rows_of_any_type_are_passed_over_one_by_one(column):
    """The reader of files skips exactly the rows that are bad when read alone."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made) / "log.parquet"
        try:
            pq.write_table(pa.table({"c": column}), path)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
            return
        table = pq.read_table(path)
        good = [row for row in range(len(table)) if read_column("ids", table["c"].slice(row, 1))]

        def parse(part, _block):
            READERS["ids"](part["c"])
            return len(part)

        bad = BadLines(allowed=len(table))
        source = Source("here", path.parent, (path.name,))
        assert sum(read_tables(source, ["c"], parse, bad, description="", workers=SerialWorkers())) == len(good)
        assert len(bad.seen) == len(table) - len(good)


@pytest.mark.parametrize("name", READERS)
@pytest.mark.parametrize("values", [["1", "2", None, "1"], ["a b", "2024-05-31", "", "a b"]])
def test_dictionaries_of_any_text_are_read_as_the_text_itself(name, values):
    """pyarrow cannot decode a dictionary of string views; `make fuzz` found this."""
    for kind in (pa.string(), pa.large_string(), pa.string_view()):
        text = pa.array(values, pa.string())
        encoded = text.dictionary_encode()
        views = pa.DictionaryArray.from_arrays(encoded.indices, encoded.dictionary.cast(kind))
        assert read_column(name, views) == read_column(name, text)
