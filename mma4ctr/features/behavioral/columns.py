"""Features plus: what the training rows say about user, item, context and pair, in factors.

The paper's user embedding describes the content of the videos that a user met. It does not contain how often a video
is acted on, nor any column of the log beside content. These columns add both, for every target of the data set (users
who finish videos also like them):

- effects of users, items, their categories and numbers, and of the context (effects.py);
- smoothed rates of users, items, item categories, and pairs of a user or an item with a context category (rates.py);
- the inner product of the user's and the item's content factors (content_factors.py);
- inner products from a residual SVD of the labels and of the exposures (residual_svd.py);
- the numbers of rows of the user and of the item, numbers of user and item as they are, and recency (inputs.py).

All columns made from labels are out of fold, block by block as the user embedding is. The tables of block f are made
without the rows of fold f, and those of the last block from all training rows. So no training row sees its own label.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from mma4ctr.features.behavioral.content_factors import ContentFactors
from mma4ctr.features.behavioral.effects import Effects, Side, fit_effects
from mma4ctr.features.behavioral.inputs import RECENCY, LogInputs
from mma4ctr.features.behavioral.rates import RowCodes, category_codes, pair_codes, rates_and_counts
from mma4ctr.features.behavioral.residual_svd import exposure_factors, label_factors
from mma4ctr.features.behavioral.signals import TrainingRows, signals_of
from mma4ctr.features.reduction import PCA, Moments
from mma4ctr.runtime.parallel import Threads
from mma4ctr.runtime.system import cores

# Raise it with every change of the columns: a matrix of another version is refused.
FEATURE_VERSION = 8
# Width that an item's content is reduced to before the content factors are fitted. On simulated TikTok data 64
# components explain 0.79 of the variance of the items' true factors, 16 explain 0.59 and all 103 columns 0.81.
CONTENT_WIDTH = 64
# A target with fewer positives among the training rows is left out.
FEW_POSITIVES = 20
# Groups whose columns are those of the task's own target only: with those of others no validation AUC was higher.
OWN_TARGET_ONLY = ("rates", "pair-rates", "user-own-bias")
# Item categories with at least so many values get rates.
RATES_FROM = 32
# Groups that are left out before the effects are fitted.
INPUT_GROUPS = ("user-columns", "item-columns", "context", "recency")


@dataclass(frozen=True)
class PairTable:
    """Vectors of users and items. Their inner products are columns of the pair.

    Attributes:
        kind: What the vectors are: `content_factors`, `label_svd` or `exposure_svd`.
        user: float32 (blocks, users, columns, k).
        item: float32 (blocks, items, k), or (1, items, k) for all blocks.
        names: Of the columns: `<group>` or `<group>:<target>`.
        of_content: float32 (content width + 1, k). The last block's vector of a new item is its content and a 1 times
            this matrix. None where content does not determine the vector.
    """

    kind: str
    user: np.ndarray
    item: np.ndarray
    names: list[str]
    of_content: np.ndarray | None = None


# The vectors of one block: float32 (users, columns, k) and (items, k).
Vectors = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Lookup:
    """Columns that a row looks up by its code.

    Attributes:
        codes: The codes of all kept rows.
        table: float32 (blocks, codes, columns).
        names: Of the columns: `<group>:<code name>:<target>`.
    """

    codes: RowCodes
    table: np.ndarray
    names: list[str]


@dataclass(frozen=True)
class PlusTables:
    """The columns in factors: one block for each fold and one for the rows that are not trained on.

    Attributes:
        user_columns: float32 (blocks, users, c).
        item_columns: float32 (blocks, items, d).
        pairs: The vectors that the columns of the pair are made from.
        lookups: The columns of context categories and of pairs with them.
        recency: float32 (rows, r) of all kept rows.
        user_names: What the user columns are: `<group>` or `<group>:<target>`.
        item_names: What the item columns are.
        recency_names: What the recency columns are.
        item_effects: By item category, float32 (codes, targets): the effects of the last block, for new items.
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

    def chosen(self, wanted: Iterable[str]) -> "PlusTables":
        """The same tables with some of their columns only, given the names of those that stay."""
        names = set(wanted)

        def kept(given: Sequence[str]) -> list[int]:
            return [place for place, name in enumerate(given) if name in names]

        user, item, recency = kept(self.user_names), kept(self.item_names), kept(self.recency_names)
        pairs, lookups = [], []
        for table in self.pairs:
            if places := kept(table.names):
                pairs.append(
                    replace(table, user=table.user[:, :, places], names=[table.names[place] for place in places])
                )
        for lookup in self.lookups:
            if places := kept(lookup.names):
                found = [lookup.names[place] for place in places]
                lookups.append(replace(lookup, table=lookup.table[:, :, places], names=found))
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
    parts = []
    for values in modalities:
        moments = Moments.of(values[:fitted])
        largest = np.sqrt(max(float(np.linalg.eigvalsh(moments.covariance)[-1]), 1e-12))
        parts.append((values - moments.mean) / largest)
    joined = np.concatenate(parts, axis=1)
    content = PCA.fit(Moments.of(joined[:fitted]), min(CONTENT_WIDTH, joined.shape[1])).transform(joined)
    scaled: np.ndarray = content / np.sqrt(max(float(np.mean(np.square(content[:fitted], dtype=np.float64))), 1e-12))
    return scaled.astype(np.float32)


def joined_blocks(kind: str, blocks: list[Vectors], names: list[str]) -> PairTable:
    """One table of the vectors of all blocks; shorter vectors are padded with zeros.

    It empties `blocks` one by one, because the vectors of millions of items should not be in memory twice.
    """
    width = max(item.shape[1] for _, item in blocks)
    user, item = (np.zeros((len(blocks), *part.shape[:-1], width), np.float32) for part in blocks[0])
    for place in reversed(range(len(blocks))):
        of_user, of_item = blocks.pop()
        user[place, ..., : of_user.shape[-1]] = of_user
        item[place, ..., : of_item.shape[-1]] = of_item
    return PairTable(kind, user, item, names)


def without_constant_context(inputs: LogInputs, train: np.ndarray) -> LogInputs:
    """The inputs without context categories of which the training rows (n,) have one value only.

    Their effects say nothing, but differ a little from block to block. Scaled by these small differences, the values of
    the last block, which validation and test rows use, would lie far from all that the network was trained on.
    """
    kept = {name: codes for name, codes in inputs.context.items() if len(train) and np.ptp(codes[train]) > 0}
    return replace(inputs, context=kept, paired=tuple(name for name in inputs.paired if name in kept))


def row_codes(rows: TrainingRows, inputs: LogInputs, user: np.ndarray, item: np.ndarray) -> list[RowCodes]:
    """The codes by which rows look up columns: of each context category, and of its pairs with users and items."""
    found = [category_codes(name, codes) for name, codes in inputs.context.items()]
    for name in inputs.paired:
        category = inputs.context[name]
        found += [pair_codes("user", name, user, category), pair_codes("item", name, item, category)]
    return found


class _Blocks:
    """The tables of all blocks, while they are made one after the other."""

    def __init__(
        self,
        rows: TrainingRows,
        labels: Mapping[str, np.ndarray],
        modalities: Iterable[np.ndarray],
        inputs: LogInputs,
    ) -> None:
        inputs = without_constant_context(inputs, rows.place)
        self.rows, self.labels, self.inputs = rows, labels, inputs
        self.content = item_content(modalities)
        item = inputs.item.categories
        self.sides = Side(rows.users, inputs.user.categories), Side(rows.items, item, self.content)
        self.context = {name: _narrow(codes[rows.place]) for name, codes in inputs.context.items()}
        self.codes = row_codes(rows, inputs, rows.all_users, rows.all_items)
        self.rated = [name for name in inputs.item.rated if item[name].max(initial=0) >= RATES_FROM]
        self.effects: dict[str, list[Effects]] = {target: [] for target in labels}
        self.user_rates = self._rates(rows.user, rows.users)
        self.item_rates = self._rates(rows.item, rows.items)
        self.category_rates = [self._category_rates(item[name]) for name in self.rated]
        self.context_effects: dict[str, list[np.ndarray]] = {name: [] for name in inputs.context}
        self.content_vectors: list[Vectors] = []
        self.label_vectors: list[Vectors] = []
        self.exposure_vectors: list[Vectors] = []

    def make(self, block: int) -> np.ndarray:
        """Make the tables of one block; returns how content determines its vectors, see `PairTable.of_content`."""
        rows, included = self.rows, self.rows.included(block)
        found = dict(zip(self.labels, self._effects(included), strict=True))
        for target, effects in found.items():
            self.effects[target].append(effects)
        for name, tables in self.context_effects.items():
            size = int(self.inputs.context[name].max(initial=0)) + 1
            of_targets = [_padded(effects.context[name], size) for effects in found.values()]
            tables.append(np.stack(of_targets, axis=1) if of_targets else np.zeros((size, 0)))
        signals = signals_of(rows, block, self.context, [(self.labels[target], one) for target, one in found.items()])
        if not found:
            self.exposure_vectors.append(exposure_factors(signals))
            return np.zeros((0, 0))
        with ThreadPoolExecutor(cores()) as pool:
            exposure = pool.submit(exposure_factors, signals)
            labels = pool.submit(label_factors, signals)
            fitted = pool.submit(ContentFactors, signals, self.content).result()
        self.exposure_vectors.append(exposure.result())
        self.content_vectors.append((fitted.user[:, None], fitted.item))
        self.label_vectors.append(labels.result())
        return fitted.directions.of_content

    def _effects(self, included: np.ndarray) -> list[Effects]:
        """The additive models of all targets, given bool (n,) rows that count; targets are fitted in parallel."""

        def fit(label: np.ndarray) -> Effects:
            return fit_effects((self.rows.user, self.rows.item), self.context, label, included, self.sides)

        return [done.result() for _, done in Threads().in_order(fit, self.labels.values())]

    def _rates(self, codes: np.ndarray, size: int) -> np.ndarray:
        """The rates and counts of the training rows' codes, see `rates_and_counts`."""
        return rates_and_counts(codes, size, list(self.labels.values()), self.rows.fold, self.rows.folds)

    def _category_rates(self, category: np.ndarray) -> np.ndarray:
        """The rates and counts of the items' categories (items,), looked up by item."""
        codes = _narrow(category)
        return self._rates(codes[self.rows.item], int(category.max(initial=0)) + 1)[:, category]

    def named(self, group: str) -> list[str]:
        """The names of a group with a column for each target."""
        return [f"{group}:{target}" for target in self.labels]

    def named_rates(self, group: str, name: str) -> list[str]:
        """The names of rates and their count."""
        return [*self.named(f"{group}:{name}"), f"counts:{name}"]

    def stacked(self, part: Callable[[Effects], np.ndarray]) -> list[np.ndarray]:
        """A column float32 (blocks, size, 1) of each target's effects."""
        return [np.stack(list(map(part, found)))[:, :, None].astype(np.float32) for found in self.effects.values()]

    def item_effects(self) -> dict[str, np.ndarray]:
        """The effects of the item categories, see `PlusTables`."""
        last = [found[-1].item.categories for found in self.effects.values()]
        names = self.inputs.item.categories if last else ()
        return {name: np.stack([one[name] for one in last], axis=1).astype(np.float32) for name in names}

    def repeated(self, numbers: np.ndarray) -> np.ndarray:
        """Numbers (size, k), the same in all blocks."""
        return np.broadcast_to(numbers, (self.rows.folds + 1, *numbers.shape))

    def lookups(self) -> list[Lookup]:
        """The columns that rows look up."""
        found = []
        for one in self.codes:
            if len(one.keys):
                table = self._rates(one.codes[self.rows.place], one.size)
                found.append(Lookup(one, table, self.named_rates("pair-rates", one.name)))
            else:
                table = np.stack(self.context_effects[one.name]).astype(np.float32)
                found.append(Lookup(one, table, self.named(f"context:{one.name}")))
        return found


# With the many small matrices here, two BLAS threads took over three times the processor time of one, and longer.
@threadpool_limits.wrap(1, user_api="blas")
def plus_tables(
    rows: TrainingRows, labels: Mapping[str, np.ndarray], modalities: Iterable[np.ndarray], inputs: LogInputs
) -> PlusTables:
    """All columns of a data set.

    Args:
        rows: The training rows with their folds.
        labels: uint8 (n,) of 0 and 1, of the training rows for each target. Targets with few positives are left out.
        modalities: float32 (items, width) each.
        inputs: The columns beside content of all kept rows.

    Returns:
        The tables of all blocks.
    """
    used = {name: label for name, label in labels.items() if FEW_POSITIVES <= label.sum() <= len(label) - FEW_POSITIVES}
    blocks = _Blocks(rows, used, modalities, inputs)
    for block in range(rows.folds + 1):
        of_content = blocks.make(block)  # new items are scored by the last block
    pairs = []
    if used:
        table = joined_blocks("content_factors", blocks.content_vectors, ["content-factors"])
        pairs.append(replace(table, of_content=of_content))
        pairs.append(joined_blocks("label_svd", blocks.label_vectors, blocks.named("label-svd")))
    pairs.append(joined_blocks("exposure_svd", blocks.exposure_vectors, ["exposure-svd"]))
    user_columns = [
        *blocks.stacked(lambda one: one.user.total),
        *blocks.stacked(lambda one: one.user.own),
        blocks.user_rates,
        blocks.repeated(inputs.user.numbers),
    ]
    item_columns = [
        *blocks.stacked(lambda one: one.item.total - one.item.content),
        *blocks.stacked(lambda one: one.item.content),
        blocks.item_rates,
        *blocks.category_rates,
        blocks.repeated(inputs.item.numbers),
    ]
    return PlusTables(
        user_columns=np.concatenate(user_columns, axis=2),
        item_columns=np.concatenate(item_columns, axis=2),
        pairs=pairs,
        lookups=blocks.lookups(),
        recency=inputs.recency,
        user_names=[
            *blocks.named("user-bias"),
            *blocks.named("user-own-bias"),
            *blocks.named_rates("rates", "user"),
            *inputs.user.number_names,
        ],
        item_names=[
            *blocks.named("item-bias"),
            *blocks.named("content-bias"),
            *blocks.named_rates("rates", "item"),
            *(name for category in blocks.rated for name in blocks.named_rates("rates", f"item {category}")),
            *inputs.item.number_names,
        ],
        recency_names=list(RECENCY[: inputs.recency.shape[1]]),
        item_effects=blocks.item_effects(),
    )


def _padded(values: np.ndarray, size: int) -> np.ndarray:
    """Values with zeros for the codes that no row of the block has."""
    return np.pad(values, (0, size - len(values)))


def _narrow(codes: np.ndarray) -> np.ndarray:
    """Codes as uint16, or as int32 if they do not fit: the two types that the passes are compiled for."""
    return codes.astype(np.uint16 if codes.max(initial=0) < 1 << 16 else np.int32)
