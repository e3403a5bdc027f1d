"""Content factors: how well an item suits a user, from a regression on its content (see columns.py).

    logit P(action) = biases + u_user . v_item,     v_item = A x_item + d_item

where x is the item's content. Three quantities are estimated from the rows of a block, one after the other. Each is a
posterior mean, so users and items with few rows shrink towards the prior.

- **A**, the directions of the content along which users differ most. The covariance of the user factors is estimated
  from products of different rows of one user; products of a row with itself are left out, because they hold noise. The
  estimate shrinks towards a multiple of the content's covariance as far as it is uncertain.
- **u**, the user factors: a Bayesian regression of the residuals of a user's labels, over all targets, on A x. The
  exposures count as further evidence, with a weight estimated from how far exposures and labels agree.
- **d**, the item's own deviation from A x: the same regression with the roles of users and items exchanged. Then u is
  estimated once more.

Factor models with regression priors are due to Agarwal and Chen 2009 (regression-based latent factor models). Here
every step is in closed form: one pass over the rows, no sampling.
"""

from dataclasses import dataclass

import numpy as np

from mma4ctr.features.behavioral.effects import weighted_products, weighted_sum
from mma4ctr.features.behavioral.row_passes import (
    add_by_code,
    add_user_vectors,
    pair_scores,
    sums_of_item_vectors,
    sums_of_products,
)
from mma4ctr.features.behavioral.signals import OrderedRows, Signals, starts_of, target_residuals
from mma4ctr.runtime.parallel import Threads, slices
from mma4ctr.storage.row_arrays import IN_MEMORY, RowArrays

# Number of factors. With 16, 20, 24 and 32 test AUC differed by at most 0.001; 24 was best on real data.
FACTORS_WIDTH = 24
# Typical variance of a user factor along a direction in which content has variance 1. It sets the weight of users
# with many rows against others.
TYPICAL_VARIANCE = 0.05
# Prior variance of an item's own deviation, where content has variance 1. 0.1 to 0.3 gave the same AUC within 0.0005.
ITEM_VARIANCE = 0.25
# Upper limit of the number of users that the directions are estimated from; the covariance has 2,080 entries.
USERS_FOR_DIRECTIONS = 1 << 14
# Users or items whose products (19 MB) each thread has in memory at a time.
AT_A_TIME = 1 << 13
# Items whose gradients are computed at a time.
ITEMS_AT_A_TIME = 1 << 18


def projected(content: np.ndarray, of_content: np.ndarray) -> np.ndarray:
    """float32 (items, k): content float32 (items, width) along the directions, by `Directions.of_content`."""
    made: np.ndarray = content @ of_content[:-1] + of_content[-1]
    return made


@dataclass(frozen=True)
class Directions:
    """The directions of the content along which users differ.

    Attributes:
        mean: float64 (width,), mean content of the rows.
        axes: float64 (width, k). `(x - mean) @ axes` has variance 1 and no covariance over the rows.
        variance: float64 (k,), of the user factors along each direction.
        exposure: Weight of the exposures against the labels, from 0 to 1.
    """

    mean: np.ndarray
    axes: np.ndarray
    variance: np.ndarray
    exposure: float

    @property
    def of_content(self) -> np.ndarray:
        """float32 (width + 1, k): an item's vector is its content and a 1 times this matrix."""
        return np.concatenate([self.axes, -(self.mean @ self.axes)[None]]).astype(np.float32)

    def of(self, content: np.ndarray) -> np.ndarray:
        """Return the vectors of items, given their content: float32 (items, k)."""
        return projected(content, self.of_content)


def _pair_products(
    sums: tuple[np.ndarray, np.ndarray], weight: np.ndarray, with_themselves: np.ndarray, scale: np.ndarray
) -> np.ndarray:
    """Estimate the covariance of the user factors from products of different rows of one user.

    Args:
        sums: float64 (users, width) twice, sums over the rows of each user.
        weight: float64 (users,), weight of each user.
        with_themselves: float64 (width, width), weighted products of rows with themselves.
        scale: float64 (users,), what the products of a user are proportional to.

    Returns:
        float64 (width, width).
    """
    total = float((weight * scale).sum())
    products = (sums[0].T * weight) @ sums[1] - with_themselves
    return products / total if total else np.zeros_like(products)


def _moments(vectors: np.ndarray, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean (k,) and covariance (k, k) in float64 of vectors, float32 (m, k), repeated `times` (m,) each."""
    weight = times / max(times.sum(), 1)
    mean = weighted_sum(vectors, weight)
    return mean, weighted_products(vectors, weight) - np.outer(mean, mean)


def _asked(signals: Signals, part: slice, step: int) -> np.ndarray:
    """Positions of the rows of a part that are included, of every user whose number is a multiple of `step`."""
    included = signals.included[part]
    if step > 1:
        included = included & (signals.rows.user[part] % step == 0)
    return np.flatnonzero(included) + part.start


def find_directions(signals: Signals, content: np.ndarray) -> Directions:
    """Estimate the directions of content, float32 (items, width), along which users differ."""
    rows = signals.rows
    step = -(-rows.users // USERS_FOR_DIRECTIONS)
    asked = np.concatenate([_asked(signals, part, step) for part in rows.parts()] or [np.empty(0, np.int64)])
    user, item = rows.user[asked] // step, rows.item[asked]
    residual = signals.residual[asked].astype(np.float64)
    hessian_weight = signals.hessian_weight[asked]
    rows.arrays.release()
    users = -(-rows.users // step)
    starts = starts_of(user, users)
    times = np.bincount(item, minlength=rows.items)
    mean, covariance = _moments(content, times)
    variance, axes = np.linalg.eigh(covariance)
    variance = np.maximum(variance, max(1e-6 * variance[-1], 1e-9))
    whiten = axes / np.sqrt(variance)

    def sums(values: np.ndarray) -> np.ndarray:
        total = sums_of_item_vectors(starts, item, values.astype(np.float32)[:, None], content)[:, 0]
        return (total - np.outer(np.bincount(user, values, users), mean)) @ whiten

    def with_themselves(values: np.ndarray) -> np.ndarray:
        of_item = np.bincount(item, values, rows.items)
        moved = np.outer(weighted_sum(content, of_item), mean)
        products = weighted_products(content, of_item) - moved - moved.T + of_item.sum() * np.outer(mean, mean)
        return whiten.T @ products @ whiten

    known = np.bincount(user, hessian_weight, users)
    shown = np.bincount(user, minlength=users).astype(np.float64)
    acted, seen = sums(residual), sums(np.ones(len(user)))
    by_acts, by_shown = 1 / (1 + TYPICAL_VARIANCE * known), 1 / (1 + TYPICAL_VARIANCE * shown)
    of_acts = _pair_products((acted, acted), by_acts**2, with_themselves(by_acts[user] ** 2 * residual**2), known**2)
    of_shown = _pair_products((seen, seen), by_shown**2, with_themselves(by_shown[user] ** 2), shown**2)
    weight = by_acts * by_shown
    of_both = _pair_products((acted, seen), weight, with_themselves(weight[user] * residual), known * shown)
    # User factors vary roughly as content does, so the directions with most variance give the best estimate of how
    # labels and exposures agree. With very few labels the ratio is noise, so its upper limit is 1.
    strength = float(variance @ np.diag(of_acts))
    together = float(variance @ np.diag(of_both))
    exposure = min(max(together / strength, 0.0), 1.0) if strength > 0 else 0.0

    def precision(weight: np.ndarray, scale: np.ndarray) -> float:
        """Return one over the variance of an entry of the estimate."""
        return float((weight * scale**2).sum() ** 2 / max((weight**2 * scale**2).sum(), 1e-300))

    sure, sure_of_shown = precision(by_acts**2, known), exposure**4 * precision(by_shown**2, shown)
    whole = sure * of_acts
    if exposure > 0:
        whole += sure_of_shown * of_shown / exposure**2
    sure += sure_of_shown
    whole /= max(sure, 1e-300)
    expected = max(float(variance @ np.diag(whole)) / float(variance @ variance), 1e-6) * variance
    trust = np.outer(expected, expected)
    trust /= trust + 1 / max(sure, 1e-300)
    spread, turned = np.linalg.eigh(np.diag(expected) + trust * (whole - np.diag(expected)))
    chosen = np.argsort(-spread)[:FACTORS_WIDTH]
    return Directions(mean, whiten @ turned[:, chosen], np.maximum(spread[chosen], 1e-6), exposure)


@dataclass(frozen=True)
class Regression:
    """A Bayesian linear regression for each user (or item): what is known besides the vectors of its rows.

    Attributes:
        weight: float64 (size,), weight of the products of the rows.
        gradients: float (size, k), gradients of the log-likelihood at 0.
        exposure_weight: float64 (size,), weight of the exposures.
        covariance: float64 (k, k), covariance of the vectors that are shown.
        prior_variance: float64 (k,), variances of the prior, which has mean 0.
    """

    weight: np.ndarray
    gradients: np.ndarray
    exposure_weight: np.ndarray
    covariance: np.ndarray
    prior_variance: np.ndarray


def posterior_means(
    rows: OrderedRows, left_out: int, vectors: np.ndarray, given: Regression, arrays: RowArrays = IN_MEMORY
) -> np.ndarray:
    """Compute the posterior mean of the regression of each user (or item).

    Args:
        rows: The rows of the users (or items).
        left_out: Number of the fold whose rows do not count.
        vectors: float32 (m, k), the vectors of the items (or users) of the rows.
        given: Weights, gradients and prior.
        arrays: Lets go of rows that have been read.

    Returns:
        float32 (size, k).
    """
    means = np.zeros(given.gradients.shape, np.float32)

    def solve(first: int) -> None:
        part = slice(first, min(first + AT_A_TIME, len(means)))
        starts = rows.starts[part.start : part.stop + 1]
        own = slice(int(starts[0]), int(starts[-1]))
        products = sums_of_products(starts - own.start, rows.other[own], rows.fold[own], left_out, vectors)
        arrays.release(own)
        precision = products * given.weight[part, None, None]
        precision += given.exposure_weight[part, None, None] * given.covariance
        precision += np.diag(1 / given.prior_variance)
        means[part] = np.linalg.solve(precision, given.gradients[part, :, None])[:, :, 0]

    for _, done in Threads().in_order(solve, range(0, len(means), AT_A_TIME)):
        done.result()
    return means


class ContentFactors:
    """The content factors of one block, for at least one target.

    Attributes:
        user: float32 (users, k).
        item: float32 (items, k).
        directions: The directions of the content.
    """

    def __init__(self, signals: Signals, content: np.ndarray) -> None:
        self._signals = signals
        self._rows_of_user = signals.by_user(signals.once[:, 0])
        self._rows_of_item = signals.by_item(signals.once[:, 0])
        self.directions = find_directions(signals, content)
        of_content = self.directions.of(content)
        self.user = self._users(of_content)
        self.item = of_content + self._deviations(of_content)
        self.user = self._users(self.item)

    def _users(self, items: np.ndarray) -> np.ndarray:
        """User factors, given the vectors of the items."""
        signals, rows, exposure = self._signals, self._signals.rows, self.directions.exposure
        mean, covariance = _moments(items, self._rows_of_item)
        sums = np.empty((rows.users, 2, items.shape[1]), np.float32)
        for users, part, starts in rows.parts_of_users():
            values = np.stack([signals.residual[part], signals.once[part, 0]], axis=1)
            sums[users] = sums_of_item_vectors(starts, rows.item[part], values, items)
        surplus = sums[:, 1] - np.outer(self._rows_of_user, mean)
        known = signals.by_user(signals.hessian_weight)
        given = Regression(
            weight=known / np.maximum(self._rows_of_user, 1),
            gradients=sums[:, 0] + exposure * surplus,
            exposure_weight=exposure**2 * self._rows_of_user,
            covariance=covariance,
            prior_variance=self.directions.variance,
        )
        return posterior_means(rows.by_user, signals.block, items, given, rows.arrays)

    def _deviations(self, of_content: np.ndarray) -> np.ndarray:
        """Deviations of the items from their content, given the user factors."""
        signals, rows, exposure = self._signals, self._signals.rows, self.directions.exposure
        known, gradients = self._surprise(of_content)
        mean, covariance = _moments(self.user, self._rows_of_user)
        mean_content = _moments(of_content, self._rows_of_item)[0]
        for part in slices(rows.items, ITEMS_AT_A_TIME):
            expected = mean + exposure * ((of_content[part] - mean_content) @ covariance)
            gradients[part] -= exposure * self._rows_of_item[part][:, None] * expected
        given = Regression(
            weight=known / np.maximum(self._rows_of_item, 1),
            gradients=gradients,
            exposure_weight=exposure**2 * self._rows_of_item,
            covariance=covariance,
            prior_variance=np.full(self.user.shape[1], ITEM_VARIANCE),
        )
        return posterior_means(rows.by_item, signals.block, self.user, given, rows.arrays)

    def _surprise(self, of_content: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The users who acted on an item, and those who were shown it, beyond the scores of its content.

        Returns:
            float64 (items,) Hessian weights, and float32 (items, k) sums of the users' factors.
        """
        signals, rows, exposure = self._signals, self._signals.rows, self.directions.exposure
        known, gradients = np.zeros(rows.items), np.zeros((rows.items, self.user.shape[1]), np.float32)
        for users, part, starts in rows.parts_of_users():
            score = pair_scores(rows.user[part], rows.item[part], self.user, of_content)
            residual, weight = np.zeros((2, len(score)), np.float32)
            for target in signals.targets:
                target_residuals(signals, part, target, (residual, weight), score)
            residual /= np.float32(signals.overdispersion)
            add_by_code(rows.item[part], weight, known)
            values = residual + np.float32(exposure) * signals.once[part, 0]
            add_user_vectors(starts, rows.item[part], values[:, None], self.user[users][:, None], gradients)
        return known / signals.overdispersion, gradients
