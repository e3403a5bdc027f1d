"""Step 1 of 8: raw interactions -> the kept rows as aligned arrays, with their split, and RecBole's .inter files.

Reads    user_action.csv (WeChat), final_track1_train.txt or final_track2_train.txt (TikTok), plain or .gz
Writes   graph_path/<dataset>/: user, item, device, time, split, label_<target>, user_ids, item_ids (.npy) and
         <dataset>.{train,valid,test}.inter

Two streamed passes: the first counts the rows of each user, the second keeps the users with enough of them.
Exact duplicate rows are then dropped, so that one impression counts once, and the rest is ordered by user and
time. Kept rows go to disk in parts of consecutive users, so memory does not grow with the file.

    python preprocess_inter.py --dataset tiktok --min-interactions 4000 --split chronological
"""

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mma4ctr.data.interactions import SPLIT_NAMES
from mma4ctr.data.negative_sampling import by_first_split, draw_unseen
from mma4ctr.data.recbole_export import LINE_BYTES, InterColumn, write_inter
from mma4ctr.datasets import find_datasets
from mma4ctr.datasets.base import InteractionChunk, RawDataset
from mma4ctr.datasets.id_index import IdCollector, IdIndex
from mma4ctr.runtime.console import (
    Stopwatch,
    closing_line,
    note,
    parser,
    progress,
    run,
    seed_number,
    warn,
    whole_number,
)
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.parallel import in_order
from mma4ctr.runtime.ray_cluster import add_ray_option, workers_at
from mma4ctr.storage.arrays import StoredArray, write_values
from mma4ctr.storage.artifacts import Artifact, ArtifactWriter, demand_space, read_artifact
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.scratch import scratch_folder
from mma4ctr.storage.text_blocks import BadLines
from mma4ctr.storage.unchanged import unchanged

RowArray = np.ndarray | StoredArray
SPLITS = ("chronological", "random", "user")
# RowArray that are sorted in memory at a time: about 150 MB with all that sorting needs.
PART_ROWS = 1_000_000
HISTOGRAM_BINS = 1 << 16
PARTS_WAITING = 64  # counts of so many parts of a file are added up at a time


def count_rows(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Add up (users, rows of each) over the parts of a file: int64 sorted user ids, int64 rows of each."""
    waiting = [pa.table({"user": np.empty(0, np.int64), "rows": np.empty(0, np.int64)})]
    for users, rows in parts:
        waiting.append(pa.table({"user": users, "rows": rows}))
        if len(waiting) > PARTS_WAITING:
            waiting = [_added_up(waiting)]
    total = _added_up(waiting).sort_by("user")
    return total["user"].to_numpy(), total["rows"].to_numpy()


def _added_up(tables: list[pa.Table]) -> pa.Table:
    summed = pa.concat_tables(tables).group_by("user").aggregate([("rows", "sum")])
    return summed.rename_columns({"rows_sum": "rows"})


def part_starts(rows_of_user: np.ndarray, part_rows: int) -> np.ndarray:
    """int64 first user of each part of consecutive users, a part having about `part_rows` rows."""
    part = (np.cumsum(rows_of_user) - 1) // part_rows
    return np.flatnonzero(np.diff(part, prepend=-1)).astype(np.int64)


def record_type(targets: Iterable[str]) -> np.dtype:
    """The packed record in which rows wait on disk for their part to be sorted, in the order of the raw file."""
    columns = [("user", "<i4"), ("item", "<i8"), ("device", "<i8"), ("time", "<i8"), ("hash", "<u8")]
    return np.dtype([*columns, *((f"label_{target}", "u1") for target in targets)])


@dataclass(frozen=True)
class PackChunk:
    """From a chunk of rows to the records of each part that it has rows of: the unit of work between reading and
    writing."""

    starts: np.ndarray
    kind: np.dtype

    def __call__(self, chunk: InteractionChunk) -> list[tuple[int, np.ndarray]]:
        part = np.searchsorted(self.starts, chunk.user, side="right") - 1
        # Few parts: as small numbers they are sorted by counting.
        part = part.astype(np.uint16 if len(self.starts) <= 1 << 16 else np.int64)
        by_part = np.argsort(part, kind="stable")
        records = np.empty(len(chunk.user), self.kind)
        columns = {"user": chunk.user, "item": chunk.item, "device": chunk.device, "time": chunk.time}
        columns |= {"hash": chunk.row_hash, **{f"label_{target}": label for target, label in chunk.labels.items()}}
        for name, values in columns.items():
            records[name] = values[by_part]
        filled, begin = np.unique(part[by_part], return_index=True)
        return list(zip(filled.tolist(), np.split(records, begin[1:]), strict=True))


def spill(chunks: Iterable[InteractionChunk], starts: np.ndarray, kind: np.dtype, folder: Path) -> list[Path]:
    """Write chunks of rows to one file per part."""
    paths = [folder / f"part{number}" for number in range(len(starts))]
    with ExitStack() as opened:
        files = [opened.enter_context(path.open("wb")) for path in paths]
        for _, future in in_order(PackChunk(starts, kind), chunks):
            for part, records in future.result():
                write_values(files[part], records)
    return paths


def order_by(*columns: np.ndarray) -> np.ndarray:
    """int64 (rows,): the order of rows by integer columns, the first counting most; no two rows are equal.

    As many columns as fit are packed into one number, which is sorted many times faster than `np.lexsort` sorts
    columns one by one; the few rows that tie are then ordered by the rest.
    """
    packed, room, used = np.zeros(len(columns[0]), np.int64), 2**63 - 1, 0
    for column in columns:
        low, high = (int(column.min()), int(column.max())) if len(column) else (0, 0)
        if high - low + 1 > room:
            break
        packed = packed * (high - low + 1) + (column - column.dtype.type(low)).astype(np.int64)
        room //= high - low + 1
        used += 1
    order = np.argsort(packed)
    if used < len(columns):
        same = packed[order[1:]] == packed[order[:-1]]
        tied = np.flatnonzero(np.append(same, False) | np.append(False, same))
        rows = order[tied]
        rest = [column[rows] for column in columns[used:]]
        order[tied] = rows[np.lexsort((*rest[::-1], packed[rows]))]
    return order


def drop_duplicates(records: np.ndarray, *, time_is_day: bool) -> dict[str, np.ndarray]:
    """From records in the order of the raw file to their columns without exact duplicates, in the order user, time,
    item; or user, day, place in the file."""
    # Column by column: numpy moves whole records ten times slower.
    column = {name: np.ascontiguousarray(records[name]) for name in records.dtype.names or ()}
    user, time, item, row_hash = column["user"], column["time"], column["item"], column.pop("hash")
    place = np.arange(len(records))
    order = order_by(user, time, item, row_hash, place)
    hashes = row_hash[order]
    second = np.flatnonzero(hashes[1:] == hashes[:-1]) + 1
    for values in (user, time, item):  # whatever the hash, the few that are left are compared
        second = second[values[order[second]] == values[order[second - 1]]]
    order = np.delete(order, second)
    if time_is_day:
        order = order[order_by(user[order], time[order], order)]
    return {name: values[order] for name, values in column.items()}


def day_and_position(user: np.ndarray, day: np.ndarray) -> np.ndarray:
    """float64 time of rows ordered by user and day: the day plus the row's position among its user's rows of that
    day, as a fraction from 0 to below 1 (design section 6), so that users interleave."""
    new = np.ones(len(user), bool)
    new[1:] = (user[1:] != user[:-1]) | (day[1:] != day[:-1])
    starts = np.flatnonzero(new)
    group = np.cumsum(new) - 1
    size = np.diff(starts, append=len(user))
    fraction: np.ndarray = (np.arange(len(user)) - starts[group]) / size[group]
    return day + fraction


def parts_of(values: RowArray) -> Iterator[np.ndarray]:
    """The rows of an array, so many at a time."""
    return (values[start : start + PART_ROWS] for start in range(0, len(values), PART_ROWS))


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
    .inter files."""
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


def kept_parts(
    raw: RawDataset, chunks: Iterable[InteractionChunk], rows_of_user: np.ndarray, temp: Path
) -> Generator[dict[str, np.ndarray], None, None]:
    """The columns of the kept rows without duplicates, in order, one part of users at a time."""
    starts = part_starts(rows_of_user, PART_ROWS)
    kind = record_type(raw.targets)
    with scratch_folder(temp, f"{raw.name}-inter-") as folder:
        paths = spill(chunks, starts, kind, folder)

        def sort(path: Path) -> dict[str, np.ndarray]:
            records = np.fromfile(path, kind)
            path.unlink()
            return drop_duplicates(records, time_is_day=raw.time_is_day)

        with progress(f"{raw.name}: sorting", len(paths)) as advance:
            for _, future in in_order(sort, paths):
                yield future.result()
                advance(1)


def write_interactions(
    raw: RawDataset, paths: Paths, *, min_interactions: int, split: str, seed: int, bad: BadLines
) -> int:
    """Do the whole step for one data set; returns the kept rows. Raises `UserError` for unusable input, and for files
    that change meanwhile."""
    with unchanged(raw.interaction_files) as check:
        return _write_interactions(
            raw, paths, min_interactions=min_interactions, split=split, seed=seed, bad=bad, check=check
        )


def _write_interactions(
    raw: RawDataset,
    paths: Paths,
    *,
    min_interactions: int,
    split: str,
    seed: int,
    bad: BadLines,
    check: Callable[[], None],
) -> int:
    files = raw.interaction_files()
    source = files[0]
    before = len(bad.seen)
    users, rows_of_user = count_rows(raw.read_users(bad))
    uncounted = len(bad.seen) - before
    if not len(users):
        raise UserError(f"{source}: holds no interaction; this is not the file it is taken for")
    kept = rows_of_user >= min_interactions
    if not kept.any():
        raise UserError(
            f"{source}: no user has {min_interactions:,} interactions, the most active has {rows_of_user.max():,}; "
            "give a smaller --min-interactions"
        )
    index = IdIndex(users[kept])
    rows = int(rows_of_user[kept].sum())
    record = record_type(raw.targets).itemsize
    demand_space(paths.temp, rows * record, f"sorting {rows:,} rows")
    written = rows * (1 + raw.negatives)
    demand_space(paths.graph, written * (record + LINE_BYTES), f"the output of {written:,} rows")
    stats = [path.stat() for path in files]
    with ArtifactWriter(
        paths.graph / raw.name,
        step=1,
        made_by="preprocess_inter.py",
        settings={
            "dataset": raw.name,
            "track": raw.track,
            "min_interactions": min_interactions,
            "split": split,
            "seed": seed if split != "chronological" or raw.negatives else None,
            **({"negatives": raw.negatives} if raw.negatives else {}),
        },
        inputs={},
        sources={
            "file": str(source),
            "bytes": sum(status.st_size for status in stats),
            "modified": max(status.st_mtime for status in stats),
        },
    ) as writer:
        names = ["user", "item", "device", "time", *(f"label_{target}" for target in raw.targets)]
        kinds: list[Any] = [np.int32, np.int64, np.int64, np.float64 if raw.time_is_day else np.int64]
        kinds += [np.uint8] * len(raw.targets)
        streams = {name: writer.stream(name, kind) for name, kind in zip(names, kinds, strict=True)}
        found_items = IdCollector()
        rows_read = 0

        def chunks() -> Iterator[InteractionChunk]:
            nonlocal rows_read
            for chunk in raw.read_interactions(index, bad):
                rows_read += len(chunk.user)
                yield chunk

        with closing(kept_parts(raw, chunks(), rows_of_user[kept], paths.temp)) as kept_rows:
            for part in kept_rows:
                found_items.add(part["item"])
                if raw.time_is_day:
                    part["time"] = day_and_position(part["user"], part["time"])
                for name in names:
                    streams[name].append(part[name])
        check()
        item_ids = found_items.ids()
        if not len(item_ids):
            raise UserError(f"{source}: no row of a kept user has a known item")
        for stream in streams.values():
            stream.close()
        # From here on the columns are read from their files as they are needed.
        column = {name: StoredArray.of(writer.building / f"{name}.npy") for name in names}
        rows = len(column["user"])
        if rows > rows_read:
            raise AssertionError(f"{source}: {rows - rows_read:,} rows more are kept than were read")
        items = IdIndex(item_ids)
        (writer.building / "item.npy").unlink()  # it can still be read
        placed = writer.stream("item", np.int32)
        for raw_items in parts_of(column["item"]):
            placed.append(items.positions(raw_items))
        placed.close()
        column["item"] = StoredArray.of(writer.building / "item.npy")
        parts = split_rows(split, column["user"], column["time"], seed)
        if raw.negatives:
            column, parts = add_negatives(writer, column, parts, len(item_ids), raw.negatives, seed)
        positives = {
            target: sum(int(np.count_nonzero(part)) for part in parts_of(column[f"label_{target}"]))
            for target in raw.targets
        }
        refuse_one_class(raw, positives, len(parts))
        sizes = split_sizes(parts, split, source)
        writer.array("split", parts)
        writer.array("user_ids", index.ids)
        writer.array("item_ids", item_ids)
        tables: dict[str, np.ndarray | pa.Array] = {"user": index.ids, "item": item_ids}
        for kind, ids in tables.items():
            texts = raw.id_names(kind, ids)
            if texts is not None:
                writer.array(f"{kind}_names", texts)
                tables[kind] = pa.array(texts, pa.binary()).cast(pa.string())
        inter = {
            "user_id:token": InterColumn(column["user"], tables["user"]),
            "item_id:token": InterColumn(column["item"], tables["item"]),
            "device:token": InterColumn(column["device"]),
            "timestamp:float": InterColumn(column["time"]),
            **{f"{target}:float": InterColumn(column[f"label_{target}"]) for target in raw.targets},
        }
        write_inter(writer.building, raw.name, inter, parts)
        skipped = len(bad.seen) - before
        # A line that the first pass could count and the second could not read is no row of an unknown item.
        unknown = max(0, int(rows_of_user[kept].sum()) - rows_read - (skipped - uncounted))
        writer.manifest["rows"] = {
            "raw": int(rows_of_user.sum()) + uncounted,
            "kept": len(parts),
            "duplicates": rows_read - rows + unknown,
            "skipped": skipped,
            "users": len(index),
            "items": len(item_ids),
            **sizes,
            **({"drawn": len(parts) - rows} if raw.negatives else {}),
        }
        writer.manifest["positives"] = positives
    describe(raw, writer.manifest)
    return len(parts)


def refuse_one_class(raw: RawDataset, positives: dict[str, int], rows: int) -> None:
    """Raises `UserError` for a rule of the user's own that gives every row the same label."""
    for target, rule in raw.rules.items():
        if positives[target] in (0, rows):
            hint = ", or draw negatives = 5" if positives[target] else ""
            raise UserError(
                f"{raw.name}_{target}: the rule '{rule}' labels every kept row {int(positives[target] > 0)}, and "
                f"nothing can be learned from one class; correct it{hint} in the description"
            )


def add_negatives(
    writer: ArtifactWriter, column: dict[str, StoredArray], parts: np.ndarray, items: int, count: int, seed: int
) -> tuple[dict[str, StoredArray], np.ndarray]:
    """Put after each row `count` rows of unseen items, with its user, device, time and part of the split, and labels
    0; the arrays take the place of those in the folder. One part of the users is in memory at a time.

    Args:
        column: (rows,) arrays of step 1 by name, rows of a user side by side; `item` positions below `items`.
        parts: uint8 (rows,).

    Returns: the new columns and their parts.
    """
    kinds = {name: values.dtype for name, values in column.items()}
    known = by_first_split(column["item"][:], parts, items)
    rng = np.random.default_rng(seed)
    for name in column:
        (writer.building / f"{name}.npy").unlink()  # it can still be read
    streams = {name: writer.stream(name, kind) for name, kind in kinds.items()}
    starts = np.flatnonzero(np.diff(column["user"][:], prepend=-1))
    part = starts * (count + 1) // PART_ROWS
    bounds = [*starts[np.flatnonzero(np.diff(part, prepend=-1))].tolist(), len(parts)]
    new_parts = []
    for start, stop in pairwise(bounds):
        rows = {name: values[start:stop] for name, values in column.items()}
        row, item = draw_unseen(rows["user"], rows["item"], parts[start:stop], known, count, rng)
        # Each row, then what was drawn for it.
        order = np.argsort(np.concatenate([np.arange(stop - start), row]), kind="stable")
        for name, values in rows.items():
            drawn = item if name == "item" else np.zeros(len(row)) if name.startswith("label_") else values[row]
            streams[name].append(np.concatenate([values, drawn])[order])
        new_parts.append(np.concatenate([parts[start:stop], parts[start:stop][row]])[order])
    for stream in streams.values():
        stream.close()
    return {name: StoredArray.of(writer.building / f"{name}.npy") for name in kinds}, np.concatenate(new_parts)


def describe(raw: RawDataset, manifest: dict) -> None:
    """Say what was kept, and warn of targets that nothing can be learned from."""
    rows = manifest["rows"]
    skipped = f"{rows['skipped']:,} bad line{'s' if rows['skipped'] > 1 else ''} skipped; " if rows["skipped"] else ""
    note(
        f"{raw.name}: kept {rows['kept']:,} of {rows['raw']:,} rows, {rows['users']:,} users, {rows['items']:,} items; "
        f"{rows['duplicates']:,} duplicates or rows of unknown items dropped; {skipped}"
        f"train {rows['train']:,}, valid {rows['valid']:,}, test {rows['test']:,}"
    )
    if raw.negatives:
        seen = rows["kept"] - rows["drawn"]
        fewer = "; users who have met nearly all got fewer" if rows["drawn"] < seen * raw.negatives else ""
        note(f"{raw.name}: {seen:,} rows are of the log, {rows['drawn']:,} were drawn from unseen items{fewer}")
    shares = []
    for target, positives in manifest["positives"].items():
        if positives in (0, rows["kept"]):
            warn(f"{raw.name}_{target}: all labels are {int(positives > 0)}; nothing can be learned from one class")
        else:
            shares.append(f"{target} {(rows['kept'] - positives) / positives:.2f}")
    note(f"{raw.name}: negatives per positive: {', '.join(shares)}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--dataset", nargs="+", metavar="D", default=[], help="only these; none: all there are")
    options.add_argument(
        "--track", choices=("track1", "track2"), help="which TikTok track; none: track1 where it is there, else track2"
    )
    options.add_argument(
        "--min-interactions",
        type=whole_number(1),
        metavar="N",
        help="users with fewer raw rows are left out; none: 100 for WeChat, 4000 for TikTok, as in the study; of your "
        "own data what their description says",
    )
    options.add_argument("--split", choices=SPLITS, default="chronological", help="how rows become 8 : 1 : 1")
    options.add_argument("--seed", type=seed_number, default=0, help="for the random and the user split")
    options.add_argument("--skip-bad-lines", type=whole_number(0), default=0, metavar="N", help="go on past up to N")
    add_ray_option(options, "the reading of the raw file")
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    rows = 0
    bad = BadLines(arguments.skip_bad_lines)
    workers = workers_at(arguments.ray, Path(__file__).parent)
    found = find_datasets(paths, arguments.dataset, arguments.track)
    for raw in found:
        raw.workers = workers
        rows += write_interactions(
            raw,
            paths,
            min_interactions=arguments.min_interactions or raw.min_interactions,
            split=arguments.split,
            seed=arguments.seed,
            bad=bad,
        )
    bad.report()
    closing_line(1, ", ".join(str(paths.graph / raw.name) for raw in found), rows, watch)


if __name__ == "__main__":
    run(main)
