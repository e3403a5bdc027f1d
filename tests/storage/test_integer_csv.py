"""The compiled reader and writer of lines of whole numbers against the general ones."""

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mma4ctr.data import recbole_export as interfiles
from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.delimited import DelimitedText
from mma4ctr.storage.integer_csv import format_columns, parse_columns

NAMES = ["a", "b", "c"]


def grammar(compiled, wanted=("c", "a"), quoted=True):
    return DelimitedText(NAMES, dict.fromkeys(wanted, pa.int64()), delimiter=",", quoted=quoted, compiled=compiled)


def read(data, compiled, **more):
    try:
        return grammar(compiled, **more).parse(data).to_pydict()
    except BadLine as error:
        return str(error)


@given(
    st.lists(
        st.lists(st.one_of(st.integers(-(2**64), 2**64).map(str), st.text("0-+ 1\"',.x\r\té", max_size=4)), max_size=4),
        max_size=5,
    ),
    st.sampled_from(["\n", "\r\n"]),
    st.booleans(),
)
def test_compiled_or_not_the_answer_is_the_same(rows, end, quoted):
    data = "".join(",".join(row) + end for row in rows).encode()
    if data:
        assert read(data, True, quoted=quoted) == read(data, False, quoted=quoted)


def test_plain_lines_are_read_by_the_compiled_parser():
    found = parse_columns(b"1,x y,-22\n007,?,999999999999999999", [True, False, True], ",")
    assert found.tolist() == [[1, 7], [-22, 999999999999999999]]


@pytest.mark.parametrize(
    "line",
    [
        *(
            b"1,2",
            b"1,2,3,4",
            b"",
            b"1,,3",
            b",2,3",
            b"+1,2,3",
            b"1,2,3 ",
            b" 1,2,3",
            b"1,2,0x1",
            b"1,2,3.0",
            b"1,2,3\r",
        ),
        *(b"--1,2,3", b"-,2,3", b'"1",2,3', b'1,"2",3', b"1,2,1000000000000000000", b"1\0,2,3", b"1,2\r,3"),
    ],
)
def test_other_lines_are_left_to_the_general_parser(line):
    assert parse_columns(b"1,2,3\n" + line + b"\n", [True, False, True], ",") is None


def test_numbers_are_written_as_python_writes_them():
    rng = np.random.default_rng(0)
    columns = [rng.integers(-(2**63), 2**63 - 1, 5000) >> rng.integers(0, 63, 5000) for _ in range(2)]
    columns += [np.array([-(2**63), 2**63 - 1, 0, -1, 9] * 1000), np.arange(5000, dtype=np.uint8)]
    expected = "".join("\t".join(map(str, row)) + "\n" for row in zip(*(c.tolist() for c in columns), strict=True))
    assert bytes(format_columns(columns, "\t")).decode() == expected


def test_inter_files_are_the_same_from_both_writers(tmp_path, monkeypatch):
    rng = np.random.default_rng(1)
    split = rng.integers(0, 3, 1000).astype(np.uint8)
    columns = {
        "user_id:token": interfiles.InterColumn(rng.integers(0, 9, 1000), np.arange(9) - 4),
        "like:float": interfiles.InterColumn(rng.integers(0, 2, 1000, dtype=np.uint8)),
    }
    files = []
    for rows in (1000, 300):  # one chunk, by pyarrow; several, compiled
        monkeypatch.setattr(interfiles, "CHUNK_ROWS", rows)
        folder = tmp_path / str(rows)
        folder.mkdir()
        interfiles.write_inter(folder, "x", columns, split)
        files.append([(folder / f"x.{name}.inter").read_text() for name in ("train", "valid", "test")])
    assert files[0] == files[1]
    assert files[0][0].splitlines()[0] == "user_id:token\tlike:float"
    assert sum(text.count("\n") for text in files[0]) == 1003
