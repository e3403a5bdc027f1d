"""Everything a person sees in the terminal: progress, notes, tables, the closing line and the error line.

No other module prints. A mistake of the user's (a wrong file, a wrong option) is a `UserError`: one line on
standard error and exit code 2. Anything else that goes wrong is a defect of ours and keeps its traceback.

Text is shown as it is: names of files and values of the data are never read as markup or emoji, and their control
characters are written out, so that nothing in them can steer the terminal.
"""

import argparse
import difflib
import errno
import os
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager, suppress
from typing import IO, Any, NoReturn, Self

from rich.console import Console
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
from rich.text import Text

from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.signals import Stopped, follow_parent, stopped_by_signals
from mma4ctr.runtime.system import peak_memory_mb

# Control characters, halves of surrogate pairs (bytes of a path that are not UTF-8), line separators, and the signs
# that turn the direction of writing round.
_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def shown(text: str) -> str:
    """Text of any origin on one line: what a terminal would obey and not show is written as `\\x1b` or `\\n` is."""
    return _UNSEEN.sub(lambda found: ascii(found[0])[1:-1], text)


class _Output(Console):
    """A console that takes text as it is. Where its reader goes away (`| head`) the work goes on in silence."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _discard(self.file)


def _discard(stream: IO[str]) -> None:
    """Send to nowhere what a stream still holds and what is written to it from now on."""
    with suppress(OSError, ValueError):
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


out = _Output()
err = _Output(stderr=True)

# Errors of the system that the person who runs the command can put right, and how.
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
HINTS = {
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
        "something else stands where output goes, move it",
    ),
    errno.ENAMETOOLONG: "take a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close what else runs",
    errno.ENOMEM: "close what else runs",
}
NO_MEMORY = "not enough memory; close what else runs, or take a smaller input"


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
    129 for SIGHUP.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # where it is ASCII, other letters are written as \xe4 is
            stream.reconfigure(errors="backslashreplace")
    with stopped_by_signals():
        try:
            follow_parent()
            code = _exit_code(main)
        except Stopped as stop:
            _tell_stopped(str(stop))
            code = stop.code
    sys.exit(_flushed(code))


def _tell_stopped(why: str) -> None:
    _tell(err, why, "bold red", "nothing half-written is left as finished; run the command again")


def _exit_code(main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except UserError as error:
        print_error(str(error))
    except KeyboardInterrupt:
        _tell_stopped("interrupted")
        return 130
    except SystemExit as end:  # argparse's
        return end.code if isinstance(end.code, int) else 2 if end.code else 0
    except BrokenProcessPool:
        print_error("a worker process was killed, most likely for want of memory; close what else runs")
    except MemoryError:
        print_error(NO_MEMORY)
    except RuntimeError as error:  # torch has no type of its own for it
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        print_error(NO_MEMORY)
    except OSError as error:
        if error.errno not in FULL and error.errno not in HINTS:
            raise
        hint = HINTS.get(error.errno, "")
        print_error(f"{error.filename or 'output'}: {error.strerror}{hint and '; '}{hint}")
    return 2


def _flushed(code: int) -> int:
    """Bring out what standard output still holds, which at the end of the process could only fail loudly."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        if not isinstance(error, BrokenPipeError):
            print_error(f"standard output: {error.strerror}")
            return code or 2
    return code


def silence() -> None:
    """Print nothing any more: for the processes of a training that are not its first."""
    out.quiet = err.quiet = True


def _tell(where: Console, start: str, style: str, message: str) -> None:
    where.print(Text.assemble((f"{start}:", style), " ", shown(message)))


def note(message: str) -> None:
    """One plain line about what was read, chosen or skipped."""
    out.print(Text(shown(message)))


def warn(message: str, *details: str) -> None:
    """One line on standard error about something that works but is probably not what was meant; `details` are lines
    below it.
    """
    _tell(err, "warning", "yellow", message)
    for line in details:
        err.print(Text(shown(line)))


def print_error(message: str) -> None:
    """One line on standard error about one mistake of several."""
    _tell(err, "error", "bold red", message)


def _columns(beside: str) -> tuple[ProgressColumn, ...]:
    """A bar's description, bar and share, the text `beside` it, and the time left."""
    return (
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=30),
        TaskProgressColumn(),
        TextColumn(beside, markup=False),
        TimeRemainingColumn(elapsed_when_finished=True),
    )


@contextmanager
def progress(description: str, total: float | None, unit: str = "") -> Iterator[Callable[[float], None]]:
    """A progress bar for one loop; yields `advance(amount)`. Silent where the output is not a terminal."""
    with Progress(*_columns(unit), console=err, transient=True, disable=not err.is_terminal) as bar:
        task = bar.add_task(shown(description), total=total)
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

    def update(self, name: str, epoch: int, epochs: int, state: str) -> None:
        """Tell how far a run is."""
        if name not in self._one:
            self._one[name] = self._bars.add_task(shown(name), total=epochs, shown="")
        self._bars.update(self._one[name], completed=epoch, shown=shown(state))

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
    end = f"wrote {written}, {rows:,} {unit}, {watch.seconds:.1f} s, peak memory {peak_memory_mb():,.0f} MB"
    _tell(out, f"Step {step} of 8", "bold green", end)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """A table in the terminal; the first two columns to the left, numbers to the right.

    The table keeps its full width where the output is not a terminal, so that nothing is cut in a log.
    """
    table = Table()
    for position, name in enumerate(header):
        table.add_column(Text(shown(name)), justify="left" if position < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    out.print(Text(shown(title), style="italic"))
    if out.is_terminal:
        out.print(table)
    else:
        _Output(file=out.file, width=out.measure(table, options=out.options.update(max_width=1 << 20)).maximum).print(
            table
        )


class _Parser(argparse.ArgumentParser):
    """Shows what it quotes of the command line as everything else is shown."""

    def error(self, message: str) -> NoReturn:
        super().error(shown(message))


def parser(description: str | None, *, paths: bool = True) -> argparse.ArgumentParser:
    """An argument parser whose `--help` shows the script's docstring and every default, with `--paths`."""

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Docstring as written, defaults appended."""

    made = _Parser(description=description, formatter_class=Formatter)
    if paths:
        made.add_argument("--paths", default="path.json", metavar="FILE", help="the path.json to use")
    return made


# What the libraries take for a seed: UMAP's generator has 32 bits.
LARGEST_SEED = 2**32 - 1
# Of anything that is counted: more rows, epochs or columns than there will be, and no overflow in what follows.
LARGEST_NUMBER = 10**9


def whole_number(at_least: int, at_most: int = LARGEST_NUMBER) -> Callable[[str], int]:
    """An argparse type: a whole number from `at_least` to `at_most`."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"\s*[-+]?[0-9]+\s*", text):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number")
        # Python refuses numbers of thousands of digits; with so many this one is too large in any case.
        value = int(text) if len(text) < 100 else (-1 if "-" in text else 1) * 10**100
        if value < at_least:
            raise argparse.ArgumentTypeError(f"{text.strip()[:40]} is below {at_least}")
        if value > at_most:
            raise argparse.ArgumentTypeError(f"{text.strip()[:40]} is above {at_most}")
        return value

    return convert


def seed_number(text: str) -> int:
    """An argparse type: a seed that every library takes."""
    return whole_number(0, LARGEST_SEED)(text)


def positive_number(text: str) -> float:
    """An argparse type: a finite number above zero."""
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value
