"""SIGTERM and SIGHUP leave no files behind, and no process outlives the one that started it."""

import ctypes
import json
import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from mma4ctr.runtime import signals
from mma4ctr.runtime.console import run
from mma4ctr.storage.scratch import scratch_folder
from tests.conftest import ROOT

SIGNALS = [signal.SIGTERM, signal.SIGHUP]


@pytest.fixture(autouse=True)
def usual_handlers():
    """Let signals end the process; nohup and the background of a shell ignore some."""
    before = {number: signal.getsignal(number) for number in (signal.SIGHUP, signal.SIGINT)}
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


# A script whose main has a temporary folder and two worker processes, as the sweep has.
SCRIPT = """
import sys, time
from pathlib import Path
from mma4ctr.runtime.console import run
from mma4ctr.runtime.parallel import Processes
from mma4ctr.storage.scratch import scratch_folder

def work(seconds):
    time.sleep(seconds)

def main():
    folder = Path(sys.argv[1])
    with scratch_folder(folder, "x-") as own, Processes(2) as pool:
        (own / "part").write_text("some")
        waiting = [pool.submit(work, 0), pool.submit(work, 600), pool.submit(work, 600)]
        waiting[0].result()
        (folder / "ready").write_text("")
        waiting[1].result()

if __name__ == "__main__":
    run(main)
"""


def started(script, folder, *arguments, ready, **more):
    """Start a script in its own session, and wait for `ready`."""
    process = subprocess.Popen(
        [sys.executable, str(script), *map(str, arguments)],
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        **more,
    )
    deadline = time.monotonic() + 60
    while not ready() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.02)
    assert process.poll() is None, process.communicate()
    return process


def in_session(session):
    """Return the live processes of a session."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (psutil.Error, ProcessLookupError, PermissionError):
            continue
    return found


def wait_for_end(session, seconds=15.0):
    """Return the processes of a session that are alive after so many seconds."""
    deadline = time.monotonic() + seconds
    while (left := in_session(session)) and time.monotonic() < deadline:
        time.sleep(0.05)
    return [process.cmdline() for process in left]


@pytest.fixture
def script(tmp_path):
    path = tmp_path / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_everything_in_one_line(script, tmp_path, number):
    process = started(
        script, tmp_path, tmp_path, ready=(tmp_path / "ready").exists, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert list(tmp_path.glob("x-*/part"))
    process.send_signal(number)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 128 + number
    assert error.startswith(f"{number.name}: ") and error.count("\n") == 1, error
    assert not wait_for_end(process.pid) and not list(tmp_path.glob("x-*"))


def test_a_signal_that_comes_twice_does_not_interrupt_the_cleaning(script, tmp_path):
    """`timeout` sends it to the process and then to its group."""
    process = started(
        script, tmp_path, tmp_path, ready=(tmp_path / "ready").exists, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    process.send_signal(signal.SIGTERM)
    os.killpg(process.pid, signal.SIGTERM)
    _, error = process.communicate(timeout=20)
    assert process.returncode == 143 and error.count("\n") == 1, error
    assert not wait_for_end(process.pid) and not list(tmp_path.glob("x-*"))


def test_workers_end_with_their_parent_and_the_next_run_clears_its_folder(script, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = started(script, tmp_path, tmp_path, ready=(tmp_path / "ready").exists, env=environment)
    assert len(in_session(process.pid)) >= 3
    process.kill()
    process.wait()  # not communicate(): workers that stay would hold its pipes
    assert not wait_for_end(process.pid)
    (left,) = tmp_path.glob("x-*")
    with scratch_folder(tmp_path, "x-") as own:
        assert not left.exists() and list(tmp_path.glob("x-*")) == [own]
    assert not list(tmp_path.glob("x-*"))


def test_folders_in_use_and_of_others_stay(tmp_path):
    (tmp_path / "x-mine").mkdir()
    (tmp_path / "x-mine/notes").write_text("kept")
    (tmp_path / "x-link").symlink_to(tmp_path / "x-mine")
    with scratch_folder(tmp_path, "x-") as first:
        with scratch_folder(tmp_path, "x-") as second:
            assert first.is_dir() and second.is_dir()
        assert first.is_dir() and not second.exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x-link", "x-mine"]
    assert (tmp_path / "x-mine/notes").read_text() == "kept"


def test_handlers_are_put_back_and_ignored_signals_stay_ignored():
    before = [signal.getsignal(number) for number in SIGNALS]
    seen = []
    with pytest.raises(SystemExit):
        run(lambda: seen.extend(signal.getsignal(number) for number in SIGNALS))
    assert all(callable(handler) for handler in seen)
    assert [signal.getsignal(number) for number in SIGNALS] == before
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with signals.stopped_by_signals():
            assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before[1])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_of_a_sweep_is_left(made, tmp_path, number):
    content = json.loads(made.file.read_text()) | {"parent_folder": str(made.file.parent)}
    content |= {key: str(tmp_path / key) for key in ("saved_path", "torch_model_path")}
    (tmp_path / "path.json").write_text(json.dumps(content))
    options = ("--paths", tmp_path / "path.json", "--task", "tiktok_like", "--study", "single-modal", "--jobs", 2)
    results = tmp_path / "saved_path/results.jsonl"
    process = started(ROOT / "adjust_hyperparameter.py", ROOT, *options, ready=results.exists)
    process.send_signal(number)
    _, error = process.communicate(timeout=30)
    if number != signal.SIGKILL:
        assert process.returncode == 128 + number and "Traceback" not in error, error
    assert not wait_for_end(process.pid)
    if number != signal.SIGKILL:
        assert not list(tmp_path.rglob(".*.partial")) + list(tmp_path.rglob(".*.lock"))


@pytest.mark.long
def test_ranks_end_with_torchrun(made, tmp_path):
    content = json.loads(made.file.read_text()) | {"parent_folder": str(made.file.parent)}
    content |= {key: str(tmp_path / key) for key in ("saved_path", "torch_model_path")}
    (tmp_path / "path.json").write_text(json.dumps(content))
    options = ("--paths", tmp_path / "path.json", "--task", "wechat_click", "--epochs", 100_000, "--patience", 0)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", 2, "mlp.py"]
    process = subprocess.Popen(
        list(map(str, [*command, *options])),
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    deadline = time.monotonic() + 60
    # The ranks, in sessions of their own, train when they have used some seconds of the processor after their imports.
    ranks = []
    while time.monotonic() < deadline and not (len(ranks) == 2 and all(sum(one.cpu_times()[:2]) > 5 for one in ranks)):
        time.sleep(0.1)
        ranks = [one for one in psutil.Process(process.pid).children(recursive=True) if "mlp.py" in one.cmdline()]
    assert len(ranks) == 2
    process.kill()
    process.wait()
    _, left = psutil.wait_procs(ranks, timeout=15)
    assert not left


class Finalized:
    """An object whose finalizer is interrupted."""

    def __init__(self, work):
        self.work = work

    def __del__(self):
        self.work()


def in_a_callback(work):
    ctypes.CFUNCTYPE(None)(work)()


def in_a_finalizer(work):
    Finalized(work)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT])
@pytest.mark.parametrize("place", [in_a_callback, in_a_finalizer])
def test_a_signal_is_not_lost_where_python_drops_exceptions(number, place, capsys):
    """numba compiles in callbacks of ctypes; Python printed a SIGTERM there with a traceback and dropped it."""
    went_on = []

    def main():
        place(lambda: signal.raise_signal(number))
        went_on.append(True)
        time.sleep(20)
        went_on.append("to the end")

    with pytest.raises(SystemExit) as end:
        run(main)
    assert end.value.code == 128 + number and went_on == [True]
    error = capsys.readouterr().err
    assert "Traceback" not in error and "ignored" not in error


# Its destructor fails for an object whose constructor a signal interrupts.
INTERRUPTED_CONSTRUCTOR = """
import os, signal, sys, time
from mma4ctr.runtime.console import run

class Handle:
    def __init__(self):
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(600)
        self.number = 1

    def __del__(self):
        self.number += 1

if __name__ == "__main__":
    run(Handle)
"""


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_within_a_constructor_is_one_line(tmp_path, number):
    (tmp_path / "script.py").write_text(INTERRUPTED_CONSTRUCTOR)
    command = [sys.executable, str(tmp_path / "script.py"), str(int(number))]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=60, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=False
    )
    assert done.returncode == 128 + number
    assert len(done.stderr.splitlines()) == 1 and "run the command again" in done.stderr
