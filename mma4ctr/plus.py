"""The feature set `plus`: what the training rows say of a user, of an item and of the pair, in factors.

The paper's user embedding sees the content of the videos a user met and nothing of how often a video itself is acted
on. These columns add it, for each target of the data set (who finishes videos also likes them):

    logit P(action) ~ b + a_user + q_item + g . x_item + w_user . x_item

with x the item's content: its modalities, put on one scale, PCA'd to `CONTENT_WIDTH` numbers. The parts are fitted one
after the other, each drawn to zero as far as its spread over users or items says: the rates a and q by Newton steps,
the content's g by a ridge regression, and a user's taste w by the posterior of a Bayesian regression of what the rates
leave. One more taste is made of no label: what the user was shown, against what everybody was shown. The network gets
each part as a column of its own, and how many rows it rests on.

What content does not tell, users who acted alike do: what the rates leave is a table of users and items, and its
leading singular vectors, each as far as it stands out of the noise, say how well an item suits a user. Who was shown
what is a second such table.

Everything is out of fold, block by block as the user embedding is: the tables of block f are made without the rows of
fold f, those of the last block with all training rows. So no training row sees its own label, nor itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import numpy as np
from scipy import sparse
from scipy.sparse.linalg import svds

from mma4ctr.interactions import sums_of_others
from mma4ctr.logistic import sigmoid
from mma4ctr.reduce import PCA, Moments

CONTENT_WIDTH = 16
# Alternations between user rates, item rates and content, and between tastes and their spread: more moved no score.
ROUNDS = 3
# Users whose products are held at a time: 42 MB of them for five folds.
USERS_AT_A_TIME = 1 << 13
# A target with fewer positives in the training rows says too little.
FEW_POSITIVES = 20
# Singular vectors of what users have in common, and the weight of rows that draws the entries of whoever has few to
# zero. Of widths 8 to 64 and weights 1 to 30 these were near the best validation AUC on all tasks measured.
FACTORS = 16
FACTORS_PRIOR = 10.0
# Groups of columns, as the study `plus` takes them away; `other-targets` are those of every target but the task's.
GROUPS = ("user-rate", "item-rate", "content", "taste", "shown", "alike", "shown-alike", "counts", "other-targets")


@dataclass(frozen=True)
class Evidence:
    """The training rows, ordered by user: int64 `user`, `item`, and their `fold` 0 ... folds-1."""

    user: np.ndarray
    item: np.ndarray
    fold: np.ndarray
    users: int
    items: int
    folds: int


@dataclass(frozen=True)
class PairTable:
    """Vectors of users and items, whose inner products are columns of a pair.

    Attributes:
        kind: what the vectors are made of: `content`, `labels` or `exposure`.
        user: float32 (blocks, users, columns, k). item: float32 (blocks, items, k), or (1, items, k) for all blocks.
        names: of the columns: `<group>` or `<group>:<target>`.
    """

    kind: str
    user: np.ndarray
    item: np.ndarray
    names: list[str]


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
                pairs.append(PairTable(table.kind, table.user[:, :, left], table.item, names))
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


def _drawn_to_zero(
    effect: np.ndarray, slope: np.ndarray, weight: np.ndarray, spread: float
) -> tuple[np.ndarray, float]:
    """One Newton step of effects (n,) with prior variance `spread`, and the variance that they show (an EM step).

    Args:
        slope: sums of label less probability. weight: sums of probability times its complement.
    """
    precision = weight + 1 / spread
    moved = (slope + weight * effect) / precision
    known = weight > 0
    shown = float(np.mean(moved[known] ** 2 + 1 / precision[known])) if known.any() else spread
    return moved, max(shown, 1e-4)


@dataclass(frozen=True)
class Rates:
    """Parts of the logit from one block's rows: `base`; float64 `user` (users,), `item`, `content` (items,)."""

    base: float
    user: np.ndarray
    item: np.ndarray
    content: np.ndarray

    def logit(self, user: np.ndarray, item: np.ndarray) -> np.ndarray:
        """float64 (rows,)."""
        of_item = self.item + self.content
        logit: np.ndarray = self.base + self.user[user] + of_item[item]
        return logit


def fit_rates(user: np.ndarray, item: np.ndarray, label: np.ndarray, content: np.ndarray, users: int) -> Rates:
    """Additive rates of users and items, and of the items' content, on some rows (n,)."""
    items, width = content.shape
    share = (label.sum() + 0.5) / (len(label) + 1)
    found = Rates(float(np.log(share / (1 - share))), np.zeros(users), np.zeros(items), np.zeros(items))
    by_user, by_item = 1.0, 1.0
    values = content.astype(np.float64)
    for _ in range(ROUNDS):

        def slopes(index: np.ndarray, size: int, rates: Rates) -> tuple[np.ndarray, np.ndarray]:
            chance = sigmoid(rates.logit(user, item))
            return np.bincount(index, label - chance, size), np.bincount(index, chance * (1 - chance), size)

        effect, by_user = _drawn_to_zero(found.user, *slopes(user, users, found), by_user)
        found = Rates(found.base, effect, found.item, found.content)
        slope, weight = slopes(item, items, found)
        # An item counts for the content's regression as far as it has rows, but at most once: its own rate varies too.
        trust = weight / (1 + weight * by_item)
        target = np.where(weight > 0, found.content + found.item + slope / np.maximum(weight, 1e-12), 0)
        product = values.T @ (values * trust[:, None]) + np.eye(width)
        coefficients = np.linalg.solve(product, values.T @ (trust * target))
        moved = values @ coefficients
        found = Rates(found.base, found.user, found.item + found.content - moved, moved)
        effect, by_item = _drawn_to_zero(found.item, slope, weight, by_item)
        found = Rates(found.base, found.user, effect, moved)
    return found


def products_by_cell(evidence: Evidence, content: np.ndarray, first: int, last: int) -> np.ndarray:
    """Sums of x x' over the rows of users `first` ... `last`-1 in each fold: float32 (folds, last - first, k, k)."""
    width = content.shape[1]
    start, stop = np.searchsorted(evidence.user, [first, last])
    cell = (evidence.user[start:stop] - first) * evidence.folds + evidence.fold[start:stop]
    order = np.argsort(cell, kind="stable")
    sums = np.zeros(((last - first) * evidence.folds, width, width), np.float32)
    for begin in range(0, len(order), 1 << 16):
        rows = order[begin : begin + (1 << 16)]
        x = content[evidence.item[start + rows]]
        heads = np.flatnonzero(np.diff(cell[rows], prepend=-1))
        sums[cell[rows][heads]] += np.add.reduceat(x[:, :, None] * x[:, None, :], heads)
    return sums.reshape(last - first, evidence.folds, width, width).transpose(1, 0, 2, 3)


def posterior_tastes(products: np.ndarray, slopes: np.ndarray, spread: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Posterior means (users, k) of tastes with prior variances `spread` (k,), and sums over the users of what the
    variances are estimated from (k,).

    Args:
        products: (users, k, k), weighted. slopes: (users, k).
    """
    inverse = np.linalg.inv(products.astype(np.float64) + np.diag(1 / spread))
    means = np.einsum("uij,uj->ui", inverse, slopes)
    shown = (means**2 + np.einsum("uii->ui", inverse)).sum(axis=0)
    return means, shown


def fit_tastes(
    evidence: Evidence, labels: Mapping[str, np.ndarray], rates: Mapping[str, list[Rates]], content: np.ndarray
) -> np.ndarray:
    """The tastes that the labels show beyond the rates, and what was shown: float32 (blocks, users, targets + 1, k).

    A user's rows count with the weight p (1 - p) of the user's own rate, so that the products of the content are summed
    once for all blocks and targets.
    """
    blocks, width = evidence.folds + 1, content.shape[1]
    tables = np.zeros((blocks, evidence.users, len(labels) + 1, width), np.float32)
    every = np.arange(evidence.folds)
    slopes = np.zeros((len(labels), blocks, evidence.users, width), np.float32)
    for place, (target, label) in enumerate(labels.items()):
        for block in range(blocks):
            seen = np.flatnonzero(evidence.fold != block)
            user, item = evidence.user[seen], evidence.item[seen]
            left = label[seen] - sigmoid(rates[target][block].logit(user, item))
            table = sparse.csr_matrix((left, (user, item)), shape=(evidence.users, evidence.items))
            slopes[place, block] = table @ content
    # Where all users fit at a time, the rounds after the first find the products made.
    products_from = lru_cache(maxsize=1)(partial(products_by_cell, evidence, content))
    spread = np.full((len(labels), blocks, width), 0.05)
    for round_ in range(ROUNDS):
        shown = np.zeros_like(spread)
        for first in range(0, evidence.users, USERS_AT_A_TIME):
            last = min(first + USERS_AT_A_TIME, evidence.users)
            products = products_from(first, last)
            for block in range(blocks):
                summed = products[every != block].sum(axis=0)
                for place, target in enumerate(labels):
                    fitted = rates[target][block]
                    chance = sigmoid(fitted.base + fitted.user[first:last])
                    means, parts = posterior_tastes(
                        summed * (chance * (1 - chance))[:, None, None],
                        slopes[place, block, first:last],
                        spread[place, block],
                    )
                    tables[block, first:last, place] = means
                    shown[place, block] += parts
        if round_ < ROUNDS - 1:
            spread = np.maximum(shown / evidence.users, 1e-6)
    tables[:, :, -1] = shown_tastes(evidence, content)
    return tables


def shown_tastes(evidence: Evidence, content: np.ndarray) -> np.ndarray:
    """What each user was shown, against what all were: float32 (blocks, users, k), in units of the shown content's
    spread, drawn to zero by ten rows."""
    cell = evidence.fold * evidence.users + evidence.user
    shape = (evidence.folds * evidence.users, evidence.items)
    seen = sparse.csr_matrix((np.ones(len(cell), np.float32), (cell, evidence.item)), shape=shape)
    width = content.shape[1]
    sums = sums_of_others((seen @ content).reshape(evidence.folds, evidence.users, width))
    rows = sums_of_others(np.bincount(cell, minlength=shape[0]).reshape(evidence.folds, evidence.users))
    tables = np.zeros(sums.shape, np.float32)
    for block in range(len(sums)):
        times = np.bincount(evidence.item[evidence.fold != block], minlength=evidence.items)
        mean = times @ content.astype(np.float64) / max(times.sum(), 1)
        covariance = (content - mean).T @ ((content - mean) * times[:, None]) / max(times.sum(), 1)
        covariance += 1e-3 * np.trace(covariance) / width * np.eye(width) + 1e-9 * np.eye(width)
        surplus = (sums[block] - rows[block][:, None] * mean) / (rows[block][:, None] + 10)
        tables[block] = np.linalg.solve(covariance, surplus.T).T
    return tables


def principal_items(table: sparse.csr_matrix, skipped: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The leading right singular vectors of a table (rows, items): float64 (items, k), at most `FACTORS` after the
    first `skipped`; and the share of each that stands out of the noise, float64 (k,): 1 - (s' / s)^2 with s its
    singular value and s' the first that is left out."""
    width = min(skipped + FACTORS + 1, min(table.shape) - 1)
    if width <= skipped + 1 or not table.data.any():
        return np.zeros((table.shape[1], 1)), np.zeros(1)
    start = np.random.default_rng(0).normal(size=min(table.shape))
    _, values, vectors = svds(table, width, v0=start)
    order = np.argsort(-values)
    chosen, noise = order[skipped:-1], values[order[-1]]
    shares = 1 - np.square(np.divide(noise, values[chosen], out=np.ones(len(chosen)), where=values[chosen] > noise))
    return np.nan_to_num(vectors[chosen].T), shares


def _factors(
    parts: Sequence[tuple[np.ndarray, np.ndarray]],
    user: np.ndarray,
    item: np.ndarray,
    size: tuple[int, int],
    skipped: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """float32 vectors of users (users, parts, k) and items (items, k) that explain values of rows (n,).

    Args:
        parts: float64 values (n,), and their weights: what a row counts for among those of its user and its item.
    """
    users, items = size
    weights = np.mean([np.bincount(item, weight, items) for _, weight in parts], axis=0)
    of_item: np.ndarray = FACTORS_PRIOR + weights
    of_users = [FACTORS_PRIOR + np.bincount(user, weight, users) for _, weight in parts]
    tables = [
        sparse.csr_matrix((value / np.sqrt(of_user[user] * of_item[item]), (user, item)), shape=size)
        for (value, _), of_user in zip(parts, of_users, strict=True)
    ]
    vectors, shares = principal_items(sparse.vstack(tables, format="csr"), skipped)
    of_pairs = [
        table @ (vectors * shares) / np.sqrt(of_user)[:, None] for table, of_user in zip(tables, of_users, strict=True)
    ]
    return np.stack(of_pairs, axis=1).astype(np.float32), (vectors / np.sqrt(of_item)[:, None]).astype(np.float32)


def fit_alike(
    evidence: Evidence, labels: Mapping[str, np.ndarray], rates: Mapping[str, list[Rates]]
) -> list[PairTable]:
    """What users who acted alike, and who were shown alike, say of an item: tables `labels` and `exposure`.

    The targets share the items' vectors. Of the exposures the first singular vector is left out: it says how often
    each is shown.
    """
    size = evidence.users, evidence.items
    acted, shown = [], []
    for block in range(evidence.folds + 1):
        seen = np.flatnonzero(evidence.fold != block)
        user, item = evidence.user[seen], evidence.item[seen]
        parts = []
        for target, label in labels.items():
            chance = sigmoid(rates[target][block].logit(user, item))
            parts.append((label[seen] - chance, chance * (1 - chance)))
        if parts:
            acted.append(_factors(parts, user, item, size))
        once = np.ones(len(seen))
        shown.append(_factors([(once, once)], user, item, size, skipped=1))

    def table(kind: str, blocks: Sequence[tuple[np.ndarray, np.ndarray]], names: list[str]) -> PairTable:
        width = max(item.shape[1] for _, item in blocks)  # where a block gives fewer, the rest is 0

        def wide(vectors: np.ndarray) -> np.ndarray:
            missing = width - vectors.shape[-1]
            return np.pad(vectors, [*[(0, 0)] * (vectors.ndim - 1), (0, missing)]) if missing else vectors

        user, item = (np.stack([wide(part) for part in parts]) for parts in zip(*blocks, strict=True))
        return PairTable(kind, user, item, names)

    made = [table("labels", acted, [f"alike:{target}" for target in labels])] if acted else []
    return [*made, table("exposure", shown, ["shown-alike"])]


def log_counts(index: np.ndarray, evidence: Evidence, size: int) -> np.ndarray:
    """log(1 + rows) of each user or item: float32 (blocks, size, 1). Counts of a block without a fold are scaled up to
    those of all folds, as the last block has them."""
    counts = np.bincount(evidence.fold * size + index, minlength=evidence.folds * size).reshape(evidence.folds, size)
    rows = sums_of_others(counts).astype(np.float64)
    rows[:-1] *= evidence.folds / (evidence.folds - 1)
    return np.log1p(rows)[:, :, None].astype(np.float32)


def plus_tables(evidence: Evidence, labels: Mapping[str, np.ndarray], modalities: Sequence[np.ndarray]) -> PlusTables:
    """All columns of a task.

    Args:
        labels: 0/1 (rows,) of the evidence rows for each target; those with few positives are left out.
        modalities: float32 (items, width) each.
    """
    content = item_content(modalities)
    told = {name: label for name, label in labels.items() if FEW_POSITIVES <= label.sum() <= len(label) - FEW_POSITIVES}
    rates: dict[str, list[Rates]] = {}
    for target, label in told.items():
        rates[target] = []
        for block in range(evidence.folds + 1):
            seen = evidence.fold != block
            fitted = fit_rates(evidence.user[seen], evidence.item[seen], label[seen], content, evidence.users)
            rates[target].append(fitted)

    def table(part: str) -> list[np.ndarray]:
        return [
            np.stack([getattr(one, part) for one in rates[target]])[:, :, None].astype(np.float32) for target in told
        ]

    user_columns = [*table("user"), log_counts(evidence.user, evidence, evidence.users)]
    item_columns = [*table("item"), *table("content"), log_counts(evidence.item, evidence, evidence.items)]
    return PlusTables(
        user_columns=np.concatenate(user_columns, axis=2),
        item_columns=np.concatenate(item_columns, axis=2),
        pairs=[
            PairTable(
                "content",
                fit_tastes(evidence, told, rates, content),
                content[None],
                [*(f"taste:{target}" for target in told), "shown"],
            ),
            *fit_alike(evidence, told, rates),
        ],
        user_names=[*(f"user-rate:{target}" for target in told), "counts"],
        item_names=[*(f"item-rate:{t}" for t in told), *(f"content:{t}" for t in told), "counts"],
    )
