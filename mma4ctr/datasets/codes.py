"""Integer codes of devices, whose column may contain numbers, text, or both."""

import numpy as np

from mma4ctr.datasets.columns import Ids


class Codes:
    """Integer codes for devices: a number is its own code, texts are numbered from 0 in order of appearance.

    No two devices get the same code. If the column also has numbers, a text gets a code below all of them.
    """

    def __init__(self) -> None:
        self._of_text: dict[int, int] = {}
        self._of_number: dict[int, int] = {}  # for numbers that were already the code of a text
        self._taken: set[int] = set()
        self._lowest: int | None = None  # lowest code, once there is a number

    def of(self, ids: Ids) -> np.ndarray:
        """Return int64 (n,): the codes of the next part of the column."""
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
            values[~named] = _mapped(numbers, self._of_number)
        words = ids.values[ids.named]
        distinct, first = np.unique(words, return_index=True)
        for word in distinct[np.argsort(first)].tolist():
            if word not in self._of_text:
                self._of_text[word] = self._next()
        values[ids.named] = _mapped(words, self._of_text)
        return values

    def _next(self) -> int:
        if self._lowest is None:
            code = len(self._of_text)
        else:
            code = self._lowest = self._lowest - 1
        self._taken.add(code)
        return code


def _mapped(values: np.ndarray, table: dict[int, int]) -> np.ndarray:
    """Return int64 (n,): values mapped by the table; values that are not in it stay."""
    distinct, inverse = np.unique(values, return_inverse=True)
    codes = np.array([table.get(value, value) for value in distinct.tolist()], np.int64)
    return codes[inverse] if len(distinct) else values
