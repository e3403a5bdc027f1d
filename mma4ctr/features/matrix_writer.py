"""Compute, scale and write the feature matrix of one task and variant (see feature_matrix.py)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mma4ctr.data.interactions import TRAIN
from mma4ctr.datasets import split_task
from mma4ctr.features.behavioral.biases import TrainingRows
from mma4ctr.features.behavioral.columns import GROUPS, PairTable, plus_tables
from mma4ctr.features.feature_matrix import Pairs, StepInputs, column_version, negatives_setting, rows_in_blocks
from mma4ctr.features.scaling import Scaling, fit_scaling
from mma4ctr.features.variants import MADE_BY, variant_kind
from mma4ctr.runtime.console import unknown_name
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import ArtifactWriter, demand_space
from mma4ctr.storage.paths import Paths

# Rows whose pair columns are computed at a time while their scaling is fitted.
PAIRS_AT_A_TIME = 1 << 16


def user_part(inputs: StepInputs, modalities: tuple[str, ...]) -> np.ndarray:
    """Concatenate the user embeddings of the modalities; with embedding length 0, use the user's index instead.

    Args:
        inputs: The outputs of steps 1 to 3.
        modalities: The modalities of the variant.

    Returns:
        float32 (blocks * users, width).
    """
    users = len(inputs.data.user_ids)
    if not inputs.embedding.settings["length"]:
        index = np.arange(users, dtype=np.float32)[:, None]
        return np.tile(index, (inputs.embedding.manifest["blocks"], 1))
    tables = [inputs.embedding.array(name).reshape(-1, inputs.embedding.settings["length"] + 1) for name in modalities]
    return np.concatenate(tables, axis=1)


@dataclass(frozen=True)
class Factors:
    """The unscaled factors of a matrix.

    Attributes:
        user_part: float (blocks * users, width).
        item_part: float (items or blocks * items, width).
        pairs: The vectors of the columns of pairs.
        item_names: Names of the item columns of features plus.
    """

    user_part: np.ndarray
    item_part: np.ndarray
    pairs: Sequence[PairTable] = ()
    item_names: Sequence[str] = ()


def plus_factors(inputs: StepInputs, modalities: tuple[str, ...], without: str = "") -> Factors:
    """Compute features plus.

    Args:
        inputs: The outputs of steps 1 to 3.
        modalities: The modalities of the items' content.
        without: A group of columns to leave out; empty for none.

    Returns:
        The factors.

    Raises:
        UserError: The user embedding used more than the training rows, or the group is unknown.
    """
    data = inputs.data
    if inputs.embedding.settings["evidence"] != "train":
        raise UserError(
            f"{inputs.task}: features plus need a user embedding with --evidence train; run get_user_embedding.py again"
        )
    if without and without not in GROUPS:
        raise unknown_name("group of columns", without, GROUPS)
    train = np.flatnonzero(data.split == TRAIN)
    rows = TrainingRows(
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
    tables = plus_tables(rows, labels, [inputs.modal.array(name) for name in modalities])
    if without:
        tables = tables.without(without)
    user, item = (table.reshape(-1, table.shape[2]) for table in (tables.user_columns, tables.item_columns))
    return Factors(user, item, tables.pairs, tables.item_names)


def vectors_of(table: PairTable) -> tuple[np.ndarray, np.ndarray]:
    """Stack the blocks of a table's vectors, in the shapes of `Pairs`."""
    user, item = table.user, table.item
    return user.reshape(-1, *user.shape[2:]), item.reshape(-1, item.shape[2])


def fit_pair_scaling(pairs: Pairs, user_row: np.ndarray, item_row: np.ndarray, method: str) -> Scaling:
    """Fit the scaling of pair columns on the training rows, computed in chunks.

    Args:
        pairs: The unscaled columns.
        user_row: int64 (rows,), table rows of the users of the training rows.
        item_row: int64 (rows,), table rows of their items.
        method: `zscore` or `minmax`.

    Returns:
        The scaling.
    """
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
    return Scaling.between(low, high) if method == "minmax" else Scaling.standard(mean, squares / count - mean**2)


def write_pairs(
    writer: ArtifactWriter, tables: Sequence[PairTable], user_row: np.ndarray, item_row: np.ndarray, scaling: str
) -> int:
    """Scale the pair columns on the training rows and write their vectors.

    Args:
        writer: The matrix under construction.
        tables: The unscaled vectors.
        user_row: int64 (rows,), table rows of the users of the training rows.
        item_row: int64 (rows,), table rows of their items.
        scaling: `zscore` or `minmax`.

    Returns:
        Number of pair columns.
    """
    fits = []
    for table in tables:
        user_vectors, item_vectors = vectors_of(table)
        zero = torch.zeros(user_vectors.shape[1])
        pairs = Pairs(torch.from_numpy(user_vectors), torch.from_numpy(item_vectors), zero)
        fitted = fit_pair_scaling(pairs, user_row, item_row, scaling)
        writer.array(f"{table.kind}_user_vectors", (user_vectors / fitted.scale[:, None]).astype(np.float32))
        writer.array(f"{table.kind}_item_vectors", item_vectors)
        if table.of_content is not None:
            writer.array(f"{table.kind}_of_content", table.of_content)
        fits.append(fitted)
    if not fits:
        return 0
    shift = np.concatenate([fitted.shift for fitted in fits])
    writer.array("pair_shift", shift)
    writer.array("pair_scale", np.concatenate([fitted.scale for fitted in fits]))
    return len(shift)


def write_matrix(paths: Paths, inputs: StepInputs, variant: str, factors: Factors, *, scaling: str) -> int:
    """Scale the factors on the training rows and write `matrix_path/<task>/<variant>/`.

    Args:
        paths: Where to write.
        inputs: The outputs of steps 1 to 3.
        variant: Name of the matrix.
        factors: The unscaled factors.
        scaling: `zscore` or `minmax`.

    Returns:
        Number of features.
    """
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
            **negatives_setting(data.artifact.settings),
            **column_version(variant),
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
        in_features += write_pairs(writer, factors.pairs, rows, item_rows, scaling)
        writer.manifest["item_columns"] = list(factors.item_names)
        writer.manifest["pairs"] = [table.kind for table in factors.pairs]
        writer.manifest["in_features"] = in_features
        writer.manifest["rows"] = {"user_part": len(users), "item_part": len(item_part), "rows": len(data)}
    return in_features
