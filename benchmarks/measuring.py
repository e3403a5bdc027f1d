"""Tools of the benchmark: measured numbers with their bars, and the cost of commands and functions."""

import multiprocessing
import re
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from mma4ctr.runtime.console import Stopwatch
from mma4ctr.runtime.errors import UserError
from mma4ctr.runtime.system import peak_memory_mb

T = TypeVar("T")
ROOT = Path(__file__).parent.parent


@dataclass(frozen=True)
class Measure:
    """A measured number and its bar.

    Attributes:
        step: The step.
        measure: What is measured.
        value: The result.
        bar: A lower limit, or with `at_most` an upper limit.
        at_most: Whether the bar is an upper limit.
    """

    step: str
    measure: str
    value: float
    bar: float
    at_most: bool = False

    @property
    def bar_text(self) -> str:
        """The bar as text."""
        return f"{'at most' if self.at_most else 'at least'} {self.bar:g}"

    @property
    def ok(self) -> bool:
        """Whether the bar is met."""
        return self.value <= self.bar if self.at_most else self.value >= self.bar


@dataclass(frozen=True)
class Cost:
    """The cost of a command or function.

    Attributes:
        seconds: Wall-clock seconds.
        memory: Largest resident size in MB.
    """

    seconds: float
    memory: float


def command(*words: object) -> Cost:
    """Run a Python command of this repository, whose last line shows its peak memory.

    Args:
        words: The script and its arguments.

    Returns:
        Its cost.

    Raises:
        UserError: The command fails.
    """
    watch = Stopwatch()
    done = subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, capture_output=True, text=True)
    seconds = watch.seconds
    peaks = re.findall(r"peak memory ([\d,]+) MB", done.stdout)
    if done.returncode or not peaks:
        raise UserError(f"{' '.join(map(str, words))} failed: {done.stderr[-500:]}")
    return Cost(seconds, float(peaks[-1].replace(",", "")))


def processor_seconds(*words: object) -> float:
    """Run a Python command of this repository; returns its processor seconds.

    Args:
        words: The script and its arguments.
    """
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *map(str, words)], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _measured(work: Callable[..., T], arguments: Sequence[Any]) -> tuple[T, Cost, float]:
    before = peak_memory_mb()
    watch = Stopwatch()
    result = work(*arguments)
    return result, Cost(watch.seconds, peak_memory_mb()), before


def in_process(work: Callable[..., T], *arguments: Any) -> tuple[T, Cost, float]:
    """Call a function in a new process; returns its result, its cost, and the MB in use before the call."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measured, work, arguments).result()


def head_of(path: Path, rows: int, out: Path) -> Path:
    """Copy the first lines of a file; returns the copy."""
    with path.open() as file:
        out.write_text("".join(islice(file, rows)))
    return out


def median_seconds(work: Callable[[], Any], times: int) -> float:
    """Return the median wall-clock seconds of several calls."""
    found = []
    for _ in range(times):
        watch = Stopwatch()
        work()
        found.append(watch.seconds)
    return statistics.median(found)
