"""What the raw features show of the items: noisy, partly non-linear views of their taste vectors.

Quality is in none of them. Each modality sees other directions of the taste, and text sees it only through the
topics from whose word distributions its tokens are drawn.
"""

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from mma4ctr.simulation.law import TASTE_WIDTH, World

VIEW_TOPICS = 48
WORDS_OF_TOPIC = 150
BACKGROUND_WORDS = 400
BACKGROUND_SHARE = 0.3
# How a text divides among the three topics of its item.
TOPIC_SHARES = (0.6, 0.3, 0.1)


@dataclass(frozen=True)
class Bags:
    """Token lists of some rows: `tokens` (all tokens one after the other), `offsets` (rows + 1,)."""

    tokens: np.ndarray
    offsets: np.ndarray

    def lists(self) -> pa.ListArray:
        """The same as strings in a pyarrow list array."""
        return pa.ListArray.from_arrays(pa.array(self.offsets, pa.int32()), pc.cast(pa.array(self.tokens), pa.string()))


class VectorView:
    """Dense vectors: one half linear in some directions of the taste, one half bent by tanh, both with noise."""

    def __init__(self, seed: list[int], width: int, *, directions: int, noise: float) -> None:
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.standard_normal((TASTE_WIDTH, TASTE_WIDTH)))[0][:, :directions]
        self._linear = basis @ rng.standard_normal((directions, width // 2))
        self._bent = basis @ rng.standard_normal((directions, width - width // 2))
        self._noise = noise
        self._seed = seed

    def vectors(self, taste: np.ndarray, part: int) -> np.ndarray:
        """float32 (rows, width) for taste vectors (rows, 16); `part` numbers the calls, for the noise."""
        rng = np.random.default_rng([*self._seed, part])
        straight = taste @ self._linear
        bent = 2 * np.tanh(taste @ self._bent + 0.5) ** 2 + 0.5 * np.tanh(taste @ self._bent)
        seen = np.concatenate([straight, bent], axis=1)
        made: np.ndarray = (seen + self._noise * rng.standard_normal(seen.shape)).astype(np.float32)
        return made


class TextView:
    """Bags of word ids from topic word distributions; the topics of an item follow from its taste."""

    def __init__(self, seed: list[int], vocabulary: int, *, directions: int, sharpness: float = 3.0) -> None:
        rng = np.random.default_rng(seed)
        basis = np.linalg.qr(rng.standard_normal((TASTE_WIDTH, TASTE_WIDTH)))[0][:, :directions]
        self._centres = sharpness * basis @ rng.standard_normal((directions, VIEW_TOPICS)) / np.sqrt(directions)
        self._words = rng.integers(1, vocabulary, (VIEW_TOPICS + 1, max(WORDS_OF_TOPIC, BACKGROUND_WORDS)))
        self._seed = seed

    def bags(self, taste: np.ndarray, mean_length: float, part: int, *, longest: int, empty: float = 0.0) -> Bags:
        """Draw a text for each taste vector (rows, 16): log-normal lengths, a share of them empty."""
        rng = np.random.default_rng([*self._seed, part])
        rows = len(taste)
        noisy = taste @ self._centres + rng.gumbel(size=(rows, VIEW_TOPICS))
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
    """The same texts by characters: one or two for each word, always the same for the same word."""
    first, second = words.tokens * 7 % vocabulary, words.tokens * 13 % vocabulary
    count = 1 + words.tokens % 2
    place = np.cumsum(count) - count
    tokens = np.empty(int(count.sum()), np.int64)
    tokens[place] = first
    tokens[place[count == 2] + 1] = second[count == 2]
    return Bags(tokens, np.append(place, len(tokens))[words.offsets])


@dataclass(frozen=True)
class Catalogue:
    """The items that have features: raw ids, tastes and topics; the world's own and some that nobody is shown."""

    ids: np.ndarray
    taste: np.ndarray
    topic: np.ndarray


def make_catalogue(world: World, ids: np.ndarray, rng: np.random.Generator, *, without: float) -> Catalogue:
    """Features for the world's items but a share `without`, and for the items of `ids` beyond them, shuffled.

    Args:
        ids: int64 raw ids; the world's items first.
    """
    items = len(world.item_taste)
    like = rng.integers(items, size=len(ids) - items)  # the taste of unseen items is that of some other item, nearly
    taste = np.concatenate(
        [world.item_taste, world.item_taste[like] + 0.3 * rng.standard_normal((len(like), TASTE_WIDTH))]
    )
    topic = np.concatenate([world.topic, world.topic[like]])
    kept = rng.permutation(len(ids))
    kept = kept[(kept >= items) | (rng.random(len(ids)) >= without)]
    return Catalogue(ids[kept], taste[kept].astype(np.float32), topic[kept])
