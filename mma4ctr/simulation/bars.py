"""Simulated files of the shapes of two data sets of BARS: KuaiVideo_x1 and MicroVideo1.7M_x1.

Both have `train.csv` and `test.csv`, ordered by time, and 64 numbers of each item in an HDF5 file. At the end of a line
stand the last 100 entries of the user's histories, oldest first; an empty history is an empty cell.

    kuaivideo-x1        the items that the user clicked and did not click before the row; only a clicked item is liked
                        or followed
    microvideo-1.7m-x1  the items that the user clicked and their categories; in test.csv, at the end of train.csv,
                        which has none of the items of test.csv

The labels follow the log law, with the effects that the columns of these files can carry. Their published timestamps
tell the order of the rows only, so there are no hours.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
from scipy.special import expit

from mma4ctr.runtime.console import progress
from mma4ctr.runtime.parallel import in_order
from mma4ctr.simulation.histories import HistoryLines
from mma4ctr.simulation.law import CALIBRATION_ROWS, LATE, STRENGTHS, Strength, draw_exposures, make_world
from mma4ctr.simulation.log_items import ItemRates
from mma4ctr.simulation.log_law import Impressions, LogLaw, make_log_law
from mma4ctr.simulation.rows import CHUNK_ROWS, Chunk, truth_file
from mma4ctr.simulation.views import VectorView

LONGEST_HISTORY = 100
LINES_AT_A_TIME = 1 << 14
ITEMS_AT_A_TIME = 8192
FIRST_TIME, SPAN = 1_500_000_000_000, 10 * 86_400_000  # of the log, in milliseconds
# Flatter than the other data sets', so that most of the published number of items occur in as many rows.
ZIPF = 0.5
VECTOR_WIDTH = 64
# A picture shows three quarters of what the labels depend on.
DIRECTIONS, NOISE = 12, 1.0
NOTHING = np.int64(-1)
_ABSENT = Strength(0.0, "the files have no such column")


@dataclass(frozen=True)
class Shape:
    """What is published of a data set, and what is chosen for its simulation.

    Attributes:
        rows: Published number of rows.
        test_rows: Those in test.csv.
        users: Published number of users.
        items: Published number of items.
        header: Columns of the CSV files. The last two are histories.
        negatives_per_positive: By target; for those after the first, as if every row could have them. Only rows with
            the first target do, and of these a larger share.
        item_vectors: The HDF5 file of item vectors.
        user_vectors: The HDF5 file of user vectors; None if there is none.
        new_test_items: No item of test.csv is in train.csv.
        categories: About how many categories the items have; None: the items have no category.
        strengths: Effects of other strengths than `STRENGTHS` gives.
    """

    rows: int
    test_rows: int
    users: int
    items: int
    header: tuple[str, ...]
    negatives_per_positive: Mapping[str, float]
    item_vectors: str
    user_vectors: str | None = None
    new_test_items: bool = False
    categories: int | None = None
    strengths: Mapping[str, Strength] = field(default_factory=dict)

    def sizes(self, rows: int) -> tuple[int, int]:
        """Return the users and items of so many rows, each with as many rows as published, but not too few."""
        scale = rows / self.rows
        return max(50, round(self.users * scale)), max(500, round(self.items * scale))


# Click rates of 0.2 and 0.18 fit the published LogLoss and AUC.
SHAPES: Mapping[str, Shape] = {
    "kuaivideo-x1": Shape(
        rows=13_661_383,
        test_rows=2_730_291,
        users=10_000,
        items=3_239_534,
        header=("timestamp", "user_id", "item_id", "is_click", "is_like", "is_follow", "pos_items", "neg_items"),
        negatives_per_positive={"click": 4.0, "like": 19.0, "follow": 99.0},
        item_vectors="item_visual_emb_dim64.h5",
        user_vectors="user_visual_emb_dim64.h5",
        strengths={
            "quality": Strength(0.6, "no author or song explains a part of it"),
            **dict.fromkeys(("author", "music", "duration", "channel", "hour", "loyalty"), _ABSENT),
        },
    ),
    "microvideo-1.7m-x1": Shape(
        rows=12_737_617,
        test_rows=3_767_308,
        users=10_986,
        items=1_704_880,
        header=("user_id", "item_id", "cate_id", "is_click", "timestamp", "clicked_items", "clicked_categories"),
        negatives_per_positive={"click": 4.56},
        item_vectors="item_image_emb_dim64.h5",
        new_test_items=True,
        categories=512,
        # The category stands in for the author, and is some users' favourite.
        strengths=dict.fromkeys(("music", "duration", "channel", "hour"), _ABSENT),
    ),
}


class BarsWorld:
    """The simulated files of one shape.

    Args:
        shape: What to write.
        rows: Number of rows of both files.
        users: Number of users.
        items: Number of items with vectors, most of which occur.
        seed: Seed of the world.
    """

    def __init__(self, shape: Shape, rows: int, users: int, items: int, seed: int) -> None:
        self.shape, self.seed, self.rows = shape, seed, rows
        self.train_rows = rows - round(rows * shape.test_rows / shape.rows)
        cut = self.train_rows / rows
        late_share = 1 - cut if shape.new_test_items else LATE
        world = make_world(
            shape.negatives_per_positive, users=users, items=items, seed=seed, late_share=late_share, zipf=ZIPF
        )
        rng = np.random.default_rng([seed, 1])
        self.user_ids, self.item_ids = rng.permutation(users), rng.permutation(items)
        rates = ItemRates(
            log_seconds=0.0,
            log_seconds_spread=1.0,
            shortest=1,
            without_song=1.0,
            authors=shape.categories,
            late_from=cut if shape.new_test_items else 1 - LATE,
        )
        self.of_train = self.of_test = world
        if shape.new_test_items:
            before, after = world.item_table[: world.early], world.item_table[world.early :]
            self.of_train = replace(world, item_table=before)
            self.of_test = replace(world, item_table=after, early=len(after))
        self.law = self._calibrated(make_log_law(world, rates, seed, {**STRENGTHS, **shape.strengths}))
        # By user, of the clicks in train.csv: their number, and the sum of the items' factors.
        self._clicks, self._clicked = np.zeros(users), np.zeros((users, world.item_factors.shape[1]))

    def _calibrated(self, law: LogLaw) -> LogLaw:
        rng = np.random.default_rng([self.seed, 11])
        t = np.sort(rng.random(CALIBRATION_ROWS))
        train = round(len(t) * self.train_rows / self.rows)
        parts = [
            draw_exposures(self.of_train, t[:train], rng),
            draw_exposures(self.of_test, t[train:], rng),
        ]
        user, item = (np.concatenate(both) for both in zip(*parts, strict=True))
        return law.calibrated(_impressions(user, item, t), self.shape.negatives_per_positive)

    def write_rows(self, folder: Path) -> None:
        """Write train.csv, test.csv and the true probabilities."""
        lines = HistoryLines(len(self.user_ids), LONGEST_HISTORY, len(self.item_ids))
        header = ",".join(self.shape.header).encode() + b"\n"
        with truth_file(folder) as write_truth, progress("interactions", self.rows) as advance:
            for part, chunks in (("train", self._chunks(0, self.train_rows)), ("test", self._test_chunks())):
                with (folder / f"{part}.csv").open("wb") as file:
                    file.write(header)
                    for user, item, chunk in chunks:
                        if part == "train":
                            self._count_clicks(user, item, chunk.columns["is_click"])
                        for start in range(0, len(user), LINES_AT_A_TIME):
                            here = slice(start, start + LINES_AT_A_TIME)
                            cells = {name: values[here] for name, values in chunk.columns.items()}
                            entries = self._entries(cells, part)
                            columns = [cells[name] for name in self.shape.header[:-2]]
                            file.write(lines.format(user[here], columns, entries))
                        write_truth(chunk)
                        advance(len(user))

    def _test_chunks(self) -> Iterator[tuple[np.ndarray, np.ndarray, Chunk]]:
        return self._chunks(self.train_rows, self.rows)

    def _chunks(self, start: int, stop: int) -> Iterator[tuple[np.ndarray, np.ndarray, Chunk]]:
        """Draw the rows `start` to `stop` in order."""

        def draw(first: int) -> tuple[np.ndarray, np.ndarray, Chunk]:
            return self._draw(first, min(first + CHUNK_ROWS, stop))

        for _, future in in_order(draw, range(start, stop, CHUNK_ROWS)):
            yield future.result()

    def _draw(self, start: int, stop: int) -> tuple[np.ndarray, np.ndarray, Chunk]:
        """Draw some rows of one file; return their users and items as numbers of the world, and their columns."""
        rng = np.random.default_rng([self.seed, 2, start])
        world = self.of_train if start < self.train_rows else self.of_test
        moment = ((np.arange(start, stop) + rng.random(stop - start)) * (SPAN / self.rows)).astype(np.int64)
        time, t = FIRST_TIME + moment, moment / SPAN
        user, item = draw_exposures(world, t, rng)
        shown = dict(zip(world.targets, expit(self.law.logits(_impressions(user, item, t))), strict=True))
        columns = {"timestamp": time, "user_id": self.user_ids[user], "item_id": self.item_ids[item]}
        keys = {"user": columns["user_id"], "item": columns["item_id"], "time": time}
        if self.shape.categories:
            columns["cate_id"] = self.law.items.author[item]
        first = world.targets[0]
        probability: dict[str, np.ndarray] = {}
        for target, value in shown.items():
            acts = rng.random(len(t), np.float32) < value
            probability[target] = value if target == first else value * shown[first]
            columns[f"is_{target}"] = acts if target == first else acts & columns[f"is_{first}"]
        return user, item, Chunk(columns, keys, probability)

    def _entries(self, cells: Mapping[str, np.ndarray], part: str) -> list[np.ndarray]:
        """Return what rows add to the two histories: int64 (rows,) each, -1 for nothing."""
        click, item = cells["is_click"], cells["item_id"]
        if not self.shape.categories:
            return [np.where(click, item, NOTHING), np.where(click, NOTHING, item)]
        added = click & (part == "train")
        return [np.where(added, item, NOTHING), np.where(added, cells["cate_id"], NOTHING)]

    def _count_clicks(self, user: np.ndarray, item: np.ndarray, click: np.ndarray) -> None:
        user, item = user[click], item[click]
        self._clicks += np.bincount(user, minlength=len(self._clicks))
        np.add.at(self._clicked, user, self.law.world.item_factors[item])

    def write_features(self, folder: Path) -> int:
        """Write the vectors of the items, and of the users from their clicks in train.csv.

        `write_rows` must be called before. Returns the number of items.
        """
        view = VectorView([self.seed, 4], VECTOR_WIDTH, directions=DIRECTIONS, noise=NOISE)
        items = np.argsort(self.item_ids)  # in the order of the ids
        write_vectors(folder / self.shape.item_vectors, view, self.law.world.item_factors, items)
        if self.shape.user_vectors:
            mean = (self._clicked / np.maximum(self._clicks, 1)[:, None]).astype(np.float32)
            quiet = VectorView([self.seed, 4], VECTOR_WIDTH, directions=DIRECTIONS, noise=0.0)
            write_vectors(folder / self.shape.user_vectors, quiet, mean, np.argsort(self.user_ids))
        return len(items)


def write_vectors(path: Path, view: VectorView, factors: np.ndarray, order: np.ndarray) -> None:
    """Write vectors to an HDF5 file: `key`, int64 (n,) from 0, and `value`, float32 (n, 64).

    Args:
        path: The file.
        view: Makes vectors of factors.
        factors: float32 (n, 16).
        order: int (n,), which row of the factors belongs to each key.
    """
    count = len(order)
    with h5py.File(path, "w") as file, progress(path.stem, count) as advance:
        file["key"] = np.arange(count)
        value = file.create_dataset("value", (count, VECTOR_WIDTH), np.float32)
        for chunk, start in enumerate(range(0, count, ITEMS_AT_A_TIME)):
            here = order[start : start + ITEMS_AT_A_TIME]
            value[start : start + len(here)] = view.vectors(factors[here], chunk)
            advance(len(here))


def _impressions(user: np.ndarray, item: np.ndarray, t: np.ndarray) -> Impressions:
    return Impressions(user=user, item=item, t=t, channel=np.zeros(len(t), np.int8))
