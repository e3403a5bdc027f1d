"""The feature set `plus`: what the training rows say of a user, of an item and of the pair, in factors.

The paper's user embedding sees the content of the videos a user met and nothing of how often a video itself is acted
on. These columns add it, for each target of the data set (who finishes videos also likes them):

- how often users act, items are acted on, and items of such content are (rates.py);
- how well the item suits the user's taste, found from what users acted on and what they were shown (tastes.py);
- what users who acted alike, and who were shown alike, say of the item (alike.py);
- how many rows there are of user and item.

Everything is out of fold, block by block as the user embedding is: the tables of block f are made without the rows of
fold f, those of the last block with all training rows. So no training row sees its own label, nor itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from mma4ctr.data.interactions import sums_of_others
from mma4ctr.features.behavioral.biases import Evidence, Rates, fit_rates, signals_of
from mma4ctr.features.behavioral.content_factors import Factorization
from mma4ctr.features.behavioral.residual_svd import acted_alike, shown_alike
from mma4ctr.features.reduction import PCA, Moments

# To be raised with every change of the columns: a matrix of others is refused.
COLUMNS = 3
# Numbers that an item's content is reduced to, before the directions in which users differ are found in them. Of the
# simulated items' true tastes 64 explain 0.79 of the variance on TikTok, 16 explain 0.59, all 103 columns 0.81.
CONTENT_WIDTH = 64
# A target with fewer positives in the training rows says too little.
FEW_POSITIVES = 20
# Groups of columns, as the study `plus` takes them away; `other-targets` are those of every target but the task's.
GROUPS = ("user-rate", "item-rate", "content", "taste", "alike", "shown-alike", "counts", "other-targets")


@dataclass(frozen=True)
class PairTable:
    """Vectors of users and items, whose inner products are columns of a pair.

    Attributes:
        kind: what the vectors are made of: `taste`, `labels` or `exposure`.
        user: float32 (blocks, users, columns, k). item: float32 (blocks, items, k), or (1, items, k) for all blocks.
        names: of the columns: `<group>` or `<group>:<target>`.
        of_content: float32 (content's width + 1, k): what makes the last block's vector of a new item from its content
            and a 1; None where content does not tell.
    """

    kind: str
    user: np.ndarray
    item: np.ndarray
    names: list[str]
    of_content: np.ndarray | None = None


# What a block says: float32 vectors of users (users, columns, k) and of items (items, k).
Vectors = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class PlusTables:
    """The columns in factors; a block for each fold and one for the rows that are not trained on.

    Attributes:
        user_columns: float32 (blocks, users, c). item_columns: float32 (blocks, items, d).
        pairs: what the columns of a pair are made from.
        user_names, item_names: what the columns are: `<group>` or `<group>:<target>`.
    """

    user_columns: np.ndarray
    item_columns: np.ndarray
    pairs: list[PairTable]
    user_names: list[str]
    item_names: list[str]

    def without(self, group: str) -> "PlusTables":
        """The same without the columns of a group."""

        def kept(names: Sequence[str]) -> list[int]:
            return [place for place, name in enumerate(names) if name.partition(":")[0] != group]

        user, item = kept(self.user_names), kept(self.item_names)
        pairs = []
        for table in self.pairs:
            if left := kept(table.names):
                names = [table.names[place] for place in left]
                pairs.append(replace(table, user=table.user[:, :, left], names=names))
        return PlusTables(
            self.user_columns[:, :, user],
            self.item_columns[:, :, item],
            pairs,
            [self.user_names[place] for place in user],
            [self.item_names[place] for place in item],
        )


def item_content(modalities: Sequence[np.ndarray], fitted: int | None = None) -> np.ndarray:
    """float32 (items, at most CONTENT_WIDTH): the modalities, each float32 (items, width), on one scale and PCA'd.

    Each is divided by the spread of its first component; the result has a mean square of 1 a column. The first `fitted`
    items (all where None) say how.
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


def log_counts(index: np.ndarray, evidence: Evidence, size: int) -> np.ndarray:
    """log(1 + rows) of each user or item: float32 (blocks, size, 1). Counts of a block without a fold are scaled up to
    those of all folds, as the last block has them."""
    counts = np.bincount(evidence.fold * size + index, minlength=evidence.folds * size).reshape(evidence.folds, size)
    rows = sums_of_others(counts).astype(np.float64)
    rows[:-1] *= evidence.folds / (evidence.folds - 1)
    return np.log1p(rows)[:, :, None].astype(np.float32)


def blocks_side_by_side(kind: str, blocks: Sequence[Vectors], names: list[str]) -> PairTable:
    """A table of the vectors of all blocks; where a block gives fewer than others, the rest is 0."""
    width = max(item.shape[1] for _, item in blocks)

    def wide(vectors: np.ndarray) -> np.ndarray:
        missing = width - vectors.shape[-1]
        return np.pad(vectors, [*[(0, 0)] * (vectors.ndim - 1), (0, missing)]) if missing else vectors

    user, item = (np.stack([wide(part) for part in parts]) for parts in zip(*blocks, strict=True))
    return PairTable(kind, user, item, names)


# Of the many small matrices here, two threads took more than three times the processor time of one, and longer.
@threadpool_limits.wrap(1, user_api="blas")
def plus_tables(evidence: Evidence, labels: Mapping[str, np.ndarray], modalities: Sequence[np.ndarray]) -> PlusTables:
    """All columns of a task.

    Args:
        labels: 0/1 (rows,) of the evidence rows for each target; those with few positives are left out.
        modalities: float32 (items, width) each.
    """
    content = item_content(modalities)
    told = {name: label for name, label in labels.items() if FEW_POSITIVES <= label.sum() <= len(label) - FEW_POSITIVES}
    rates: dict[str, list[Rates]] = {target: [] for target in told}
    tastes: list[Vectors] = []
    acted: list[Vectors] = []
    shown: list[Vectors] = []
    for block in range(evidence.folds + 1):
        seen = evidence.without(block)
        user, item = evidence.user[seen], evidence.item[seen]
        for target, label in told.items():
            rates[target].append(fit_rates(user, item, label[seen], content, evidence.users))
        signals = signals_of(evidence, block, told, rates)
        if told:
            made = Factorization(signals, content)
            tastes.append((made.user[:, None], made.item))
            acted.append(acted_alike(signals))
        shown.append(shown_alike(signals))

    def table(part: str) -> list[np.ndarray]:
        return [
            np.stack([getattr(one, part) for one in rates[target]])[:, :, None].astype(np.float32) for target in told
        ]

    pairs = []
    if told:
        taste = blocks_side_by_side("taste", tastes, ["taste"])
        # Of the last block, by which new items are known.
        pairs.append(replace(taste, of_content=made.directions.of_content))
        pairs.append(blocks_side_by_side("labels", acted, [f"alike:{target}" for target in told]))
    pairs.append(blocks_side_by_side("exposure", shown, ["shown-alike"]))
    user_columns = [*table("user"), log_counts(evidence.user, evidence, evidence.users)]
    item_columns = [*table("item"), *table("content"), log_counts(evidence.item, evidence, evidence.items)]
    return PlusTables(
        user_columns=np.concatenate(user_columns, axis=2),
        item_columns=np.concatenate(item_columns, axis=2),
        pairs=pairs,
        user_names=[*(f"user-rate:{target}" for target in told), "counts"],
        item_names=[*(f"item-rate:{t}" for t in told), *(f"content:{t}" for t in told), "counts"],
    )
