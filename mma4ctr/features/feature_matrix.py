"""The feature matrix of one task and variant, in factors.

A row is `[user_part[user], item_part[item], context, pairs]`. Only the parts are kept; rows are put together when a
batch is made (`FactorMatrix.gather`). The N x width matrix is never written or held.

The user part has one block per fold of the user embedding: `user_row = block * users + user` picks the view of
the user that the row may see.

There are two sets of features. `paper` is the study's: the user embedding, and the item's content, without context and
pairs. `plus` (behavioral/columns.py) is made from the labels of the training rows and the columns beside content. Its
item part has blocks as the user part has. Its context columns are looked up by codes of the row, recency stands in the
row itself, and pair columns are inner products of a user's and an item's vectors, made with the batch. The matrix of a
variant's modalities with these features is called `<variant>.plus`; `<variant>.plus-counts` lacks the group `counts`.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mma4ctr.data.interactions import (
    TEST,
    TRAIN,
    VALID,
    Interactions,
    features_artifact,
    load_interactions,
    user_embedding_artifact,
)
from mma4ctr.datasets import split_task
from mma4ctr.features.behavioral.columns import FEATURE_VERSION
from mma4ctr.features.variants import MADE_BY, split_variant, variant_kind
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact, check_made_from, read_artifact
from mma4ctr.storage.paths import Paths

# Rows whose pair columns are made at a time while their scaling is fitted.
PAIRS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class RowGroup:
    """The rows of one part of the split: int64 tensors of table rows, float32 labels, all (rows,).

    `rows` are the positions of these rows among the kept interactions (int64 array). `item_row` is `item` itself if
    the item part has one block. `codes` are the rows' codes for each lookup of the matrix, of any integer type;
    `recency` is float16 (rows, r), scaled.
    """

    rows: np.ndarray
    user_row: torch.Tensor
    item_row: torch.Tensor
    item: torch.Tensor
    label: torch.Tensor
    codes: tuple[torch.Tensor, ...] = ()
    recency: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.rows)

    def features(
        self, matrix: "FactorMatrix", chosen: torch.Tensor | np.ndarray | slice, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """float32 (n, in_features): the feature rows of some of these rows.

        Only a group knows which block of the tables its rows see, so features are gathered here and nowhere else.

        Args:
            matrix: The matrix that the group is a part of.
            chosen: Positions in the group.
            out: A buffer of at least n rows to write to.
        """
        return matrix.gather(self.chosen(chosen), out)

    def chosen(self, chosen: torch.Tensor | np.ndarray | slice) -> "TableRows":
        """Where some of these rows find their features."""
        recency = None if self.recency is None else self.recency[chosen]
        codes = tuple(one[chosen] for one in self.codes)
        return TableRows(self.user_row[chosen], self.item_row[chosen], codes, recency)


@dataclass(frozen=True)
class TableRows:
    """The table rows of a batch; see `RowGroup`."""

    user_row: torch.Tensor
    item_row: torch.Tensor
    codes: tuple[torch.Tensor, ...]
    recency: torch.Tensor | None


def columns_made(variant: str) -> dict[str, int]:
    """What the settings of a matrix say of its columns: of features plus, whose formulas change, which they are."""
    return {"plus_columns": FEATURE_VERSION} if split_variant(variant)[1] == "plus" else {}


def drawn(settings: dict[str, Any]) -> dict[str, Any]:
    """What a protocol says of negatives, given the settings of steps 1 or 4: nothing where they were seen."""
    return {"negatives": settings["negatives"]} if settings.get("negatives") else {}


@dataclass(frozen=True)
class Pairs:
    """Columns of a pair, as inner products of vectors of length k.

    Attributes:
        user_vectors: float32 (blocks * users, columns, k), divided by the columns' scales.
        item_vectors: float32 (blocks * items, k), or (items, k) for all blocks.
        shift: float32 (columns,), divided in the same way, subtracted from the products.
    """

    user_vectors: torch.Tensor
    item_vectors: torch.Tensor
    shift: torch.Tensor

    @property
    def width(self) -> int:
        return self.user_vectors.shape[1]

    def columns(self, user_row: torch.Tensor, item_row: torch.Tensor) -> torch.Tensor:
        """float32 (batch, columns)."""
        items = self.item_vectors.index_select(0, item_row % len(self.item_vectors)).unsqueeze(1)
        # In less than half the time of a batched product of such small matrices.
        return self.user_vectors.index_select(0, user_row).mul_(items).sum(dim=2).sub_(self.shift)


@dataclass(frozen=True)
class LookupTable:
    """Columns that a row looks up by its block and its code.

    Attributes:
        table: float32 (blocks * size, columns), scaled.
        size: Number of codes.
    """

    table: torch.Tensor
    size: int

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.table.shape[1]


@dataclass(frozen=True)
class FactorMatrix:
    """Features in factors, scaled, on one device.

    Attributes:
        user_part: float32 (blocks * users, user width). item_part: float32 (items, item width), with features plus
            (blocks * items, item width).
        train, valid, test: the rows of the split.
        settings: task, variant, embedding_length; and of the protocol: split, evidence, folds, scaling.
        fingerprint: of the artifact on disk.
        pairs: what the columns of a pair are made from; empty where there are none.
        lookups: The tables of context categories and of pairs with them.
        recency: Number of recency columns.
        users: Rows of a block of the user part; 0 if it has one block.
    """

    user_part: torch.Tensor
    item_part: torch.Tensor
    train: RowGroup
    valid: RowGroup
    test: RowGroup
    settings: dict[str, Any]
    fingerprint: str
    pairs: tuple[Pairs, ...] = ()
    lookups: tuple[LookupTable, ...] = ()
    recency: int = 0
    users: int = 0

    @property
    def protocol(self) -> dict[str, Any]:
        """Split, evidence, folds and scaling; without the loss, which belongs to training."""
        return {key: self.settings[key] for key in ("split", "evidence", "folds", "scaling")} | drawn(self.settings)

    @property
    def in_features(self) -> int:
        return self.user_part.shape[1] + self.item_part.shape[1] + self.row_features

    @property
    def row_features(self) -> int:
        """Columns that belong neither to the user alone nor to the item alone."""
        return self.recency + sum(table.width for table in (*self.lookups, *self.pairs))

    def gather(self, rows: TableRows, out: torch.Tensor | None = None) -> torch.Tensor:
        """float32 (batch, in_features): the feature rows of a batch, given its table rows. The hot loop.

        They are written into the first rows of `out`, if it is given: fresh memory for every batch of 8192 rows
        took a tenth of the time of a training step.
        """
        count = len(rows.item_row)
        made = self.user_part.new_empty(count, self.in_features) if out is None else out[:count]
        first, last = self.user_part.shape[1], self.user_part.shape[1] + self.item_part.shape[1]
        # Each part into its own columns: parts that are put side by side afterwards took a third longer.
        torch.index_select(self.user_part, 0, rows.user_row, out=made[:, :first])
        torch.index_select(self.item_part, 0, rows.item_row, out=made[:, first:last])
        self.gather_row_features(rows, made[:, last:])
        return made

    def gather_row_features(self, rows: TableRows, out: torch.Tensor) -> None:
        """Write the context and pair columns of a batch to float32 (batch, row_features)."""
        last = 0
        block = rows.user_row // self.users if self.users and self.lookups else 0
        for lookup, codes in zip(self.lookups, rows.codes, strict=True):
            first, last = last, last + lookup.width
            torch.index_select(lookup.table, 0, codes.long() + block * lookup.size, out=out[:, first:last])
        if rows.recency is not None:
            first, last = last, last + self.recency
            out[:, first:last] = rows.recency
        for pairs in self.pairs:
            first, last = last, last + pairs.width
            out[:, first:last] = pairs.columns(rows.user_row, rows.item_row)


def rows_in_blocks(index: np.ndarray, block: np.ndarray, size: int) -> np.ndarray:
    """int64 (rows,): the row of a part with blocks of `size` users or items that each interaction sees."""
    rows: np.ndarray = block.astype(np.int64) * size + index
    return rows


@dataclass(frozen=True)
class StepInputs:
    """What the matrices of one task are made from, checked to belong together."""

    task: str
    data: Interactions
    modal: Artifact
    embedding: Artifact

    @property
    def modalities(self) -> list[str]:
        return list(self.embedding.manifest["modalities"])


def load_step_inputs(paths: Paths, task: str) -> StepInputs:
    """Steps 1 to 3 of a task; raises `UserError` where one is missing or made from something else."""
    dataset, _ = split_task(task)
    data = load_interactions(paths, dataset)
    modal = features_artifact(paths, dataset)
    embedding = user_embedding_artifact(paths, task)
    check_made_from(modal, interactions=data.artifact)
    check_made_from(embedding, interactions=data.artifact, modalities=modal)
    return StepInputs(task, data, modal, embedding)


def read_matrix(paths: Paths, task: str, variant: str) -> Artifact:
    """The artifact of a feature matrix; raises `UserError` as `read_artifact` does."""
    made_by = MADE_BY[variant_kind(variant)]
    return read_artifact(paths.matrix / task / variant, made_by, task=task, variant=variant)


def load_matrix(paths: Paths, task: str, variant: str, device: torch.device) -> FactorMatrix:
    """Read a feature matrix and the rows of the split onto a device.

    Raises `UserError` where it is missing, was made from something else, or a part of the split has one class only.
    """
    _, target = split_task(task)
    artifact = read_matrix(paths, task, variant)
    inputs = load_step_inputs(paths, task)
    data = inputs.data
    check_made_from(
        artifact, **{"interactions": data.artifact, "modalities": inputs.modal, "user embedding": inputs.embedding}
    )
    label = data.label(target)
    block = inputs.embedding.array("block")
    user_row = rows_in_blocks(data.user, block, len(data.user_ids))
    item_part = torch.from_numpy(artifact.array("item_part")).to(device)
    blocks_of_items = len(item_part) > len(data.item_ids)
    if not columns_made(variant).items() <= artifact.settings.items():
        raise UserError(
            f"{artifact.folder}: made before its columns were changed; "
            f"run {artifact.manifest['made_by']} --features plus again"
        )
    lookups, codes = [], []
    for place, entry in enumerate(artifact.manifest.get("lookups", ())):
        lookups.append(LookupTable(torch.from_numpy(artifact.array(f"lookup_table_{place}")).to(device), entry["size"]))
        codes.append(artifact.array(f"lookup_codes_{place}"))
    recency = artifact.array("recency") if "recency" in artifact.array_names else None

    first = sum(one.width for one in lookups) + (0 if recency is None else recency.shape[1])
    pairs = []
    for kind in artifact.manifest.get("pairs", ()):
        user_vectors, item_vectors = (artifact.array(f"{kind}_{of}_vectors") for of in ("user", "item"))
        columns = slice(first, first + user_vectors.shape[1])
        shift = artifact.array("row_shift")[columns] / artifact.array("row_scale")[columns]
        arrays = user_vectors, item_vectors, shift.astype(np.float32)
        pairs.append(Pairs(*(torch.from_numpy(array).to(device) for array in arrays)))
        first = columns.stop

    def group(part: int, name: str) -> RowGroup:
        rows = np.flatnonzero(data.split == part)
        labels = label[rows]
        if labels.min() == labels.max() and part != TEST:
            raise UserError(f"{task}: every {name} row has label {labels[0]}; it takes both to train")
        item = torch.from_numpy(data.item[rows].astype(np.int64)).to(device)
        item_row = item
        if blocks_of_items:
            item_row = torch.from_numpy(rows_in_blocks(data.item[rows], block[rows], len(data.item_ids))).to(device)
        return RowGroup(
            rows,
            torch.from_numpy(user_row[rows]).to(device),
            item_row,
            item,
            torch.from_numpy(labels.astype(np.float32)).to(device),
            tuple(torch.from_numpy(one[rows]).to(device) for one in codes),
            None if recency is None else torch.from_numpy(recency[rows]).to(device),
        )

    return FactorMatrix(
        user_part=torch.from_numpy(artifact.array("user_part")).to(device),
        item_part=item_part,
        train=group(TRAIN, "training"),
        valid=group(VALID, "validation"),
        test=group(TEST, "test"),
        settings=artifact.settings,
        fingerprint=artifact.fingerprint,
        pairs=tuple(pairs),
        lookups=tuple(lookups),
        recency=0 if recency is None else recency.shape[1],
        users=len(data.user_ids),
    )
