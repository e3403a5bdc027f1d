"""The lines of files of scores: TSV of pairs, and CSV of a submission."""

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv

HEADER = b"user\titem\tscore\n"


def score_table(user: pa.Array, item: pa.Array, score: np.ndarray) -> pa.Table:
    """The table of some pairs (n,) and their scores."""
    return pa.table({"user": user, "item": item, "score": score})


def text_lines(table: pa.Table) -> pa.Buffer:
    """Format a table as TSV lines.

    A quote within an id is written unchanged. An id that starts with a quote is quoted, because readers would take the
    quote for the start of a quoted cell.
    """
    texts = [column for column in table.columns if pa.types.is_string(column.type)]
    if any(pc.any(pc.match_substring(column, '"')).as_py() for column in texts):
        columns = [pc.cast(column, pa.string()).to_pylist() for column in table.columns]
        lines = ("\t".join(map(_cell, row)) + "\n" for row in zip(*columns, strict=True))
        return pa.py_buffer("".join(lines).encode())
    text = pa.BufferOutputStream()
    csv.write_csv(table, text, csv.WriteOptions(include_header=False, delimiter="\t", quoting_style="none"))
    return text.getvalue()


def _cell(text: str) -> str:
    return '"' + text.replace('"', '""') + '"' if text.startswith('"') else text


def csv_lines(names: pa.Array, values: pa.Array) -> bytes:
    """Format two columns as CSV lines; cells are quoted where CSV needs it."""
    cells = []
    for column in (names, values):
        text = pc.cast(column, pa.string())
        quoted = pc.binary_join_element_wise('"', pc.replace_substring(text, '"', '""'), '"', "")
        cells.append(pc.if_else(pc.match_substring_regex(text, '[",\r\n]'), quoted, text))
    lines = pc.binary_join_element_wise(*cells, ",").to_pylist()
    return "".join(f"{line}\n" for line in lines).encode()
