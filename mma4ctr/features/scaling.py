"""Scaling of the columns of a feature matrix: z-score, or min-max as published; fitted on training rows."""

from dataclasses import dataclass
from typing import Self

import numpy as np

SCALINGS = ("zscore", "minmax")


@dataclass(frozen=True)
class Scaling:
    """A column's `shift` is subtracted, then it is divided by its `scale`: float64 (width,) each."""

    shift: np.ndarray
    scale: np.ndarray

    @classmethod
    def between(cls, low: np.ndarray, high: np.ndarray) -> Self:
        """From the least and the largest value of each column to 0 ... 1."""
        spread = high - low
        return cls(low, np.where(spread > 0, spread, 1.0))

    @classmethod
    def about(cls, mean: np.ndarray, variance: np.ndarray) -> Self:
        """To mean 0 and variance 1."""
        # Rounding leaves a constant column a variance of about its square times 1e-16, not zero.
        constant = variance <= 1e-12 * np.maximum(mean**2, 1e-12)
        return cls(mean, np.sqrt(np.where(constant, 1.0, variance)))

    def apply(self, part: np.ndarray) -> np.ndarray:
        scaled: np.ndarray = ((part - self.shift) / self.scale).astype(np.float32)
        return scaled


def fit_scaling(part: np.ndarray, times: np.ndarray, method: str) -> Scaling:
    """Fit on training rows without making them: table row i stands for `times[i]` of them.

    Args:
        part: float (table rows, width).
        times: int64 (table rows,), training rows that use each table row.
        method: `zscore`, or `minmax` as published.

    A column that is constant on the training rows is only shifted.
    """
    used = times > 0
    if method == "minmax":
        return Scaling.between(part[used].min(axis=0).astype(np.float64), part[used].max(axis=0).astype(np.float64))
    values, weights = part[used].astype(np.float64), times[used] / times.sum()
    mean = weights @ values
    return Scaling.about(mean, weights @ (values - mean) ** 2)
