"""How often users act and items are acted on, from some rows: the additive part of features plus (see plus.py).

    logit P(action) ~ b + a_user + q_item + g . x_item

with x the item's content. The rates a and q are found by Newton steps, g by a ridge regression, each drawn to zero as
far as its spread over users or items says.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy import sparse
from scipy.special import expit

# Alternations between user rates, item rates and content: more moved no score.
ROUNDS = 3
# How far a rate moves in one step, in units of the logit.
LARGEST_STEP = 2.0
# Items whose content is held in float64 at a time.
ITEMS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Evidence:
    """The training rows, ordered by user: int64 `user`, `item`, and their `fold` 0 ... folds-1."""

    user: np.ndarray
    item: np.ndarray
    fold: np.ndarray
    users: int
    items: int
    folds: int

    def without(self, block: int) -> np.ndarray:
        """int64 positions of the rows that the tables of a block are made from: all but those of its fold."""
        return np.flatnonzero(self.fold != block)


def beyond_rates(label: np.ndarray, logit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of rows (n,): label less probability, and probability times its complement; both float64."""
    chance = expit(logit)
    return label - chance, chance * (1 - chance)


def weighted_products(content: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The sum of w x x' over items: float64 (k, k) of content float32 (items, k) and weights (items,)."""
    total = np.zeros((content.shape[1],) * 2)
    for start in range(0, len(content), ITEMS_AT_A_TIME):
        part = content[start : start + ITEMS_AT_A_TIME].astype(np.float64)
        total += (part.T * weight[start : start + ITEMS_AT_A_TIME]) @ part
    return total


def weighted_sum(content: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The sum of w x over items: float64 (k,) of content float32 (items, k) and weights (items,)."""
    total = np.zeros(content.shape[1])
    for start in range(0, len(content), ITEMS_AT_A_TIME):
        total += weight[start : start + ITEMS_AT_A_TIME] @ content[start : start + ITEMS_AT_A_TIME]
    return total


def _drawn_to_zero(
    effect: np.ndarray, slope: np.ndarray, weight: np.ndarray, spread: float
) -> tuple[np.ndarray, float]:
    """One Newton step of effects (n,) with prior variance `spread`, and the variance that they show (an EM step).

    Args:
        slope: sums of label less probability. weight: sums of probability times its complement.
    """
    precision = weight + 1 / spread
    # Of a rare action the first steps overshoot: far out the weight vanishes, and the next step has no bound.
    moved = effect + np.clip((slope + weight * effect) / precision - effect, -LARGEST_STEP, LARGEST_STEP)
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
    for _ in range(ROUNDS):

        def slopes(index: np.ndarray, size: int, rates: Rates) -> tuple[np.ndarray, np.ndarray]:
            left, weight = beyond_rates(label, rates.logit(user, item))
            return np.bincount(index, left, size), np.bincount(index, weight, size)

        effect, by_user = _drawn_to_zero(found.user, *slopes(user, users, found), by_user)
        found = Rates(found.base, effect, found.item, found.content)
        slope, weight = slopes(item, items, found)
        # An item counts for the content's regression as far as it has rows, but at most once: its own rate varies too.
        trust = weight / (1 + weight * by_item)
        target = np.where(weight > 0, found.content + found.item + slope / np.maximum(weight, 1e-12), 0)
        product = weighted_products(content, trust) + np.eye(width)
        coefficients = np.linalg.solve(product, weighted_sum(content, trust * target))
        moved = (content @ coefficients.astype(np.float32)).astype(np.float64)
        found = Rates(found.base, found.user, found.item + found.content - moved, moved)
        effect, by_item = _drawn_to_zero(found.item, slope, weight, by_item)
        found = Rates(found.base, found.user, effect, moved)
    return found


@dataclass(frozen=True)
class Signals:
    """The rows of a block, ordered by user, and what their labels say beyond the rates.

    Attributes:
        user, item: int64 (n,). users, items: how many there are.
        labels, logits: (n,) of each target: 0/1, and what the rates say.
        left, weight: float64 (n,): label less probability, and probability times its complement, summed over the
            targets and divided by `repeats`.
        repeats: how far targets say the same: 1 where they are independent given the rates, 2 for a target that stands
            twice.
    """

    user: np.ndarray
    item: np.ndarray
    users: int
    items: int
    labels: list[np.ndarray]
    logits: list[np.ndarray]
    left: np.ndarray
    weight: np.ndarray
    repeats: float

    def table(self, values: np.ndarray) -> sparse.csr_matrix:
        """Values (n,) of the rows as a matrix of users and items."""
        return sparse.csr_matrix((values, (self.user, self.item)), shape=(self.users, self.items))


def signals_of(
    evidence: Evidence, block: int, labels: Mapping[str, np.ndarray], rates: Mapping[str, list[Rates]]
) -> Signals:
    """What a block sees."""
    seen = evidence.without(block)
    user, item = evidence.user[seen], evidence.item[seen]
    logits = [rates[target][block].logit(user, item) for target in labels]
    left, weight = np.zeros(len(seen)), np.zeros(len(seen))
    for label, logit in zip(labels.values(), logits, strict=True):
        of_target, weight_of_target = beyond_rates(label[seen], logit)
        left += of_target
        weight += weight_of_target
    repeats = max(float(left @ left) / max(float(weight.sum()), 1e-12), 1e-3)
    told = [label[seen] for label in labels.values()]
    return Signals(user, item, evidence.users, evidence.items, told, logits, left / repeats, weight / repeats, repeats)
