"""Features plus: what the training rows say about the user, the item and the pair, in factors.

The paper's user embedding describes the content of the videos that a user met. It does not contain how often a video
is acted on. These columns add it, for every target of the data set (users who finish videos also like them):

- biases of the user, of the item and of the item's content (biases.py);
- the inner product of the user's and the item's content factors (content_factors.py);
- inner products from a residual SVD of the labels and of the exposures (residual_svd.py);
- the numbers of rows of the user and of the item.

All columns are out of fold, block by block as the user embedding is. The tables of block f are made without the rows of
fold f, and those of the last block from all training rows. So no training row sees its own label.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from threadpoolctl import threadpool_limits

from mma4ctr.data.interactions import sums_of_others
from mma4ctr.features.behavioral.biases import Biases, TrainingRows, fit_biases, signals_of
from mma4ctr.features.behavioral.content_factors import ContentFactors
from mma4ctr.features.behavioral.residual_svd import exposure_factors, label_factors
from mma4ctr.features.reduction import PCA, Moments

# Raise it with every change of the columns: a matrix of another version is refused.
FEATURE_VERSION = 4
# Width that an item's content is reduced to before the content factors are fitted. On simulated TikTok data 64
# components explain 0.79 of the variance of the items' true factors, 16 explain 0.59 and all 103 columns 0.81.
CONTENT_WIDTH = 64
# A target with fewer positives among the training rows is left out.
FEW_POSITIVES = 20
# Groups of columns that the study `plus` removes one at a time. `other-targets` are those of every target but the
# task's own.
GROUPS = (
    "user-bias",
    "item-bias",
    "content-bias",
    "content-factors",
    "label-svd",
    "exposure-svd",
    "counts",
    "other-targets",
)


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
class PlusTables:
    """The columns in factors: one block for each fold and one for the rows that are not trained on.

    Attributes:
        user_columns: float32 (blocks, users, c).
        item_columns: float32 (blocks, items, d).
        pairs: The vectors that the columns of the pair are made from.
        user_names: What the user columns are: `<group>` or `<group>:<target>`.
        item_names: What the item columns are.
    """

    user_columns: np.ndarray
    item_columns: np.ndarray
    pairs: list[PairTable]
    user_names: list[str]
    item_names: list[str]

    def without(self, group: str) -> "PlusTables":
        """The same tables without the columns of a group."""

        def kept(names: Sequence[str]) -> list[int]:
            return [place for place, name in enumerate(names) if name.partition(":")[0] != group]

        user, item = kept(self.user_names), kept(self.item_names)
        pairs = []
        for table in self.pairs:
            if chosen := kept(table.names):
                names = [table.names[place] for place in chosen]
                pairs.append(replace(table, user=table.user[:, :, chosen], names=names))
        return PlusTables(
            self.user_columns[:, :, user],
            self.item_columns[:, :, item],
            pairs,
            [self.user_names[place] for place in user],
            [self.item_names[place] for place in item],
        )


def item_content(modalities: Sequence[np.ndarray], fitted: int | None = None) -> np.ndarray:
    """The modalities on one scale, side by side, reduced by PCA.

    Each modality is divided by the standard deviation of its first principal component. The result has a mean square
    of 1 per column.

    Args:
        modalities: float32 (items, width) each.
        fitted: The first so many items determine scale and components; None for all items.

    Returns:
        float32 (items, at most CONTENT_WIDTH).
    """
    scaled_modalities = []
    for values in modalities:
        moments = Moments.of(values[:fitted])
        largest = np.sqrt(max(float(np.linalg.eigvalsh(moments.covariance)[-1]), 1e-12))
        scaled_modalities.append((values - moments.mean) / largest)
    joined = np.concatenate(scaled_modalities, axis=1)
    content = PCA.fit(Moments.of(joined[:fitted]), min(CONTENT_WIDTH, joined.shape[1])).transform(joined)
    scaled: np.ndarray = content / np.sqrt(max(float(np.mean(np.square(content[:fitted], dtype=np.float64))), 1e-12))
    return scaled.astype(np.float32)


def log_counts(index: np.ndarray, rows: TrainingRows, size: int) -> np.ndarray:
    """log(1 + training rows) of each user or item.

    Counts of a block that leaves a fold out are scaled up to all folds, so that they compare with the last block's.

    Args:
        index: int64 (n,) user or item of each training row.
        rows: The training rows.
        size: Number of users or items.

    Returns:
        float32 (blocks, size, 1).
    """
    counts = np.bincount(rows.fold * size + index, minlength=rows.folds * size).reshape(rows.folds, size)
    of_blocks = sums_of_others(counts).astype(np.float64)
    of_blocks[:-1] *= rows.folds / (rows.folds - 1)
    return np.log1p(of_blocks)[:, :, None].astype(np.float32)


def joined_blocks(kind: str, blocks: Sequence[Vectors], names: list[str]) -> PairTable:
    """One table of the vectors of all blocks; shorter vectors are padded with zeros."""
    width = max(item.shape[1] for _, item in blocks)

    def padded(vectors: np.ndarray) -> np.ndarray:
        missing = width - vectors.shape[-1]
        return np.pad(vectors, [*[(0, 0)] * (vectors.ndim - 1), (0, missing)]) if missing else vectors

    user, item = (np.stack([padded(part) for part in parts]) for parts in zip(*blocks, strict=True))
    return PairTable(kind, user, item, names)


# With the many small matrices here, two BLAS threads took over three times the processor time of one, and longer.
@threadpool_limits.wrap(1, user_api="blas")
def plus_tables(rows: TrainingRows, labels: Mapping[str, np.ndarray], modalities: Sequence[np.ndarray]) -> PlusTables:
    """All columns of a task.

    Args:
        rows: The training rows with their folds.
        labels: 0/1 (n,) of the training rows for each target. Targets with few positives are left out.
        modalities: float32 (items, width) each.

    Returns:
        The tables of all blocks.
    """
    content = item_content(modalities)
    used = {name: label for name, label in labels.items() if FEW_POSITIVES <= label.sum() <= len(label) - FEW_POSITIVES}
    biases: dict[str, list[Biases]] = {target: [] for target in used}
    content_vectors: list[Vectors] = []
    label_vectors: list[Vectors] = []
    exposure_vectors: list[Vectors] = []
    for block in range(rows.folds + 1):
        seen = rows.without(block)
        user, item = rows.user[seen], rows.item[seen]
        for target, label in used.items():
            biases[target].append(fit_biases(user, item, label[seen], content, rows.users))
        signals = signals_of(rows, block, used, biases)
        if used:
            fitted = ContentFactors(signals, content)
            content_vectors.append((fitted.user[:, None], fitted.item))
            label_vectors.append(label_factors(signals))
        exposure_vectors.append(exposure_factors(signals))

    def columns(kind: str) -> list[np.ndarray]:
        return [np.stack([getattr(one, kind) for one in biases[t]])[:, :, None].astype(np.float32) for t in used]

    pairs = []
    if used:
        table = joined_blocks("content_factors", content_vectors, ["content-factors"])
        # New items are scored by the last block.
        pairs.append(replace(table, of_content=fitted.directions.of_content))
        pairs.append(joined_blocks("label_svd", label_vectors, [f"label-svd:{target}" for target in used]))
    pairs.append(joined_blocks("exposure_svd", exposure_vectors, ["exposure-svd"]))
    user_columns = [*columns("user"), log_counts(rows.user, rows, rows.users)]
    item_columns = [*columns("item"), *columns("content"), log_counts(rows.item, rows, rows.items)]
    return PlusTables(
        user_columns=np.concatenate(user_columns, axis=2),
        item_columns=np.concatenate(item_columns, axis=2),
        pairs=pairs,
        user_names=[*(f"user-bias:{target}" for target in used), "counts"],
        item_names=[*(f"item-bias:{t}" for t in used), *(f"content-bias:{t}" for t in used), "counts"],
    )
