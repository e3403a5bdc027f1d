"""Codes of devices, which may be numbers, texts, or both in one column."""

import numpy as np

from mma4ctr.datasets.columns import Ids


class Codes:
    """Small whole numbers for devices: numbers as they are, texts from 0 on in the order in which they appear.

    No two devices get the same code. Where the column has numbers too, a text gets one below all of them.
    """

    def __init__(self) -> None:
        self._of_text: dict[int, int] = {}
        self._of_number: dict[int, int] = {}  # numbers that a text had taken before they appeared
        self._taken: set[int] = set()
        self._lowest: int | None = None  # of all codes, once there is a number

    def of(self, ids: Ids) -> np.ndarray:
        """int64 (n,): the codes of some more devices."""
        values = ids.values.copy()
        named = np.zeros(len(values), bool)
        named[ids.named] = True
        numbers = values[~named]
        if len(numbers):
            lowest = int(numbers.min())
            self._lowest = min(lowest, 0 if self._lowest is None else self._lowest)
            for code in sorted(self._taken & set(np.unique(numbers).tolist())) if self._taken else ():
                if code not in self._of_number:
                    self._of_number[code] = self._next()
            values[~named] = _translated(numbers, self._of_number)
        words = ids.values[ids.named]
        kinds, first = np.unique(words, return_index=True)
        for kind in kinds[np.argsort(first)].tolist():
            if kind not in self._of_text:
                self._of_text[kind] = self._next()
        values[ids.named] = _translated(words, self._of_text)
        return values

    def _next(self) -> int:
        if self._lowest is None:
            code = len(self._of_text)
        else:
            code = self._lowest = self._lowest - 1
        self._taken.add(code)
        return code


def _translated(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """int64 (n,): values that a table has, by it; others as they are."""
    kinds, where = np.unique(values, return_inverse=True)
    codes = np.array([table.get(kind, kind) for kind in kinds.tolist()], np.int64)
    return codes[where] if len(kinds) else values
