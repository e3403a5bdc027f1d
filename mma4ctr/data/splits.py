"""How rows become training, validation and test rows in the ratio 8 : 1 : 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mma4ctr.data.interactions import SPLIT_NAMES
from mma4ctr.data.row_order import RowArray, parts_of
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, read_artifact

SPLITS = ("chronological", "random", "user")


HISTOGRAM_BINS = 1 << 16


def order_statistics(values: RowArray, ranks: Sequence[int]) -> list[Any]:
    """The values that would stand at `ranks` if all were sorted; one part of the rows in memory at a time.

    Args:
        values: (rows,) int64 or float64.
    """
    ends = [(int(bits.min()), int(bits.max())) for bits in (_ordered_bits(part) for part in parts_of(values))]
    found = []
    for rank in ranks:
        low, high, before = min(low for low, _ in ends), max(high for _, high in ends), 0
        while True:
            width = -((low - high - 1) // HISTOGRAM_BINS)  # values in one bin, rounded up
            counts = np.zeros(HISTOGRAM_BINS + 1, np.int64)
            for part in parts_of(values):
                bits = _ordered_bits(part)
                inside = bits[(bits >= low) & (bits <= high)].view(np.uint64)
                # Without a sign: two numbers of 64 bits can be further apart than one with a sign can tell.
                places = (inside - np.uint64(low % 2**64)) // np.uint64(width)
                counts += np.bincount(places.astype(np.int64), minlength=len(counts))
            upto = before + np.cumsum(counts)
            chosen = int(np.searchsorted(upto, rank, side="right"))
            before = int(upto[chosen - 1]) if chosen else before
            low, high = low + chosen * width, min(high, low + (chosen + 1) * width - 1)
            if width == 1:
                break
        found.append(_from_ordered_bits(np.array([low], np.int64), values.dtype)[0])
    return found


def _ordered_bits(values: np.ndarray) -> np.ndarray:
    """int64 (n,) in the order of the values: themselves, or the bits of float64, of negative ones turned round."""
    bits = values.view(np.int64)
    return bits if values.dtype.kind == "i" else bits ^ ((bits >> 63) & np.int64(2**63 - 1))


def _from_ordered_bits(bits: np.ndarray, kind: np.dtype) -> np.ndarray:
    """The opposite."""
    return bits if kind.kind == "i" else (bits ^ ((bits >> 63) & np.int64(2**63 - 1))).view(kind)


def split_rows(split: str, user: RowArray, time: RowArray, seed: int) -> np.ndarray:
    """uint8 (rows,) of TRAIN, VALID, TEST in the ratio 8 : 1 : 1 (design section 6).

    `chronological` cuts at the times below which 80 % and 90 % of the rows lie; rows of one time stay together.
    `random` draws rows, `user` whole users, both from `seed`.
    """
    rows = len(user)
    cuts = (8 * rows // 10, 9 * rows // 10)
    if split == "chronological":
        first, second = order_statistics(time, cuts)
        return np.concatenate([(part >= first).astype(np.uint8) + (part >= second) for part in parts_of(time)])
    generator = np.random.default_rng(seed)
    if split == "random":
        place = generator.permutation(rows)
    else:
        of_row = user[:]
        users = int(of_row.max()) + 1
        drawn = generator.permutation(users)
        sizes = np.bincount(of_row, minlength=users)[drawn]
        place = np.empty(users, np.int64)
        place[drawn] = np.cumsum(sizes) - sizes  # rows of the users drawn before
        place = place[of_row]
    return ((place >= cuts[0]).astype(np.uint8) + (place >= cuts[1])).astype(np.uint8)


def split_sizes(parts: np.ndarray, split: str, source: Path) -> dict[str, int]:
    """RowArray of each part of the split; raises `UserError` where one has none."""
    sizes = {name: int((parts == number).sum()) for number, name in enumerate(SPLIT_NAMES)}
    if not all(sizes.values()):
        raise UserError(
            f"{source}: the {split} split leaves a part empty ({sizes}); too few rows or too few distinct times, "
            "take another --split or a smaller --min-interactions"
        )
    return sizes


def write_other_split(base: Artifact, folder: Path, *, split: str, seed: int) -> Artifact:
    """The kept rows of `base` under another split, for the sweep: without reading the raw file again, and without
    .inter files.
    """
    with ArtifactWriter(
        folder,
        step=1,
        made_by="adjust_hyperparameter.py",
        settings=base.settings | {"split": split, "seed": seed if split != "chronological" else None},
        inputs={"interactions": base.fingerprint},
        sources=base.manifest["sources"],
    ) as writer:
        parts = split_rows(split, base.array("user"), base.array("time"), seed)
        writer.adopt(base, (name for name in base.array_names if name != "split"))
        writer.array("split", parts)
        writer.manifest["rows"] = base.manifest["rows"] | split_sizes(parts, split, base.folder)
        writer.manifest["positives"] = base.manifest["positives"]
    return read_artifact(folder, "adjust_hyperparameter.py")
