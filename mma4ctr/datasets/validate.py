"""Check a described data set on a sample of its files, before any step runs.

The sample is read with the same functions as in the steps, so both refuse the same values with the same message, file
and line. Mistakes outside the sample are reported by the step that reads them.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from functools import partial
from typing import Any, TypeVar

import numpy as np

from mma4ctr.datasets.base import DenseChunk, Modality, shown_id
from mma4ctr.datasets.columns import Ids, NameTable, concatenate_ids, ids_of
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.roles import Role, roles_of
from mma4ctr.datasets.table_readers import SerialWorkers
from mma4ctr.datasets.times import TimeForm, shown_time
from mma4ctr.datasets.toml_dataset import EXAMPLES, DescribedDataset
from mma4ctr.datasets.toml_spec import Description
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.delimited import require_columns

T = TypeVar("T")
# Items of a modality that are read.
FEATURE_ROWS = 200_000
# Bad lines of a column that are reported.
MAX_REPORTED = 10


@dataclass
class CheckReport:
    """The result of a check.

    Attributes:
        rows: (part of the description, its meaning), as rows of a table.
        warnings: messages about what is probably not intended.
        mistakes: messages about mistakes.
    """

    rows: list[list[str]] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    mistakes: list[str] = field(default_factory=list)

    def attempt(self, work: Callable[[], T]) -> T | None:
        """Return the result of `work`, or record its `UserError` and return None."""
        try:
            return work()
        except UserError as error:
            self.add_mistake(str(error))
        return None

    def read_parts(self, read: Callable[[BadLines], Iterator[T]]) -> Iterator[T]:
        """Yield the parts of `read` until there are too many bad lines, and record the bad lines."""
        bad = BadLines(allowed=MAX_REPORTED - 1)
        try:
            yield from read(bad)
        except UserError as error:
            if not bad.first or not str(error).startswith(bad.first[-1]):
                self.add_mistake(str(error))
            lines = [line for _, line in bad.seen]
            if len(bad.kinds) == 1 and max(lines) - min(lines) < len(lines):
                # A column that is wrong in every line is reported once.
                del bad.first[1:]
        for text in bad.first:
            self.add_mistake(text)

    def add_mistake(self, text: str) -> None:
        """Record a mistake once, even if several columns are read from its line."""
        if text not in self.mistakes:
            self.mistakes.append(text)


def check_dataset(description: Description, rows: int) -> CheckReport:
    """Check the first `rows` interactions, the start of every file, and the start of every modality."""
    report = CheckReport()
    raw = DescribedDataset(description)
    raw.workers = SerialWorkers()
    items = report.attempt(partial(_check_interactions, report, raw, rows))
    for side, columns in description.columns.items():
        if columns.source:
            report.attempt(partial(_check_columns, report, raw, side))
    for source in description.sources:
        modality = report.attempt(partial(raw.modality_of, source))
        if modality:
            report.attempt(partial(_check_modality, report, raw, modality, items))
    return report


def _check_interactions(report: CheckReport, raw: DescribedDataset, rows: int) -> Ids | None:
    """Check the interactions and return the distinct items of the sample, or None if there is no sample."""
    files = raw.interaction_files()
    report.rows.append(["files", f"{len(files):,}, {sum(path.stat().st_size for path in files):,} bytes"])
    _check_names(report, raw)
    if report.mistakes:
        return None
    form = report.attempt(lambda: raw.time_form)
    if raw.hour and form and not form.ticks_per_second:
        where = f"{raw.description.where} [columns.context]"
        report.warnings.append(f"{where}: hour = true has no effect: the numbers of the time do not show their unit")
    items = None
    for number, role in enumerate(roles_of(raw.description, form)):
        parts = list(report.read_parts(partial(raw.sample, role, rows)))
        if not number:
            rows_read = sum(len(ids.values) for ids in parts)
            report.rows.append(["interactions", f"{rows_read:,} checked"])
            if not rows_read and not report.mistakes:
                raise UserError(f"{files[0]}: has no interaction that can be read")
        if parts:
            found = _report_column(report, raw, role, form, parts)
            items = found if role.kind == "item" else items
    _report_settings(report, raw)
    return items


def _check_names(report: CheckReport, raw: DescribedDataset) -> None:
    """Check that the files of the interactions have the columns that the description names."""
    found: set[str] = set()
    for part in report.attempt(lambda: raw.parts) or []:
        for path in part.source.with_rows(BadLines()):
            names = part.source.columns(path)
            found.update(names)
            for column in part.required(raw.description):
                report.attempt(partial(require_columns, str(path), names, [column]))
    for pattern in raw.description.interactions.outcomes:
        if found and not any(fnmatchcase(name, pattern) for name in found):
            report.warnings.append(f"{raw.description.where} [interactions]: outcomes: no column is called {pattern!r}")


def _report_column(
    report: CheckReport, raw: DescribedDataset, role: Role, form: TimeForm | None, parts: list[Any]
) -> Ids | None:
    """Report on the values of one column; returns the distinct ids of a column of ids."""
    if role.kind in ("user", "item", "device"):
        return _report_ids(report, role, concatenate_ids(parts))
    if role.kind == "time" and form:
        _report_times(report, role, np.concatenate(parts), form)
    elif role.kind == "target":
        _report_labels(report, raw, role, np.concatenate(parts))
    elif role.kind == "history":
        listed = sum(len(items) for _, items in parts)
        report.rows.append(["histories", f"{listed:,} items in the column {role.column}; each user's first row counts"])
    return None


def _report_settings(report: CheckReport, raw: DescribedDataset) -> None:
    """Report on the split, and on what has no column: time order, targets of every row, and negatives."""
    if split := raw.description.split:
        valid = "the last tenth of the training rows"
        if split.valid_is_test:
            valid = "the test rows"
        elif split.column or "valid" in split.sources:
            valid = "given"
        where = f"the column {split.column}" if split.column else "the files"
        without = any(part.lacking for part in raw.parts)
        report.rows.append(["split", f"by {where}; validation rows: {valid}{'; test rows have no labels' * without}"])
        report.rows.append(["submission", f"{' and '.join(split.submission)}; {split.id or 'the number of the row'}"])
    if raw.description.interactions.time is None:
        report.rows.append(["time", "no column; the rows are in time order"])
    for target, rule in raw.description.rules.items():
        if rule.column is None:
            report.rows.append([f"target {target}", "every row is 1"])
            if not raw.negatives:
                where = f"{raw.description.where} [targets] {target}"
                report.add_mistake(f"{where}: true needs sampled negatives; add negatives = 5")
    if raw.negatives:
        report.rows.append(["negatives", f"{raw.negatives} sampled for each row"])


def _report_ids(report: CheckReport, role: Role, ids: Ids) -> Ids:
    """Report on a column of ids and return the distinct ones."""
    distinct = np.unique(ids.values, return_index=True)[1]
    text = ids.shown().take(distinct)
    examples = ", ".join(text[:EXAMPLES].to_pylist())
    report.rows.append([f"{role.kind}s", f"{len(distinct):,} in the column {role.column}, such as {examples}"])
    filled = text.filter([bool(one) for one in text.to_pylist()])  # a missing device has an empty text
    return ids_of(filled, role.column)


def _report_times(report: CheckReport, role: Role, times: np.ndarray, form: TimeForm) -> None:
    if len(times):
        first, last = (shown_time(int(time), form) for time in (times.min(), times.max()))
        report.rows.append(["time", f"{form} in the column {role.column}, {first} to {last}"])


def _report_labels(report: CheckReport, raw: DescribedDataset, role: Role, label: np.ndarray) -> None:
    if not len(label):
        return
    rule = raw.description.rules[role.name]
    report.rows.append([f"target {role.name}", f"{label.mean():.1%} of the rows are 1 ({rule})"])
    if label.min() == label.max() and not (label[0] and raw.negatives):
        files = raw.interaction_files()
        report.add_mistake(f"{files[0]}: the rule '{rule}' labels every row of the sample {label[0]}; change the rule")


def _check_columns(report: CheckReport, raw: DescribedDataset, side: str) -> None:
    """Check the start of a table of columns of the users or the items."""

    def start(bad: BadLines) -> Iterator[int]:
        read = 0
        for chunk in raw.read_columns(side, bad):
            read += len(chunk.ids)
            yield len(chunk.ids)
            if read >= FEATURE_ROWS:
                return

    read = sum(report.read_parts(start))
    names = raw.description.columns[side].names
    report.rows.append([f"{side} columns", f"{', '.join(names.names)}; {read:,} rows checked"])


def _check_modality(report: CheckReport, raw: DescribedDataset, modality: Modality, items: Ids | None) -> None:
    """Check the first features of a modality, and the share of the sample's items that have them."""
    index = IdIndex(np.unique(items.values) if items else np.empty(0, np.int64))
    present = np.zeros(len(index), bool)
    items_read, filled, examples = 0, 0, list[str]()
    for chunk in report.read_parts(partial(raw.read_features, modality.name, most=FEATURE_ROWS)):
        rows = (
            chunk.length > 0 if isinstance(chunk, DenseChunk) else np.bincount(chunk.row, minlength=len(chunk.ids)) > 0
        )
        position = index.positions(chunk.ids[rows])
        present[position[position >= 0]] = True
        items_read, filled = items_read + len(rows), filled + int(rows.sum())
        examples = examples or [shown_id(chunk, row) for row in range(min(EXAMPLES, len(rows)))]
    kind = f"vectors of {modality.raw_width}" if modality.kind == "dense" else "bags of tokens"
    text = f"{kind}, at most {modality.width} columns; {items_read:,} items checked, such as {', '.join(examples)}"
    if filled < items_read:
        text += f", {items_read - filled:,} of them empty"
    if items and len(index):
        text += f"; {present.mean():.1%} of the interactions' items have it"
    report.rows.append([f"modality {modality.name}", text])
    if items and len(index) and items_read < FEATURE_ROWS:
        table = NameTable()
        table.add(items.values[items.named], items.text)
        names = table.names(index.ids)
        written = index.ids if names is None else np.char.decode(names, "utf-8")
        warning = raw.coverage_warning(modality.name, present, written)
        report.warnings += [warning] if warning else []
