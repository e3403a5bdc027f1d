"""The role of each column of the interactions, and the function that reads it."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import pyarrow.compute as pc

from mma4ctr.datasets.arrow import Column
from mma4ctr.datasets.columns import Ids, Tokens, devices_of, ids_of, tokens_of
from mma4ctr.datasets.hashing import hash_values
from mma4ctr.datasets.log_columns import amounts_of, categories_of
from mma4ctr.datasets.times import TimeForm, time_of
from mma4ctr.datasets.toml_spec import Description
from mma4ctr.runtime.errors import BadLine

# Characters that an id in a .inter file cannot contain.
NO_NAME = r'[\x00\t\n\r"]'


@dataclass(frozen=True)
class Role:
    """The role of one column of the interactions.

    Attributes:
        kind: user, item, device, time, part, target, category, number, history or also.
        name: name of the target or of another column; else the kind.
        column: name of the column.
        read: converts the column to its values; raises `BadLine`.
    """

    kind: str
    name: str
    column: str
    read: Callable[[Column], Any]


def columns_of(description: Description) -> list[str]:
    """Return the names of the columns that are read."""
    own = description.interactions
    rules = (rule.column for rule in description.rules.values())
    context = description.columns["context"].names.names if "context" in description.columns else ()
    names = (
        own.user,
        own.item,
        own.time,
        own.device,
        *rules,
        *own.also,
        *context,
        description.part_column,
        own.history,
    )
    return [*dict.fromkeys(name for name in names if name)]


def roles_of(description: Description, form: TimeForm | None) -> tuple[Role, ...]:
    """Return the roles of all columns; step 1 and the check use the same ones.

    Args:
        description: the data set.
        form: how times are written; None: the time column is left out.
    """
    own, rules = description.interactions, description.rules
    roles = [
        Role("user", "user", own.user, _reading(_named_ids, own.user)),
        Role("item", "item", own.item, _reading(_named_ids, own.item)),
    ]
    if own.device:
        roles.append(Role("device", "device", own.device, _reading(devices_of, own.device)))
    if own.time and form:
        roles.append(Role("time", "time", own.time, _reading(time_of, own.time, form)))
    if description.split and description.part_column:
        roles.append(Role("part", "part", description.part_column, description.split.part_codes))
    roles += [Role("target", target, rule.column, rule.label) for target, rule in rules.items() if rule.column]
    if "context" in description.columns:
        names = description.columns["context"].names
        roles += [Role("category", name, name, _reading(categories_of, name)) for name in names.categories]
        roles += [Role("number", name, name, _reading(amounts_of, name)) for name in names.numbers]
    if own.history:
        roles.append(
            Role("history", "history", own.history, partial(_listed_items, own.history, own.history_separator))
        )
    used = (own.user, own.item, own.time, own.device, description.part_column, own.history)
    others = [name for name in columns_of(description) if name not in used]
    return (*roles, *(Role("also", name, name, _reading(hash_values, name)) for name in others))


def _named_ids(column: Column, name: str) -> Ids:
    """Read the ids of users or items; raises `BadLine` for text that .inter files cannot contain."""
    ids = ids_of(column, name)
    if not len(ids.named):
        return ids
    broken = ids.text.filter(pc.match_substring_regex(ids.text, NO_NAME))
    if len(broken):
        raise BadLine(
            f"column {name}: the id {broken[0].as_py()!r} contains a tab, a quote, a line break or a zero byte, "
            "which .inter files cannot represent; rename it"
        )
    return ids


def _listed_items(name: str, separator: str | None, column: Column) -> Tokens:
    """Read the items of histories."""
    return tokens_of(column, name, words=False, separator=separator)


def _reading(reader: Callable[..., Any], name: str, *arguments: Any) -> Callable[[Column], Any]:
    return lambda column: reader(column, name, *arguments)
