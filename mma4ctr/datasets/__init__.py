"""The data sets that the scripts know: those of the study, and one's own, which path.json describes.

One more is a description; a format that a description cannot tell is a module like the two here and a line in
`BUILT_IN`.
"""

from collections.abc import Iterable, Sequence

from mma4ctr.datasets.base import RawDataset
from mma4ctr.datasets.tiktok import TikTok
from mma4ctr.datasets.toml_dataset import Described
from mma4ctr.datasets.toml_spec import Description, described
from mma4ctr.datasets.wechat import WeChat
from mma4ctr.runtime.console import note, unknown_name
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import Paths

BUILT_IN: dict[str, type[WeChat] | type[TikTok]] = {WeChat.name: WeChat, TikTok.name: TikTok}
# What is known of a data set before its files are opened.
Kind = type[WeChat] | type[TikTok] | Description


def tasks_of(kinds: Iterable[Kind]) -> list[str]:
    """Every task of some data sets."""
    return [f"{kind.name}_{target}" for kind in kinds for target in kind.targets]


TASKS = tuple(tasks_of(BUILT_IN.values()))


def known_datasets(paths: Paths) -> dict[str, Kind]:
    """The data sets that path.json names, by name; raises `UserError` where a description is wrong."""
    kinds: dict[str, Kind] = {name: kind for name, kind in BUILT_IN.items() if name in paths.built_in}
    return kinds | described(paths)


def chosen_datasets(paths: Paths, names: Sequence[str]) -> dict[str, Kind]:
    """The data sets named, all where none is; raises `UserError` for a name that path.json does not know."""
    known = known_datasets(paths)
    for name in names:
        if name not in known:
            raise unknown_name("data set", name, known)
    return {name: known[name] for name in names or known}


def split_task(task: str) -> tuple[str, str]:
    """`wechat_read_comment` -> (`wechat`, `read_comment`): no data set has an underscore in its name."""
    dataset, _, target = task.partition("_")
    return dataset, target


def open_dataset(kind: Kind, paths: Paths, track: str | None) -> RawDataset | None:
    """The raw files of a data set; None where its folder is not there."""
    if isinstance(kind, Description):
        return Described(kind)
    return kind.find(paths, track if kind.tracks else None)


def find_datasets(paths: Paths, names: Sequence[str], track: str | None = None) -> list[RawDataset]:
    """The data sets whose folders are there, of those named (all where none is).

    Raises `UserError` where none is there.
    """
    found = []
    for name, kind in chosen_datasets(paths, names).items():
        dataset = open_dataset(kind, paths, track)
        if dataset is None:
            folder = getattr(paths, name)
            note(f"{name}: skipped, there is no folder {folder}")
        else:
            found.append(dataset)
    if not found:
        raise UserError(
            f"no data set found; edit parent_folder, dataset_path, wechat_dataset_path and tiktok_dataset_path "
            f"in {paths.file}, describe your own under datasets, or make simulated files with: "
            "python -m mma4ctr.simulation --help"
        )
    return found
