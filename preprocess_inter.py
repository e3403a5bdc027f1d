"""Step 1 of 8: raw interactions -> the kept rows as aligned arrays, with their split, and RecBole's .inter files.

Reads    user_action.csv (WeChat), final_track1_train.txt or final_track2_train.txt (TikTok), plain or .gz
Writes   graph_path/<dataset>/: user, item, device, time, split, label_<target>, user_ids, item_ids (.npy) and
         <dataset>.{train,valid,test}.inter

Two streamed passes: the first counts the rows of each user, the second keeps the users with enough of them.
Exact duplicate rows are then dropped, so that one impression counts once, and the rest is ordered by user and
time. Kept rows go to disk in parts of consecutive users, so memory does not grow with the file.

    python preprocess_inter.py --dataset tiktok --min-interactions 4000 --split chronological
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from mma4ctr.data.log_columns import ColumnWriter, MostFrequent, side_values
from mma4ctr.data.negative_sampling import add_negatives
from mma4ctr.data.recbole_export import LINE_BYTES, InterColumn, write_inter
from mma4ctr.data.row_order import count_rows, day_and_position, kept_parts, parts_of, record_type
from mma4ctr.data.splits import SPLITS, split_rows, split_sizes
from mma4ctr.data.summary import describe, refuse_one_class
from mma4ctr.datasets import find_datasets
from mma4ctr.datasets.base import ColumnNames, InteractionChunk, RawDataset
from mma4ctr.datasets.id_index import IdCollector, IdIndex
from mma4ctr.runtime.console import (
    Stopwatch,
    closing_line,
    parser,
    run,
    seed_number,
    whole_number,
)
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.ray_cluster import add_ray_option, workers_at
from mma4ctr.storage.arrays import StoredArray
from mma4ctr.storage.artifacts import ArtifactWriter, demand_space
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.unchanged import unchanged


def write_interactions(
    raw: RawDataset, paths: Paths, *, min_interactions: int, split: str, seed: int, bad: BadLines
) -> int:
    """Do the whole step for one data set; returns the kept rows. Raises `UserError` for unusable input, and for files
    that change meanwhile.
    """
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
    context = raw.columns.get("context", ColumnNames())
    record = record_type(raw.targets, context).itemsize
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
        kind = record_type(raw.targets, context)
        kinds: dict[str, Any] = {name: kind[name] for name in kind.names or () if name != "hash"}
        if raw.time_is_day:
            kinds["time"] = np.float64
        names = list(kinds)
        streams = {name: writer.stream(name, dtype) for name, dtype in kinds.items()}
        found_items = IdCollector()
        gathered = {side: MostFrequent(raw.columns.get(side, ColumnNames())) for side in ("user", "item")}
        rows_read = 0

        def chunks() -> Iterator[InteractionChunk]:
            nonlocal rows_read
            for chunk in raw.read_interactions(index, bad):
                rows_read += len(chunk.user)
                gathered["user"].add(index.ids[chunk.user], chunk.user_values)
                gathered["item"].add(chunk.item, chunk.item_values)
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
        for side, ids in tables.items():
            texts = raw.id_names(side, ids)
            if texts is not None:
                writer.array(f"{side}_names", texts)
                tables[side] = pa.array(texts, pa.binary()).cast(pa.string())
        columns = ColumnWriter(writer, raw, len(parts))
        columns.write_side("user", *side_values(raw, "user", index, gathered["user"], bad))
        columns.write_side("item", *side_values(raw, "item", items, gathered["item"], bad))
        for name in context.names:
            columns.write_context(writer.building / f"context_{name}.npy", name, category=name in context.categories)
        columns.finish()
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
