"""Termination from outside: SIGTERM, SIGHUP, and the end of the parent process.

A signal raises an exception, as Ctrl-C does, so that every `with` block on the way out cleans up.
"""

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import connection, parent_process
from types import FrameType
from typing import Any

# Windows has no SIGHUP.
SIGNALS = tuple(number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)))
# `timeout` and torchrun send a signal twice; the second must not interrupt the cleanup that the first one started.
IGNORE_REPEATED_SECONDS = 5.0
# A worker that is still running this long after a signal is killed.
KILL_AFTER_SECONDS = 10.0
# Delay before a signal is sent again whose exception Python dropped.
RESEND_SECONDS = 0.05
# Environment variable of a script that must not outlive the script that started it.
FOLLOW = "MMA4CTR_ENDS_WITH_PARENT"
# torchrun sets this variable for its processes.
TORCHRUN = "TORCHELASTIC_RUN_ID"


class Stopped(BaseException):
    """A signal asked this process to end; a BaseException, as KeyboardInterrupt is, so no handler swallows it."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.code = 128 + number


class _RaiseStopped:
    """A signal handler that raises `Stopped`, once for repeated signals."""

    def __init__(self) -> None:
        self._first = -IGNORE_REPEATED_SECONDS
        self.called = False

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if time.monotonic() - self._first < IGNORE_REPEATED_SECONDS:
            return
        self._first = time.monotonic()
        self.called = True
        raise Stopped(number)

    def resend(self, number: int) -> None:
        """Send the signal to this process again after a short delay."""
        self._first = -IGNORE_REPEATED_SECONDS
        timer = threading.Timer(RESEND_SECONDS, os.kill, [os.getpid(), number])
        timer.daemon = True
        timer.start()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Raise `Stopped` on SIGTERM and SIGHUP within the block; an ignored signal (as under nohup) stays ignored.

    Python drops an exception that is raised in a library's callback or a finalizer, and the process would continue;
    the signal is then sent again. After a signal in a constructor, errors in the destructor of the unfinished object
    are hidden until the process ends. Outside the main thread, which alone receives signals, nothing changes.
    """
    before: dict[int, Any] = {}
    handler, previous_hook = _RaiseStopped(), sys.unraisablehook

    def resend_dropped(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, Stopped):
            handler.resend(dropped.exc_value.number)
        elif isinstance(dropped.exc_value, KeyboardInterrupt):
            handler.resend(signal.SIGINT)
        elif not handler.called:
            previous_hook(dropped)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
        sys.unraisablehook = resend_dropped
    try:
        yield
    finally:
        if sys.unraisablehook is resend_dropped and not handler.called:
            sys.unraisablehook = previous_hook
        for number, earlier in before.items():
            signal.signal(number, earlier if earlier is not None else signal.SIG_DFL)


@contextmanager
def signals_kept() -> Iterator[None]:
    """Restore the signal handlers after the block, for libraries that replace them."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)} if in_main_thread else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _end_when(wait: Callable[[], object]) -> None:
    """Call `wait` in a thread and end this process with SIGTERM when it returns."""

    def watch() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(KILL_AFTER_SECONDS)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()


def follow_parent() -> None:
    """End this process when its parent ends, if the parent is torchrun or a script of this project.

    A parent that is killed with SIGKILL cannot end its children itself.
    """
    if TORCHRUN not in os.environ and FOLLOW not in os.environ:
        return
    import psutil

    with suppress(psutil.Error):
        _end_when(psutil.Process(os.getppid()).wait)


class _Worker:
    busy = False


def start_worker() -> None:
    """Prepare a worker process: it ends on a signal, after cleaning up its current work, and when its parent ends."""

    def stop(number: int, _frame: FrameType | None) -> None:
        if not _Worker.busy:
            os._exit(128 + number)
        timer = threading.Timer(KILL_AFTER_SECONDS, os._exit, [128 + number])
        timer.daemon = True
        timer.start()
        raise_once(number, None)

    raise_once = _RaiseStopped()
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, stop)
    parent = parent_process()
    if parent is not None:
        _end_when(lambda: connection.wait([parent.sentinel]))


def do_work(work: Callable[..., Any], *arguments: Any) -> Any:
    """Call `work` in a worker process; a signal ends the process after the work has cleaned up."""
    _Worker.busy = True
    try:
        return work(*arguments)
    except Stopped as stop:
        os._exit(stop.code)
    finally:
        _Worker.busy = False
