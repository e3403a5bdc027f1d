"""A step that SIGTERM or SIGKILL ends at a random moment, started again, gives the output of an undisturbed run.

Every folder and file with a final name is complete, no process outlives the ended one, and the next run leaves no
temporary file. Marked `long`; `make test-long` uses 50 moments for each step and signal, or MOMENTS.
"""

import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mma4ctr.simulation import __main__ as world
from mma4ctr.storage.paths import load_paths
from tests.conftest import MEASURED, ROOT, call

MOMENTS = int(os.environ.get("MOMENTS", "50"))
# A step is interrupted so many times in a row, each time on top of what the interrupted runs before have left, until it
# runs undisturbed to its end.
IN_A_ROW = 5
TASK = ("--task", "tiktok_like")
# In order: each reads the output of those before.
STEPS = {
    "step 1": ("preprocess_inter.py", "--min-interactions", "20"),
    "step 2": ("preprocess_multimodal.py",),
    "step 3": ("get_user_embedding.py", *TASK),
    "step 4, single": ("gen_matrix.py", *TASK),
    "step 4, mixed": ("cross_matrix.py", *TASK),
    "step 5": ("mlp.py", *TASK, "--epochs", "4"),
    "predict": ("mlp.py", "--run", "last", "--predict", "PAIRS"),
    "step 6": ("adjust_hyperparameter.py", *TASK, "--study", "single-modal", "--seeds", "1", "--jobs", "2"),
    "step 7": ("statis_and_draw.py", *TASK),
    "step 8": ("viewer.py", *TASK, "--points", "20"),
}
PAIRS = 20_000
# Python's own end by a signal that comes before a script has started its work, and ours.
ENDED = {signal.SIGTERM: (-signal.SIGTERM, 128 + signal.SIGTERM), signal.SIGKILL: (-signal.SIGKILL,)}


def start(step, folder):
    script, *options = STEPS[step]
    options = [str(folder / "pairs.tsv") if option == "PAIRS" else option for option in options]
    (folder / "tmp").mkdir(exist_ok=True)
    return subprocess.Popen(
        [sys.executable, script, "--paths", str(folder / "path.json"), *options],
        cwd=ROOT,
        env=os.environ | {"TMPDIR": str(folder / "tmp")},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        start_new_session=True,
        text=True,
    )


def run_step(step, folder):
    started = time.monotonic()
    process = start(step, folder)
    _, error = process.communicate(timeout=300)
    assert process.returncode == 0, (step, error)
    return time.monotonic() - started


def artifacts(folder):
    """Return the fingerprints of the artifact folders by path, after a check of every file against the manifest."""
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
        for name in (*MEASURED, "commit"):
            del line[name]
    return {json.dumps(line, sort_keys=True) for line in lines}


def other_output(folder):
    """Return tables, figures, reports and predictions, with the hash of text that does not depend on the run."""
    found = {}
    for path in sorted((folder / "saved").rglob("*")):
        if path.is_file() and path.name != "results.jsonl" and not path.name.startswith("."):
            same = path.suffix == ".tsv"
            found[str(path.relative_to(folder))] = hashlib.sha256(path.read_bytes()).hexdigest() if same else ""
    return found


def temporary(folder):
    """Return the files that a finished run must not leave."""
    hidden = [path for path in folder.rglob(".*") if path.name.endswith((".partial", ".retired"))]
    return hidden + [path for name in ("temp", "tmp") for path in (folder / name).rglob("*")]


def left_of(session):
    """Return the command lines of the processes of a session that are alive after some seconds."""
    deadline = time.monotonic() + 20
    while True:
        found = []
        for process in psutil.process_iter():
            try:
                if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process.cmdline())
            except (psutil.Error, ProcessLookupError, PermissionError):
                continue
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    """The folders before each step and after the last, and the duration of each step."""
    base = tmp_path_factory.mktemp("killed")
    options = ("--dataset", "tiktok", "--rows", 6000, "--users", 40, "--items", 200)
    assert call(world.main, base / "now", *options) == 0
    pairs = "".join(f"{n % 50}\t{n % 210}\n" for n in range(PAIRS))
    (base / "now/pairs.tsv").write_text("user\titem\n" + pairs)
    states, seconds = {}, {}
    for step in STEPS:
        states[step] = base / f"before {step}"
        shutil.copytree(base / "now", states[step])
        seconds[step] = run_step(step, base / "now")
    return states, seconds, base / "now"


@pytest.mark.long
@pytest.mark.parametrize("number", ENDED)
@pytest.mark.parametrize("step", STEPS)
def test_ended_at_any_moment(undisturbed, tmp_path, step, number):
    states, seconds, last = undisturbed
    before = states[step]
    following = list(STEPS)[list(STEPS).index(step) + 1 :]
    after = states[following[0]] if following else last
    expected = artifacts(after)
    draw = random.Random(f"{step} {number}")
    typical = seconds[step]  # of a first run, with cold files; later ones are faster
    ended = 0
    for moment in range(MOMENTS):
        folder = tmp_path / str(moment // IN_A_ROW)
        if not folder.exists():
            shutil.copytree(before, folder)
        process = start(step, folder)
        time.sleep(draw.uniform(0.1, 1.05) * typical)
        process.send_signal(number)  # to this process alone: the others must end with it
        _, error = process.communicate(timeout=60)
        ended += process.returncode in ENDED[number]
        assert process.returncode in (*ENDED[number], 0), error
        assert "Traceback" not in error, error
        assert not left_of(process.pid)
        there = artifacts(folder)  # each of them whole
        assert set(artifacts(before).items()) <= set(there.items()) <= set(expected.items())
        assert results(before) <= results(folder) <= results(after)
        if number == signal.SIGTERM:
            assert not temporary(folder)
        if (moment + 1) % IN_A_ROW and moment + 1 < MOMENTS:
            continue
        typical = min(typical, run_step(step, folder))
        assert artifacts(folder) == expected, moment
        assert results(folder) == results(after), moment
        assert other_output(folder) == other_output(after), moment
        assert not temporary(folder)
        shutil.rmtree(folder)
    assert ended > MOMENTS // 2, f"only {ended} of {MOMENTS} were ended before they were done"
