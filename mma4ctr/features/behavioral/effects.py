"""Crossed random effects of users, items, their categories and the context: the additive part of features plus.

    logit P(action) = b + U[user] + I[item] + sum_k c_k[context_k]
    U[user] = a[user] + sum_j alpha_j[category_j of the user]
    I[item] = q[item] + sum_j beta_j[category_j of the item] + x_item . g

All effects have normal priors with mean 0, so users, items and categories with few rows shrink towards 0, and an item
without rows has the effects of its author, its music and its content. The modes are found by Newton steps, block after
block (Gauss-Seidel); the prior variances by MacKay's update s = sum e^2 / sum (1 - 1 / (s (w + 1 / s))), w the sum of
the Hessian weights of an effect. It is a generalized linear mixed model with crossed random effects, fitted by the
Laplace approximation (Breslow and Clayton 1993; MacKay 1992 for the variances, which EM reaches far more slowly).

Effects of categories of a user only need the sums of a user's rows, so a pass over the rows is needed for each side and
each context column, not for each effect.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit

# Newton steps, and rounds of all effects within each of them.
STEPS, ROUNDS = 5, 3
# Largest change of an effect in one round, in units of the logit.
LARGEST_CHANGE = 2.0
FIRST_VARIANCE, SMALLEST_VARIANCE, LARGEST_VARIANCE = 0.1, 1e-4, 4.0
SMALLEST_HESSIAN_WEIGHT = 1e-6
# Items whose content is held in float64 at a time.
ITEMS_AT_A_TIME = 1 << 16


@dataclass(frozen=True)
class Side:
    """The users or the items.

    Attributes:
        size: Number of users or items.
        categories: By name, int (size,) code of each user's or item's category, from 0.
        content: float32 (size, k), or None.
    """

    size: int
    categories: Mapping[str, np.ndarray] = field(default_factory=dict)
    content: np.ndarray | None = None


@dataclass(frozen=True)
class SideEffects:
    """The effects of one side.

    Attributes:
        own: float64 (size,), what a user or item adds to its categories and content.
        categories: By name, float64 (categories,).
        content: float64 (size,), the effect of the content; zeros without content.
        coefficients: float64 (k,) of the content.
        total: float64 (size,), the sum of all of them.
    """

    own: np.ndarray
    categories: dict[str, np.ndarray]
    content: np.ndarray
    coefficients: np.ndarray
    total: np.ndarray


@dataclass(frozen=True)
class Effects:
    """A fitted model.

    Attributes:
        base: The intercept.
        user: Effects of the users.
        item: Effects of the items.
        context: By name, float64 (categories,).
    """

    base: float
    user: SideEffects
    item: SideEffects
    context: dict[str, np.ndarray]

    def logit(self, user: np.ndarray, item: np.ndarray, context: Mapping[str, np.ndarray]) -> np.ndarray:
        """float64 (n,) logits of rows, given int (n,) users, items and codes of context columns."""
        logit: np.ndarray = self.base + self.user.total[user] + self.item.total[item]
        for name, effect in self.context.items():
            logit += effect[context[name]]
        return logit


class _Effect:
    """One random effect while it is fitted."""

    def __init__(self, size: int) -> None:
        self.value: np.ndarray = np.zeros(size)
        self.weight: np.ndarray = np.zeros(size)
        self.variance = FIRST_VARIANCE

    def change(self, gradient: np.ndarray) -> np.ndarray:
        """Move to the mode given float64 (size,) sums of the gradient; returns the change."""
        precision = self.weight + 1 / self.variance
        change = np.clip((gradient - self.value / self.variance) / precision, -LARGEST_CHANGE, LARGEST_CHANGE)
        self.value += change
        known = self.weight > 0
        determined = float(np.sum(1 - 1 / (self.variance * precision[known])))
        variance = float(np.sum(self.value[known] ** 2)) / max(determined, 1e-9)
        self.variance = min(max(variance, SMALLEST_VARIANCE), LARGEST_VARIANCE)
        return change


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


class _SideFit:
    """The effects of one side while they are fitted."""

    def __init__(self, side: Side, index: np.ndarray) -> None:
        self.side, self.index = side, index
        self.codes = dict(side.categories)
        self.effects = {name: _Effect(int(codes.max(initial=0)) + 1) for name, codes in self.codes.items()}
        self.own = _Effect(side.size)
        width = 0 if side.content is None else side.content.shape[1]
        self.coefficients = np.zeros(width)
        self.content = np.zeros(side.size)

    def start_step(self, weight: np.ndarray) -> None:
        """Take the Hessian weights of the rows, float64 (n,)."""
        self.own.weight = np.bincount(self.index, weight, self.side.size).astype(np.float64)
        for name, effect in self.effects.items():
            effect.weight = np.bincount(self.codes[name], self.own.weight, len(effect.value))
        if self.side.content is not None:
            # An item's weight in the regression grows with its rows up to a limit, since its own effect varies too.
            self.trust = self.own.weight / (1 + self.own.weight * self.own.variance)
            self.products = weighted_products(self.side.content, self.trust) + np.eye(len(self.coefficients))

    def change(self, gradient: np.ndarray) -> np.ndarray:
        """One round over the side's effects, given the rows' gradient float64 (n,); returns each total's change."""
        # Sums over no rows are integers in numpy.
        sums: np.ndarray = np.bincount(self.index, gradient, self.side.size).astype(np.float64)
        total = np.zeros(self.side.size)

        def moved(change: np.ndarray) -> None:
            nonlocal sums, total
            total += change
            sums -= self.own.weight * change

        for name, effect in self.effects.items():
            codes = self.codes[name]
            moved(effect.change(np.bincount(codes, sums, len(effect.value)))[codes])
        if self.side.content is not None:
            # The regression of the sum of content and own effect on the content; the own effect keeps what is left.
            weight = self.own.weight
            target = np.where(weight > 0, self.content + self.own.value + sums / np.maximum(weight, 1e-12), 0)
            self.coefficients = np.linalg.solve(self.products, weighted_sum(self.side.content, self.trust * target))
            content = (self.side.content @ self.coefficients.astype(np.float32)).astype(np.float64)
            self.own.value += self.content - content
            self.content = content
        moved(self.own.change(sums))
        return total

    def result(self) -> SideEffects:
        """The effects as they stand."""
        total = self.own.value + self.content
        for name, effect in self.effects.items():
            total = total + effect.value[self.codes[name]]
        values = {name: effect.value for name, effect in self.effects.items()}
        return SideEffects(self.own.value, values, self.content, self.coefficients, total)


class _Rows:
    """Logit, Hessian weight and gradient of the rows while effects move."""

    def __init__(self, label: np.ndarray, base: float) -> None:
        self.label = label
        self.logit = np.full(len(label), base)

    def start_step(self) -> None:
        """Take weight and gradient at the present logits."""
        probability = expit(self.logit)
        self.weight = np.maximum(probability * (1 - probability), SMALLEST_HESSIAN_WEIGHT)
        self.gradient = self.label - probability

    def move(self, change: np.ndarray | float) -> None:
        """Change the logits; the gradient follows to first order."""
        self.logit += change
        self.gradient -= self.weight * change


def fit_effects(
    index: tuple[np.ndarray, np.ndarray], context: Mapping[str, np.ndarray], label: np.ndarray, sides: Sequence[Side]
) -> tuple[Effects, np.ndarray]:
    """Fit all effects.

    Args:
        index: int (n,) users and int (n,) items of the rows.
        context: By name, int (n,) codes from 0.
        label: 0/1 (n,).
        sides: The users and the items.

    Returns:
        The effects, 0 for users, items and categories without rows; and float64 (n,) the logits of the rows.
    """
    share = (label.sum() + 0.5) / (len(label) + 1)
    base = float(np.log(share / (1 - share)))
    rows = _Rows(label, base)
    fits = [_SideFit(side, of_side) for side, of_side in zip(sides, index, strict=True)]
    of_context = {name: _Effect(int(codes.max(initial=0)) + 1) for name, codes in context.items()}
    for _ in range(STEPS):
        rows.start_step()
        for fit in fits:
            fit.start_step(rows.weight)
        for name, effect in of_context.items():
            effect.weight = np.bincount(context[name], rows.weight, len(effect.value))
        for _ in range(ROUNDS):
            step = float(rows.gradient.sum()) / max(float(rows.weight.sum()), SMALLEST_HESSIAN_WEIGHT)
            base += step
            rows.move(step)
            for fit in fits:
                rows.move(fit.change(rows.gradient)[fit.index])
            for name, effect in of_context.items():
                sums = np.bincount(context[name], rows.gradient, len(effect.value))
                rows.move(effect.change(sums)[context[name]])
    user, item = (fit.result() for fit in fits)
    return Effects(base, user, item, {name: effect.value for name, effect in of_context.items()}), rows.logit
