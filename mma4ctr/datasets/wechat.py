"""Reader of the WeChat Big Data Challenge 2021."""

from collections.abc import Callable, Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Self, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.datasets.base import (
    BagChunk,
    ColumnChunk,
    ColumnNames,
    DenseChunk,
    InteractionChunk,
    Modality,
    RawDataset,
    Values,
    hash_rows,
)
from mma4ctr.datasets.columns import binary_labels
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.log_columns import amounts_of, categories_of
from mma4ctr.runtime.errors import BadLine, UserError, first_line
from mma4ctr.runtime.parallel import Workers
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.delimited import DelimitedText, integer_text, read_header
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.quoted_text import QuotedText
from mma4ctr.storage.text_blocks import Block, TextLayout, find_raw_file, parse_blocks

T = TypeVar("T")
INTERACTIONS = "user_action.csv"
FEED_INFO = "feed_info.csv"
# The study's weights of the actions; a row is a click if its weighted sum is at least half of the maximum.
CLICK_WEIGHTS = {
    "read_comment": 4,
    "like": 3,
    "click_avatar": 2,
    "forward": 1,
    "favorite": 1,
    "comment": 1,
    "follow": 1,
}
ACTIONS = tuple(CLICK_WEIGHTS)
USER_ACTION_COLUMNS = ("userid", "feedid", "date_", "device", *ACTIONS)
EMBEDDING_WIDTH = 512
# Step 1 adds the position within the day as a fraction; float64 is precise enough up to this day.
LAST_DAY = 10**9

# Columns of each modality: a text column with its substitute, and lists of tags.
TEXTS = {
    "visual": ("ocr", "ocr_char"),
    "acoustic": ("asr", "asr_char"),
    "textual": ("description", "description_char"),
}
LISTS = {
    "visual": (),
    "acoustic": ("bgm_song_id", "bgm_singer_id"),
    "textual": ("manual_keyword_list", "machine_keyword_list", "manual_tag_list", "machine_tag_list"),
}
# Bits 48 and above of a token id are its vocabulary. Manual and machine lists share one.
VOCABULARY = {
    "word": 1,
    "char": 2,
    "bgm_song_id": 3,
    "bgm_singer_id": 4,
    "manual_keyword_list": 5,
    "machine_keyword_list": 5,
    "manual_tag_list": 6,
    "machine_tag_list": 6,
}


class WeChat(RawDataset):
    """`user_action.csv`, `feed_info.csv` and, optionally, `feed_embeddings.csv`."""

    name = "wechat"
    targets = ("click", *ACTIONS)
    default_targets = ("click",)
    modalities = (
        Modality("visual", 128, "bag"),
        Modality("acoustic", 128, "bag"),
        Modality("textual", 73, "bag"),
        Modality("fused", 128, "dense", raw_width=EMBEDDING_WIDTH, optional=True),
    )
    min_interactions = 100
    time_is_day = True
    columns = MappingProxyType(
        {
            "item": ColumnNames(("authorid", "bgm_song_id", "bgm_singer_id"), ("videoplayseconds",)),
            "context": ColumnNames(("device",)),
        }
    )

    def __init__(self, folder: Path, feed_embedding: Path) -> None:
        super().__init__(folder)
        self.feed_embedding = feed_embedding

    @classmethod
    def find(cls, paths: Paths, track: str | None) -> Self | None:
        """Find the files in the folder of path.json, or in its only subfolder with them, as in the original archive.

        Args:
            paths: the folders.
            track: not used; WeChat has no tracks.

        Returns:
            The data set, or None if the folder does not exist.
        """
        if not paths.wechat.is_dir():
            return None
        folder, embedding = paths.wechat, paths.feed_embedding
        if not find_raw_file(folder, INTERACTIONS):
            within = [one for one in sorted(folder.iterdir()) if one.is_dir() and find_raw_file(one, INTERACTIONS)]
            if len(within) == 1:
                folder = within[0]
                if not find_raw_file(embedding.parent, embedding.name):
                    embedding = folder / embedding.name
        return cls(folder, embedding)

    def interaction_files(self) -> list[Path]:
        """See `RawDataset`."""
        path = find_raw_file(self.folder, INTERACTIONS)
        if path is None:
            raise UserError(f"{self.folder / INTERACTIONS}: the interaction file is missing; put it there")
        return [path]

    def read_users(self, bad: BadLines) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `RawDataset`."""
        (path,) = self.interaction_files()
        text = integer_text(path, read_header(path, USER_ACTION_COLUMNS), ["userid"], delimiter=",", quoted=True)

        def parse(data: bytes, _block: Block) -> tuple[np.ndarray, np.ndarray]:
            counts = pc.value_counts(text.parse(data)["userid"])
            return counts.field("values").to_numpy(), counts.field("counts").to_numpy()

        yield from _parsed(path, parse, bad, "counting", self.workers)

    def read_interactions(self, kept: IdIndex, bad: BadLines) -> Iterator[InteractionChunk]:
        """See `RawDataset`."""
        (path,) = self.interaction_files()
        names = read_header(path, USER_ACTION_COLUMNS)
        # Play and stay times are not features, but they distinguish two impressions.
        wanted = [*USER_ACTION_COLUMNS, *(name for name in ("play", "stay") if name in names)]
        text = integer_text(path, names, wanted, delimiter=",", quoted=True)

        def parse(data: bytes, _block: Block) -> InteractionChunk:
            table = text.parse(data)
            labels = {action: binary_labels(table[action].to_numpy(), action) for action in ACTIONS}
            first, last = pc.min_max(table["date_"]).as_py().values()
            if first is not None and (first < 0 or last > LAST_DAY):
                day = first if first < 0 else last
                raise BadLine(f"column date_: {day} where a day from 0 to {LAST_DAY} is expected")
            user = kept.positions(table["userid"].to_numpy())
            rows = np.flatnonzero(user >= 0)
            column = {name: table[name].to_numpy()[rows] for name in wanted}
            actions = {action: label[rows] for action, label in labels.items()}
            return InteractionChunk(
                user=user[rows],
                item=column["feedid"],
                device=column["device"],
                time=column["date_"],
                labels={"click": click_label(actions), **actions},
                row_hash=hash_rows(list(column.values())),
                context={"device": column["device"]},
            )

        yield from _parsed(path, parse, bad, "reading", self.workers)

    def column_files(self, side: str) -> list[Path]:
        """See `RawDataset`."""
        path = find_raw_file(self.folder, FEED_INFO)
        return [path] if path and side == "item" else []

    def read_columns(self, side: str, bad: BadLines) -> Iterator[ColumnChunk]:
        """See `RawDataset`."""
        for path in self.column_files(side):
            yield from _parsed(path, _columns_parser(path, self.columns[side]), bad, f"{side} columns", self.workers)

    def feature_files(self, modality: str) -> list[Path]:
        """See `RawDataset`."""
        folder, name = self.folder, FEED_INFO
        if modality == "fused":
            folder, name = self.feed_embedding.parent, self.feed_embedding.name
        path = find_raw_file(folder, name)
        return [path] if path else []

    def read_features(self, modality: str, bad: BadLines) -> Iterator[DenseChunk | BagChunk]:
        """See `RawDataset`."""
        for path in self.feature_files(modality):
            parse = _embedding_parser(path) if modality == "fused" else _feed_info_parser(path, modality)
            yield from _parsed(path, parse, bad, modality, self.workers)


def _columns_parser(path: Path, columns: ColumnNames) -> Callable[[bytes, Block], ColumnChunk]:
    names = read_header(path, ("feedid",))
    wanted = [name for name in columns.names if name in names]
    text = DelimitedText(names, {"feedid": pa.int64()} | dict.fromkeys(wanted, pa.string()), delimiter=",", quoted=True)

    def parse(data: bytes, block: Block) -> ColumnChunk:
        table = text.parse(data)
        values: Values = {}
        for name in wanted:
            # Song and singer may be written as floats.
            cells = pc.replace_substring_regex(pc.utf8_trim_whitespace(table[name]), r"\.0*$", "")
            values[name] = categories_of(cells, name).values if name in columns.categories else amounts_of(cells, name)
        feeds = table["feedid"].to_numpy()
        return ColumnChunk(block, feeds, np.arange(len(feeds)), values)

    return parse


def _parsed(path: Path, parse: Callable[[bytes, Block], T], bad: BadLines, doing: str, workers: Workers) -> Iterator[T]:
    """Parse a CSV file with a header; see `parse_blocks`."""
    layout = TextLayout(skip_lines=1, quoted=QuotedText(","))
    return parse_blocks(path, parse, bad, layout, description=f"wechat: {doing}", workers=workers)


def click_label(actions: dict[str, np.ndarray]) -> np.ndarray:
    """Compute the study's weighted click, uint8 (rows,), from one 0/1 array per action (design section 5)."""
    total = np.zeros(len(actions["like"]), np.int32)
    for action, weight in CLICK_WEIGHTS.items():
        total += weight * actions[action].astype(np.int32)
    return np.asarray(2 * total >= sum(CLICK_WEIGHTS.values()), np.uint8)


def _embedding_parser(path: Path) -> Callable[[bytes, Block], DenseChunk | BagChunk]:
    names = read_header(path, ("feedid", "feed_embedding"))
    types = {"feedid": pa.int64(), "feed_embedding": pa.string()}
    text = DelimitedText(names, types, delimiter=",", quoted=True)

    def parse(data: bytes, block: Block) -> DenseChunk:
        table = text.parse(data)
        row, cells = _split(table["feed_embedding"], " ")
        try:
            numbers = pc.cast(cells, pa.float32()).to_numpy()
        except pa.ArrowInvalid:
            raise BadLine("column feed_embedding: something that is not a number") from None
        length = np.bincount(row, minlength=table.num_rows).astype(np.int32)
        if length.max(initial=0) > EMBEDDING_WIDTH:
            raise BadLine(f"feed_embedding has {length.max()} numbers, at most {EMBEDDING_WIDTH} are expected")
        if not np.isfinite(numbers).all():
            raise BadLine("feed_embedding contains NaN or infinity")
        values = np.zeros((table.num_rows, EMBEDDING_WIDTH), np.float32)
        values[row, np.arange(len(row)) - (np.cumsum(length) - length)[row]] = numbers
        return DenseChunk(block, table["feedid"].to_numpy(), values, length, np.arange(table.num_rows))

    return parse


def _feed_info_parser(path: Path, modality: str) -> Callable[[bytes, Block], DenseChunk | BagChunk]:
    text_columns, list_columns = TEXTS[modality], LISTS[modality]
    names = read_header(path, ("feedid", *text_columns, *list_columns))
    types = {"feedid": pa.int64()} | dict.fromkeys((*text_columns, *list_columns), pa.string())
    text = DelimitedText(names, types, delimiter=",", quoted=True)

    def parse(data: bytes, block: Block) -> BagChunk:
        table = text.parse(data)
        if b"0x" in data or b"0X" in data:  # pyarrow's cast to integers reads 0x10 as 16
            for name in (*text_columns, *list_columns):
                if pc.any(pc.match_substring_regex(table[name], "0[xX]")).as_py():
                    raise BadLine(f"column {name}: a token that is not a whole number")
        words, chars = (pc.utf8_trim_whitespace(table[name].combine_chunks()) for name in text_columns)
        no_words = pc.equal(words, "")
        parts = [
            _tokens(words, text_columns[0], "word"),
            _tokens(pc.if_else(no_words, chars, ""), text_columns[1], "char"),
            *(_tokens(table[name], name, name) for name in list_columns),
        ]
        row, token, weight = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
        feeds = table["feedid"].to_numpy()
        return BagChunk(block, feeds, np.arange(len(feeds)), row, token, weight)

    return parse


def _split(column: pa.ChunkedArray | pa.Array, separator: str) -> tuple[np.ndarray, pa.Array]:
    """Split strings at a separator; returns the row of each non-empty part, and the parts."""
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    lists = pc.split_pattern(column, separator)
    cells = pc.utf8_trim_whitespace(pc.list_flatten(lists))
    row = pc.list_parent_indices(lists).to_numpy()
    filled = pc.not_equal(cells, "")
    return row[filled.to_numpy(zero_copy_only=False)], cells.filter(filled)


def _tokens(
    column: pa.ChunkedArray | pa.Array, name: str, vocabulary: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Parse the entries of a text or list column; raises `BadLine`.

    Texts are `id id ...`, keyword and tag lists `id;id`, machine tags `id probability;id probability`; songs and
    singers are one id, which may be written as a float.

    Returns:
        Row, token and weight of each entry.
    """
    row, cells = _split(column, " " if vocabulary in ("word", "char") else ";")
    weight = np.ones(len(row), np.float32)
    try:
        if name == "machine_tag_list":
            pairs = pc.split_pattern(cells, " ")
            if len(cells) and not pc.all(pc.equal(pc.list_value_length(pairs), 2)).as_py():
                raise BadLine(f"column {name}: an entry that is not 'id probability'")
            weight = pc.cast(pc.list_element(pairs, 1), pa.float32()).to_numpy() if len(cells) else weight
            cells = pc.list_element(pairs, 0) if len(cells) else cells
        if name.startswith("bgm_"):
            cells = pc.replace_substring_regex(cells, r"\.0*$", "")
        token = pc.cast(cells, pa.int64()).to_numpy()
    except pa.ArrowInvalid as error:
        raise BadLine(f"column {name}: {first_line(error)}") from None
    if not (np.isfinite(weight).all() and (weight >= 0).all()):
        raise BadLine(f"column {name}: a probability that is not a finite number from 0")
    if len(token) and not (token.min() >= 0 and token.max() < 1 << 48):
        raise BadLine(f"column {name}: token ids must be from 0 to 2^48")
    return row, token + (VOCABULARY[vocabulary] << 48), weight
