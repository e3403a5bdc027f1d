"""Each step killed with SIGKILL at random moments and started again ends where an undisturbed run ends, and whatever
bears a final name on the way is whole. Marked `long`; `make test-long` runs it at 50 moments for each step."""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mma4ctr.paths import load_paths
from mma4ctr.world import __main__ as world
from tests.conftest import call

ROOT = Path(__file__).parent.parent
MOMENTS = int(os.environ.get("MOMENTS", "50"))
TASK = ("--task", "tiktok_like")
STEPS = {
    "preprocess_inter.py": ("--min-interactions", "20"),
    "preprocess_multimodal.py": (),
    "get_user_embedding.py": TASK,
    "cross_matrix.py": TASK,
    "mlp.py": (*TASK, "--epochs", "4"),
}


def start(script, folder):
    command = [sys.executable, script, "--paths", str(folder / "path.json"), *STEPS[script]]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True, text=True
    )


def run_step(script, folder):
    started = time.monotonic()
    process = start(script, folder)
    _, error = process.communicate(timeout=120)
    assert process.returncode == 0, (script, error)
    return time.monotonic() - started


def artifacts(folder):
    """Folders with a manifest, by place, with their fingerprints; every file must be the one the manifest describes."""
    found = {}
    for path in sorted(folder.glob("*/**/manifest.json")):
        if any(part.startswith(".") for part in path.relative_to(folder).parts):
            continue  # under construction
        manifest = json.loads(path.read_bytes())
        for name, known in manifest["files"].items():
            with (path.parent / name).open("rb") as file:
                assert hashlib.file_digest(file, "sha256").hexdigest() == known["sha256"], path.parent / name
        found[str(path.parent.relative_to(folder))] = manifest["fingerprint"]
    return found


def results(folder):
    path = load_paths(folder / "path.json").results
    lines = [json.loads(line) for line in path.read_bytes().splitlines() if line.strip()] if path.exists() else []
    for line in lines:
        for name in ("train_seconds", "test_seconds", "rows_per_second", "started", "commit"):
            del line[name]
    return {json.dumps(line, sort_keys=True) for line in lines}


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folders before each step and after the last, and how long each took."""
    base = tmp_path_factory.mktemp("killed")
    options = ("--dataset", "tiktok", "--rows", 6000, "--users", 40, "--items", 200)
    assert call(world.main, base / "now", *options) == 0
    before, seconds = {}, {}
    for script in STEPS:
        before[script] = base / f"before-{script}"
        shutil.copytree(base / "now", before[script])
        seconds[script] = run_step(script, base / "now")
    return before, seconds, base / "now"


@pytest.mark.long
@pytest.mark.parametrize("script", STEPS)
def test_killed_at_any_moment(undisturbed, tmp_path, script):
    before, seconds, after = undisturbed
    following = [step for step in STEPS if list(STEPS).index(step) > list(STEPS).index(script)]
    expected = {
        place: fingerprint
        for place, fingerprint in artifacts(after).items()
        if place in artifacts(before[following[0]] if following else after)
    }
    draw = random.Random(script)
    typical = seconds[script]  # of a first run, with cold files; later ones are faster
    killed = 0
    for moment in range(MOMENTS):
        folder = tmp_path / str(moment)
        shutil.copytree(before[script], folder)
        process = start(script, folder)
        time.sleep(draw.uniform(0.1, 1.05) * typical)
        killed += process.poll() is None
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        there = artifacts(folder)  # each of them whole
        assert set(there.items()) <= set(expected.items())
        typical = min(typical, run_step(script, folder))
        assert artifacts(folder) == expected, moment
        if script == "mlp.py":
            assert results(folder) == results(after), moment
        shutil.rmtree(folder)
    assert killed > MOMENTS // 2, f"only {killed} of {MOMENTS} were killed before they ended"
