"""All data sets: the two of the study, and the user's own data sets, which path.json describes.

Most data sets need only a description (toml_spec.py). A format that a description cannot express needs a module like
wechat.py and tiktok.py, and an entry in `BUILT_IN`.
"""

from collections.abc import Iterable, Sequence

from mma4ctr.datasets.base import RawDataset
from mma4ctr.datasets.tiktok import TikTok
from mma4ctr.datasets.toml_dataset import DescribedDataset
from mma4ctr.datasets.toml_spec import Description, read_descriptions
from mma4ctr.datasets.wechat import WeChat
from mma4ctr.runtime.console import note, unknown_name
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import Paths

BUILT_IN: dict[str, type[WeChat] | type[TikTok]] = {WeChat.name: WeChat, TikTok.name: TikTok}
# A data set before its files are opened.
Kind = type[WeChat] | type[TikTok] | Description


def tasks_of(kinds: Iterable[Kind]) -> list[str]:
    """Return every task of some data sets."""
    return [f"{kind.name}_{target}" for kind in kinds for target in kind.targets]


TASKS = tuple(tasks_of(BUILT_IN.values()))


def known_datasets(paths: Paths) -> dict[str, Kind]:
    """Return the data sets of path.json by name; raises `UserError` for a mistake in a description."""
    kinds: dict[str, Kind] = {name: kind for name, kind in BUILT_IN.items() if name in paths.built_in}
    return kinds | read_descriptions(paths)


def chosen_datasets(paths: Paths, names: Sequence[str]) -> dict[str, Kind]:
    """Return the named data sets, or all if `names` is empty; raises `UserError` for a name not in path.json."""
    known = known_datasets(paths)
    for name in names:
        if name not in known:
            raise unknown_name("data set", name, known)
    return {name: known[name] for name in names or known}


def split_task(task: str) -> tuple[str, str]:
    """Split `wechat_read_comment` into `wechat` and `read_comment`; data set names have no underscore."""
    dataset, _, target = task.partition("_")
    return dataset, target


def open_dataset(kind: Kind, paths: Paths, track: str | None) -> RawDataset | None:
    """Open the raw files of a data set; returns None if its folder does not exist."""
    if isinstance(kind, Description):
        return DescribedDataset(kind)
    return kind.find(paths, track if kind.tracks else None)


def find_datasets(paths: Paths, names: Sequence[str], track: str | None = None) -> list[RawDataset]:
    """Open the data sets whose folders exist.

    Args:
        paths: the folders.
        names: data sets to open; all if empty.
        track: the track of TikTok; None: the first one found.

    Raises:
        UserError: A name is unknown, or no data set is found.
    """
    found = []
    for name, kind in chosen_datasets(paths, names).items():
        dataset = open_dataset(kind, paths, track)
        if dataset is None:
            folder = getattr(paths, name)
            note(f"{name}: skipped, the folder {folder} does not exist")
        else:
            found.append(dataset)
    if not found:
        raise UserError(
            f"no data set found; edit parent_folder, dataset_path, wechat_dataset_path and tiktok_dataset_path "
            f"in {paths.file}, describe your own data under datasets, or simulate data with: "
            "python -m mma4ctr.simulation --help"
        )
    return found
