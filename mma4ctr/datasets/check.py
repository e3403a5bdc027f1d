"""A look at a data set of one's own before any step is run: what its description makes of a sample of its files."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from mma4ctr.console import UserError
from mma4ctr.datasets.base import DenseChunk, Modality, shown_id
from mma4ctr.datasets.columns import Ids, NameTable, Rule, ids_of, time_kind, time_of
from mma4ctr.datasets.described import EXAMPLES, LOOK_ROWS, Described
from mma4ctr.datasets.description import Description
from mma4ctr.datasets.sources import Few, first_table
from mma4ctr.interactions import IdIndex
from mma4ctr.rawfiles import BadLine, BadLines, demand_columns

T = TypeVar("T")
# Items whose features are looked at, and bad lines that are passed over on the way.
FEATURE_ROWS = 200_000
SOME_BAD_LINES = 1000


@dataclass
class Found:
    """What was understood, as rows of a table; what is probably not meant; and the mistakes."""

    rows: list[list[str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def tried(self, work: Callable[[], T], where: object = "") -> T | None:
        """The result of `work`; None where it has met a mistake of the user's, which is noted."""
        try:
            return work()
        except BadLine as error:
            self.mistakes.append(f"{where}: {error}")
        except UserError as error:
            self.mistakes.append(str(error))
        return None


def check_dataset(description: Description, rows: int) -> Found:
    """Look at the first `rows` interactions at most, and at the beginning of every modality."""
    found = Found()
    raw = Described(description)
    raw.workers = Few()
    items = found.tried(partial(_check_interactions, found, raw, rows))
    for source in description.sources:
        modality = found.tried(partial(raw.modality_of, source))
        if modality:
            found.tried(partial(_check_modality, found, raw, modality, items))
    return found


def _check_interactions(found: Found, raw: Described, rows: int) -> Ids | None:
    """The different items of the sample; None where they cannot be told."""
    source, files = raw.description.interactions.source, raw.interaction_files()
    found.rows.append(["files", f"{len(files):,}, {sum(path.stat().st_size for path in files):,} bytes"])
    bad = BadLines(allowed=rows)
    files = source.with_rows(bad)
    for path in files[1:]:
        found.tried(partial(demand_columns, str(path), source.columns(path), raw.columns))
    path = files[0]
    names = source.columns(path)
    for column in raw.columns:
        found.tried(partial(demand_columns, str(path), names, [column]))
    table = first_table(source, path, [name for name in raw.columns if names.count(name) == 1], rows, bad)
    found.mistakes += bad.first
    found.rows.append(["interactions", f"{len(table):,} of {path.name} looked at"])
    if not len(table):
        raise UserError(f"{path}: holds no interaction that can be read")
    return _check_values(found, raw, path, table)


def _check_values(found: Found, raw: Described, path: Path, table: pa.Table) -> Ids | None:
    """Every column of a sample by itself."""
    own = raw.description.interactions
    there = set(table.column_names)
    items = None
    for kind, column in (("user", own.user), ("item", own.item), ("device", own.device)):
        if (
            column is not None
            and column in there
            and (ids := found.tried(partial(ids_of, table[column], column), path))
        ):
            different = np.unique(ids.values, return_index=True)[1]
            text = ids.shown().take(pa.array(different))
            shown = ", ".join(text[:EXAMPLES].to_pylist())
            found.rows.append([f"{kind}s", f"{len(different):,} in the column {column}, such as {shown}"])
            items = ids_of(text, column) if kind == "item" else items
    if own.time is None:
        found.rows.append(["time", "not given: the rows stand in its order"])
    elif own.time in there:
        _check_time(found, path, own.time, table[own.time])
    for target, rule in raw.description.rules.items():
        if rule.column is None or rule.column in there:
            _check_target(found, raw, path, target, rule, table)
    if raw.negatives:
        found.rows.append(["negatives", f"{raw.negatives} are drawn for each row"])
    return items


def _check_time(found: Found, path: Path, name: str, column: pa.ChunkedArray) -> None:
    kind = found.tried(partial(time_kind, column.slice(0, LOOK_ROWS), name), path)
    moments = found.tried(partial(time_of, column, name, kind), path) if kind else None
    if moments is not None:
        first, last = column[int(np.argmin(moments))], column[int(np.argmax(moments))]
        what = {"whole": "whole numbers", "number": "numbers", "date": "dates"}[str(kind)]
        found.rows.append(["time", f"{what} in the column {name}, {first} to {last}"])


def _check_target(found: Found, raw: Described, path: Path, target: str, rule: Rule, table: pa.Table) -> None:
    if rule.column is None:
        found.rows.append([f"target {target}", "every row is 1"])
        if not raw.negatives:
            found.mistakes.append(f"{raw.description.where} [targets] {target}: true needs negatives, such as 5")
        return
    label = found.tried(partial(rule.label, table[rule.column]), path)
    if label is not None:
        found.rows.append([f"target {target}", f"{label.mean():.1%} of the rows are 1 ({rule})"])
        if label.min() == label.max() and not (label[0] and raw.negatives):
            found.mistakes.append(f"{path}: the rule '{rule}' labels every row looked at {label[0]}")


def _check_modality(found: Found, raw: Described, modality: Modality, items: Ids | None) -> None:
    """The features at the beginning, and how many of the sample's items have them."""
    index = IdIndex(np.unique(items.values) if items else np.empty(0, np.int64))
    present = np.zeros(len(index), bool)
    looked, filled, examples = 0, 0, list[str]()
    bad = BadLines(allowed=SOME_BAD_LINES)
    whole = True
    for chunk in raw.read_features(modality.name, bad):
        rows = (
            chunk.length > 0 if isinstance(chunk, DenseChunk) else np.bincount(chunk.row, minlength=len(chunk.ids)) > 0
        )
        place = index.positions(chunk.ids[rows])
        present[place[place >= 0]] = True
        looked, filled = looked + len(rows), filled + int(rows.sum())
        examples = examples or [shown_id(chunk, row) for row in range(min(EXAMPLES, len(rows)))]
        if looked >= FEATURE_ROWS:
            whole = False
            break
    found.mistakes += bad.first
    what = f"vectors of {modality.raw_width}" if modality.kind == "dense" else "bags of tokens"
    text = f"{what}, at most {modality.width} columns; {looked:,} items looked at, such as {', '.join(examples)}"
    if filled < looked:
        text += f", {looked - filled:,} of them empty"
    if items and len(index):
        text += f"; {present.mean():.1%} of the interactions' items have it"
    found.rows.append([f"modality {modality.name}", text])
    if items and len(index) and whole:
        names = NameTable()
        names.add(items.values[items.named], items.text)
        known = names.names(index.ids)
        few = raw.few_have_it(modality.name, present, index.ids if known is None else np.char.decode(known, "utf-8"))
        found.warnings += [few] if few else []
