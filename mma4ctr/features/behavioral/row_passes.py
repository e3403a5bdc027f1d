"""Passes over the training rows, compiled with numba.

Each pass reads the rows that it is given once and keeps no temporary value per row. The caller gives it the rows in
parts (`RowArrays.parts`); sums go on from one part to the next, so the result does not depend on the parts. A compiled
pass releases the GIL, and its result does not depend on the number of threads.
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
def start_newton_step(
    label: np.ndarray, included: np.ndarray, state: tuple[np.ndarray, np.ndarray, np.ndarray]
) -> None:
    """Write Hessian weight p (1 - p) and gradient label - p of each row; both are 0 for rows that are not included.

    Args:
        label: uint8 (n,) of 0 and 1.
        included: bool (n,).
        state: float32 (n,) logits, and Hessian weights and gradients, which are written.
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
def add_by_code(codes: np.ndarray, values: np.ndarray, sums: np.ndarray) -> None:
    """Add float32 values (n,) to the sums of their codes, int (n,): float64 (size,)."""
    for row in range(len(codes)):
        sums[codes[row]] += values[row]


@njit(nogil=True, cache=True)
def count_codes(codes: np.ndarray, counts: np.ndarray) -> None:
    """Count the rows of each code, int (n,): int64 (codes,), to which they are added."""
    for code in codes:
        counts[code] += 1


@njit(nogil=True, cache=True)
def move_and_sum(
    change: np.ndarray,
    codes: np.ndarray,
    summed_by: np.ndarray,
    state: tuple[np.ndarray, np.ndarray, np.ndarray],
    sums: np.ndarray,
) -> None:
    """Add each code's change to the logits, and sum the new gradients; they follow to first order.

    Args:
        change: float64 (codes,), added to the logits of the rows with the code.
        codes: int (n,).
        summed_by: int (n,), the codes by which the gradients are summed.
        state: float32 (n,) logits, Hessian weights and gradients; logits and gradients change.
        sums: float64 (codes of `summed_by`,), to which the gradients are added.
    """
    logit, weight, gradient = state
    for row in range(len(codes)):
        moved = change[codes[row]]
        logit[row] += moved
        gradient[row] -= weight[row] * moved
        sums[summed_by[row]] += gradient[row]


@njit(nogil=True, cache=True)
def add_counts(fold: np.ndarray, codes: np.ndarray, label: np.ndarray, counts: np.ndarray) -> None:
    """Count the rows and the positives of each fold and code.

    Args:
        fold: uint8 (n,).
        codes: int (n,).
        label: uint8 (n,) of 0 and 1.
        counts: int32 (2, folds, codes), rows and positives, to which they are added.
    """
    for row in range(len(codes)):
        counts[0, fold[row], codes[row]] += 1
        counts[1, fold[row], codes[row]] += label[row]


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
def add_user_vectors(
    starts: np.ndarray, item: np.ndarray, values: np.ndarray, vectors: np.ndarray, sums: np.ndarray
) -> None:
    """Sum for each item, over its rows and the targets, a value times the user's vector.

    Args:
        starts: int64 (users + 1,), where the rows of each user begin; rows are in order of users.
        item: int32 (n,).
        values: float32 (n, targets).
        vectors: float32 (users, targets, k).
        sums: float32 (items, k), to which they are added.
    """
    for user in range(len(starts) - 1):
        for first in range(starts[user], starts[user + 1], ROWS_OF_A_PRODUCT):
            last = min(first + ROWS_OF_A_PRODUCT, starts[user + 1])
            made = np.dot(values[first:last], vectors[user])
            for row in range(first, last):
                of_item = sums[item[row]]
                for column in range(len(of_item)):
                    of_item[column] += made[row - first, column]


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
    starts: np.ndarray, other: np.ndarray, fold: np.ndarray, left_out: int, vectors: np.ndarray
) -> np.ndarray:
    """For each user (or item), the sum of the products v v' over its rows outside a fold.

    Args:
        starts: int64 (size + 1,), where the rows of each user (or item) begin; rows are in order of users (or items).
        other: int32 (n,), the item (or user) of each row.
        fold: uint8 (n,).
        left_out: Number of the fold.
        vectors: float32 (m, k), the vectors v of `other`.

    Returns:
        float32 (size, k, k).
    """
    size, width = len(starts) - 1, vectors.shape[1]
    sums = np.zeros((size, width, width), np.float32)
    gathered = np.empty((ROWS_OF_A_PRODUCT, width), np.float32)
    for index in range(size):
        count = 0
        for row in range(starts[index], starts[index + 1]):
            if fold[row] != left_out:
                gathered[count] = vectors[other[row]]
                count += 1
            if count and (count == ROWS_OF_A_PRODUCT or row == starts[index + 1] - 1):
                part = gathered[:count]
                sums[index] += np.dot(part.T, part)
                count = 0
    return sums


@njit(nogil=True, cache=True)
def rows_within(user: np.ndarray, time: np.ndarray, window: float) -> np.ndarray:
    """Count earlier rows of each row's user that are at most `window` older.

    Args:
        user: int (n,), in order.
        time: int or float (n,), in order within each user.
        window: In units of `time`.

    Returns:
        int64 (n,).
    """
    counts = np.empty(len(user), np.int64)
    oldest = 0
    for row in range(len(user)):
        if user[row] != user[oldest]:
            oldest = row
        while np.float64(time[row]) - np.float64(time[oldest]) > window:
            oldest += 1
        counts[row] = row - oldest
    return counts


@njit(nogil=True, cache=True)
def put_in_order(codes: np.ndarray, values: np.ndarray, place: np.ndarray, made: np.ndarray) -> None:
    """Put the values of rows in order of their codes; a counting sort.

    Args:
        codes: int (n,).
        values: (n, ...).
        place: int64 (codes,), where the next row of each code goes; moved on.
        made: (all rows, ...), of which some are written.
    """
    for row in range(len(codes)):
        made[place[codes[row]]] = values[row]
        place[codes[row]] += 1


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
