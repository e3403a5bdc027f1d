"""From tables of a described modality to vectors or bags of tokens."""

from collections.abc import Callable
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mma4ctr.datasets.base import BagChunk, DenseChunk
from mma4ctr.datasets.columns import tokens_of
from mma4ctr.datasets.toml_spec import ModalitySource
from mma4ctr.datasets.vectors import vectors_of
from mma4ctr.storage.delimited import require_columns
from mma4ctr.storage.text_blocks import Block

Encoder = Callable[[pa.Table, Block, np.ndarray, pa.Array | None], DenseChunk | BagChunk]


def encoder_of(source: ModalitySource, columns: list[str], width: int) -> Encoder:
    """Return the function from a table, its block and the item ids to a chunk of features."""

    def dense(table: pa.Table, block: Block, ids: np.ndarray, text: pa.Array | None) -> DenseChunk:
        values, length = vectors_of([(name, table[name]) for name in columns], width)
        return DenseChunk(block, ids, values, length, np.arange(len(ids)), text)

    def bag(table: pa.Table, block: Block, ids: np.ndarray, text: pa.Array | None) -> BagChunk:
        how: dict[str, Any] = {"words": source.encoding == "text", "separator": source.token_separator}
        parts = [tokens_of(table[name], name, **how) for name in columns]
        row, token = (np.concatenate([part[i] for part in parts]) for i in (0, 1))
        return BagChunk(block, ids, np.arange(len(ids)), row, token, np.ones(len(row), np.float32), text)

    return dense if source.kind == "dense" else bag


def expanded(source: ModalitySource, path: Path) -> list[str]:
    """Return the columns that are encoded, with patterns such as `x*` expanded in the file's order.

    Raises:
        UserError: A column is missing.
    """
    names = source.source.columns(path)
    found: list[str] = []
    for column in source.columns:
        # A pattern does not match the id column.
        others = [name for name in names if name != source.item]
        matches = [column] if column in names else [name for name in others if fnmatchcase(name, column)]
        if not matches:
            require_columns(str(path), names, [column])
        found += matches
    assert source.item is not None
    require_columns(str(path), names, [source.item])
    return list(dict.fromkeys(found))
