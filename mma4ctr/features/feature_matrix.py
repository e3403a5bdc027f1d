"""The feature matrix of one task and variant, in factors.

Every feature belongs to the user or to the item, so a row is `[user_part[user], item_part[item]]`. Only the two
parts are kept; rows are put together when a batch is made (`FactorMatrix.gather`). The N x width matrix is never
written or held.

The user part has one block per fold of the user embedding: `user_row = block * users + user` picks the view of
the user that the row may see.

There are two sets of features. `paper` is the study's: the user embedding, and the item's content. `plus` (see
plus.py) describes user, item and pair by what the training rows say of them: its item part has blocks as the user part
has, and the columns of a pair are inner products of a user's vectors with the item's, made with the batch. The matrix
of a variant's modalities with these features is called `<variant>.plus`; `<variant>.plus-counts` lacks the group
`counts`.
"""

from collections.abc import Sequence
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
from mma4ctr.features.behavioral.biases import TrainingRows
from mma4ctr.features.behavioral.columns import FEATURE_VERSION, GROUPS, PairTable, plus_tables
from mma4ctr.features.scaling import Scaling, fit_scaling
from mma4ctr.features.variants import MADE_BY, split_variant, variant_kind
from mma4ctr.runtime.console import unknown_name
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, check_made_from, demand_space, read_artifact
from mma4ctr.storage.paths import Paths

# Rows whose pair columns are made at a time while their scaling is fitted.
PAIRS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class RowGroup:
    """The rows of one part of the split: int64 tensors of table rows, float32 labels, all (rows,).

    `rows` are the positions of these rows among the kept interactions (int64 array). `item_row` is `item` itself where
    the item part has one block.
    """

    rows: np.ndarray
    user_row: torch.Tensor
    item_row: torch.Tensor
    item: torch.Tensor
    label: torch.Tensor

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
        return matrix.gather(self.user_row[chosen], self.item_row[chosen], out)


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
class FactorMatrix:
    """Features in factors, scaled, on one device.

    Attributes:
        user_part: float32 (blocks * users, user width). item_part: float32 (items, item width), with features plus
            (blocks * items, item width).
        train, valid, test: the rows of the split.
        settings: task, variant, embedding_length; and of the protocol: split, evidence, folds, scaling.
        fingerprint: of the artifact on disk.
        pairs: what the columns of a pair are made from; empty where there are none.
    """

    user_part: torch.Tensor
    item_part: torch.Tensor
    train: RowGroup
    valid: RowGroup
    test: RowGroup
    settings: dict[str, Any]
    fingerprint: str
    pairs: tuple[Pairs, ...] = ()

    @property
    def protocol(self) -> dict[str, Any]:
        """Split, evidence, folds and scaling; without the loss, which belongs to training."""
        return {key: self.settings[key] for key in ("split", "evidence", "folds", "scaling")} | drawn(self.settings)

    @property
    def in_features(self) -> int:
        return self.user_part.shape[1] + self.item_part.shape[1] + sum(pairs.width for pairs in self.pairs)

    def gather(self, user_row: torch.Tensor, item_row: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """float32 (batch, in_features): the feature rows of a batch, given its table rows. The hot loop.

        They are written into the first rows of `out`, where it is given: fresh memory for every batch of 8192 rows
        took a tenth of the time of a training step.
        """
        rows = self.user_part.new_empty(len(item_row), self.in_features) if out is None else out[: len(item_row)]
        first, last = self.user_part.shape[1], self.user_part.shape[1] + self.item_part.shape[1]
        # Each part into its own columns: parts that are put side by side afterwards took a third longer.
        torch.index_select(self.user_part, 0, user_row, out=rows[:, :first])
        torch.index_select(self.item_part, 0, item_row, out=rows[:, first:last])
        for pairs in self.pairs:
            first, last = last, last + pairs.width
            rows[:, first:last] = pairs.columns(user_row, item_row)
        return rows


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


def user_part(inputs: StepInputs, modalities: tuple[str, ...]) -> np.ndarray:
    """float32 (blocks * users, width): the user embeddings of the modalities side by side.

    With embedding length 0 it is one column, the user's index.
    """
    users = len(inputs.data.user_ids)
    if not inputs.embedding.settings["length"]:
        index = np.arange(users, dtype=np.float32)[:, None]
        return np.tile(index, (inputs.embedding.manifest["blocks"], 1))
    tables = [inputs.embedding.array(name).reshape(-1, inputs.embedding.settings["length"] + 1) for name in modalities]
    return np.concatenate(tables, axis=1)


@dataclass(frozen=True)
class Factors:
    """The parts of a matrix before they are scaled: float (rows, width) each; and what pairs' columns are made from."""

    user_part: np.ndarray
    item_part: np.ndarray
    pairs: Sequence[PairTable] = ()
    item_names: Sequence[str] = ()  # of features plus: the columns of the item part


def plus_factors(inputs: StepInputs, modalities: tuple[str, ...], without: str = "") -> Factors:
    """The `plus` columns of a task; `without` names a group that is left out.

    Raises `UserError` where the user embedding saw more than the training rows.
    """
    data = inputs.data
    if inputs.embedding.settings["evidence"] != "train":
        raise UserError(f"{inputs.task}: features plus need a user embedding of --evidence train; run step 3 again")
    if without and without not in GROUPS:
        raise unknown_name("group of columns", without, GROUPS)
    train = np.flatnonzero(data.split == TRAIN)
    evidence = TrainingRows(
        user=data.user[train].astype(np.int64),
        item=data.item[train].astype(np.int64),
        fold=inputs.embedding.array("block")[train].astype(np.int64),
        users=len(data.user_ids),
        items=len(data.item_ids),
        folds=int(inputs.embedding.settings["folds"]),
    )
    own = split_task(inputs.task)[1]
    targets = [name.removeprefix("label_") for name in data.artifact.array_names if name.startswith("label_")]
    labels = {name: data.label(name)[train] for name in targets if without != "other-targets" or name == own}
    tables = plus_tables(evidence, labels, [inputs.modal.array(name) for name in modalities])
    if without:
        tables = tables.without(without)
    user, item = (part.reshape(-1, part.shape[2]) for part in (tables.user_columns, tables.item_columns))
    return Factors(user, item, tables.pairs, tables.item_names)


def vectors_of(table: PairTable) -> tuple[np.ndarray, np.ndarray]:
    """A table's vectors with their blocks one below the other, as `Pairs` has them."""
    user, item = table.user, table.item
    return user.reshape(-1, *user.shape[2:]), item.reshape(-1, item.shape[2])


def fit_pair_scaling(pairs: Pairs, user_row: np.ndarray, item_row: np.ndarray, method: str) -> Scaling:
    """`fit_scaling` for the columns of pairs on the training rows (rows,), which are made in parts."""
    count, columns = 0, pairs.width
    total, squares = np.zeros(columns), np.zeros(columns)
    low, high = np.full(columns, np.inf), np.full(columns, -np.inf)
    for start in range(0, len(user_row), PAIRS_AT_A_TIME):
        chosen = slice(start, start + PAIRS_AT_A_TIME)
        made = pairs.columns(torch.from_numpy(user_row[chosen]), torch.from_numpy(item_row[chosen])).double().numpy()
        count += len(made)
        total += made.sum(axis=0)
        squares += (made**2).sum(axis=0)
        low, high = np.minimum(low, made.min(axis=0)), np.maximum(high, made.max(axis=0))
    mean = total / count
    return Scaling.between(low, high) if method == "minmax" else Scaling.about(mean, squares / count - mean**2)


def write_matrix(paths: Paths, inputs: StepInputs, variant: str, factors: Factors, *, scaling: str) -> int:
    """Scale the parts on the training rows and write `matrix_path/<task>/<variant>/`; returns in_features."""
    data = inputs.data
    train = data.split == TRAIN
    block = inputs.embedding.array("block")[train]
    users, item_part = factors.user_part, factors.item_part
    rows = rows_in_blocks(data.user[train], block, len(data.user_ids))
    blocks_of_items = len(item_part) > len(data.item_ids)
    item_rows = rows_in_blocks(data.item[train], block if blocks_of_items else 0 * block, len(data.item_ids))
    user_scaling = fit_scaling(users, np.bincount(rows, minlength=len(users)), scaling)
    item_scaling = fit_scaling(item_part, np.bincount(item_rows, minlength=len(item_part)), scaling)
    needed = 4 * (users.size + item_part.size + sum(table.user.size + table.item.size for table in factors.pairs))
    demand_space(paths.matrix, needed, f"the matrix {variant} of {inputs.task}")
    with ArtifactWriter(
        paths.matrix / inputs.task / variant,
        step=4,
        made_by=MADE_BY[variant_kind(variant)],
        settings={
            "task": inputs.task,
            "variant": variant,
            "scaling": scaling,
            "embedding_length": inputs.embedding.settings["length"],
            "split": data.artifact.settings["split"],
            "evidence": inputs.embedding.settings["evidence"],
            "folds": inputs.embedding.settings["folds"],
            **drawn(data.artifact.settings),
            **columns_made(variant),
        },
        inputs={
            "interactions": data.artifact.fingerprint,
            "modalities": inputs.modal.fingerprint,
            "user embedding": inputs.embedding.fingerprint,
        },
    ) as writer:
        writer.array("user_part", user_scaling.apply(users))
        writer.array("item_part", item_scaling.apply(item_part))
        for name, fitted in (("user", user_scaling), ("item", item_scaling)):
            writer.array(f"{name}_shift", fitted.shift)
            writer.array(f"{name}_scale", fitted.scale)
        in_features = users.shape[1] + item_part.shape[1]
        shifts, scales = [], []
        for table in factors.pairs:
            vectors, item_vectors = vectors_of(table)
            zero = torch.zeros(vectors.shape[1])
            pairs = Pairs(torch.from_numpy(vectors), torch.from_numpy(item_vectors), zero)
            fitted = fit_pair_scaling(pairs, rows, item_rows, scaling)
            writer.array(f"{table.kind}_user_vectors", (vectors / fitted.scale[:, None]).astype(np.float32))
            writer.array(f"{table.kind}_item_vectors", item_vectors)
            if table.of_content is not None:
                writer.array(f"{table.kind}_of_content", table.of_content)
            shifts.append(fitted.shift)
            scales.append(fitted.scale)
        if shifts:
            writer.array("pair_shift", np.concatenate(shifts))
            writer.array("pair_scale", np.concatenate(scales))
            in_features += len(np.concatenate(shifts))
        writer.manifest["item_columns"] = list(factors.item_names)
        writer.manifest["pairs"] = [table.kind for table in factors.pairs]
        writer.manifest["in_features"] = in_features
        writer.manifest["rows"] = {"user_part": len(users), "item_part": len(item_part), "rows": len(data)}
    return in_features


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
    pairs, first = [], 0
    for kind in artifact.manifest.get("pairs", ()):
        user_vectors, item_vectors = (artifact.array(f"{kind}_{of}_vectors") for of in ("user", "item"))
        columns = slice(first, first + user_vectors.shape[1])
        shift = artifact.array("pair_shift")[columns] / artifact.array("pair_scale")[columns]
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
    )
