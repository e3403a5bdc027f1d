"""Bad lines of raw files: how they are found, how many may be skipped, and how they are reported."""

import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from mma4ctr.runtime.console import note, warn
from mma4ctr.runtime.errors import BadLine, UserError


def good_ranges(
    first: int, last: int, parse: Callable[[int, int], object], report: Callable[[int, BadLine], None]
) -> Iterator[tuple[int, int]]:
    """Find the bad rows of a failing block by bisection and yield the ranges that parse, in order.

    The slow path has no grammar of its own, so it cannot disagree with the fast one.

    Args:
        first: the first row of the range.
        last: the row after the last.
        parse: parses the rows from a first to before a last; raises `BadLine`.
        report: called with each bad row and its error.

    Yields:
        (first row, row after the last) of each good range.
    """
    try:
        parse(first, last)
    except BadLine as error:
        if last - first == 1:
            report(first, error)
            return
        middle = (first + last) // 2
        yield from good_ranges(first, middle, parse, report)
        yield from good_ranges(middle, last, parse, report)
    else:
        yield first, last


@dataclass
class BadLines:
    """The bad lines found so far, each counted once even if a file is read several times.

    Attributes:
        allowed: bad lines that may be skipped.
        option: the command's option to skip more; empty if it has none.
        kinds: number of bad lines by reason, with values replaced by an ellipsis.
        first: messages of the first ten.
        seen: (file, line number) of each.
        empty: files without rows.
    """

    allowed: int = 0
    option: str = "--skip-bad-lines N"
    kinds: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    seen: set[tuple[Path, int]] = field(default_factory=set)
    empty: set[Path] = field(default_factory=set)

    def skip_empty(self, path: Path) -> None:
        """Report once that a file has no rows; distributed jobs write such parts."""
        if path not in self.empty:
            self.empty.add(path)
            note(f"{path}: has no rows, skipped")

    def add(self, path: Path, line: int, reason: str) -> None:
        """Record one bad line; raises `UserError` if there are now more than allowed."""
        if (path, line) in self.seen:
            return
        self.seen.add((path, line))
        kind = re.sub(r"'[^']*'|-?\d[\d.eE+-]*", "…", reason)
        self.kinds[kind] += 1
        text = f"{path}:{line}: {reason}"
        if len(self.first) < 10:
            self.first.append(text)
        if len(self.seen) > self.allowed:
            advice = "correct or remove the line"
            advice += f", or skip such lines with {self.option}" if self.option else ""
            more = f" ({len(self.seen)} bad lines, {self.allowed} allowed)" if self.allowed else ""
            raise UserError(f"{text}; {advice}{more}")

    def report(self) -> None:
        """Warn about the skipped lines: counts by reason, and the first ten with their line numbers."""
        for kind, count in self.kinds.most_common():
            warn(f"skipped {count:,} bad line{'s' if count > 1 else ''}: {kind}")
        for text in self.first:
            warn(f"  {text}")
