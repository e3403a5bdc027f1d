"""Time of a training epoch and of step 4 with features plus, alone and beside two busy processes.

Threads that wait for each other should sleep, not spin, so that on a shared machine a training takes what its share of
the cores allows. Each measurement is done alone and beside the busy processes in turns, on drawn data.

    python -m benchmarks.waiting
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import mma4ctr.runtime.environment

import numpy as np
import torch

from benchmarks.measuring import Measure, in_process
from mma4ctr.data.interactions import TRAIN, LogRows
from mma4ctr.features.behavioral.columns import plus_tables
from mma4ctr.features.behavioral.inputs import LogInputs, SideInputs
from mma4ctr.features.behavioral.signals import TrainingRows
from mma4ctr.features.feature_matrix import FactorMatrix, Pairs, RowGroup
from mma4ctr.model.trainer import TrainingState
from mma4ctr.model.training_defaults import TRAINING, TrainSettings
from mma4ctr.runtime.console import Stopwatch, parser, print_table, run, whole_number

BUSY = 2
# Beside two busy processes, a fair share of two cores is half of them. The rest is for the noise of the scheduler.
MOST = 3.0
FOLDS = 5
# Columns of user, item and pair.
WIDTHS = {"paper": (66, 128, 0), "plus": (6, 4, 2)}
VECTORS = 32  # length of the vectors of a pair
CONTENT_WIDTH, CHANNELS = 64, 8
# It ends with the process that started it.
BUSY_LOOP = "import os; parent = os.getppid()\nwhile os.getppid() == parent: pass"
EPOCH_ROWS, PLUS_ROWS, TURNS = 1_000_000, 500_000, 5


@dataclass(frozen=True)
class Slowdown:
    """The median seconds of one measurement.

    Attributes:
        name: What is measured.
        alone: Without the busy processes.
        beside: Beside the busy processes.
    """

    name: str
    alone: float
    beside: float

    @property
    def ratio(self) -> float:
        """How many times longer it takes beside the busy processes."""
        return self.beside / self.alone

    @property
    def measure(self) -> Measure:
        """As a line of the benchmark."""
        step = "4" if self.name.startswith("step 4") else "5"
        return Measure(step, f"{self.name}, beside {BUSY} busy processes", self.ratio, MOST, at_most=True)


@contextmanager
def busy_processes(number: int) -> Iterator[None]:
    """Keep so many cores busy within the block."""
    busy = [subprocess.Popen([sys.executable, "-c", BUSY_LOOP]) for _ in range(number)]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


def in_turns(work: Callable[[], object], turns: int) -> tuple[float, float]:
    """Return the median seconds of a function alone and beside the busy processes."""
    work()  # compiles and allocates
    taken: dict[int, list[float]] = {0: [], BUSY: []}
    for _ in range(turns):
        for number, seconds in taken.items():
            with busy_processes(number):
                watch = Stopwatch()
                work()
                seconds.append(watch.seconds)
    return statistics.median(taken[0]), statistics.median(taken[BUSY])


def drawn_matrix(features: str, rows: int) -> FactorMatrix:
    """Draw a matrix of features paper or plus, whose validation rows are few."""
    generator = torch.Generator().manual_seed(0)
    users, items = max(2, rows // 400), max(2, rows // 60)
    user_width, item_width, pair_width = WIDTHS[features]

    def group(size: int) -> RowGroup:
        user = torch.randint(users, (size,), generator=generator, dtype=torch.int32)
        item = torch.randint(items, (size,), generator=generator, dtype=torch.int32)
        label = torch.randint(2, (size,), generator=generator, dtype=torch.uint8)
        return RowGroup(np.arange(size, dtype=np.int32), user, item, label)

    user_part = torch.randn(users, user_width, generator=generator)
    item_part = torch.randn(items, item_width, generator=generator)
    pairs = Pairs(
        torch.randn(users, pair_width, VECTORS, generator=generator),
        torch.randn(items, VECTORS, generator=generator),
        torch.zeros(pair_width),
    )
    groups = group(rows), group(100), group(0)
    return FactorMatrix(user_part, item_part, *groups, {}, "drawn", pairs=(pairs,) if pair_width else ())


def epoch_slowdown(features: str, batch_size: int, rows: int, turns: int) -> tuple[float, float]:
    """Measure one epoch of training on drawn rows."""
    settings = TrainSettings(batch_size=batch_size, **TRAINING[features] | {"max_interrupts": 0})
    state = TrainingState(drawn_matrix(features, rows), settings, lambda label, logit: None)
    return in_turns(state.try_epoch, turns)


def drawn_plus_inputs(
    rows: int,
) -> tuple[TrainingRows, dict[str, np.ndarray], list[np.ndarray], LogInputs]:
    """Draw the inputs of `plus_tables`: two targets, content, a category of the items and one of the rows."""
    rng = np.random.default_rng(0)
    users, items = max(20, rows // 400), max(100, rows // 60)
    user = np.sort(rng.integers(0, users, rows, dtype=np.int32))
    item = rng.integers(0, items, rows, dtype=np.int32)
    fold = rng.integers(0, FOLDS, rows, dtype=np.uint8)
    drawn = TrainingRows(user, item, fold, users, items, FOLDS)
    labels = {name: (rng.random(rows) < share).astype(np.uint8) for name, share in (("finish", 0.3), ("like", 0.05))}
    content = [rng.standard_normal((items, CONTENT_WIDTH), np.float32)]
    authors = rng.integers(0, max(2, items // 4), items)
    nothing = np.zeros((users, 0), np.float32), np.zeros((items, 0), np.float32)
    log = LogRows(user=user, item=item, split=np.full(rows, TRAIN, np.uint8))
    inputs = LogInputs(
        log,
        user=SideInputs(numbers=nothing[0]),
        item=SideInputs({"author_id": authors}, nothing[1], rated=("author_id",)),
        context={"channel": rng.integers(0, CHANNELS, rows, dtype=np.uint8)},
        recency=np.zeros((rows, 0), np.float32),
        paired=("channel",),
    )
    return drawn, labels, content, inputs


def plus_slowdown(rows: int, turns: int) -> tuple[float, float]:
    """Measure the tables of features plus on drawn rows, the bulk of step 4."""
    inputs = drawn_plus_inputs(rows)
    with tempfile.TemporaryDirectory() as folder:
        return in_turns(lambda: plus_tables(*inputs, Path(folder)), turns)


def measured(epoch_rows: int = EPOCH_ROWS, plus_rows: int = PLUS_ROWS, turns: int = TURNS) -> list[Slowdown]:
    """Measure every case, each in a process of its own, as a step runs.

    Args:
        epoch_rows: Training rows of an epoch.
        plus_rows: Rows of features plus.
        turns: Repetitions.
    """
    found = []
    for features, batch_size in (("paper", 512), ("paper", 8192), ("plus", 512)):
        taken = in_process(epoch_slowdown, features, batch_size, epoch_rows, turns)[0]
        found.append(Slowdown(f"an epoch, {features}, batch {batch_size:,}", *taken))
    found.append(Slowdown("step 4, plus", *in_process(plus_slowdown, plus_rows, turns)[0]))
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table of the measurements; returns 1 if a bar is not met."""
    options = parser(__doc__, paths=False)
    options.add_argument("--rows", type=whole_number(10_000), default=EPOCH_ROWS, help="training rows of an epoch")
    options.add_argument("--plus-rows", type=whole_number(10_000), default=PLUS_ROWS, help="rows of features plus")
    options.add_argument("--turns", type=whole_number(1), default=TURNS, help="repetitions")
    given = options.parse_args(arguments)
    found = measured(given.rows, given.plus_rows, given.turns)
    rows = [
        [
            one.name,
            f"{one.alone:.2f}",
            f"{one.beside:.2f}",
            f"{one.ratio:.2f}",
            one.measure.bar_text,
            "yes" if one.measure.ok else "NO",
        ]
        for one in found
    ]
    header = ["work", "alone, s", f"beside {BUSY} busy, s", "ratio", "bar", "met"]
    print_table(f"Beside {BUSY} busy processes", header, rows)
    return 0 if all(one.measure.ok for one in found) else 1


if __name__ == "__main__":
    run(main)
