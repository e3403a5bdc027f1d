"""The laws of the simulated world: which items users are shown, and the probability that they act on them.

    P(action) = sigmoid(target offset + user bias + item quality + user factors(t) . item factors)

is the content law. The log law (log_law.py) draws the same users, items and exposures, and adds the effects that
`STRENGTHS` lists.

The 16 factors come from a mixture of topics. Time t runs from 0 to 1, and a user's factors drift along a straight line.
Exposure depends on popularity (Zipf) and on the factors, so the shown items are a biased sample. A tenth of the items
appears only in the last tenth of the time.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit

FACTORS_WIDTH = 16
TOPICS = 40
# Standard deviations of the terms of the logit over users or items.
BIAS_SPREAD = 1.0
TARGET_BIAS_SPREAD = 0.4  # of a user's bias for one target, added to the bias that all targets share
QUALITY_SPREAD = 0.6
DRIFT = 0.35  # of a user factor, from t = 0 to 1, relative to its standard deviation
# Exposure: candidates drawn by popularity, one of which the factors choose.
CANDIDATES = 3
FACTORS_IN_EXPOSURE = 0.7
ACTIVITY_SPREAD = 0.8
ZIPF = 0.8
LATE = 0.1  # share of the items that appears only in the last share of the time
CALIBRATION_ROWS = 200_000
LAWS = ("log", "content")


@dataclass(frozen=True)
class Strength:
    """How strongly an effect of the log law moves the logits.

    Attributes:
        usual: Of the targets that `targets` does not name.
        reason: Why.
        targets: By target.
    """

    usual: float
    reason: str
    targets: Mapping[str, float] = field(default_factory=dict)

    def of(self, target: str) -> float:
        """Return the strength for a target."""
        return self.targets.get(target, self.usual)


# Quality, author, music, duration and hour have a standard deviation of 1. Channel and loyalty are 0 or 1. Freshness is
# between 0 and 1. Drift moves by 1 within the log; its standard deviation, and that of interests, is about 0.4 and 0.7.
STRENGTHS: Mapping[str, Strength] = {
    "quality": Strength(0.3, "the rest of the item's quality of 0.6, after author and song"),
    "author": Strength(0.6, "an author's videos resemble each other in quality more than in topic", {"follow": 0.8}),
    "music": Strength(0.25, "a popular song helps the video, but less than its author does", {"read_comment": 0.1}),
    "duration": Strength(
        0.1,
        "who stays long has time to act, but a long video is seldom watched to its end",
        {"finish": -0.5, "read_comment": 0.2, "like": -0.1},
    ),
    "channel": Strength(0.3, "users of the rare channel came on purpose and act more, but skip more", {"finish": -0.4}),
    "hour": Strength(0.2, "in the evening users have time", {"finish": 0.15}),
    "freshness": Strength(0.4, "a new video is news, which matters little once it plays", {"finish": 0.2}),
    "drift": Strength(0.25, "a user's habits change slowly, by much less than users differ (1.0)"),
    "loyalty": Strength(1.0, "a few authors are followed for themselves", {"follow": 1.5, "finish": 0.7}),
    "interests": Strength(0.3, "a video that meets the second interest better is liked for that, but not fully"),
}


@dataclass(frozen=True)
class World:
    """Everything that is drawn once, before any row.

    Attributes:
        targets: Names of the targets.
        user_factors: float32 (users, 16), at t = 0.5.
        drift: float32 (users, 16), change of the user factors from t = 0 to 1.
        user_bias: float32 (targets, users), including the target's offset.
        item_factors: float32 (items, 16).
        quality: float32 (items,).
        topic: int64 (items,).
        late: bool (items,), items that appear only in the last tenth of the time.
        user_table: int32; a uniformly drawn entry is a user drawn by activity.
        item_table: int32; a uniformly drawn entry is an item drawn by popularity. Late items are at the end.
        early: Number of entries of `item_table` before the late items.
    """

    targets: tuple[str, ...]
    user_factors: np.ndarray
    drift: np.ndarray
    user_bias: np.ndarray
    item_factors: np.ndarray
    quality: np.ndarray
    topic: np.ndarray
    late: np.ndarray
    user_table: np.ndarray
    item_table: np.ndarray
    early: int


def drawing_table(weights: np.ndarray) -> np.ndarray:
    """Return an int32 table in which each index has its share of the weights, so a uniform draw is a weighted draw."""
    size = min(1 << 26, max(1 << 20, 1 << int(8 * len(weights)).bit_length()))
    bounds = np.cumsum(weights)
    return np.searchsorted(bounds / bounds[-1], (np.arange(size) + 0.5) / size).astype(np.int32)


def make_world(
    negatives_per_positive: Mapping[str, float],
    *,
    users: int,
    items: int,
    seed: int,
    late_share: float = LATE,
    zipf: float = ZIPF,
) -> World:
    """Draw users and items, and find the offset that gives each target its negatives per positive.

    Args:
        negatives_per_positive: By target.
        users: Number of users.
        items: Number of items.
        seed: Seed of the world.
        late_share: Share of the items that stand at the end of the item table.
        zipf: Exponent of the popularity; 0 makes all items equally popular.

    Returns:
        The world.
    """
    rng = np.random.default_rng([seed, 0])
    centres = rng.standard_normal((TOPICS, FACTORS_WIDTH))
    topic = rng.choice(TOPICS, items, p=rng.dirichlet(np.full(TOPICS, 3.0)))
    item_factors = 0.5 * (0.8 * centres[topic] + 0.6 * rng.standard_normal((items, FACTORS_WIDTH)))
    liked = centres[rng.integers(TOPICS, size=(users, 3))].mean(axis=1) * np.sqrt(3)
    user_factors = 0.5 * (0.8 * liked + 0.6 * rng.standard_normal((users, FACTORS_WIDTH)))
    late = np.zeros(items, bool)
    late[rng.permutation(items)[: round(late_share * items)]] = True
    popularity = rng.permutation(1.0 / np.arange(1, items + 1) ** zipf)
    order = np.argsort(late, kind="stable")  # late items at the end of the table
    item_table = order[drawing_table(popularity[order])].astype(np.int32)
    base = BIAS_SPREAD * rng.standard_normal(users)
    world = World(
        targets=tuple(negatives_per_positive),
        user_factors=user_factors.astype(np.float32),
        drift=(DRIFT * 0.5 * rng.standard_normal((users, FACTORS_WIDTH))).astype(np.float32),
        user_bias=(base + TARGET_BIAS_SPREAD * rng.standard_normal((len(negatives_per_positive), users))).astype(
            np.float32
        ),
        item_factors=item_factors.astype(np.float32),
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
        world.user_bias[number] += offset_for(logit, 1 / (1 + ratio))
    return world


def draw_exposures(world: World, t: np.ndarray, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw an int32 user and item (rows,) for each time t (rows,)."""
    user = world.user_table[rng.integers(len(world.user_table), size=len(t))]
    return user, draw_items(world, user, t, rng)


def draw_items(world: World, user: np.ndarray, t: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Draw the int32 item (rows,) that is shown to each user (rows,) at time t (rows,)."""
    rows = len(t)
    factors = user_factors_at(world, user, t)
    reachable = np.where(t < 1 - LATE, world.early, len(world.item_table))
    best, item = np.full(rows, -np.inf, np.float32), np.zeros(rows, np.int32)
    for _ in range(CANDIDATES):
        candidate = world.item_table[(rng.random(rows) * reachable).astype(np.int64)]
        probability = FACTORS_IN_EXPOSURE * dot(factors, world.item_factors[candidate])
        # Adding Gumbel noise and taking the maximum draws by softmax. A float32 exponential can be zero.
        probability -= np.log(np.maximum(rng.standard_exponential(rows, np.float32), np.float32(1e-9)))
        better = probability > best
        np.copyto(best, probability, where=better)
        np.copyto(item, candidate, where=better)
    return item


def user_factors_at(world: World, user: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the factors of the users at the given times: float32 (rows, 16)."""
    factors = world.drift[user]
    factors *= (t - 0.5).astype(np.float32)[:, None]
    factors += world.user_factors[user]
    return factors


def dot(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    """Return the inner products of the rows of two arrays (rows, k): float32 (rows,)."""
    product: np.ndarray = np.einsum("ij,ij->i", left, right)
    return product


def logits(world: World, user: np.ndarray, item: np.ndarray, t: np.ndarray) -> np.ndarray:
    """Return the logit of each target's probability: float32 (targets, rows)."""
    shared = dot(user_factors_at(world, user, t), world.item_factors[item]) + world.quality[item]
    made: np.ndarray = world.user_bias[:, user] + shared
    return made


def offset_for(logit: np.ndarray, share: float, steps: int = 60) -> float:
    """Return the number that, added to all logits, makes their mean probability `share`; found by bisection.

    Args:
        logit: float32 (rows,).
        share: Between 0 and 1.
        steps: Each halves the error, which is 40 before the first.
    """
    low, high = -40.0, 40.0
    for _ in range(steps):
        middle = (low + high) / 2
        if expit(logit.astype(np.float64) + middle).mean() < share:
            low = middle
        else:
            high = middle
    return (low + high) / 2
