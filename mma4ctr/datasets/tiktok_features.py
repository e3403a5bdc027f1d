"""Parsers of TikTok's JSON-lines feature files: vectors, titles and faces."""

import json
import re
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import numpy as np
import orjson
import simdjson

from mma4ctr.datasets.base import BagChunk, DenseChunk
from mma4ctr.datasets.columns import as_float32
from mma4ctr.runtime.errors import BadLine
from mma4ctr.storage.text_blocks import Block

# JSON key of each modality of vectors.
VECTOR_KEYS = {"visual": "video_feature_dim_128", "acoustic": "audio_feature_128_dim"}
# Per item: number of faces, mean gender, mean and maximum beauty, mean relative position (x, y, width, height).
FACE_WIDTH = 8


def feature_parser(modality: str, *, compiled: bool) -> Callable[[bytes, Block], DenseChunk | BagChunk]:
    """Return the parser of a modality's lines; `compiled` is an option of `parse_vectors`."""
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
    values[np.arange(width) < length[:, None]] = as_float32(np.frombuffer(b"".join(arrays)))  # checked by the caller
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
        values[row, : len(vector)] = as_float32(vector)  # checked below, for all lines at once
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
    """Yield (number from 0, line) for the lines that are not blank; blank ones are not counted."""
    return enumerate(line for line in data.splitlines() if line.strip())


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
        _check_finite(as_float32(table), "face_attrs")
        mean = table.mean(axis=0)
        values[row] = [len(faces), mean[0], mean[1], table[:, 1].max(), *mean[2:]]
        length[row] = FACE_WIDTH
    ids = np.array([item_id for _, item_id, _ in found], np.int64)
    return DenseChunk(block, ids, values, length, np.array([number for number, _, _ in found], np.int64))
