"""The feature matrix of one task and variant, stored as factors.

A row is `[user_part[user], item_part[item], context, pairs]`. Only the parts are stored. Rows are gathered when a batch
is made (`FactorMatrix.gather`), so the N x width matrix never exists.

The user part has one block for each fold of the user embedding: table row `block * users + user` is the user as seen by
rows of that fold.

There are two feature sets. `paper` is the study's: user embedding and item content, without context and pairs. `plus`
(behavioral/columns.py) is estimated from the training rows and the columns beside content. Its item part has blocks
too. Its context columns are looked up by codes of the row, recency is stored with the row, and the columns of a pair
are inner products of user and item vectors, computed with the batch. The matrix of a variant with features plus is
called `<variant>.plus`; `<variant>.plus-recency` lacks the group `recency`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import torch

from mma4ctr.data.interactions import (
    TEST,
    TRAIN,
    VALID,
    Interactions,
    draws_setting,
    features_artifact,
    has_test_labels,
    load_interactions,
    user_embedding_artifact,
)
from mma4ctr.datasets import split_task
from mma4ctr.datasets.base import GIVEN_VALID_TEST
from mma4ctr.features.behavioral.columns import FEATURE_VERSION
from mma4ctr.features.variants import matrix_command, split_variant
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact, check_made_from, read_artifact
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.row_arrays import RowArrays


@dataclass(frozen=True)
class RowGroup:
    """The training, validation or test rows.

    Attributes:
        rows: int32 (rows,), positions among the kept interactions.
        user_row: int32 (rows,), table rows of the user part.
        item_row: int32 (rows,), table rows of the item part: the item, in an item part of one block.
        label: uint8 (rows,) of 0 and 1.
        codes: Integers (rows,), the code of each row for each lookup of the matrix.
        recency: float16 (rows, r), scaled; None without recency.
        arrays: Made the arrays, which on a CPU are in files if they are large.
    """

    rows: np.ndarray
    user_row: torch.Tensor
    item_row: torch.Tensor
    label: torch.Tensor
    codes: tuple[torch.Tensor, ...] = ()
    recency: torch.Tensor | None = None
    arrays: RowArrays = field(default_factory=RowArrays)

    def __len__(self) -> int:
        return len(self.rows)

    def copied(self, chosen: torch.Tensor) -> "RowGroup":
        """Copy some of these rows to memory, given int64 (n,) positions."""
        recency = None if self.recency is None else self.recency[chosen]
        user_row, item_row, label = (values[chosen] for values in (self.user_row, self.item_row, self.label))
        rows, codes = self.rows[chosen.cpu().numpy()], tuple(one[chosen] for one in self.codes)
        self.arrays.release()
        return RowGroup(rows, user_row, item_row, label, codes, recency)

    def to(self, device: torch.device) -> "RowGroup":
        """The same rows on a device."""
        recency = None if self.recency is None else self.recency.to(device)
        user_row, item_row, label = (values.to(device) for values in (self.user_row, self.item_row, self.label))
        codes = tuple(one.to(device) for one in self.codes)
        return RowGroup(self.rows, user_row, item_row, label, codes, recency, self.arrays)

    def features(
        self, matrix: "FactorMatrix", chosen: torch.Tensor | np.ndarray | slice, out: torch.Tensor | None = None
    ) -> torch.Tensor:
        """Gather the features of some of these rows.

        Only the group knows which block of the tables its rows use, so features are gathered nowhere else.

        Args:
            matrix: The matrix that the group belongs to.
            chosen: Positions in the group.
            out: A buffer of at least n rows to write to.

        Returns:
            float32 (n, in_features).
        """
        return matrix.gather(self.chosen(chosen), out)

    def chosen(self, chosen: torch.Tensor | np.ndarray | slice) -> "TableRows":
        """Return where some of these rows find their features."""
        recency = None if self.recency is None else self.recency[chosen]
        codes = tuple(one[chosen] for one in self.codes)
        return TableRows(self.user_row[chosen], self.item_row[chosen], codes, recency)


@dataclass(frozen=True)
class TableRows:
    """The table rows, codes and recency of a batch; see `RowGroup`."""

    user_row: torch.Tensor
    item_row: torch.Tensor
    codes: tuple[torch.Tensor, ...]
    recency: torch.Tensor | None


def column_version(variant: str) -> dict[str, int]:
    """Return the settings that record the version of the columns; empty for the paper's features, which are fixed."""
    return {"plus_columns": FEATURE_VERSION} if split_variant(variant)[1] == "plus" else {}


def negatives_setting(settings: dict[str, Any]) -> dict[str, Any]:
    """Return the setting of negative sampling from those of step 1 or 4; empty if no negatives were drawn."""
    return {"negatives": settings["negatives"]} if settings.get("negatives") else {}


@dataclass(frozen=True)
class Pairs:
    """Columns of a pair of user and item: inner products of vectors of length k.

    Attributes:
        user_vectors: float32 (blocks * users, columns, k), divided by the columns' scales.
        item_vectors: float32 (blocks * items, k), or (items, k) for all blocks.
        shift: float32 (columns,), subtracted from the products; divided by the scales too.
    """

    user_vectors: torch.Tensor
    item_vectors: torch.Tensor
    shift: torch.Tensor

    @property
    def width(self) -> int:
        """Number of columns."""
        return self.user_vectors.shape[1]

    def columns(self, user_row: torch.Tensor, item_row: torch.Tensor) -> torch.Tensor:
        """Compute the columns of rows, given their table rows: float32 (batch, columns)."""
        items = self.item_vectors.index_select(0, item_row % len(self.item_vectors)).unsqueeze(1)
        # Less than half the time of a batched matrix product, because the matrices are small.
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
    """A scaled feature matrix, stored as factors, on one device.

    Attributes:
        user_part: float32 (blocks * users, user width).
        item_part: float32 (items, item width); with features plus (blocks * items, item width).
        train: The training rows.
        valid: The validation rows.
        test: The test rows.
        settings: Task, variant and embedding_length, and of the protocol split, evidence, folds and scaling.
        fingerprint: Fingerprint of the artifact on disk.
        pairs: The columns of pairs; empty with the paper's features.
        lookups: The tables of context categories and of pairs with them.
        recency: Number of recency columns.
        users: Rows of a block of the user part.
        test_labels: Whether the labels of the test rows are known.
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
    test_labels: bool = True

    @property
    def protocol(self) -> dict[str, Any]:
        """Split, evidence, folds and scaling; the loss belongs to training."""
        return {key: self.settings[key] for key in ("split", "evidence", "folds", "scaling")} | negatives_setting(
            self.settings
        )

    @property
    def in_features(self) -> int:
        """Number of features of a row."""
        return self.user_part.shape[1] + self.item_part.shape[1] + self.row_features

    @property
    def row_features(self) -> int:
        """Columns that belong neither to the user alone nor to the item alone."""
        return self.recency + sum(one.width for one in self.lookups) + sum(one.width for one in self.pairs)

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
            torch.index_select(lookup.table, 0, codes.int() + block * lookup.size, out=out[:, first:last])
        if rows.recency is not None:
            first, last = last, last + self.recency
            out[:, first:last] = rows.recency
        for pairs in self.pairs:
            first, last = last, last + pairs.width
            out[:, first:last] = pairs.columns(rows.user_row, rows.item_row)


def rows_in_blocks(index: np.ndarray, block: np.ndarray, size: int) -> np.ndarray:
    """Return the table row that each interaction uses.

    Args:
        index: int (rows,), user or item.
        block: uint8 (rows,), the block that each row uses.
        size: Number of users or items.

    Returns:
        int32 (rows,).
    """
    rows: np.ndarray = block.astype(np.int32) * np.int32(size) + index
    return rows


def check_table_rows(blocks: int, size: int, what: str) -> None:
    """Raise `UserError` if a table of `blocks` blocks has more rows than int32 can number; see `rows_in_blocks`."""
    if blocks * size >= 2**31:
        raise UserError(
            f"{blocks:,} blocks of {size:,} {what} are more than 2^31 rows; use fewer --folds in get_user_embedding.py"
        )


@dataclass(frozen=True)
class StepInputs:
    """The outputs of steps 1 to 3 for one task, which were checked to belong together.

    Attributes:
        task: The task.
        data: Output of step 1.
        modal: Output of step 2.
        embedding: Output of step 3.
    """

    task: str
    data: Interactions
    modal: Artifact
    embedding: Artifact

    @property
    def modalities(self) -> list[str]:
        """Names of the modalities that the user embedding has."""
        return list(self.embedding.manifest["modalities"])

    @cached_property
    def block(self) -> np.ndarray:
        """uint8 (rows,), the block that each row uses."""
        return self.data.arrays.open(self.embedding.file("block.npy"))


def load_step_inputs(paths: Paths, task: str) -> StepInputs:
    """Open the outputs of steps 1 to 3; raises `UserError` if one is missing or outdated."""
    dataset, _ = split_task(task)
    data = load_interactions(paths, dataset)
    modal = features_artifact(paths, dataset)
    embedding = user_embedding_artifact(paths, task)
    check_made_from(modal, interactions=data.artifact)
    check_made_from(embedding, interactions=data.artifact, modalities=modal)
    if not draws_setting(data.artifact).items() <= embedding.settings.items():
        raise UserError(
            f"{embedding.folder}: made by an earlier version, whose folds part a row from its sampled negatives; run "
            "get_user_embedding.py again"
        )
    return StepInputs(task, data, modal, embedding)


def read_matrix(paths: Paths, task: str, variant: str) -> Artifact:
    """Open the artifact of a feature matrix; raises `UserError` as `read_artifact` does."""
    return read_artifact(paths.matrix / task / variant, matrix_command(variant), task=task, variant=variant)


def load_lookups(artifact: Artifact, device: torch.device) -> tuple[LookupTable, ...]:
    """Read the lookup tables of a feature matrix onto a device."""
    return tuple(
        LookupTable(torch.from_numpy(artifact.array(f"lookup_table_{place}")).to(device), entry["size"])
        for place, entry in enumerate(artifact.manifest.get("lookups", ()))
    )


def load_pairs(artifact: Artifact, first: int, device: torch.device) -> tuple[Pairs, ...]:
    """Read the pair columns of a feature matrix onto a device; `first` columns of the rows come before them."""
    pairs = []
    for kind in artifact.manifest.get("pairs", ()):
        user_vectors, item_vectors = (artifact.array(f"{kind}_{of}_vectors") for of in ("user", "item"))
        columns = slice(first, first + user_vectors.shape[1])
        shift = artifact.array("row_shift")[columns] / artifact.array("row_scale")[columns]
        arrays = user_vectors, item_vectors, shift.astype(np.float32)
        pairs.append(Pairs(*(torch.from_numpy(array).to(device) for array in arrays)))
        first = columns.stop
    return tuple(pairs)


def _rows_of_split(
    inputs: StepInputs,
    split: int,
    label: np.ndarray,
    size: tuple[int, int],
    codes: Sequence[np.ndarray],
    recency: np.ndarray | None,
) -> RowGroup:
    """The rows of one split.

    Args:
        inputs: Steps 1 to 3.
        split: TRAIN, VALID or TEST.
        label: uint8 (rows,) of all kept rows.
        size: Users of a block of the user part, and items of a block of the item part; 0 for one block.
        codes: Integers (rows,) for each lookup.
        recency: float16 (rows, r), or None.
    """
    data, block, arrays = inputs.data, inputs.block, inputs.data.arrays
    count = data.rows_of(split)
    rows, user_row, item_row = (arrays.empty((count,), np.int32) for _ in range(3))
    chosen = [(one, arrays.empty((count, *one.shape[1:]), one.dtype)) for one in (label, *codes)]
    if recency is not None:
        chosen.append((recency, arrays.empty((count, recency.shape[1]), recency.dtype)))
    first = 0
    for part in data.parts():
        found = np.flatnonzero(data.split[part] == split)
        into = slice(first, first + len(found))
        rows[into] = found + part.start
        user_row[into] = rows_in_blocks(data.user[part][found], block[part][found], size[0])
        item_row[into] = rows_in_blocks(data.item[part][found], block[part][found], size[1])
        for values, made in chosen:
            made[into] = values[part][found]
        first = into.stop
    labels, *others = (torch.from_numpy(made) for _, made in chosen)
    last = others.pop() if recency is not None else None
    return RowGroup(rows, torch.from_numpy(user_row), torch.from_numpy(item_row), labels, tuple(others), last, arrays)


def load_matrix(paths: Paths, task: str, variant: str, device: torch.device) -> FactorMatrix:
    """Read a feature matrix and the rows of the split onto a device.

    Args:
        paths: Where to read.
        task: The task.
        variant: Name of the matrix.
        device: The device.

    Returns:
        The matrix.

    Raises:
        UserError: The matrix is missing or outdated, or all training or validation rows have the same label.
    """
    _, target = split_task(task)
    artifact = read_matrix(paths, task, variant)
    inputs = load_step_inputs(paths, task)
    data = inputs.data
    check_made_from(
        artifact, **{"interactions": data.artifact, "modalities": inputs.modal, "user embedding": inputs.embedding}
    )
    label = data.label(target)
    users, items = len(data.user_ids), len(data.item_ids)
    item_part = torch.from_numpy(artifact.array("item_part")).to(device)
    blocks_of_items = len(item_part) > items
    if not column_version(variant).items() <= artifact.settings.items():
        raise UserError(
            f"{artifact.folder}: made by an earlier version, with other columns; run {matrix_command(variant)} again"
        )

    lookups = load_lookups(artifact, device)
    codes = [data.arrays.open(artifact.file(f"lookup_codes_{place}.npy")) for place in range(len(lookups))]
    recency = data.arrays.open(artifact.file("recency.npy")) if "recency" in artifact.array_names else None
    recency_width = 0 if recency is None else recency.shape[1]

    def group(split: int, name: str) -> RowGroup:
        made = _rows_of_split(inputs, split, label, (users, items if blocks_of_items else 0), codes, recency)
        positives = int(made.label.sum())
        if positives in (0, len(made)) and split != TEST:
            raise UserError(f"{task}: every {name} row has label {int(positives > 0)}; training needs both labels")
        return made.to(device)

    test = group(TEST, "test")
    valid = test if artifact.settings["split"] == GIVEN_VALID_TEST else group(VALID, "validation")
    return FactorMatrix(
        user_part=torch.from_numpy(artifact.array("user_part")).to(device),
        item_part=item_part,
        train=group(TRAIN, "training"),
        valid=valid,
        test=test,
        settings=artifact.settings,
        fingerprint=artifact.fingerprint,
        pairs=load_pairs(artifact, recency_width + sum(one.width for one in lookups), device),
        lookups=lookups,
        recency=recency_width,
        users=users,
        test_labels=has_test_labels(data.artifact),
    )
