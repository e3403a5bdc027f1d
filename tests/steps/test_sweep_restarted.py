"""A sweep that SIGKILL ends, started again, ends with the results of one that nothing disturbs.

tests/steps/test_killed.py, marked `long`, ends it and every other step at random moments.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import adjust_hyperparameter as sweep
from mma4ctr.simulation import __main__ as world
from tests.conftest import MEASURED, ROOT, call, prepare

OPTIONS = ("--task", "tiktok_like", "--seeds", 2, "--study", "interrupt-halving", "three-modal-cross", "--jobs", 2)


def comparable(path):
    """Return results.jsonl without times and order."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for name in (*MEASURED, "commit"):
            del line[name]
    return sorted(json.dumps(line, sort_keys=True) for line in lines)


def test_killed_and_restarted_it_ends_with_the_same_results(tmp_path, capsys):
    first, second = tmp_path / "first", tmp_path / "second"
    assert call(world.main, first, "--dataset", "tiktok", "--rows", 3000, "--users", 30, "--items", 100) == 0
    prepare(first / "path.json", min_interactions=10)
    shutil.copytree(first, second)
    assert call(sweep.main, "--paths", first / "path.json", *OPTIONS) == 0
    whole = comparable(first / "saved/results.jsonl")

    command = [sys.executable, ROOT / "adjust_hyperparameter.py", "--paths", second / "path.json", *OPTIONS]
    output = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    process = subprocess.Popen(list(map(str, command)), cwd=ROOT, start_new_session=True, **output)
    results = second / "saved/results.jsonl"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        if results.exists() and b"\n" in results.read_bytes():
            break
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "it was still running"
    before = results.read_bytes().count(b"\n")
    assert 0 < before < len(whole)
    capsys.readouterr()
    assert call(sweep.main, "--paths", second / "path.json", *OPTIONS) == 0
    assert f"{len(whole)} runs, {len(whole) - before} to do" in capsys.readouterr().out
    assert comparable(results) == whole
