"""The law of the simulated world: who is shown what, and with which probability they act on it.

    P(action) = sigmoid(target offset + user rate + item quality + user taste(t) . item taste)

Tastes have 16 dimensions and come from a mixture of topics. Time t runs from 0 to 1; a user's taste drifts along a
straight line with it. What is shown depends on popularity (Zipf) and taste, so shown items are biased. A tenth of
the items appears only in the last tenth of the time.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit

TASTE_WIDTH = 16
TOPICS = 40
# Spread of the parts of the logit over users or items.
RATE_SPREAD = 1.0
OWN_RATE_SPREAD = 0.4  # of one target, beside the rate that a user has for all of them
QUALITY_SPREAD = 0.6
DRIFT = 0.35  # of a taste component, from t = 0 to 1, relative to the component's own spread
# Exposure: so many candidates by popularity, of which taste chooses one.
CANDIDATES = 3
TASTE_IN_EXPOSURE = 0.7
ACTIVITY_SPREAD = 0.8
ZIPF = 0.8
LATE = 0.1
CALIBRATION_ROWS = 200_000


@dataclass(frozen=True)
class World:
    """Everything that is drawn once, before any row.

    Attributes:
        taste, drift: float32 (users, 16), at t = 0.5, and its change from t = 0 to 1.
        rate: float32 (targets, users), with the target's offset in it.
        item_taste: float32 (items, 16). quality: float32 (items,). topic: int64 (items,). late: bool (items,).
        user_table, item_table: int32, a draw of an entry is a draw of a user by activity, an item by popularity.
        early: entries of `item_table` from the front that are no late items.
    """

    targets: tuple[str, ...]
    taste: np.ndarray
    drift: np.ndarray
    rate: np.ndarray
    item_taste: np.ndarray
    quality: np.ndarray
    topic: np.ndarray
    late: np.ndarray
    user_table: np.ndarray
    item_table: np.ndarray
    early: int


def drawing_table(weights: np.ndarray) -> np.ndarray:
    """int32: each index as often as its share of the weights, so that one random number draws by weight."""
    size = min(1 << 26, max(1 << 20, 1 << int(8 * len(weights)).bit_length()))
    bounds = np.cumsum(weights)
    return np.searchsorted(bounds / bounds[-1], (np.arange(size) + 0.5) / size).astype(np.int32)


def make_world(negatives_per_positive: Mapping[str, float], *, users: int, items: int, seed: int) -> World:
    """Draw users and items, and find the offset that gives each target its negatives per positive."""
    rng = np.random.default_rng([seed, 0])
    centres = rng.standard_normal((TOPICS, TASTE_WIDTH))
    topic = rng.choice(TOPICS, items, p=rng.dirichlet(np.full(TOPICS, 3.0)))
    item_taste = 0.5 * (0.8 * centres[topic] + 0.6 * rng.standard_normal((items, TASTE_WIDTH)))
    liked = centres[rng.integers(TOPICS, size=(users, 3))].mean(axis=1) * np.sqrt(3)
    taste = 0.5 * (0.8 * liked + 0.6 * rng.standard_normal((users, TASTE_WIDTH)))
    late = np.zeros(items, bool)
    late[rng.permutation(items)[: round(LATE * items)]] = True
    popularity = rng.permutation(1.0 / np.arange(1, items + 1) ** ZIPF)
    order = np.argsort(late, kind="stable")  # late items stand at the end of the table
    item_table = order[drawing_table(popularity[order])].astype(np.int32)
    base = RATE_SPREAD * rng.standard_normal(users)
    world = World(
        targets=tuple(negatives_per_positive),
        taste=taste.astype(np.float32),
        drift=(DRIFT * 0.5 * rng.standard_normal((users, TASTE_WIDTH))).astype(np.float32),
        rate=(base + OWN_RATE_SPREAD * rng.standard_normal((len(negatives_per_positive), users))).astype(np.float32),
        item_taste=item_taste.astype(np.float32),
        quality=(QUALITY_SPREAD * rng.standard_normal(items)).astype(np.float32),
        topic=topic,
        late=late,
        user_table=drawing_table(rng.lognormal(0, ACTIVITY_SPREAD, users)),
        item_table=item_table,
        early=int(np.count_nonzero(~late[item_table])),
    )
    t = rng.random(CALIBRATION_ROWS)
    user, item = draw_exposures(world, t, rng)
    for number, (logit, ratio) in enumerate(
        zip(logits(world, user, item, t), negatives_per_positive.values(), strict=True)
    ):
        world.rate[number] += offset_for(logit, 1 / (1 + ratio))
    return world


def draw_exposures(world: World, t: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Who is shown what at each time t (rows,): int32 users and items (rows,)."""
    rows = len(t)
    user = world.user_table[rng.integers(len(world.user_table), size=rows)]
    taste = taste_at(world, user, t)
    reachable = np.where(t < 1 - LATE, world.early, len(world.item_table))
    best, item = np.full(rows, -np.inf, np.float32), np.zeros(rows, np.int32)
    for _ in range(CANDIDATES):
        candidate = world.item_table[(rng.random(rows) * reachable).astype(np.int64)]
        probability = TASTE_IN_EXPOSURE * dot(taste, world.item_taste[candidate])
        # Gumbel noise: a draw by softmax. A float32 exponential can be zero.
        probability -= np.log(np.maximum(rng.standard_exponential(rows, np.float32), np.float32(1e-9)))
        better = probability > best
        np.copyto(best, probability, where=better)
        np.copyto(item, candidate, where=better)
    return user, item


def taste_at(world: World, user: np.ndarray, t: np.ndarray) -> np.ndarray:
    """float32 (rows, 16): the users' tastes at their times."""
    taste = world.drift[user]
    taste *= (t - 0.5).astype(np.float32)[:, None]
    taste += world.taste[user]
    return taste


def dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Row by row inner products of two float32 (rows, k)."""
    product: np.ndarray = np.einsum("ij,ij->i", left, right)
    return product


def logits(world: World, user: np.ndarray, item: np.ndarray, t: np.ndarray) -> np.ndarray:
    """float32 (targets, rows): the logit of each target's probability."""
    shared = dot(taste_at(world, user, t), world.item_taste[item]) + world.quality[item]
    made: np.ndarray = world.rate[:, user] + shared
    return made


def offset_for(logit: np.ndarray, share: float) -> float:
    """The number to add to all logits so that their mean probability is `share`, by bisection."""
    low, high = -40.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        if expit(logit.astype(np.float64) + middle).mean() < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2
