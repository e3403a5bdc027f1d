"""Everything a person sees in the terminal: progress, notes, tables, the closing line and the error line.

No other module prints. A mistake of the user's (a wrong file, a wrong option) is a `UserError`: one line on
standard error and exit code 2. Anything else that goes wrong is a defect of ours and keeps its traceback.
"""

import argparse
import difflib
import errno
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import (
    BarColumn,
    Progress,
    ProgressColumn,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table

from mma4ctr.signals import Stopped, follow_parent, stopped_by_signals
from mma4ctr.system import peak_memory_mb

out = Console(highlight=False, soft_wrap=True)
err = Console(stderr=True, highlight=False, soft_wrap=True)


# Errors of the system that the person who runs the command can put right.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EROFS)
OCCUPIED = (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP)


class UserError(Exception):
    """Something the person who runs the command can put right; the message says how."""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """The error for a name that does not exist: the nearest one there is, and all of them."""
    there = list(known)
    return UserError(f"unknown {kind} {name!r}{nearest(name, there) or '.'} There are: {', '.join(there)}")


def nearest(name: str, there: Iterable[str], to_be: str = "") -> str:
    """`; is 'user' meant to be it?` for the nearest of the names there are; nothing where none is near."""
    near = difflib.get_close_matches(name, list(there), n=1)
    return f"; is {near[0]!r} meant{to_be and ' '}{to_be}?" if near else ""


def run(main: Callable[[], int | None]) -> None:
    """Call a script's `main` and leave with its exit code: 0, 2 for a `UserError`, 130 for Ctrl-C, 143 for SIGTERM,
    129 for SIGHUP."""
    with stopped_by_signals():
        try:
            follow_parent()
            code = _exit_code(main)
        except Stopped as stop:
            _tell_stopped(str(stop))
            code = stop.code
    sys.exit(code)


def _tell_stopped(why: str) -> None:
    err.print(f"[bold red]{why}:[/] nothing half-written is left as finished; run the command again")


def _exit_code(main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except UserError as error:
        tell_error(str(error))
    except KeyboardInterrupt:
        _tell_stopped("interrupted")
        return 130
    except BrokenProcessPool:
        err.print(
            "[bold red]error:[/] a worker process was killed, most likely for want of memory; close what else runs"
        )
    except OSError as error:
        if error.errno not in FULL and error.errno not in OCCUPIED:
            raise
        hint = "; something else stands where output goes, move it" if error.errno in OCCUPIED else ""
        err.print(f"[bold red]error:[/] {escape(str(error.filename or 'output'))}: {error.strerror}{hint}")
    return 2


def silence() -> None:
    """Print nothing any more: for the processes of a training that are not its first."""
    out.quiet = err.quiet = True


def note(message: str) -> None:
    """One plain line about what was read, chosen or skipped."""
    out.print(escape(message))


def warn(message: str) -> None:
    """One line on standard error about something that works but is probably not what was meant."""
    err.print(f"[yellow]warning:[/] {escape(message)}")


def tell_error(message: str) -> None:
    """One line on standard error about one mistake of several."""
    err.print(f"[bold red]error:[/] {escape(message)}")


def _columns(beside: str) -> tuple[ProgressColumn, ...]:
    """A bar's description, bar and share, the text `beside` it, and the time left."""
    return (
        TextColumn("{task.description}"),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn(beside),
        TimeRemainingColumn(elapsed_when_finished=True),
    )


@contextmanager
def progress(description: str, total: float | None, unit: str = "") -> Iterator[Callable[[float], None]]:
    """A progress bar for one loop; yields `advance(amount)`. Silent where the output is not a terminal."""
    with Progress(*_columns(unit), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(escape(description), total=total)
        yield lambda amount: bar.advance(task, amount)


class RunsDisplay:
    """Many runs at once: a bar for all of them and one for each that is at work, with its epoch and validation AUC.

    Where the output is no terminal, finished runs are lines instead.
    """

    def __init__(self, total: float) -> None:
        self._bars = Progress(*_columns("{task.fields[shown]}"), console=err, disable=not err.is_terminal)
        self._all = self._bars.add_task("all runs", total=total, shown="")
        self._one: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, name: str, epoch: int, epochs: int, shown: str) -> None:
        """Tell how far a run is."""
        if name not in self._one:
            self._one[name] = self._bars.add_task(escape(name), total=epochs, shown="")
        self._bars.update(self._one[name], completed=epoch, shown=shown)

    def finish(self, name: str, amount: float, line: str) -> None:
        """A run is done; `amount` of the total."""
        if name in self._one:
            self._bars.remove_task(self._one.pop(name))
        self._bars.advance(self._all, amount)
        if not err.is_terminal:
            note(line)


class Stopwatch:
    """Wall-clock seconds since it was made."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._start


def closing_line(step: int, written: str, rows: int, watch: Stopwatch, unit: str = "rows") -> None:
    """The one line every step ends with: what was written, how much, seconds, peak memory."""
    out.print(
        f"[bold green]Step {step} of 8:[/] wrote {escape(written)}, {rows:,} {unit}, "
        f"{watch.seconds:.1f} s, peak memory {peak_memory_mb():,.0f} MB"
    )


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in the terminal; the first two columns to the left, numbers to the right.

    The table keeps its full width where the output is not a terminal, so that nothing is cut in a log.
    """
    table = Table(title=title, title_justify="left")
    for position, name in enumerate(header):
        table.add_column(name, justify="left" if position < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(escape(cell) for cell in row))
    wide = Console(highlight=False, width=None if out.is_terminal else 200)
    wide.print(table)


def parser(description: str | None, *, paths: bool = True) -> argparse.ArgumentParser:
    """An argument parser whose `--help` shows the script's docstring and every default, with `--paths`."""

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Docstring as written, defaults appended."""

    made = argparse.ArgumentParser(description=description, formatter_class=Formatter)
    if paths:
        made.add_argument("--paths", default="path.json", metavar="FILE", help="the path.json to use")
    return made


def whole_number(at_least: int) -> Callable[[str], int]:
    """An argparse type: a whole number not below `at_least`."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number") from None
        if value < at_least:
            raise argparse.ArgumentTypeError(f"{value} is below {at_least}")
        return value

    return convert


def positive_number(text: str) -> float:
    """An argparse type: a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value
