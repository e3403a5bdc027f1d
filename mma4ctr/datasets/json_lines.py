"""JSON lines as tables of the read columns, with values of any types.

If all lines have the types of the first one, pyarrow reads them at once. Otherwise they are read one by one, and a
column of several types becomes a dense union (see arrow.py), so a value has the same meaning on both paths.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import orjson
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import json as arrow_json

from mma4ctr.datasets.arrow import LIBRARY_ERRORS, OPAQUE, is_list
from mma4ctr.datasets.hashing import EXACT_FLOATS
from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.text_blocks import LONGEST_LINE

SMALLEST, LARGEST = -(2**63), 2**63 - 1


@dataclass(frozen=True)
class JsonLines:
    """The grammar of JSON lines, one object per line.

    Attributes:
        wanted: the keys that are read, which every object must have.
    """

    wanted: tuple[str, ...]

    def parse(self, data: bytes) -> pa.Table:
        """Parse lines into a table of the read columns; raises `BadLine` with the reason."""
        table = self._at_once(data)
        return self._line_by_line(data) if table is None else table

    def _at_once(self, data: bytes) -> pa.Table | None:
        """Return the table, or None if a line has other types than the first."""
        first = next((line for line in data.splitlines() if line.strip()), b"")
        try:
            item = orjson.loads(first)
        except orjson.JSONDecodeError:
            return None
        kinds = {name: _kind(item.get(name)) for name in self.wanted} if isinstance(item, dict) else {"": None}
        if None in kinds.values():
            return None
        read = arrow_json.ReadOptions(use_threads=False, block_size=2 * LONGEST_LINE)
        schema = pa.schema(list(kinds.items()))
        parse = arrow_json.ParseOptions(explicit_schema=schema, unexpected_field_behavior="ignore")
        try:
            table = arrow_json.read_json(pa.BufferReader(data), read, parse)
        except LIBRARY_ERRORS:
            return None
        lines = data.count(b"\n") + (not data.endswith(b"\n"))
        same = len(table) == lines and all(table[name].null_count == 0 for name in self.wanted)
        return table.select([*kinds]) if same and not any(map(_lost_digits, table.columns)) else None

    def _line_by_line(self, data: bytes) -> pa.Table:
        cells: dict[str, list[Any]] = {name: [] for name in self.wanted}
        for line in data.splitlines():
            if not line.strip():
                continue
            try:
                item = orjson.loads(line)
            except orjson.JSONDecodeError:
                raise BadLine("broken JSON") from None
            if not isinstance(item, dict):
                raise BadLine("not a JSON object")
            if any(_may_be_large(item.get(name)) for name in self.wanted):
                item = json.loads(line)  # exact for integers of any size, which orjson converts to floats
            for name, column in cells.items():
                if name not in item:
                    raise BadLine(f"needs the key {name}")
                column.append(item[name])
        return pa.table({name: column_of(values) for name, values in cells.items()})


def _kind(value: Any) -> pa.DataType | None:
    """Infer a column's type from its first value; None if one value is not enough."""
    if isinstance(value, list):
        inner = _kind(value[0]) if value else None
        number = inner is not None and (pa.types.is_integer(inner) or pa.types.is_floating(inner))
        if number and any(isinstance(one, float) for one in value):
            inner = pa.float64()
        return pa.list_(inner) if number or inner == pa.string() else None
    for kind, type_ in ((bool, pa.bool_()), (str, pa.string()), (int, pa.int64()), (float, pa.float64())):
        if isinstance(value, kind):
            return type_
    return None


def _lost_digits(column: pa.ChunkedArray) -> bool:
    """Return whether whole numbers may have been read as floats that cannot represent them."""
    values = pc.list_flatten(column) if is_list(column.type) else column
    if not pa.types.is_floating(values.type) or not len(values):
        return False
    largest = pc.max(pc.abs(values)).as_py()
    return largest is not None and not largest < EXACT_FLOATS[8]


def _may_be_large(value: Any) -> bool:
    if isinstance(value, list):
        return any(map(_may_be_large, value))
    return isinstance(value, float) and abs(value) > LARGEST


def column_of(values: list[Any]) -> pa.Array:
    """Convert JSON values of any types to an array; several types become a dense union, with nulls as one of them.

    Integers beyond 64 bits become text; objects and nested lists become `OPAQUE`.
    """
    kinds = set(map(_kind_of, values))
    if None in kinds and len(kinds) == 2:
        # An array of one type can contain the nulls itself.
        return _BUILDERS[next(kind for kind in kinds if kind)](values)
    if len(kinds) <= 1:
        return _BUILDERS[next(iter(kinds), None)](values)
    names = sorted(kinds, key=str)
    number = {kind: position for position, kind in enumerate(names)}
    codes = np.array([number[_kind_of(value)] for value in values], np.int8)
    offsets = np.zeros(len(values), np.int32)
    children = []
    for position, kind in enumerate(names):
        rows = np.flatnonzero(codes == position)
        offsets[rows] = np.arange(len(rows))
        children.append(_BUILDERS[kind]([values[row] for row in rows.tolist()]))
    return pa.UnionArray.from_dense(pa.array(codes), pa.array(offsets), children)


def _kind_of(value: Any) -> str | None:
    """Return a value's key in `_BUILDERS`; None for null."""
    if isinstance(value, str):
        return "text"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "whole" if SMALLEST <= value <= LARGEST else "text"
    if isinstance(value, float):
        return "float"
    if isinstance(value, list):
        return "opaque" if any(isinstance(one, (list, dict)) for one in value) else "list"
    return None if value is None else "opaque"


def _texts(values: list[Any]) -> pa.Array:
    return pa.array([value if value is None else str(value) for value in values], pa.string())


def _lists(values: list[Any]) -> pa.Array:
    lengths = np.array([len(value or ()) for value in values], np.int64)
    offsets = pa.array(np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32))
    flat = column_of([one for value in values if value for one in value])
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.ListArray.from_arrays(offsets, flat, mask=missing)


def _opaque(values: list[Any]) -> pa.Array:
    texts = [value if value is None else json.dumps(value, sort_keys=True) for value in values]
    missing = pa.array([value is None for value in values], pa.bool_())
    return pa.StructArray.from_arrays([pa.array(texts, pa.string())], fields=list(OPAQUE), mask=missing)


_BUILDERS: dict[str | None, Callable[[list[Any]], pa.Array]] = {
    None: lambda values: pa.nulls(len(values)),
    "text": _texts,
    "bool": lambda values: pa.array(values, pa.bool_()),
    "whole": lambda values: pa.array(values, pa.int64()),
    "float": lambda values: pa.array(values, pa.float64()),
    "list": _lists,
    "opaque": _opaque,
}
