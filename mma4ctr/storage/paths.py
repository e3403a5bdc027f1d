"""path.json: where the raw data sets lie and where each step writes.

Relative paths start at the folder of path.json itself; output folders and the dataset folder lie under
`parent_folder`, the two data sets under `parent_folder/dataset_path`. Data sets of one's own stand under `datasets`,
each described in a TOML file or in place; see mma4ctr/datasets/toml_spec.py.
"""

import difflib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mma4ctr.runtime.errors import UserError

# Keys without which nothing can be found or written; the other two have an obvious place.
REQUIRED = (
    "parent_folder",
    "dataset_path",
    "wechat_dataset_path",
    "tiktok_dataset_path",
    "graph_path",
    "modal_path",
    "user_embedding_path",
    "matrix_path",
    "torch_model_path",
    "saved_path",
)
OPTIONAL = {"temp_path": "temp", "feed_embedding": "feed_embeddings.csv"}
# Without these, and with data sets of one's own, there are only the latter.
BUILT_IN = {"wechat": "wechat_dataset_path", "tiktok": "tiktok_dataset_path"}
OWN = "datasets"
# Where step 2 keeps the features of new items, below modal_path; the sweep's own artifacts lie below `sweep` in each.
NEW_ITEMS = "new-items"
SWEEP = "sweep"


@dataclass(frozen=True)
class Paths:
    """The folders of one path.json, absolute.

    Attributes:
        built_in: the data sets of the study that path.json names.
        described: one's own, by name: a file's name, or the description itself.
    """

    file: Path
    wechat: Path
    tiktok: Path
    feed_embedding: Path
    graph: Path
    modal: Path
    user_embedding: Path
    matrix: Path
    torch_model: Path
    saved: Path
    temp: Path
    built_in: tuple[str, ...] = tuple(BUILT_IN)
    described: Mapping[str, Any] = field(default_factory=dict, compare=False)

    @property
    def results(self) -> Path:
        """The file with one line per finished run."""
        return self.saved / "results.jsonl"

    @property
    def outputs(self) -> dict[str, Path]:
        """The folders that the steps write to, by their key in path.json."""
        return {
            "graph_path": self.graph,
            "modal_path": self.modal,
            "user_embedding_path": self.user_embedding,
            "matrix_path": self.matrix,
            "torch_model_path": self.torch_model,
            "saved_path": self.saved,
            "temp_path": self.temp,
        }

    @property
    def inputs(self) -> dict[str, Path]:
        """The study's raw files that path.json names, and path.json itself, by key."""
        named = {BUILT_IN[name]: getattr(self, name) for name in self.built_in}
        if "wechat" in self.built_in:
            named["feed_embedding"] = self.feed_embedding
        return named | {"path.json": self.file}

    def refuse_input(self, key: str, place: Path) -> None:
        """Demand that raw data do not lie in a folder that a step writes to.

        Args:
            key: What names the data, for the message.
            place: A file or folder that is read.

        Raises:
            UserError: Names both keys.
        """
        for output, folder in self.outputs.items():
            if holds(folder, place):
                raise UserError(
                    f"{self.file}: {output!r} ({folder}) holds what {key!r} reads ({place}); name another folder"
                )


def _identity(place: Path) -> object:
    """What tells a file or folder: its inode where it is there, else its path without links."""
    try:
        status = place.stat()
    except (OSError, ValueError):
        return os.path.normcase(os.path.realpath(place))
    return status.st_dev, status.st_ino


def holds(folder: Path, place: Path) -> bool:
    """True where `place` is the folder, or lies in it, by whatever names and links both are given."""
    inside = Path(os.path.realpath(place))
    return _identity(folder) in map(_identity, (inside, *inside.parents))


def _check_folders(paths: Paths) -> None:
    """Demand a folder of its own for each output, and none that holds what is read; raises `UserError`."""
    outputs = list(paths.outputs.items())
    for number, (key, folder) in enumerate(outputs):
        for other, place in outputs[number + 1 :]:
            outside, inside = holds(folder, place), holds(place, folder)
            if outside and inside:
                raise UserError(f"{paths.file}: {key!r} and {other!r} are one folder ({folder}); give each its own")
            if outside or inside:
                inner, outer = (other, key) if outside else (key, other)
                raise UserError(
                    f"{paths.file}: {inner!r} ({paths.outputs[inner]}) lies inside {outer!r} "
                    f"({paths.outputs[outer]}); give each a folder of its own"
                )
    for key, place in paths.inputs.items():
        paths.refuse_input(key, place)


def load_paths(file: str | Path) -> Paths:
    """Read a path.json.

    Raises `UserError` for a file that cannot be read, a missing key (with the nearest spelling that is there) or
    a value that is no path, and where two outputs share a folder, lie in each other, or hold raw data.
    """
    file = Path(file).absolute()
    try:
        content = orjson.loads(file.read_bytes())
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; name another file with --paths FILE") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: not valid JSON ({error.msg}); correct this line") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: must hold one JSON object with the keys {', '.join(REQUIRED)}")
    for key in content:
        if key not in (*REQUIRED, *OPTIONAL, OWN) and difflib.get_close_matches(key, [OWN], cutoff=0.8):
            raise UserError(f"{file}: unknown key {key!r}; is {OWN!r} meant?")
    described = content.get(OWN, {})
    if not isinstance(described, dict):
        raise UserError(f'{file}: the key {OWN!r} must be an object such as {{"mine": "mine.toml"}}')
    optional = dict(OPTIONAL)
    if described:
        optional |= {"dataset_path": ".", **dict.fromkeys(BUILT_IN.values(), ".")}
    for key in REQUIRED:
        if key not in content and key not in optional:
            near = difflib.get_close_matches(key, [k for k in content if k not in REQUIRED], n=1)
            hint = f"; is {near[0]!r} meant to be it?" if near else ""
            raise UserError(f"{file}: the key {key!r} is missing{hint}")
    values = optional | {key: content[key] for key in (*REQUIRED, *OPTIONAL) if key in content}
    for key, value in values.items():
        if not isinstance(value, str) or "\0" in value or (not value and key != "parent_folder"):
            raise UserError(f"{file}: the key {key!r} must be a path in quotes, not {value!r}")

    parent = file.parent / values["parent_folder"]
    dataset = parent / values["dataset_path"]
    wechat = dataset / values["wechat_dataset_path"]
    paths = Paths(
        file=file,
        wechat=wechat,
        tiktok=dataset / values["tiktok_dataset_path"],
        feed_embedding=wechat / values["feed_embedding"],
        graph=parent / values["graph_path"],
        modal=parent / values["modal_path"],
        user_embedding=parent / values["user_embedding_path"],
        matrix=parent / values["matrix_path"],
        torch_model=parent / values["torch_model_path"],
        saved=parent / values["saved_path"],
        temp=parent / values["temp_path"],
        built_in=tuple(name for name, key in BUILT_IN.items() if key in content),
        described=described,
    )
    _check_folders(paths)
    return paths
