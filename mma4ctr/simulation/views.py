"""Raw features of the items: noisy, partly non-linear views of the item factors.

No feature depends on the item quality. Each modality sees other directions of the factors. Text sees them only through
the topics whose word distributions its tokens are drawn from.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.simulation.law import FACTORS_WIDTH, World

VIEW_TOPICS = 48
WORDS_OF_TOPIC = 150
BACKGROUND_WORDS = 400
BACKGROUND_SHARE = 0.3
# Shares of a text that come from the three topics of its item.
TOPIC_SHARES = (0.6, 0.3, 0.1)


@dataclass(frozen=True)
class Bags:
    """Token lists of some rows.

    Attributes:
        tokens: int64 (tokens,), all tokens, row after row.
        offsets: int64 (rows + 1,), where each row starts.
    """

    tokens: np.ndarray
    offsets: np.ndarray

    def lists(self) -> pa.ListArray:
        """Return the tokens as strings in a pyarrow list array."""
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pc.cast(pa.array(self.tokens), pa.string()))


class VectorView:
    """Dense vectors: one half linear in some directions of the factors, one half bent by tanh, both with noise."""

    def __init__(self, seed: list[int], width: int, *, directions: int, noise: float) -> None:
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.standard_normal((FACTORS_WIDTH, FACTORS_WIDTH)))[0][:, :directions]
        self._linear = basis @ rng.standard_normal((directions, width // 2))
        self._bent = basis @ rng.standard_normal((directions, width - width // 2))
        self._noise = noise
        self._seed = seed

    def vectors(self, factors: np.ndarray, chunk: int) -> np.ndarray:
        """Return float32 (rows, width) vectors of factors (rows, 16); the noise is seeded by `chunk`."""
        rng = np.random.default_rng([*self._seed, chunk])
        straight = factors @ self._linear
        bent = 2 * np.tanh(factors @ self._bent + 0.5) ** 2 + 0.5 * np.tanh(factors @ self._bent)
        seen = np.concatenate([straight, bent], axis=1)
        made: np.ndarray = (seen + self._noise * rng.standard_normal(seen.shape)).astype(np.float32)
        return made


class TextView:
    """Bags of word ids, drawn from the word distributions of topics that an item's factors determine."""

    def __init__(self, seed: list[int], vocabulary: int, *, directions: int, sharpness: float = 3.0) -> None:
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.standard_normal((FACTORS_WIDTH, FACTORS_WIDTH)))[0][:, :directions]
        self._centres = sharpness * basis @ rng.standard_normal((directions, VIEW_TOPICS)) / np.sqrt(directions)
        self._words = rng.integers(1, vocabulary, (VIEW_TOPICS + 1, max(WORDS_OF_TOPIC, BACKGROUND_WORDS)))
        self._seed = seed

    def bags(self, factors: np.ndarray, mean_length: float, chunk: int, *, longest: int, empty: float = 0.0) -> Bags:
        """Draw a text for each item.

        Args:
            factors: (rows, 16), item factors.
            mean_length: Mean of the log-normal length.
            chunk: Seeds the draws of this call.
            longest: Upper limit of the length.
            empty: Share of empty texts.

        Returns:
            The texts.
        """
        rng = np.random.default_rng([*self._seed, chunk])
        rows = len(factors)
        noisy = factors @ self._centres + rng.gumbel(size=(rows, VIEW_TOPICS))
        topics = np.argsort(-noisy, axis=1)[:, : len(TOPIC_SHARES)]
        spread = 1.0
        length = np.ceil(rng.lognormal(np.log(mean_length) - spread**2 / 2, spread, rows)).astype(np.int64)
        length = np.where(rng.random(rows) < empty, 0, np.minimum(length, longest))
        offsets = np.concatenate([[0], np.cumsum(length)])
        row = np.repeat(np.arange(rows), length)
        which = np.searchsorted(np.cumsum(TOPIC_SHARES), rng.random(len(row)), side="right")
        topic = topics[row, np.minimum(which, len(TOPIC_SHARES) - 1)]
        # Zipf-like: the rank is a power of a uniform number.
        rank = (WORDS_OF_TOPIC ** rng.random(len(row))).astype(np.int64) - 1
        common = rng.random(len(row)) < BACKGROUND_SHARE
        topic[common] = VIEW_TOPICS
        rank[common] = (BACKGROUND_WORDS ** rng.random(int(common.sum()))).astype(np.int64) - 1
        return Bags(self._words[topic, rank], offsets)


def characters_of(words: Bags, vocabulary: int) -> Bags:
    """Return the texts as characters: one or two for each word, always the same for one word."""
    first, second = words.tokens * 7 % vocabulary, words.tokens * 13 % vocabulary
    count = 1 + words.tokens % 2
    place = np.cumsum(count) - count
    tokens = np.empty(int(count.sum()), np.int64)
    tokens[place] = first
    tokens[place[count == 2] + 1] = second[count == 2]
    return Bags(tokens, np.append(place, len(tokens))[words.offsets])


@dataclass(frozen=True)
class Catalogue:
    """The items with features: those of the world, and some that are never shown.

    Attributes:
        ids: int64 (items,), raw ids.
        factors: float32 (items, 16).
        topic: int64 (items,).
        like: int64 (items,), the item of the world that it is, or that it resembles.
    """

    ids: np.ndarray
    factors: np.ndarray
    topic: np.ndarray
    like: np.ndarray


def make_catalogue(world: World, ids: np.ndarray, rng: np.random.Generator, *, without: float) -> Catalogue:
    """Collect the items that get features, in random order.

    Args:
        world: The world.
        ids: int64 raw ids: those of the world's items, then those of items that are never shown.
        rng: Random generator.
        without: Share of the world's items that get no features.

    Returns:
        The items.
    """
    items = len(world.item_factors)
    like = rng.integers(items, size=len(ids) - items)  # an item that is never shown resembles some shown one
    factors = np.concatenate(
        [world.item_factors, world.item_factors[like] + 0.3 * rng.standard_normal((len(like), FACTORS_WIDTH))]
    )
    like = np.concatenate([np.arange(items), like])
    kept = rng.permutation(len(ids))
    kept = kept[(kept >= items) | (rng.random(len(ids)) >= without)]
    return Catalogue(ids[kept], factors[kept].astype(np.float32), world.topic[like[kept]], like[kept])
