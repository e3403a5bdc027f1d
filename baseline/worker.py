"""What the processes that comp.py starts have in common: answers as lines of JSON, and a training scored after
some of its epochs.

Runs in both environments, so it imports nothing but numpy.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

Answer = Callable[..., None]


def answering() -> Answer:
    """A function that writes its arguments as a line of JSON to standard output. Libraries speak there too: from now on
    they are heard on standard error. Started by comp.py, this process ends when its standard input does, which
    comp.py holds open as long as it lives.
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
    """Raw ids and labels (rows,) of the rows that are scored, for comp.py to compare with its own."""
    for name, values in (("user", user), ("item", item), ("label", label.astype(np.uint8))):
        np.save(out / f"{part}_{name}.npy", values)


def train_and_score(
    job: Mapping[str, Any],
    answer: Answer,
    train_epoch: Callable[[int], dict[str, float]],
    score: Callable[[str], np.ndarray],
    told: Callable[[], dict[str, Any]],
    seconds: float = 0.0,
) -> None:
    """Train to the last checkpoint; at each checkpoint write the scores of the validation and test rows.

    Args:
        train_epoch: does an epoch (the first is 1); what it returns is answered.
        score: (rows,) of a part, `valid` or `test`. told: what else is answered at a checkpoint.
        seconds: spent on preparing, counted as training.
    """
    out = Path(job["out"])
    for epoch in range(1, max(job["checkpoint_epochs"]) + 1):
        started = time.perf_counter()
        shown = train_epoch(epoch)
        seconds += time.perf_counter() - started
        answer(epoch=epoch, **shown)
        if epoch in job["checkpoint_epochs"]:
            taken = {}
            for part in ("valid", "test"):
                started = time.perf_counter()
                np.save(out / f"{part}_{epoch}.npy", score(part))
                taken[part] = time.perf_counter() - started
            answer(checkpoint=epoch, train_seconds=seconds, test_seconds=taken["test"], **told())
