"""One table of a description, read key by key, with all its mistakes recorded."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from mma4ctr.datasets.table_readers import FORMATS, Source
from mma4ctr.runtime.console import LARGEST_NUMBER, misspelled, unknown_name

ENCODINGS = ("text", "tokens", "vector", "vectors")
# All keys of a description; others may be misspelled.
KEYS = {"folder", "min_interactions", "negatives", "interactions", "targets", "modalities", "files", "format"}
KEYS |= {
    "separator",
    "columns",
    "user",
    "item",
    "time",
    "device",
    "also",
    "outcomes",
    "history",
    "width",
    "ids",
    *ENCODINGS,
}
KEYS |= {
    "categories",
    "numbers",
    "hour",
    "split",
    "train",
    "valid",
    "test",
    "column",
    "id",
    "submission",
    "token_separator",
}


class SpecTable:
    """One table of a description, read key by key.

    Args:
        content: the parsed table.
        where: the file and table, for messages.
        mistakes: the list to which messages about mistakes are added.
    """

    def __init__(self, content: Any, where: str, mistakes: list[str]) -> None:
        self.where, self.mistakes = where, mistakes
        self._known: list[str] = []
        if not isinstance(content, dict):
            self.add_mistake("must be a table of keys and values")
        self.content: dict[str, Any] = content if isinstance(content, dict) else {}

    def add_mistake(self, message: str) -> None:
        """Record a mistake."""
        self.mistakes.append(f"{self.where}: {message}")

    def get(self, key: str, kind: str, is_valid: Callable[[Any], bool], *, required: bool = False) -> Any:
        """Return the value of a key, or None if it is missing or, recorded as a mistake, invalid."""
        self._known.append(key)
        if key not in self.content:
            if required:
                unknown = [other for other in self.content if other not in KEYS]
                self.add_mistake(f"the key {key!r} is missing{misspelled(key, unknown) or '; add it'}")
            return None
        value = self.content[key]
        if not is_valid(value):
            self.add_mistake(f"{key} = {value!r}: must be {kind}")
            return None
        return value

    def text(self, key: str, *, required: bool = False) -> str | None:
        """Return a text, or None; see `get`."""
        found: str | None = self.get(key, "text in quotes", is_text, required=required)
        return found

    def texts(self, key: str, *, required: bool = False) -> tuple[str, ...]:
        """Return one text or a list of texts as a tuple, empty if it is missing or invalid."""
        value = self.get(key, "text in quotes, or a list of texts", are_texts, required=required)
        return (value,) if isinstance(value, str) else tuple(value or ())

    def number(self, key: str, minimum: int) -> int | None:
        """Return a whole number of at least `minimum`, or None; see `get`."""
        kind = f"a whole number from {minimum} to {LARGEST_NUMBER}"
        found: int | None = self.get(key, kind, lambda v: is_whole(v) and minimum <= v <= LARGEST_NUMBER)
        return found

    def check_unknown(self, more: Iterable[str] = ()) -> None:
        """Record each key that was not read and is not in `more` as a mistake."""
        known = (*self._known, *more)
        for key in self.content:
            if key not in known:
                self.add_mistake(str(unknown_name("key", key, known)))

    def source(self, files: tuple[str, ...], folder: Path) -> Source:
        """Read the keys on the format of some files."""
        format_ = self.text("format")
        if format_ is not None and format_ not in FORMATS:
            self.add_mistake(str(unknown_name("format", format_, FORMATS)))
        separator = self.get("separator", "one ASCII character, no quote and no line break", is_separator)
        return Source(self.where, folder, files, format_, separator, self.texts("columns"))


def is_separator(value: Any) -> bool:
    """Return whether a value can separate cells."""
    return isinstance(value, str) and len(value.encode()) == 1 and value not in '"\r\n\0'


def is_text(value: Any) -> bool:
    """Return whether a value is text that is not blank."""
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)


def are_texts(value: Any) -> bool:
    """Return whether a value is a text or a list of texts."""
    return is_text(value) or (isinstance(value, list) and bool(value) and all(map(is_text, value)))
