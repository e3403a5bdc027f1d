"""Reduce raw item features: PCA, TF-IDF with truncated SVD, and modalities concatenated or crossed.

No function here uses a label. If `fitted` is given, the reduction is fitted on the first `fitted` rows and applied to
all; the rows after them are items that came later.
"""

from dataclasses import dataclass
from typing import Self

import numpy as np
from scipy import sparse
from scipy.linalg.blas import dsyrk

from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import slices

# Upper limit of the width of the item part, as in the study.
WIDEST_ITEM_PART = 128
# Rows that are processed at a time; in float64 they stay in the cache.
ROWS_AT_A_TIME = 1024


class Moments:
    """Column means and covariance in float64, computed in one pass over chunks of rows.

    Attributes:
        rows: Number of rows so far.
    """

    def __init__(self, width: int) -> None:
        self.rows = 0
        self._sum = np.zeros(width)
        self._products = np.zeros((width, width), order="F")  # its upper triangle
        self._shift: np.ndarray | None = None

    @classmethod
    def of(cls, values: np.ndarray) -> Self:
        """Compute the moments of an array (n, width)."""
        moments = cls(values.shape[1])
        moments.add(values)
        return moments

    def add(self, chunk: np.ndarray) -> None:
        """Add rows: any float (n, width)."""
        self.set_shift(chunk)
        self.include(self.sums_of(chunk))

    def set_shift(self, chunk: np.ndarray) -> None:
        """Use the mean of the first rows as the origin of the sums.

        Products of deviations from a near mean lose far fewer digits than products of the values.

        Args:
            chunk: float (n, width).
        """
        if self._shift is None and len(chunk):
            self._shift = chunk.mean(axis=0, dtype=np.float64)

    def sums_of(self, chunk: np.ndarray) -> tuple[int, np.ndarray, np.ndarray]:
        """Compute the sums that a chunk contributes; thread-safe after `set_shift`.

        Args:
            chunk: float (n, width).

        Returns:
            The argument of `include`.
        """
        shift = 0.0 if self._shift is None else self._shift
        total, products = np.zeros_like(self._sum), np.zeros_like(self._products)
        for part in slices(len(chunk), ROWS_AT_A_TIME):
            deviation = chunk[part] - shift
            total += deviation.sum(axis=0)
            dsyrk(1.0, deviation.T, beta=1.0, c=products, overwrite_c=True)
        return len(chunk), total, products

    def include(self, sums: tuple[int, np.ndarray, np.ndarray]) -> None:
        """Add the sums of a chunk; the last digits depend on the order of the chunks."""
        rows, total, products = sums
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
    """Principal component analysis.

    Attributes:
        mean: float64 (d,).
        components: float64 (width, d), by decreasing variance.
    """

    mean: np.ndarray
    components: np.ndarray

    @classmethod
    def fit(cls, moments: Moments, width: int) -> Self:
        """Fit at most `width` components; the entry of each with the largest absolute value is positive."""
        _, vectors = np.linalg.eigh(moments.covariance)
        components = vectors.T[::-1][:width]
        largest = np.abs(components).argmax(axis=1)
        signs = np.sign(components[np.arange(len(components)), largest])
        return cls(moments.mean, np.ascontiguousarray(components * signs[:, None]))

    def transform(self, values: np.ndarray) -> np.ndarray:
        """Return the coordinates of rows (n, d): float32 (n, width).

        Raises:
            UserError: A coordinate is beyond the range of float32.
        """
        projected = np.empty((len(values), len(self.components)), np.float32)
        for part in slices(len(values), ROWS_AT_A_TIME):
            with np.errstate(over="ignore"):  # checked below
                projected[part] = (values[part] - self.mean) @ self.components.T
        if not np.isfinite(projected).all():
            raise UserError("vectors of items are too large for float32; scale them down")
        return projected


def at_most(values: np.ndarray, width: int, fitted: int | None = None) -> np.ndarray:
    """Reduce an array to its first principal components if it has more than `width` columns.

    Args:
        values: float32 (n, d).
        width: Upper limit of the number of columns.
        fitted: Number of first rows to fit on; None for all.

    Returns:
        float32 (n, min(d, width)).
    """
    if values.shape[1] <= width:
        return values
    return PCA.fit(Moments.of(values[:fitted]), width).transform(values)


def concat(modalities: list[np.ndarray], fitted: int | None = None) -> np.ndarray:
    """Concatenate modalities.

    Args:
        modalities: float32 (items, width) each.
        fitted: Number of first items to fit PCA on; None for all.

    Returns:
        float32 (items, at most 128).
    """
    parts = [at_most(values, WIDEST_ITEM_PART, fitted) for values in modalities]
    return at_most(np.concatenate(parts, axis=1), WIDEST_ITEM_PART, fitted)


def cross(modalities: list[np.ndarray], fitted: int | None = None) -> np.ndarray:
    """Multiply modalities element by element, after PCA to the shortest width.

    Args:
        modalities: float32 (items, width) each.
        fitted: Number of first items to fit PCA on; None for all.

    Returns:
        float32 (items, shortest width).

    Raises:
        UserError: A product is beyond the range of float32.
    """
    shortest = min(min(values.shape[1] for values in modalities), WIDEST_ITEM_PART)
    product = at_most(modalities[0], shortest, fitted)
    for values in modalities[1:]:
        with np.errstate(over="ignore"):  # checked below
            product = product * at_most(values, shortest, fitted)
    if not np.isfinite(product).all():
        raise UserError("the products of the modalities are beyond the range of float32; scale their vectors down")
    return product


def combined(modalities: list[np.ndarray], *, crossed: bool, fitted: int | None = None) -> np.ndarray:
    """The item part of features paper: one modality, or several side by side or multiplied.

    Args:
        modalities: float32 (items, width) each.
        crossed: Multiply them.
        fitted: Number of first items to fit PCA on; None for all.

    Returns:
        float32 (items, at most 128).
    """
    if len(modalities) == 1:
        return at_most(modalities[0], WIDEST_ITEM_PART, fitted)
    return (cross if crossed else concat)(modalities, fitted)


def tfidf_svd(counts: sparse.csr_matrix, width: int, seed: int = 0, fitted: int | None = None) -> np.ndarray:
    """Compute TF-IDF (smoothed idf, rows of length 1), then a truncated SVD.

    Args:
        counts: (items, vocabulary), weights of tokens; every row that is fitted has a token.
        width: Upper limit of the number of columns.
        seed: Seed of the randomized SVD.
        fitted: Number of first items to fit on; None for all.

    Returns:
        float32 (items, min(width, fitted items, vocabulary)).
    """
    # Importing sklearn takes half a second, which processes that only parse features save.
    from sklearn.decomposition import TruncatedSVD
    from sklearn.feature_extraction.text import TfidfTransformer

    known, later = counts[:fitted], None if fitted is None else counts[fitted:]
    weights = TfidfTransformer()
    weighted = weights.fit_transform(known)
    width = min(width, *known.shape)
    if width == min(known.shape):  # nothing to truncate: decompose the small matrix exactly
        left, values, directions = np.linalg.svd(weighted.toarray(), full_matrices=False)
        reduced: np.ndarray = left * values
    else:
        decomposition = TruncatedSVD(width, random_state=seed)
        with np.errstate(
            divide="ignore", invalid="ignore"
        ):  # the explained variance ratio is 0 / 0 if all rows are equal
            reduced = decomposition.fit_transform(weighted)
        directions = decomposition.components_
    if later is not None:
        reduced = np.concatenate([reduced, weights.transform(later) @ directions.T])
    return reduced.astype(np.float32)
