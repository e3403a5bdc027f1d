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
each context column, not for each effect. The passes are in row_passes.py.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from mma4ctr.features.behavioral.row_passes import (
    SMALLEST_HESSIAN_WEIGHT,
    add_by_code,
    move_and_sum,
    start_newton_step,
)
from mma4ctr.runtime.parallel import slices
from mma4ctr.storage.row_arrays import IN_MEMORY, RowArrays

# Newton steps, and rounds of all effects within each of them.
STEPS, ROUNDS = 5, 3
# Largest change of an effect in one round, in units of the logit.
LARGEST_CHANGE = 2.0
FIRST_VARIANCE, SMALLEST_VARIANCE, LARGEST_VARIANCE = 0.1, 1e-4, 4.0
# Items that are summed in single precision; the sums of these sums are in double precision.
ITEMS_AT_A_TIME = 1 << 12


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
    for part in slices(len(content), ITEMS_AT_A_TIME):
        total += (content[part].T * weight[part].astype(np.float32)) @ content[part]
    return total


def weighted_sum(content: np.ndarray, weight: np.ndarray) -> np.ndarray:
    """The sum of w x over items: float64 (k,) of content float32 (items, k) and weights (items,)."""
    total = np.zeros(content.shape[1])
    for part in slices(len(content), ITEMS_AT_A_TIME):
        total += weight[part].astype(np.float32) @ content[part]
    return total


class _SideFit:
    """The effects of one side while they are fitted."""

    def __init__(self, side: Side) -> None:
        self.side = side
        self.codes = dict(side.categories)
        self.effects = {name: _Effect(int(codes.max(initial=0)) + 1) for name, codes in self.codes.items()}
        self.own = _Effect(side.size)
        width = 0 if side.content is None else side.content.shape[1]
        self.coefficients = np.zeros(width)
        self.content = np.zeros(side.size)

    def start_step(self) -> None:
        """Take the Hessian weights, which `own.weight` has summed for each user or item."""
        for name, effect in self.effects.items():
            effect.weight = np.bincount(self.codes[name], self.own.weight, len(effect.value))
        if self.side.content is not None:
            # An item's weight in the regression grows with its rows up to a limit, since its own effect varies too.
            self.trust = self.own.weight / (1 + self.own.weight * self.own.variance)
            self.products = weighted_products(self.side.content, self.trust) + np.eye(len(self.coefficients))

    def change(self, sums: np.ndarray) -> np.ndarray:
        """One round over the side's effects, given the gradient summed over its rows; returns each total's change."""
        sums = sums.copy()
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


@dataclass
class _Group:
    """The rows of one side or context column: their codes, its effect or that of the side, and a round over it."""

    codes: np.ndarray
    effect: _Effect
    change: Callable[[np.ndarray], np.ndarray]


class _Rows:
    """The rows while effects are fitted: their logits, Hessian weights and gradients."""

    def __init__(self, label: np.ndarray, included: np.ndarray, arrays: RowArrays) -> None:
        self.label, self.included, self.arrays = label, included, arrays
        self.logit, self.weight, self.gradient = (arrays.empty((len(label),), np.float32) for _ in range(3))

    def base(self) -> float:
        """The logit of the share of positives, at which every row starts."""
        positives = rows = 0
        for part in self.arrays.parts(len(self.label)):
            positives += int(np.count_nonzero(self.label[part] & self.included[part]))
            rows += int(np.count_nonzero(self.included[part]))
        share = (float(positives) + 0.5) / (rows + 1)
        base = float(np.log(share / (1 - share)))
        for part in self.arrays.parts(len(self.label)):
            self.logit[part] = base
        return base

    def start_step(self, groups: Sequence[_Group]) -> np.ndarray:
        """Sum the Hessian weights of every group, and return the gradients summed for the first, float64 (size,)."""
        for group in groups:
            group.effect.weight = np.zeros(len(group.effect.value))
        sums = np.zeros(len(groups[0].effect.value))
        for part in self.arrays.parts(len(self.label)):
            state = self.logit[part], self.weight[part], self.gradient[part]
            start_newton_step(self.label[part], self.included[part], state)
            for group in groups:
                add_by_code(group.codes[part], state[1], group.effect.weight)
            add_by_code(groups[0].codes[part], state[2], sums)
        return sums

    def move(self, change: np.ndarray, group: _Group, following: _Group) -> np.ndarray:
        """Move the rows by the change of one group, and sum their gradients for the next: float64 (size,)."""
        sums = np.zeros(len(following.effect.value))
        for part in self.arrays.parts(len(self.label)):
            state = self.logit[part], self.weight[part], self.gradient[part]
            move_and_sum(change, group.codes[part], following.codes[part], state, sums)
        return sums


def fit_effects(
    index: tuple[np.ndarray, np.ndarray],
    context: Mapping[str, np.ndarray],
    label: np.ndarray,
    included: np.ndarray,
    sides: Sequence[Side],
    arrays: RowArrays = IN_MEMORY,
) -> Effects:
    """Fit all effects.

    Args:
        index: int32 (n,) users and int32 (n,) items of the rows.
        context: By name, int (n,) codes from 0.
        label: uint8 (n,) of 0 and 1.
        included: bool (n,), the rows that count.
        sides: The users and the items.
        arrays: Makes arrays of rows.

    Returns:
        The effects, 0 for users, items and categories without rows.
    """
    rows = _Rows(label, included, arrays)
    base = rows.base()
    fits = [_SideFit(side) for side in sides]
    of_context = {name: _Effect(arrays.largest(codes) + 1) for name, codes in context.items()}
    groups = [_Group(of_side, fit.own, fit.change) for fit, of_side in zip(fits, index, strict=True)]
    groups += [_Group(context[name], effect, effect.change) for name, effect in of_context.items()]
    users = fits[0].own
    for _ in range(STEPS):
        sums = rows.start_step(groups)
        for fit in fits:
            fit.start_step()
        for _ in range(ROUNDS):
            shift = float(sums.sum()) / max(float(users.weight.sum()), SMALLEST_HESSIAN_WEIGHT)
            base += shift
            sums -= shift * users.weight
            for group, following in zip(groups, [*groups[1:], groups[0]], strict=True):
                sums = rows.move(group.change(sums) + shift, group, following)
                shift = 0.0
    user, item = (fit.result() for fit in fits)
    return Effects(base, user, item, {name: effect.value for name, effect in of_context.items()})
