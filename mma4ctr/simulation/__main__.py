"""Write a simulated world: raw WeChat and TikTok files, and a path.json that points at them.

    python -m mma4ctr.simulation demo --dataset tiktok --rows 400000 --users 1200 --items 8000 --seed 1

writes demo/dataset/TikTok2019ICME/track1/ and demo/path.json. The files have the formats and the quirks of the real
ones; see law.py and log_law.py in mma4ctr/simulation/ for the laws behind them. The true probabilities are written to
truth/ beside the raw files. No step reads them. They give the best AUC that any model could reach, the oracle AUC.

Rows are streamed, so memory does not grow with their number.
"""

import shutil
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from mma4ctr.runtime.console import Stopwatch, note, parser, run, seed_number, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.system import peak_memory_mb
from mma4ctr.simulation import tiktok, wechat
from mma4ctr.simulation.law import LAWS, make_world
from mma4ctr.simulation.rows import TRUTH, write_rows
from mma4ctr.storage.files import write_file
from mma4ctr.storage.folders import UNDER_CONSTRUCTION, abandon_building, finish_building, start_building
from mma4ctr.storage.locks import locked

MARK = "world.json"
PATHS = {
    "parent_folder": ".",
    "dataset_path": "dataset",
    "wechat_dataset_path": wechat.FOLDER,
    "tiktok_dataset_path": tiktok.FOLDER,
    "feed_embedding": "feed_embeddings.csv",
    "graph_path": "graph",
    "modal_path": "modal",
    "user_embedding_path": "user_embedding",
    "matrix_path": "matrix",
    "torch_model_path": "torch_model",
    "saved_path": "saved",
    "temp_path": "temp",
}


@dataclass(frozen=True)
class WorldSettings:
    """What is to be simulated.

    Attributes:
        dataset: `wechat` or `tiktok`.
        rows: Number of interactions.
        users: Number of users.
        items: Number of items that are shown.
        seed: Seed of the world.
        real_rates: Make WeChat actions as rare as in the real data, instead of five times as frequent.
        track: TikTok's `track1`, or `track2` with faces.
        features: Write feature files too.
        law: `log` or `content`.
    """

    dataset: str
    rows: int
    users: int
    items: int
    seed: int
    real_rates: bool = False
    track: str = "track1"
    features: bool = True
    law: str = "log"


def write_world(settings: WorldSettings, folder: Path) -> int:
    """Write the raw files of one simulated data set.

    The folder gets its name only when everything is written.

    Args:
        settings: What to simulate.
        folder: Where to write.

    Returns:
        Number of items with features.

    Raises:
        UserError: The folder contains anything else than a simulated world.
    """
    dataset, users, items, seed = settings.dataset, settings.users, settings.items, settings.seed
    check_simulated(folder)
    module = wechat if dataset == "wechat" else tiktok
    ratios = module.REAL_NEGATIVES_PER_POSITIVE if settings.real_rates else module.NEGATIVES_PER_POSITIVE
    drawn = make_world(ratios, users=users, items=items, seed=seed)
    world = wechat.WeChatWorld(drawn, seed) if dataset == "wechat" else tiktok.TikTokWorld(drawn, seed, settings.track)
    if settings.law == "log":
        world.use_log_law(ratios)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        building = start_building(folder, remove_simulated)
        try:
            write_rows(world, building, settings.rows, "," if dataset == "wechat" else "\t")
            with_features = world.write_features(building) if settings.features else 0
            made = {"dataset": dataset, "rows": settings.rows, "users": users, "items": items, "seed": seed}
            made |= {} if settings.law == "content" else {"law": settings.law}
            made |= {"ratios": dict(ratios), "files": sorted(_files_in(building) - {UNDER_CONSTRUCTION})}
            write_file(building / TRUTH / MARK, orjson.dumps(made, option=orjson.OPT_INDENT_2))
            check_simulated(folder)
            finish_building(folder, remove_simulated)
        finally:
            abandon_building(folder)
    return with_features


def _files_in(folder: Path) -> set[str]:
    """Return the files and links below a folder, relative to it."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def check_simulated(folder: Path) -> None:
    """Raise `UserError` if a folder contains anything else than a simulated world."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder}: not a folder, so no files can be written there; choose another")
    try:
        known = {*orjson.loads((folder / TRUTH / MARK).read_bytes())["files"], f"{TRUTH}/{MARK}"}
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        known = set()
    other = _files_in(folder) - known
    if other:
        raise UserError(
            f"{folder}: contains {min(other)!r}, which is not a file of the simulated world; move it, or choose "
            "another folder"
        )


def remove_simulated(folder: Path) -> None:
    """Remove a simulated world that was replaced, unless its folder contains other files."""
    with suppress(UserError):
        check_simulated(folder)
        shutil.rmtree(folder)


def main() -> None:
    """Run the command."""
    options = parser(__doc__, paths=False)
    options.add_argument("folder", type=Path, help="where to write; created if missing")
    options.add_argument(
        "--dataset", nargs="+", choices=("wechat", "tiktok"), default=["wechat", "tiktok"], help="data sets to simulate"
    )
    options.add_argument("--rows", type=whole_number(1000), default=400_000, help="number of interactions")
    options.add_argument("--users", type=whole_number(10), default=1200, help="number of users")
    options.add_argument("--items", type=whole_number(50), default=8000, help="number of items that are shown")
    options.add_argument("--seed", type=seed_number, default=0, help="seed of the simulated world")
    options.add_argument(
        "--real-rates",
        action="store_true",
        help="make WeChat actions as rare as in the real data; the default is five times as frequent",
    )
    options.add_argument(
        "--track", choices=("track1", "track2"), default="track1", help="TikTok track; track2 has faces"
    )
    options.add_argument(
        "--law",
        metavar="{" + ",".join(LAWS) + "}",
        default=LAWS[0],
        help="what actions depend on: users and content, or also authors, music, durations, times and more as in a log",
    )
    options.add_argument("--no-features", action="store_true", help="write interactions only")
    arguments = options.parse_args()

    if arguments.law not in LAWS:
        raise UserError(f"--law {arguments.law}: there is no such law; choose one of {', '.join(LAWS)}")
    watch = Stopwatch()
    folder: Path = arguments.folder
    if not (folder / "path.json").exists():
        write_file(folder / "path.json", orjson.dumps(PATHS, option=orjson.OPT_INDENT_2) + b"\n")
    for dataset in arguments.dataset:
        where = folder / PATHS["dataset_path"]
        where = where / wechat.FOLDER if dataset == "wechat" else where / tiktok.FOLDER / arguments.track
        settings = WorldSettings(
            dataset,
            rows=arguments.rows,
            users=arguments.users,
            items=arguments.items,
            seed=arguments.seed,
            real_rates=arguments.real_rates,
            track=arguments.track,
            features=not arguments.no_features,
            law=arguments.law,
        )
        items = write_world(settings, where)
        note(
            f"simulated {where}: {arguments.rows:,} rows, features of {items:,} items, {watch.seconds:.1f} s, "
            f"peak memory {peak_memory_mb():,.0f} MB"
        )


if __name__ == "__main__":
    run(main)
