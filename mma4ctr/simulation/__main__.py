"""Write a simulated world: raw WeChat and TikTok files, and a path.json that points at them.

    python -m mma4ctr.simulation demo --dataset tiktok --rows 400000 --users 1200 --items 8000 --seed 1

writes demo/dataset/TikTok2019ICME/track1/ and demo/path.json. The files have the formats and the quirks of the real
ones; see mma4ctr/world/law.py for the law behind them. The true probabilities lie in truth/ beside the raw files.
No step reads them; they tell the best AUC that any model could reach (the oracle AUC).

Rows are streamed: memory does not grow with them.
"""

import shutil
from contextlib import suppress
from pathlib import Path

import orjson

from mma4ctr.runtime.console import Stopwatch, note, parser, run, seed_number, whole_number
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.system import peak_memory_mb
from mma4ctr.simulation import tiktok, wechat
from mma4ctr.simulation.law import make_world
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


def write_world(
    dataset: str,
    folder: Path,
    *,
    rows: int,
    users: int,
    items: int,
    seed: int,
    real_rates: bool = False,
    track: str = "track1",
    features: bool = True,
) -> int:
    """Write the raw files of one simulated data set into `folder`; returns the items that have features.

    The folder appears under its name when everything is written. Raises `UserError` where something that is no
    simulated world stands there.
    """
    check_simulated(folder)
    module = wechat if dataset == "wechat" else tiktok
    ratios = module.REAL_NEGATIVES_PER_POSITIVE if real_rates else module.NEGATIVES_PER_POSITIVE
    law = make_world(ratios, users=users, items=items, seed=seed)
    world = wechat.WeChatWorld(law, seed) if dataset == "wechat" else tiktok.TikTokWorld(law, seed, track)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        building = start_building(folder, remove_simulated)
        try:
            write_rows(world, building, rows, "," if dataset == "wechat" else "\t")
            with_features = world.write_features(building) if features else 0
            made = {"dataset": dataset, "rows": rows, "users": users, "items": items, "seed": seed}
            made |= {"ratios": dict(ratios), "files": sorted(_files_in(building) - {UNDER_CONSTRUCTION})}
            write_file(building / TRUTH / MARK, orjson.dumps(made, option=orjson.OPT_INDENT_2))
            check_simulated(folder)
            finish_building(folder, remove_simulated)
        finally:
            abandon_building(folder)
    return with_features


def _files_in(folder: Path) -> set[str]:
    """The files and links below a folder, from it on."""
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_symlink() or path.is_file()}


def check_simulated(folder: Path) -> None:
    """Demand that nothing but a simulated world is in a folder; raises `UserError`."""
    if not folder.exists() and not folder.is_symlink():
        return
    if folder.is_symlink() or not folder.is_dir():
        raise UserError(f"{folder}: is no folder, and the simulated files go there; name another folder")
    try:
        known = {*orjson.loads((folder / TRUTH / MARK).read_bytes())["files"], f"{TRUTH}/{MARK}"}
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError):
        known = set()
    other = _files_in(folder) - known
    if other:
        raise UserError(
            f"{folder}: holds {min(other)!r}, which is no file of the simulated world there; move it, or name another "
            "folder"
        )


def remove_simulated(folder: Path) -> None:
    """Remove a simulated world that was replaced; where other files are in its folder, nothing."""
    with suppress(UserError):
        check_simulated(folder)
        shutil.rmtree(folder)


def main() -> None:
    options = parser(__doc__, paths=False)
    options.add_argument("folder", type=Path, help="where to write; made where it is not there")
    options.add_argument(
        "--dataset", nargs="+", choices=("wechat", "tiktok"), default=["wechat", "tiktok"], help="which"
    )
    options.add_argument("--rows", type=whole_number(1000), default=400_000, help="interactions")
    options.add_argument("--users", type=whole_number(10), default=1200, help="users")
    options.add_argument("--items", type=whole_number(50), default=8000, help="items that are shown")
    options.add_argument("--seed", type=seed_number, default=0, help="another seed is another world")
    options.add_argument(
        "--real-rates",
        action="store_true",
        help="WeChat actions as rare as in life; without it they are five times as frequent, so that few rows do",
    )
    options.add_argument("--track", choices=("track1", "track2"), default="track1", help="TikTok; track2 has faces")
    options.add_argument("--no-features", action="store_true", help="interactions only")
    arguments = options.parse_args()

    watch = Stopwatch()
    folder: Path = arguments.folder
    if not (folder / "path.json").exists():
        write_file(folder / "path.json", orjson.dumps(PATHS, option=orjson.OPT_INDENT_2) + b"\n")
    for dataset in arguments.dataset:
        where = folder / PATHS["dataset_path"]
        where = where / wechat.FOLDER if dataset == "wechat" else where / tiktok.FOLDER / arguments.track
        items = write_world(
            dataset,
            where,
            rows=arguments.rows,
            users=arguments.users,
            items=arguments.items,
            seed=arguments.seed,
            real_rates=arguments.real_rates,
            track=arguments.track,
            features=not arguments.no_features,
        )
        note(
            f"simulated {where}: {arguments.rows:,} rows, features of {items:,} items, {watch.seconds:.1f} s, "
            f"peak memory {peak_memory_mb():,.0f} MB"
        )


if __name__ == "__main__":
    run(main)
