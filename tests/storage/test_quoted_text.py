"""Quoted CSV with line breaks in cells: equal results for every block size, bad records reported with their line."""

import csv
import gzip
import io
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mma4ctr.datasets.columns import ids_of
from mma4ctr.datasets.table_readers import Source, read_tables
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import Threads
from mma4ctr.storage import text_blocks as rawfiles
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.quoted_text import QuotedText

EXAMPLES = settings(
    max_examples=80,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
CELL = st.text(st.sampled_from(list('ab ,\n"')), max_size=8)
BLOCK_SIZES = (1, 7, 40, 300, 4 << 20)


def read(path, allowed=0):
    """Return the rows (id, title) of a file, and the lines of the skipped rows."""

    def parse(table, _block):
        ids_of(table["id"], "id")
        return table

    bad = BadLines(allowed=allowed)
    source = Source("here", path.parent, (path.name,), separator=None)
    tables = read_tables(source, ["id", "title"], parse, bad, description="", workers=Threads())
    rows = [(row["id"], row["title"]) for table in tables for row in table.to_pylist()]
    return rows, sorted(line for _, line in bad.seen)


def written(rows, quoting):
    """Write a file of the rows; returns the line in which each starts."""
    text = io.StringIO(newline="")
    text.write("id,title\n")
    writer = csv.writer(text, lineterminator="\n", quoting=quoting)
    starts = []
    for row in rows:
        starts.append(text.getvalue().count("\n") + 1)
        writer.writerow(row)
    return text.getvalue().encode(), starts


@EXAMPLES
@given(
    titles=st.lists(CELL, min_size=1, max_size=30),
    bad=st.sets(st.integers(0, 29), max_size=3),
    quoting=st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL]),
    packed=st.booleans(),
)
def test_cells_over_several_lines_are_read_alike_at_any_size(titles, bad, quoting, packed, monkeypatch):
    """Only the row without an id is bad; all others are read."""
    rows = [("" if number in bad else str(number), title) for number, title in enumerate(titles)]
    content, starts = written(rows, quoting)
    good = [row for row in rows if row[0]]
    lines = [start for start, row in zip(starts, rows, strict=True) if not row[0]]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / ("titles.csv.gz" if packed else "titles.csv")
        path.write_bytes(gzip.compress(content, 1) if packed else content)
        for size in BLOCK_SIZES:
            monkeypatch.setattr(rawfiles, "BLOCK_BYTES", size)
            assert read(path, allowed=3) == (good, lines), size


@EXAMPLES
@given(
    before=st.lists(CELL, max_size=10),
    after=st.lists(st.text(st.sampled_from("ab ")).map(lambda text: f"x{text}y"), min_size=1, max_size=10),
    quoted_after=st.booleans(),
)
def test_a_quote_that_is_not_closed_costs_its_own_line(before, after, quoted_after, monkeypatch):
    """Even if quoted cells follow, the first of which could close it."""
    content, _ = written([(str(number), title) for number, title in enumerate(before)], csv.QUOTE_MINIMAL)
    line = content.count(b"\n") + 1
    content += b'77,"never closed\n'
    for number, title in enumerate(after):
        content += (f'{100 + number},"{title}"\n' if quoted_after else f"{100 + number},{title}\n").encode()
    expected = [(str(number), title) for number, title in enumerate(before)]
    expected += [(str(100 + number), title) for number, title in enumerate(after)]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "titles.csv"
        path.write_bytes(content)
        for size in BLOCK_SIZES:
            monkeypatch.setattr(rawfiles, "BLOCK_BYTES", size)
            assert read(path, allowed=1) == (expected, [line]), size
        with pytest.raises(UserError, match=rf"titles.csv:{line}: a quote that is not closed"):
            read(path)


def slow_ends(data, delimiter=","):
    """Return where records with closed quotes end, character by character."""
    ends, in_quotes, cell_starts, place = [], False, True, 0
    while place < len(data):
        one = data[place : place + 1]
        if in_quotes:
            if one == b'"':
                if data[place + 1 : place + 2] == b'"':
                    place += 1
                else:
                    in_quotes = False
        elif one == b'"' and cell_starts:
            in_quotes = True
        elif one == b"\n":
            ends.append(place + 1)
        cell_starts = one in (delimiter.encode(), b"\n", b"\r")
        place += 1
    return ends if not ends or ends[-1] == len(data) else [*ends, len(data)]


@settings(EXAMPLES, max_examples=300)
@given(rows=st.lists(st.tuples(CELL, CELL), min_size=1, max_size=8), stray=st.booleans())
def test_records_end_where_a_slow_reader_says(rows, stray):
    text = io.StringIO(newline="")
    csv.writer(text, lineterminator="\n").writerows(rows)
    data = text.getvalue().encode()
    if stray:  # a quote in the middle of a cell is a character like others
        data = b'5" disk,"of" 3 inches\n' + data
    assert QuotedText(",").record_ends(data).tolist() == slow_ends(data)
    assert not QuotedText(",").is_open(data)


@given(st.text(st.sampled_from(list('a,"\n\r ')), max_size=40))
def test_ends_of_any_text_grow_and_reach_its_end(text):
    data = text.encode()
    ends = QuotedText(",").record_ends(data)
    assert (np.diff(ends, prepend=0) > 0).all() and (not data or ends[-1] == len(data))
    assert all(end == len(data) or data[end - 1 : end] == b"\n" for end in ends.tolist())


def test_many_quotes_that_are_not_closed_take_no_longer_than_lines():
    """The reader searches to the end of the text for at most a hundred of them."""
    data = b'1,"a,""\n' * 20_000
    assert len(QuotedText(",").record_ends(data)) == 20_000


def test_a_header_may_hold_a_line_break(tmp_path):
    path = tmp_path / "titles.csv"
    path.write_text('id,title,"a note\non it"\n1,x,y\n,x,y\n')
    assert read(path, allowed=1) == ([("1", "x")], [4])
