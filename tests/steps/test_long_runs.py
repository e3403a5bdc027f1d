"""A long sweep does not grow in memory, open files or temporary files, as measured from outside.

Marked `long`; `make test-long` runs it for an hour, or MINUTES.
"""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from statistics import median

import pytest

from mma4ctr.runtime.console import note
from mma4ctr.simulation import __main__ as world
from tests.conftest import ROOT, call, prepare

MINUTES = float(os.environ.get("MINUTES", "60"))
SWEEP = ("adjust_hyperparameter.py", "--study", "single-modal", "--jobs", "2")


def family(pid):
    """Return a process and all its descendants."""
    children = Path(f"/proc/{pid}/task/{pid}/children")
    own = [int(child) for child in children.read_text().split()] if children.exists() else []
    return [pid, *(one for child in own for one in family(child))]


def look(pid, folder, temporary):
    """Return resident MB and open files of all the processes, and the files that are no output."""
    pages, opened = 0, 0
    for one in family(pid):
        pages += int(Path(f"/proc/{one}/statm").read_text().split()[1])
        opened += len(list(Path(f"/proc/{one}/fd").iterdir()))
    hidden = [path for path in folder.rglob(".*") if path.name.endswith((".lock", ".partial", ".retired"))]
    left = [path for root in (temporary, folder / "temp") for path in root.rglob("*")]
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6, opened, len(hidden) + len(left)


def watch(folder, temporary, minutes):
    """Run a sweep for some minutes; returns measurements every half second since the first finished run."""
    temporary.mkdir()
    options = ("--paths", folder / "path.json", "--task", "tiktok_like", "--seeds", 100 + int(100 * minutes))
    process = subprocess.Popen(
        [sys.executable, *map(str, (*SWEEP, *options))],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(temporary)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    results = folder / "saved/results.jsonl"
    seen, end = [], time.monotonic() + 120
    started = False
    try:
        while time.monotonic() < end:
            time.sleep(0.5)
            assert process.poll() is None, process.communicate()[1]
            if not started and results.exists():
                started, end = True, time.monotonic() + 60 * minutes
            if started:
                try:
                    seen.append(look(process.pid, folder, temporary))
                except (FileNotFoundError, ProcessLookupError):
                    continue  # something ended or was removed while it was looked at
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    return seen, results.read_bytes().count(b"\n")


@pytest.mark.long
def test_a_long_sweep_does_not_grow(tmp_path):
    folder = tmp_path / "world"
    sizes = ("--rows", 4000, "--users", 30, "--items", 150)
    assert call(world.main, folder, "--dataset", "tiktok", *sizes) == 0
    prepare(folder / "path.json")
    seen, runs = watch(folder, tmp_path / "temporary", MINUTES)
    assert runs >= 10 and len(seen) > 20
    # In the first third, modules are loaded and functions compiled.
    third = len(seen) // 3
    middle, last = seen[third : 2 * third], seen[2 * third :]
    (memory, opened, files), (memory_later, opened_later, files_later) = (
        [median(values) for values in zip(*part, strict=True)] for part in (middle, last)
    )
    measured = f"{runs} runs, {memory:.0f} to {memory_later:.0f} MB, {opened} to {opened_later} files open"
    assert memory_later < memory * 1.02 + 5, measured
    assert opened_later <= opened + 1, measured
    assert files_later <= files + 1, (files, files_later)
    note(measured)
