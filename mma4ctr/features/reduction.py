"""From raw item features to a few columns: PCA, TF-IDF with truncated SVD, min-max scaling; and modalities side by side
or crossed.

No function here sees a label. Where rows are `fitted`, a number, the first so many say how all of them are reduced:
those after them came later.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse
from scipy.linalg.blas import dsyrk

# The study reduces every item part that is wider to this many columns.
WIDEST_ITEM_PART = 128
# Rows that are worked on at a time: what they need in float64 stays in the cache.
ROWS_AT_A_TIME = 1024


class Moments:
    """Column means and covariance of rows that are seen once, in parts, in float64."""

    def __init__(self, width: int) -> None:
        self.rows = 0
        self._sum = np.zeros(width)
        self._products = np.zeros((width, width), order="F")  # its upper triangle
        self._shift: np.ndarray | None = None

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Those of an array (n, width)."""
        moments = cls(values.shape[1])
        moments.add(values)
        return moments

    def add(self, part: np.ndarray) -> None:
        """Take in rows: any float (n, width)."""
        self.start_from(part)
        self.include(self.of_part(part))

    def start_from(self, part: np.ndarray) -> None:
        """Rows to be near to, the first that there are: products of deviations from a near-mean lose far fewer digits
        than products of the values.
        """
        if self._shift is None and len(part):
            self._shift = part.mean(axis=0, dtype=np.float64)

    def of_part(self, part: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """What rows (n, width) add, for `include`. Any thread may work it out once `start_from` has been called."""
        shift = 0.0 if self._shift is None else self._shift
        total, products = np.zeros_like(self._sum), np.zeros_like(self._products)
        for start in range(0, len(part), ROWS_AT_A_TIME):
            deviation = part[start : start + ROWS_AT_A_TIME] - shift
            total += deviation.sum(axis=0)
            dsyrk(1.0, deviation.T, beta=1.0, c=products, overwrite_c=True)
        return len(part), total, products

    def include(self, part: tuple[int, np.ndarray, np.ndarray]) -> None:
        """Add up; the last digits depend on the order."""
        rows, total, products = part
        self.rows += rows
        self._sum += total
        self._products += products

    @property
    def mean(self) -> np.ndarray:
        """float64 (width,)."""
        return self._sum / max(self.rows, 1) + (0 if self._shift is None else self._shift)

    @property
    def covariance(self) -> np.ndarray:
        """float64 (width, width), divided by the number of rows."""
        mean_deviation = self._sum / max(self.rows, 1)
        products = np.triu(self._products) + np.triu(self._products, 1).T
        covariance: np.ndarray = products / max(self.rows, 1) - np.outer(mean_deviation, mean_deviation)
        return covariance


@dataclass(frozen=True)
class PCA:
    """Principal components: mean float64 (d,), components float64 (width, d), largest variance first."""

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, moments: Moments, width: int) -> Self:
        """At most `width` components. The sign is fixed: a component's largest entry is positive."""
        _, vectors = np.linalg.eigh(moments.covariance)
        components = vectors.T[::-1][:width]
        largest = np.abs(components).argmax(axis=1)
        signs = np.sign(components[np.arange(len(components)), largest])
        return cls(moments.mean, np.ascontiguousarray(components * signs[:, None]))

    def transform(self, values: np.ndarray) -> np.ndarray:
        """float32 (n, width) coordinates of rows (n, d)."""
        projected: np.ndarray = ((values - self.mean) @ self.components.T).astype(np.float32)
        return projected


def at_most(values: np.ndarray, width: int, fitted: int | None = None) -> np.ndarray:
    """An array (n, d) as it is where d <= width, else its first principal components: float32 (n, width)."""
    if values.shape[1] <= width:
        return values
    return PCA.fit(Moments.of(values[:fitted]), width).transform(values)


def concat(modalities: list[np.ndarray], fitted: int | None = None) -> np.ndarray:
    """float32 (items, at most 128): the modalities, each float32 (items, width), side by side."""
    parts = [at_most(values, WIDEST_ITEM_PART, fitted) for values in modalities]
    return at_most(np.concatenate(parts, axis=1), WIDEST_ITEM_PART, fitted)


def cross(modalities: list[np.ndarray], fitted: int | None = None) -> np.ndarray:
    """float32 (items, shortest width): the element-wise product of the modalities, PCA'd to the shortest width."""
    shortest = min(min(values.shape[1] for values in modalities), WIDEST_ITEM_PART)
    product = at_most(modalities[0], shortest, fitted)
    for values in modalities[1:]:
        product = product * at_most(values, shortest, fitted)
    return product


def tfidf_svd(counts: sparse.csr_matrix, width: int, seed: int = 0, fitted: int | None = None) -> np.ndarray:
    """TF-IDF (smoothed idf, rows of length 1), then truncated SVD.

    Args:
        counts: weights of tokens, (items, vocabulary); every row has a token, of those that are fitted.
        width: columns of the result; fewer where items or vocabulary give no more.

    Returns: float32 (items, at most width).
    """
    # Half a second to import, which the processes that parse features need not spend.
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    known, later = counts[:fitted], None if fitted is None else counts[fitted:]
    weights = TfidfTransformer()
    weighted = weights.fit_transform(known)
    width = min(width, *known.shape)
    if width == min(known.shape):  # no truncation left: the exact decomposition of a small matrix
        left, values, directions = np.linalg.svd(weighted.toarray(), full_matrices=False)
        reduced: np.ndarray = left * values
    else:
        decomposition = TruncatedSVD(width, random_state=seed)
        with np.errstate(divide="ignore", invalid="ignore"):  # shares of a variance of zero, where all rows are equal
            reduced = decomposition.fit_transform(weighted)
        directions = decomposition.components_
    if later is not None:
        reduced = np.concatenate([reduced, weights.transform(later) @ directions.T])
    return reduced.astype(np.float32)


def column_range(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """float64 lowest value of each column and the span of its values; 1 where that is 0."""
    low, high = values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64)
    span = high - low
    return low, np.where(span > 0, span, 1.0)
