"""The columns of a description: those of the interactions, and those beside content of items, users and context."""

from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from mma4ctr.datasets.base import ColumnNames
from mma4ctr.datasets.columns import Rule
from mma4ctr.datasets.spec_table import SpecTable
from mma4ctr.datasets.table_readers import Source

# Context columns that `hour = true` makes of the time, with the number of their values.
OF_TIME = {"hour": 24, "weekday": 7}


@dataclass(frozen=True)
class InteractionColumns:
    """The interaction files and the names of their columns.

    Attributes:
        source: the files.
        user: column of user ids.
        item: column of item ids.
        time: column of times; None: the rows are in time order.
        device: column of devices, if any.
        also: columns that distinguish otherwise equal rows.
        outcomes: names or patterns of columns that are known only after the impression.
        history: column that lists items which the user chose before the row, if any.
        history_separator: between the items of a cell of text; None: spaces.
    """

    source: Source
    user: str
    item: str
    time: str | None
    device: str | None
    also: tuple[str, ...]
    outcomes: tuple[str, ...] = ()
    history: str | None = None
    history_separator: str | None = None


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


def column_sources(content: Any, where: str, mistakes: list[str], folder: Path) -> tuple[dict[str, ColumnSource], bool]:
    """Read the tables `[columns.item]`, `[columns.user]` and `[columns.context]`.

    Args:
        content: The table `columns`.
        where: The description, for messages.
        mistakes: Messages are appended here.
        folder: Where files are looked up.

    Returns:
        The columns by side, and whether the hour is one of the context columns.
    """
    tables = SpecTable(content, f"{where} [columns]", mistakes)
    found: dict[str, ColumnSource] = {}
    hour = False
    for side in ("item", "user", "context"):
        if side not in tables.content:
            continue
        part = SpecTable(tables.content[side], f"{where} [columns.{side}]", mistakes)
        names = ColumnNames(part.texts("categories"), part.texts("numbers"))
        for name in names.names:
            if names.names.count(name) > 1:
                part.add_mistake(f"{name!r} is named twice; a column is a category or a number")
        for name in names.categories:
            number, _, bins = name.rpartition("/")
            if number in names.numbers and bins.isdecimal():
                part.add_mistake(f"{name!r} is what features plus call the bins of {number!r}; rename the column")
        source, key = None, ""
        if side == "context":
            hour = bool(part.get("hour", "true or false", lambda value: isinstance(value, bool)))
            if not names.names and not hour:
                part.add_mistake("needs categories, numbers or hour = true")
        else:
            key = part.text(side, required=True) or ""
            source = part.source(part.texts("files", required=True), folder)
            if not names.names:
                part.add_mistake("needs categories or numbers")
        part.check_unknown()
        found[side] = ColumnSource(names, source, key)
    tables.check_unknown(("item", "user", "context"))
    return found, hour


def column_mistakes(
    columns: Mapping[str, ColumnSource], hour: bool, own: InteractionColumns, rules: Mapping[str, Rule], where: str
) -> list[str]:
    """Messages about columns that are not known before the user acts, and about names that mean two things."""
    return _role_mistakes(own, rules, where) + _context_mistakes(columns, hour, own, rules, where)


def _context_mistakes(
    columns: Mapping[str, ColumnSource], hour: bool, own: InteractionColumns, rules: Mapping[str, Rule], where: str
) -> list[str]:
    """Messages about context columns that are not known before the user acts, and about names that mean two things."""
    mistakes = []
    if hour and own.time is None:
        mistakes.append(f"{where} [columns.context]: hour = true needs time in [interactions]")
    targets = {rule.column: target for target, rule in rules.items() if rule.column}
    for name in columns["context"].names.names if "context" in columns else ():
        if name in targets:
            mistakes.append(f"{where} [columns.context]: {name!r} decides the target {targets[name]}; remove it")
        elif any(fnmatchcase(name, pattern) for pattern in own.outcomes):
            mistakes.append(
                f"{where} [columns.context]: {name!r} is an outcome of the row, not known before; remove it"
            )
        elif name == own.history:
            mistakes.append(f"{where} [columns.context]: {name!r} is the history of the row; remove it")
        elif name in (own.user, own.item, own.time):
            mistakes.append(f"{where} [columns.context]: {name!r} is the user, the item or the time; remove it")
        elif name in ("user", "item"):
            # --predict reads user, item and the context columns from one table.
            mistakes.append(f"{where} [columns.context]: {name!r} is what --predict calls its ids; rename the column")
        elif hour and name in OF_TIME:
            mistakes.append(
                f"{where} [columns.context]: hour = true makes a column {name!r} of the time; remove one of the two"
            )
    return mistakes


def _role_mistakes(own: InteractionColumns, rules: Mapping[str, Rule], where: str) -> list[str]:
    """Messages about a column of histories or devices that is not known before the user acts."""
    mistakes = []
    deciding = {rule.column for rule in rules.values()}
    for key, name in (("history", own.history), ("device", own.device)):
        if name and name in deciding:
            mistakes.append(f"{where} [interactions]: {key} = {name!r}: decides a target; remove it")
        elif name and any(fnmatchcase(name, pattern) for pattern in own.outcomes):
            mistakes.append(f"{where} [interactions]: {key} = {name!r}: is an outcome of the row; remove it")
    return mistakes
