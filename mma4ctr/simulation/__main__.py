"""Write a simulated world: raw files of WeChat, TikTok or two data sets of BARS, and a path.json that points at them.

    python -m mma4ctr.simulation demo --dataset tiktok --rows 400000 --users 1200 --items 8000 --seed 1

writes demo/dataset/TikTok2019ICME/track1/ and demo/path.json. `--dataset kuaivideo-x1` and `microvideo-1.7m-x1` write
demo/dataset/<name>/ with the columns of BARS's files, which path.json describes by the ready description of that name.

The files have the formats and the quirks of the real ones; see law.py and log_law.py in mma4ctr/simulation/ for the
laws behind them. The true probabilities are written to truth/ beside the raw files. No step reads them. They give the
best AUC that any model could reach, the oracle AUC.

Rows are streamed, so memory does not grow with their number.
"""

import codecs
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import orjson

from mma4ctr.runtime.console import Stopwatch, note, parser, run, seed_number, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.system import peak_memory_mb
from mma4ctr.simulation import tiktok, wechat
from mma4ctr.simulation.bars import SHAPES, BarsWorld
from mma4ctr.simulation.law import LAWS, make_world
from mma4ctr.simulation.rows import MARK, TRUTH, write_rows
from mma4ctr.storage.files import write_file
from mma4ctr.storage.folders import UNDER_CONSTRUCTION, abandon_building, finish_building, start_building
from mma4ctr.storage.locks import locked

BUILT_IN = {"wechat": wechat, "tiktok": tiktok}
DATASETS = (*BUILT_IN, *SHAPES)
USERS, ITEMS = 1200, 8000
PATHS: dict[str, Any] = {
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

BUILT_IN_KEYS = ("wechat_dataset_path", "tiktok_dataset_path", "feed_embedding")
SimulatedWorld: TypeAlias = wechat.WeChatWorld | tiktok.TikTokWorld | BarsWorld


@dataclass(frozen=True)
class WorldSettings:
    """What is to be simulated.

    Attributes:
        dataset: One of `DATASETS`.
        rows: Number of interactions.
        users: Number of users.
        items: Number of items that are shown.
        seed: Seed of the world.
        real_rates: Make WeChat actions as rare as in the real data, instead of five times as frequent.
        track: TikTok's `track1`, or `track2` with faces.
        features: Write feature files too.
        law: `log` or `content`; the data sets of BARS have `log` only.
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
    world, ratios = _draw_world(settings)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        building = start_building(folder, remove_simulated)
        try:
            if isinstance(world, BarsWorld):
                world.write_rows(building)
            else:
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


def _draw_world(settings: WorldSettings) -> tuple[SimulatedWorld, Mapping[str, float]]:
    """Draw the world of one data set; return it with the negatives per positive of its targets."""
    users, items, seed = settings.users, settings.items, settings.seed
    if settings.dataset in SHAPES:
        shape = SHAPES[settings.dataset]
        return BarsWorld(shape, settings.rows, users, items, seed), shape.negatives_per_positive
    module = BUILT_IN[settings.dataset]
    ratios = module.REAL_NEGATIVES_PER_POSITIVE if settings.real_rates else module.NEGATIVES_PER_POSITIVE
    drawn = make_world(ratios, users=users, items=items, seed=seed)
    world: wechat.WeChatWorld | tiktok.TikTokWorld = (
        wechat.WeChatWorld(drawn, seed)
        if settings.dataset == "wechat"
        else tiktok.TikTokWorld(drawn, seed, settings.track)
    )
    if settings.law == "log":
        world.use_log_law(ratios)
    return world, ratios


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
        mark = f"{TRUTH}/{MARK}"  # last: without it a removal that was killed could not be finished later
        for name in _files_in(folder) - {mark}:
            (folder / name).unlink()
        shutil.rmtree(folder)


def folder_of(dataset: str, track: str) -> Path:
    """Return the folder of a data set's files, relative to that of all data sets."""
    if dataset in SHAPES:
        return Path(dataset)
    return Path(wechat.FOLDER) if dataset == "wechat" else Path(tiktok.FOLDER) / track


def write_paths(file: Path, datasets: Sequence[str]) -> None:
    """Write path.json if there is none, and add the simulated data sets that it does not name."""
    described = {
        name: {"description": name, "folder": f"{PATHS['dataset_path']}/{name}"} for name in datasets if name in SHAPES
    }
    built_in = len(described) < len(datasets)
    content: Any = {key: value for key, value in PATHS.items() if built_in or key not in BUILT_IN_KEYS}
    if file.exists():
        try:
            content = orjson.loads(file.read_bytes().removeprefix(codecs.BOM_UTF8))
        except orjson.JSONDecodeError as error:
            raise UserError(f"{file}:{error.lineno}: not valid JSON ({error.msg}); correct or remove it") from None
    named = content.get("datasets", {}) if isinstance(content, dict) else None
    if not isinstance(named, dict):
        raise UserError(f"{file}: must be one JSON object, and its key 'datasets' too; correct or remove it")
    keys = [f"{name}_dataset_path" for name in datasets if name not in SHAPES]
    missing = {key: PATHS[key] for key in keys if key not in content}
    where = {key: PATHS[key] for key in ("parent_folder", "dataset_path")}
    if missing and where | content != content | where:
        raise UserError(
            f"{file}: its parent_folder and dataset_path are not those of simulated files; choose another folder"
        )
    missing |= where if missing else {}
    if file.exists() and not missing and described.keys() <= named.keys():
        return
    content = content | missing
    if described:
        content = content | {"datasets": described | named}
    write_file(file, orjson.dumps(content, option=orjson.OPT_INDENT_2) + b"\n")


def main() -> None:
    """Run the command."""
    options = parser(__doc__, paths=False)
    options.add_argument("folder", type=Path, help="where to write; created if missing")
    options.add_argument("--dataset", nargs="+", choices=DATASETS, default=list(BUILT_IN), help="data sets to simulate")
    options.add_argument("--rows", type=whole_number(1000), default=400_000, help="number of interactions")
    default = "(default: {:,}; for data sets of BARS so many that each has as many rows as published)"
    options.add_argument("--users", type=whole_number(10), help=f"number of users {default.format(USERS)}")
    options.add_argument(
        "--items", type=whole_number(50), help=f"number of items that are shown {default.format(ITEMS)}"
    )
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
        help=f"what actions depend on; {LAWS[0]}: users, content, authors, music, durations, times and more, as in a "
        f"real log; {LAWS[1]}: users and content only",
    )
    options.add_argument("--no-features", action="store_true", help="write interactions only")
    arguments = options.parse_args()

    if arguments.law not in LAWS:
        raise UserError(f"--law {arguments.law}: there is no such law; choose one of {', '.join(LAWS)}")
    if arguments.law != LAWS[0] and (others := SHAPES.keys() & set(arguments.dataset)):
        raise UserError(f"--law {arguments.law}: {min(others)} has the law {LAWS[0]} only; leave out --law")
    watch = Stopwatch()
    folder: Path = arguments.folder
    write_paths(folder / "path.json", arguments.dataset)
    for dataset in arguments.dataset:
        users, items = SHAPES[dataset].sizes(arguments.rows) if dataset in SHAPES else (USERS, ITEMS)
        settings = WorldSettings(
            dataset,
            rows=arguments.rows,
            users=arguments.users or users,
            items=arguments.items or items,
            seed=arguments.seed,
            real_rates=arguments.real_rates,
            track=arguments.track,
            features=not arguments.no_features,
            law=arguments.law,
        )
        where = folder / PATHS["dataset_path"] / folder_of(dataset, arguments.track)
        with_features = write_world(settings, where)
        note(
            f"simulated {where}: {arguments.rows:,} rows, features of {with_features:,} items, {watch.seconds:.1f} s, "
            f"peak memory {peak_memory_mb():,.0f} MB"
        )


if __name__ == "__main__":
    run(main)
