"""TikTok (ICME 2019 short video understanding challenge), track1 and track2."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import MappingProxyType
from typing import Any, Self

import numpy as np
import orjson
import pyarrow.compute as pc
import simdjson

from mma4ctr.datasets.base import (
    BagChunk,
    ColumnNames,
    DenseChunk,
    InteractionChunk,
    Modality,
    RawDataset,
    hash_rows,
)
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.runtime.parallel import Processes, Threads
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.delimited import DelimitedText, integer_text
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.text_blocks import MANY_BYTES, Block, find_raw_file, parse_blocks

COLUMNS = ["uid", "user_city", "item_id", "author_id", "item_city", "channel", "finish", "like", "music_id"]
COLUMNS += ["device", "time", "duration_time"]
UNKNOWN = -1

# File stem and key of each dense modality. The study reduces 128 columns to 71 and 10, titles to 22.
VECTOR_KEYS = {"visual": "video_feature_dim_128", "acoustic": "audio_feature_128_dim"}
FILE_STEMS = {
    "visual": "video_features",
    "acoustic": "audio_features",
    "textual": "title",
    "face": "face_attrs",
}
# Per item: faces, mean gender, mean and largest beauty, mean relative position (x, y, width, height).
FACE_WIDTH = 8


class TikTok(RawDataset):
    """`final_<track>_train.txt` and the JSON-lines feature files beside it."""

    name = "tiktok"
    targets = ("like", "finish")
    default_targets = ("like", "finish")
    modalities = (
        Modality("visual", 71, "dense", raw_width=128),
        Modality("acoustic", 10, "dense", raw_width=128),
        Modality("textual", 22, "bag"),
        Modality("face", FACE_WIDTH, "dense", raw_width=FACE_WIDTH, optional=True),
    )
    min_interactions = 4000
    tracks = ("track1", "track2")
    columns = MappingProxyType(
        {
            "user": ColumnNames(("user_city",)),
            "item": ColumnNames(("author_id", "music_id", "item_city"), ("duration_time",)),
            "context": ColumnNames(("channel", "device")),
        }
    )
    hour = True
    ticks_per_second = 1

    @classmethod
    def find(cls, paths: Paths, track: str | None) -> Self | None:
        """The data set that path.json names: the folder of the tracks, or of the files of one track; None where the
        folder is not there. Raises `UserError` where it is another one.
        """
        if not paths.tiktok.is_dir():
            return None
        names = (track,) if track else cls.tracks
        for name in names:
            if (paths.tiktok / name).is_dir():
                return cls(paths.tiktok / name, name)
        for name in names:
            if find_raw_file(paths.tiktok, _interaction_file(name)):
                return cls(paths.tiktok, name)
        wanted = " or ".join(names)
        files = " or ".join(map(_interaction_file, names))
        raise UserError(f"{paths.tiktok}: has no folder {wanted} and no {files}; put the TikTok files of a track there")

    def interaction_files(self) -> list[Path]:
        name = _interaction_file(self.track or self.tracks[0])
        path = find_raw_file(self.folder, name)
        if path is None:
            raise UserError(f"{self.folder / name}: the interaction file is missing; put it there")
        return [path]

    def _rows_of(self, columns: list[str]) -> DelimitedText:
        return integer_text(self.interaction_files()[0], COLUMNS, columns, delimiter="\t", quoted=False)

    def read_users(self, bad: BadLines) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        text = self._rows_of(["uid"])

        def parse(data: bytes, _block: Block) -> tuple[np.ndarray, np.ndarray]:
            counts = pc.value_counts(text.parse(data)["uid"])
            users, rows = counts.field("values").to_numpy(), counts.field("counts").to_numpy()
            known = users != UNKNOWN
            return users[known], rows[known]

        yield from parse_blocks(
            self.interaction_files()[0], parse, bad, description="tiktok: counting", workers=self.workers
        )

    def read_interactions(self, kept: IdIndex, bad: BadLines) -> Iterator[InteractionChunk]:
        text = self._rows_of(COLUMNS)

        def parse(data: bytes, _block: Block) -> InteractionChunk:
            table = text.parse(data)
            for target in self.targets:
                low, high = pc.min_max(table[target]).as_py().values()
                if low is not None and (low < 0 or high > 1):
                    raise BadLine(f"column {target}: {low if low < 0 else high} where 0 or 1 is expected")
            user = kept.positions(table["uid"].to_numpy())
            rows = np.flatnonzero((user >= 0) & (table["item_id"].to_numpy() != UNKNOWN))
            column = {name: table[name].to_numpy()[rows] for name in COLUMNS}
            return InteractionChunk(
                user=user[rows],
                item=column["item_id"],
                device=column["device"],
                time=column["time"],
                labels={target: column[target].astype(np.uint8) for target in self.targets},
                row_hash=hash_rows(list(column.values())),
                context={name: column[name] for name in self.columns["context"].names},
                user_values={name: column[name] for name in self.columns["user"].names},
                item_values={name: column[name] for name in self.columns["item"].names},
            )

        yield from parse_blocks(
            self.interaction_files()[0], parse, bad, description="tiktok: reading", workers=self.workers
        )

    def feature_files(self, modality: str) -> list[Path]:
        stem = f"{self.track}_{FILE_STEMS[modality]}"
        single = find_raw_file(self.folder, f"{stem}.txt")
        if single:
            return [single]
        names = {path.name.removesuffix(".gz") for path in self.folder.glob(f"{stem}_part*.txt*")}
        numbered = sorted(names, key=lambda name: (len(name), name))
        return [path for name in numbered if (path := find_raw_file(self.folder, name))]

    def read_features(self, modality: str, bad: BadLines) -> Iterator[DenseChunk | BagChunk]:
        files = self.feature_files(modality)
        with ExitStack() as opened:
            workers = self.workers
            large = sum(path.stat().st_size for path in files) > MANY_BYTES
            if large and modality not in VECTOR_KEYS and isinstance(workers, Threads):
                # Titles and faces are taken apart in Python, which threads do not speed up.
                workers = opened.enter_context(Processes())
            for path in files:
                yield from parse_blocks(
                    path,
                    _feature_parser(modality, compiled=large),
                    bad,
                    description=f"tiktok: {modality}",
                    workers=workers,
                    closed_by_newline=False,  # JSON that was cut does not parse
                )


def _interaction_file(track: str) -> str:
    return f"final_{track}_train.txt"


def _feature_parser(modality: str, *, compiled: bool) -> Callable[[bytes, Block], DenseChunk | BagChunk]:
    if modality in VECTOR_KEYS:
        return partial(parse_vectors, key=VECTOR_KEYS[modality], width=128, compiled=compiled)
    return parse_faces if modality == "face" else parse_titles


_thread = threading.local()


def _parser() -> Any:
    """This thread's parser: simdjson's is not to be shared."""
    if not hasattr(_thread, "parser"):
        _thread.parser = simdjson.Parser()
    return _thread.parser


def parse_vectors(data: bytes, block: Block, key: str, width: int, *, compiled: bool = False) -> DenseChunk:
    """JSON lines with one array of numbers each; raises `BadLine`.

    `compiled`: try the usual lines with the compiled parser first, which takes some tenths of a second to load.
    """
    found = None
    if compiled:
        from mma4ctr.storage.json_vectors import parse_lines

        found = parse_lines(data, "item_id", key, width)
    found = found or _all_at_once(data, key, width)
    if found is None:
        return _line_by_line(data, block, key, width)
    ids, values, length = found
    if not np.isfinite(values).all():
        raise BadLine(f"{key} holds a number that float32 cannot hold")
    return DenseChunk(block, ids, values, length, np.arange(len(ids)))


def _all_at_once(data: bytes, key: str, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Ids, values and lengths of lines that are as they should be, parsed as one array of objects; None where any is
    not, for `_line_by_line` to say what is wrong.
    """
    text = np.frombuffer(b"[" + data.rstrip(b"\n") + b"]", np.uint8).copy()
    breaks = text == ord("\n")
    lines = int(np.count_nonzero(breaks)) + 1
    if int(np.count_nonzero(text == ord("["))) != lines + 1:  # an array in each line, and ours
        return None
    text[breaks] = ord(",")
    ids, arrays = [], []
    item = objects = None
    try:
        objects = _parser().parse(text.tobytes())
        for item in objects:
            if len(item) != 2:
                return None
            ids.append(item["item_id"])
            arrays.append(item[key].as_buffer(of_type="d"))
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError):
        return None
    finally:
        item = objects = None  # the parser is free again only when nothing refers to its document
    if len(ids) != lines or any(type(item_id) is not int for item_id in ids):
        return None
    length = np.fromiter((memoryview(array).nbytes // 8 for array in arrays), np.int32, lines)
    if length.max() > width or not -(2**63) <= min(ids) <= max(ids) < 2**63:
        return None
    values = np.zeros((lines, width), np.float32)
    with np.errstate(over="ignore"):  # looked for by the caller
        values[np.arange(width) < length[:, None]] = np.frombuffer(b"".join(arrays))
    return np.array(ids, np.int64), values, length


def _line_by_line(data: bytes, block: Block, key: str, width: int) -> DenseChunk:
    """The same for lines of which one may be wrong; raises `BadLine`."""
    parser = _parser()
    lines = list(_numbered_lines(data))
    ids = np.zeros(len(lines), np.int64)
    values = np.zeros((len(lines), width), np.float32)
    length = np.zeros(len(lines), np.int32)
    for row, (_, line) in enumerate(lines):
        try:
            item = parser.parse(line)
            if not isinstance(item, simdjson.Object):
                raise BadLine("not a JSON object")
            # Two keys and one opening bracket: the usual line. Anything else is looked at more closely.
            if len(item) != 2 or line.count(b"[") != 1:
                _check_object(orjson.loads(line), len(item), key)
            ids[row] = _item_id(item["item_id"])
            array = item[key]
            if not isinstance(array, simdjson.Array):
                raise BadLine(f"{key} is not an array")
            vector = np.frombuffer(array.as_buffer(of_type="d"))
            if len(vector) > width:
                raise BadLine(f"{key} has {len(vector)} numbers, at most {width} are expected")
            with np.errstate(over="ignore"):  # looked for below, for all lines at once
                values[row, : len(vector)] = vector
            length[row] = len(vector)
        except KeyError:
            raise BadLine(f"needs the keys item_id and {key}") from None
        except TypeError:
            raise BadLine(f"{key} holds something that is not a number") from None
        except BadLine:
            raise
        except (ValueError, RuntimeError):
            raise BadLine("broken JSON") from None
        finally:
            item = array = None  # the parser is free again only when nothing refers to its document
    if not np.isfinite(values).all():
        raise BadLine(f"{key} holds a number that float32 cannot hold")
    return DenseChunk(block, ids, values, length, np.array([number for number, _ in lines], np.int64))


def _numbered_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """(number from 0, line) of the lines that are not blank."""
    return ((number, line) for number, line in enumerate(data.splitlines()) if line.strip())


def _check_object(item: Any, keys: int, key: str) -> None:
    if len(item) != keys:
        raise BadLine("a key stands twice")
    if any(isinstance(value, list | dict) for value in item.get(key) or ()):
        raise BadLine(f"{key} holds something that is not a number")


def _item_id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        # simdjson's arrays and objects know the text they stand for.
        shown = value.mini.decode(errors="replace") if hasattr(value, "mini") else str(value)
        raise BadLine(f"item_id: '{shown[:40]}' is not a whole number")
    return value


def _objects(data: bytes, key: str, kind: type) -> Iterator[tuple[int, int, Any]]:
    """(line number, item id, value of `key`) of each JSON line; raises `BadLine`."""
    for number, line in _numbered_lines(data):
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise BadLine("broken JSON") from None
        if not isinstance(item, dict) or "item_id" not in item or key not in item:
            raise BadLine(f"needs the keys item_id and {key}")
        if not isinstance(item[key], kind):
            raise BadLine(f"{key} is not {'an object' if kind is dict else 'an array'}")
        # Of a key that stands twice orjson keeps the last. In the usual line every text is a key, with two quotes.
        inner = [item[key]] if kind is dict else [one for one in item[key] if isinstance(one, dict)]
        if line.count(b'"') != 2 * sum(map(len, [item, *inner])):
            _check_keys(line)
        yield number, _item_id(item["item_id"]), item[key]


def _check_keys(line: bytes) -> None:
    """Raises `BadLine` where an object in a JSON line has a key twice."""
    try:
        json.loads(line, object_pairs_hook=_refuse_repeated_keys, parse_int=str)  # str: of any number of digits
    except RecursionError:
        raise BadLine("broken JSON") from None


def _refuse_repeated_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise BadLine("a key stands twice")
    return dict(pairs)


def parse_titles(data: bytes, block: Block) -> BagChunk:
    """`{"item_id": ..., "title_features": {"token": count}}` lines; raises `BadLine`."""
    ids: list[int] = []
    row: list[int] = []
    tokens: list[str] = []
    weight: list[float] = []
    lines: list[int] = []
    for number, item_id, title in _objects(data, "title_features", dict):
        lines.append(number)
        row.extend([len(ids)] * len(title))
        tokens.extend(title)
        weight.extend(title.values())
        ids.append(item_id)
    try:
        if re.search("[^0-9-]", "".join(tokens)):  # int() reads 1_000, " 5" and digits of other scripts too
            raise ValueError
        token = np.array([int(text) for text in tokens], np.int64)
    except (ValueError, OverflowError):
        raise BadLine("title_features: a token that is not a whole number") from None
    if not all(type(count) in (int, float) and 0 <= count < 1e9 for count in weight):
        raise BadLine("title_features: a count that is not a number from 0 on")
    return BagChunk(
        block,
        np.array(ids, np.int64),
        np.array(lines, np.int64),
        np.array(row, np.int64),
        token,
        np.array(weight, np.float32),
    )


def parse_faces(data: bytes, block: Block) -> DenseChunk:
    """`face_attrs` lines as `FACE_WIDTH` numbers an item; an item without faces has none; raises `BadLine`."""
    found = list(_objects(data, "face_attrs", list))
    values = np.zeros((len(found), FACE_WIDTH), np.float32)
    length = np.zeros(len(found), np.int32)
    for row, (_, _, faces) in enumerate(found):
        if not faces:
            continue
        try:
            table = np.array(
                [[face["gender"], face["beauty"], *face["relative_position"]] for face in faces], np.float64
            )
        except (KeyError, TypeError, ValueError):
            table = np.empty((0, 0))
        if table.shape[1:] != (6,) or not np.isfinite(table).all():
            raise BadLine("face_attrs: a face needs gender, beauty and four numbers of relative_position")
        mean = table.mean(axis=0)
        values[row] = [len(faces), mean[0], mean[1], table[:, 1].max(), *mean[2:]]
        length[row] = FACE_WIDTH
    ids = np.array([item_id for _, item_id, _ in found], np.int64)
    return DenseChunk(block, ids, values, length, np.array([number for number, _, _ in found], np.int64))
