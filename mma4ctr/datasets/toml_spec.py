"""The description of a user's own data set: its files and the meaning of their columns.

`datasets` in path.json gives the name of each TOML file, or the same content as JSON, or the name of a ready
description and the folder with its files:

    "datasets": {"mine": "mine.toml", "movies": {"description": "movielens-100k", "folder": "../ml-100k"}}

A description (keys are required unless marked optional):

    folder = "data"                     # optional: folder of the files, relative to this file's folder
    min_interactions = 5                # optional: users with fewer rows are left out; default 5, with [split] 0
    negatives = 5                       # optional: unseen items to sample for each positive row

    [interactions]
    files = "log-*.csv.gz"              # one or a list; csv, tsv, jsonl, parquet
    format = "csv"                      # optional: if file names have another suffix; separator = ";" for other text
    columns = ["who", "what", "when"]   # optional: column names of text without a header
    user = "who"
    item = "what"
    time = "when"                       # optional: numbers or dates; without it the rows are in time order
    device = "phone"                    # optional: each user's most frequent value is a feature
    also = ["seconds"]                  # optional: columns that distinguish otherwise equal rows
    outcomes = ["is_*", "stay_time"]    # optional: known only after the impression; refused as inputs
    history = "clicked"                 # optional: items that the user chose before; a user's first row is used
    history_separator = "^"             # optional: between the items of a cell such as 12^7^9; default: spaces

    [targets]
    like = "rating >= 4"                # a 0/1 column, a rule, or true: every row is positive

    [split]                             # optional: the data come split; then [interactions] has no files
    train = "train.csv"
    valid = "valid.csv"                 # optional: else the last tenth of the training rows; "test": the test rows
    test = "test.csv"                   # or column = "part", and train, valid and test are its values
    id = "ID"                           # optional: column that names the test rows in a submission; else their number
    submission = ["ID", "click"]        # optional: header of a submission; default: the column of id, and probability

    [modalities.text]                   # any number of modalities
    files = "items.csv"
    item = "id"
    text = ["title", "genre"]           # plain words (TF-IDF and SVD); or tokens = ..., used unchanged
    width = 64                          # optional: maximum number of columns; default 128
    token_separator = "^"               # optional: between the tokens of a cell such as 12^7^9; default: spaces

    [modalities.picture]
    files = "pictures.parquet"
    item = "id"
    vector = "embedding"                # a column of lists; or columns of numbers, ["x1", "x2"] or "x*"

    [modalities.sound]
    vectors = "sound.npy"               # an array (items, numbers)
    ids = "sound_ids.txt"               # one per line; or .npy; or a table and item = "id"; or the id of the first row

    [modalities.motion]
    vectors = "motion.h5"               # or .npz, .safetensors: `key` has the ids and `value` the vectors; or with ids

    [columns.item]                      # optional: columns beside content, for features plus
    files = "items.csv"
    item = "id"
    categories = ["author", "tag"]
    numbers = ["duration"]

    [columns.user]                      # optional: the same of users
    files = "users.csv"
    user = "id"
    categories = ["city"]

    [columns.context]                   # optional: columns of the interactions, known before the user acts
    categories = ["channel"]
    numbers = ["position"]
    hour = true                         # hour and weekday of the time
"""

import re
import tomllib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mma4ctr.datasets.array_files import is_archive
from mma4ctr.datasets.base import Modality
from mma4ctr.datasets.columns import Rule, parse_rule
from mma4ctr.datasets.spec_columns import ColumnSource, InteractionColumns, column_mistakes, column_sources
from mma4ctr.datasets.spec_split import GivenSplit, given_split
from mma4ctr.datasets.spec_table import ENCODINGS, KEYS, SpecTable, are_texts, is_text, is_whole
from mma4ctr.datasets.table_readers import Source
from mma4ctr.runtime.console import misspelled, unknown_name
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import NEW_ITEMS, SWEEP, Paths

READY = Path(__file__).parent / "descriptions"
DEFAULT_WIDTH = 128
DEFAULT_MIN_INTERACTIONS = 5
# These names become parts of paths, tasks and variants.
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
RESERVED_DATASETS = ("wechat", "tiktok", SWEEP, NEW_ITEMS)
# No dots: `words.plus` is the folder of `--features plus` for a modality `words`.
MODALITY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RESERVED = re.compile(r"block|all|default|.*_(present|concat|cross)")


@dataclass(frozen=True)
class ModalitySource:
    """The files and columns of one modality.

    Attributes:
        name: its name.
        source: the files of its table, or its arrays.
        item: column of item ids.
        encoding: one of ENCODINGS.
        columns: names or patterns of the encoded columns.
        width: maximum number of columns after reduction; None: the default.
        ids: for arrays: the files of item ids, or the id of the first row; None: the files of vectors have them.
        token_separator: between the tokens of a cell; None: spaces.
    """

    name: str
    source: Source
    item: str | None
    encoding: str
    columns: tuple[str, ...]
    width: int | None
    ids: Source | int | None
    token_separator: str | None = None

    @property
    def kind(self) -> str:
        """`bag` or `dense`, as in `Modality`."""
        return "bag" if self.encoding in ("text", "tokens") else "dense"


@dataclass(frozen=True)
class Description:
    """A described data set before its files are opened.

    Attributes:
        name: the data set's name.
        where: the file of the description, for messages.
        folder: the folder of relative file names.
        interactions: the interaction files.
        rules: the rule of each target.
        sources: the modalities.
        min_interactions: users with fewer rows are left out.
        negatives: unseen items to sample for each positive row.
        columns: columns beside content by side.
        hour: whether the hour and weekday of the time are context columns.
        split: the split that the description gives, if any.
        tracks: always empty; for the interface of `RawDataset`.
    """

    name: str
    where: str
    folder: Path
    interactions: InteractionColumns
    rules: Mapping[str, Rule]
    sources: tuple[ModalitySource, ...]
    min_interactions: int
    negatives: int
    columns: Mapping[str, ColumnSource] = field(default_factory=dict)
    hour: bool = False
    split: GivenSplit | None = None
    tracks: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        """The names of the targets."""
        return tuple(self.rules)

    @property
    def part_column(self) -> str | None:
        """The column of the interactions that gives each row's part of the split, if one does."""
        return self.split.column if self.split else None

    @property
    def tables(self) -> list[Source]:
        """All sources of files."""
        ids = [one.ids for one in self.sources if isinstance(one.ids, Source)]
        listed = [one.source for one in self.columns.values() if one.source]
        return [self.interactions.source, *(one.source for one in self.sources), *ids, *listed]

    @property
    def places(self) -> list[Path]:
        """The named files; for a pattern, the folder that contains all its files."""
        return [place for table in self.tables for place in table.places]

    @property
    def default_targets(self) -> tuple[str, ...]:
        """All targets."""
        return self.targets

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """The modalities, without the length of their vectors."""
        return tuple(Modality(one.name, one.width or DEFAULT_WIDTH, one.kind) for one in self.sources)


def read_description(name: str, paths: Paths) -> tuple[Description | None, list[str]]:
    """Read the description of a data set in path.json.

    Returns:
        The description, or None if it has mistakes; and the messages about all mistakes.
    """
    mistakes: list[str] = []
    try:
        content, where, folder = _find(name, paths)
    except UserError as error:
        return None, [str(error)]
    if not DATASET_NAME.fullmatch(name) or name.lower() in RESERVED_DATASETS:
        reserved = name.lower() in RESERVED_DATASETS
        reason = "is reserved" if reserved else "may only contain letters, digits, - and ."
        mistakes.append(f"{paths.file}: datasets: the name {name!r} {reason}; choose another")
    mistakes += _same_folder(f"{paths.file}: datasets", name, paths.described)
    top = SpecTable(content, where, mistakes)
    folder = folder / (top.text("folder") or ".")
    minimum, negatives = top.number("min_interactions", 0), top.number("negatives", 0)
    log = SpecTable(content.get("interactions", {}), f"{where} [interactions]", mistakes)
    split = None
    if "split" in content:
        split = given_split(SpecTable(content["split"], f"{where} [split]", mistakes), log, folder)
    interactions = _interactions(log, folder, split)
    rules = _rules(SpecTable(content.get("targets", {}), f"{where} [targets]", mistakes))
    sources = _modalities(content.get("modalities", {}), where, mistakes, folder)
    if not sources:
        top.add_mistake("needs a modality: add a table such as [modalities.text]")
    columns, hour = column_sources(content.get("columns", {}), where, mistakes, folder)
    if interactions:
        mistakes += column_mistakes(columns, hour, interactions, rules, where)
    top.check_unknown(("interactions", "targets", "modalities", "columns", "split"))
    if mistakes:
        return None, list(dict.fromkeys(mistakes))
    if minimum is None:  # a benchmark's test rows are all scored
        minimum = 0 if split else DEFAULT_MIN_INTERACTIONS
    assert interactions is not None
    found = Description(
        name, where, folder, interactions, rules, tuple(sources), minimum, negatives or 0, columns, hour, split
    )
    try:
        for place in found.places:
            paths.refuse_input(f"datasets.{name}", place)
    except UserError as error:
        return None, [str(error)]
    return found, []


def _modalities(tables: Any, where: str, mistakes: list[str], folder: Path) -> list[ModalitySource]:
    """Read the tables of the modalities."""
    sources = []
    for key, table in tables.items() if isinstance(tables, dict) else ():
        part = SpecTable(table, f"{where} [modalities.{key}]", mistakes)
        if not MODALITY_NAME.fullmatch(key) or RESERVED.fullmatch(key):
            part.add_mistake(
                f"{key!r} is not a valid name for a modality; use letters, digits, _ and -, and no reserved name"
            )
        mistakes += _same_folder(f"{where} [modalities]", key, tables)
        sources.append(_modality(key, part, folder))
    return sources


def _same_folder(where: str, name: str, names: Iterable[str]) -> list[str]:
    """Return the mistake of two names that are the same folder on a case-insensitive file system, if any."""
    others = [other for other in names if other != name and other.lower() == name.lower()]
    return [f"{where}: {name!r} and {others[0]!r} differ only in capital letters; rename one"] if others else []


def _find(name: str, paths: Paths) -> tuple[dict[str, Any], str, Path]:
    """Return the content of a description, its file for messages, and the folder of its relative paths."""
    given = paths.described[name]
    given = {"description": given} if isinstance(given, str) else given
    if not isinstance(given, dict):
        raise UserError(f"{paths.file}: datasets.{name} must be the name of a TOML file, or a description")
    file = given.get("description")
    if file is None:
        return given, f"{paths.file} datasets.{name}", paths.file.parent
    if not is_text(file):
        raise UserError(f"{paths.file}: datasets.{name}: description = {file!r}: must name a TOML file")
    ready = {path.stem: path for path in READY.glob("*.toml")}
    path = paths.file.parent / file
    if not file.endswith(".toml"):
        if file not in ready:
            raise UserError(f"{paths.file}: datasets.{name}: {unknown_name('ready description', file, sorted(ready))}")
        path = ready[file]
    own = {key: value for key, value in given.items() if key != "description"}
    # A folder in path.json is relative to path.json; so are the files of a ready description.
    folder = path.parent
    if "folder" in own or path.parent == READY:
        folder = paths.file.parent
    return _read_toml(path, paths.file) | own, str(path), folder


def _read_toml(path: Path, named_by: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it is named in {named_by}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None


def _interactions(part: SpecTable, folder: Path, split: GivenSplit | None) -> InteractionColumns | None:
    files = part.texts("files", required=split is None or split.column is not None)
    if split and split.sources:
        files = tuple(pattern for source in split.sources.values() for pattern in source.patterns)
    source = part.source(files, folder)
    user, item = part.text("user", required=True), part.text("item", required=True)
    time, device, also, outcomes = part.text("time"), part.text("device"), part.texts("also"), part.texts("outcomes")
    history, separator = part.text("history"), part.text("history_separator")
    if separator and not history:
        part.add_mistake("history_separator needs history, the column that it separates")
    part.check_unknown()
    if source.format == "npy":
        part.add_mistake("format = 'npy': interactions must be a table, not an array")
    if not (user and item):
        return None
    return InteractionColumns(source, user, item, time, device, also, outcomes, history, separator)


def _rules(part: SpecTable) -> dict[str, Rule]:
    rules = {}
    for target, value in part.content.items():
        if not NAME.fullmatch(target):
            part.add_mistake(f"{target!r} is not a valid name for a target; use letters, digits, _ - and .")
        elif value is True:
            rules[target] = Rule(None)
        elif is_text(value):
            try:
                rules[target] = parse_rule(value)
            except ValueError as error:
                part.add_mistake(f"{target}: {error}")
        else:
            part.add_mistake(f"{target} = {value!r}: must be a column, a rule such as 'rating >= 4', or true")
    if not part.content:
        part.add_mistake('needs a target: add one such as like = "rating >= 4"')
    return rules


def _modality(name: str, part: SpecTable, folder: Path) -> ModalitySource:
    given = [key for key in ENCODINGS if key in part.content]
    if len(given) != 1:
        unknown = [key for key in part.content if key not in KEYS]
        hint = next(filter(None, (misspelled(key, unknown) for key in ENCODINGS)), "").replace(" of it?", "?")
        has = f"has {' and '.join(given)}" if given else "has none of them"
        part.add_mistake(f"must have exactly one of {', '.join(ENCODINGS)}, but {has}{hint}")
    encoding = given[0] if given else "vectors"
    width = part.number("width", 1)
    ids: Source | int | None = None
    columns: tuple[str, ...] = ()
    if encoding == "vectors":
        files = part.texts("vectors")
        required = bool(given) and not all(map(is_archive, files))
        value = part.get("ids", "a file, a list of files, or the first row's id", _are_ids, required=required)
        item = part.text("item")
        source = Source(part.where, folder, files, "npy")
        if isinstance(value, int):
            ids = value
        elif value is not None:
            ids = part.source((value,) if isinstance(value, str) else tuple(value), folder)
    else:
        columns = part.texts(encoding)
        item = part.text("item", required=bool(given))
        source = part.source(part.texts("files", required=bool(given)), folder)
    between = part.text("token_separator")
    if between and encoding != "tokens":
        part.add_mistake("token_separator: only for tokens")
    part.check_unknown(ENCODINGS)
    return ModalitySource(name, source, item, encoding, columns, width, ids, between)


def _are_ids(value: Any) -> bool:
    return (is_whole(value) and abs(value) < 2**62) or are_texts(value)


def read_descriptions(paths: Paths) -> dict[str, Description]:
    """Read the descriptions of all the user's data sets in path.json.

    Raises:
        UserError: The first mistake, and the number of further ones.
    """
    found = {}
    for name in paths.described:
        description, mistakes = read_description(name, paths)
        if description is None:
            more = f" ({len(mistakes) - 1} more: run python -m mma4ctr.datasets check {paths.file})"
            raise UserError(mistakes[0] + (more if len(mistakes) > 1 else ""))
        found[name] = description
    return found


def described_files(paths: Paths) -> list[Path]:
    """Return the existing raw files of all described data sets."""
    found: list[Path] = []
    for description in read_descriptions(paths).values():
        for table in description.tables:
            with suppress(UserError):  # missing files
                found += table.files()
    return found
