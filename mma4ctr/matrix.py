"""The feature matrix of one task and variant, in factors.

Every feature belongs to the user or to the item, so a row is `[user_part[user], item_part[item]]`. Only the two
parts are kept; rows are put together when a batch is made (`FactorMatrix.gather`). The N x width matrix is never
written or held.

The user part has one block per fold of the user embedding: `user_row = block * users + user` picks the view of
the user that the row may see.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from mma4ctr.artifacts import Artifact, ArtifactWriter, check_made_from, demand_space, read_artifact
from mma4ctr.console import UserError
from mma4ctr.datasets import split_task
from mma4ctr.interactions import TEST, TRAIN, VALID, Interactions, load_interactions
from mma4ctr.paths import Paths

SCALINGS = ("zscore", "minmax")
MADE_BY = {"single": "gen_matrix.py", "concat": "cross_matrix.py", "cross": "cross_matrix.py"}


@dataclass(frozen=True)
class RowGroup:
    """The rows of one part of the split: int64 tensors of table rows, float32 labels, all (rows,).

    `rows` are the positions of these rows among the kept interactions (int64 array).
    """

    rows: np.ndarray
    user_row: torch.Tensor
    item: torch.Tensor
    label: torch.Tensor

    def __len__(self) -> int:
        return len(self.rows)


def variant_kind(variant: str) -> str:
    """`single`, `concat` or `cross`."""
    return variant.rpartition("_")[2] if "_" in variant else "single"


@dataclass(frozen=True)
class FactorMatrix:
    """Features in factors, scaled, on one device.

    Attributes:
        user_part: float32 (blocks * users, user width). item_part: float32 (items, item width).
        train, valid, test: the rows of the split.
        settings: task, variant, embedding_length; and of the protocol: split, evidence, folds, scaling.
        fingerprint: of the artifact on disk.
    """

    user_part: torch.Tensor
    item_part: torch.Tensor
    train: RowGroup
    valid: RowGroup
    test: RowGroup
    settings: dict[str, Any]
    fingerprint: str

    @property
    def protocol(self) -> dict[str, Any]:
        """Split, evidence, folds and scaling; without the loss, which belongs to training."""
        return {key: self.settings[key] for key in ("split", "evidence", "folds", "scaling")}

    @property
    def in_features(self) -> int:
        return self.user_part.shape[1] + self.item_part.shape[1]

    def gather(self, user_row: torch.Tensor, item: torch.Tensor, out: torch.Tensor | None = None) -> torch.Tensor:
        """float32 (batch, in_features): the feature rows of a batch, given its table rows. The hot loop.

        They are written into the first rows of `out`, where it is given: fresh memory for every batch of 8192 rows
        took a tenth of the time of a training step.
        """
        rows = self.user_part.new_empty(len(item), self.in_features) if out is None else out[: len(item)]
        width = self.user_part.shape[1]
        # Each part into its own columns: two parts that are put side by side afterwards took a third longer.
        torch.index_select(self.user_part, 0, user_row, out=rows[:, :width])
        torch.index_select(self.item_part, 0, item, out=rows[:, width:])
        return rows


@dataclass(frozen=True)
class Scaling:
    """A column's `shift` is subtracted, then it is divided by its `scale`: float64 (width,) each."""

    shift: np.ndarray
    scale: np.ndarray

    def apply(self, part: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = ((part - self.shift) / self.scale).astype(np.float32)
        return scaled


def fit_scaling(part: np.ndarray, times: np.ndarray, method: str) -> Scaling:
    """Fit on training rows without making them: table row i stands for `times[i]` of them.

    Args:
        part: float (table rows, width).
        times: int64 (table rows,), training rows that use each table row.
        method: `zscore`, or `minmax` as published.

    A column that is constant on the training rows is only shifted.
    """
    used = times > 0
    if method == "minmax":
        low, high = part[used].min(axis=0).astype(np.float64), part[used].max(axis=0).astype(np.float64)
        spread = high - low
        return Scaling(low, np.where(spread > 0, spread, 1.0))
    values, weights = part[used].astype(np.float64), times[used] / times.sum()
    mean = weights @ values
    variance = weights @ (values - mean) ** 2
    # Rounding leaves a constant column a variance of about its square times 1e-16, not zero.
    constant = variance <= 1e-12 * np.maximum(mean**2, 1e-12)
    return Scaling(mean, np.where(constant, 1.0, np.sqrt(variance)))


def user_rows(user: np.ndarray, block: np.ndarray, users: int) -> np.ndarray:
    """int64 (rows,): the row of the user part that each interaction sees."""
    rows: np.ndarray = block.astype(np.int64) * users + user
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
    modal = read_artifact(paths.modal / dataset, "preprocess_multimodal.py")
    embedding = read_artifact(paths.user_embedding / task, "get_user_embedding.py")
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


def write_matrix(
    paths: Paths, inputs: StepInputs, variant: str, modalities: tuple[str, ...], item_part: np.ndarray, *, scaling: str
) -> int:
    """Scale the two parts on the training rows and write `matrix_path/<task>/<variant>/`; returns in_features.

    Args:
        modalities: whose user embeddings the user part holds.
        item_part: float (items, width), not yet scaled.
    """
    data = inputs.data
    train = data.split == TRAIN
    block = inputs.embedding.array("block")
    users = user_part(inputs, modalities)
    rows = user_rows(data.user, block, len(data.user_ids))[train]
    user_scaling = fit_scaling(users, np.bincount(rows, minlength=len(users)), scaling)
    item_scaling = fit_scaling(item_part, np.bincount(data.item[train], minlength=len(item_part)), scaling)
    needed = 4 * (users.size + item_part.size)
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
        writer.manifest["in_features"] = in_features
        writer.manifest["rows"] = {"user_part": len(users), "item_part": len(item_part), "rows": len(data)}
    return in_features


def load_matrix(paths: Paths, task: str, variant: str, device: torch.device) -> FactorMatrix:
    """Read a feature matrix and the rows of the split onto a device.

    Raises `UserError` where it is missing, was made from something else, or a part of the split has one class only.
    """
    _, target = split_task(task)
    artifact = read_artifact(paths.matrix / task / variant, MADE_BY[variant_kind(variant)])
    inputs = load_step_inputs(paths, task)
    data = inputs.data
    check_made_from(
        artifact, **{"interactions": data.artifact, "modalities": inputs.modal, "user embedding": inputs.embedding}
    )
    label = data.label(target)
    user_row = user_rows(data.user, inputs.embedding.array("block"), len(data.user_ids))

    def group(part: int, name: str) -> RowGroup:
        rows = np.flatnonzero(data.split == part)
        labels = label[rows]
        if labels.min() == labels.max() and part != TEST:
            raise UserError(f"{task}: every {name} row has label {labels[0]}; it takes both to train")
        return RowGroup(
            rows,
            torch.from_numpy(user_row[rows]).to(device),
            torch.from_numpy(data.item[rows].astype(np.int64)).to(device),
            torch.from_numpy(labels.astype(np.float32)).to(device),
        )

    return FactorMatrix(
        user_part=torch.from_numpy(artifact.array("user_part")).to(device),
        item_part=torch.from_numpy(artifact.array("item_part")).to(device),
        train=group(TRAIN, "training"),
        valid=group(VALID, "validation"),
        test=group(TEST, "test"),
        settings=artifact.settings,
        fingerprint=artifact.fingerprint,
    )
