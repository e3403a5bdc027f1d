"""Step 1 of 8: raw interactions -> the kept rows as aligned arrays, with their split, and RecBole's .inter files.

Reads    user_action.csv (WeChat), final_track1_train.txt or final_track2_train.txt (TikTok), plain or .gz
Writes   graph_path/<dataset>/: user, item, device, time, split, label_<target>, user_ids, item_ids (.npy) and
         <dataset>.{train,valid,test}.inter

Two streamed passes: the first counts the rows of each user, the second keeps the users with enough of them.
Exact duplicates are then dropped, so that one impression counts once, and the remaining rows are ordered by user and
time. Kept rows are written to disk in partitions of consecutive users, so memory grows by a byte a row only (by about
thirty for a random or given split).

    python preprocess_inter.py --dataset tiktok --min-interactions 4000 --split chronological
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mma4ctr.data.column_files import (
    UserCounts,
    count_positives,
    export_inter,
    replace_item_ids,
    write_columns,
    write_histories,
    write_ids,
    write_log_columns,
)
from mma4ctr.data.interactions import TEST
from mma4ctr.data.negative_sampling import add_negatives
from mma4ctr.data.recbole_export import LINE_BYTES
from mma4ctr.data.row_order import count_rows, record_type
from mma4ctr.data.splits import SEEDED_SPLITS, SPLITS, given_rows, split_rows, split_sizes
from mma4ctr.data.summary import describe, refuse_one_class
from mma4ctr.datasets import find_datasets
from mma4ctr.datasets.base import GIVEN_VALID_TEST, RawDataset
from mma4ctr.datasets.id_index import IdIndex
from mma4ctr.runtime.console import Stopwatch, closing_line, parser, run, seed_number, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.ray_cluster import add_ray_option, workers_at
from mma4ctr.steps.options import add_bad_lines_option, add_dataset_option
from mma4ctr.storage.artifacts import ArtifactWriter, demand_space
from mma4ctr.storage.bad_lines import BadLines
from mma4ctr.storage.paths import Paths, load_paths
from mma4ctr.storage.unchanged import unchanged


@dataclass(frozen=True)
class StepSettings:
    """The options of step 1.

    Attributes:
        min_interactions: Users with fewer raw rows are dropped.
        split: One of `SPLITS`, or of `GIVEN_SPLITS`.
        seed: Seed of the split and of the negatives.
    """

    min_interactions: int
    split: str
    seed: int


def count_users(raw: RawDataset, min_interactions: int, bad: BadLines) -> UserCounts:
    """Count the rows of each user, and keep the users with enough; raises `UserError` if none has."""
    source = raw.interaction_files()[0]
    before = len(bad.seen)
    users, rows = count_rows(raw.read_users(bad))
    bad_lines = len(bad.seen) - before
    if not len(users):
        raise UserError(f"{source}: contains no interactions; check that path.json names the right file")
    kept = rows >= min_interactions
    if not kept.any():
        raise UserError(
            f"{source}: no user has {min_interactions:,} interactions, the most active has {rows.max():,}; "
            "choose a smaller --min-interactions"
        )
    return UserCounts(IdIndex(users[kept]), rows[kept], int(rows.sum()) + bad_lines, bad_lines)


def demand_step_space(raw: RawDataset, rows: int, paths: Paths) -> None:
    """Raise `UserError` if the disk lacks the space to sort and write this number of rows."""
    record = record_type(raw).itemsize
    demand_space(paths.temp, rows * record, f"sorting {rows:,} rows")
    written = rows * (1 + raw.negatives)
    demand_space(paths.graph, written * (record + LINE_BYTES), f"the output of {written:,} rows")


def chosen_split(raw: RawDataset, split: str | None, valid: str | None) -> str:
    """Return the name of the split; raises `UserError` for an option that contradicts the data."""
    if raw.split and split:
        raise UserError(f"--split {split}: {raw.name} comes with a split, which is used; leave out --split")
    if valid and not raw.split:
        raise UserError(f"--valid {valid}: only for data that come with a split, and {raw.name} does not")
    return GIVEN_VALID_TEST if valid else raw.split or split or SPLITS[0]


def artifact_writer(raw: RawDataset, paths: Paths, settings: StepSettings) -> ArtifactWriter:
    """Start the artifact, with its settings and sources."""
    files = raw.interaction_files()
    stats = [path.stat() for path in files]
    recorded: dict[str, Any] = {
        "dataset": raw.name,
        "track": raw.track,
        "min_interactions": settings.min_interactions,
        "split": settings.split,
        "seed": settings.seed if settings.split in SEEDED_SPLITS or raw.negatives else None,
    }
    if raw.negatives:
        recorded["negatives"] = raw.negatives
    return ArtifactWriter(
        paths.graph / raw.name,
        step=1,
        made_by="preprocess_inter.py",
        settings=recorded,
        inputs={},
        sources={
            "file": str(files[0]),
            "bytes": sum(status.st_size for status in stats),
            "modified": max(status.st_mtime for status in stats),
        },
    )


def write_interactions(raw: RawDataset, paths: Paths, settings: StepSettings, bad: BadLines) -> int:
    """Run the step for one data set.

    Args:
        raw: The data set.
        paths: Where to write.
        settings: The options of the step.
        bad: Collects bad lines.

    Returns:
        Number of rows written.

    Raises:
        UserError: The input is unusable, or a file changed while it was read.
    """

    def files() -> list[Path]:
        return [*raw.interaction_files(), *raw.column_files("user"), *raw.column_files("item")]

    with unchanged(files) as check:
        source = raw.interaction_files()[0]
        before = len(bad.seen)
        counts = count_users(raw, settings.min_interactions, bad)
        demand_step_space(raw, int(counts.rows.sum()), paths)
        with artifact_writer(raw, paths, settings) as writer:
            made = write_columns(raw, writer, counts, paths.temp, bad)
            column, items = made.column, len(made.item_ids)
            if not items:
                raise UserError(f"{source}: no row of a kept user has a known item; check the item ids")
            rows = len(column["user"])
            replace_item_ids(writer, column, made.item_ids)
            if raw.split:
                given = column.pop("split")[:]
                (writer.building / "split.npy").unlink()
                split = given_rows(given, column["time"], source, valid_is_test=settings.split == GIVEN_VALID_TEST)
            else:
                split = split_rows(settings.split, column["user"], column["time"], settings.seed)
            if raw.negatives:
                column, split = add_negatives(writer, column, split, items, raw.negatives, settings.seed)
            positives = count_positives(column, raw.targets)
            labelled = split if raw.test_labels else split[split != TEST]
            refuse_one_class(raw, positives, len(labelled))
            if settings.split == GIVEN_VALID_TEST and not raw.test_labels:
                raise UserError(f"{source}: the test rows have no labels, so they cannot be the validation rows")
            sizes = split_sizes(split, settings.split, source)
            writer.array("split", split)
            tables = write_ids(raw, writer, counts.kept.ids, made.item_ids)
            write_log_columns(raw, writer, made, counts, len(split), bad)
            check()
            write_histories(writer, made)
            export_inter(raw, writer.building, column, tables, split)
            skipped = len(bad.seen) - before
            # A line that the first pass counted and the second could not read is not a row of an unknown item.
            unknown = max(0, int(counts.rows.sum()) - made.rows_read - (skipped - counts.bad_lines))
            writer.manifest["rows"] = {
                "raw": counts.raw_rows,
                "kept": len(split),
                "duplicates": made.rows_read - rows + unknown,
                "skipped": skipped,
                "users": len(counts.kept),
                "items": items,
                **sizes,
                **({"drawn": len(split) - rows} if raw.negatives else {}),
            }
            writer.manifest["positives"] = positives
            if not raw.test_labels:
                writer.manifest["test_labels"] = False
            if not raw.timed:
                writer.manifest["timed"] = False
    describe(raw, writer.manifest)
    return len(split)


def main() -> None:
    """Run the command."""
    options = parser(__doc__)
    add_dataset_option(options)
    options.add_argument(
        "--track", choices=("track1", "track2"), help="TikTok track (default: track1 if its files exist, else track2)"
    )
    options.add_argument(
        "--min-interactions",
        type=whole_number(0),
        metavar="N",
        help="drop users with fewer raw rows (default: 100 for WeChat and 4000 for TikTok, as in the study; as "
        "in the description for described data sets)",
    )
    options.add_argument(
        "--split",
        choices=SPLITS,
        help="how rows are split 8 : 1 : 1 (default: as the data give it, else chronological)",
    )
    options.add_argument(
        "--valid",
        choices=("test",),
        help="choose the epoch on the test rows of data that come with a split; results are marked SELECTED ON TEST",
    )
    options.add_argument(
        "--seed", type=seed_number, default=0, help="seed of the random and user splits and of negatives"
    )
    add_bad_lines_option(options)
    add_ray_option(options, "the reading of the raw file")
    arguments = options.parse_args()

    watch = Stopwatch()
    paths = load_paths(arguments.paths)
    rows = 0
    bad = BadLines(arguments.skip_bad_lines)
    workers = workers_at(arguments.ray, Path(__file__).parent)
    found = find_datasets(paths, arguments.dataset, arguments.track)
    # Before the first data set is written, so that a wrong option writes none.
    splits = [chosen_split(raw, arguments.split, arguments.valid) for raw in found]
    for raw, split in zip(found, splits, strict=True):
        raw.workers = workers
        minimum = raw.min_interactions if arguments.min_interactions is None else arguments.min_interactions
        rows += write_interactions(raw, paths, StepSettings(minimum, split, arguments.seed), bad)
    bad.report()
    closing_line(1, ", ".join(str(paths.graph / raw.name) for raw in found), rows, watch)


if __name__ == "__main__":
    run(main)
