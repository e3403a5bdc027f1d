"""What the processes that comp.py starts have in common: answers as JSON lines, and training with checkpoints.

Runs in both environments, so it imports only numpy.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

Answer = Callable[..., None]


@dataclass(frozen=True)
class Steps:
    """A model as steps of a training.

    Attributes:
        train_epoch: Does an epoch, given its number, the first of which is 1. It returns what is answered after it;
            `seconds` of it, if there, replace the measured time.
        score: Returns the scores (rows,) of a part, `valid` or `test`.
        facts: Returns what else is answered at a checkpoint.
    """

    train_epoch: Callable[[int], dict[str, float]]
    score: Callable[[str], np.ndarray]
    facts: Callable[[], dict[str, Any]]

    def with_facts(self, more: Mapping[str, Any]) -> "Steps":
        """The same steps with more to answer at a checkpoint."""
        facts = self.facts
        return replace(self, facts=lambda: {**facts(), **more})


def answer_on_stdout() -> Answer:
    """Reserve standard output for answers.

    Libraries write there too; from now on their output goes to standard error. A process that comp.py has started ends
    when its standard input does, which comp.py holds open as long as it lives.

    Returns:
        A function that writes its arguments as a line of JSON.
    """
    if "MMA4CTR_ENDS_WITH_PARENT" in os.environ:
        threading.Thread(target=_end_with_input, daemon=True).start()
    answers, sys.stdout = sys.stdout, sys.stderr

    def answer(**content: Any) -> None:
        print(json.dumps(content), file=answers, flush=True)

    return answer


def _end_with_input() -> None:
    # Not through sys.stdin: its lock would be held when the interpreter ends.
    while os.read(0, 1 << 16):
        pass
    os._exit(1)


def write_rows(out: Path, part: str, user: np.ndarray, item: np.ndarray, label: np.ndarray) -> None:
    """Write which rows are scored, for comp.py to compare with its own.

    Args:
        out: Where to write.
        part: `valid` or `test`.
        user: Raw ids (rows,).
        item: Raw ids (rows,).
        label: 0/1 (rows,).
    """
    for name, values in (("user", user), ("item", item), ("label", label.astype(np.uint8))):
        np.save(out / f"{part}_{name}.npy", values)


def train_and_score(
    job: Mapping[str, Any], answer: Answer, steps: Steps, seconds: float = 0.0, processor_seconds: float = 0.0
) -> None:
    """Train to the last checkpoint; at each checkpoint write the scores of the validation and test rows.

    Args:
        job: The job; `checkpoint_epochs` and `out` are used.
        answer: Writes an answer.
        steps: The model.
        seconds: Spent on preparing, counted as training.
        processor_seconds: Likewise, of the processor.
    """
    out = Path(job["out"])
    for epoch in range(1, max(job["checkpoint_epochs"]) + 1):
        started, before = time.perf_counter(), time.process_time()
        shown = steps.train_epoch(epoch)
        measured = time.perf_counter() - started
        processor_seconds += time.process_time() - before
        seconds += shown.pop("seconds", measured)
        answer(epoch=epoch, **shown)
        if epoch in job["checkpoint_epochs"]:
            taken = {}
            for part in ("valid", "test"):
                started = time.perf_counter()
                np.save(out / f"{part}_{epoch}.npy", steps.score(part))
                taken[part] = time.perf_counter() - started
            shared = {"train_seconds": seconds, "processor_seconds": processor_seconds, "test_seconds": taken["test"]}
            answer(checkpoint=epoch, peak_memory_mb=peak_memory_mb(), **shared, **steps.facts())


def batch_size_of(rows: int, largest: int, smallest: int, steps: int) -> int:
    """The largest batch size, halved until an epoch has that many steps, but not below the smallest."""
    size = largest
    while size > smallest and rows < steps * size:
        size //= 2
    return size


def peak_memory_mb() -> float | None:
    """Peak resident memory of this process in MB (10^6 bytes); None where the system does not tell."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024 / 1e6
    return None
