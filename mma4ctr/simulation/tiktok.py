"""Simulated TikTok files: `final_<track>_train.txt`, video and audio vectors, titles, and faces (track2)."""

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from scipy.special import expit

from mma4ctr.datasets.tiktok import COLUMNS, FILE_STEMS, UNKNOWN
from mma4ctr.datasets.tiktok_features import VECTOR_KEYS
from mma4ctr.runtime.console import progress
from mma4ctr.simulation.law import CALIBRATION_ROWS, STRENGTHS, Strength, World, draw_exposures, logits
from mma4ctr.simulation.log_items import ItemRates
from mma4ctr.simulation.log_law import HOURS, Impressions, LogLaw, make_log_law
from mma4ctr.simulation.rows import Chunk, copy_some_rows
from mma4ctr.simulation.views import Bags, TextView, VectorView, make_catalogue

NEGATIVES_PER_POSITIVE = {"like": 61.28, "finish": 2.53}
REAL_NEGATIVES_PER_POSITIVE = NEGATIVES_PER_POSITIVE
FOLDER = "TikTok2019ICME"
VECTOR_WIDTH = 128
VIDEO_FILES, AUDIO_FILES = 11, 4
ITEMS_AT_A_TIME = 8192
FIRST_TIME, SPAN = 53_000_000_000, 60 * 86_400
ITEM_RATES = ItemRates(log_seconds=2.4, log_seconds_spread=0.4, shortest=1, without_song=0.1)
RARE_CHANNEL, CHANNEL_TABLE = 0.1, 1 << 20
# Shares of the items: shown without features, empty vector, truncated vector, features but never shown.
NO_FEATURES, EMPTY, SHORT, UNSEEN = 0.01, 0.02, 0.01, 0.5


class TikTokWorld:
    """One simulated track; of the content law, unless `use_log_law` is called."""

    header: list[str] | None = None

    def __init__(self, world: World, seed: int, track: str) -> None:
        rng = np.random.default_rng([seed, 1])
        users, items = len(world.user_factors), len(world.item_factors)
        self.world, self.seed, self.track = world, seed, track
        self.user_ids = rng.permutation(users).astype(np.int64)
        # Ids from a range wider than the number of items, as in the real data.
        self.all_items = rng.permutation(round(items * (1 + UNSEEN)) * 2)[: round(items * (1 + UNSEEN))].astype(
            np.int64
        )
        self.item_ids = self.all_items[:items]
        self.author = rng.permutation(items)[world.topic * 7 % items] // 3 + rng.integers(3, size=items)
        self.music = np.where(rng.random(items) < 0.1, UNKNOWN, world.topic * 50 + rng.integers(50, size=items))
        self.city = rng.integers(UNKNOWN, 400, size=items)
        self.duration = ITEM_RATES.draw_seconds(items, rng)
        self.user_city = rng.integers(UNKNOWN, 400, size=users)
        self.device = rng.integers(75_000, size=users)
        self.law: LogLaw | None = None
        self.rare_channel = np.zeros(0, np.int8)

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
        self.rare_channel = (rng.random(CHANNEL_TABLE, np.float32) < RARE_CHANNEL).astype(np.int8)
        second = rng.integers(SPAN, size=CALIBRATION_ROWS)
        user, item = draw_exposures(self.world, second / SPAN, rng)
        self.law = law.calibrated(self._impressions(user, item, second), negatives_per_positive)
        self.author, self.music, self.duration = law.items.author, law.items.song, law.items.seconds

    def _impressions(self, user: np.ndarray, item: np.ndarray, second: np.ndarray) -> Impressions:
        """Return rows with their channels; rows of the same user and time have the same."""
        channel = self.rare_channel[(second * 31 + user * np.int64(7919)) % CHANNEL_TABLE]
        hour = (FIRST_TIME + second) // 3600 % HOURS
        return Impressions(user=user, item=item, t=second / SPAN, channel=channel, hour=hour)

    def file_name(self) -> str:
        """Return the name of the interaction file."""
        return f"final_{self.track}_train.txt"

    def rows(self, number: int, start: int, stop: int, total: int) -> Chunk:
        """Draw rows `start` to `stop` of the file, in random order of time, with their true probabilities."""
        rng = np.random.default_rng([self.seed, 2, number])
        count = stop - start
        second = rng.integers(SPAN, size=count)
        user, item = draw_exposures(self.world, second / SPAN, rng)
        if self.law:
            impressions = self._impressions(user, item, second)
            shown, channel = self.law.logits(impressions), impressions.channel
        else:
            shown, channel = logits(self.world, user, item, second / SPAN), None
        probability = dict(zip(self.world.targets, expit(shown), strict=True))
        label = {
            target: (rng.random(count, np.float32) < value).astype(np.int8) for target, value in probability.items()
        }
        other_device = rng.random(count, np.float32) < 0.05
        if channel is None:  # the content law ignores it
            channel = (rng.random(count, np.float32) < RARE_CHANNEL).astype(np.int8)
        columns = {
            "uid": self.user_ids[user],
            "user_city": self.user_city[user],
            "item_id": self.item_ids[item],
            "author_id": self.author[item],
            "item_city": self.city[item],
            "channel": channel,
            **label,
            "music_id": self.music[item],
            "device": np.where(other_device, self.device[user] // 2, self.device[user]),
            "time": FIRST_TIME + second,
            "duration_time": self.duration[item],
        }
        columns = {name: columns[name] for name in COLUMNS}
        copy_some_rows(columns, probability, rng)
        return Chunk(
            columns, {"user": columns["uid"], "item": columns["item_id"], "time": columns["time"]}, probability
        )

    def write_features(self, folder: Path) -> int:
        """Write every feature file and return the number of items with features."""
        rng = np.random.default_rng([self.seed, 3])
        catalogue = make_catalogue(self.world, self.all_items, rng, without=NO_FEATURES)
        views = {
            "visual": VectorView([self.seed, 4], VECTOR_WIDTH, directions=10, noise=1.0),
            "acoustic": VectorView([self.seed, 5], VECTOR_WIDTH, directions=6, noise=1.5),
        }
        title = TextView([self.seed, 6], 130_000, directions=8)
        counts = {"visual": VIDEO_FILES, "acoustic": AUDIO_FILES} if self.track == "track1" else {}
        items = len(catalogue.ids)
        with progress("tiktok: features", items) as advance:
            files = {
                modality: _NumberedFiles(folder, self.track, FILE_STEMS[modality], counts.get(modality, 0), items)
                for modality in (*VECTOR_KEYS, "textual", *(("face",) if self.track == "track2" else ()))
            }
            for chunk, start in enumerate(range(0, items, ITEMS_AT_A_TIME)):
                here = slice(start, start + ITEMS_AT_A_TIME)
                ids, factors = catalogue.ids[here], catalogue.factors[here]
                for modality, key in VECTOR_KEYS.items():
                    files[modality].write(vector_lines(ids, views[modality].vectors(factors, chunk), key, rng))
                files["textual"].write(title_lines(ids, title.bags(factors, 8, chunk, longest=60, empty=0.1)))
                if "face" in files:
                    files["face"].write(face_lines(ids, factors, rng))
                advance(len(ids))
            for file in files.values():
                file.close()
        return items


class _NumberedFiles:
    """Writes lines to one file, or in equal shares to files numbered from 1."""

    def __init__(self, folder: Path, track: str, stem: str, files: int, lines: int) -> None:
        names = [f"{track}_{stem}_part{n}.txt" for n in range(1, files + 1)] or [f"{track}_{stem}.txt"]
        self._files = [(folder / name).open("wb") for name in names]
        self._per_file = -(-lines // len(names))
        self._written = 0

    def write(self, lines: pa.Array) -> None:
        """Write lines, moving on to the next file when one is full."""
        for line in lines.to_pylist():
            self._files[self._written // self._per_file].write(line.encode() + b"\n")
            self._written += 1

    def close(self) -> None:
        """Close all files."""
        for file in self._files:
            file.close()


def vector_lines(ids: np.ndarray, vectors: np.ndarray, key: str, rng: np.random.Generator) -> pa.Array:
    """Format vectors as JSON lines; some arrays are empty or truncated, and the order of the keys varies."""
    count, width = vectors.shape
    kind = rng.random(count)
    length = np.where(kind < EMPTY, 0, np.where(kind < EMPTY + SHORT, rng.integers(1, width, count), width))
    cells = np.round(vectors, 4)[np.arange(width) < length[:, None]]
    offsets = pa.array(np.concatenate([[0], np.cumsum(length)]), pa.int32())
    lists = pa.ListArray.from_arrays(offsets, pc.cast(pa.array(cells), pa.string()))
    array = pc.binary_join(lists, ", ")
    item = pc.cast(pa.array(ids), pa.string())
    id_first = pc.binary_join_element_wise('{"item_id": ', item, f', "{key}": [', array, "]}", "")
    id_last = pc.binary_join_element_wise(f'{{"{key}": [', array, '], "item_id": ', item, "}", "")
    return pc.if_else(pa.array(rng.random(count) < 0.8), id_first, id_last)


def title_lines(ids: np.ndarray, titles: Bags) -> pa.Array:
    """Format titles as lines such as `{"item_id": 5, "title_features": {"12": 1, "7": 2}}`."""
    row = np.repeat(np.arange(len(ids)), np.diff(titles.offsets))
    pairs, counts = np.unique(np.stack([row, titles.tokens], axis=1), axis=0, return_counts=True)
    cells = pc.binary_join_element_wise(
        '"', pc.cast(pa.array(pairs[:, 1]), pa.string()), '": ', pc.cast(pa.array(counts), pa.string()), ""
    )
    offsets = pa.array(np.searchsorted(pairs[:, 0], np.arange(len(ids) + 1)), pa.int32())
    words = pc.binary_join(pa.ListArray.from_arrays(offsets, cells), ", ")
    item = pc.cast(pa.array(ids), pa.string())
    return pc.binary_join_element_wise('{"item_id": ', item, ', "title_features": {', words, "}}", "")


def face_lines(ids: np.ndarray, factors: np.ndarray, rng: np.random.Generator) -> pa.Array:
    """Draw `face_attrs` lines; number and attributes of the faces depend weakly on the item factors."""
    faces = np.minimum(rng.poisson(np.exp(0.8 * factors[:, 0] - 0.3)), 8)

    def lines() -> Iterator[str]:
        for item, count, vector in zip(ids.tolist(), faces.tolist(), factors.tolist(), strict=True):
            found = []
            for _ in range(count):
                x, y, noise, size = rng.random(4).tolist()
                beauty = min(1.0, max(0.0, 0.5 + 0.3 * vector[1] + 0.2 * (noise - 0.5)))
                gender = int(noise + 0.4 * vector[2] > 0.5)
                place = f"{x:.4f}, {y:.4f}, {0.3 * size:.4f}, {0.4 * size:.4f}"
                found.append(f'{{"gender": {gender}, "beauty": {beauty:.4f}, "relative_position": [{place}]}}')
            yield f'{{"item_id": {item}, "face_attrs": [{", ".join(found)}]}}'

    return pa.array(lines(), pa.string())
