"""Features plus: what the training rows say about user, item, context and pair, in factors.

The paper's user embedding describes the content of the videos that a user met. It does not contain how often a video
is acted on, nor any column of the log beside content. These columns add both, for every target of the data set (users
who finish videos also like them):

- effects of users, items, their categories and numbers, and of the context (effects.py);
- smoothed rates of users, items and item categories, of pairs of a user or an item with a context category, and of
  pairs of a user with an item category or a cluster of items by content (rates.py, content_clusters.py);
- the inner product of the user's and the item's content factors (content_factors.py);
- inner products from a residual SVD of the labels and of the exposures (residual_svd.py);
- the numbers of rows of the user and of the item, numbers of user and item as they are, and recency (inputs.py).

All columns made from labels are out of fold, block by block as the user embedding is. The tables of block f are made
without the rows of fold f, and those of the last block from all training rows. So no training row sees its own label.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from mma4ctr.data.interactions import LogRows
from mma4ctr.features.behavioral import histories
from mma4ctr.features.behavioral.blocks import Block, BlockInputs, make_block
from mma4ctr.features.behavioral.content_clusters import cluster_names, find_clusters
from mma4ctr.features.behavioral.content_factors import FACTORS_WIDTH
from mma4ctr.features.behavioral.effects import Side
from mma4ctr.features.behavioral.inputs import RECENCY, LogInputs
from mma4ctr.features.behavioral.rates import RowCodes, category_codes, pair_codes, rates_and_counts
from mma4ctr.features.behavioral.residual_svd import FACTORS
from mma4ctr.features.behavioral.signals import TrainingRows
from mma4ctr.features.behavioral.tables import Lookup, PairTable, PlusTables
from mma4ctr.features.reduction import PCA, Moments
from mma4ctr.runtime.parallel import InTurn, Workers, slices
from mma4ctr.storage.arrays import StoredArray
from mma4ctr.storage.artifacts import demand_space
from mma4ctr.storage.row_arrays import IN_MEMORY, RowArrays

# Raise it with every change of the columns: a matrix of another version is refused.
FEATURE_VERSION = 14
# Width that an item's content is reduced to before the content factors are fitted. On simulated TikTok data 64
# components explain 0.79 of the variance of the items' true factors, 16 explain 0.59 and all 103 columns 0.81.
CONTENT_WIDTH = 64
# Items whose content is in float64 at a time.
ITEMS_AT_A_TIME = 1 << 16
# A target with fewer positives, or fewer negatives, among the training rows is left out.
FEW_POSITIVES = 20
# Item categories with at least so many values get rates.
RATES_FROM = 32
# Pairs of a user and a category of the item get rates if the category has at least so many values.
PAIRS_FROM = 8
# Groups that are left out before the effects are fitted.
INPUT_GROUPS = ("user-columns", "item-columns", "context", "recency")


def item_content(modalities: Iterable[np.ndarray], fitted: int | None = None) -> np.ndarray:
    """The modalities on one scale, side by side, reduced by PCA.

    Each modality is divided by the standard deviation of its first principal component. The result has a mean square
    of 1 per column.

    Args:
        modalities: float32 (items, width) each.
        fitted: The first so many items determine scale and components; None for all items.

    Returns:
        float32 (items, at most CONTENT_WIDTH).
    """
    kept = list(modalities)
    moments = [Moments.of(values[:fitted]) for values in kept]
    scales = [np.sqrt(max(float(np.linalg.eigvalsh(one.covariance)[-1]), 1e-12)) for one in moments]

    def joined(part: slice) -> np.ndarray:
        parts = zip(kept, moments, scales, strict=True)
        return np.concatenate([(values[part] - one.mean) / scale for values, one, scale in parts], axis=1)

    items = len(kept[0])
    first = items if fitted is None else fitted
    of_all = Moments(sum(values.shape[1] for values in kept))
    for part in slices(first, ITEMS_AT_A_TIME):
        of_all.add(joined(part))
    pca = PCA.fit(of_all, CONTENT_WIDTH)
    content = np.empty((items, len(pca.components)), np.float32)
    squares = 0.0
    for part in slices(items, ITEMS_AT_A_TIME):
        content[part] = pca.transform(joined(part))
        squares += float(np.square(content[part][: max(first - part.start, 0)], dtype=np.float64).sum())
    content /= np.float32(np.sqrt(max(squares / max(content[:first].size, 1), 1e-12)))
    return content


def context_of_training(inputs: LogInputs) -> tuple[LogInputs, dict[str, np.ndarray]]:
    """The context of the training rows, without categories of which they have one value only.

    Their effects say nothing, but differ a little from block to block. Scaled by these small differences, the values of
    the last block, which validation and test rows use, would lie far from all that the network was trained on.

    Returns:
        The inputs without these categories, and by name uint16 or int32 (n,) codes of the training rows.
    """
    arrays, kept = inputs.rows.arrays, {}
    for name, codes in inputs.context.items():
        found = inputs.rows.of_training(codes)
        largest = arrays.largest(found)
        if any((found[part] != found[0]).any() for part in arrays.parts(len(found))):
            kept[name] = _narrow(found, largest, arrays)
    context = {name: inputs.context[name] for name in kept}
    return replace(inputs, context=context, paired=tuple(name for name in inputs.paired if name in kept)), kept


def row_codes(inputs: LogInputs) -> list[RowCodes]:
    """The codes by which rows look up columns.

    Args:
        inputs: The columns beside content of all kept rows.

    Returns:
        The codes of each context category, of its pairs with users and items, and of users with item categories.
    """
    log = inputs.rows
    found = [category_codes(name, codes, log.arrays) for name, codes in inputs.context.items()]
    pairs = [pair_codes(log, side, name, inputs.context[name]) for name in inputs.paired for side in ("user", "item")]
    for name in inputs.item.paired:
        if inputs.item.categories[name].max(initial=0) >= PAIRS_FROM:
            pairs.append(pair_codes(log, "user", name, inputs.item.categories[name], "item"))
    return found + [codes for codes in pairs if codes]


class _Columns:
    """The columns of all blocks, filled block after block."""

    def __init__(
        self,
        rows: TrainingRows,
        labels: Mapping[str, np.ndarray],
        modalities: Iterable[np.ndarray],
        inputs: LogInputs,
        folder: Path,
    ) -> None:
        inputs, context = context_of_training(inputs)
        self.rows, self.labels, self.inputs, self.folder = rows, labels, inputs, folder
        content = item_content(modalities)
        item = inputs.item.categories
        sides = Side(rows.users, inputs.user.categories), Side(rows.items, item, content)
        self.of_blocks = BlockInputs(rows, labels, context, sides, content)
        self.codes = row_codes(inputs)
        self.clusters = find_clusters(content, len(rows), rows.users)
        if self.clusters:
            of_items = self.clusters.of_item
            names = zip(cluster_names(len(of_items)), of_items, strict=True)
            found = [pair_codes(inputs.rows, "user", name, of_item, "content") for name, of_item in names]
            self.codes += [codes for codes in found if codes]
        self.rated = [name for name in inputs.item.rated if item[name].max(initial=0) >= RATES_FROM]
        blocks, columns = rows.folds + 1, 2 * len(labels)
        self.user_effects = np.empty((blocks, rows.users, columns), np.float32)
        self.item_effects = np.empty((blocks, rows.items, columns), np.float32)
        self.category_effects: dict[str, np.ndarray] = {}
        self.user_rates = self._rates(rows.user, rows.users)
        self.item_rates = self._rates(rows.item, rows.items)
        self.category_rates = [self._category_rates(item[name]) for name in self.rated]
        self.sizes = {codes.category: codes.size for codes in self.codes if not len(codes.keys)}
        self.context_effects: dict[str, list[np.ndarray]] = {name: [] for name in inputs.context}
        self.pairs = []
        if labels:
            width = min(FACTORS_WIDTH, content.shape[1])
            self.pairs.append(self._pair_table("content_factors", ["content-factors"], width))
            self.pairs.append(self._pair_table("label_svd", self.named("label-svd"), FACTORS))
        self.pairs.append(self._pair_table("exposure_svd", ["exposure-svd"], FACTORS))
        self.history_vectors = None
        if inputs.history:
            self.history_vectors = inputs.history.vectors(rows.users, content)
            width = self.history_vectors[1].shape[1]
            table = self._pair_table("history", list(histories.PAIR_NAMES), width)
            self.pairs.append(replace(table, of_content=inputs.history.of_content(content.shape[1])))
        demand_space(folder, 4 * sum(table.size for table in self.pairs), "the vectors of features plus")

    def keep(self, number: int, block: Block) -> None:
        """Fill the columns of one block."""
        targets = len(block.effects)
        user, item = self.user_effects[number], self.item_effects[number]
        for place, one in enumerate(block.effects):
            user[:, place], user[:, targets + place] = one.user.total, one.user.own
            item[:, place], item[:, targets + place] = one.item.total - one.item.content, one.item.content
        for name, tables in self.context_effects.items():
            size = self.sizes[name]
            of_targets = [_padded(effects.context[name], size) for effects in block.effects]
            tables.append(np.stack(of_targets, axis=1) if of_targets else np.zeros((size, 0)))
        vectors = block.vectors | ({"history": self.history_vectors} if self.history_vectors else {})
        for table in self.pairs:
            table.write_block(number, vectors[table.kind])
        if number == self.rows.folds:  # new items are scored by the last block
            self.pairs = [
                replace(table, of_content=block.of_content) if table.kind == "content_factors" else table
                for table in self.pairs
            ]
            self.category_effects = {
                name: np.stack([one.item.categories[name] for one in block.effects], axis=1).astype(np.float32)
                for name in (self.inputs.item.categories if targets else ())
            }

    def _pair_table(self, kind: str, names: list[str], width: int) -> PairTable:
        """A table without values yet, for vectors of at most `width` numbers."""
        rows, blocks = self.rows, self.rows.folds + 1
        shapes = (blocks, rows.users, len(names), width), (blocks, rows.items, width)
        user, item = (StoredArray.scratch(self.folder, shape, np.float32) for shape in shapes)
        return PairTable(kind, user, item, list(range(len(names))), names)

    def _rates(self, codes: np.ndarray, size: int) -> np.ndarray:
        """The rates and counts of the training rows' codes, see `rates_and_counts`."""
        rows = self.rows
        return rates_and_counts(codes, size, list(self.labels.values()), rows.fold, rows.folds, rows.arrays)

    def _category_rates(self, category: np.ndarray) -> np.ndarray:
        """The rates and counts of the items' categories (items,), looked up by item."""
        largest = int(category.max(initial=0))
        codes = _narrow(category, largest)
        of_rows = self.rows.arrays.empty((len(self.rows),), codes.dtype)
        for part in self.rows.parts():
            of_rows[part] = codes[self.rows.item[part]]
        return self._rates(of_rows, largest + 1)[:, category]

    def named(self, group: str) -> list[str]:
        """The names of a group with a column for each target."""
        return [f"{group}:{target}" for target in self.labels]

    def named_rates(self, group: str, name: str) -> list[str]:
        """The names of rates and their count."""
        return [*self.named(f"{group}:{name}"), f"counts:{name}"]

    def repeated(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (size, k), the same in all blocks."""
        return np.broadcast_to(numbers, (self.rows.folds + 1, *numbers.shape))

    def lookups(self) -> list[Lookup]:
        """The columns that rows look up."""
        found = []
        for one in self.codes:
            if len(one.keys):
                names = self.named_rates("pair-rates", one.name)
                make = partial(pair_rates, self.rows, self.inputs.rows, list(self.labels.values()), one)
            else:
                table = np.stack(self.context_effects[one.name]).astype(np.float32)
                names, make = self.named(f"context:{one.name}"), partial(np.take, table, axis=2)
            found.append(Lookup(one, make, list(range(len(names))), names))
        return found


def pair_rates(
    rows: TrainingRows, log: LogRows, labels: Sequence[np.ndarray], codes: RowCodes, places: list[int]
) -> np.ndarray:
    """Some columns of the rates and the counts of pairs.

    Args:
        rows: The training rows.
        log: All kept rows.
        labels: For each target, uint8 (n,) of 0 and 1.
        codes: The pairs.
        places: Of the columns: those of the targets, then the counts.

    Returns:
        float32 (blocks, codes, columns).
    """
    chosen = [labels[place] for place in places if place < len(labels)]
    of_training = log.of_training(codes.codes)
    table = rates_and_counts(of_training, codes.size, chosen, rows.fold, rows.folds, rows.arrays)
    return table if len(places) > len(chosen) else table[:, :, :-1]


@threadpool_limits.wrap(1, user_api="blas")  # see `make_block`
def plus_tables(
    rows: TrainingRows,
    labels: Mapping[str, np.ndarray],
    modalities: Iterable[np.ndarray],
    inputs: LogInputs,
    folder: Path,
    workers: Workers | None = None,
) -> PlusTables:
    """All columns of a data set.

    Args:
        rows: The training rows with their folds.
        labels: uint8 (n,) of 0 and 1, of the training rows for each target. Targets with few positives are left out.
        modalities: float32 (items, width) each.
        inputs: The columns beside content of all kept rows.
        folder: For the vectors of the pairs, in temporary files without a name.
        workers: Make the blocks; without them, one after the other on this machine.

    Returns:
        The tables of all blocks.
    """
    used = {}
    for name, label in labels.items():
        positives = sum(int(np.count_nonzero(label[part])) for part in rows.parts())
        if FEW_POSITIVES <= positives <= len(rows) - FEW_POSITIVES:
            used[name] = label
    columns = _Columns(rows, used, modalities, inputs, folder)
    make = partial(make_block, columns.of_blocks)
    for number, block in (workers or InTurn()).in_order(make, range(rows.folds + 1)):
        columns.keep(number, block.result())
        del block  # it has the vectors of all items, while the next one is made
    of_users = [columns.user_effects, columns.user_rates, columns.repeated(inputs.user.numbers)]
    of_items = [
        columns.item_effects,
        columns.item_rates,
        *columns.category_rates,
        columns.repeated(inputs.item.numbers),
    ]
    if inputs.history:
        trained = np.diff(rows.starts) > 0
        for parts, counts in zip((of_users, of_items), inputs.history.counts(trained, rows.items), strict=True):
            parts.append(columns.repeated(counts))
    return PlusTables(
        user_columns=np.concatenate(of_users, axis=2),
        item_columns=np.concatenate(of_items, axis=2),
        pairs=columns.pairs,
        lookups=columns.lookups(),
        recency=inputs.recency,
        user_names=[
            *columns.named("user-bias"),
            *columns.named("user-own-bias"),
            *columns.named_rates("rates", "user"),
            *inputs.user.number_names,
            *(histories.USER_NAMES if inputs.history else ()),
        ],
        item_names=[
            *columns.named("item-bias"),
            *columns.named("content-bias"),
            *columns.named_rates("rates", "item"),
            *(name for category in columns.rated for name in columns.named_rates("rates", f"item {category}")),
            *inputs.item.number_names,
            *(histories.ITEM_NAMES if inputs.history else ()),
        ],
        recency_names=list(RECENCY[: inputs.recency.shape[1]]),
        item_effects=columns.category_effects,
        clusters=columns.clusters,
    )


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    """Values with zeros for the codes that no row of the block has."""
    return np.pad(values, (0, size - len(values)))


def _narrow(codes: np.ndarray, largest: int, arrays: RowArrays = IN_MEMORY) -> np.ndarray:
    """Codes as uint16, or as int32 if they do not fit: the two types that the passes are compiled for."""
    made = arrays.empty((len(codes),), np.uint16 if largest < 1 << 16 else np.int32)
    for part in arrays.parts(len(codes)):
        made[part] = codes[part]
    return made
