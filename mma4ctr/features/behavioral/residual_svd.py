"""Residual SVD of labels and of exposures: columns of features plus (see columns.py).

The residuals of the labels after the biases form a sparse matrix of users and items. Its leading singular vectors, each
shrunk by how far its singular value exceeds the noise, give the inner product of a user and an item. The matrix of
exposures, which user was shown which item, is decomposed in the same way.

The vectors are found by randomized subspace iteration (Halko, Martinsson and Tropp 2011, algorithms 4.4 and 5.1) with
Chebyshev filters (Zhou, Saad, Tiago and Chelikowsky 2006): a few passes over the rows, each with all vectors at once.
The sparse matrix is not stored: the rows are its entries.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from mma4ctr.features.behavioral.row_passes import add_user_vectors, products_over_items, sums_of_item_vectors
from mma4ctr.features.behavioral.signals import Signals, TrainingRows, UserPart, parts_of_users
from mma4ctr.runtime.parallel import Threads, slices

# Number of singular vectors, and the pseudo-count that shrinks users and items with few rows. Of widths 8 to 64 and
# pseudo-counts 1 to 30 these were near the best validation AUC on all tasks measured.
FACTORS = 16
FACTORS_PRIOR = 10.0
# Vectors of the random start beyond those wanted; products with the matrix before the filters, the filters and their
# degree. On tiktok-real mean test AUC of 5 seeds is 0.8725 after 8 products without filters, 0.8750 after 40.
OVERSAMPLING, FIRST_PASSES, FILTERS, DEGREE = 7, 2, 3, 4

# Smallest cut of a filter, as a share of the largest eigenvalue.
SMALLEST_CUT = 1e-4
# With more items than this the iteration is on the rows of the matrix, if they are fewer: its vectors, 8 bytes for each
# of 25 and several copies of them, are then small. With fewer items both sides take the same time.
MANY_ITEMS = 1 << 18
# Up to so many rows of the matrix the products run item by item: their vectors are then in the processor's cache.
FEW_USERS = 1 << 17
# With more training rows than this one filter is applied, as a pass takes long. On drawn tables of 600 users and 2,000
# items, with and without noise, the products of the vectors then differ by 2 to 3 % (root mean square) from those after
# three filters; starting from the vectors of a third or a tenth of the users was no better than starting at random.
MOST_ROWS, FILTERS_OF_MANY_ROWS = 1 << 24, 1
# Parts of the items that are multiplied in parallel; the sum does not depend on the number of threads.
PARTS = 8

Product = Callable[[np.ndarray], np.ndarray]


def _on_rows(shape: tuple[int, int]) -> bool:
    """Whether the iteration is on the rows of a matrix of so many rows and items."""
    return shape[1] > max(MANY_ITEMS, shape[0])


@dataclass(frozen=True)
class Matrix:
    """A matrix that is known by its products.

    Attributes:
        shape: Rows and columns; the columns are items.
        times: The product with float64 (items, k).
        transposed_times: The product of its transpose with float64 (rows, k).
        gram: The product of R R' with float64 (rows, k), if there is a faster way than the two products.
    """

    shape: tuple[int, int]
    times: Product
    transposed_times: Product
    gram: Product | None = None


def principal_items(matrix: Matrix, skipped: int = 0, filters: int = FILTERS) -> tuple[np.ndarray, np.ndarray]:
    """The leading right singular vectors of a matrix, with their shrinkage.

    The iteration finds them as the eigenvectors of R' R; with many items and fewer rows it finds the left ones as those
    of R R', and the right ones from them as R' u / s.

    Args:
        matrix: The matrix R.
        skipped: Leave out the first so many vectors.
        filters: Number of Chebyshev filters.

    Returns:
        float64 (items, k) with at most `FACTORS` vectors, and float64 (k,) shrinkage 1 - (s' / s)^2 where s is the
        vector's singular value and s' the largest one that is left out.
    """
    shape, on_rows = matrix.shape, _on_rows(matrix.shape)
    there, back = (matrix.transposed_times, matrix.times) if on_rows else (matrix.times, matrix.transposed_times)

    def product(vectors: np.ndarray) -> np.ndarray:
        return matrix.gram(vectors) if on_rows and matrix.gram else back(there(vectors))

    width = min(skipped + FACTORS + 1, min(shape) - 1)
    nothing = np.zeros((shape[1], 1)), np.zeros(1)
    if width <= skipped + 1:
        return nothing
    size = shape[0] if on_rows else shape[1]
    basis = np.random.default_rng(0).normal(size=(size, min(width + OVERSAMPLING, min(shape))))
    for _ in range(FIRST_PASSES):
        basis = product(np.linalg.qr(basis).Q)
    for _ in range(filters):
        basis = _filtered(np.linalg.qr(basis).Q, product)
    basis = np.linalg.qr(basis).Q
    projected = there(basis)
    squares, turned = np.linalg.eigh(projected.T @ projected)
    order = np.argsort(-squares)[:width]
    values = np.sqrt(np.maximum(squares[order], 0))
    if values[0] == 0:
        return nothing
    if on_rows:
        vectors = projected @ (turned[:, order] / np.maximum(values, values[0] * SMALLEST_CUT))
    else:
        vectors = basis @ turned[:, order]
    noise, chosen = values[-1], values[skipped:-1]
    shares = 1 - np.square(np.divide(noise, chosen, out=np.ones(len(chosen)), where=chosen > noise))
    return vectors[:, skipped:-1], shares


def _filtered(basis: np.ndarray, product: Product) -> np.ndarray:
    """Strengthen the leading vectors by a Chebyshev polynomial that is small between 0 and the smallest Ritz value.

    Args:
        basis: float64 (size, k), orthonormal.
        product: The product of the symmetric matrix with float64 (size, k).

    Returns:
        float64 (size, k).
    """
    multiplied = product(basis)
    ritz, turned = np.linalg.eigh(basis.T @ multiplied)
    # Rounding makes the eigenvalues of a matrix of low rank tiny numbers of any sign.
    cut = max(float(ritz[0]), SMALLEST_CUT * float(ritz[-1]))
    if cut <= 0:
        return multiplied
    # T_{n+1}(x) = 2 x T_n(x) - T_{n-1}(x) at x = 2 A / cut - 1, from T_0 = 1 and T_1 = x.
    before, multiplied = basis @ turned, multiplied @ turned
    now = 2 / cut * multiplied - before
    for _ in range(DEGREE - 1):
        before, now = now, 2 * (2 / cut * product(now) - now) - before
    return now


@dataclass(frozen=True)
class Entries:
    """The rows as entries of a matrix of users, targets and items, R = D_user values D_item.

    Attributes:
        rows: The training rows.
        values: float32 (n, targets), 0 for rows that do not count.
        of_user: float64 (users, targets, 1), scales of the users.
        of_item: float64 (items, 1), scales of the items.
    """

    rows: TrainingRows
    values: np.ndarray
    of_user: np.ndarray
    of_item: np.ndarray

    @classmethod
    def of(cls, rows: TrainingRows, values: np.ndarray, user_weight: np.ndarray, item_weight: np.ndarray) -> Self:
        """Scale users and items by 1 / sqrt(prior + weight), float64 (targets, users) and (items,) weights."""
        of_user = 1 / np.sqrt(FACTORS_PRIOR + user_weight.T)[:, :, None]
        return cls(rows, values, of_user, 1 / np.sqrt(FACTORS_PRIOR + item_weight)[:, None])

    def of_users(self, vectors: np.ndarray) -> np.ndarray:
        """The product of R with float64 (items, k): float64 (users, targets, k)."""
        rows, scaled = self.rows, np.empty(vectors.shape, np.float32)
        np.multiply(self.of_item, vectors, out=scaled, casting="same_kind")
        sums = np.empty((rows.users, self.values.shape[1], vectors.shape[1]), np.float32)

        def of_part(given: UserPart) -> None:
            users, part, starts = given
            sums[users] = sums_of_item_vectors(starts, rows.item[part], self.values[part], scaled)
            rows.arrays.release(part)

        for _, done in Threads().in_order(of_part, parts_of_users(rows.starts)):
            done.result()
        return self.of_user * sums

    def matrix(self) -> Matrix:
        """R with users and targets as its rows."""
        rows, shape = self.rows, (len(self.of_user) * self.values.shape[1], self.rows.items)

        def times(vectors: np.ndarray) -> np.ndarray:
            return self.of_users(vectors).reshape(shape[0], -1)

        def transposed_times(vectors: np.ndarray) -> np.ndarray:
            scaled = (self.of_user * vectors.reshape(*self.of_user.shape[:2], -1)).astype(np.float32)
            sums = np.zeros((rows.items, scaled.shape[2]), np.float32)
            for users, part, starts in rows.parts_of_users():
                add_user_vectors(starts, rows.item[part], self.values[part], scaled[users], sums)
            return self.of_item * sums

        by_items = _on_rows(shape) and shape[0] <= FEW_USERS
        return Matrix(shape, times, transposed_times, self._gram() if by_items else None)

    def _gram(self) -> Product:
        """The product of R R' with float64 (users * targets, k), item by item."""
        rows, of_user = self.rows, self.of_user
        item_starts, user = rows.by_item.starts, rows.by_item.other
        value = rows.in_order_of_items(item_starts, self.values)
        scale = np.square(self.of_item[:, 0]).astype(np.float32)

        def product(vectors: np.ndarray) -> np.ndarray:
            scaled = (of_user * vectors.reshape(*of_user.shape[:2], -1)).astype(np.float32)

            def of_part(items: slice) -> np.ndarray:
                starts = item_starts[items.start : items.stop + 1]
                part = slice(int(starts[0]), int(starts[-1]))
                sums = products_over_items(starts - part.start, user[part], value[part], scale[items], scaled)
                rows.arrays.release(part)
                return sums

            total = np.zeros(scaled.shape)
            for _, done in Threads().in_order(of_part, slices(rows.items, -(-rows.items // PARTS))):
                total += done.result()
            return (of_user * total).reshape(vectors.shape)

        return product

    def factors(self, skipped: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Compute user and item vectors whose inner products approximate the values.

        Args:
            skipped: Number of leading singular vectors to leave out.

        Returns:
            float32 (users, targets, k), and float32 (items, k).
        """
        filters = FILTERS if len(self.rows) <= MOST_ROWS else FILTERS_OF_MANY_ROWS
        vectors, shares = principal_items(self.matrix(), skipped, filters)
        return (
            (self.of_user * self.of_users(vectors * shares)).astype(np.float32),
            (self.of_item * vectors).astype(np.float32),
        )


def label_factors(signals: Signals) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the residual SVD of the labels, for at least one target.

    Returns:
        float32 (users, targets, k), and float32 (items, k), which the targets share.
    """
    scale = signals.overdispersion / signals.residuals.shape[1]
    item_weight = scale * signals.by_item(signals.hessian_weight)
    return Entries.of(signals.rows, signals.residuals, signals.user_weight, item_weight).factors()


def exposure_factors(signals: Signals) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the SVD of the exposures. The first singular vector is the items' popularity and is left out.

    Returns:
        float32 (users, 1, k), and float32 (items, k).
    """
    once = signals.once[:, 0]
    weights = signals.by_user(once)[None], signals.by_item(once)
    return Entries.of(signals.rows, signals.once, *weights).factors(skipped=1)
