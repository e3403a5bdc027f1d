"""The data sets that the scripts know. A new one is a module like these two and a line here."""

from collections.abc import Sequence

from mma4ctr.console import UserError, note, unknown_name
from mma4ctr.datasets.base import RawDataset
from mma4ctr.datasets.tiktok import TikTok
from mma4ctr.datasets.wechat import WeChat
from mma4ctr.paths import Paths

DATASETS: dict[str, type[RawDataset]] = {kind.name: kind for kind in (WeChat, TikTok)}
TASKS = tuple(f"{kind.name}_{target}" for kind in DATASETS.values() for target in kind.targets)


def split_task(task: str) -> tuple[str, str]:
    """`wechat_read_comment` -> (`wechat`, `read_comment`); raises `UserError` with the nearest task there is."""
    if task not in TASKS:
        raise unknown_name("task", task, TASKS)
    dataset, target = task.split("_", 1)
    return dataset, target


def find_datasets(paths: Paths, names: Sequence[str], track: str | None = None) -> list[RawDataset]:
    """The data sets whose folders are there, of those named (all where none is).

    Raises `UserError` where none is there.
    """
    found = []
    for name in names or DATASETS:
        dataset = DATASETS[name].find(paths, track if DATASETS[name].tracks else None)
        if dataset is None:
            folder = getattr(paths, name)
            note(f"{name}: skipped, there is no folder {folder}")
        else:
            found.append(dataset)
    if not found:
        raise UserError(
            f"no data set found; edit parent_folder, dataset_path, wechat_dataset_path and tiktok_dataset_path "
            f"in {paths.file}, or make simulated files with: python -m mma4ctr.world --help"
        )
    return found
