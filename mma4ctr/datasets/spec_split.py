"""The split that a description gives: files of training, validation and test rows, or a column that names the part."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.arrow import Column, column_reader, scatter_rows
from mma4ctr.datasets.base import SPLIT_NAMES
from mma4ctr.datasets.spec_table import SpecTable, are_texts, is_whole
from mma4ctr.datasets.table_readers import Source
from mma4ctr.runtime.errors import BadLine, UserError

# As `valid`: the test rows are the validation rows too.
VALID_IS_TEST = "test"


@column_reader("parts of the split", scatter_rows)
def _codes_of(array: Column, name: str, known: Mapping[str, int]) -> np.ndarray:
    """Return uint8 (n,), the code of each known value; raises `BadLine` for another."""
    text = pc.utf8_trim_whitespace(pc.fill_null(pc.cast(array, pa.string()), ""))
    place = pc.index_in(text, value_set=pa.array(list(known), pa.string()))
    if place.null_count:
        value = text.filter(pc.is_null(place))[0].as_py()
        raise BadLine(f"column {name}: {value!r} is not one of {', '.join(known)}")
    found: np.ndarray = np.array(list(known.values()), np.uint8)[place.to_numpy(zero_copy_only=False)]
    return found


@dataclass(frozen=True)
class GivenSplit:
    """The split of a description.

    Attributes:
        column: The column that names the part of each row; None if files do.
        values: By part, the values of the column.
        sources: By part, its files; empty with a column.
        valid_is_test: Whether the test rows are the validation rows too.
        id: The column that names the test rows in a submission; None: their number.
        submission: The header of a submission.
    """

    column: str | None
    values: Mapping[str, tuple[str, ...]]
    sources: Mapping[str, Source]
    valid_is_test: bool
    id: str | None = None
    submission: tuple[str, str] = ("id", "probability")

    def part_codes(self, column: Column) -> np.ndarray:
        """Return uint8 (n,): the part of each row, from the column's values; raises `BadLine` for another value."""
        known = {value: SPLIT_NAMES.index(part) for part, values in self.values.items() for value in values}
        return _codes_of(column, str(self.column), known)

    def check_files(self) -> None:
        """Raise `UserError` if a file is missing, or belongs to two parts."""
        part_of: dict[Path, str] = {}
        for part, source in self.sources.items():
            for path in source.files():
                if path in part_of:
                    raise UserError(
                        f"{source.where}: {path} is in {part_of[path]} and in {part}; a file belongs to one part"
                    )
                part_of[path] = part


def given_split(part: SpecTable, interactions: SpecTable, folder: Path) -> GivenSplit:
    """Read the table `[split]`.

    Args:
        part: The table.
        interactions: The table of the interactions, which gives the format of the files.
        folder: Where files are looked up.

    Returns:
        The split.
    """
    column = part.text("column")
    named = {name: _texts(part, name, required=column is None and name != "valid") for name in SPLIT_NAMES}
    valid_is_test = named["valid"] == (VALID_IS_TEST,)
    if valid_is_test:
        named["valid"] = ()
    id_column, header = part.text("id"), part.texts("submission")
    if header and len(set(header)) != 2:
        part.add_mistake("submission: must be the names of two columns, for the ids and for the probabilities")
    named_so = (id_column, (header[0], header[-1]) if header else (id_column or "id", "probability"))
    part.check_unknown()
    if column is None:
        if "files" in interactions.content:
            part.add_mistake("names files of the rows, as [interactions] files does; remove one of the two")
        sources = {name: interactions.source(files, folder) for name, files in named.items() if files}
        return GivenSplit(None, {}, sources, valid_is_test, *named_so)
    values = {name: named[name] or (name,) for name in SPLIT_NAMES if not (name == "valid" and valid_is_test)}
    for name, texts in values.items():
        for other in SPLIT_NAMES[SPLIT_NAMES.index(name) + 1 :]:
            if both := set(texts) & set(values.get(other, ())):
                part.add_mistake(f"{sorted(both)[0]!r} is both {name} and {other}; a value belongs to one part")
    return GivenSplit(column, values, {}, valid_is_test, *named_so)


def _texts(part: SpecTable, name: str, *, required: bool) -> tuple[str, ...]:
    """Return the files or the values of a part; values may be whole numbers."""
    kind = "text in quotes, or a list of texts"
    found: Any = part.get(name, kind, _are_values, required=required)
    return tuple(map(str, found if isinstance(found, list) else [found])) if found is not None else ()


def _are_values(value: Any) -> bool:
    values = value if isinstance(value, list) else [value]
    return bool(values) and all(is_whole(one) or are_texts([one]) for one in values)
