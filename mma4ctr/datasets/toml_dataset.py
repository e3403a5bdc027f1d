"""Reader of the user's own data sets, according to their descriptions (see toml_spec.py)."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.array_files import vector_file
from mma4ctr.datasets.arrow import is_list, is_text, plain_array
from mma4ctr.datasets.base import (
    GIVEN,
    GIVEN_VALID_TEST,
    BagChunk,
    ColumnChunk,
    DenseChunk,
    Histories,
    InteractionChunk,
    Modality,
    RawDataset,
    first_rows,
    hash_rows,
)
from mma4ctr.datasets.codes import Codes
from mma4ctr.datasets.columns import NO_TOKENS, Ids, NameTable, ids_of
from mma4ctr.datasets.encoders import Encoder, encoder_of, expanded
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.log_columns import amounts_of, categories_of
from mma4ctr.datasets.log_parts import NO_LABEL, LogPart, ParsedRows, TestLabels, log_parts, read_labels
from mma4ctr.datasets.roles import Role, roles_of
from mma4ctr.datasets.table_readers import BATCH_ROWS, VECTOR_ROWS, Source, first_table, read_tables
from mma4ctr.datasets.times import TimeForm, common_form, form_of
from mma4ctr.datasets.toml_spec import DEFAULT_WIDTH, Description, ModalitySource
from mma4ctr.datasets.vector_sources import vectors_by_file
from mma4ctr.datasets.vectors import vectors_of
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.text_blocks import Block

# Rows read from the start of a file to infer the form of a column.
SAMPLE_ROWS = 1000
# Example ids in a message, and ids of the features that are kept to choose them from.
EXAMPLES, REMEMBERED = 3, 1000
# A warning is printed if a smaller share of the items has a modality.
LOW_COVERAGE = 0.5
# Maximum length of a vector; its covariance matrix is kept in memory (2 GB).
WIDEST = 1 << 14


class DescribedDataset(RawDataset):
    """The raw files that a description names."""

    def __init__(self, description: Description) -> None:
        super().__init__(description.folder)
        self.description = description
        self.name = description.name
        self.targets = self.default_targets = description.targets
        self.min_interactions = description.min_interactions
        self.negatives = description.negatives
        self.rules = {target: str(rule) for target, rule in description.rules.items()}
        self._sources = {source.name: source for source in description.sources}
        self._names = {"user": NameTable(), "item": NameTable()}
        self._categories: dict[tuple[str, str], NameTable] = defaultdict(NameTable)
        self._feature_ids: dict[str, list[str]] = {}
        self.columns = {side: one.names for side, one in description.columns.items()}
        self.hour = description.hour
        if description.split:
            self.split = GIVEN_VALID_TEST if description.split.valid_is_test else GIVEN

    def interaction_files(self) -> list[Path]:
        """See `RawDataset`."""
        return self.description.interactions.source.files()

    def read_users(self, bad: BadLines) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `RawDataset`."""
        columns = self.description.interactions
        # Check all columns now, so columns of later passes are refused before a large log is counted.
        for part in self.parts:
            part.source.require_columns(part.required(self.description))
        user_ids = next(role.read for role in roles_of(self.description, self.time_form) if role.kind == "user")

        def parse(table: pa.Table, _block: Block) -> tuple[np.ndarray, np.ndarray]:
            users, rows = np.unique(user_ids(table[columns.user]).values, return_counts=True)
            return users, rows

        yield from self._tables(columns.source, [columns.user], parse, bad, "counting")

    def read_interactions(self, kept: IdIndex, bad: BadLines) -> Iterator[InteractionChunk]:
        """See `RawDataset`."""
        codes, test_labels = Codes(), TestLabels(self.description)
        position = 0
        # Names from an earlier read are dropped.
        self._names = {"user": NameTable(), "item": NameTable()}
        for part in self._parsed_rows(kept, bad):
            for kind, ids in (("user", part.user_ids), ("item", part.item)):
                self._names[kind].add(ids.values[ids.named], ids.text)
            for name, ids in part.categories.items():
                self._categories["context", name].add(ids.values[ids.named], ids.text)
            rows = len(part.user)
            yield InteractionChunk(
                user=part.user,
                item=part.item.values,
                device=np.zeros(rows, np.int64) if part.device is None else codes.of(part.device),
                time=np.arange(position, position + rows) if part.time is None else part.time,
                labels=part.labels if part.part is None else test_labels.fill(part.labels, part.part),
                row_hash=part.row_hash,
                part=part.part,
                context={name: ids.values for name, ids in part.categories.items()} | part.numbers,
                histories=_histories(part, position),
            )
            position += rows
        test_labels.check()
        self.test_labels = not test_labels.missing

    @cached_property
    def parts(self) -> list[LogPart]:
        """The files of the interactions by part of the split; raises `UserError` as `log_parts` does."""
        return log_parts(self.description)

    def _parsed_rows(self, kept: IdIndex, bad: BadLines) -> Iterator[ParsedRows]:
        for part in self.parts:
            yield from self._tables(
                part.source, part.columns(self.description), self._parser(kept, part), bad, "reading"
            )

    def _parser(self, kept: IdIndex, of: LogPart) -> Callable[[pa.Table, Block], ParsedRows]:
        roles = [role for role in roles_of(self.description, self.time_form) if role.column not in of.lacking]
        part_role = next((role for role in roles if role.kind == "part"), None)
        without = [target for target, rule in self.description.rules.items() if rule.column in of.lacking]
        every_row = [target for target, rule in self.description.rules.items() if rule.column is None]

        apart = ("target", "part", "history")
        history = next((role for role in roles if role.kind == "history"), None)

        def parse(table: pa.Table, _block: Block) -> ParsedRows:
            read = {(role.kind, role.name): role.read(table[role.column]) for role in roles if role.kind not in apart}
            part = of.codes(table, part_role)
            users, items = read["user", "user"], read["item", "item"]
            device, time = read.get(("device", "device")), read.get(("time", "time"))
            user = kept.positions(users.values)
            rows = np.flatnonzero(user >= 0)
            labels = {role.name: read_labels(role, table[role.column], part) for role in roles if role.kind == "target"}
            labels |= {target: np.full(len(table), NO_LABEL, np.uint8) for target in without}
            labels |= {target: np.ones(len(table), np.uint8) for target in every_row}
            hashed = [users.values, items.values, *(values for (kind, _), values in read.items() if kind == "also")]
            hashed += [] if device is None else [device.values]
            hashed += [] if time is None else [time]
            listing, listed = None, NO_TOKENS
            if history:
                listing = first_rows(user[rows], np.arange(len(rows)) if time is None else time[rows])
                listed = history.read(plain_array(table[history.column]).take(pa.array(rows[listing])))
            return ParsedRows(
                user=user[rows],
                user_ids=users.take(rows),
                item=items.take(rows),
                device=device.take(rows) if device else None,
                time=None if time is None else time[rows],
                labels={target: label[rows] for target, label in labels.items()},
                row_hash=hash_rows([values[rows] for values in hashed]),
                categories={name: ids.take(rows) for (kind, name), ids in read.items() if kind == "category"},
                numbers={name: values[rows] for (kind, name), values in read.items() if kind == "number"},
                part=None if part is None else part[rows],
                listing=listing,
                listed=listed,
            )

        return parse

    @property
    def ticks_per_second(self) -> float | None:  # type: ignore[override]
        """See `RawDataset`; raises `UserError` as `time_form` does."""
        return self.time_form.ticks_per_second if self.time_form else None

    @property
    def timed(self) -> bool:  # type: ignore[override]
        """See `RawDataset`."""
        return self.description.interactions.time is not None

    def column_files(self, side: str) -> list[Path]:
        """See `RawDataset`."""
        source = self.description.columns[side].source if side in self.description.columns else None
        return source.files() if source else []

    def read_columns(self, side: str, bad: BadLines) -> Iterator[ColumnChunk]:
        """See `RawDataset`."""
        given = self.description.columns[side]
        assert given.source is not None
        names = given.names
        given.source.require_columns([given.key, *names.names])

        def parse(table: pa.Table, block: Block) -> tuple[ColumnChunk, dict[str, Ids]]:
            ids = ids_of(table[given.key], given.key)
            read = {name: categories_of(table[name], name) for name in names.categories}
            values = {name: one.values for name, one in read.items()}
            values |= {name: amounts_of(table[name], name) for name in names.numbers}
            text = ids.shown() if len(ids.named) else None
            return ColumnChunk(block, ids.values, np.arange(len(ids.values)), values, text), read

        wanted = [given.key, *names.names]
        for chunk, categories in self._tables(given.source, wanted, parse, bad, f"{side} columns"):
            for name, ids in categories.items():
                self._categories[side, name].add(ids.values[ids.named], ids.text)
            yield chunk

    def category_names(self, side: str, name: str, values: np.ndarray) -> np.ndarray | None:
        """See `RawDataset`."""
        return self._categories[side, name].names(values)

    @cached_property
    def time_form(self) -> TimeForm | None:
        """How the times of the interactions are written, or None if there is no time column.

        Raises:
            UserError: Two files differ, or the first rows of a file have no valid time.
        """
        own = self.description.interactions
        if own.time is None:
            return None
        name, forms = own.time, []
        for path in own.source.with_rows():
            table = first_table(own.source, path, [name], SAMPLE_ROWS)
            if not len(table):
                continue
            try:
                forms.append((path, form_of(table[name], name)))
            except BadLine:
                # No valid time in the sample. The rest of the block may have one; else its first row is reported.
                one = own.source.only(path)
                found = self._tables(one, [name], lambda table, _: form_of(table[name], name), BadLines(), "sampling")
                forms.append((path, next(found)))
        return common_form(forms, name) if forms else TimeForm("whole")

    def sample(self, role: Role, rows: int, bad: BadLines) -> Iterator[Any]:
        """Yield the values of one column in the first `rows` interactions, and in the first block of every file."""
        part_role = next((one for one in roles_of(self.description, None) if one.kind == "part"), None)
        wanted = [role.column]
        if role.kind == "target" and part_role:
            wanted.append(part_role.column)
        rows_read = 0
        for part in self.parts:
            if role.column in part.lacking:
                continue

            def parse(table: pa.Table, _block: Block, part: LogPart = part) -> tuple[Any, int]:
                table = table.slice(0, rows)
                if role.kind != "target":
                    return role.read(table[role.column]), len(table)
                labels = read_labels(role, table[role.column], part.codes(table, part_role))
                return labels[labels != NO_LABEL], len(table)

            for path in part.source.with_rows():
                one = part.source.only(path, min(rows, BATCH_ROWS))
                for values, count in self._tables(one, wanted, parse, bad, "sampling"):
                    yield values
                    rows_read += count
                    if rows_read >= rows:
                        break

    def id_names(self, kind: str, ids: np.ndarray) -> np.ndarray | None:
        """See `RawDataset`."""
        return self._names[kind].names(ids)

    @cached_property
    def modalities(self) -> tuple[Modality, ...]:  # type: ignore[override]
        """The modalities with the length of their vectors, which is read from the files."""
        return tuple(map(self.modality_of, self.description.sources))

    def modality_of(self, source: ModalitySource) -> Modality:
        """Return one modality, with the length of its vectors from the files; raises `UserError`."""
        raw_width = self.vector_width(source) if source.kind == "dense" else 0
        if raw_width > WIDEST:
            raise UserError(
                f"{source.source.where}: vectors of {raw_width:,} numbers, but at most {WIDEST:,} are supported; name "
                "files with shorter vectors"
            )
        limit = min(DEFAULT_WIDTH, raw_width) if raw_width else DEFAULT_WIDTH
        return Modality(source.name, source.width or limit, source.kind, raw_width, at_most=source.width is None)

    def vector_width(self, source: ModalitySource) -> int:
        """Return the length of a vector; raises `UserError` if the first rows have no vector."""
        path = source.source.with_rows()[0]
        if source.encoding == "vectors":
            return vector_file(path, with_ids=source.ids is None).shape[1]
        columns = expanded(source, path)
        if len(columns) > 1:
            return len(columns)
        table = first_table(source.source, path, columns, SAMPLE_ROWS)
        try:
            array = plain_array(table[columns[0]])
        except BadLine as error:
            raise UserError(f"{path}: column {columns[0]}: {error}") from None
        if not (is_list(array.type) or is_text(array.type) or pa.types.is_union(array.type)):
            return 1
        # The first valid vector decides; later ones that differ are reported with their lines.
        for row in range(len(array)):
            try:
                width = vectors_of([(columns[0], array.slice(row, 1))], None)[0].shape[1]
            except BadLine:
                continue
            if width:
                return width
        raise UserError(f"{path}: the column {columns[0]!r} has no list of numbers in its first {len(array):,} rows")

    def feature_files(self, modality: str) -> list[Path]:
        """See `RawDataset`."""
        source = self._sources[modality]
        ids = source.ids.files() if isinstance(source.ids, Source) else []
        return [*source.source.files(), *ids]

    def read_features(self, modality: str, bad: BadLines, most: int | None = None) -> Iterator[DenseChunk | BagChunk]:
        """Yield the features of all items of a modality, over all its files.

        Args:
            modality: its name.
            bad: collects the bad rows.
            most: after this number of items, read only the first chunk of each further file; None: no limit.
        """
        source = self._sources[modality]
        width = self.modality_of(source).raw_width
        seen = self._feature_ids.setdefault(modality, [])
        by_file: Iterator[Iterator[DenseChunk | BagChunk]]
        if source.encoding == "vectors":
            by_file = vectors_by_file(source, width, self.name, self.workers)
        else:
            by_file = self._rows(source, width, bad)
        items_read = 0
        for chunks in by_file:
            for chunk in chunks:
                if len(seen) < REMEMBERED:
                    text = chunk.ids[:REMEMBERED].astype(str) if chunk.text is None else chunk.text[:REMEMBERED]
                    seen.extend(map(str, text.tolist()))
                yield chunk
                items_read += len(chunk.ids)
                if most is not None and items_read >= most:
                    break

    def _rows(self, source: ModalitySource, width: int, bad: BadLines) -> Iterator[Iterator[DenseChunk | BagChunk]]:
        """Yield the features in each file of a table."""
        assert source.item is not None
        id_column = source.item
        files = source.source.with_rows(bad)
        columns = expanded(source, files[0])
        for path in files:
            if set(expanded(source, path)) != set(columns):
                patterns = ", ".join(source.columns)
                raise UserError(f"{path}: the columns that match {patterns} differ from those in {files[0]}")
            encode = encoder_of(source, columns, width)

            def parse(table: pa.Table, block: Block, encode: Encoder = encode) -> DenseChunk | BagChunk:
                ids = ids_of(table[id_column], id_column)
                return encode(table, block, ids.values, ids.shown() if len(ids.named) else None)

            one = source.source.only(path, VECTOR_ROWS if source.kind == "dense" else BATCH_ROWS)
            yield self._tables(one, [id_column, *columns], parse, bad, source.name)

    def _tables(
        self,
        source: Source,
        wanted: Sequence[str],
        parse: Callable[[pa.Table, Block], Any],
        bad: BadLines,
        doing: str,
    ) -> Iterator[Any]:
        description = f"{self.name}: {doing}"
        yield from read_tables(source, wanted, parse, bad, description=description, workers=self.workers)

    def coverage_warning(self, modality: str, present: np.ndarray, items: np.ndarray) -> str | None:
        """See `RawDataset`."""
        share = float(present.mean())
        if share >= LOW_COVERAGE:
            return None
        source = self._sources[modality]
        interaction_ids = set(map(str, items.tolist()))
        feature_ids = self._feature_ids.get(modality, [])
        unmatched = [name for name in feature_ids if name not in interaction_ids]
        lacking = [str(name) for name in items[np.flatnonzero(~present)[:REMEMBERED]]]
        text = f"{source.source.where}: {share:.1%} of the {len(items):,} items of the interactions have {modality}; "
        listed = set(feature_ids)
        empty = [name for name in lacking if name in listed]
        if 2 * len(empty) > min(len(lacking), len(feature_ids)):  # the ids match, the cells are empty
            text += f"{', '.join(source.columns)} is empty for the others, such as {_examples(empty)}"
            if not share:
                raise UserError(f"{text}; name a column with values, or remove the modality")
            return text
        text += (
            f"item ids in the interactions look like {_examples(lacking)}, in the features like "
            f"{_examples(unmatched or feature_ids)}"
        )
        if not share:
            raise UserError(f"{text}; name columns and files with the same ids")
        return text


def _histories(part: ParsedRows, position: int) -> Histories | None:
    """The histories of a block whose first row has this position in the log."""
    if part.listing is None:
        return None
    time = position + part.listing if part.time is None else part.time[part.listing]
    return Histories(part.user[part.listing], time, *part.listed)


def _examples(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:EXAMPLES]) or "none"
