"""What the items of the log law have beside content: authors, music, durations, and when they were first shown.

They are drawn once. The interaction files and the feature files write the same values.
"""

from dataclasses import dataclass

import numpy as np

from mma4ctr.simulation.law import LATE, TOPICS, World

UNKNOWN = -1
# An author keeps to one topic, and few authors of a topic have most of its videos.
ITEMS_OF_AUTHOR, ITEMS_OF_SONG, SONGS_OF_SINGER = 10, 5, 4
CONCENTRATION = 1.5
# Mean age of the items when the log begins, as a share of the log's time. Late items are first shown within the log.
AGE_AT_START = 0.15


@dataclass(frozen=True)
class LogItems:
    """The columns of the items.

    Attributes:
        author: int64 (items,), below `authors`.
        authors: Number of authors.
        song: int64 (items,), below `songs`; -1 if unknown.
        songs: Number of songs.
        seconds: int64 (items,), duration.
        first_shown: float32 (items,), time on the scale on which the log runs from 0 to 1; may be negative.
    """

    author: np.ndarray
    authors: int
    song: np.ndarray
    songs: int
    seconds: np.ndarray
    first_shown: np.ndarray

    def singer(self) -> np.ndarray:
        """Return the singer of each item's song: int64 (items,), -1 if unknown."""
        return np.where(self.song == UNKNOWN, UNKNOWN, self.song // SONGS_OF_SINGER)


@dataclass(frozen=True)
class ItemRates:
    """In which a data set's items differ from another's.

    Attributes:
        log_seconds: Mean of the logarithm of the duration in seconds.
        log_seconds_spread: Its standard deviation.
        shortest: Lower limit of the duration in seconds.
        without_song: Share of the items whose song is unknown.
        authors: About how many authors there are; None: one for every ten items.
        late_from: When the late items are first shown, as a share of the log's time.
    """

    log_seconds: float
    log_seconds_spread: float
    shortest: int
    without_song: float
    authors: int | None = None
    late_from: float = 1 - LATE

    def draw_seconds(self, items: int, rng: np.random.Generator) -> np.ndarray:
        """Draw the durations of items: int64 (items,), in seconds."""
        seconds = np.maximum(self.shortest, rng.lognormal(self.log_seconds, self.log_seconds_spread, items))
        return seconds.astype(np.int64)


def draw_log_items(world: World, rates: ItemRates, rng: np.random.Generator) -> LogItems:
    """Draw the columns of a world's items.

    Args:
        world: The world.
        rates: Those of the data set.
        rng: Random generator.

    Returns:
        The columns.
    """
    items = len(world.topic)
    author, authors = _of_topics(world.topic, rates.authors or items // ITEMS_OF_AUTHOR, rng)
    song, songs = _of_topics(world.topic, items // ITEMS_OF_SONG, rng)
    song[rng.random(items) < rates.without_song] = UNKNOWN
    seconds = rates.draw_seconds(items, rng)
    before = -rng.exponential(AGE_AT_START, items)
    return LogItems(
        author=author,
        authors=authors,
        song=song,
        songs=songs,
        seconds=seconds,
        first_shown=np.where(world.late, rates.late_from, before).astype(np.float32),
    )


def _of_topics(topic: np.ndarray, count: int, rng: np.random.Generator) -> tuple[np.ndarray, int]:
    """Draw a group of each item's topic; the groups of a topic differ in size.

    Args:
        topic: int64 (items,).
        count: About how many groups there are.
        rng: Random generator.

    Returns:
        The groups, int64 (items,), and their number.
    """
    each = max(1, round(count / TOPICS))
    rank = (each * rng.random(len(topic)) ** CONCENTRATION).astype(np.int64)
    # The groups of a topic stand together, so that a singer's songs have the same topic.
    return topic * each + rank, each * TOPICS
