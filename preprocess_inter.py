"""Step 1 of 8: raw interactions -> the kept rows as aligned arrays, with their split, and RecBole's .inter files.

Reads    user_action.csv (WeChat), final_track1_train.txt or final_track2_train.txt (TikTok), plain or .gz
Writes   graph_path/<dataset>/: user, item, device, time, split, label_<target>, user_ids, item_ids (.npy) and
         <dataset>.{train,valid,test}.inter

Two streamed passes: the first counts the rows of each user, the second keeps the users with enough of them.
Exact duplicate rows are then dropped, so that one impression counts once, and the rest is ordered by user and
time. Kept rows go to disk in parts of consecutive users, so memory does not grow with the file.

    python preprocess_inter.py --dataset tiktok --min-interactions 4000 --split chronological
"""

import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import csv

from mma4ctr.artifacts import Artifact, ArtifactWriter, read_artifact
from mma4ctr.console import Stopwatch, UserError, closing_line, note, parser, progress, run, warn, whole_number
from mma4ctr.datasets import DATASETS, find_datasets
from mma4ctr.datasets.base import InteractionChunk, RawDataset
from mma4ctr.interactions import SPLIT_NAMES, TEST, TRAIN, VALID, IdIndex
from mma4ctr.paths import Paths, load_paths
from mma4ctr.rawfiles import BadLines

SPLITS = ("chronological", "random", "user")
# Rows that are sorted in memory at a time: about 150 MB with all that sorting needs.
PART_ROWS = 1_000_000


def count_rows(parts: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """Add up (users, rows of each) over the parts of a file: int64 sorted user ids, int64 rows of each."""
    users, rows = np.empty(0, np.int64), np.empty(0, np.int64)
    waiting: list[tuple[np.ndarray, np.ndarray]] = []

    def merge() -> None:
        nonlocal users, rows
        all_users = np.concatenate([users, *(part[0] for part in waiting)])
        all_rows = np.concatenate([rows, *(part[1] for part in waiting)])
        users, where = np.unique(all_users, return_inverse=True)
        rows = np.bincount(where, weights=all_rows, minlength=len(users)).astype(np.int64)
        waiting.clear()

    for part in parts:
        waiting.append(part)
        if len(waiting) == 64:
            merge()
    merge()
    return users, rows


def part_starts(rows_of_user: np.ndarray, part_rows: int) -> np.ndarray:
    """int64 first user of each part of consecutive users, a part having about `part_rows` rows."""
    part = (np.cumsum(rows_of_user) - 1) // part_rows
    return np.flatnonzero(np.diff(part, prepend=-1)).astype(np.int64)


def record_type(targets: Iterable[str]) -> np.dtype:
    """The packed record in which rows wait on disk for their part to be sorted."""
    columns = [("user", "<i4"), ("item", "<i8"), ("device", "<i8"), ("time", "<i8"), ("order", "<i8"), ("hash", "<u8")]
    return np.dtype([*columns, *((f"label_{target}", "u1") for target in targets)])


def spill(chunks: Iterable[InteractionChunk], starts: np.ndarray, kind: np.dtype, folder: Path) -> list[Path]:
    """Write chunks of rows to one file per part; `order` is the row's place in the raw file."""
    paths = [folder / f"part{number}" for number in range(len(starts))]
    files = [path.open("wb") for path in paths]
    order = 0
    try:
        for chunk in chunks:
            records = np.empty(len(chunk.user), kind)
            records["user"], records["item"], records["device"] = chunk.user, chunk.item, chunk.device
            records["time"], records["hash"] = chunk.time, chunk.row_hash
            records["order"] = np.arange(order, order + len(records))
            order += len(records)
            for target, label in chunk.labels.items():
                records[f"label_{target}"] = label
            if len(files) == 1:
                records.tofile(files[0])
                continue
            part = np.searchsorted(starts, chunk.user, side="right") - 1
            by_part = np.argsort(part, kind="stable")
            bounds = np.searchsorted(part[by_part], np.arange(len(files) + 1))
            for number, file in enumerate(files):
                if bounds[number] < bounds[number + 1]:
                    records[by_part[bounds[number] : bounds[number + 1]]].tofile(file)
    finally:
        for file in files:
            file.close()
    return paths


def drop_duplicates(records: np.ndarray, *, time_is_day: bool) -> np.ndarray:
    """Records without exact duplicates, in the order user, time, item; or user, day, place in the file."""
    order = np.lexsort((records["order"], records["hash"], records["item"], records["time"], records["user"]))
    records = records[order]
    same = np.ones(len(records), bool)
    same[:1] = False
    for name in ("user", "time", "item", "hash"):
        same[1:] &= records[name][1:] == records[name][:-1]
    records = records[~same]
    if time_is_day:
        records = records[np.lexsort((records["order"], records["time"], records["user"]))]
    return records


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


def split_rows(split: str, user: np.ndarray, time: np.ndarray, seed: int) -> np.ndarray:
    """uint8 (rows,) of TRAIN, VALID, TEST in the ratio 8 : 1 : 1 (design section 6).

    `chronological` cuts at the times below which 80 % and 90 % of the rows lie; rows of one time stay together.
    `random` draws rows, `user` whole users, both from `seed`.
    """
    rows = len(user)
    cuts = (8 * rows // 10, 9 * rows // 10)
    if split == "chronological":
        first, second = np.partition(time, cuts)[list(cuts)]
        return np.where(time < first, TRAIN, np.where(time < second, VALID, TEST)).astype(np.uint8)
    generator = np.random.default_rng(seed)
    if split == "random":
        place = generator.permutation(rows)
    else:
        users = int(user.max()) + 1
        drawn = generator.permutation(users)
        sizes = np.bincount(user, minlength=users)[drawn]
        place = np.empty(users, np.int64)
        place[drawn] = np.cumsum(sizes) - sizes  # rows of the users drawn before
        place = place[user]
    return ((place >= cuts[0]).astype(np.uint8) + (place >= cuts[1])).astype(np.uint8)


def split_sizes(parts: np.ndarray, split: str, source: Path) -> dict[str, int]:
    """Rows of each part of the split; raises `UserError` where one has none."""
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


def write_inter(folder: Path, dataset: str, columns: dict[str, np.ndarray], split: np.ndarray) -> None:
    """RecBole's atomic files, already split (`benchmark_filename: [train, valid, test]`).

    The rows of a file stand in the order of the arrays, so a prediction can be told back to its row.
    """
    options = csv.WriteOptions(include_header=True, delimiter="\t", quoting_style="none", quoting_header="none")
    for number, name in enumerate(SPLIT_NAMES):
        rows = np.flatnonzero(split == number)
        path = folder / f"{dataset}.{name}.inter"
        schema = pa.schema([(column, pa.from_numpy_dtype(values.dtype)) for column, values in columns.items()])
        with csv.CSVWriter(path, schema, write_options=options) as writer:
            for start in range(0, len(rows), PART_ROWS):
                part = rows[start : start + PART_ROWS]
                writer.write_table(pa.table({column: values[part] for column, values in columns.items()}))


def kept_parts(
    raw: RawDataset, users: IdIndex, rows_of_user: np.ndarray, bad: BadLines, temp: Path
) -> Iterator[np.ndarray]:
    """The kept rows as records without duplicates, in order, one part of users at a time."""
    starts = part_starts(rows_of_user, PART_ROWS)
    kind = record_type(raw.targets)
    temp.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=temp, prefix=f"{raw.name}-inter-") as folder:
        paths = spill(raw.read_interactions(users, bad), starts, kind, Path(folder))
        with progress(f"{raw.name}: sorting", len(paths)) as advance:
            for path in paths:
                records = np.fromfile(path, kind)
                path.unlink()
                yield drop_duplicates(records, time_is_day=raw.time_is_day)
                advance(1)


def write_interactions(
    raw: RawDataset, paths: Paths, *, min_interactions: int, split: str, seed: int, bad: BadLines
) -> int:
    """Do the whole step for one data set; returns the kept rows. Raises `UserError` for unusable input."""
    source = raw.interaction_file()
    users, rows_of_user = count_rows(raw.read_users(bad))
    if not len(users):
        raise UserError(f"{source}: holds no interaction; this is not the file it is taken for")
    kept = rows_of_user >= min_interactions
    if not kept.any():
        raise UserError(
            f"{source}: no user has {min_interactions:,} interactions, the most active has {rows_of_user.max():,}; "
            "give a smaller --min-interactions"
        )
    index = IdIndex(users[kept])
    status = source.stat()
    with ArtifactWriter(
        paths.graph / raw.name,
        step=1,
        made_by="preprocess_inter.py",
        settings={
            "dataset": raw.name,
            "track": raw.track,
            "min_interactions": min_interactions,
            "split": split,
            "seed": seed if split != "chronological" else None,
        },
        inputs={},
        sources={"file": str(source), "bytes": status.st_size, "modified": status.st_mtime},
    ) as writer:
        names = ["user", "device", "time", *(f"label_{target}" for target in raw.targets)]
        kinds = [np.int32, np.int64, np.float64 if raw.time_is_day else np.int64, *[np.uint8] * len(raw.targets)]
        streams = {name: writer.stream(name, kind) for name, kind in zip(names, kinds, strict=True)}
        items: list[np.ndarray] = []
        for records in kept_parts(raw, index, rows_of_user[kept], bad, paths.temp):
            for name in names:
                values = records[name]
                if name == "time" and raw.time_is_day:
                    values = day_and_position(records["user"], records["time"])
                streams[name].append(values)
            items.append(np.ascontiguousarray(records["item"]))
        raw_item = np.concatenate(items)
        if not len(raw_item):
            raise UserError(f"{source}: no row of a kept user has a known item")
        item_ids = np.unique(raw_item)
        item = IdIndex(item_ids).positions(raw_item)
        for stream in streams.values():
            stream.close()
        column = {name: np.load(writer.building / f"{name}.npy", allow_pickle=False) for name in names}
        parts = split_rows(split, column["user"], column["time"], seed)
        sizes = split_sizes(parts, split, source)
        writer.array("item", item)
        writer.array("split", parts)
        writer.array("user_ids", index.ids)
        writer.array("item_ids", item_ids)
        inter = {
            "user_id:token": index.ids[column["user"]],
            "item_id:token": raw_item,
            "device:token": column["device"],
            "timestamp:float": column["time"],
        }
        inter |= {f"{target}:float": column[f"label_{target}"] for target in raw.targets}
        write_inter(writer.building, raw.name, inter, parts)
        positives = {target: int(column[f"label_{target}"].sum()) for target in raw.targets}
        writer.manifest["rows"] = {
            "raw": int(rows_of_user.sum()),
            "kept": len(raw_item),
            "duplicates": int(rows_of_user[kept].sum()) - len(raw_item),
            "users": len(index),
            "items": len(item_ids),
            **sizes,
        }
        writer.manifest["positives"] = positives
    describe(raw, writer.manifest)
    return len(raw_item)


def describe(raw: RawDataset, manifest: dict) -> None:
    """Say what was kept, and warn of targets that nothing can be learned from."""
    rows = manifest["rows"]
    note(
        f"{raw.name}: kept {rows['kept']:,} of {rows['raw']:,} rows, {rows['users']:,} users, {rows['items']:,} items; "
        f"{rows['duplicates']:,} duplicates or rows of unknown items dropped; "
        f"train {rows['train']:,}, valid {rows['valid']:,}, test {rows['test']:,}"
    )
    shares = []
    for target, positives in manifest["positives"].items():
        if positives in (0, rows["kept"]):
            warn(f"{raw.name}_{target}: all labels are {int(positives > 0)}; nothing can be learned from one class")
        else:
            shares.append(f"{target} {(rows['kept'] - positives) / positives:.2f}")
    note(f"{raw.name}: negatives per positive: {', '.join(shares)}")


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--dataset", nargs="+", choices=DATASETS, default=[], help="only these; none: all there are")
    options.add_argument(
        "--track", choices=("track1", "track2"), help="which TikTok track; none: track1 where it is there, else track2"
    )
    options.add_argument(
        "--min-interactions",
        type=whole_number(1),
        metavar="N",
        help="users with fewer raw rows are left out; none: 100 for WeChat, 4000 for TikTok, as in the study",
    )
    options.add_argument("--split", choices=SPLITS, default="chronological", help="how rows become 8 : 1 : 1")
    options.add_argument("--seed", type=whole_number(0), default=0, help="for the random and the user split")
    options.add_argument("--skip-bad-lines", type=whole_number(0), default=0, metavar="N", help="go on past up to N")
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    rows = 0
    bad = BadLines(arguments.skip_bad_lines)
    found = find_datasets(paths, arguments.dataset, arguments.track)
    for raw in found:
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
