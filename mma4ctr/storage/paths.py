"""path.json: the folders of the raw data sets and of each step's output.

Relative paths start at the folder of path.json. Output folders and the dataset folder are relative to `parent_folder`,
the two built-in data sets to `parent_folder/dataset_path`. The user's own data sets are listed under `datasets`, each
with a description in a TOML file or in path.json itself; see mma4ctr/datasets/toml_spec.py.
"""

import codecs
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mma4ctr.runtime.console import closest_name, misspelled
from mma4ctr.runtime.errors import UserError

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
# Keys of the built-in data sets; optional if `datasets` is given.
BUILT_IN = {"wechat": "wechat_dataset_path", "tiktok": "tiktok_dataset_path"}
OWN = "datasets"
# Subfolder of modal_path for the features of new items, and subfolder of every output folder for the sweep's artifacts.
NEW_ITEMS = "new-items"
SWEEP = "sweep"


@dataclass(frozen=True)
class Paths:
    """The absolute folders of one path.json.

    Attributes:
        file: the path.json.
        wechat: raw files of WeChat.
        tiktok: raw files of TikTok.
        feed_embedding: the file of WeChat's feed embeddings.
        graph: output of step 1.
        modal: output of step 2.
        user_embedding: output of step 3.
        matrix: output of step 4.
        torch_model: trained runs of step 5.
        saved: results, tables, figures and the report.
        temp: temporary files.
        built_in: built-in data sets that path.json names.
        described: the user's own data sets by name: a file name, or the description itself.
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
        """results.jsonl, with one line per finished run."""
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
        """The built-in data sets' folders and files that path.json names, by key, and path.json itself."""
        named = {BUILT_IN[name]: getattr(self, name) for name in self.built_in}
        if "wechat" in self.built_in:
            named["feed_embedding"] = self.feed_embedding
        return named | {"path.json": self.file}

    def refuse_input(self, key: str, place: Path) -> None:
        """Check that raw data is not inside an output folder.

        Args:
            key: the key that names the data, for the message.
            place: the file or folder that is read.

        Raises:
            UserError: Names both keys.
        """
        for output, folder in self.outputs.items():
            if contains(folder, place):
                raise UserError(
                    f"{self.file}: the output folder {output!r} ({folder}) contains the raw data of {key!r} ({place}); "
                    "name another folder"
                )


def _identity(place: Path) -> object:
    """Return a value that identifies a file or folder: device and inode if it exists, else the path without links."""
    try:
        status = place.stat()
    except (OSError, ValueError):
        return os.path.normcase(os.path.realpath(place))
    return status.st_dev, status.st_ino


def contains(folder: Path, place: Path) -> bool:
    """Return whether `place` is the folder or is inside it, also through links and other spellings."""
    inside = Path(os.path.realpath(place))
    return _identity(folder) in map(_identity, (inside, *inside.parents))


def _check_folders(paths: Paths) -> None:
    """Raise `UserError` if two output folders are equal or nested, or one contains raw data."""
    outputs = list(paths.outputs.items())
    for number, (key, folder) in enumerate(outputs):
        for other, place in outputs[number + 1 :]:
            outside, inside = contains(folder, place), contains(place, folder)
            if outside and inside:
                raise UserError(
                    f"{paths.file}: {key!r} and {other!r} are the same folder ({folder}); name one folder for each"
                )
            if outside or inside:
                inner, outer = (other, key) if outside else (key, other)
                raise UserError(
                    f"{paths.file}: {inner!r} ({paths.outputs[inner]}) is inside {outer!r} "
                    f"({paths.outputs[outer]}); name separate folders"
                )
    for key, place in paths.inputs.items():
        paths.refuse_input(key, place)


def _read_json_object(file: Path) -> dict[str, Any]:
    """Read the JSON object in a file; raises `UserError`."""
    try:
        content = orjson.loads(file.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}; name another file with --paths FILE") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{file}:{error.lineno}: not valid JSON ({error.msg}); correct this line") from None
    if not isinstance(content, dict):
        raise UserError(f"{file}: must be one JSON object with the keys {', '.join(REQUIRED)}")
    return content


def _described_datasets(file: Path, content: dict[str, Any]) -> dict[str, Any]:
    """Return the value of the key `datasets`; raises `UserError` if it is not an object or the key is misspelled."""
    for key in content:
        if key not in (*REQUIRED, *OPTIONAL, OWN) and closest_name(key, [OWN], cutoff=0.8):
            raise UserError(f"{file}: unknown key {key!r}; did you mean {OWN!r}?")
    described = content.get(OWN, {})
    if not isinstance(described, dict):
        raise UserError(f'{file}: the key {OWN!r} must be an object such as {{"mine": "mine.toml"}}')
    return described


def _path_values(file: Path, content: dict[str, Any], defaults: dict[str, str]) -> dict[str, str]:
    """Return the paths by key, with defaults for optional ones; raises `UserError`."""
    for key in REQUIRED:
        if key not in content and key not in defaults:
            unknown = [other for other in content if other not in REQUIRED]
            raise UserError(f"{file}: the key {key!r} is missing{misspelled(key, unknown) or '; add it'}")
    values = defaults | {key: content[key] for key in (*REQUIRED, *OPTIONAL) if key in content}
    for key, value in values.items():
        if not isinstance(value, str) or "\0" in value or (not value and key != "parent_folder"):
            raise UserError(f"{file}: the key {key!r} must be a path in quotes, not {value!r}")
    return values


def load_paths(file: str | Path) -> Paths:
    """Read a path.json and check its folders.

    Raises:
        UserError: The file cannot be read, a key is missing or not a path, or output folders are equal, nested, or
            contain raw data.
    """
    file = Path(file).absolute()
    content = _read_json_object(file)
    described = _described_datasets(file, content)
    defaults = dict(OPTIONAL)
    if described:
        defaults |= {"dataset_path": ".", **dict.fromkeys(BUILT_IN.values(), ".")}
    values = _path_values(file, content, defaults)
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
