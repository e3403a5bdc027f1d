"""Bad lines of raw files: how many may be skipped, and what is reported about them."""

import re
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from mma4ctr.runtime.console import note, warn
from mma4ctr.runtime.errors import UserError


@dataclass
class BadLines:
    """How many bad lines may be passed over, and those met so far, each once however often a file is read.

    `option` is what lets more pass, where the command has such an option.
    """

    allowed: int = 0
    option: str = "--skip-bad-lines N"
    kinds: Counter[str] = field(default_factory=Counter)
    first: list[str] = field(default_factory=list)
    seen: set[tuple[Path, int]] = field(default_factory=set)
    empty: set[Path] = field(default_factory=set)

    def pass_over_empty(self, path: Path) -> None:
        """Note, once, a file that holds no rows, as jobs leave them among the parts of their output."""
        if path not in self.empty:
            self.empty.add(path)
            note(f"{path}: holds no rows")

    def add(self, path: Path, line: int, reason: str) -> None:
        """Note one bad line; raises `UserError` when there are more than allowed."""
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
            advice += f", or pass over such lines with {self.option}" if self.option else ""
            more = f" ({len(self.seen)} bad lines, {self.allowed} allowed)" if self.allowed else ""
            raise UserError(f"{text}; {advice}{more}")

    def report(self) -> None:
        """Warn about what was passed over: counts by kind, the first ten with their line numbers."""
        for kind, count in self.kinds.most_common():
            warn(f"passed over {count:,} bad line{'s' if count > 1 else ''}: {kind}")
        for text in self.first:
            warn(f"  {text}")
