"""Kinds of input: times, ids, text, vectors and devices as logs write them, in every mixture.

Each test draws inputs of one family. Both the check and the steps must read an input correctly, or refuse it with one
line that names file and line.
"""

import json
import re
import tempfile
from contextlib import contextmanager
from pathlib import Path
from random import Random

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

import preprocess_inter
from mma4ctr.datasets.arrow import OPAQUE
from mma4ctr.datasets.codes import Codes
from mma4ctr.datasets.columns import devices_of, ids_of, numbers_of, tokens_of
from mma4ctr.datasets.encoders import expanded
from mma4ctr.datasets.hashing import hash_values
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.json_lines import JsonLines, column_of
from mma4ctr.datasets.table_readers import natural_order
from mma4ctr.datasets.times import UNITS, TimeForm, form_of, time_of, units_of
from mma4ctr.datasets.toml_dataset import DescribedDataset
from mma4ctr.datasets.toml_spec import read_descriptions
from mma4ctr.datasets.validate import check_dataset
from mma4ctr.datasets.vectors import vectors_of
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.storage.artifacts import read_artifact
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.paths import load_paths
from tests.conftest import call
from tests.datasets.test_toml_dataset import write_paths

few = settings(max_examples=25)
many = settings(max_examples=120)

LOG = """
min_interactions = 1
[interactions]
files = "{files}"
user = "user"
item = "item"
{more}
[targets]
like = "like"
[modalities.vec]
vectors = "vec.npy"
ids = 0
"""


@contextmanager
def world(files, pattern, more='time = "time"'):
    """Write a folder with a log and its description."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for file, content in files.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, pa.Table):
                pq.write_table(content, path)
            else:
                path.write_text(content)
        np.save(folder / "vec.npy", np.arange(20, dtype=np.float32).reshape(10, 2))
        yield write_paths(folder, LOG.format(files=pattern, more=more))


def read_log(paths_file):
    """Return the interactions as step 1 reads them, in the order of the file, or the error line."""
    (description,) = read_descriptions(load_paths(paths_file)).values()
    raw = DescribedDataset(description)
    try:
        users = [part for part, _ in raw.read_users(BadLines())]
        index = IdIndex(np.unique(np.concatenate([*users, np.empty(0, np.int64)])))
        return list(raw.read_interactions(index, BadLines()))
    except UserError as error:
        return str(error)


def mistakes_of(paths_file):
    (description,) = read_descriptions(load_paths(paths_file)).values()
    return check_dataset(description, 10_000).mistakes


def joined(chunks, name):
    return np.concatenate([getattr(chunk, name) for chunk in chunks])


def csv_of(columns):
    rows = zip(*columns.values(), strict=True)
    return "\n".join([",".join(columns), *(",".join(map(str, row)) for row in rows)]) + "\n"


def json_of(columns):
    return "".join(
        json.dumps(dict(zip(columns, row, strict=True))) + "\n" for row in zip(*columns.values(), strict=True)
    )


def log_of(times):
    number = len(times)
    return {"user": [1] * number, "item": [k % 10 for k in range(number)], "like": [k % 2 for k in range(number)]} | {
        "time": times
    }


# Times: of one form in all files, or refused

SECONDS = [1_500_000_000 + 3_601 * k for k in (5, 0, 3, 9, 1)]


def iso(end=""):
    return lambda t: str(np.datetime64(t, "s")) + end


def compact(t):
    return int("".join(sign for sign in str(np.datetime64(t, "s")) if sign.isdigit()))


def arrow(unit, tz=None):
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    return lambda times: pa.array([t * scale for t in times], pa.timestamp(unit, tz=tz))


# By name: what the times mean (equal ones fit together), the kind of the file, and how a time is written.
FORMS = {
    "seconds": ("s", "csv", lambda t: t),
    "seconds with decimals": ("s", "csv", lambda t: f"{t}.5"),
    "milliseconds": ("ms", "csv", lambda t: t * 1000),
    "microseconds": ("us", "jsonl", lambda t: t * 10**6),
    "nanoseconds": ("ns", "csv", lambda t: t * 10**9),
    "JSON seconds": ("s", "jsonl", lambda t: t),
    "JSON seconds as floats": ("s", "jsonl", float),
    "JSON seconds as text": ("s", "jsonl", str),
    "compact dates": ("compact", "csv", compact),
    "dates": ("date", "csv", iso()),
    "JSON dates": ("date", "jsonl", iso()),
    "dates in UTC": ("zoned", "csv", iso("Z")),
    "dates with an offset": ("zoned", "jsonl", iso("+00:00")),
    "Parquet seconds": ("s", "parquet", lambda times: pa.array(times)),
    "Parquet floats": ("s", "parquet", lambda times: pa.array(times, pa.float64())),
    "Parquet milliseconds": ("ms", "parquet", lambda times: pa.array([t * 1000 for t in times])),
    "Parquet timestamps": ("date", "parquet", arrow("s")),
    "Parquet nanoseconds": ("date", "parquet", arrow("ns")),
    "Parquet zoned": ("zoned", "parquet", arrow("us", "Europe/Berlin")),
}


def file_of(form, times):
    _, kind, spell = FORMS[form]
    if kind == "parquet":
        return kind, pa.table(
            {**{k: pa.array(v) for k, v in log_of(times).items() if k != "time"}, "time": spell(times)}
        )
    columns = log_of([spell(t) for t in times])
    return kind, csv_of(columns) if kind == "csv" else json_of(columns)


@settings(max_examples=80)
@given(st.sampled_from(list(FORMS)), st.sampled_from(list(FORMS)))
@example("Parquet timestamps", "Parquet seconds")
@example("Parquet seconds", "Parquet timestamps")
def test_files_of_different_times_are_refused_and_of_equal_ones_ordered(one, other):
    (kind, first), (other_kind, second) = file_of(one, SECONDS[:3]), file_of(other, SECONDS[3:])
    names = [f"part-2.{kind}", f"part-10.{other_kind}"]
    with world(dict(zip(names, (first, second), strict=True)), "part-*") as paths:
        found, mistakes = read_log(paths), mistakes_of(paths)
    if FORMS[one][0] == FORMS[other][0]:
        assert not mistakes
        order = np.argsort(joined(found, "time"), kind="stable")
        assert order.tolist() == np.argsort(SECONDS).tolist(), "part-2 stands before part-10, and time orders both"
    else:
        assert isinstance(found, str) and all(name in found for name in names) and "use the same form" in found
        assert mistakes == [found], "the check says the same"


@few
@given(st.sampled_from(list(FORMS)), st.sampled_from(list(FORMS)))
def test_a_row_of_another_time_is_a_bad_line(one, other):
    """Many rows with times of one form, followed by one row of another form, in one text file."""
    (meaning, kind, spell), (other_meaning, other_kind, other_spell) = FORMS[one], FORMS[other]
    assume("parquet" not in (kind, other_kind) and meaning != other_meaning)
    columns = log_of([spell(SECONDS[0] + k) for k in range(1200)] + [other_spell(SECONDS[1])])
    with world(
        {"log": csv_of(columns) if kind == "csv" else json_of(columns)}, "log", f'time = "time"\nformat = "{kind}"'
    ) as paths:
        found, mistakes = read_log(paths), mistakes_of(paths)
    line = 1201 + (kind == "csv")
    assert isinstance(found, str) and f"log:{line}: column time: " in found
    assert len(mistakes) == 1 and found.startswith(mistakes[0])


def test_units_follow_from_size_only_where_that_is_certain():
    values = np.array([0, 5 * 10**6, 1.5e9, 1.5e12, 1.5e15, 1.5e18, 20240531, 202405311800, 20240531180000, 20241399])
    assert [UNITS[unit] for unit in units_of(values)] == [
        "", "", "seconds", "milliseconds", "microseconds", "nanoseconds",
        "YYYYMMDD", "YYYYMMDDhhmm", "YYYYMMDDhhmmss", "",
    ]  # fmt: skip
    counter = pa.array(range(19_900_000, 19_901_000))
    assert form_of(counter, "t").unit == "", "a counter that passes by dates is none"
    assert time_of(pa.array([10**12, 5, 10**9]), "t", TimeForm("whole")).tolist() == [10**12, 5, 10**9]


@few
@given(st.integers(10**8, 10**13), st.integers(0, 2**32))
def test_anonymised_times_have_no_unit(largest, seed):
    """Counters from 0 pass by the numbers that seconds, milliseconds and dates have."""
    rng = np.random.default_rng(seed)
    train, test = np.sort(rng.integers(0, largest, 3000)), rng.integers(largest // 2, largest, 600)
    train[:5] = 19_900_323, 20_240_531, 1_500_000_000 % largest, 0, 1
    files = {
        f"{name}.csv": csv_of(log_of([str(time) for time in times])) for name, times in (("1", train), ("2", test))
    }
    with world(files, "*.csv", 'time = "time"') as paths:
        found, mistakes = read_log(paths), mistakes_of(paths)
    assert not mistakes and sorted(joined(found, "time")) == sorted([*train, *test])


@pytest.mark.parametrize("unit", ["s", "ms", "us", "ns"])
def test_times_of_any_year_are_read_and_shown_or_refused(unit):
    scale = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}[unit]
    for seconds in (-(10**10), 0, 253_402_300_800, 10**12):  # the third is the year 10000
        if not -(2**63) < seconds * scale < 2**63:
            continue
        column = pa.array([seconds * scale], pa.timestamp(unit))
        assert time_of(column, "t", form_of(column, "t")).tolist() == [seconds * 10**6]
    if unit in ("s", "ms"):
        with pytest.raises(BadLine, match="column t"):  # beyond microseconds; it must not wrap round
            time_of(pa.array([2**62], pa.timestamp(unit)), "t", TimeForm("date"))


# The order of files


@many
@given(st.lists(st.lists(st.integers(0, 10**20), min_size=2, max_size=2), unique_by=tuple, min_size=1), st.randoms())
def test_numbers_in_every_part_of_a_path_count_as_numbers(days, random):
    paths = [Path(f"/log/day={day}/part-{part}.csv") for day, part in sorted(days)]
    shuffled = random.sample(paths, len(paths))
    assert sorted(shuffled, key=natural_order) == paths


# Text, tokens

WORDS = st.text(st.sampled_from("ab cÄ,.7猫\n"), max_size=12)


def bags(column, **how):
    row, token = tokens_of(column, "c", **how)
    return [sorted(token[row == one].tolist()) for one in range(len(column))]


@many
@given(st.lists(st.none() | st.lists(st.none() | WORDS, max_size=4), min_size=1, max_size=6))
def test_sentences_are_the_words_of_the_sentences_joined(lists):
    text = pa.array([" ".join(one or "" for one in texts or []) for texts in lists], pa.string())
    assert bags(pa.array(lists, pa.list_(pa.string())), words=True) == bags(text, words=True)
    mixed = [joined if k % 2 else texts for k, (texts, joined) in enumerate(zip(lists, text.to_pylist(), strict=True))]
    assert bags(column_of(mixed), words=True) == bags(text, words=True), "text and lists in one column"


@many
@given(st.lists(st.lists(st.none() | st.integers(-5, 5) | st.sampled_from(["a", "", "7"])), min_size=1, max_size=6))
def test_a_null_in_a_list_is_no_token(lists):
    without = [[one for one in tokens if one not in (None, "")] for tokens in lists]
    assert bags(column_of(lists), words=False) == bags(column_of(without), words=False)


# Ids

FLOATS = {np.float16: 2**11, np.float32: 2**24, np.float64: 2**53}


@many
@given(st.sampled_from(list(FLOATS)), st.lists(st.integers(0, 2**60), min_size=1), st.integers(0, 60))
def test_floats_are_ids_only_if_all_are_distinct(kind, numbers, shift):
    ids = sorted({number >> shift for number in numbers})
    with np.errstate(over="ignore"):
        column = np.array(ids, np.float64).astype(kind)
    try:
        found = ids_of(pa.array(column), "id").values.tolist()
    except BadLine as error:
        assert max(ids) >= FLOATS[kind] and "column id" in str(error)
    else:
        assert found == ids and max(ids) < FLOATS[kind]


DEVICES = st.none() | st.integers(-3, 5) | st.sampled_from(["0", "1", "-1", "", " ", "unknown", "phone"])


@many
@given(st.lists(st.lists(DEVICES, min_size=1, max_size=6), min_size=1, max_size=5))
@example([["0", "unknown"]])
@example([["unknown"], [0], [None]])
def test_no_two_devices_get_one_code(parts):
    codes = Codes()
    found = [codes.of(devices_of(column_of(part), "device")).tolist() for part in parts]
    written = [str("" if device is None else device).strip() for part in parts for device in part]
    pairs = set(zip(written, [code for part in found for code in part], strict=True))
    assert len(pairs) == len(set(written)) == len({code for _, code in pairs})
    if all(name.lstrip("-").isdigit() for name in written):
        assert all(int(name) == code for name, code in pairs), "numbers stay as they are"


def test_a_pattern_takes_neither_the_ids_nor_a_column_twice():
    table = pa.table({"emb_id": [0, 1], "emb_1": [0.5, 1.5], "emb_2": [2.5, 3.5], "like": [0, 1]})
    turned = table.select(["emb_2", "emb_id", "emb_1"]).slice(1)
    text = LOG.format(files="log.csv", more="") + (
        '[modalities.emb]\nfiles = "f*.parquet"\nitem = "emb_id"\nvector = ["emb_*", "emb_1"]\n'
    )
    with world(
        {"f1.parquet": table.slice(0, 1), "f2.parquet": turned, "log.csv": csv_of(log_of([1, 2]))}, "log.csv"
    ) as paths:
        (paths.parent / "mine.toml").write_text(text)
        (description,) = read_descriptions(load_paths(paths)).values()
        raw, source = DescribedDataset(description), description.sources[1]
        assert expanded(source, paths.parent / "f1.parquet") == ["emb_1", "emb_2"]
        values = np.concatenate([chunk.values for chunk in raw.read_features("emb", BadLines())])
        assert values.tolist() == [[0.5, 2.5], [1.5, 3.5]], "in the order of the first file in all of them"


# Vectors in text

SEPARATORS = (" ", "  ", ", ", ",", "; ", ";", "\n", " , ")
NUMBERS = st.floats(-2000, 2000, width=16).filter(lambda number: abs(number) > 1e-3 or number == 0)


@many
@given(
    st.lists(NUMBERS, min_size=1, max_size=5),
    st.lists(st.sampled_from(SEPARATORS), min_size=4, max_size=4),
    st.sampled_from(["{:.2f}", "{:g}", "{:,.2f}"]),
    st.sampled_from([".", ","]),
    st.sampled_from(["{}", "[{}]"]),
)
@example([0.12, 0.34], [" "] * 4, "{:.2f}", ",", "{}")
@example([0.12], [" "] * 4, "{:.2f}", ",", "{}")
@example([1234.5, 0.5], [";"] * 4, "{:,.2f}", ",", "{}")
@example([0.0, 1100.0, 0.0], [",", ", "] * 2, "{:,.2f}", ".", "{}")
def test_text_is_the_vector_that_was_meant_or_is_refused(numbers, separators, spell, decimal, around):
    """Decimal points or commas, thousands with points, commas or spaces, any separators."""
    swapped = str.maketrans(",.", ".,") if decimal == "," else str.maketrans("", "")
    cells = [spell.format(number).translate(swapped) for number in numbers]
    text = around.format(
        "".join(cell + mark for cell, mark in zip(cells, [*separators[: len(cells) - 1], ""], strict=True))
    )
    meant = [float(spell.format(number).replace(",", "")) for number in numbers]
    marks = separators[: len(cells) - 1]
    kinds = {mark if mark == "," else mark.strip() + " " for mark in marks}
    try:
        found = vectors_of([("v", pa.array([text]))], None)[0][0].tolist()
    except BadLine as error:
        one_or_two = around == "{}" and re.fullmatch(r"-?\d+,-?\d+", text)
        assert "two ways" in str(error) and (any("," in cell for cell in cells) or len(kinds) > 1 or one_or_two)
        return
    if len(found) == len(meant):
        assert np.allclose(found, np.float32(meant))
    else:
        # What is left are numbers with nothing but a comma between any two, such as [0,12].
        assert re.fullmatch(r"\[?-?[\d.]+(,-?[\d.]+)*\]?", text)


@pytest.mark.parametrize(
    "text", ["0,12 0,34", "0,12;0,34", "0,12; 0,34", "0,12, 0,34", "[0,12, 0,34]", "0,12", "1 234,5", "1 234.5;2 000.1",
             "1.234,5 2.000,1", "1,234.5 2,000.1", "0,05,0,07", "0,12\t0,34", "0,12 ,0,34", "-0,12 -0,34"],
)  # fmt: skip
def test_decimal_commas_are_refused(text):
    with pytest.raises(BadLine, match="two ways"):
        vectors_of([("v", pa.array([text]))], None)


@pytest.mark.parametrize(
    "text", ["0.5 1 -2e3", "[0.5, 1, -2e3]", "0.5,1,-2e3", "0.5;1;-2e3", "0.5; 1; -2e3", "[0.5 1\n -2e3]", 
             " 0.5 , 1 , -2e3 ", "[0.5, 1,\n -2e3]", "[0.5,1,-2e3]"],
)  # fmt: skip
def test_usual_separators_are_read(text):
    assert vectors_of([("v", pa.array([text, "", None]))], None)[0].tolist() == [[0.5, 1, -2000], [0] * 3, [0] * 3]


# Lines passed over


@few
@given(st.lists(st.sampled_from(["right", "twice", "no rating", "no user", "short"]), min_size=30, max_size=60))
def test_skipped_lines_and_duplicates_are_counted_apart(kinds):
    lines = []
    for count, kind in enumerate(kinds + ["right"] * 30):
        row = f"{count % 4},{count % 10},{count % 2},{10**9 + count}"
        lines += {
            "right": [row],
            "twice": [row, row],
            "no rating": [f"1,2,,{count}"],
            "no user": [f",2,1,{count}"],
        }.get(kind, ["1,2"])
    bad, twice = sum(kind in ("no rating", "no user", "short") for kind in kinds), kinds.count("twice")
    with world({"log.csv": "\n".join(["user,item,like,time", *lines]) + "\n"}, "log.csv") as paths:
        assert call(preprocess_inter.main, "--paths", paths, "--skip-bad-lines", bad) == 0
        rows = read_artifact(load_paths(paths).graph / "mine", "").manifest["rows"]
    assert (rows["raw"], rows["duplicates"], rows["skipped"]) == (len(lines), twice, bad)
    assert rows["kept"] == rows["raw"] - rows["duplicates"] - rows["skipped"]


# Values of any type

SCALARS: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.integers(-2, 5) | st.text(max_size=3)
)
SCALARS = (
    SCALARS | st.floats(allow_nan=False, allow_infinity=False) | st.sampled_from([1.0, 2.0, 0.5, "1", "0.5", "a b", ""])
)
JSON = st.recursive(
    SCALARS, lambda one: st.lists(one, max_size=3) | st.dictionaries(st.text(max_size=2), one, max_size=2)
)
READERS = {
    "ids": lambda column: ids_of(column, "c").shown().to_pylist(),
    "devices": lambda column: devices_of(column, "c").values.tolist(),
    "numbers": lambda column: numbers_of(column, "c").tolist(),
    "hashes": lambda column: hash_values(column, "c").tolist(),
    "words": lambda column: bags(column, words=True),
    "tokens": lambda column: bags(column, words=False),
    "vectors": lambda column: [v.tolist() for v in vectors_of([("c", column)], 2)[0]],
    "whole times": lambda column: time_of(column, "c", TimeForm("whole")).tolist(),
    "number times": lambda column: time_of(column, "c", TimeForm("number")).tolist(),
    "dates": lambda column: time_of(column, "c", TimeForm("date")).tolist(),
}


def outcome(read, column):
    """Return what a reader makes of a column; None if it refuses it."""
    try:
        return read(column)
    except BadLine as error:
        assert str(error).startswith("column c: ") and "\n" not in str(error)
        return None


@settings(max_examples=250)
@given(st.lists(JSON, min_size=1, max_size=6), st.sampled_from(list(READERS)))
@example(["a b", ["a b", "c"]], "words")
@example([True, 1, "1", 1.0], "numbers")
@example([2**70, 5, "5"], "ids")
@example([[1, None], [1.5], ["2"]], "vectors")
def test_a_value_means_the_same_whatever_stands_beside_it(values, reader):
    """Lines that can be read one by one can be read together, so a block may end anywhere."""
    read = READERS[reader]
    lines = "".join(json.dumps({"c": value}) + "\n" for value in values).encode()
    together = outcome(read, JsonLines(("c",)).parse(lines)["c"])
    alone = [outcome(read, JsonLines(("c",)).parse(line)["c"]) for line in lines.splitlines(keepends=True)]
    assert together == (None if None in alone else [one for part in alone for one in part])


NESTED = [OPAQUE, pa.struct([("a", pa.int64())]), pa.list_(pa.list_(pa.string())), pa.map_(pa.string(), pa.int64())]
FLAT = [
    pa.null(), pa.bool_(), pa.int8(), pa.uint64(), pa.float16(), pa.float32(), pa.float64(), pa.string(),
    pa.large_string(), pa.string_view(), pa.binary(), pa.binary(3), pa.binary(16), pa.binary_view(), pa.date32(),
    pa.date64(), pa.time32("s"), pa.time64("ns"), pa.timestamp("ns"), pa.timestamp("s", "UTC"), pa.duration("s"),
    pa.decimal128(20, 2), pa.decimal256(50, 0), pa.dictionary(pa.int8(), pa.string()), pa.month_day_nano_interval(),
    pa.uuid(), pa.run_end_encoded(pa.int32(), pa.int64()),
]  # fmt: skip
TYPES = [
    *NESTED,
    *FLAT,
    *(pa.list_(kind) for kind in FLAT[:-1]),
    *(pa.list_(kind, 2) for kind in (pa.int64(), pa.float32())),
]


def flat_values(kind, random, rows):
    """Draw a column of a type without nested types."""
    if kind in (pa.string_view(), pa.binary_view()):
        return pa.array([random.choice([None, "a", "17"]) for _ in range(rows)], kind)
    if kind in (pa.string(), pa.large_string(), pa.binary()):
        cells = [random.choice([b"a", b"\xff", "ä 7".encode(), b"", None, b"17", b"2024-05-31"]) for _ in range(rows)]
        return pa.array(cells, pa.large_binary() if kind == pa.large_string() else pa.binary()).view(kind)
    if pa.types.is_null(kind):
        return pa.nulls(rows)
    if pa.types.is_boolean(kind):
        return pa.array([random.choice([True, False, None]) for _ in range(rows)])
    if pa.types.is_decimal(kind):
        return (
            pa.array([random.choice([None, random.randrange(100)]) for _ in range(rows)], pa.int64())
            .cast(pa.decimal128(21, 2))
            .cast(kind, safe=False)
        )
    width = getattr(kind, "byte_width", None) or kind.bit_width // 8
    data = pa.py_buffer(bytes(random.choice([0, 0, 1, 3, 255]) for _ in range(rows * width)))
    return pa.Array.from_buffers(kind, rows, [None, data])


def list_values(kind, random, rows):
    """Draw a column of lists."""
    length = kind.list_size if pa.types.is_fixed_size_list(kind) else None
    counts = [length or random.randrange(3) for _ in range(rows)]
    flat = some_values(kind.value_type, random, sum(counts))
    if length:
        return pa.FixedSizeListArray.from_arrays(flat, length)
    return pa.ListArray.from_arrays(pa.array(np.cumsum([0, *counts]), pa.int32()), flat)


def some_values(kind, random, rows):
    """Draw a column of any type with nulls, from random bytes if the type allows them."""
    if pa.types.is_run_end_encoded(kind):
        rows = max(rows, 1)
        return pa.RunEndEncodedArray.from_arrays([rows], [random.randrange(5)])
    if isinstance(kind, pa.ExtensionType):
        return pa.ExtensionArray.from_storage(kind, some_values(kind.storage_type, random, rows))
    if pa.types.is_dictionary(kind):
        return some_values(kind.value_type, random, rows).dictionary_encode()
    if pa.types.is_struct(kind):
        children = [some_values(field.type, random, rows) for field in kind]
        return pa.StructArray.from_arrays(
            children, fields=list(kind), mask=pa.array([random.random() < 0.2 for _ in range(rows)], pa.bool_())
        )
    if pa.types.is_map(kind):
        return pa.array([random.choice([None, [("a", 1)], []]) for _ in range(rows)], kind)
    if pa.types.is_list(kind) or pa.types.is_fixed_size_list(kind):
        return list_values(kind, random, rows)
    return flat_values(kind, random, rows)


@settings(max_examples=400)
@given(st.sampled_from(TYPES), st.integers(0, 4), st.randoms(use_true_random=False), st.sampled_from(list(READERS)))
def test_every_reader_reads_or_refuses_every_type(kind, rows, random, reader):
    found = outcome(READERS[reader], some_values(kind, random, rows))
    assert found is None or len(found) in (rows, 1)


@settings(max_examples=80)
@given(
    st.sampled_from(TYPES),
    st.randoms(use_true_random=False),
    st.sampled_from(["user", "time", "like", "extra", "phone"]),
)
@example(pa.list_(pa.string()), Random(0), "extra")
def test_a_column_of_any_type_is_read_or_refused_by_both_check_and_step(kind, random, place):
    columns = {name: pa.array(values) for name, values in log_of(SECONDS).items()}
    columns |= {name: pa.array(range(len(SECONDS))) for name in ("extra", "phone")}
    columns[place] = some_values(kind, random, len(SECONDS))
    try:
        pq.write_table(pa.table(columns), pa.BufferOutputStream())
    except (pa.ArrowException, OverflowError):
        assume(False)
    more = 'time = "time"\nalso = "extra"\ndevice = "phone"'
    with world({"log.parquet": pa.table(columns)}, "log.parquet", more) as paths:
        found, mistakes = read_log(paths), mistakes_of(paths)
    if isinstance(found, str):
        assert "log.parquet:" in found and "\n" not in found and mistakes
        assert any(found.startswith(mistake.split(", and so")[0]) for mistake in mistakes), (found, mistakes)
    else:
        # Labels of one kind are a mistake of the description, which step 1 reports for all rows.
        assert all("labels every row" in mistake for mistake in mistakes), mistakes


@settings(max_examples=60)
@given(st.lists(JSON, min_size=5, max_size=5), st.sampled_from(["user", "item", "time", "like", "extra", "phone"]))
@example([[1], [1], {"a": 1}, {"a": 1}, None], "extra")
def test_json_of_any_values_is_read_or_refused_by_both_check_and_step(values, place):
    columns = log_of(SECONDS) | {"extra": [0] * 5, "phone": [0] * 5} | {place: values}
    more = 'time = "time"\nalso = "extra"\ndevice = "phone"'
    with world({"log.jsonl": json_of(columns)}, "log.jsonl", more) as paths:
        found, mistakes = read_log(paths), mistakes_of(paths)
    if isinstance(found, str):
        assert "log.jsonl:" in found and "\n" not in found
        assert any(found.startswith(mistake.split(", and so")[0]) for mistake in mistakes), (found, mistakes)
        return
    assert all("labels every row" in mistake for mistake in mistakes), mistakes
    if place == "extra":
        texts = [json.dumps(value, sort_keys=True) for value in values]
        hashes = [hash_values(column_of([value]), "c")[0] for value in values]
        different = {(one, other) for one in range(5) for other in range(5) if hashes[one] != hashes[other]}
        assert all(texts[one] != texts[other] for one, other in different)
        lists = [k for k, value in enumerate(values) if isinstance(value, list) and all(type(v) is str for v in value)]
        assert all((one, other) in different or texts[one] == texts[other] for one in lists for other in lists)


# One wrong cell


@settings(max_examples=40)
@given(
    st.sampled_from(["csv", "jsonl", "parquet"]),
    st.sampled_from(["user", "item", "time", "like"]),
    st.integers(0, 599),
    st.sampled_from(["", " ", "x" * 300, "noon", "nan", "1.5", 'a"b', "9" * 30, "-"]),
)
@example("csv", "time", 400, "")
def test_the_check_names_the_line_and_value_that_the_step_names(kind, column, row, cell):
    columns = {
        name: [str(value) for value in values] for name, values in log_of(list(range(10**9, 10**9 + 600))).items()
    }
    columns[column][row] = cell
    assume(kind != "csv" or '"' not in cell)
    content = pa.table(columns) if kind == "parquet" else csv_of(columns) if kind == "csv" else json_of(columns)
    with world({f"log.{kind}": content}, f"log.{kind}") as paths:
        found, mistakes = read_log(paths), mistakes_of(paths)
    if isinstance(found, str):
        assert f"log.{kind}:{row + 1 + (kind == 'csv')}: column {column}: " in found
        assert len(mistakes) == 1 and found.startswith(mistakes[0]), (found, mistakes)
        assert not (column == "time" and not cell.strip()) or "a time is empty" in found
    else:
        assert not mistakes


def test_text_that_is_not_utf8_is_reported_with_its_row():
    titles = pa.array([b"ant", b"bee", b"\xffcat", b"dog"], pa.binary()).view(pa.string())
    log = {"log.csv": csv_of(log_of([1, 2, 3]))}
    for encoding in ("text", "tokens"):
        with world(log | {"m.parquet": pa.table({"id": [0, 1, 2, 3], "title": titles})}, "log.csv") as paths:
            text = (paths.parent / "mine.toml").read_text()
            text += f'[modalities.words]\nfiles = "m.parquet"\nitem = "id"\n{encoding} = "title"\n'
            (paths.parent / "mine.toml").write_text(text)
            (mistake,) = mistakes_of(paths)
            assert mistake.endswith("m.parquet:3: column title: bytes that are not UTF-8 text")
            (description,) = read_descriptions(load_paths(paths)).values()
            with pytest.raises(UserError, match=r"m.parquet:3: column title: bytes that are not UTF-8"):
                list(DescribedDataset(description).read_features("words", BadLines()))
