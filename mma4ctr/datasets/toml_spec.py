"""The description of a data set of one's own: where its files lie and what their columns are.

`datasets` in path.json names each one's TOML file, or holds the same in place, or names a ready description and the
folder with its files:

    "datasets": {"mine": "mine.toml", "movies": {"description": "movielens-100k", "folder": "../ml-100k"}}

A description (every key but those marked optional):

    folder = "data"                     # optional: where files are looked for, from this file's folder on
    min_interactions = 5                # optional: users with fewer rows are left out
    negatives = 5                       # optional: draw so many unseen items for each positive row

    [interactions]
    files = "log-*.csv.gz"              # one or a list; csv, tsv, jsonl, parquet
    format = "csv"                      # optional: where the names do not end so; separator = ";" for other text
    columns = ["who", "what", "when"]   # optional: of text without a header
    user = "who"
    item = "what"
    time = "when"                       # optional: numbers or dates; without it the rows stand in the order of time
    device = "phone"                    # optional: a column of which each user's most frequent value is a feature
    also = ["seconds"]                  # optional: columns that tell two rows apart which are equal otherwise
    outcomes = ["is_*", "stay_time"]    # optional: what happened after the impression; refused as inputs

    [targets]
    like = "rating >= 4"                # a column of 0 and 1, a rule, or true: every row

    [modalities.text]                   # any number of them
    files = "items.csv"
    item = "id"
    text = ["title", "genre"]           # plain words; or tokens = ..., as they are: TF-IDF and SVD
    width = 64                          # optional: columns at most; 128 where it is not given

    [modalities.picture]
    files = "pictures.parquet"
    item = "id"
    vector = "embedding"                # a column of lists; or several of numbers, ["x1", "x2"] or "x*"

    [modalities.sound]
    vectors = "sound.npy"               # an array (items, numbers)
    ids = "sound_ids.txt"               # one a line; or .npy; or a table and item = "id"; or the first row's number

    [columns.item]                      # optional: what features plus use beside content
    files = "items.csv"
    item = "id"
    categories = ["author", "tag"]
    numbers = ["duration"]

    [columns.user]                      # the same of users
    files = "users.csv"
    user = "id"
    categories = ["city"]

    [columns.context]                   # columns of the interactions themselves, known before the user acts
    categories = ["channel"]
    numbers = ["position"]
    hour = true                         # hour and weekday of the time
"""

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mma4ctr.datasets.base import ColumnNames, Modality
from mma4ctr.datasets.columns import Rule, parse_rule
from mma4ctr.datasets.table_readers import FORMATS, Source
from mma4ctr.runtime.console import LARGEST_NUMBER, nearest, unknown_name
from mma4ctr.runtime.errors import UserError
from mma4ctr.storage.paths import NEW_ITEMS, SWEEP, Paths

READY = Path(__file__).parent / "descriptions"
DEFAULT_WIDTH = 128
DEFAULT_MIN_INTERACTIONS = 5
# Names become parts of paths and of the names of tasks and variants.
DATASET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]*")
RESERVED_DATASETS = ("wechat", "tiktok", SWEEP, NEW_ITEMS)
# Without a dot: `words.plus` would be the folder of features plus of a modality `words`.
MODALITY_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]*")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*")
RESERVED = re.compile(r"block|all|default|.*_(present|concat|cross)")
ENCODINGS = ("text", "tokens", "vector", "vectors")


@dataclass(frozen=True)
class InteractionColumns:
    """The interaction files and which column is what."""

    source: Source
    user: str
    item: str
    time: str | None
    device: str | None
    also: tuple[str, ...]
    outcomes: tuple[str, ...] = ()


@dataclass(frozen=True)
class ColumnSource:
    """Columns beside content of the users, the items or the rows.

    Attributes:
        names: The columns.
        source: The table that lists users or items; None for columns of the interactions.
        key: The table's column of ids.
    """

    names: ColumnNames
    source: Source | None = None
    key: str = ""


@dataclass(frozen=True)
class ModalitySource:
    """Where one modality comes from.

    Attributes:
        source: its table; of arrays, the arrays. item: the column with the items' ids.
        encoding: of ENCODINGS. columns: those that are encoded.
        ids: of arrays, the table or files with the items' ids, or the id of the first row.
    """

    name: str
    source: Source
    item: str | None
    encoding: str
    columns: tuple[str, ...]
    width: int | None
    ids: Source | int | None

    @property
    def kind(self) -> str:
        return "bag" if self.encoding in ("text", "tokens") else "dense"


@dataclass(frozen=True)
class Description:
    """What one data set is, before any of its files is opened."""

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
    tracks: tuple[str, ...] = ()

    @property
    def targets(self) -> tuple[str, ...]:
        return tuple(self.rules)

    @property
    def tables(self) -> list[Source]:
        """Every source of files that it names."""
        ids = [one.ids for one in self.sources if isinstance(one.ids, Source)]
        listed = [one.source for one in self.columns.values() if one.source]
        return [self.interactions.source, *(one.source for one in self.sources), *ids, *listed]

    @property
    def places(self) -> list[Path]:
        """Each file that it names; of a pattern, the folder that its files lie in or below."""
        return [place for table in self.tables for place in table.places]

    @property
    def default_targets(self) -> tuple[str, ...]:
        return self.targets

    @property
    def modalities(self) -> tuple[Modality, ...]:
        """With no word on how long vectors are."""
        return tuple(Modality(one.name, one.width or DEFAULT_WIDTH, one.kind) for one in self.sources)


class SpecTable:
    """One table of a description, read key by key; what is wrong with it is gathered."""

    def __init__(self, content: Any, where: str, problems: list[str]) -> None:
        self.where, self.problems = where, problems
        self._known: list[str] = []
        if not isinstance(content, dict):
            self.wrong("must be a table of keys and values")
        self.content: dict[str, Any] = content if isinstance(content, dict) else {}

    def wrong(self, what: str) -> None:
        """Note a mistake."""
        self.problems.append(f"{self.where}: {what}")

    def get(self, key: str, kind: str, right: Callable[[Any], bool], *, needed: bool = False) -> Any:
        """The value of a key; None where it is not there or, told as a mistake, not what it must be."""
        self._known.append(key)
        if key not in self.content:
            if needed:
                unknown = [other for other in self.content if other not in KEYS]
                self.wrong(f"the key {key!r} is missing{nearest(key, unknown, 'to be it')}")
            return None
        value = self.content[key]
        if not right(value):
            self.wrong(f"{key} = {value!r}: must be {kind}")
            return None
        return value

    def text(self, key: str, *, needed: bool = False) -> str | None:
        found: str | None = self.get(key, "text in quotes", _is_text, needed=needed)
        return found

    def texts(self, key: str, *, needed: bool = False) -> tuple[str, ...]:
        """One text or a list of them."""
        value = self.get(key, "text in quotes, or a list of such", _are_texts, needed=needed)
        return (value,) if isinstance(value, str) else tuple(value or ())

    def number(self, key: str, least: int) -> int | None:
        what = f"a whole number from {least} on, at most {LARGEST_NUMBER}"
        found: int | None = self.get(key, what, lambda v: _is_whole(v) and least <= v <= LARGEST_NUMBER)
        return found

    def done(self, more: Iterable[str] = ()) -> None:
        """Note the keys that nobody has asked for."""
        known = (*self._known, *more)
        for key in self.content:
            if key not in known:
                self.wrong(str(unknown_name("key", key, known)))

    def source(self, files: tuple[str, ...], folder: Path) -> Source:
        format_ = self.text("format")
        if format_ is not None and format_ not in FORMATS:
            self.wrong(str(unknown_name("format", format_, FORMATS)))
        separator = self.text("separator")
        if separator is not None and len(separator.encode()) != 1:
            self.wrong(f"separator = {separator!r}: must be one character")
        return Source(self.where, folder, files, format_, separator, self.texts("columns"))


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


KEYS = {"folder", "min_interactions", "negatives", "interactions", "targets", "modalities", "files", "format"}
KEYS |= {"separator", "columns", "user", "item", "time", "device", "also", "outcomes", "width", "ids", *ENCODINGS}
KEYS |= {"categories", "numbers", "hour"}


def read_description(name: str, paths: Paths) -> tuple[Description | None, list[str]]:
    """The data set `name` of path.json, and every mistake in its description; None where there is one."""
    problems: list[str] = []
    try:
        content, where, folder = _find(name, paths)
    except UserError as error:
        return None, [str(error)]
    if not DATASET_NAME.fullmatch(name) or name.lower() in RESERVED_DATASETS:
        what = "is reserved" if name.lower() in RESERVED_DATASETS else "may have letters, digits, - and . only"
        problems.append(f"{paths.file}: datasets: the name {name!r} {what}; choose another")
    problems += _same_folder(f"{paths.file}: datasets", name, paths.described)
    top = SpecTable(content, where, problems)
    folder = folder / (top.text("folder") or ".")
    least, negatives = top.number("min_interactions", 1), top.number("negatives", 0)
    interactions = _interactions(
        SpecTable(content.get("interactions", {}), f"{where} [interactions]", problems), folder
    )
    rules = _rules(SpecTable(content.get("targets", {}), f"{where} [targets]", problems))
    tables = content.get("modalities", {})
    sources = []
    if isinstance(tables, dict):
        for key, table in tables.items():
            part = SpecTable(table, f"{where} [modalities.{key}]", problems)
            if not MODALITY_NAME.fullmatch(key) or RESERVED.fullmatch(key):
                part.wrong(f"{key!r} is no name for a modality; letters, digits, _ - and no word of the steps")
            problems += _same_folder(f"{where} [modalities]", key, tables)
            sources.append(_modality(key, part, folder))
    if not sources:
        top.wrong("needs a modality: a table such as [modalities.text]")
    columns, hour = _columns(content.get("columns", {}), where, problems, folder)
    if interactions:
        problems += _outcomes_as_inputs(columns, interactions, rules, where)
        if hour and interactions.time is None:
            problems.append(f"{where} [columns.context]: hour = true needs time in [interactions]")
    top.done(("interactions", "targets", "modalities", "columns"))
    if problems:
        return None, list(dict.fromkeys(problems))
    least = DEFAULT_MIN_INTERACTIONS if least is None else least
    assert interactions is not None
    found = Description(name, where, folder, interactions, rules, tuple(sources), least, negatives or 0, columns, hour)
    try:
        for place in found.places:
            paths.refuse_input(f"datasets.{name}", place)
    except UserError as error:
        return None, [str(error)]
    return found, []


def _same_folder(where: str, name: str, names: Iterable[str]) -> list[str]:
    """The mistake of two names that are one folder where the file system does not tell capital letters apart."""
    others = [other for other in names if other != name and other.lower() == name.lower()]
    return [f"{where}: {name!r} and {others[0]!r} differ only in capital letters; rename one"] if others else []


def _find(name: str, paths: Paths) -> tuple[dict[str, Any], str, Path]:
    """The content of a description, its place for messages, and the folder that it counts from."""
    given = paths.described[name]
    given = {"description": given} if isinstance(given, str) else given
    if not isinstance(given, dict):
        raise UserError(f"{paths.file}: datasets.{name} must name a TOML file, or hold a description")
    file = given.get("description")
    if file is None:
        return given, f"{paths.file} datasets.{name}", paths.file.parent
    if not _is_text(file):
        raise UserError(f"{paths.file}: datasets.{name}: description = {file!r}: must name a TOML file")
    ready = {path.stem: path for path in READY.glob("*.toml")}
    path = paths.file.parent / file
    if not file.endswith(".toml"):
        if file not in ready:
            raise UserError(f"{paths.file}: datasets.{name}: {unknown_name('ready description', file, sorted(ready))}")
        path = ready[file]
    own = {key: value for key, value in given.items() if key != "description"}
    # What stands in path.json counts from its folder, also beside a ready description, which has none.
    folder = path.parent
    if "folder" in own or path.parent == READY:
        folder = paths.file.parent
    return _read_toml(path, paths.file) | own, str(path), folder


def _read_toml(path: Path, named_by: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; it is named in {named_by}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML ({error})") from None


def _interactions(part: SpecTable, folder: Path) -> InteractionColumns | None:
    source = part.source(part.texts("files", needed=True), folder)
    user, item = part.text("user", needed=True), part.text("item", needed=True)
    time, device, also, outcomes = part.text("time"), part.text("device"), part.texts("also"), part.texts("outcomes")
    part.done()
    if source.format == "npy":
        part.wrong("format = 'npy': interactions are a table")
    return InteractionColumns(source, user, item, time, device, also, outcomes) if user and item else None


def _rules(part: SpecTable) -> dict[str, Rule]:
    rules = {}
    for target, value in part.content.items():
        if not NAME.fullmatch(target):
            part.wrong(f"{target!r} is no name for a target; letters, digits, _ - and . only")
        elif value is True:
            rules[target] = Rule(None)
        elif _is_text(value):
            try:
                rules[target] = parse_rule(value)
            except ValueError as error:
                part.wrong(f"{target}: {error}")
        else:
            part.wrong(f"{target} = {value!r}: must be a column, a rule such as 'rating >= 4', or true")
    if not part.content:
        part.wrong('needs a target, such as like = "rating >= 4"')
    return rules


def _modality(name: str, part: SpecTable, folder: Path) -> ModalitySource:
    given = [key for key in ENCODINGS if key in part.content]
    if len(given) != 1:
        unknown = [key for key in part.content if key not in KEYS]
        hint = "".join(nearest(key, unknown, "to be one") for key in ENCODINGS)
        what = f"has {' and '.join(given)}" if given else "has none"
        part.wrong(f"must have one of {', '.join(ENCODINGS)}, and {what}{hint}")
    encoding = given[0] if given else "vectors"
    width = part.number("width", 1)
    ids: Source | int | None = None
    columns: tuple[str, ...] = ()
    if encoding == "vectors":
        value = part.get("ids", "a file, a list of them, or the first row's id", _are_ids, needed=bool(given))
        item = part.text("item")
        source = Source(part.where, folder, part.texts("vectors"), "npy")
        names = (value,) if isinstance(value, str) else tuple(value) if isinstance(value, list) else ()
        ids = value if isinstance(value, int) else part.source(names, folder)
    else:
        columns = part.texts(encoding)
        item = part.text("item", needed=bool(given))
        source = part.source(part.texts("files", needed=bool(given)), folder)
    part.done(ENCODINGS)
    return ModalitySource(name, source, item, encoding, columns, width, ids)


def _columns(content: Any, where: str, problems: list[str], folder: Path) -> tuple[dict[str, ColumnSource], bool]:
    """The columns beside content by side, and whether the hour is one of them."""
    tables = SpecTable(content, f"{where} [columns]", problems)
    found: dict[str, ColumnSource] = {}
    hour = False
    for side in ("item", "user", "context"):
        if side not in tables.content:
            continue
        part = SpecTable(tables.content[side], f"{where} [columns.{side}]", problems)
        names = ColumnNames(part.texts("categories"), part.texts("numbers"))
        for name in names.names:
            if names.names.count(name) > 1:
                part.wrong(f"{name!r} is named twice; a column is a category or a number")
        source, key = None, ""
        if side == "context":
            hour = bool(part.get("hour", "true or false", lambda value: isinstance(value, bool)))
            if not names.names and not hour:
                part.wrong("needs categories, numbers or hour = true")
        else:
            key = part.text(side, needed=True) or ""
            source = part.source(part.texts("files", needed=True), folder)
            if not names.names:
                part.wrong("needs categories or numbers")
        part.done()
        found[side] = ColumnSource(names, source, key)
    tables.done(("item", "user", "context"))
    return found, hour


def _outcomes_as_inputs(
    columns: Mapping[str, ColumnSource], own: InteractionColumns, rules: Mapping[str, Rule], where: str
) -> list[str]:
    """The mistakes of context columns that are only known after the impression."""
    problems = []
    targets = {rule.column: target for target, rule in rules.items() if rule.column}
    for name in columns["context"].names.names if "context" in columns else ():
        if name in targets:
            problems.append(f"{where} [columns.context]: {name!r} decides the target {targets[name]}; remove it")
        elif any(fnmatchcase(name, pattern) for pattern in own.outcomes):
            problems.append(
                f"{where} [columns.context]: {name!r} is an outcome of the row, not known before; remove it"
            )
        elif name in (own.user, own.item, own.time):
            problems.append(f"{where} [columns.context]: {name!r} is the user, the item or the time; remove it")
    return problems


def _are_ids(value: Any) -> bool:
    return (_is_whole(value) and abs(value) < 2**62) or _are_texts(value)


def _are_texts(value: Any) -> bool:
    return _is_text(value) or (isinstance(value, list) and bool(value) and all(map(_is_text, value)))


def described(paths: Paths) -> dict[str, Description]:
    """The data sets of one's own; raises `UserError` with the first mistake, and how many more there are."""
    found = {}
    for name in paths.described:
        description, problems = read_description(name, paths)
        if description is None:
            more = f" (and {len(problems) - 1} more: python -m mma4ctr.datasets check {paths.file})"
            raise UserError(problems[0] + (more if len(problems) > 1 else ""))
        found[name] = description
    return found


def described_files(paths: Paths) -> list[Path]:
    """The raw files of all described data sets that are there."""
    found: list[Path] = []
    for description in described(paths).values():
        for table in description.tables:
            with suppress(UserError):  # they are not there
                found += table.files()
    return found
