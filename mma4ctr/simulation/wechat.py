"""Simulated WeChat files: `user_action.csv`, `feed_info.csv` and `feed_embeddings.csv`."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from scipy.special import expit

from mma4ctr.datasets.wechat import CLICK_WEIGHTS, EMBEDDING_WIDTH
from mma4ctr.runtime.console import progress
from mma4ctr.simulation.law import CALIBRATION_ROWS, STRENGTHS, Strength, World, draw_exposures, logits
from mma4ctr.simulation.log_items import UNKNOWN, ItemRates
from mma4ctr.simulation.log_law import Impressions, LogLaw, make_log_law
from mma4ctr.simulation.rows import Chunk, copy_some_rows
from mma4ctr.simulation.views import Bags, Catalogue, TextView, VectorView, characters_of, make_catalogue

REAL_NEGATIVES_PER_POSITIVE = {
    "read_comment": 25.9,
    "like": 36.5,
    "click_avatar": 125.0,
    "forward": 236.0,
    "favorite": 716.0,
    "comment": 2406.0,
    "follow": 1355.0,
}
# Actions are five times as frequent as in the real data, so that a small sample has enough of each.
NEGATIVES_PER_POSITIVE = {action: ratio / 5 for action, ratio in REAL_NEGATIVES_PER_POSITIVE.items()}
FOLDER = "wechat"
DAYS = 14
ITEMS_AT_A_TIME = 8192
USER_ACTION_HEADER = ["userid", "feedid", "date_", "device", "read_comment", "comment", "like", "play", "stay"]
USER_ACTION_HEADER += ["click_avatar", "forward", "follow", "favorite"]
ITEM_RATES = ItemRates(log_seconds=3.2, log_seconds_spread=0.6, shortest=3, without_song=0.4)
OTHER_DEVICE = 0.03  # share of the rows, and with the log law of a user's days, that are not on the user's device
NO_FEATURES, UNSEEN = 0.01, 0.1
WORDS, CHARACTERS, TAGS, KEYWORDS = 60_000, 8_000, 350, 20_000


def click_probability(probability: dict[str, np.ndarray]) -> np.ndarray:
    """Compute the probability of a weighted click from those of the independent actions.

    The distribution of the weighted sum is built up action by action.

    Args:
        probability: float (rows,) of each action.

    Returns:
        float (rows,).
    """
    total = sum(CLICK_WEIGHTS.values())
    rows = len(next(iter(probability.values())))
    share = np.zeros((total + 1, rows), np.float32)
    share[0] = 1
    for action, weight in CLICK_WEIGHTS.items():
        taken = share[: total + 1 - weight] * probability[action]
        share *= 1 - probability[action]
        share[weight:] += taken
    return share[[2 * points >= total for points in range(total + 1)]].sum(axis=0)


class WeChatWorld:
    """The simulated challenge data; of the content law, unless `use_log_law` is called."""

    header: list[str] | None = USER_ACTION_HEADER

    def __init__(self, world: World, seed: int) -> None:
        rng = np.random.default_rng([seed, 1])
        users, items = len(world.user_factors), len(world.item_factors)
        self.world, self.seed = world, seed
        self.user_ids = rng.permutation(users * 12)[:users].astype(np.int64)
        every = round(items * (1 + UNSEEN))
        self.all_items = rng.permutation(every + every // 16 + 1)[:every].astype(np.int64)
        self.item_ids = self.all_items[:items]
        self.device = 1 + (rng.random(users) < 0.4)
        self.seconds = ITEM_RATES.draw_seconds(every, rng)
        self.law: LogLaw | None = None
        self.device_of_day = np.zeros((0, DAYS), np.int8)

    def use_log_law(
        self, negatives_per_positive: Mapping[str, float], strengths: Mapping[str, Strength] = STRENGTHS
    ) -> None:
        """Replace the content law by the log law.

        Args:
            negatives_per_positive: By target.
            strengths: By effect.
        """
        law = make_log_law(self.world, ITEM_RATES, self.seed, strengths)
        rng = np.random.default_rng([self.seed, 11])
        # A user has one device a day, so that rows of the same user, item and day have the same probability.
        other = rng.random((len(self.device), DAYS)) < OTHER_DEVICE
        self.device_of_day = np.where(other, 3 - self.device[:, None], self.device[:, None]).astype(np.int8)
        place = rng.random(CALIBRATION_ROWS)
        user, item = draw_exposures(self.world, place, rng)
        self.law = law.calibrated(self._impressions(user, item, _day_at(place)), negatives_per_positive)
        self.seconds = law.items.seconds

    def _impressions(self, user: np.ndarray, item: np.ndarray, day: np.ndarray) -> Impressions:
        """Return rows with their devices; the second device takes the part of a channel."""
        second_device = self.device_of_day[user, day - 1] == 2
        return Impressions(user=user, item=item, t=(day - 1) / (DAYS - 1), channel=second_device)

    def file_name(self) -> str:
        """Return the name of the interaction file."""
        return "user_action.csv"

    def rows(self, number: int, start: int, stop: int, total: int) -> Chunk:
        """Draw rows `start` to `stop` of the file, which is in order of time; user factors drift from day to day."""
        rng = np.random.default_rng([self.seed, 2, number])
        place = np.arange(start, stop) / total
        day = _day_at(place)
        user, item = draw_exposures(self.world, place, rng)
        if self.law:
            shown = self.law.logits(self._impressions(user, item, day))
        else:
            shown = logits(self.world, user, item, (day - 1) / (DAYS - 1))
        probability = dict(zip(self.world.targets, expit(shown), strict=True))
        count = stop - start
        actions = {
            name: (rng.random(count, np.float32) < value).astype(np.uint8) for name, value in probability.items()
        }
        play = (1000 * self.seconds[item] * rng.lognormal(-0.5, 0.7, count)).astype(np.int64)
        other_device = rng.random(count, np.float32) < OTHER_DEVICE
        device = np.where(other_device, 3 - self.device[user], self.device[user])
        if self.law:
            device = self.device_of_day[user, day - 1]
        columns = {
            "userid": self.user_ids[user],
            "feedid": self.item_ids[item],
            "date_": day,
            "device": device,
            "play": play,
            "stay": play + rng.integers(100, 4000, count),
            **actions,
        }
        columns = {name: columns[name] for name in USER_ACTION_HEADER}
        probability = {"click": click_probability(probability), **probability}
        copy_some_rows(columns, probability, rng)
        return Chunk(
            columns, {"user": columns["userid"], "item": columns["feedid"], "time": columns["date_"]}, probability
        )

    def write_features(self, folder: Path) -> int:
        """Write `feed_info.csv` and `feed_embeddings.csv` and return the number of items with features."""
        rng = np.random.default_rng([self.seed, 3])
        catalogue = make_catalogue(self.world, self.all_items, rng, without=NO_FEATURES)
        ocr = TextView([self.seed, 4], WORDS, directions=10)
        asr = TextView([self.seed, 5], WORDS, directions=7)
        description = TextView([self.seed, 6], WORDS, directions=8)
        keywords = TextView([self.seed, 7], KEYWORDS, directions=8)
        tags = TextView([self.seed, 8], TAGS, directions=8)
        fused = VectorView([self.seed, 9], EMBEDDING_WIDTH, directions=12, noise=1.5)
        items = len(catalogue.ids)
        info, embedding = folder / "feed_info.csv", folder / "feed_embeddings.csv"
        with progress("wechat: features", items) as advance, info.open("wb") as text, embedding.open("wb") as vectors:
            for chunk, start in enumerate(range(0, items, ITEMS_AT_A_TIME)):
                here = slice(start, start + ITEMS_AT_A_TIME)
                options = csv.WriteOptions(include_header=chunk == 0, quoting_style="none", quoting_header="none")
                ids, factors = catalogue.ids[here], catalogue.factors[here]
                on_screen = ocr.bags(factors, 60, chunk, longest=5198, empty=0.2)
                spoken = asr.bags(factors, 50, chunk, longest=3000, empty=0.3)
                written = description.bags(factors, 15, chunk, longest=600, empty=0.05)
                columns = {
                    "feedid": pa.array(ids),
                    **self._author_and_duration(catalogue, here, rng),
                    **_texts(on_screen, spoken, written, rng),
                    **self._music(catalogue, here, rng),
                    "manual_keyword_list": _joined(keywords.bags(factors, 3, chunk, longest=12, empty=0.4), ";"),
                    "machine_keyword_list": _joined(keywords.bags(factors, 5, chunk, longest=16, empty=0.2), ";"),
                    "manual_tag_list": _joined(tags.bags(factors, 2, chunk, longest=11, empty=0.3), ";"),
                    "machine_tag_list": _machine_tags(tags.bags(factors, 5, chunk, longest=14, empty=0.1), rng),
                }
                table = pa.table(columns)
                csv.write_csv(table, text, options)
                cells = np.round(fused.vectors(factors, chunk), 4)
                numbers = pc.cast(pa.array(cells.ravel()), pa.string())
                offsets = np.arange(len(ids) + 1) * EMBEDDING_WIDTH
                joined = pc.binary_join(pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), numbers), " ")
                spaced = pc.binary_join_element_wise(joined, "", " ")  # the trailing space of the real file
                table = pa.table({"feedid": pa.array(ids), "feed_embedding": spaced})
                csv.write_csv(table, vectors, options)
                advance(len(ids))
        return items

    def _author_and_duration(self, catalogue: Catalogue, here: slice, rng: np.random.Generator) -> dict[str, pa.Array]:
        """Return the columns of some items: with the content law nothing depends on them, and they are drawn here."""
        topic, like = catalogue.topic[here], catalogue.like[here]
        if self.law:
            author, seconds = self.law.items.author[like], self.law.items.seconds[like]
        else:
            author = topic * 40 + rng.integers(40, size=len(topic))
            seconds = np.maximum(3, rng.lognormal(3.2, 0.6, len(topic))).astype(np.int64)
        return {"authorid": pa.array(author), "videoplayseconds": pa.array(seconds)}

    def _music(self, catalogue: Catalogue, here: slice, rng: np.random.Generator) -> dict[str, pa.Array]:
        """Return the song and the singer of some items; empty if unknown."""
        topic, like = catalogue.topic[here], catalogue.like[here]
        if self.law:
            song, singer = self.law.items.song[like], self.law.items.singer()[like]
            return {"bgm_song_id": _as_text(song, rng), "bgm_singer_id": _as_text(singer, rng)}
        song = _some_empty(_as_text(topic * 300 + rng.integers(60, size=len(topic)), rng), rng)
        singer = _some_empty(_as_text(topic * 200 + rng.integers(20, size=len(topic)), rng), rng)
        return {"bgm_song_id": song, "bgm_singer_id": singer}


def _day_at(place: np.ndarray) -> np.ndarray:
    """Return the day of each place (rows,) in the file, from 0 to 1: int64 (rows,), from 1."""
    return (1 + np.floor(place * DAYS)).astype(np.int64)


def _joined(bags: Bags, separator: str) -> pa.Array:
    return pc.binary_join(bags.lists(), separator)


def _texts(on_screen: Bags, spoken: Bags, written: Bags, rng: np.random.Generator) -> dict[str, pa.Array]:
    """Return words and characters of each text; some texts have characters only."""
    made: dict[str, pa.Array] = {}
    for name, words in (("description", written), ("ocr", on_screen), ("asr", spoken)):
        no_words = pa.array(rng.random(len(words.offsets) - 1) < 0.1)
        made[name] = pc.if_else(no_words, "", _joined(words, " "))
        made[f"{name}_char"] = _joined(characters_of(words, CHARACTERS), " ")
    return made


def _as_text(ids: np.ndarray, rng: np.random.Generator) -> pa.Array:
    """Format ids as text: half of them with `.0`, unknown ones empty."""
    text = pc.cast(pa.array(ids), pa.string())
    text = pc.if_else(pa.array(rng.random(len(ids)) < 0.5), pc.binary_join_element_wise(text, "0", "."), text)
    return pc.if_else(pa.array(ids == UNKNOWN), "", text)


def _some_empty(text: pa.Array, rng: np.random.Generator) -> pa.Array:
    """Empty two in five of the texts."""
    return pc.if_else(pa.array(rng.random(len(text)) < 0.4), "", text)


def _machine_tags(bags: Bags, rng: np.random.Generator) -> pa.Array:
    """Format tags with random probabilities as `id probability;id probability`."""
    sure = np.round(rng.beta(2, 1.2, len(bags.tokens)), 6)
    cells = pc.binary_join_element_wise(
        pc.cast(pa.array(bags.tokens), pa.string()), pc.cast(pa.array(sure), pa.string()), " "
    )
    return pc.binary_join(pa.ListArray.from_arrays(pa.array(bags.offsets, pa.int32()), cells), ";")
