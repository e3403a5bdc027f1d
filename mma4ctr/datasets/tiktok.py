"""Reader of TikTok (ICME 2019 short video understanding challenge), track1 and track2."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import orjson
import pyarrow.compute as pc
import simdjson

from mma4ctr.datasets.base import (
    BagChunk,
    DenseChunk,
    InteractionChunk,
    Modality,
    RawDataset,
    hash_rows,
)
from mma4ctr.datasets.columns import binary_labels
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.runtime.errors import BadLine, UserError
from mma4ctr.runtime.parallel import Processes, Threads
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.delimited import DelimitedText, integer_text
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.text_blocks import MANY_BYTES, Block, TextLayout, find_raw_file, parse_blocks

COLUMNS = ["uid", "user_city", "item_id", "author_id", "item_city", "channel", "finish", "like", "music_id"]
COLUMNS += ["device", "time", "duration_time"]
UNKNOWN = -1

# JSON keys and file names of the modalities. The study reduces visual and acoustic vectors of 128 columns to 71 and 10,
# and titles to 22.
VECTOR_KEYS = {"visual": "video_feature_dim_128", "acoustic": "audio_feature_128_dim"}
FILE_STEMS = {
    "visual": "video_features",
    "acoustic": "audio_features",
    "textual": "title",
    "face": "face_attrs",
}
# Per item: number of faces, mean gender, mean and maximum beauty, mean relative position (x, y, width, height).
FACE_WIDTH = 8
TRAIN_LAYOUT = TextLayout()
JSON_LAYOUT = TextLayout(closed_by_newline=False)  # truncated JSON does not parse


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

    @classmethod
    def find(cls, paths: Paths, track: str | None) -> Self | None:
        """Find the folder of a track: a subfolder of the path in path.json, or that folder itself.

        Args:
            paths: the folders.
            track: name of the track; None: the first one found.

        Returns:
            The data set, or None if the folder does not exist.

        Raises:
            UserError: The folder has no files of a track.
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
        """See `RawDataset`."""
        name = _interaction_file(self.track or self.tracks[0])
        path = find_raw_file(self.folder, name)
        if path is None:
            raise UserError(f"{self.folder / name}: the interaction file is missing; put it there")
        return [path]

    def _rows_of(self, columns: list[str]) -> DelimitedText:
        return integer_text(self.interaction_files()[0], COLUMNS, columns, delimiter="\t", quoted=False)

    def read_users(self, bad: BadLines) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `RawDataset`."""
        text = self._rows_of(["uid"])

        def parse(data: bytes, _block: Block) -> tuple[np.ndarray, np.ndarray]:
            counts = pc.value_counts(text.parse(data)["uid"])
            users, rows = counts.field("values").to_numpy(), counts.field("counts").to_numpy()
            known = users != UNKNOWN
            return users[known], rows[known]

        yield from parse_blocks(
            self.interaction_files()[0], parse, bad, TRAIN_LAYOUT, description="tiktok: counting", workers=self.workers
        )

    def read_interactions(self, kept: IdIndex, bad: BadLines) -> Iterator[InteractionChunk]:
        """See `RawDataset`."""
        text = self._rows_of(COLUMNS)

        def parse(data: bytes, _block: Block) -> InteractionChunk:
            table = text.parse(data)
            labels = {target: binary_labels(table[target].to_numpy(), target) for target in self.targets}
            user = kept.positions(table["uid"].to_numpy())
            rows = np.flatnonzero((user >= 0) & (table["item_id"].to_numpy() != UNKNOWN))
            column = {name: table[name].to_numpy()[rows] for name in COLUMNS}
            return InteractionChunk(
                user=user[rows],
                item=column["item_id"],
                device=column["device"],
                time=column["time"],
                labels={target: label[rows] for target, label in labels.items()},
                row_hash=hash_rows(list(column.values())),
            )

        yield from parse_blocks(
            self.interaction_files()[0], parse, bad, TRAIN_LAYOUT, description="tiktok: reading", workers=self.workers
        )

    def feature_files(self, modality: str) -> list[Path]:
        """See `RawDataset`."""
        stem = f"{self.track}_{FILE_STEMS[modality]}"
        single = find_raw_file(self.folder, f"{stem}.txt")
        if single:
            return [single]
        names = {path.name.removesuffix(".gz") for path in self.folder.glob(f"{stem}_part*.txt*")}
        numbered = sorted(names, key=lambda name: (len(name), name))
        return [path for name in numbered if (path := find_raw_file(self.folder, name))]

    def read_features(self, modality: str, bad: BadLines) -> Iterator[DenseChunk | BagChunk]:
        """See `RawDataset`."""
        files = self.feature_files(modality)
        with ExitStack() as opened:
            workers = self.workers
            large = sum(path.stat().st_size for path in files) > MANY_BYTES
            if large and modality not in VECTOR_KEYS and isinstance(workers, Threads):
                # Titles and faces are parsed in Python, which threads do not speed up.
                workers = opened.enter_context(Processes())
            for path in files:
                yield from parse_blocks(
                    path,
                    _feature_parser(modality, compiled=large),
                    bad,
                    JSON_LAYOUT,
                    description=f"tiktok: {modality}",
                    workers=workers,
                )


def _interaction_file(track: str) -> str:
    return f"final_{track}_train.txt"


def _feature_parser(modality: str, *, compiled: bool) -> Callable[[bytes, Block], DenseChunk | BagChunk]:
    if modality in VECTOR_KEYS:
        return partial(parse_vectors, key=VECTOR_KEYS[modality], width=128, compiled=compiled)
    return parse_faces if modality == "face" else parse_titles


_thread = threading.local()


def _parser() -> Any:
    """Return this thread's parser; a simdjson parser cannot be shared between threads."""
    if not hasattr(_thread, "parser"):
        _thread.parser = simdjson.Parser()
    return _thread.parser


def parse_vectors(data: bytes, block: Block, key: str, width: int, *, compiled: bool = False) -> DenseChunk:
    """Parse JSON lines with one array of numbers each.

    Args:
        data: whole lines.
        block: the block that they are from.
        key: the key of the array.
        width: maximum length of an array.
        compiled: try the compiled parser of `json_vectors` first; it takes some tenths of a second to load.

    Raises:
        BadLine: A line is malformed, or an array is too long or contains something else than numbers.
    """
    found = None
    if compiled:
        from mma4ctr.storage.json_vectors import parse_lines

        found = parse_lines(data, "item_id", key, width)
    found = found or _all_at_once(data, key, width)
    if found is None:
        return _line_by_line(data, block, key, width)
    ids, values, length = found
    _check_finite(values, key)
    return DenseChunk(block, ids, values, length, np.arange(len(ids)))


def _check_finite(values: np.ndarray, key: str) -> None:
    if not np.isfinite(values).all():
        raise BadLine(f"{key} contains a number beyond the range of float32")


def _all_at_once(data: bytes, key: str, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray] | None:
    """Parse well-formed lines as one JSON array of objects.

    Returns:
        Ids, values and lengths, or None if a line is not well-formed; `_line_by_line` then finds the error.
    """
    text = np.frombuffer(b"[" + data.rstrip(b"\n") + b"]", np.uint8).copy()
    breaks = text == ord("\n")
    lines = int(np.count_nonzero(breaks)) + 1
    if int(np.count_nonzero(text == ord("["))) != lines + 1:  # one array per line, and the enclosing one
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
        item = objects = None  # the parser can be reused only when no reference to its document is left
    if len(ids) != lines or any(type(item_id) is not int for item_id in ids):
        return None
    length = np.fromiter((memoryview(array).nbytes // 8 for array in arrays), np.int32, lines)
    if length.max() > width or not -(2**63) <= min(ids) <= max(ids) < 2**63:
        return None
    values = np.zeros((lines, width), np.float32)
    with np.errstate(over="ignore"):  # checked by the caller
        values[np.arange(width) < length[:, None]] = np.frombuffer(b"".join(arrays))
    return np.array(ids, np.int64), values, length


def _line_by_line(data: bytes, block: Block, key: str, width: int) -> DenseChunk:
    """Parse lines one by one; raises `BadLine` for the first that is malformed."""
    lines = list(_numbered_lines(data))
    ids = np.zeros(len(lines), np.int64)
    values = np.zeros((len(lines), width), np.float32)
    length = np.zeros(len(lines), np.int32)
    for row, (_, line) in enumerate(lines):
        ids[row], vector = _item_vector(line, key)
        if len(vector) > width:
            raise BadLine(f"{key} has {len(vector)} numbers, at most {width} are expected")
        with np.errstate(over="ignore"):  # checked below, for all lines at once
            values[row, : len(vector)] = vector
        length[row] = len(vector)
    _check_finite(values, key)
    return DenseChunk(block, ids, values, length, np.array([number for number, _ in lines], np.int64))


def _item_vector(line: bytes, key: str) -> tuple[int, np.ndarray]:
    """Parse one JSON line; returns its item id and float64 vector, or raises `BadLine`."""
    item = array = None
    try:
        item = _parser().parse(line)
        if not isinstance(item, simdjson.Object):
            raise BadLine("not a JSON object")
        # A normal line has two keys and one opening bracket; any other line needs further checks.
        if len(item) != 2 or line.count(b"[") != 1:
            _check_object(orjson.loads(line), len(item), key)
        item_id = _item_id(item["item_id"])
        array = item[key]
        if not isinstance(array, simdjson.Array):
            raise BadLine(f"{key} is not an array")
        return item_id, np.frombuffer(array.as_buffer(of_type="d"))
    except KeyError:
        raise BadLine(f"needs the keys item_id and {key}") from None
    except TypeError:
        raise BadLine(f"{key} contains something that is not a number") from None
    except BadLine:
        raise
    except (ValueError, RuntimeError):
        raise BadLine("broken JSON") from None
    finally:
        item = array = None  # the parser can be reused only when no reference to its document is left


def _numbered_lines(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Yield (number from 0, line) for the lines that are not blank."""
    return ((number, line) for number, line in enumerate(data.splitlines()) if line.strip())


def _check_object(item: Any, keys: int, key: str) -> None:
    if len(item) != keys:
        raise BadLine("duplicate key")
    if any(isinstance(value, list | dict) for value in item.get(key) or ()):
        raise BadLine(f"{key} contains something that is not a number")


def _item_id(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not -(2**63) <= value < 2**63:
        # simdjson's arrays and objects have their JSON text in `mini`.
        shown = value.mini.decode(errors="replace") if hasattr(value, "mini") else str(value)
        raise BadLine(f"item_id: '{shown[:40]}' is not a whole number")
    return value


def _objects(data: bytes, key: str, kind: type) -> Iterator[tuple[int, int, Any]]:
    """Yield (line number, item id, value of `key`) for each JSON line; raises `BadLine`."""
    for number, line in _numbered_lines(data):
        try:
            item = orjson.loads(line)
        except orjson.JSONDecodeError:
            raise BadLine("broken JSON") from None
        if not isinstance(item, dict) or "item_id" not in item or key not in item:
            raise BadLine(f"needs the keys item_id and {key}")
        if not isinstance(item[key], kind):
            raise BadLine(f"{key} is not {'an object' if kind is dict else 'an array'}")
        # orjson keeps the last of duplicate keys. In a normal line every text is a key, so the quotes can be counted.
        inner = [item[key]] if kind is dict else [one for one in item[key] if isinstance(one, dict)]
        if line.count(b'"') != 2 * sum(map(len, [item, *inner])):
            _check_keys(line)
        yield number, _item_id(item["item_id"]), item[key]


def _check_keys(line: bytes) -> None:
    """Raise `BadLine` if an object in a JSON line has duplicate keys."""
    try:
        json.loads(line, object_pairs_hook=_refuse_duplicate_keys, parse_int=str)  # str: int() limits the digits
    except RecursionError:
        raise BadLine("broken JSON") from None


def _refuse_duplicate_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    if len(dict(pairs)) != len(pairs):
        raise BadLine("duplicate key")
    return dict(pairs)


def parse_titles(data: bytes, block: Block) -> BagChunk:
    """Parse lines `{"item_id": ..., "title_features": {"token": count}}`; raises `BadLine`."""
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
        if re.search("[^0-9-]", "".join(tokens)):  # int() also accepts 1_000, " 5" and digits of other scripts
            raise ValueError
        token = np.array([int(text) for text in tokens], np.int64)
    except (ValueError, OverflowError):
        raise BadLine("title_features: a token that is not a whole number") from None
    if not all(type(count) in (int, float) and 0 <= count < 1e9 for count in weight):
        raise BadLine("title_features: a count that is not a number from 0 to 1e9")
    return BagChunk(
        block,
        np.array(ids, np.int64),
        np.array(lines, np.int64),
        np.array(row, np.int64),
        token,
        np.array(weight, np.float32),
    )


def parse_faces(data: bytes, block: Block) -> DenseChunk:
    """Parse `face_attrs` lines to `FACE_WIDTH` numbers per item, none for an item without faces; raises `BadLine`."""
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
