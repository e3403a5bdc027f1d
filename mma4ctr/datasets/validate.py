"""A look at a data set of one's own before any step is run: what its description makes of a sample of its files.

The sample is read by the very functions that the steps read with, so both refuse the same values in the same words,
with file and line. A mistake beyond the sample is told by the step that meets it.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import TypeVar

import numpy as np

from mma4ctr.datasets.base import DenseChunk, Modality, shown_id
from mma4ctr.datasets.columns import Ids, NameTable, concatenated, ids_of
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.roles import Role, columns_of, roles_of
from mma4ctr.datasets.table_readers import Few
from mma4ctr.datasets.times import TimeForm, shown_time
from mma4ctr.datasets.toml_dataset import EXAMPLES, Described
from mma4ctr.datasets.toml_spec import Description
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.text_blocks import demand_columns

T = TypeVar("T")
# Items whose features are looked at.
FEATURE_ROWS = 200_000
# Bad lines of a column that are told.
TOLD = 10


@dataclass
class Found:
    """What was understood, as rows of a table; what is probably not meant; and the mistakes."""

    rows: list[list[str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def tried(self, work: Callable[[], T]) -> T | None:
        """The result of `work`; None where it has met a mistake of the user's, which is noted."""
        try:
            return work()
        except UserError as error:
            self.wrong(str(error))
        return None

    def parts(self, read: Callable[[BadLines], Iterator[T]]) -> Iterator[T]:
        """What `read` yields, up to the bad line of which there are too many; the bad lines are noted."""
        bad = BadLines(allowed=TOLD - 1)
        try:
            yield from read(bad)
        except UserError as error:
            if not bad.first or not str(error).startswith(bad.first[-1]):
                self.wrong(str(error))
            lines = [line for _, line in bad.seen]
            if len(bad.kinds) == 1 and max(lines) - min(lines) < len(lines):
                # A column that is wrong in every line is one mistake.
                del bad.first[1:]
        for text in bad.first:
            self.wrong(text)

    def wrong(self, text: str) -> None:
        """Note a mistake, once however many columns are read from its line."""
        if text not in self.mistakes:
            self.mistakes.append(text)


def check_dataset(description: Description, rows: int) -> Found:
    """Look at the first `rows` interactions, at the beginning of every file, and of every modality."""
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
    for path in source.with_rows(BadLines()):
        names = source.columns(path)
        for column in columns_of(raw.description):
            found.tried(partial(demand_columns, str(path), names, [column]))
    if found.mistakes:
        return None
    form = found.tried(lambda: raw.time_form)
    items = None
    for number, role in enumerate(roles_of(raw.description, form)):
        # In a local name, so that the loop's next role is not read instead.
        parts = list(found.parts(partial(raw.sample, role, rows)))
        if not number:
            looked = sum(len(ids.values) for ids in parts)
            found.rows.append(["interactions", f"{looked:,} looked at"])
            if not looked and not found.mistakes:
                raise UserError(f"{files[0]}: holds no interaction that can be read")
        if not parts:
            continue
        if role.kind in ("user", "item", "device"):
            different = _tell_ids(found, role, concatenated(parts))
            items = different if role.kind == "item" else items
        elif role.kind == "time" and form:
            _tell_times(found, role, np.concatenate(parts), form)
        elif role.kind == "target":
            _tell_labels(found, raw, role, np.concatenate(parts))
    if raw.description.interactions.time is None:
        found.rows.append(["time", "not given: the rows stand in its order"])
    for target, rule in raw.description.rules.items():
        if rule.column is None:
            found.rows.append([f"target {target}", "every row is 1"])
            if not raw.negatives:
                found.wrong(f"{raw.description.where} [targets] {target}: true needs negatives, such as 5")
    if raw.negatives:
        found.rows.append(["negatives", f"{raw.negatives} are drawn for each row"])
    return items


def _tell_ids(found: Found, role: Role, ids: Ids) -> Ids:
    """The different ones of the ids in a column."""
    different = np.unique(ids.values, return_index=True)[1]
    text = ids.shown().take(different)
    shown = ", ".join(text[:EXAMPLES].to_pylist())
    found.rows.append([f"{role.kind}s", f"{len(different):,} in the column {role.column}, such as {shown}"])
    filled = text.filter([bool(one) for one in text.to_pylist()])  # a missing device is one, and no id
    return ids_of(filled, role.column)


def _tell_times(found: Found, role: Role, moments: np.ndarray, form: TimeForm) -> None:
    if len(moments):
        first, last = (shown_time(int(moment), form) for moment in (moments.min(), moments.max()))
        found.rows.append(["time", f"{form} in the column {role.column}, {first} to {last}"])


def _tell_labels(found: Found, raw: Described, role: Role, label: np.ndarray) -> None:
    if not len(label):
        return
    rule = raw.description.rules[role.name]
    found.rows.append([f"target {role.name}", f"{label.mean():.1%} of the rows are 1 ({rule})"])
    if label.min() == label.max() and not (label[0] and raw.negatives):
        files = raw.interaction_files()
        found.wrong(f"{files[0]}: the rule '{rule}' labels every row looked at {label[0]}")


def _check_modality(found: Found, raw: Described, modality: Modality, items: Ids | None) -> None:
    """The features at the beginning, and how many of the sample's items have them."""
    index = IdIndex(np.unique(items.values) if items else np.empty(0, np.int64))
    present = np.zeros(len(index), bool)
    looked, filled, examples = 0, 0, list[str]()
    for chunk in found.parts(partial(raw.read_features, modality.name, most=FEATURE_ROWS)):
        rows = (
            chunk.length > 0 if isinstance(chunk, DenseChunk) else np.bincount(chunk.row, minlength=len(chunk.ids)) > 0
        )
        place = index.positions(chunk.ids[rows])
        present[place[place >= 0]] = True
        looked, filled = looked + len(rows), filled + int(rows.sum())
        examples = examples or [shown_id(chunk, row) for row in range(min(EXAMPLES, len(rows)))]
    what = f"vectors of {modality.raw_width}" if modality.kind == "dense" else "bags of tokens"
    text = f"{what}, at most {modality.width} columns; {looked:,} items looked at, such as {', '.join(examples)}"
    if filled < looked:
        text += f", {looked - filled:,} of them empty"
    if items and len(index):
        text += f"; {present.mean():.1%} of the interactions' items have it"
    found.rows.append([f"modality {modality.name}", text])
    if items and len(index) and looked < FEATURE_ROWS:
        names = NameTable()
        names.add(items.values[items.named], items.text)
        known = names.names(index.ids)
        few = raw.few_have_it(modality.name, present, index.ids if known is None else np.char.decode(known, "utf-8"))
        found.warnings += [few] if few else []
