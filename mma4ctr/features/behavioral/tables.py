"""The tables that the columns of features plus are made from (columns.py fills them, matrix_writer.py scales them)."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from mma4ctr.features.behavioral.content_clusters import Clusters
from mma4ctr.features.behavioral.rates import RowCodes
from mma4ctr.storage.arrays import StoredArray

# Groups whose columns are those of the task's own target only: with those of others no validation AUC was higher.
OWN_TARGET_ONLY = ("rates", "pair-rates", "user-own-bias")

# The vectors of one block: float32 (users, columns, k) and (items, k).
Vectors = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class PairTable:
    """Vectors of users and items. Their inner products are columns of the pair.

    They are on disk, so that those of one block at a time are in memory.

    Attributes:
        kind: What the vectors are: `content_factors`, `label_svd` or `exposure_svd`.
        user: float32 (blocks, users, all columns, k).
        item: float32 (blocks, items, k).
        places: Positions of the columns among all columns.
        names: Of the columns: `<group>` or `<group>:<target>`.
        of_content: float32 (content width + 1, k). The last block's vector of a new item is its content and a 1 times
            this matrix. None where content does not determine the vector.
    """

    kind: str
    user: StoredArray
    item: StoredArray
    places: list[int]
    names: list[str]
    of_content: np.ndarray | None = None

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.item)

    @property
    def size(self) -> int:
        """Number of values."""
        return math.prod(self.user.shape) + math.prod(self.item.shape)

    def write_block(self, number: int, vectors: Vectors) -> None:
        """Write the vectors of one block, for all columns; shorter vectors are padded with zeros."""
        for stored, values in zip((self.user, self.item), vectors, strict=True):
            part = np.zeros((1, *stored.shape[1:]), np.float32)
            part[0, ..., : values.shape[-1]] = values
            stored[number : number + 1] = part

    def block(self, number: int) -> Vectors:
        """Read the vectors of one block."""
        part = slice(number, number + 1)
        return self.user[part][0][:, self.places], self.item[part][0]


@dataclass(frozen=True)
class Lookup:
    """Columns that a row looks up by its code.

    Their table is made when it is asked for: pairs are many, and a task has the columns of its own target only.

    Attributes:
        codes: The codes of all kept rows.
        make: Maps places of columns to their table, float32 (blocks, codes, columns).
        places: Of the columns, among all columns.
        names: Of the columns: `<group>:<code name>:<target>`.
    """

    codes: RowCodes
    make: Callable[[list[int]], np.ndarray]
    places: list[int]
    names: list[str]

    @property
    def table(self) -> np.ndarray:
        """Make the table: float32 (blocks, codes, columns)."""
        return self.make(self.places)


@dataclass(frozen=True)
class PlusTables:
    """The columns in factors: one block for each fold and one for the rows that are not trained on.

    Attributes:
        user_columns: float32 (blocks, users, c).
        item_columns: float32 (blocks, items, d).
        pairs: The vectors that the columns of the pair are made from.
        lookups: The columns of context categories and of pairs.
        recency: float32 (rows, r) of all kept rows.
        user_names: What the user columns are: `<group>` or `<group>:<target>`.
        item_names: What the item columns are.
        recency_names: What the recency columns are.
        item_effects: By item category, float32 (codes, targets): the effects of the last block, for new items.
        clusters: Of the items' content; None if no column uses them.
    """

    user_columns: np.ndarray
    item_columns: np.ndarray
    pairs: list[PairTable]
    lookups: list[Lookup]
    recency: np.ndarray
    user_names: list[str]
    item_names: list[str]
    recency_names: list[str]
    item_effects: dict[str, np.ndarray]
    clusters: Clusters | None = None

    @property
    def blocks(self) -> int:
        """Number of blocks."""
        return len(self.user_columns)

    def chosen(self, wanted: Iterable[str]) -> "PlusTables":
        """The same tables with some of their columns only, given the names of those that stay."""
        stay = set(wanted)

        def kept(given: Sequence[str]) -> list[int]:
            return [place for place, name in enumerate(given) if name in stay]

        user, item, recency = kept(self.user_names), kept(self.item_names), kept(self.recency_names)
        pairs, lookups = [], []
        for table in self.pairs:
            if found := kept(table.names):
                chosen = [table.places[place] for place in found]
                pairs.append(replace(table, places=chosen, names=[table.names[place] for place in found]))
        for lookup in self.lookups:
            if found := kept(lookup.names):
                chosen = [lookup.places[place] for place in found]
                lookups.append(replace(lookup, places=chosen, names=[lookup.names[place] for place in found]))
        return replace(
            self,
            user_columns=self.user_columns[:, :, user],
            item_columns=self.item_columns[:, :, item],
            pairs=pairs,
            lookups=lookups,
            recency=self.recency[:, recency],
            user_names=[self.user_names[place] for place in user],
            item_names=[self.item_names[place] for place in item],
            recency_names=[self.recency_names[place] for place in recency],
        )

    @property
    def names(self) -> list[str]:
        """Of all columns, in the order of the matrix."""
        others = [
            *(lookup.names for lookup in self.lookups),
            self.recency_names,
            *(table.names for table in self.pairs),
        ]
        return [*self.user_names, *self.item_names, *(name for names in others for name in names)]

    def of_task(self, target: str, without: str = "") -> "PlusTables":
        """The columns of one task: those of other targets only where they pay, and none of the group `without`."""

        def stays(name: str) -> bool:
            group, *more = name.split(":")
            other = len(more) > 0 and group in OWN_TARGET_ONLY and more[-1] != target
            return group != without and not other

        return self.chosen(filter(stays, self.names))
