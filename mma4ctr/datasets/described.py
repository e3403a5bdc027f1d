"""A data set of one's own, read as its description says (see description.py)."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import cached_property
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.console import UserError
from mma4ctr.datasets.base import BagChunk, DenseChunk, InteractionChunk, Modality, RawDataset, hash_rows
from mma4ctr.datasets.columns import (
    Column,
    Ids,
    NameTable,
    hash_text,
    ids_of,
    is_list,
    is_text,
    time_kind,
    time_of,
    tokens_of,
    vectors_of,
    whole,
)
from mma4ctr.datasets.description import DEFAULT_WIDTH, Description, ModalitySource
from mma4ctr.datasets.sources import BATCH_ROWS, VECTOR_ROWS, Rows, Source, first_table, read_tables
from mma4ctr.interactions import IdIndex
from mma4ctr.rawfiles import BadLine, BadLines, Block, demand_columns

# Rows that are looked at to tell how a column is written.
LOOK_ROWS = 1000
# Ids that a message shows of each side, and those of the features that are remembered to choose them from.
EXAMPLES, REMEMBERED = 3, 1000
FEW = 0.5
# Numbers of a vector: the square of it, their covariance, is held in memory (2 GB of it).
WIDEST = 1 << 14


@dataclass(frozen=True)
class Part:
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
        self._feature_ids: dict[str, list[str]] = {}

    def interaction_files(self) -> list[Path]:
        return self.description.interactions.source.files()

    def read_users(self, bad: BadLines) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        columns = self.description.interactions

        def parse(table: pa.Table, _block: Block) -> tuple[np.ndarray, np.ndarray]:
            users, rows = np.unique(ids_of(table[columns.user], columns.user).values, return_counts=True)
            return users, rows

        yield from self._tables(columns.source, [columns.user], parse, bad, "counting")

    def read_interactions(self, kept: IdIndex, bad: BadLines) -> Iterator[InteractionChunk]:
        source = self.description.interactions.source
        codes: dict[int, int] = {}
        moment = 0
        # A data set is read anew: what is gathered on the way is of this reading.
        self._names = {"user": NameTable(), "item": NameTable()}
        for part in self._tables(source, self.columns, self._parser(kept), bad, "reading"):
            for kind, ids in (("user", part.user_ids), ("item", part.item)):
                self._names[kind].add(ids.values[ids.named], ids.text)
            rows = len(part.user)
            yield InteractionChunk(
                user=part.user,
                item=part.item.values,
                device=np.zeros(rows, np.int64) if part.device is None else _codes(part.device, codes),
                time=np.arange(moment, moment + rows) if part.time is None else part.time,
                labels=part.labels,
                row_hash=part.row_hash,
            )
            moment += rows

    @property
    def columns(self) -> list[str]:
        """The columns of the interactions that are read."""
        own = self.description.interactions
        rules = (rule.column for rule in self.description.rules.values())
        return [*dict.fromkeys(n for n in (own.user, own.item, own.time, own.device, *rules, *own.also) if n)]

    def _parser(self, kept: IdIndex) -> Callable[[pa.Table, Block], Part]:
        own, rules = self.description.interactions, self.description.rules
        kind = self.time_kind
        others = [name for name in self.columns if name not in (own.user, own.item, own.time, own.device)]

        def parse(table: pa.Table, _block: Block) -> Part:
            users, items = (ids_of(table[name], name) for name in (own.user, own.item))
            device = ids_of(table[own.device], own.device) if own.device else None
            time = time_of(table[own.time], own.time, kind) if own.time else None
            labels = {
                target: np.ones(len(table), np.uint8) if rule.column is None else rule.label(table[rule.column])
                for target, rule in rules.items()
            }
            user = kept.positions(users.values)
            rows = np.flatnonzero(user >= 0)
            hashed = [users.values, items.values, *(hashable(table[name]) for name in others)]
            hashed += [] if device is None else [device.values]
            hashed += [] if time is None else [time]
            return Part(
                user=user[rows],
                user_ids=_rows_of(users, rows),
                item=_rows_of(items, rows),
                device=_rows_of(device, rows) if device else None,
                time=None if time is None else time[rows],
                labels={target: label[rows] for target, label in labels.items()},
                row_hash=hash_rows([values[rows] for values in hashed]),
            )

        return parse

    @cached_property
    def time_kind(self) -> str:
        """How the times of the interactions are written, from the first of them."""
        own = self.description.interactions
        if own.time is None:
            return ""
        own.source.demand([own.time])
        path = own.source.with_rows()[0]
        table = first_table(own.source, path, [own.time], LOOK_ROWS)
        try:
            return time_kind(table[own.time], own.time)
        except BadLine:  # a bad line among the first is told with its number when it is read
            return _most_frequent_kind(table[own.time], own.time, path)

    def id_names(self, kind: str, ids: np.ndarray) -> np.ndarray | None:
        names = self._names[kind].names(ids)
        if names is not None:
            for sign in (b"\t", b"\n", b"\r", b'"'):
                broken = np.flatnonzero(np.char.find(names, sign) >= 0)
                if len(broken):
                    raise UserError(
                        f"{self.description.interactions.source.where}: the {kind} id {names[broken[0]].decode()!r} "
                        "holds a tab, a quote or a line break, which the .inter files cannot hold; rename it"
                    )
        return names

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
            return int(_array_file(path).shape[1])
        columns = expanded(source, path)
        if len(columns) > 1:
            return len(columns)
        table = first_table(source.source, path, columns, LOOK_ROWS)
        try:
            array = whole(table[columns[0]])
        except BadLine as error:
            raise UserError(f"{path}: column {columns[0]}: {error}") from None
        if not (is_list(array.type) or is_text(array.type)):
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

    def read_features(self, modality: str, bad: BadLines) -> Iterator[DenseChunk | BagChunk]:
        source = self._sources[modality]
        width = self.modality_of(source).raw_width
        seen = self._feature_ids.setdefault(modality, [])
        chunks = self._arrays(source, width, bad) if source.encoding == "vectors" else self._rows(source, width, bad)
        for chunk in chunks:
            if len(seen) < REMEMBERED:
                some = chunk.ids[:REMEMBERED].astype(str).tolist() if chunk.text is None else chunk.text[:REMEMBERED]
                seen.extend(map(str, some))
            yield chunk

    def _rows(self, source: ModalitySource, width: int, bad: BadLines) -> Iterator[DenseChunk | BagChunk]:
        """The features of a table."""
        assert source.item is not None
        id_column = source.item
        for path in source.source.with_rows(bad):
            columns = expanded(source, path)
            encode = _encoder(source, columns, width)

            def parse(table: pa.Table, block: Block, encode: Encoder = encode) -> DenseChunk | BagChunk:
                ids = ids_of(table[id_column], id_column)
                return encode(table, block, ids.values, ids.shown() if len(ids.named) else None)

            one = source.source.only(path)
            rows = VECTOR_ROWS if source.kind == "dense" else BATCH_ROWS
            yield from self._tables(one, [id_column, *columns], parse, bad, source.name, rows)

    def _arrays(self, source: ModalitySource, width: int, bad: BadLines) -> Iterator[DenseChunk]:
        """The rows of `.npy` files."""
        files = source.source.files()
        first = 0
        for number, path in enumerate(files):
            values = _array_file(path)
            if values.shape[1] != width:
                raise UserError(
                    f"{path}: rows of {values.shape[1]} numbers where {width} are expected, as in {files[0]}"
                )
            if isinstance(source.ids, int):
                ids = ids_of(pa.array(np.arange(first, first + len(values)) + source.ids), "ids")
                first += len(values)
            else:
                assert source.ids is not None
                ids = self._ids_of_array(source, source.ids, files, number, bad)
            if len(ids.values) != len(values):
                raise UserError(
                    f"{path}: has {len(values):,} rows, and there are {len(ids.values):,} ids of them; give one for "
                    "each, in the same order"
                )
            text = ids.shown() if len(ids.named) else None
            for start in range(0, len(values), ARRAY_ROWS):
                with np.errstate(over="ignore"):
                    part = np.ascontiguousarray(values[start : start + ARRAY_ROWS], np.float32)
                broken = np.flatnonzero(~np.isfinite(part).all(axis=1))
                if len(broken):
                    row = start + int(broken[0])
                    raise UserError(f"{path}: row {row} (from 0) holds a number that float32 cannot hold, or none")
                stop = start + len(part)
                yield DenseChunk(
                    Rows(path, start, stop, stop),
                    ids.values[start:stop],
                    part,
                    np.full(len(part), values.shape[1], np.int32),
                    np.arange(len(part)),
                    None if text is None else text[start:stop],
                )

    def _ids_of_array(
        self, source: ModalitySource, given: Source, files: Sequence[Path], number: int, bad: BadLines
    ) -> Ids:
        """The ids of the rows of one `.npy` file."""
        paths = given.files()
        if len(paths) != len(files):
            raise UserError(f"{given.where}: {len(files)} files of vectors and {len(paths)} of ids; give one for each")
        path = paths[number]
        if path.suffix in (".npy", ".npz"):
            return _checked_ids(path, _array_file(path, dimensions=1))
        if source.item is None:
            if given.format or path.suffix != ".txt":
                raise UserError(f"{given.where}: {path.name} is a table; name its column of ids with item = ...")
            given, column = Source(given.where, given.folder, given.patterns, "tsv", None, ("id",)), "id"
        else:
            column = source.item
        parts = list(self._tables(given.only(path), [column], lambda table, _: table[column], bad, "ids"))
        try:
            return ids_of(pa.chunked_array([chunk for part in parts for chunk in part.chunks] or [[]]), column)
        except BadLine as error:
            raise UserError(f"{path}: {error}") from None

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
# Rows of a .npy file at a time; as many as the block of a text file that held them, so that sums are the same.
ARRAY_ROWS = 16_384


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
    """The columns that are encoded, those of a pattern such as `x*` in the file's order; raises `UserError`."""
    names = source.source.columns(path)
    found: list[str] = []
    for column in source.columns:
        matches = [column] if column in names else [name for name in names if fnmatchcase(name, column)]
        if not matches:
            demand_columns(str(path), names, [column])
        found += matches
    assert source.item is not None
    demand_columns(str(path), names, [source.item])
    return found


def hashable(column: Column) -> np.ndarray:
    """int64 (n,): equal for equal values of a column, whatever its type."""
    array = whole(column)
    if pa.types.is_integer(array.type) and not array.null_count:
        return pc.cast(array, pa.int64(), safe=False).to_numpy()
    text = pc.fill_null(pc.cast(array, pa.string()), "\0")
    return hash_text(text).view(np.int64)


def _rows_of(ids: Ids, rows: np.ndarray) -> Ids:
    """The ids of some rows, in order."""
    if not len(ids.named):
        return Ids(ids.values[rows], ids.named, ids.text)
    kept = np.zeros(len(ids.values), bool)
    kept[rows] = True
    place = np.cumsum(kept) - 1
    wanted = kept[ids.named]
    return Ids(ids.values[rows], place[ids.named[wanted]], ids.text.filter(pa.array(wanted)))


def _codes(ids: Ids, codes: dict[int, int]) -> np.ndarray:
    """int64 (n,): whole numbers as they are, texts numbered as they first appear."""
    values = ids.values.copy()
    kinds, first, where = np.unique(values[ids.named], return_index=True, return_inverse=True)
    for kind in kinds[np.argsort(first)].tolist():
        codes.setdefault(kind, len(codes))
    numbers = np.array([codes[kind] for kind in kinds.tolist()], np.int64)
    values[ids.named] = numbers[where] if len(numbers) else 0
    return values


def _most_frequent_kind(column: Column, name: str, path: Path) -> str:
    """How most of the first times are written; raises `UserError` where none is a time."""
    array = whole(column)
    kinds = []
    for row in range(len(array)):
        try:
            kinds.append(time_kind(array.slice(row, 1), name))
        except BadLine as error:
            message = str(error)
    if not kinds:
        raise UserError(f"{path}: {message if len(array) else f'column {name}: holds no time'}")
    return max(set(kinds), key=kinds.count)


def _array_file(path: Path, dimensions: int = 2) -> np.ndarray:
    """A `.npy` file, memory-mapped; raises `UserError` for what is no array of numbers of that shape."""
    try:
        found: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError, BadZipFile) as error:
        raise UserError(f"{path}: cannot be read as an array ({str(error).splitlines()[0]})") from None
    if not isinstance(found, np.ndarray):  # an archive of several
        names = ", ".join(map(repr, found.files))
        raise UserError(f"{path}: is an archive (.npz) of the arrays {names or 'none'}; save one array as .npy")
    kinds = "fiu" if dimensions == 2 else "iufUS"
    right = found.ndim == dimensions and found.dtype.kind in kinds
    if not right or not all(found.shape[1:]):
        what = "numbers, a row for each item" if dimensions == 2 else "ids, one for each item"
        raise UserError(f"{path}: must hold {what}, and is {found.dtype} {found.shape}")
    return found


def _checked_ids(path: Path, array: np.ndarray) -> Ids:
    try:
        return ids_of(pa.array(array.astype(str) if array.dtype.kind == "S" else array), "ids")
    except (BadLine, UnicodeDecodeError) as error:
        raise UserError(f"{path}: {error}") from None


def _examples(names: Sequence[str]) -> str:
    return ", ".join(repr(name) for name in names[:EXAMPLES]) or "none"
