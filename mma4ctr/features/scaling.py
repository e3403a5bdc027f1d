"""Scaling of the columns of a feature matrix, fitted on the training rows: z-score, or min-max as published."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import numpy as np

from mma4ctr.runtime.parallel import slices

SCALINGS = ("zscore", "minmax")
# Rows of a table whose values are in memory in float64 at a time.
ROWS_AT_A_TIME = 1 << 20


@dataclass(frozen=True)
class Scaling:
    """A linear scaling of columns: `(values - shift) / scale`. A constant column is only shifted.

    Attributes:
        shift: float64 (width,).
        scale: float64 (width,), without zeros.
    """

    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def _of(cls, shift: np.ndarray, scale: np.ndarray, constant: np.ndarray) -> Self:
        return cls(shift, np.where(constant, 1.0, scale))

    @classmethod
    def between(cls, low: np.ndarray, high: np.ndarray) -> Self:
        """Scale columns to 0 ... 1, given their minimum and maximum, float64 (width,) each."""
        return cls._of(low, high - low, high == low)

    @classmethod
    def min_max(cls, values: np.ndarray) -> Self:
        """Scale the columns of an array, float (rows, width), to 0 ... 1."""
        return cls.between(values.min(axis=0).astype(np.float64), values.max(axis=0).astype(np.float64))

    @classmethod
    def standard(cls, mean: np.ndarray, variance: np.ndarray) -> Self:
        """Scale columns to mean 0 and variance 1, given both, float64 (width,) each."""
        # Rounding gives a constant column a variance of about its square times 1e-16 instead of 0.
        constant = variance <= 1e-12 * np.maximum(mean**2, 1e-12)
        return cls._of(mean, np.sqrt(np.maximum(variance, 0)), constant)

    def apply(self, values: np.ndarray) -> np.ndarray:
        """Scale an array (rows, width); returns float32."""
        scaled = np.empty(values.shape, np.float32)
        for part in slices(len(values), ROWS_AT_A_TIME):
            scaled[part] = (values[part] - self.shift) / self.scale
        return scaled


def fit_scaling(table: np.ndarray, times: np.ndarray, method: str) -> Scaling:
    """Fit a scaling on the training rows without gathering them from the table.

    Args:
        table: float (table rows, width).
        times: int64 (table rows,), number of training rows that use each table row.
        method: `zscore`, or `minmax` as published.

    Returns:
        The scaling.
    """
    if method == "minmax":
        return Scaling.min_max(table[times > 0])
    rows = times.sum()

    def mean_of(function: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        """The mean over the training rows of a function of the table's values in float64: float64 (width,)."""
        total = np.zeros(table.shape[1])
        for part in slices(len(table), ROWS_AT_A_TIME):
            used = times[part] > 0
            total += (times[part][used] / rows) @ function(table[part][used].astype(np.float64))
        return total

    mean = mean_of(lambda values: values)
    return Scaling.standard(mean, mean_of(lambda values: (values - mean) ** 2))


class ColumnSums:
    """Sums of columns from which their scaling is fitted; rows come in parts.

    Args:
        width: Number of columns.
    """

    def __init__(self, width: int) -> None:
        self._rows, self._total, self._squares = 0, np.zeros(width), np.zeros(width)
        self._low, self._high = np.full(width, np.inf), np.full(width, -np.inf)

    def add(self, values: np.ndarray) -> None:
        """Add some rows, float (n, width)."""
        if not len(values):
            return
        self._rows += len(values)
        self._low, self._high = np.minimum(self._low, values.min(axis=0)), np.maximum(self._high, values.max(axis=0))
        self._total += values.sum(axis=0, dtype=np.float64)
        self._squares += np.square(values, dtype=np.float64).sum(axis=0)

    def scaling(self, method: str) -> Scaling:
        """The scaling of the columns, `zscore` or `minmax`."""
        if method == "minmax":
            return Scaling.between(self._low.astype(np.float64), self._high.astype(np.float64))
        mean, square = self._total / max(self._rows, 1), self._squares / max(self._rows, 1)
        return Scaling.standard(mean, square - mean**2)
