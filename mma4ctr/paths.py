"""path.json: where the raw data sets lie and where each step writes.

Relative paths start at the folder of path.json itself; output folders and the dataset folder lie under
`parent_folder`, the two data sets under `parent_folder/dataset_path`. Data sets of one's own stand under `datasets`,
each described in a TOML file or in place; see mma4ctr/datasets/description.py.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from mma4ctr.console import UserError

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


def load_paths(file: str | Path) -> Paths:
    """Read a path.json.

    Raises `UserError` for a file that cannot be read, a missing key (with the nearest spelling that is there) or
    a value that is no path.
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
    return Paths(
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
