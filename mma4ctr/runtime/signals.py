"""Ends that come from outside: SIGTERM, SIGHUP, and the end of the process that started this one.

A signal becomes an exception, as Ctrl-C does, so that every `with` on the way out removes what is half done.
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

# SIGHUP is not there on Windows.
SIGNALS = tuple(number for name in ("SIGTERM", "SIGHUP") if (number := getattr(signal, name, None)))
# `timeout` and torchrun send a signal twice: the second must not interrupt what the first has set off.
GRACE = 5.0
# A worker that has not ended so many seconds after it was told to is ended without being asked.
PATIENCE = 10.0
# After so many seconds a signal whose exception Python has dropped is sent again.
MOMENT = 0.05
# Set for a script that one of our own starts and that must not outlive it.
FOLLOW = "MMA4CTR_ENDS_WITH_PARENT"
# torchrun sets this one for the processes that it starts.
TORCHRUN = "TORCHELASTIC_RUN_ID"


class Stopped(BaseException):
    """A signal has asked this process to end; like KeyboardInterrupt it is no error that anyone may handle."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.code = 128 + number


class _Raise:
    """A handler of signals that raises `Stopped`, once for signals that come together."""

    def __init__(self) -> None:
        self._first = -GRACE

    def __call__(self, number: int, _frame: FrameType | None) -> None:
        if time.monotonic() - self._first < GRACE:
            return
        self._first = time.monotonic()
        raise Stopped(number)

    def again(self, number: int) -> None:
        """Let the signal come once more, after a moment."""
        self._first = -GRACE
        timer = threading.Timer(MOMENT, os.kill, [os.getpid(), number])
        timer.daemon = True
        timer.start()


@contextmanager
def stopped_by_signals() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP raise `Stopped`; one that is ignored (as under nohup) stays ignored.

    Python drops an exception that is raised within a callback of a library or a finalizer, and the process would go on;
    such a signal is sent again. Outside the main thread, where Python takes no signals, nothing is changed.
    """
    before: dict[int, Any] = {}
    handler, unraisable = _Raise(), sys.unraisablehook

    def raised_in_vain(dropped: "sys.UnraisableHookArgs") -> None:
        if isinstance(dropped.exc_value, Stopped):
            handler.again(dropped.exc_value.number)
        elif isinstance(dropped.exc_value, KeyboardInterrupt):
            handler.again(signal.SIGINT)
        else:
            unraisable(dropped)

    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:
                before[number] = signal.signal(number, handler)
        sys.unraisablehook = raised_in_vain
    try:
        yield
    finally:
        if sys.unraisablehook is raised_in_vain:
            sys.unraisablehook = unraisable
        for number, earlier in before.items():
            signal.signal(number, earlier if earlier is not None else signal.SIG_DFL)


@contextmanager
def signals_kept() -> Iterator[None]:
    """Undo what a library that is started in the block does to the handlers of signals."""
    in_main_thread = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, *SIGNALS)} if in_main_thread else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)


def _end_when(wait: Callable[[], object]) -> None:
    """Send SIGTERM to this process when `wait` returns; it is waited for in a thread."""

    def watch() -> None:
        wait()
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(PATIENCE)
        os._exit(128 + signal.SIGTERM)

    threading.Thread(target=watch, daemon=True, name="parent watch").start()


def follow_parent() -> None:
    """End with the process that started this one, where that is torchrun or a script of ours: neither can end its
    children when it is killed with SIGKILL.
    """
    if TORCHRUN not in os.environ and FOLLOW not in os.environ:
        return
    import psutil

    with suppress(psutil.Error):
        _end_when(psutil.Process(os.getppid()).wait)


class _Worker:
    busy = False


def start_worker() -> None:
    """Prepare a worker process: signals end it, within its work with everything put in order, and it ends when its
    parent does, whatever ended that.
    """

    def stop(number: int, _frame: FrameType | None) -> None:
        if not _Worker.busy:
            os._exit(128 + number)
        timer = threading.Timer(PATIENCE, os._exit, [128 + number])
        timer.daemon = True
        timer.start()
        raise_once(number, None)

    raise_once = _Raise()
    for number in (signal.SIGINT, *SIGNALS):
        signal.signal(number, stop)
    parent = parent_process()
    if parent is not None:
        _end_when(lambda: connection.wait([parent.sentinel]))


def do_work(work: Callable[..., Any], *arguments: Any) -> Any:
    """The work of a worker process; a signal ends the process, once the work has put everything in order."""
    _Worker.busy = True
    try:
        return work(*arguments)
    except Stopped as stop:
        os._exit(stop.code)
    finally:
        _Worker.busy = False
