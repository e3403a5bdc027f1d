"""Batches in the form that the models of FuxiCTR's `model_zoo.LongCTR` take, from the arrays of fuxictr_inputs.py.

A batch is a triple: the columns of its rows; the fields of the items, a row's history and then its item; and a mask of
the histories. A row without clicks has one padding item, because DIEN cannot take a batch of empty histories. Padding
has embeddings of zeros.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import torch

GROUP, LABEL = "group_id", "label"
PADDING = 0
Batch = tuple[dict[str, torch.Tensor], dict[str, torch.Tensor], torch.Tensor]


class Part:
    """The rows of a part of the split.

    Args:
        folder: The folder of the arrays.
        name: `train`, `valid` or `test`.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self.user, self.item, self.label = (
            np.load(folder / f"{name}_{kind}_row.npy") for kind in ("user", "item", "label")
        )
        self.start, self.end = (np.load(folder / f"{name}_history_{kind}.npy") for kind in ("start", "end"))
        self.clicked = np.load(folder / "history_items.npy", mmap_mode="r")

    def __len__(self) -> int:
        return len(self.user)

    def items(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Histories and items of some rows.

        Args:
            rows: int64 (n,).

        Returns:
            int64 (n, longest + 1): numbers of items from 1, the history from its oldest item, padding, and at last the
            row's own item; and float32 (n, longest), 1 for the history.
        """
        length = self.end[rows] - self.start[rows]
        place = np.arange(max(1, int(length.max())))
        inside = place < length[:, None]
        where = np.where(inside, self.start[rows][:, None] + place, 0)
        clicked = np.where(inside, self.clicked[where] + 1, PADDING) if len(self.clicked) else np.zeros_like(where)
        own = self.item[rows].astype(np.int64) + 1
        mask = place < np.maximum(length, 1)[:, None]
        return np.concatenate([clicked, own[:, None]], axis=1), mask.astype(np.float32)


def codes_of(count: np.ndarray, min_rows: int) -> np.ndarray:
    """Codes of ids, from 1; the largest code is that of all ids with fewer than `min_rows` rows.

    Args:
        count: int64 (ids,), training rows of each id.
        min_rows: The least number of rows of an id with a code of its own.

    Returns:
        int64 (ids + 1,): at last the code of the rest, which no id may have.
    """
    known = count >= min_rows
    codes = np.cumsum(known)
    return np.append(np.where(known, codes, codes[-1] + 1), codes[-1] + 1)


def user_codes(folder: Path, train: Part, min_rows: int) -> np.ndarray:
    """int64 (users + 1,): the code of each user, see `codes_of`."""
    users = len(np.load(folder / "user_ids.npy", mmap_mode="r"))
    return codes_of(np.bincount(train.user, minlength=users), min_rows)


@dataclass(frozen=True)
class ItemTables:
    """The fields of items.

    Attributes:
        codes: By field, int64 (items + 1,), the code of each item; the first is that of padding.
        sizes: By field, the number of codes.
        vectors: The HDF5 file of item vectors.
        keys: (vectors,) text, the ids that it has.
        width: Numbers of a vector.
    """

    codes: Mapping[str, torch.Tensor]
    sizes: Mapping[str, int]
    vectors: Path
    keys: np.ndarray
    width: int


def item_tables(job: Mapping[str, Any], folder: Path, train: Part) -> ItemTables:
    """The fields of items: an id if the settings say so, the frozen vector, and categories.

    Args:
        job: The job; `settings`, `vectors` and `categories` are used.
        folder: The folder of the arrays.
        train: The training rows; only their items, not the clicks, decide which ids have an embedding of their own.
    """
    ids = np.load(folder / "item_ids.npy").astype(str)
    with h5py.File(job["vectors"]) as file:
        keys, width = file["key"][:].astype(str), file["value"].shape[1]
    codes: dict[str, np.ndarray] = {}
    if job["settings"]["item_embedding"]:
        codes["item_id"] = codes_of(np.bincount(train.item, minlength=len(ids)), job["settings"]["min_rows"])
    order = np.argsort(keys)
    place = np.minimum(np.searchsorted(keys, ids, sorter=order), len(keys) - 1)
    found = keys[order[place]] == ids
    codes["item_emb"] = np.append(np.where(found, order[place] + 1, len(keys) + 1), len(keys) + 1)
    for number in range(job["categories"]):
        values = np.load(folder / f"category_{number}.npy") + 1
        codes[f"category_{number}"] = np.append(values, values.max() + 1)
    tables = {name: torch.from_numpy(np.insert(values[:-1], 0, PADDING)) for name, values in codes.items()}
    return ItemTables(
        tables, {name: int(values[-1]) + 1 for name, values in codes.items()}, Path(job["vectors"]), keys, width
    )


class Batches:
    """The batches of a part, anew for each pass; they differ by at most one row in size.

    Args:
        part: The rows.
        users: int64 (users,), codes of users.
        tables: The fields of items.
        size: About the number of rows of a batch.
        shuffle: Draw another order for each pass, from torch's generator.
    """

    def __init__(self, part: Part, users: np.ndarray, tables: ItemTables, size: int, *, shuffle: bool) -> None:
        self._part, self._users, self._tables, self._shuffle = part, users, tables, shuffle
        self._steps = max(1, round(len(part) / size))

    def __len__(self) -> int:
        return self._steps

    def __iter__(self) -> Iterator[Batch]:
        rows = torch.randperm(len(self._part)).numpy() if self._shuffle else np.arange(len(self._part))
        for chosen in np.array_split(rows, self._steps):
            yield self.batch(chosen)

    def batch(self, rows: np.ndarray) -> Batch:
        """The batch of some rows: int64 (n,)."""
        part = self._part
        items, mask = part.items(rows)
        number = torch.from_numpy(items.reshape(-1))
        columns = {GROUP: part.user[rows], "user_id": self._users[part.user[rows]], LABEL: part.label[rows]}
        fields = {name: codes[number] for name, codes in self._tables.codes.items()}
        return {name: torch.from_numpy(values) for name, values in columns.items()}, fields, torch.from_numpy(mask)
