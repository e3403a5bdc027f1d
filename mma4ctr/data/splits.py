"""Split rows into training, validation and test rows in the ratio 8 : 1 : 1."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mma4ctr.data.interactions import TRAIN, VALID, draws_of, draws_setting, has_test_labels
from mma4ctr.data.row_order import RowArray, row_chunks
from mma4ctr.datasets.base import GIVEN_SPLITS, GIVEN_VALID_TEST, SPLIT_NAMES
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, read_artifact

SPLITS = ("chronological", "random", "user")
SEEDED_SPLITS = ("random", "user")
# Bins of a pass over the rows in `order_statistics`.
HISTOGRAM_BINS = 1 << 16


def order_statistics(values: RowArray, ranks: Sequence[int]) -> list[Any]:
    """Return the values at the given ranks of the sorted array, without sorting it.

    Each pass counts a histogram and narrows the range to one bin. One chunk of the rows is in memory at a time.

    Args:
        values: int64 or float64 (rows,).
        ranks: Ranks, from 0.

    Returns:
        One value for each rank.
    """
    ends = [(int(bits.min()), int(bits.max())) for bits in (_ordered_bits(chunk) for chunk in row_chunks(values))]
    found = []
    for rank in ranks:
        low, high, before = min(low for low, _ in ends), max(high for _, high in ends), 0
        while True:
            width = -((low - high - 1) // HISTOGRAM_BINS)  # values in one bin, rounded up
            counts = np.zeros(HISTOGRAM_BINS + 1, np.int64)
            for chunk in row_chunks(values):
                bits = _ordered_bits(chunk)
                inside = bits[(bits >= low) & (bits <= high)].view(np.uint64)
                # Unsigned: the difference of two int64 can exceed int64.
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
    """Map int64 or float64 values (n,) to int64 in the same order; int64 values stay unchanged."""
    bits = values.view(np.int64)
    return bits if values.dtype.kind == "i" else bits ^ ((bits >> 63) & np.int64(2**63 - 1))


def _from_ordered_bits(bits: np.ndarray, kind: np.dtype) -> np.ndarray:
    """Invert `_ordered_bits`."""
    return bits if kind.kind == "i" else (bits ^ ((bits >> 63) & np.int64(2**63 - 1))).view(kind)


def split_rows(split: str, user: RowArray, time: RowArray, seed: int, draw: np.ndarray | None = None) -> np.ndarray:
    """Assign each row to TRAIN, VALID or TEST in the ratio 8 : 1 : 1 (docs/method.md, Protocols).

    Args:
        split: `chronological` cuts at the 80 % and 90 % quantiles of time and keeps rows of equal time together;
            `random` draws rows, `user` draws whole users.
        user: int (rows,).
        time: int64 or float64 (rows,).
        seed: Seed of `random` and `user`.
        draw: int64 (rows,), as `draws_of` returns it; `random` keeps the rows of a draw together.

    Returns:
        uint8 (rows,).
    """
    rows = len(user)
    cuts = (8 * rows // 10, 9 * rows // 10)
    if split == "chronological":
        first, second = order_statistics(time, cuts)
        return np.concatenate([(chunk >= first).astype(np.uint8) + (chunk >= second) for chunk in row_chunks(time)])
    generator = np.random.default_rng(seed)
    of_row = draw if split == "random" else user[:]
    if of_row is None:
        place = generator.permutation(rows)
    else:
        count = int(of_row.max()) + 1
        drawn = generator.permutation(count)
        sizes = np.bincount(of_row, minlength=count)[drawn]
        place = np.empty(count, np.int64)
        place[drawn] = np.cumsum(sizes) - sizes  # rows of the users (or draws) before in the drawn order
        place = place[of_row]
    return ((place >= cuts[0]).astype(np.uint8) + (place >= cuts[1])).astype(np.uint8)


def given_rows(split: np.ndarray, time: RowArray, source: Path, *, valid_is_test: bool) -> np.ndarray:
    """Complete a given split: without validation rows, they are the last tenth of the training rows by time.

    Training rows of equal time stay together, so the tenth is rounded up.

    Args:
        split: uint8 (rows,), the given part of each row.
        time: int64 or float64 (rows,).
        source: The file of the rows, for the message.
        valid_is_test: The test rows are the validation rows too, so no training row is taken.

    Returns:
        uint8 (rows,).

    Raises:
        UserError: All training rows have the same time.
    """
    if valid_is_test or (split == VALID).any() or not (split == TRAIN).any():
        return split
    train = np.flatnonzero(split == TRAIN)
    times = time[:][train]
    first = np.partition(times, 9 * len(times) // 10)[9 * len(times) // 10]
    if first == times.min():
        raise UserError(
            f"{source}: the last tenth of the training rows by time would be all of them, because so many have the "
            "first time; name validation rows with valid in [split]"
        )
    completed = split.copy()
    completed[train[times >= first]] = VALID
    return completed


def split_sizes(of_row: np.ndarray, split: str, source: Path) -> dict[str, int]:
    """Count the training, validation and test rows.

    Args:
        of_row: uint8 (rows,), as `split_rows` returns it.
        split: Name of the split, for the message.
        source: The file of the rows, for the message.

    Returns:
        Number of rows by name of the split.

    Raises:
        UserError: One of the three is empty.
    """
    sizes = {name: int((of_row == number).sum()) for number, name in enumerate(SPLIT_NAMES)}
    if split == GIVEN_VALID_TEST:
        sizes["valid"] = sizes["test"]
    if not all(sizes.values()):
        shown = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        if split in GIVEN_SPLITS:
            raise UserError(
                f"{source}: the given split has an empty part ({shown}); correct [split] in the description"
            )
        raise UserError(
            f"{source}: the {split} split has no rows in one of its parts ({shown}), because there are too few rows or "
            "too few distinct times; choose another --split or a smaller --min-interactions"
        )
    return sizes


def write_other_split(base: Artifact, folder: Path, *, split: str, seed: int) -> Artifact:
    """Split the kept rows of `base` anew, for the sweep.

    The raw file is not read again, and no .inter files are written.

    Args:
        base: The output of step 1.
        folder: Where to write.
        split: One of `SPLITS`.
        seed: Seed of `random` and `user`.

    Returns:
        The new artifact.

    Raises:
        UserError: The test rows have no labels, so they cannot become training rows.
    """
    if not has_test_labels(base):
        raise UserError(f"{base.folder}: the test rows have no labels, so the rows cannot be split anew")
    with ArtifactWriter(
        folder,
        step=1,
        made_by="adjust_hyperparameter.py",
        settings=base.settings
        | {"split": split, "seed": seed if split in SEEDED_SPLITS else None}
        | draws_setting(base),
        inputs={"interactions": base.fingerprint},
        sources=base.manifest["sources"],
    ) as writer:
        of_row = split_rows(split, base.array("user"), base.array("time"), seed, draws_of(base))
        writer.adopt(base, (name for name in base.array_names if name != "split"))
        writer.array("split", of_row)
        writer.manifest["rows"] = base.manifest["rows"] | split_sizes(of_row, split, base.folder)
        writer.manifest["positives"] = base.manifest["positives"]
        for key in ("columns", "hour", "ticks_per_second", "timed"):
            if key in base.manifest:
                writer.manifest[key] = base.manifest[key]
    return read_artifact(folder, "adjust_hyperparameter.py")
