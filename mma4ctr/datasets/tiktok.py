"""Reader of TikTok (ICME 2019 short video understanding challenge), track1 and track2."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType
from typing import Self

import numpy as np
import pyarrow.compute as pc

from mma4ctr.datasets.base import (
    BagChunk,
    ColumnNames,
    DenseChunk,
    InteractionChunk,
    Modality,
    RawDataset,
    hash_rows,
)
from mma4ctr.datasets.columns import binary_labels
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.datasets.tiktok_features import FACE_WIDTH, VECTOR_KEYS, feature_parser
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import Processes, Threads
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.delimited import DelimitedText, integer_text
from mma4ctr.storage.paths import Paths
from mma4ctr.storage.text_blocks import MANY_BYTES, Block, TextLayout, find_raw_file, parse_blocks

COLUMNS = ["uid", "user_city", "item_id", "author_id", "item_city", "channel", "finish", "like", "music_id"]
COLUMNS += ["device", "time", "duration_time"]
UNKNOWN = -1

# File names of the modalities. The study reduces visual and acoustic vectors of 128 columns to 71 and 10,
# and titles to 22.
FILE_STEMS = {
    "visual": "video_features",
    "acoustic": "audio_features",
    "textual": "title",
    "face": "face_attrs",
}
TRAIN_LAYOUT = TextLayout()
JSON_LAYOUT = TextLayout(closed_by_newline=False)  # truncated JSON does not parse


class TikTok(RawDataset):
    """`final_<track>_train.txt` and the JSON-lines feature files beside it."""

    name = "tiktok"
    targets = ("like", "finish")
    default_targets = ("like", "finish")
    modalities = (
        Modality("visual", 71, "dense", raw_width=128),
        Modality("acoustic", 10, "dense", raw_width=128),
        Modality("textual", 22, "bag"),
        Modality("face", FACE_WIDTH, "dense", raw_width=FACE_WIDTH, optional=True),
    )
    min_interactions = 4000
    tracks = ("track1", "track2")
    columns = MappingProxyType(
        {
            "user": ColumnNames(("user_city",)),
            "item": ColumnNames(("author_id", "music_id", "item_city"), ("duration_time",)),
            "context": ColumnNames(("channel", "device")),
        }
    )
    hour = True
    ticks_per_second = 1

    @classmethod
    def find(cls, paths: Paths, track: str | None) -> Self | None:
        """Find the folder of a track: a subfolder of the path in path.json, or that folder itself.

        Args:
            paths: the folders.
            track: name of the track; None: the first one found.

        Returns:
            The data set, or None if the folder does not exist.

        Raises:
            UserError: The folder has no files of a track.
        """
        if not paths.tiktok.is_dir():
            return None
        names = (track,) if track else cls.tracks
        for name in names:
            if (paths.tiktok / name).is_dir():
                return cls(paths.tiktok / name, name)
        for name in names:
            if find_raw_file(paths.tiktok, _interaction_file(name)):
                return cls(paths.tiktok, name)
        wanted = " or ".join(names)
        files = " or ".join(map(_interaction_file, names))
        raise UserError(f"{paths.tiktok}: has no folder {wanted} and no {files}; put the TikTok files of a track there")

    def interaction_files(self) -> list[Path]:
        """See `RawDataset`."""
        name = _interaction_file(self.track or self.tracks[0])
        path = find_raw_file(self.folder, name)
        if path is None:
            raise UserError(f"{self.folder / name}: the interaction file is missing; put it there")
        return [path]

    def _rows_of(self, columns: list[str]) -> DelimitedText:
        return integer_text(self.interaction_files()[0], COLUMNS, columns, delimiter="\t", quoted=False)

    def read_users(self, bad: BadLines) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """See `RawDataset`."""
        text = self._rows_of(["uid"])

        def parse(data: bytes, _block: Block) -> tuple[np.ndarray, np.ndarray]:
            counts = pc.value_counts(text.parse(data)["uid"])
            users, rows = counts.field("values").to_numpy(), counts.field("counts").to_numpy()
            known = users != UNKNOWN
            return users[known], rows[known]

        yield from parse_blocks(
            self.interaction_files()[0], parse, bad, TRAIN_LAYOUT, description="tiktok: counting", workers=self.workers
        )

    def read_interactions(self, kept: IdIndex, bad: BadLines) -> Iterator[InteractionChunk]:
        """See `RawDataset`."""
        text = self._rows_of(COLUMNS)

        def parse(data: bytes, _block: Block) -> InteractionChunk:
            table = text.parse(data)
            labels = {target: binary_labels(table[target].to_numpy(), target) for target in self.targets}
            user = kept.positions(table["uid"].to_numpy())
            rows = np.flatnonzero((user >= 0) & (table["item_id"].to_numpy() != UNKNOWN))
            column = {name: table[name].to_numpy()[rows] for name in COLUMNS}
            return InteractionChunk(
                user=user[rows],
                item=column["item_id"],
                device=column["device"],
                time=column["time"],
                labels={target: label[rows] for target, label in labels.items()},
                row_hash=hash_rows(list(column.values())),
                context={name: column[name] for name in self.columns["context"].names},
                user_values={name: column[name] for name in self.columns["user"].names},
                item_values={name: column[name] for name in self.columns["item"].names},
            )

        yield from parse_blocks(
            self.interaction_files()[0], parse, bad, TRAIN_LAYOUT, description="tiktok: reading", workers=self.workers
        )

    def feature_files(self, modality: str) -> list[Path]:
        """See `RawDataset`."""
        stem = f"{self.track}_{FILE_STEMS[modality]}"
        single = find_raw_file(self.folder, f"{stem}.txt")
        if single:
            return [single]
        names = {path.name.removesuffix(".gz") for path in self.folder.glob(f"{stem}_part*.txt*")}
        numbered = sorted(names, key=lambda name: (len(name), name))
        return [path for name in numbered if (path := find_raw_file(self.folder, name))]

    def read_features(self, modality: str, bad: BadLines) -> Iterator[DenseChunk | BagChunk]:
        """See `RawDataset`."""
        files = self.feature_files(modality)
        with ExitStack() as opened:
            workers = self.workers
            large = sum(path.stat().st_size for path in files) > MANY_BYTES
            if large and modality not in VECTOR_KEYS and isinstance(workers, Threads):
                # Titles and faces are parsed in Python, which threads do not speed up.
                workers = opened.enter_context(Processes())
            for path in files:
                yield from parse_blocks(
                    path,
                    feature_parser(modality, compiled=large),
                    bad,
                    JSON_LAYOUT,
                    description=f"tiktok: {modality}",
                    workers=workers,
                )


def _interaction_file(track: str) -> str:
    return f"final_{track}_train.txt"
