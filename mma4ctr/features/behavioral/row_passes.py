"""Passes over the training rows, compiled with numba.

Each pass reads the rows once and keeps no temporary value per row, so memory grows with users and items and with the
few arrays that the caller holds. A compiled pass releases the GIL, and its result does not depend on the number of
threads.
"""

import math

import numpy as np
from numba import njit

SMALLEST_HESSIAN_WEIGHT = 1e-6
# Rows whose vectors are multiplied at once, by BLAS; they fit the processor's cache.
ROWS_OF_A_PRODUCT = 256
# An inner product may be reordered and fused, so that it uses the processor's vector instructions.
FLOAT_MATH = {"contract", "nsz", "reassoc"}


@njit(nogil=True, cache=True)
def start_newton_step(label: np.ndarray, included: np.ndarray, state: np.ndarray) -> None:
    """Write Hessian weight p (1 - p) and gradient label - p of each row; both are 0 for rows that are not included.

    Args:
        label: uint8 (n,) of 0 and 1.
        included: bool (n,).
        state: float32 (3, n), logits, and Hessian weights and gradients, which are written.
    """
    logit, weight, gradient = state
    for row in range(len(label)):
        if included[row]:
            probability = 1 / (1 + math.exp(-np.float64(logit[row])))
            weight[row] = max(probability * (1 - probability), SMALLEST_HESSIAN_WEIGHT)
            gradient[row] = label[row] - probability
        else:
            weight[row] = 0
            gradient[row] = 0


@njit(nogil=True, cache=True)
def sums_by_code(codes: np.ndarray, values: np.ndarray, size: int) -> np.ndarray:
    """The sum of float32 values (n,) of each code, int (n,): float64 (size,)."""
    sums = np.zeros(size)
    for row in range(len(codes)):
        sums[codes[row]] += values[row]
    return sums


@njit(nogil=True, cache=True)
def move_and_sum(
    change: np.ndarray, codes: np.ndarray, summed_by: np.ndarray, size: int, state: np.ndarray
) -> np.ndarray:
    """Add each code's change to the logits, and sum the new gradients; they follow to first order.

    Args:
        change: float64 (codes,), added to the logits of the rows with the code.
        codes: int (n,).
        summed_by: int (n,), the codes by which the gradients are summed.
        size: Number of these codes.
        state: float32 (3, n), logits and gradients, which change, and Hessian weights between them.

    Returns:
        float64 (size,), the sums of the gradients.
    """
    logit, weight, gradient = state
    sums = np.zeros(size)
    for row in range(len(codes)):
        moved = change[codes[row]]
        logit[row] += moved
        gradient[row] -= weight[row] * moved
        sums[summed_by[row]] += gradient[row]
    return sums


@njit(nogil=True, cache=True)
def counts_by_fold(fold: np.ndarray, folds: int, codes: np.ndarray, size: int, label: np.ndarray) -> np.ndarray:
    """Count the rows and the positives of each fold and code.

    Args:
        fold: uint8 (n,).
        folds: Number of folds.
        codes: int (n,).
        size: Number of codes.
        label: uint8 (n,) of 0 and 1.

    Returns:
        int32 (2, folds, size): rows and positives.
    """
    counts = np.zeros((2, folds, size), np.int32)
    for row in range(len(codes)):
        counts[0, fold[row], codes[row]] += 1
        counts[1, fold[row], codes[row]] += label[row]
    return counts


@njit(nogil=True, cache=True)
def add_residuals(
    label: np.ndarray,
    included: np.ndarray,
    logit: np.ndarray,
    residual: np.ndarray,
    weight: np.ndarray,
) -> None:
    """Add label - p to the residuals and p (1 - p) to the Hessian weights of the rows that are included.

    Args:
        label: uint8 (n,) of 0 and 1.
        included: bool (n,).
        logit: float64 (n,).
        residual: float32 (n,), changed.
        weight: float32 (n,), changed.
    """
    for row in range(len(label)):
        if included[row]:
            probability = 1 / (1 + math.exp(-logit[row]))
            residual[row] += label[row] - probability
            weight[row] += probability * (1 - probability)


@njit(nogil=True, cache=True)
def sums_of_item_vectors(starts: np.ndarray, item: np.ndarray, values: np.ndarray, vectors: np.ndarray) -> np.ndarray:
    """For each user, the sum over its rows of a value times the item's vector.

    Args:
        starts: int64 (users + 1,), where the rows of each user begin; rows are in order of users.
        item: int32 (n,).
        values: float32 (n, targets).
        vectors: float32 (items, k).

    Returns:
        float32 (users, targets, k).
    """
    users, targets, width = len(starts) - 1, values.shape[1], vectors.shape[1]
    sums = np.zeros((users, targets, width), np.float32)
    gathered = np.empty((ROWS_OF_A_PRODUCT, width), np.float32)
    for user in range(users):
        for first in range(starts[user], starts[user + 1], ROWS_OF_A_PRODUCT):
            last = min(first + ROWS_OF_A_PRODUCT, starts[user + 1])
            for row in range(first, last):
                vector = vectors[item[row]]
                for column in range(width):
                    gathered[row - first, column] = vector[column]
            sums[user] += np.dot(values[first:last].T, gathered[: last - first])
    return sums


@njit(nogil=True, cache=True)
def sums_of_user_vectors(
    starts: np.ndarray, item: np.ndarray, values: np.ndarray, vectors: np.ndarray, items: int
) -> np.ndarray:
    """For each item, the sum over its rows and the targets of a value times the user's vector.

    Args:
        starts: int64 (users + 1,), where the rows of each user begin; rows are in order of users.
        item: int32 (n,).
        values: float32 (n, targets).
        vectors: float32 (users, targets, k).
        items: Number of items.

    Returns:
        float32 (items, k).
    """
    sums = np.zeros((items, vectors.shape[2]), np.float32)
    for user in range(len(starts) - 1):
        for first in range(starts[user], starts[user + 1], ROWS_OF_A_PRODUCT):
            last = min(first + ROWS_OF_A_PRODUCT, starts[user + 1])
            made = np.dot(values[first:last], vectors[user])
            for row in range(first, last):
                of_item = sums[item[row]]
                for column in range(len(of_item)):
                    of_item[column] += made[row - first, column]
    return sums


@njit(nogil=True, cache=True)
def products_over_items(
    starts: np.ndarray, user: np.ndarray, values: np.ndarray, scale: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """The sum over items of s c c' X: c is the item's column of the sparse matrix of values, s its scale.

    Where items are many and users few, the users' vectors are in the processor's cache and those of items are not
    needed.

    Args:
        starts: int64 (items + 1,), where the rows of each item begin; rows are in order of items.
        user: int32 (n,).
        values: float32 (n, targets).
        scale: float32 (items,).
        vectors: float32 (users, targets, k), X.

    Returns:
        float32 (users, targets, k).
    """
    _, targets, width = vectors.shape
    sums = np.zeros(vectors.shape, np.float32)
    total = np.empty(width, np.float32)
    for item in range(len(starts) - 1):
        total[:] = 0
        for row in range(starts[item], starts[item + 1]):
            for target in range(targets):
                value, vector = values[row, target], vectors[user[row], target]
                for column in range(width):
                    total[column] += value * vector[column]
        total *= scale[item]
        for row in range(starts[item], starts[item + 1]):
            for target in range(targets):
                value, of_user = values[row, target], sums[user[row], target]
                for column in range(width):
                    of_user[column] += value * total[column]
    return sums


@njit(nogil=True, cache=True)
def sums_of_products(
    starts: np.ndarray, rows: np.ndarray, other: np.ndarray, included: np.ndarray, vectors: np.ndarray
) -> np.ndarray:
    """For each user (or item), the sum of the products v v' over its rows that are included.

    Args:
        starts: int64 (size + 1,), where the rows of each user (or item) begin in `rows`.
        rows: int32 (n,), positions of the rows in order of users (or items).
        other: int32 (n,), the item (or user) of each row.
        included: bool (n,).
        vectors: float32 (m, k), the vectors v of `other`.

    Returns:
        float32 (size, k, k).
    """
    size, width = len(starts) - 1, vectors.shape[1]
    sums = np.zeros((size, width, width), np.float32)
    gathered = np.empty((ROWS_OF_A_PRODUCT, width), np.float32)
    for index in range(size):
        count = 0
        for place in range(starts[index], starts[index + 1]):
            row = rows[place]
            if included[row]:
                gathered[count] = vectors[other[row]]
                count += 1
            if count and (count == ROWS_OF_A_PRODUCT or place == starts[index + 1] - 1):
                part = gathered[:count]
                sums[index] += np.dot(part.T, part)
                count = 0
    return sums


@njit(nogil=True, cache=True)
def rows_in_order(codes: np.ndarray, size: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows in order of their codes, rows with the same code in their own order; a counting sort.

    Args:
        codes: int32 (n,), 0 ... size - 1.
        size: Number of codes.

    Returns:
        int64 (size + 1,), where the rows of each code begin, and int32 (n,) positions of the rows.
    """
    starts = np.zeros(size + 1, np.int64)
    for code in codes:
        starts[code + 1] += 1
    starts = np.cumsum(starts)
    place, rows = starts[:-1].copy(), np.empty(len(codes), np.int32)
    for row in range(len(codes)):
        rows[place[codes[row]]] = row
        place[codes[row]] += 1
    return starts, rows


@njit(nogil=True, cache=True, fastmath=FLOAT_MATH)
def pair_scores(user: np.ndarray, item: np.ndarray, left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """The inner products of user and item vectors.

    Args:
        user: int32 (n,).
        item: int32 (n,).
        left: float32 (users, k).
        right: float32 (items, k).

    Returns:
        float32 (n,).
    """
    scores = np.empty(len(user), np.float32)
    for row in range(len(user)):
        total = np.float32(0)
        for column in range(left.shape[1]):
            total += left[user[row], column] * right[item[row], column]
        scores[row] = total
    return scores
