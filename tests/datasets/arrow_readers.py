"""Every reader of described data sets as a function of one Arrow column or of the bytes of lines.

Each returns a result or raises `BadLine` or `UserError`. test_arrow_types.py and fuzz_readers.py use them.
"""

from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.columns import Rule, ids_of, numbers_of, tokens_of
from mma4ctr.datasets.hashing import hash_values
from mma4ctr.datasets.json_lines import JsonLines
from mma4ctr.datasets.table_readers import ParseText
from mma4ctr.datasets.times import KINDS, TimeForm, form_of, time_of
from mma4ctr.datasets.vectors import vectors_of
from mma4ctr.model.inference import id_column
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.storage.delimited import DelimitedText
from mma4ctr.storage.quoted_text import QuotedText
from mma4ctr.storage.text_blocks import Block

BLOCK = Block(Path("fuzzed"), 0, 0, 0)
REFUSED = (BadLine, UserError)


def _ids(column):
    ids = ids_of(column, "c")
    assert len(ids.values) == len(column) and len(ids.named) == len(ids.text) and len(ids.shown()) == len(column)


def _times(column):
    form = form_of(column, "c")
    assert len(time_of(column, "c", form)) == len(column)


def _times_of(form, column):
    assert len(time_of(column, "c", form)) == len(column)


def _vectors(width):
    def read(column):
        values, length = vectors_of([("c", column)], width)
        assert len(values) == len(length) == len(column) and np.isfinite(values).all()

    return read


def _tokens(words):
    def read(column):
        row, token = tokens_of(column, "c", words=words)
        assert len(row) == len(token) and (not len(row) or 0 <= row.min() <= row.max() < len(column))

    return read


def _hashes(column):
    assert len(hash_values(column, "c")) == len(column)


def _numbers(column):
    assert np.isfinite(numbers_of(column, "c")).all()


def _labels(column):
    assert set(np.unique(Rule("c").label(column)).tolist()) <= {0, 1}


READERS = {
    "ids": _ids,
    "times": _times,
    **{f"{kind} times": partial(_times_of, TimeForm(kind)) for kind in KINDS},
    "numbers": _numbers,
    "labels": _labels,
    "vectors": _vectors(None),
    "vectors of 3": _vectors(3),
    "two columns": lambda column: vectors_of([("c", column), ("d", column)], None),
    "words": _tokens(True),
    "tokens": _tokens(False),
    "hashes": _hashes,
}


def read_column(name, column):
    """Read a column with the reader `name`; returns whether it gave a result."""
    try:
        READERS[name](column)
    except REFUSED:
        return False
    return True


def read_lines(data):
    """Read JSON lines, and pass their columns to all readers."""
    try:
        table = ParseText(JsonLines(("a", "b")), lambda table, block: table)(data, BLOCK)
    except REFUSED:
        return
    for name in READERS:
        read_column(name, table["a"])


def read_text(data, delimiter=",", quoted=True):
    """Read lines of CSV or TSV, split by the grammar of quoted text, and pass their columns to all readers."""
    text = DelimitedText(["a", "b"], dict.fromkeys("ab", pa.string()), delimiter=delimiter, quoted=quoted)
    ends = QuotedText(delimiter).record_ends(data)
    assert (np.diff(ends, prepend=0) > 0).all() and (not data or ends[-1] == len(data))
    try:
        table = ParseText(text, lambda table, block: table)(data, BLOCK)
    except REFUSED:
        return
    for name in READERS:
        read_column(name, table["a"])


def read_asked(data):
    """Read a file of pairs, with known users of either kind of id."""
    text = DelimitedText(["a", "b"], dict.fromkeys("ab", pa.string()), delimiter="\t", quoted=False)
    for known in (pa.array([1, 2, 3]), pa.array(["1", "u", "001"])):
        try:
            table = text.parse(data)
            asked = id_column(table["a"], known, "user")
        except REFUSED:
            continue
        assert len(asked.text) == len(asked.place) == len(table) and (asked.place <= len(known)).all()
