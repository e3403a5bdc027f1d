"""A data set of one's own, read as its description says (see description.py)."""

from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.arrow import is_list, is_text, whole
from mma4ctr.datasets.base import BagChunk, ColumnChunk, DenseChunk, InteractionChunk, Modality, RawDataset, hash_rows
from mma4ctr.datasets.codes import Codes
from mma4ctr.datasets.columns import Ids, NameTable, concatenated, ids_of, tokens_of
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.log_columns import amounts_of, categories_of
from mma4ctr.datasets.npy_files import array_chunks, array_file, checked_ids
from mma4ctr.datasets.roles import Role, columns_of, roles_of
from mma4ctr.datasets.table_readers import BATCH_ROWS, VECTOR_ROWS, Source, first_table, read_tables
from mma4ctr.datasets.times import TimeForm, common_form, form_of
from mma4ctr.datasets.toml_spec import DEFAULT_WIDTH, Description, ModalitySource
from mma4ctr.datasets.vectors import vectors_of
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.text_blocks import Block, demand_columns

# RowRange that are looked at to tell how a column is written.
LOOK_ROWS = 1000
# Ids that a message shows of each side, and those of the features that are remembered to choose them from.
EXAMPLES, REMEMBERED = 3, 1000
FEW = 0.5
# Numbers of a vector: the square of it, their covariance, is held in memory (2 GB of it).
WIDEST = 1 << 14


@dataclass(frozen=True)
class ParsedRows:
    """Some interactions of the kept users, before what only the whole file tells is known.

    Attributes:
        user: int32 positions. user_ids, item, device: as they are written; the rows are those of `user`.
        time: None where the place in the file is the time.
    """

    user: np.ndarray
    user_ids: Ids
    item: Ids
    device: Ids | None
    time: np.ndarray | None
    labels: dict[str, np.ndarray]
    row_hash: np.ndarray
    categories: dict[str, Ids]
    numbers: dict[str, np.ndarray]


class Described(RawDataset):
    """The files that a description names."""

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

    def interaction_files(self) -> list[Path]:
        return self.description.interactions.source.files()

    def read_users(self, bad: BadLines) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        columns = self.description.interactions
        # Looked at here, so that what only a later pass needs is refused before a large log is counted.
        columns.source.demand(columns_of(self.description))
        user_ids = next(role.read for role in roles_of(self.description, self.time_form) if role.kind == "user")

        def parse(table: pa.Table, _block: Block) -> tuple[np.ndarray, np.ndarray]:
            users, rows = np.unique(user_ids(table[columns.user]).values, return_counts=True)
            return users, rows

        yield from self._tables(columns.source, [columns.user], parse, bad, "counting")

    def read_interactions(self, kept: IdIndex, bad: BadLines) -> Iterator[InteractionChunk]:
        source = self.description.interactions.source
        codes = Codes()
        moment = 0
        # A data set is read anew: what is gathered on the way is of this reading.
        self._names = {"user": NameTable(), "item": NameTable()}
        for part in self._tables(source, columns_of(self.description), self._parser(kept), bad, "reading"):
            for kind, ids in (("user", part.user_ids), ("item", part.item)):
                self._names[kind].add(ids.values[ids.named], ids.text)
            for name, ids in part.categories.items():
                self._categories["context", name].add(ids.values[ids.named], ids.text)
            rows = len(part.user)
            yield InteractionChunk(
                user=part.user,
                item=part.item.values,
                device=np.zeros(rows, np.int64) if part.device is None else codes.of(part.device),
                time=np.arange(moment, moment + rows) if part.time is None else part.time,
                labels=part.labels,
                row_hash=part.row_hash,
                context={name: ids.values for name, ids in part.categories.items()} | part.numbers,
            )
            moment += rows

    def _parser(self, kept: IdIndex) -> Callable[[pa.Table, Block], ParsedRows]:
        roles = roles_of(self.description, self.time_form)
        every_row = [target for target, rule in self.description.rules.items() if rule.column is None]

        def parse(table: pa.Table, _block: Block) -> ParsedRows:
            read = {(role.kind, role.name): role.read(table[role.column]) for role in roles}
            users, items = read["user", "user"], read["item", "item"]
            device, time = read.get(("device", "device")), read.get(("time", "time"))
            user = kept.positions(users.values)
            rows = np.flatnonzero(user >= 0)
            labels = {name: values for (kind, name), values in read.items() if kind == "target"}
            labels |= {target: np.ones(len(table), np.uint8) for target in every_row}
            hashed = [users.values, items.values, *(values for (kind, _), values in read.items() if kind == "also")]
            hashed += [] if device is None else [device.values]
            hashed += [] if time is None else [time]
            return ParsedRows(
                user=user[rows],
                user_ids=_rows_of(users, rows),
                item=_rows_of(items, rows),
                device=_rows_of(device, rows) if device else None,
                time=None if time is None else time[rows],
                labels={target: label[rows] for target, label in labels.items()},
                row_hash=hash_rows([values[rows] for values in hashed]),
                categories={name: _rows_of(ids, rows) for (kind, name), ids in read.items() if kind == "category"},
                numbers={name: values[rows] for (kind, name), values in read.items() if kind == "number"},
            )

        return parse

    @property
    def ticks_per_second(self) -> float | None:  # type: ignore[override]
        """See `RawDataset`; raises `UserError` as `time_form` does."""
        return self.time_form.ticks_per_second if self.time_form else None

    def column_files(self, side: str) -> list[Path]:
        source = self.description.columns[side].source if side in self.description.columns else None
        return source.files() if source else []

    def read_columns(self, side: str, bad: BadLines) -> Iterator[ColumnChunk]:
        given = self.description.columns[side]
        assert given.source is not None
        names = given.names
        given.source.demand([given.key, *names.names])

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
        return self._categories[side, name].names(values)

    @cached_property
    def time_form(self) -> TimeForm | None:
        """How the times of the interactions are written; None where there are none.

        Raises:
            UserError: where two files differ, or a file begins with no time.
        """
        own = self.description.interactions
        if own.time is None:
            return None
        name, forms = own.time, []
        for path in own.source.with_rows():
            table = first_table(own.source, path, [name], LOOK_ROWS)
            if not len(table):
                continue
            try:
                forms.append((path, form_of(table[name], name)))
            except BadLine:  # none of the first is a time: the first of all is told with its line
                one = own.source.only(path)
                list(self._tables(one, [name], lambda table, _: form_of(table[name], name), BadLines(), "looking"))
        return common_form(forms, name) if forms else TimeForm("whole")

    def sample(self, role: Role, rows: int, bad: BadLines) -> Iterator[Any]:
        """Yield what a column's reader makes of the first `rows` interactions, and of the first ones of every file."""

        def parse(table: pa.Table, _block: Block) -> tuple[Any, int]:
            column = table[role.column].slice(0, rows)
            return role.read(column), len(column)

        source, looked = self.description.interactions.source, 0
        for path in source.with_rows():
            one = source.only(path)
            for values, count in self._tables(one, [role.column], parse, bad, "looking", min(rows, BATCH_ROWS)):
                yield values
                looked += count
                if looked >= rows:
                    break

    def id_names(self, kind: str, ids: np.ndarray) -> np.ndarray | None:
        return self._names[kind].names(ids)

    @cached_property
    def modalities(self) -> tuple[Modality, ...]:  # type: ignore[override]
        """With the length of the vectors, which their files tell."""
        return tuple(map(self.modality_of, self.description.sources))

    def modality_of(self, source: ModalitySource) -> Modality:
        """One modality, its files looked at; raises `UserError`."""
        raw_width = self.vector_width(source) if source.kind == "dense" else 0
        if raw_width > WIDEST:
            raise UserError(
                f"{source.source.where}: vectors of {raw_width:,} numbers, at most {WIDEST:,} can be reduced; name "
                "files of shorter ones"
            )
        limit = min(DEFAULT_WIDTH, raw_width) if raw_width else DEFAULT_WIDTH
        return Modality(source.name, source.width or limit, source.kind, raw_width, at_most=source.width is None)

    def vector_width(self, source: ModalitySource) -> int:
        """How many numbers a vector has; raises `UserError` where no vector is among the first."""
        path = source.source.with_rows()[0]
        if source.encoding == "vectors":
            return int(array_file(path).shape[1])
        columns = expanded(source, path)
        if len(columns) > 1:
            return len(columns)
        table = first_table(source.source, path, columns, LOOK_ROWS)
        try:
            array = whole(table[columns[0]])
        except BadLine as error:
            raise UserError(f"{path}: column {columns[0]}: {error}") from None
        if not (is_list(array.type) or is_text(array.type) or pa.types.is_union(array.type)):
            return 1
        # The first that is whole decides: a later one that differs is told with its line.
        for row in range(len(array)):
            try:
                width = vectors_of([(columns[0], array.slice(row, 1))], None)[0].shape[1]
            except BadLine:
                continue
            if width:
                return width
        raise UserError(f"{path}: the column {columns[0]!r} holds no list of numbers in its first {len(array):,} rows")

    def feature_files(self, modality: str) -> list[Path]:
        source = self._sources[modality]
        ids = source.ids.files() if isinstance(source.ids, Source) else []
        return [*source.source.files(), *ids]

    def read_features(self, modality: str, bad: BadLines, most: int | None = None) -> Iterator[DenseChunk | BagChunk]:
        """Yield a modality's features of all items, over all its files.

        Args:
            most: after so many items only the first ones of each further file; None: all.
        """
        source = self._sources[modality]
        width = self.modality_of(source).raw_width
        seen = self._feature_ids.setdefault(modality, [])
        by_file = self._arrays(source, width) if source.encoding == "vectors" else self._rows(source, width, bad)
        looked = 0
        for chunks in by_file:
            for chunk in chunks:
                if len(seen) < REMEMBERED:
                    text = chunk.ids[:REMEMBERED].astype(str) if chunk.text is None else chunk.text[:REMEMBERED]
                    seen.extend(map(str, text.tolist()))
                yield chunk
                looked += len(chunk.ids)
                if most is not None and looked >= most:
                    break

    def _rows(self, source: ModalitySource, width: int, bad: BadLines) -> Iterator[Iterator[DenseChunk | BagChunk]]:
        """The features of a table, file by file."""
        assert source.item is not None
        id_column = source.item
        files = source.source.with_rows(bad)
        columns = expanded(source, files[0])
        for path in files:
            if set(expanded(source, path)) != set(columns):
                raise UserError(f"{path}: other columns match {', '.join(source.columns)} here than in {files[0]}")
            encode = _encoder(source, columns, width)

            def parse(table: pa.Table, block: Block, encode: Encoder = encode) -> DenseChunk | BagChunk:
                ids = ids_of(table[id_column], id_column)
                return encode(table, block, ids.values, ids.shown() if len(ids.named) else None)

            one = source.source.only(path)
            rows = VECTOR_ROWS if source.kind == "dense" else BATCH_ROWS
            yield self._tables(one, [id_column, *columns], parse, bad, source.name, rows)

    def _arrays(self, source: ModalitySource, width: int) -> Iterator[Iterator[DenseChunk]]:
        """The rows of `.npy` files, file by file."""
        files = source.source.files()
        first = 0
        for number, path in enumerate(files):
            values = array_file(path)
            if values.shape[1] != width:
                raise UserError(
                    f"{path}: rows of {values.shape[1]} numbers where {width} are expected, as in {files[0]}"
                )
            if isinstance(source.ids, int):
                ids = ids_of(pa.array(np.arange(first, first + len(values)) + source.ids), "ids")
                first += len(values)
            else:
                assert source.ids is not None
                ids = self._ids_of_array(source, source.ids, files, number)
            if len(ids.values) != len(values):
                raise UserError(
                    f"{path}: has {len(values):,} rows, and there are {len(ids.values):,} ids of them; give one for "
                    "each, in the same order"
                )
            yield array_chunks(path, values, ids)

    def _ids_of_array(self, source: ModalitySource, given: Source, files: Sequence[Path], number: int) -> Ids:
        """The ids of the rows of one `.npy` file."""
        paths = given.files()
        if len(paths) != len(files):
            raise UserError(f"{given.where}: {len(files)} files of vectors and {len(paths)} of ids; give one for each")
        path = paths[number]
        if path.suffix in (".npy", ".npz"):
            return checked_ids(path, array_file(path, dimensions=1))
        if source.item is None:
            if given.format or path.suffix != ".txt":
                raise UserError(f"{given.where}: {path.name} is a table; name its column of ids with item = ...")
            given, column = Source(given.where, given.folder, given.patterns, "tsv", None, ("id",)), "id"
        else:
            column = source.item
        # None may be passed over: the vectors after it would get the ids of others.
        bad = BadLines(option="")
        return concatenated(
            list(self._tables(given.only(path), [column], lambda table, _: ids_of(table[column], column), bad, "ids"))
        )

    def _tables(
        self,
        source: Source,
        wanted: Sequence[str],
        parse: Callable[[pa.Table, Block], Any],
        bad: BadLines,
        doing: str,
        batch_rows: int = BATCH_ROWS,
    ) -> Iterator[Any]:
        description, workers = f"{self.name}: {doing}", self.workers
        yield from read_tables(
            source, wanted, parse, bad, description=description, workers=workers, batch_rows=batch_rows
        )

    def few_have_it(self, modality: str, present: np.ndarray, items: np.ndarray) -> str | None:
        share = float(present.mean())
        if share >= FEW:
            return None
        source = self._sources[modality]
        theirs = set(map(str, items.tolist()))
        known = self._feature_ids.get(modality, [])
        unknown = [name for name in known if name not in theirs]
        lacking = [str(name) for name in items[np.flatnonzero(~present)[:REMEMBERED]]]
        text = f"{source.source.where}: {share:.1%} of the {len(items):,} items of the interactions have {modality}; "
        listed = set(known)
        empty = [name for name in lacking if name in listed]
        if 2 * len(empty) > min(len(lacking), len(known)):  # the ids are written alike
            text += f"{', '.join(source.columns)} is empty for others, such as {_examples(empty)}"
            if not share:
                raise UserError(f"{text}; name a column that is filled, or remove the modality")
            return text
        text += f"ids there are such as {_examples(lacking)}, here such as {_examples(unknown or known)}"
        if not share:
            raise UserError(f"{text}; name the columns and files in which they are written alike")
        return text


Encoder = Callable[[pa.Table, Block, np.ndarray, pa.Array | None], DenseChunk | BagChunk]


def _encoder(source: ModalitySource, columns: list[str], width: int) -> Encoder:
    """From a table, its block and the items' ids to a chunk."""

    def dense(table: pa.Table, block: Block, ids: np.ndarray, text: pa.Array | None) -> DenseChunk:
        values, length = vectors_of([(name, table[name]) for name in columns], width)
        return DenseChunk(block, ids, values, length, np.arange(len(ids)), text)

    def bag(table: pa.Table, block: Block, ids: np.ndarray, text: pa.Array | None) -> BagChunk:
        parts = [tokens_of(table[name], name, words=source.encoding == "text") for name in columns]
        row, token = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return BagChunk(block, ids, np.arange(len(ids)), row, token, np.ones(len(row), np.float32), text)

    return dense if source.kind == "dense" else bag


def expanded(source: ModalitySource, path: Path) -> list[str]:
    """The columns that are encoded, each once, those of a pattern such as `x*` in the file's order; raises
    `UserError`.
    """
    names = source.source.columns(path)
    found: list[str] = []
    for column in source.columns:
        # The items' ids are no feature, unless they are named as one.
        others = [name for name in names if name != source.item]
        matches = [column] if column in names else [name for name in others if fnmatchcase(name, column)]
        if not matches:
            demand_columns(str(path), names, [column])
        found += matches
    assert source.item is not None
    demand_columns(str(path), names, [source.item])
    return list(dict.fromkeys(found))


def _rows_of(ids: Ids, rows: np.ndarray) -> Ids:
    """The ids of some rows, in order."""
    if not len(ids.named):
        return Ids(ids.values[rows], ids.named, ids.text)
    kept = np.zeros(len(ids.values), bool)
    kept[rows] = True
    place = np.cumsum(kept) - 1
    wanted = kept[ids.named]
    return Ids(ids.values[rows], place[ids.named[wanted]], ids.text.filter(pa.array(wanted)))


def _examples(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:EXAMPLES]) or "none"
