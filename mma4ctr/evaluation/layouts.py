"""A table with its best values marked, as Markdown and CSV."""

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mma4ctr.storage.files import write_own_file


@dataclass(frozen=True)
class Layout:
    """A table to show.

    Attributes:
        caption: What the table shows, under which protocol.
        header: Names of the columns.
        rows: Cells as (text, whether it is the best of its column).
    """

    caption: str
    header: list[str]
    rows: list[list[tuple[str, bool]]]

    @property
    def texts(self) -> list[list[str]]:
        """The cells of every row without their marks."""
        return [[text for text, _ in row] for row in self.rows]


def markdown_table(shown: Layout) -> str:
    """The table as Markdown, without its caption."""
    text = ["| " + " | ".join(shown.header) + " |"]
    text.append("| --- |" + " ---: |" * (len(shown.header) - 1))
    text += ["| " + " | ".join(f"**{cell}**" if best else cell for cell, best in row) + " |" for row in shown.rows]
    return "\n".join(text) + "\n"


def to_markdown(shown: Layout) -> str:
    """The table as Markdown, its caption above it."""
    return f"{shown.caption}\n\n{markdown_table(shown)}"


def to_csv(rows: Iterable[Sequence[object]]) -> bytes:
    """Rows as CSV text in UTF-8."""
    out = io.StringIO()
    csv.writer(out, lineterminator="\n").writerows(rows)
    return out.getvalue().encode()


def write_layout(path: Path, title: str, shown: Layout) -> None:
    """Write a table as `<path>.md` and `<path>.csv`."""
    # The name can contain dots, as that of the data set microvideo-1.7m-x1 does.
    write_own_file(path.with_name(f"{path.name}.md"), f"# {title}\n\n{to_markdown(shown)}".encode())
    write_own_file(path.with_name(f"{path.name}.csv"), to_csv([shown.header, *shown.texts]))
