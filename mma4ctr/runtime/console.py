"""All terminal output: progress bars, notes, tables, warnings and errors.

No other module prints. A user's mistake (a wrong file, a wrong option) is a `UserError`: one line on standard error
and exit code 2. Any other exception is a bug and keeps its traceback.

File names and data values are printed literally: they are never parsed as markup or emoji, and their control
characters are escaped, so they cannot change the state of the terminal.
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
from threading import RLock
from typing import IO, Any, NoReturn, Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TaskProgressColumn,
    TextColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text
from tqdm import tqdm

from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.signals import Stopped, follow_parent, stopped_by_signals
from mma4ctr.runtime.system import peak_memory_mb

# Control characters, lone surrogates (bytes of a path that are not UTF-8), line separators, and characters that
# change the writing direction.
_CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def printable(text: str) -> str:
    """Return the text on one line, with control characters as Python escapes (ESC becomes a backslash and `x1b`)."""
    return _CONTROL.sub(lambda found: ascii(found[0])[1:-1], text)


class _Output(Console):
    """A console that prints text literally, and falls silent when its reader goes away (`| head`)."""

    def __init__(self, **options: Any) -> None:
        super().__init__(highlight=False, soft_wrap=True, markup=False, emoji=False, **options)

    def on_broken_pipe(self) -> None:
        self.quiet = True
        _discard(self.file)


def _discard(stream: IO[str]) -> None:
    """Redirect a stream, including its buffered text, to the null device."""
    with suppress(OSError, ValueError):
        null_device = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null_device, stream.fileno())
        os.close(null_device)


out = _Output()
err = _Output(stderr=True)

# tqdm's own lock is shared by processes and starts a resource tracker; its monitor thread only redraws slow bars.
tqdm.set_lock(RLock())
tqdm.monitor_interval = 0

# System errors that the user can fix; those in HINTS are printed with advice.
FIXABLE = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EACCES, errno.EPERM, errno.EROFS, errno.EIO)
HINTS = {
    **dict.fromkeys(
        (errno.EEXIST, errno.ENOTDIR, errno.EISDIR, errno.ELOOP),
        "another file or folder is in the place of the output; move it",
    ),
    **dict.fromkeys(
        (errno.EBUSY, errno.EXDEV), "the output cannot be replaced there; name another folder in path.json"
    ),
    errno.ENAMETOOLONG: "use a shorter name",
    errno.EMFILE: "allow more open files (ulimit -n)",
    errno.ENFILE: "close other programs",
    errno.ENOMEM: "close other programs",
}
NO_MEMORY = "not enough memory; close other programs, or use a smaller input"


def closest_name(name: str, candidates: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the candidate spelled most like `name`, or None if the similarity of all is below `cutoff` (0 to 1)."""
    return next(iter(difflib.get_close_matches(name, list(candidates), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Return the hint `; did you mean 'user'?` for the closest candidate, or an empty text."""
    closest = closest_name(name, candidates)
    return f"; did you mean {closest!r}?" if closest else ""


def misspelled(key: str, unknown: Iterable[str]) -> str:
    """Return a hint that an unknown key looks like the missing key, or an empty text."""
    closest = closest_name(key, unknown)
    return f"; is {closest!r} a misspelling of it?" if closest else ""


def unknown_name(kind: str, name: str, known: Iterable[str]) -> UserError:
    """Return the error for an unknown name, with the closest known name and the list of all."""
    names = list(known)
    return UserError(f"unknown {kind} {name!r}{did_you_mean(name, names) or '.'} Known: {', '.join(names)}")


def run(main: Callable[[], int | None]) -> None:
    """Call a script's `main` and exit with its code.

    Exit codes: 0 success, 2 `UserError`, 130 Ctrl-C, 143 SIGTERM, 129 SIGHUP.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # an ASCII stream prints other letters as \xe4 instead of failing
            stream.reconfigure(errors="backslashreplace")
    with stopped_by_signals():
        try:
            follow_parent()
            code = _exit_code(main)
        except Stopped as stop:
            _print_stopped(str(stop))
            code = stop.code
    sys.exit(_flush_output(code))


def _print_stopped(reason: str) -> None:
    _print_labelled(err, reason, "bold red", "unfinished output was discarded; run the command again")


def _exit_code(main: Callable[[], int | None]) -> int:
    try:
        return main() or 0
    except UserError as error:
        print_error(str(error))
    except KeyboardInterrupt:
        _print_stopped("interrupted")
        return 130
    except SystemExit as end:  # argparse's
        return end.code if isinstance(end.code, int) else 2 if end.code else 0
    except BrokenProcessPool:
        print_error("a worker process was killed, probably for lack of memory; close other programs")
    except MemoryError:
        print_error(NO_MEMORY)
    except RuntimeError as error:  # torch has no type of its own for it
        if "can't allocate memory" not in str(error) and "out of memory" not in str(error):
            raise
        print_error(NO_MEMORY)
    except OSError as error:
        if error.errno not in FIXABLE and error.errno not in HINTS:
            raise
        hint = HINTS.get(error.errno, "")
        print_error(f"{error.filename or 'output'}: {error.strerror}{hint and '; '}{hint}")
    return 2


def _flush_output(code: int) -> int:
    """Flush standard output while errors can still be reported, and return the exit code."""
    try:
        if sys.stdout is not None:
            sys.stdout.flush()
    except OSError as error:
        _discard(sys.stdout)
        # With a code, `main` has failed and said why, perhaps because of the same full disk.
        if not code and not isinstance(error, BrokenPipeError):
            print_error(f"standard output: {error.strerror}")
            return 2
    return code


def silence() -> None:
    """Print nothing from now on, for all but the first process of a distributed training."""
    out.quiet = err.quiet = True


def _print(console: Console, content: Any) -> None:
    """Print above the progress bar, if one is shown."""
    with tqdm.external_write_mode(file=console.file):
        console.print(content)


def _print_labelled(console: Console, label: str, style: str, message: str) -> None:
    _print(console, Text.assemble((f"{label}:", style), " ", printable(message)))


def note(message: str) -> None:
    """Print one plain line about what was read, chosen or skipped."""
    _print(out, Text(printable(message)))


def warn(message: str, *details: str) -> None:
    """Print a warning on standard error, followed by one line per detail.

    A warning is for something that works but is probably not intended.
    """
    _print_labelled(err, "warning", "yellow", message)
    for line in details:
        _print(err, Text(printable(line)))


def print_error(message: str) -> None:
    """Print one error line on standard error."""
    _print_labelled(err, "error", "bold red", message)


@contextmanager
def progress(description: str, total: float) -> Iterator[Callable[[float], None]]:
    """Show a progress bar for one loop, on standard error if that is a terminal.

    Args:
        description: What the loop does.
        total: The sum of all amounts.

    Yields:
        `advance(amount)`, which the loop calls as it proceeds.
    """
    with tqdm(
        desc=printable(description)[: max(10, err.width - 50)],
        total=total,
        file=err.file,
        disable=not err.is_terminal,
        leave=False,
        ncols=err.width,
        nrows=err.height,
        bar_format="{desc} {bar:30} {percentage:3.0f}% {remaining}",
    ) as bar:
        yield lambda amount: _advance(bar, amount)


def _advance(bar: tqdm, amount: float) -> None:
    bar.update(amount)


class RunsDisplay:
    """Progress of many concurrent runs: one bar for all, and one per active run with its epoch and validation AUC.

    If the output is not a terminal, each finished run prints one line instead.
    """

    def __init__(self, total: float) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=30),
            TaskProgressColumn(),
            TextColumn("{task.fields[state]}", markup=False),
            TimeRemainingColumn(elapsed_when_finished=True),
        )
        self._bars = Progress(*columns, console=err, disable=not err.is_terminal)
        self._all = self._bars.add_task("all runs", total=total, state="")
        self._active: dict[str, TaskID] = {}

    def __enter__(self) -> Self:
        self._bars.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bars.stop()

    def update(self, name: str, epoch: int, epochs: int, state: str) -> None:
        """Show that a run has completed `epoch` of `epochs`, with a short text on its state."""
        if name not in self._active:
            self._active[name] = self._bars.add_task(printable(name), total=epochs, state="")
        self._bars.update(self._active[name], completed=epoch, state=printable(state))

    def finish(self, name: str, amount: float, line: str) -> None:
        """Remove the bar of a finished run and advance the total by `amount`; print `line` without a terminal."""
        if name in self._active:
            self._bars.remove_task(self._active.pop(name))
        self._bars.advance(self._all, amount)
        if not err.is_terminal:
            note(line)


class Stopwatch:
    """Wall-clock time since the object was created."""

    def __init__(self) -> None:
        self._start = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Elapsed seconds."""
        return time.perf_counter() - self._start


def closing_line(step: int, written: str, rows: int, watch: Stopwatch, unit: str = "rows") -> None:
    """Print the last line of a step: what was written, how much, seconds, and peak memory."""
    summary = f"wrote {written}, {rows:,} {unit}, {watch.seconds:.1f} s, peak memory {peak_memory_mb():,.0f} MB"
    _print_labelled(out, f"Step {step} of 8", "bold green", summary)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print a table; the first two columns are left-aligned, the others right-aligned.

    If the output is not a terminal, the table keeps its full width, so nothing is truncated in a log.
    """
    table = Table()
    for position, name in enumerate(header):
        table.add_column(Text(printable(name)), justify="left" if position < 2 else "right", no_wrap=True)
    for row in rows:
        table.add_row(*(Text(printable(cell)) for cell in row))
    out.print(Text(printable(title), style="italic"))
    if out.is_terminal:
        out.print(table)
    else:
        _Output(file=out.file, width=out.measure(table, options=out.options.update(max_width=1 << 20)).maximum).print(
            table
        )


class _Parser(argparse.ArgumentParser):
    """An argument parser that escapes control characters in its error messages."""

    def error(self, message: str) -> NoReturn:
        super().error(printable(message))


def parser(description: str | None, *, paths: bool = True) -> argparse.ArgumentParser:
    """Create a parser whose `--help` shows the script's docstring and every default.

    Args:
        description: the script's docstring.
        paths: add the option `--paths`.

    Returns:
        The parser, for more options to be added.
    """

    class Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
        """Keep the docstring's lines; append each default that the help does not state, except None, False and []."""

        def _get_help_string(self, action: argparse.Action) -> str | None:
            none = action.default is None or action.default is False or action.default == []
            if none or "(default" in (action.help or ""):
                return action.help
            return super()._get_help_string(action)

    options = _Parser(description=description, formatter_class=Formatter)
    if paths:
        options.add_argument("--paths", default="path.json", metavar="FILE", help="path.json with all folders")
    return options


# UMAP's random generator takes seeds of 32 bits.
LARGEST_SEED = 2**32 - 1
# Upper limit of every count (rows, epochs, columns), small enough that later arithmetic cannot overflow.
LARGEST_NUMBER = 10**9


def whole_number(at_least: int, at_most: int = LARGEST_NUMBER) -> Callable[[str], int]:
    """Return an argparse type for whole numbers from `at_least` to `at_most`."""

    def convert(text: str) -> int:
        if not re.fullmatch(r"\s*[-+]?[0-9]+\s*", text):
            raise argparse.ArgumentTypeError(f"{text[:40]!r} is not a whole number")
        # int() refuses numbers of thousands of digits; a number of 100 digits is out of range in any case.
        value = int(text) if len(text) < 100 else (-1 if "-" in text else 1) * 10**100
        if value < at_least:
            raise argparse.ArgumentTypeError(f"{text.strip()[:40]} is below {at_least}")
        if value > at_most:
            raise argparse.ArgumentTypeError(f"{text.strip()[:40]} is above {at_most}")
        return value

    return convert


def seed_number(text: str) -> int:
    """Convert an option to a seed from 0 to 2^32 - 1, which every library accepts (an argparse type)."""
    return whole_number(0, LARGEST_SEED)(text)


def positive_number(text: str) -> float:
    """Convert an option to a finite number above 0 (an argparse type)."""
    value = _number(text)
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number above 0")
    return value


def number_from_zero(text: str) -> float:
    """Convert an option to a finite number of 0 or more (an argparse type)."""
    value = _number(text)
    if not 0 <= value < float("inf"):
        raise argparse.ArgumentTypeError(f"{text} is not a finite number of 0 or more")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None
