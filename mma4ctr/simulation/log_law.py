"""The log law: the effects of a real log that the content law leaves out.

    P(action) = sigmoid(target offset + user bias + user factors(t) . item factors + sum of strength * effect)

Every effect has about the same scale, and `STRENGTHS` in law.py gives its strength for each target:

    quality, author, music, duration    of the item
    channel, hour                       of the impression
    freshness                           2 ** (-age / half-life); the age counts from when the item was first shown
    drift                               a level of the user that moves slowly, linear between knots
    loyalty                             1 if the item's author is one of the user's favourites, else 0
    interests                           max(0, second factors . item factors - first factors . item factors)

So a user has two interests, and the strength of `interests` is how much the better match counts. The second one is that
of another user and does not drift; exposure follows the first. The effects of the item are added up once, in a table,
from which every block of rows takes them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from mma4ctr.simulation.law import (
    QUALITY_SPREAD,
    STRENGTHS,
    Strength,
    World,
    dot,
    draw_items,
    offset_for,
    user_factors_at,
)
from mma4ctr.simulation.log_items import UNKNOWN, ItemRates, LogItems, draw_log_items

HALF_LIFE = 0.1  # of freshness, as a share of the log's time: six days of TikTok's sixty
KNOTS = 9  # of a user's level, so that it moves by a standard deviation of 1 within the log
FAVOURITES = 3  # authors of a user; an author can be drawn twice
HOURS = 24
OFFSET_STEPS = 26  # an error of 1e-6


@dataclass(frozen=True)
class Impressions:
    """Some rows, before the user acts.

    Attributes:
        user: int (rows,).
        item: int (rows,).
        t: float (rows,), time from 0 to 1.
        channel: (rows,), 1 for the rare channel or device, else 0.
        hour: int (rows,), of the day; None for a log without a clock.
    """

    user: np.ndarray
    item: np.ndarray
    t: np.ndarray
    channel: np.ndarray
    hour: np.ndarray | None = None


@dataclass(frozen=True)
class LogLaw:
    """Everything of the log law that is drawn once.

    Attributes:
        world: Users, items and exposures.
        items: The columns of the items.
        strengths: By effect.
        of_author: float32 (authors,), effects of the authors.
        of_song: float32 (songs,), effects of the songs.
        second_factors: float32 (users, 16), the second interest.
        favourites: int32 (users, 3), authors.
        levels: float32 (users, 9), levels at the knots; each user's mean is 0.
        item_logit: float32 (items, targets), sum of the item's effects.
        offset: float32 (targets,), added to the user bias; see `calibrated`.
    """

    world: World
    items: LogItems
    strengths: Mapping[str, Strength]
    of_author: np.ndarray
    of_song: np.ndarray
    second_factors: np.ndarray
    favourites: np.ndarray
    levels: np.ndarray
    item_logit: np.ndarray
    offset: np.ndarray

    def logits(self, rows: Impressions) -> np.ndarray:
        """Return the logit of each target's probability: float32 (targets, rows)."""
        world = self.world
        effects, matched = self._row_effects(rows)
        made: np.ndarray = world.user_bias[:, rows.user]
        made += self.item_logit[rows.item].T
        # Most targets have the same strengths, so their sums are made once.
        strengths = [[self.strengths[effect].of(target) for effect in effects] for target in world.targets]
        different, which = np.unique(np.array(strengths, np.float32), axis=0, return_inverse=True)
        for number, weights in enumerate(different):
            total = matched.copy()
            for weight, values in zip(weights, effects.values(), strict=True):
                total += weight * values
            for target in np.flatnonzero(which.ravel() == number):
                made[target] += total
                made[target] += self.offset[target]
        return made

    def calibrated(self, rows: Impressions, negatives_per_positive: Mapping[str, float]) -> "LogLaw":
        """Return the law with the offsets that give each target its negatives per positive.

        Args:
            rows: A sample of rows.
            negatives_per_positive: By target.
        """
        ratios = [negatives_per_positive[target] for target in self.world.targets]
        shares = zip(self.logits(rows), ratios, strict=True)
        more = [offset_for(logit, 1 / (1 + ratio), OFFSET_STEPS) for logit, ratio in shares]
        return replace(self, offset=self.offset + np.array(more, np.float32))

    def _row_effects(self, rows: Impressions) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """Return each row's effects, float32 (rows,), and the match with the first interest, float32 (rows,)."""
        user, item = rows.user, rows.item
        factors, of_item = user_factors_at(self.world, user, rows.t), self.world.item_factors[item]
        matched = dot(factors, of_item)
        second = dot(self.second_factors[user], of_item)
        effects = {
            "interests": np.maximum(second - matched, np.float32(0)),
            "loyalty": (self.favourites[user] == self.items.author[item][:, None]).any(axis=1).astype(np.float32),
            "drift": self._levels_at(user, rows.t),
            "freshness": freshness(rows.t, self.items.first_shown[item]),
            "channel": rows.channel.astype(np.float32),
        }
        if rows.hour is not None:
            effects["hour"] = HOUR_CURVE[rows.hour]
        return effects, matched

    def _levels_at(self, user: np.ndarray, t: np.ndarray) -> np.ndarray:
        """Return the users' levels at the given times: float32 (rows,)."""
        place = t * (KNOTS - 1)
        knot = np.minimum(place.astype(np.int64), KNOTS - 2)
        after = (place - knot).astype(np.float32)
        first = user.astype(np.int64) * KNOTS + knot
        levels = self.levels.ravel()
        here: np.ndarray = levels[first] * (1 - after) + levels[first + 1] * after
        return here


def freshness(t: np.ndarray, first_shown: np.ndarray) -> np.ndarray:
    """Return the freshness of items at times t (rows,), from 1 when first shown down to 0: float32 (rows,)."""
    age = np.maximum(t.astype(np.float32) - first_shown, np.float32(0))
    fresh: np.ndarray = np.exp2(age * np.float32(-1 / HALF_LIFE))
    return fresh


def _hour_curve() -> np.ndarray:
    """Return the effect of each hour, float32 (24,), with mean 0 and mean square 1; it is highest in the evening."""
    angle = 2 * np.pi * np.arange(HOURS) / HOURS
    curve = np.cos(angle - 2 * np.pi * 21 / HOURS) + 0.5 * np.cos(2 * angle - 4 * np.pi * 12 / HOURS)
    made: np.ndarray = (curve / np.sqrt(np.mean(curve**2))).astype(np.float32)
    return made


HOUR_CURVE = _hour_curve()


def make_log_law(world: World, rates: ItemRates, seed: int, strengths: Mapping[str, Strength] = STRENGTHS) -> LogLaw:
    """Draw what the log law adds to a world. The draws do not depend on the strengths.

    Args:
        world: The world.
        rates: Of the data set's items.
        seed: Seed of the world.
        strengths: By effect.

    Returns:
        The law, with offset 0.
    """
    rng = np.random.default_rng([seed, 10])
    users, items = len(world.user_factors), len(world.item_factors)
    columns = draw_log_items(world, rates, rng)
    of_author = rng.standard_normal(columns.authors, np.float32)
    of_song = rng.standard_normal(columns.songs, np.float32)
    duration = np.log(columns.seconds)
    effects = {
        "quality": world.quality / QUALITY_SPREAD,
        "author": of_author[columns.author],
        "music": np.where(columns.song == UNKNOWN, 0, of_song[columns.song]),
        "duration": (duration - rates.log_seconds) / rates.log_seconds_spread,
    }
    item_logit = np.zeros((items, len(world.targets)))
    for effect, values in effects.items():
        for number, target in enumerate(world.targets):
            item_logit[:, number] += strengths[effect].of(target) * values
    levels = np.cumsum(rng.standard_normal((users, KNOTS), np.float32), axis=1) / np.float32(np.sqrt(KNOTS - 1))
    return LogLaw(
        world=world,
        items=columns,
        strengths=strengths,
        of_author=of_author,
        of_song=of_song,
        second_factors=world.user_factors[rng.permutation(users)],
        favourites=_favourites(world, columns, rng),
        levels=levels - levels.mean(axis=1, keepdims=True),
        item_logit=item_logit.astype(np.float32),
        offset=np.zeros(len(world.targets), np.float32),
    )


def _favourites(world: World, columns: LogItems, rng: np.random.Generator) -> np.ndarray:
    """Draw authors of videos that each user could be shown: int32 (users, 3)."""
    users = np.repeat(np.arange(len(world.user_factors)), FAVOURITES)
    seen = draw_items(world, users, rng.random(len(users)), rng)
    return columns.author[seen].astype(np.int32).reshape(-1, FAVOURITES)
