"""Making the feature matrix: the parts of features paper and plus, scaled on the training rows and written.

Formulas are in features/reduction.py and features/behavioral/columns.py; features/feature_matrix.py reads the matrix.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from mma4ctr.data.interactions import TRAIN, LogRows
from mma4ctr.datasets import split_task
from mma4ctr.features.behavioral.columns import INPUT_GROUPS, plus_tables
from mma4ctr.features.behavioral.inputs import log_inputs
from mma4ctr.features.behavioral.rates import RowCodes
from mma4ctr.features.behavioral.row_passes import count_codes
from mma4ctr.features.behavioral.signals import TrainingRows
from mma4ctr.features.behavioral.tables import Lookup, PairTable, PlusTables
from mma4ctr.features.feature_matrix import (
    Pairs,
    StepInputs,
    check_table_rows,
    column_version,
    negatives_setting,
    rows_in_blocks,
)
from mma4ctr.features.scaling import ColumnSums, Scaling, fit_scaling
from mma4ctr.features.variants import GROUPS, HISTORY, matrix_command
from mma4ctr.runtime.console import unknown_name
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import Workers, slices
from mma4ctr.storage.artifacts import ArtifactWriter, demand_space
from mma4ctr.storage.paths import Paths

# Rows whose pair columns are made at a time while their scaling is fitted.
PAIRS_AT_A_TIME = 1 << 16
# With more items than this the item vectors are stored as float16: half the disk, and half the memory of step 5.
HALF_PRECISION_FROM = 1 << 18


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
    """The parts of a matrix before they are scaled.

    Attributes:
        user_part: float (blocks * users, width).
        item_part: float (items, width) or (blocks * items, width).
        plus: All tables of features plus; None for features paper.
    """

    user_part: np.ndarray
    item_part: np.ndarray
    plus: PlusTables | None = None


@dataclass
class PlusCache:
    """The tables of the last data set: its tasks share them, as only the choice of columns differs.

    Attributes:
        workers: Make the blocks of the tables; None for this machine.
        key: What the tables were made from.
        tables: The tables.
    """

    workers: Workers | None = None
    key: Any = None
    tables: PlusTables | None = None


def plus_factors(
    inputs: StepInputs, modalities: tuple[str, ...], folder: Path, without: str = "", cache: PlusCache | None = None
) -> Factors:
    """The `plus` columns of a task.

    Args:
        inputs: Steps 1 to 3 of the task.
        modalities: Names of those that are the items' content.
        folder: For temporary files.
        without: A group of columns that is left out.
        cache: Tables that another task of the data set may have made.

    Returns:
        The parts.

    Raises:
        UserError: If the user embedding saw more than the training rows, or for an unknown group, or if the disk of
            `folder` is too full.
    """
    data = inputs.data
    if inputs.embedding.settings["evidence"] != "train":
        raise UserError(f"{inputs.task}: features plus need a user embedding of --evidence train; run step 3 again")
    groups = (*GROUPS, HISTORY)
    if without and without not in groups:
        raise unknown_name("group of columns", without, groups)
    target = split_task(inputs.task)[1]
    cache = cache or PlusCache()
    left_out = without if without in INPUT_GROUPS else target if without == "other-targets" else ""
    key = (data.artifact.fingerprint, inputs.modal.fingerprint, modalities, inputs.embedding.hash_of("block"), left_out)
    if cache.key != key or cache.tables is None:
        cache.tables, cache.key = _all_tables(inputs, modalities, folder, without, cache.workers), key
    tables = cache.tables.of_task(target, without)
    user, item = (
        part.reshape(part.shape[0] * part.shape[1], part.shape[2])
        for part in (tables.user_columns, tables.item_columns)
    )
    return Factors(user, item, tables)


def _all_tables(
    inputs: StepInputs, modalities: tuple[str, ...], folder: Path, without: str, workers: Workers | None
) -> PlusTables:
    data = inputs.data
    rows = TrainingRows(
        user=data.of_training(data.user),
        item=data.of_training(data.item),
        fold=data.of_training(inputs.block),
        users=len(data.user_ids),
        items=len(data.item_ids),
        folds=int(inputs.embedding.settings["folds"]),
        arrays=data.arrays,
    )
    own = split_task(inputs.task)[1]
    targets = [name.removeprefix("label_") for name in data.artifact.array_names if name.startswith("label_")]
    wanted = targets if without != "other-targets" else [own]
    labels = {name: data.of_training(data.label(name)) for name in wanted}
    # A generator, so that the modalities are in memory only until the items' content is made from them.
    values = (inputs.modal.array(name) for name in modalities)
    return plus_tables(rows, labels, values, log_inputs(data, without), folder, workers)


@dataclass
class RowScaling:
    """Shifts and scales of the columns that follow the user part and the item part, in their order."""

    shifts: list[np.ndarray] = field(default_factory=list)
    scales: list[np.ndarray] = field(default_factory=list)

    def add(self, fitted: Scaling) -> None:
        """Append those of some columns."""
        self.shifts.append(np.atleast_1d(fitted.shift))
        self.scales.append(np.atleast_1d(fitted.scale))

    @property
    def width(self) -> int:
        """Number of columns."""
        return sum(map(len, self.shifts))


@dataclass(frozen=True)
class ScalingRows:
    """The training rows on which a matrix is scaled.

    Attributes:
        log: All kept rows.
        block: uint8 (rows,) of all kept rows, the block that each row uses.
    """

    log: LogRows
    block: np.ndarray

    def parts(self) -> Iterator[tuple[slice, np.ndarray, np.ndarray]]:
        """Parts of all kept rows, and of each the positions of its training rows and the blocks that they use."""
        for part in self.log.parts():
            train = np.flatnonzero(self.log.split[part] == TRAIN)
            yield part, train, self.block[part][train]

    def times(self, codes: np.ndarray, size: int, blocks: int) -> np.ndarray:
        """How many training rows use each row of a table.

        Args:
            codes: Integers (rows,) of all kept rows: the row of the table within a block.
            size: Rows of a block.
            blocks: Blocks of the table; with one block, every row uses it.

        Returns:
            int64 (blocks * size,).
        """
        check_table_rows(blocks, size, "users, items or codes")
        counted = np.zeros(blocks * size, np.int64)
        for part, train, block in self.parts():
            count_codes(rows_in_blocks(codes[part][train], block if blocks > 1 else 0 * block, size), counted)
        return counted

    def fit(self, values: np.ndarray, method: str) -> Scaling:
        """Fit the scaling of columns (rows, width) of all kept rows."""
        sums = ColumnSums(values.shape[1])
        for part, train, _ in self.parts():
            sums.add(values[part][train])
        return sums.scaling(method)


def _write_lookup(
    writer: ArtifactWriter, place: int, lookup: Lookup, train: ScalingRows, scaling: str
) -> tuple[dict[str, Any], Scaling]:
    """Write a table, its rows' codes and its keys; returns its entry in the manifest, and its scaling."""
    codes: RowCodes = lookup.codes
    table = lookup.table
    blocks = len(table)
    table = table.reshape(-1, table.shape[2])
    fitted = fit_scaling(table, train.times(codes.codes, codes.size, blocks), scaling)
    writer.array(f"lookup_table_{place}", fitted.apply(table))
    # torch has few operations on unsigned integers other than bytes.
    kind = np.uint8 if codes.size <= 256 else np.int16 if codes.size <= 1 << 15 else np.int32
    stream = writer.stream(f"lookup_codes_{place}", kind)
    for part in train.log.parts():
        stream.append(codes.codes[part])
    if len(codes.keys):
        writer.array(f"lookup_keys_{place}", codes.keys)
    entry = {name: getattr(codes, name) for name in ("category", "side", "of", "size", "categories")}
    return entry, fitted


def fit_pair_scaling(table: PairTable, train: ScalingRows, method: str) -> Scaling:
    """Fit the scaling of pair columns on the training rows, block by block.

    Args:
        table: The unscaled vectors.
        train: The training rows.
        method: `zscore` or `minmax`.

    Returns:
        The scaling.
    """
    columns, log = len(table.names), train.log
    sums = ColumnSums(columns)
    for number in range(table.blocks - 1):  # no training row uses the last
        vectors, item_vectors = map(torch.from_numpy, table.block(number))
        pairs = Pairs(vectors, item_vectors, torch.zeros(columns))
        for part, rows, block in train.parts():
            own = rows[block == number]
            for some in slices(len(own), PAIRS_AT_A_TIME):
                user, item = (torch.from_numpy(of[part][own[some]]) for of in (log.user, log.item))
                sums.add(pairs.columns(user, item).numpy())
    return sums.scaling(method)


def _write_pairs(writer: ArtifactWriter, table: PairTable, train: ScalingRows, scaling: str) -> Scaling:
    """Write the vectors of a pair table, block by block; returns its scaling."""
    fitted = fit_pair_scaling(table, train, scaling)
    kind: np.dtype = np.dtype(np.float32)
    factor = 1.0
    if table.item.shape[1] > HALF_PRECISION_FROM:
        # A power of two brings the values near 1, far from the smallest numbers of the type. It changes no product.
        kind = np.dtype(np.float16)
        square = float(np.mean(np.square(table.block(table.blocks - 1)[1]), dtype=np.float64))
        factor = 2.0 ** -round(math.log2(square or 1.0) / 2)
    users = writer.stream(f"{table.kind}_user_vectors", np.float32, (len(table.names), table.user.shape[3]))
    items = writer.stream(f"{table.kind}_item_vectors", kind, table.item.shape[2:])
    for block in range(table.blocks):
        vectors, item_vectors = table.block(block)
        users.append((vectors / (factor * fitted.scale[:, None])).astype(np.float32))
        items.append((item_vectors * np.float32(factor)).astype(kind))
    if table.of_content is not None:
        writer.array(f"{table.kind}_of_content", table.of_content * np.float32(factor))
    return fitted


def _write_plus(writer: ArtifactWriter, plus: PlusTables, train: ScalingRows, scaling: str) -> int:
    """Write what features plus have beside the user and the item part; returns the number of columns."""
    own = RowScaling()
    entries = []
    for place, lookup in enumerate(plus.lookups):
        entry, fitted = _write_lookup(writer, place, lookup, train, scaling)
        entries.append(entry)
        own.add(fitted)
    writer.manifest["lookups"] = entries
    if plus.recency.shape[1]:
        fitted = train.fit(plus.recency, scaling)
        stream = writer.stream("recency", np.float16, plus.recency.shape[1:])
        for part in train.log.parts():
            stream.append(fitted.apply(plus.recency[part]))
        own.add(fitted)
    for table in plus.pairs:
        own.add(_write_pairs(writer, table, train, scaling))
    writer.manifest["pairs"] = [table.kind for table in plus.pairs]
    for place, effects in enumerate(plus.item_effects.values()):
        writer.array(f"item_effects_{place}", effects)
    writer.manifest["item_effects"] = list(plus.item_effects)
    if plus.clusters:
        writer.array("cluster_centers", plus.clusters.centers)
        writer.array("cluster_of_item", plus.clusters.of_item)
    writer.manifest["item_columns"] = list(plus.item_names)
    writer.manifest["columns"] = plus.names
    if own.width:
        writer.array("row_shift", np.concatenate(own.shifts))
        writer.array("row_scale", np.concatenate(own.scales))
    return own.width


def write_matrix(paths: Paths, inputs: StepInputs, variant: str, factors: Factors, *, scaling: str) -> int:
    """Scale the parts on the training rows and write `matrix_path/<task>/<variant>/`; returns in_features."""
    data = inputs.data
    train = ScalingRows(data, inputs.block)
    users, item_part = factors.user_part, factors.item_part
    blocks = [len(part) // size for part, size in ((users, len(data.user_ids)), (item_part, len(data.item_ids)))]
    user_scaling = fit_scaling(users, train.times(data.user, len(data.user_ids), blocks[0]), scaling)
    item_scaling = fit_scaling(item_part, train.times(data.item, len(data.item_ids), blocks[1]), scaling)
    needed = users.size + item_part.size
    if factors.plus:
        needed += sum(table.size for table in factors.plus.pairs)
        needed += sum(
            lookup.codes.size * len(lookup.names) * factors.plus.blocks + len(data) for lookup in factors.plus.lookups
        )
    demand_space(paths.matrix, 4 * needed, f"the matrix {variant} of {inputs.task}")
    with ArtifactWriter(
        paths.matrix / inputs.task / variant,
        step=4,
        made_by=matrix_command(variant),
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
        if factors.plus:
            in_features += _write_plus(writer, factors.plus, train, scaling)
        writer.manifest["in_features"] = in_features
        writer.manifest["rows"] = {"user_part": len(users), "item_part": len(item_part), "rows": len(data)}
    return in_features
